//! The servers that Tollgate itself sends requests to: their checked URLs, and the roots that their certificates need.

use std::fmt;
use std::net::IpAddr;

use http::Uri;
use http::uri::Scheme;

pub use crate::balance::Roots;

/// The maximum length of a URL.
const URL_MAX_BYTES: usize = 2048;

/// The URL of a server that Tollgate sends requests to: `https`, or `http` to a loopback host, without user name,
/// password and fragment. The form that is shown has no query: it may contain a secret.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct HttpUrl(Uri);

/// Why a text is not a URL that Tollgate sends requests to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UrlError {
    /// The text is longer than 2048 bytes.
    TooLong,
    /// The text is not an absolute URL with a host (RFC 3986 section 4.3).
    Malformed,
    /// The scheme is neither `https` nor `http`.
    Scheme,
    /// The scheme is `http`, and the host is not a loopback host.
    Insecure,
    /// The URL contains a user name or a password (RFC 3986 section 3.2.1).
    UserInfo,
    /// The URL has a fragment (RFC 3986 section 3.5), which is never sent.
    Fragment,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "a URL has at most 2048 bytes",
            Self::Malformed => "expected an absolute URL, as in \"https://id.example.com/keys\"",
            Self::Scheme => "the scheme must be https",
            Self::Insecure => "the scheme must be https unless the host is localhost, 127.0.0.0/8 or [::1]",
            Self::UserInfo => "a user name or a password in a URL is not supported",
            Self::Fragment => "a fragment is never sent to the server",
        })
    }
}

impl std::error::Error for UrlError {}

impl HttpUrl {
    /// Parses a URL.
    ///
    /// # Errors
    /// If Tollgate does not send requests to such a URL.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if text.len() > URL_MAX_BYTES {
            return Err(UrlError::TooLong);
        }
        // The parser drops a fragment.
        if text.contains('#') {
            return Err(UrlError::Fragment);
        }
        if !text.is_ascii() {
            return Err(UrlError::Malformed);
        }
        let uri: Uri = text.parse().map_err(|_| UrlError::Malformed)?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err(UrlError::Malformed) };
        if authority.as_str().contains('@') {
            return Err(UrlError::UserInfo);
        }
        let port = authority.as_str().strip_prefix(authority.host()).ok_or(UrlError::Malformed)?;
        let is_port_valid = port.is_empty() || authority.port_u16().is_some_and(|port| port > 0);
        if authority.host().is_empty() || !is_port_valid {
            return Err(UrlError::Malformed);
        }
        if *scheme == Scheme::HTTP {
            return if is_loopback(authority.host()) { Ok(Self(uri)) } else { Err(UrlError::Insecure) };
        }
        if *scheme == Scheme::HTTPS { Ok(Self(uri)) } else { Err(UrlError::Scheme) }
    }

    /// Returns the URL as a target of requests.
    pub fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether its host is a loopback host: `localhost`, 127.0.0.0/8 or `[::1]`.
    pub fn is_loopback(&self) -> bool {
        self.0.host().is_some_and(is_loopback)
    }

    /// Whether requests to it are encrypted.
    pub fn is_https(&self) -> bool {
        self.0.scheme() == Some(&Scheme::HTTPS)
    }
}

/// Shows the URL without its query.
impl fmt::Display for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, host) = (self.0.scheme_str().unwrap_or_default(), self.0.authority());
        write!(f, "{scheme}://{}{}", host.map_or("", |host| host.as_str()), self.0.path())
    }
}

/// Shows the URL without its query.
impl fmt::Debug for HttpUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.to_string())
    }
}

fn is_loopback(host: &str) -> bool {
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_and_loopback_urls_are_accepted() {
        for (text, expected) in [
            ("https://id.example.com/keys", Ok(())),
            ("https://id.example.com:8443/keys?tenant=1", Ok(())),
            ("HTTPS://id.example.com", Ok(())),
            ("https://[2001:db8::1]/keys", Ok(())),
            ("http://localhost:8080/keys", Ok(())),
            ("http://LOCALHOST/keys", Ok(())),
            ("http://127.0.0.1/keys", Ok(())),
            ("http://127.9.9.9:1/keys", Ok(())),
            ("http://[::1]:8080/keys", Ok(())),
            ("http://id.example.com/keys", Err(UrlError::Insecure)),
            ("http://127.0.0.1.example.com/", Err(UrlError::Insecure)),
            ("http://localhost.example.com/", Err(UrlError::Insecure)),
            ("http://[::ffff:10.0.0.1]/", Err(UrlError::Insecure)),
            ("http://10.0.0.1/", Err(UrlError::Insecure)),
            ("http://2130706433/", Err(UrlError::Insecure)),
            ("ftp://id.example.com/", Err(UrlError::Scheme)),
            ("https://user:secret@id.example.com/", Err(UrlError::UserInfo)),
            ("http://localhost@id.example.com/", Err(UrlError::UserInfo)),
            ("https://id.example.com/#keys", Err(UrlError::Fragment)),
            ("https://id.example.com:0/", Err(UrlError::Malformed)),
            ("https://id.example.com:99999/", Err(UrlError::Malformed)),
            ("https://id.example.com:/", Err(UrlError::Malformed)),
            ("https://", Err(UrlError::Malformed)),
            ("https:///keys", Err(UrlError::Malformed)),
            ("id.example.com/keys", Err(UrlError::Malformed)),
            ("/keys", Err(UrlError::Malformed)),
            ("", Err(UrlError::Malformed)),
            ("https://id.example.com/a b", Err(UrlError::Malformed)),
            ("https://id.example.com/ä", Err(UrlError::Malformed)),
        ] {
            assert_eq!(HttpUrl::parse(text).map(drop), expected, "{text}");
        }
        assert_eq!(HttpUrl::parse(&format!("https://a/{}", "a".repeat(2048))), Err(UrlError::TooLong));
    }

    #[test]
    fn the_query_is_sent_and_not_shown() {
        let url = HttpUrl::parse("https://id.example.com/keys?key=secret").unwrap();
        assert_eq!(url.uri().query(), Some("key=secret"));
        assert_eq!(format!("{url} {url:?}"), "https://id.example.com/keys \"https://id.example.com/keys\"");
    }

    #[test]
    fn loopback_hosts_are_recognised() {
        let url = |text| HttpUrl::parse(text).unwrap();
        assert!(url("https://localhost/").is_loopback() && url("http://127.0.0.1/").is_loopback());
        assert!(!url("https://id.example.com/").is_loopback() && url("https://id.example.com/").is_https());
        assert!(!url("http://[::1]/").is_https());
    }
}
