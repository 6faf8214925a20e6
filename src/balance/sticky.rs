//! The cookie of `balance = "sticky_cookie"`: its attributes, and the values that name servers.

use std::fmt::{self, Write as _};
use std::time::Duration;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The size of a tag: 128 bits cannot be guessed.
const TAG_BYTES: usize = 16;
/// Separates these tags from anything else that the key may authenticate.
const PURPOSE: &str = "tollgate sticky cookie\n";

/// The cookie that keeps a client on its server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StickyCookie {
    /// Its name: a token.
    pub name: String,
    /// Its attribute `SameSite`.
    pub same_site: SameSite,
    /// Whether it has the attribute `Secure`; `None` if it has for clients that use TLS.
    pub secure: Option<bool>,
    /// Its attribute `Path`.
    pub path: String,
    /// Its attribute `Domain`; `None` for a cookie of the host alone.
    pub domain: Option<String>,
    /// Its attribute `Max-Age`; `None` for a cookie that ends with the browser's session.
    pub max_age: Option<Duration>,
    /// The key of its values; `None` for a key of the process.
    pub key: Option<StickyKey>,
}

/// Which requests from other sites carry a cookie (RFC 6265bis section 5.6.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SameSite {
    /// None.
    Strict,
    /// Navigations. A WebSocket that another site opens is none.
    Lax,
    /// All.
    None,
}

/// The key of the values of a cookie. `Debug` omits it.
#[derive(Clone, PartialEq, Eq)]
pub struct StickyKey(Vec<u8>);

impl StickyKey {
    /// The smallest size of a secret, in bytes.
    pub const MIN_BYTES: usize = 32;

    /// Creates the key from a secret.
    pub fn new(secret: &[u8]) -> Self {
        Self(secret.to_vec())
    }
}

impl fmt::Debug for StickyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StickyKey").finish_non_exhaustive()
    }
}

impl StickyCookie {
    /// Whether a cookie for a client that uses TLS, or does not, has the attribute `Secure`. Browsers reject
    /// `SameSite=None`, `__Secure-` and `__Host-` without it.
    fn is_secure(&self, is_tls: bool) -> bool {
        self.same_site == SameSite::None || has_secure_prefix(&self.name) || self.secure.unwrap_or(is_tls)
    }

    /// Returns the value of `Set-Cookie` (RFC 6265 section 4.1.1) with this value of the cookie.
    pub fn set_cookie(&self, value: &str, is_tls: bool) -> String {
        let mut text = format!("{}={value}; Path={}; HttpOnly", self.name, self.path);
        if let Some(domain) = &self.domain {
            let _ = write!(text, "; Domain={domain}");
        }
        if let Some(max_age) = self.max_age {
            let _ = write!(text, "; Max-Age={}", max_age.as_secs());
        }
        if self.is_secure(is_tls) {
            text.push_str("; Secure");
        }
        text.push_str(match self.same_site {
            SameSite::Strict => "; SameSite=Strict",
            SameSite::Lax => "; SameSite=Lax",
            SameSite::None => "; SameSite=None",
        });
        text
    }
}

/// Whether browsers accept a cookie of this name only with `Secure` (RFC 6265bis section 4.1.3). They compare without
/// case.
pub fn has_secure_prefix(name: &str) -> bool {
    has_host_prefix(name) || has_prefix(name, "__secure-")
}

/// Whether browsers accept a cookie of this name only with `Secure` and `Path=/`, and without `Domain`.
pub fn has_host_prefix(name: &str) -> bool {
    has_prefix(name, "__host-")
}

fn has_prefix(name: &str, prefix: &str) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// The value of the cookie for each server of a pool: the start of the HMAC-SHA256 of the upstream's and the server's
/// name, as base64url. It can neither be forged nor read without the key. `Debug` omits it.
pub struct Tags(Vec<String>);

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tags").finish_non_exhaustive()
    }
}

impl Tags {
    /// Computes the tags of servers.
    pub fn new<'a>(key: &StickyKey, upstream: &str, servers: impl Iterator<Item = &'a str>) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key.0);
        let tag = |server: &str| {
            // The name of an upstream has no line break.
            let tag = hmac::sign(&key, format!("{PURPOSE}{upstream}\n{server}").as_bytes());
            URL_SAFE_NO_PAD.encode(tag.as_ref().get(..TAG_BYTES).unwrap_or_default())
        };
        Self(servers.map(tag).collect())
    }

    /// Returns the index of the server that this value names. The comparison takes equally long for each wrong value.
    pub fn find(&self, value: &[u8]) -> Option<usize> {
        self.0.iter().position(|tag| verify_slices_are_equal(tag.as_bytes(), value).is_ok())
    }

    /// Returns the value for a server.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.0.get(index).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(same_site: SameSite, secure: Option<bool>) -> StickyCookie {
        StickyCookie {
            name: "tollgate".to_owned(),
            same_site,
            secure,
            path: "/".to_owned(),
            domain: None,
            max_age: None,
            key: None,
        }
    }

    #[test]
    fn the_attributes_are_written() {
        let set = |cookie: StickyCookie, is_tls| cookie.set_cookie("v", is_tls);
        let lax = |secure| cookie(SameSite::Lax, secure);
        assert_eq!(set(lax(None), true), "tollgate=v; Path=/; HttpOnly; Secure; SameSite=Lax");
        assert_eq!(set(lax(None), false), "tollgate=v; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(lax(Some(false)), true), "tollgate=v; Path=/; HttpOnly; SameSite=Lax");
        assert_eq!(set(lax(Some(true)), false), "tollgate=v; Path=/; HttpOnly; Secure; SameSite=Lax");
        assert_eq!(set(cookie(SameSite::None, None), false), "tollgate=v; Path=/; HttpOnly; Secure; SameSite=None");
        let of_host = StickyCookie { name: "__Host-gate".to_owned(), ..cookie(SameSite::Strict, None) };
        assert_eq!(set(of_host, false), "__Host-gate=v; Path=/; HttpOnly; Secure; SameSite=Strict");
        let long = StickyCookie {
            path: "/ws".to_owned(),
            domain: Some("example.com".to_owned()),
            max_age: Some(Duration::from_hours(1)),
            ..lax(None)
        };
        let expected = "tollgate=v; Path=/ws; HttpOnly; Domain=example.com; Max-Age=3600; SameSite=Lax";
        assert_eq!(set(long, false), expected);
    }

    #[test]
    fn a_tag_names_one_server_of_one_upstream_under_one_key() {
        let (key, other) = (StickyKey::new(&[1; 32]), StickyKey::new(&[2; 32]));
        let servers = || ["192.0.2.1:1", "192.0.2.1:2"].into_iter();
        let tags = Tags::new(&key, "chat", servers());
        let same = Tags::new(&key, "chat", servers().rev());
        for index in 0..2 {
            let tag = tags.get(index).unwrap();
            assert_eq!((tag.len(), tags.find(tag.as_bytes())), (22, Some(index)));
            // It depends on the name and not on the position.
            assert_eq!(same.find(tag.as_bytes()), Some(1 - index));
            assert_eq!(Tags::new(&key, "feed", servers()).find(tag.as_bytes()), None);
            assert_eq!(Tags::new(&other, "chat", servers()).find(tag.as_bytes()), None);
            assert_eq!(tags.find(tag.to_lowercase().as_bytes()), None);
        }
        for forged in ["", "192.0.2.1:1", "AAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(tags.find(forged.as_bytes()), None, "{forged}");
        }
        assert_eq!(format!("{key:?} {tags:?}"), "StickyKey { .. } Tags { .. }");
    }
}
