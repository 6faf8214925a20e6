//! Which web origins may open a session (RFC 6455 section 10.2, RFC 6454).
//!
//! A browser lets any page open a WebSocket to any host, with that host's cookies, and names the page's origin in the
//! handshake. Checking it is what stands between a stranger's page and a visitor's session.

use std::fmt;
use std::str::FromStr;

use super::route::HostError;
use super::route::host::{before, is_address, is_subdomain, parse_host, parse_port, split_port};

/// The origins that a route admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    patterns: Option<Vec<OriginPattern>>,
    missing: MissingOrigin,
}

impl Origins {
    /// `patterns` is `None` where the route lists no origins: then every origin passes. With an empty list none does.
    #[must_use]
    pub fn new(patterns: Option<Vec<OriginPattern>>, missing: MissingOrigin) -> Self {
        Self { patterns, missing }
    }

    /// Whether a request with this `Origin` header value (None: no such header) may pass.
    ///
    /// A value is one origin as RFC 6454 section 6.1 serialises it, or `null`. Where origins are listed any other value
    /// is refused: an empty one, a list, one with a path or user information. Where none are listed the value is not
    /// read. A request with several such headers has no one origin; the caller refuses it.
    #[must_use]
    pub fn allow(&self, origin: Option<&[u8]>) -> bool {
        let Some(origin) = origin else { return self.missing == MissingOrigin::Allow };
        let Some(patterns) = &self.patterns else { return true };
        let Some(value) = Value::from_header(origin) else { return false };
        patterns.iter().any(|pattern| pattern.matches(&value))
    }

    /// Whether every origin passes, because the route lists none.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.patterns.is_none()
    }
}

/// What to do with a request that carries no `Origin`: clients that are no browsers send none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingOrigin {
    /// Let it pass.
    Allow,
    /// Refuse it.
    Refuse,
}

/// One allowed origin: `https://chat.example.com`, `https://*.example.com`, `http://localhost:3000` or `null`.
///
/// Scheme, host and port must all be equal. Of `http` and `https` the default port may be left out, case does not
/// matter, and `*.` before a domain matches its subdomains at any depth, but not the domain itself. Of any other scheme,
/// such as `chrome-extension://` or `capacitor://`, what follows is compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(Pattern);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    This(Value),
    /// The host is the domain.
    Subdomains(Origin),
}

impl OriginPattern {
    fn matches(&self, value: &Value) -> bool {
        match (&self.0, value) {
            (Pattern::This(this), value) => this == value,
            (Pattern::Subdomains(_), Value::Null) => false,
            (Pattern::Subdomains(domain), Value::Origin(origin)) => {
                (&origin.scheme, origin.port) == (&domain.scheme, domain.port)
                    && is_subdomain(&origin.host, &domain.host)
            }
        }
    }
}

impl FromStr for OriginPattern {
    type Err = OriginPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == NULL {
            return Ok(Self(Pattern::This(Value::Null)));
        }
        if text == "*" {
            return Err(OriginPatternError::Every);
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(OriginPatternError::NoScheme(before(text, &PATH_STARTS).into()));
        };
        let authority = before(rest, &PATH_STARTS);
        if let Some((_user, host)) = authority.rsplit_once('@') {
            return Err(OriginPatternError::UserInfo(format!("{scheme}://{host}").into()));
        }
        let domain = authority.strip_prefix("*.");
        let origin = Origin::parse(scheme, domain.unwrap_or(authority))?;
        if authority != rest {
            return Err(OriginPatternError::Path(format!("{scheme}://{authority}").into()));
        }
        match domain {
            Some(_) if origin.is_name() => Ok(Self(Pattern::Subdomains(origin))),
            Some(_) => Err(OriginPatternError::Wildcard),
            None => Ok(Self(Pattern::This(Value::Origin(origin)))),
        }
    }
}

/// What an `Origin` header can say.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// An opaque origin, such as that of a sandboxed frame or a local file. All of them look alike.
    Null,
    Origin(Origin),
}

impl Value {
    fn from_header(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        if text == NULL {
            return Some(Self::Null);
        }
        let (scheme, authority) = text.split_once("://")?;
        Origin::parse(scheme, authority).ok().map(Self::Origin)
    }
}

/// Scheme, host and port, in the form in which equal origins are equal (RFC 6454 section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    /// In lower case.
    scheme: String,
    /// For a scheme without a default port all that follows the scheme.
    host: String,
    /// The default port stands here like any other; `None` for a scheme that has none.
    port: Option<u16>,
}

impl Origin {
    fn parse(scheme: &str, authority: &str) -> Result<Self, OriginPatternError> {
        let scheme_rest = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.');
        if !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) || !scheme.bytes().all(scheme_rest) {
            return Err(OriginPatternError::Scheme);
        }
        if authority.contains('*') {
            return Err(OriginPatternError::Wildcard);
        }
        let scheme = scheme.to_ascii_lowercase();
        let Some(default) = default_port(&scheme) else {
            let host = parse_opaque(authority).map_err(OriginPatternError::Host)?;
            return Ok(Self { scheme, host, port: None });
        };
        let (host, port) = split_port(authority);
        let host = parse_host(host).map_err(OriginPatternError::Host)?;
        let port = port.map_or(Some(default), parse_port).ok_or(OriginPatternError::Port)?;
        Ok(Self { scheme, host, port: Some(port) })
    }

    /// Whether the host is one that can have subdomains.
    fn is_name(&self) -> bool {
        self.port.is_some() && !is_address(&self.host)
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// The host of a scheme of which nothing is known: an identifier, perhaps with a port.
fn parse_opaque(text: &str) -> Result<String, HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if text.len() > OPAQUE_MAX_BYTES {
        return Err(HostError::TooLong);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | ':');
    match text.chars().find(|c| !allowed(*c)) {
        Some(other) => Err(HostError::Character(other)),
        None => Ok(text.to_owned()),
    }
}

/// Why an origin pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPatternError {
    /// It is `*`.
    Every,
    /// It has no scheme; this is what stands before its path.
    NoScheme(Box<str>),
    /// Its scheme is none (RFC 3986 section 3.1).
    Scheme,
    /// It has a path, if only a slash, or a query; this is the origin before it.
    Path(Box<str>),
    /// It has a user's name or password; this is the origin without.
    UserInfo(Box<str>),
    /// It has a `*` elsewhere than as the first label of an `http` or `https` origin, or before an address.
    Wildcard,
    /// Its port is none.
    Port,
    /// Its host is none.
    Host(HostError),
}

impl fmt::Display for OriginPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("leave `origins` out to admit every origin"),
            Self::NoScheme(host) => write!(f, "an origin starts with a scheme: write `https://{host}`"),
            Self::Scheme => f.write_str("a scheme is a letter followed by letters, digits, `+`, `-` and `.`"),
            Self::Path(origin) => write!(f, "an origin has no path: write `{origin}`"),
            Self::UserInfo(origin) => write!(f, "an origin names no user: write `{origin}`"),
            Self::Wildcard => f.write_str("`*` stands for whole labels before a domain, as in `https://*.example.com`"),
            Self::Port => f.write_str("a port is a number from 1 to 65535"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OriginPatternError {}

/// How an opaque origin is serialised (RFC 6454 section 6.1).
const NULL: &str = "null";

/// What ends the authority of a URI (RFC 3986 section 3.2).
const PATH_STARTS: [char; 3] = ['/', '?', '#'];

/// The bound of a host name, since these stand where one would.
const OPAQUE_MAX_BYTES: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    fn origins(patterns: &[&str]) -> Origins {
        let patterns = patterns.iter().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")));
        Origins::new(Some(patterns.collect()), MissingOrigin::Refuse)
    }

    fn check(pattern: &str, admitted: &[&str], refused: &[&str]) {
        let origins = origins(&[pattern]);
        for (texts, expected) in [(admitted, true), (refused, false)] {
            for text in texts {
                assert_eq!(origins.allow(Some(text.as_bytes())), expected, "{pattern} {text:?}");
            }
        }
    }

    fn refuse(pattern: &str, message: &str) {
        let parsed = pattern.parse::<OriginPattern>().map_err(|error| error.to_string());
        assert_eq!(parsed, Err(message.into()), "{pattern}");
    }

    const SITE: &str = "https://example.com";

    #[test]
    fn an_equal_origin_passes() {
        check(SITE, &["https://example.com"], &[]);
        check("http://localhost:3000", &["http://localhost:3000"], &["http://localhost", "http://localhost:3001"]);
        check("http://[::1]:3000", &["http://[::1]:3000", "http://[0::1]:3000"], &["http://[::2]:3000"]);
        check("http://127.0.0.1", &["http://127.0.0.1"], &["http://127.1", "http://2130706433", "http://0x7f.0.0.1"]);
    }

    #[test]
    fn the_origin_as_a_prefix_is_refused() {
        check(
            SITE,
            &[],
            &[
                "https://example.com.evil.com",
                "https://example.com.",
                "https://example.comevil.com",
                "https://example.com-evil.com",
                "https://example.co",
            ],
        );
    }

    #[test]
    fn the_origin_as_a_suffix_is_refused() {
        check(SITE, &[], &["https://evilexample.com", "https://evil.com/https://example.com", "https://a.example.com"]);
    }

    #[test]
    fn user_information_is_refused() {
        check(
            SITE,
            &[],
            &["https://example.com@evil.com", "https://user@example.com", "https://example.com:443@evil.com"],
        );
    }

    #[test]
    fn another_scheme_is_refused() {
        check(SITE, &[], &["http://example.com", "http://example.com:443", "wss://example.com", "//example.com"]);
        check("http://example.com", &[], &["https://example.com", "https://example.com:80"]);
    }

    #[test]
    fn another_port_is_refused() {
        check(SITE, &[], &["https://example.com:8443", "https://example.com:80", "https://example.com:4430"]);
        check(SITE, &[], &["https://example.com:", "https://example.com:0443", "https://example.com:65979"]);
        check("https://example.com:8443", &["https://example.com:8443"], &["https://example.com"]);
    }

    #[test]
    fn the_default_port_may_be_left_out() {
        check(SITE, &["https://example.com:443"], &[]);
        check("https://example.com:443", &["https://example.com", "https://example.com:443"], &["http://example.com"]);
        check("http://example.com:80", &["http://example.com"], &["https://example.com"]);
        check("http://example.com:443", &["http://example.com:443"], &["http://example.com", "https://example.com"]);
    }

    #[test]
    fn null_passes_only_where_it_is_listed() {
        check(SITE, &[], &["null"]);
        check("https://*.example.com", &[], &["null"]);
        check("null", &["null"], &["NULL", "Null", "null ", "null://null", "https://null", "", SITE]);
    }

    #[test]
    fn case_does_not_matter() {
        check(SITE, &["HTTPS://Example.COM"], &[]);
        check("HTTPS://EXAMPLE.com", &["https://example.com"], &[]);
    }

    #[test]
    fn a_trailing_slash_is_refused() {
        check(
            SITE,
            &[],
            &["https://example.com/", "https://example.com/a", "https://example.com?a", "https://example.com#"],
        );
        check(
            SITE,
            &[],
            &["https://example.com\\", "https:/example.com", "https:example.com", "https:\\\\example.com"],
        );
    }

    #[test]
    fn a_trailing_dot_is_another_origin() {
        check(SITE, &[], &["https://example.com.", "https://example.com.:443"]);
        check("https://*.example.com", &[], &["https://a.example.com."]);
    }

    #[test]
    fn unicode_is_refused_and_punycode_compared_as_it_stands() {
        // The first has a Cyrillic letter, the others a full stop of another script and a fullwidth letter.
        check(SITE, &[], &["https://ex\u{430}mple.com", "https://example\u{3002}com", "https://\u{ff45}xample.com"]);
        check("https://xn--bcher-kva.example", &["https://xn--bcher-kva.example"], &["https://bücher.example"]);
    }

    #[test]
    fn an_empty_header_is_refused() {
        check(SITE, &[], &["", " "]);
    }

    #[test]
    fn two_origins_are_refused() {
        check(
            SITE,
            &[],
            &[
                "https://example.com https://evil.com",
                "https://evil.com https://example.com",
                "https://example.com https://example.com",
                "https://example.com, https://example.com",
                "https://example.com,https://evil.com",
                "null https://example.com",
            ],
        );
    }

    #[test]
    fn spaces_controls_and_bytes_that_are_no_text_are_refused() {
        check(
            SITE,
            &[],
            &[" https://example.com", "https://example.com ", "https://example.com\t", "https://example.com\0"],
        );
        assert!(!origins(&[SITE]).allow(Some(b"https://example.com\xff")));
        assert!(!origins(&[SITE]).allow(Some(b"\xff")));
    }

    #[test]
    fn a_wildcard_admits_subdomains_at_any_depth_only() {
        check(
            "https://*.example.com",
            &["https://a.example.com", "https://a.b.example.com", "https://A.EXAMPLE.com:443"],
            &[
                "https://example.com",
                "https://.example.com",
                "https://evilexample.com",
                "https://a.example.com.evil.com",
                "https://a.example.com:8443",
                "http://a.example.com",
                "https://*.example.com",
                "https://a..example.com",
                "https://evil.com/.example.com",
                "https://evil.com#.example.com",
                "https://evil.com\\.example.com",
                "https://evil.com:443.example.com",
                "https://192.0.2.1",
                "https://[::1]",
            ],
        );
        check("https://*.example.com:8443", &["https://a.example.com:8443"], &["https://a.example.com"]);
    }

    #[test]
    fn other_schemes_compare_byte_by_byte() {
        let id = "chrome-extension://abcdefghijklmnopabcdefghijklmnop";
        check(
            id,
            &[id, "Chrome-Extension://abcdefghijklmnopabcdefghijklmnop"],
            &["chrome-extension://abc", "https://abc"],
        );
        check(
            id,
            &[],
            &["chrome-extension://ABCDEFGHIJKLMNOPABCDEFGHIJKLMNOP", &format!("{id}/"), &format!("{id}:443")],
        );
        check("capacitor://localhost", &["capacitor://localhost"], &["ionic://localhost", "http://localhost"]);
        check("app://x:81", &["app://x:81"], &["app://x", "app://x:081"]);
    }

    #[test]
    fn any_of_several_patterns_admits() {
        let origins = origins(&["https://a.example", "null", "https://*.b.example"]);
        for (origin, admitted) in
            [("https://a.example", true), ("null", true), ("https://x.b.example", true), ("https://b.example", false)]
        {
            assert_eq!(origins.allow(Some(origin.as_bytes())), admitted, "{origin}");
        }
    }

    #[test]
    fn a_missing_origin_passes_as_the_route_says() {
        for patterns in [None, Some(vec![]), Some(vec![SITE.parse().unwrap()])] {
            assert!(Origins::new(patterns.clone(), MissingOrigin::Allow).allow(None), "{patterns:?}");
            assert!(!Origins::new(patterns.clone(), MissingOrigin::Refuse).allow(None), "{patterns:?}");
        }
    }

    #[test]
    fn without_a_list_every_origin_passes() {
        let open = Origins::new(None, MissingOrigin::Refuse);
        assert!(open.is_open());
        for origin in ["https://evil.com", "null", "", "no origin at all"] {
            assert!(open.allow(Some(origin.as_bytes())), "{origin}");
        }
    }

    #[test]
    fn an_empty_list_admits_no_origin() {
        let none = origins(&[]);
        assert!(!none.is_open());
        assert!(!none.allow(Some(SITE.as_bytes())) && !none.allow(Some(b"null")));
    }

    #[test]
    fn faults_that_say_what_to_write() {
        refuse("*", "leave `origins` out to admit every origin");
        refuse("https://chat.example.com/", "an origin has no path: write `https://chat.example.com`");
        refuse("https://chat.example.com:8443/ws?a", "an origin has no path: write `https://chat.example.com:8443`");
        refuse("https://chat.example.com?a", "an origin has no path: write `https://chat.example.com`");
        refuse("chat.example.com", "an origin starts with a scheme: write `https://chat.example.com`");
        refuse("chat.example.com/ws", "an origin starts with a scheme: write `https://chat.example.com`");
        refuse("https://me:secret@example.com", "an origin names no user: write `https://example.com`");
        refuse("https://bücher.example", "a host is ASCII: write the `xn--` form of the name");
    }

    #[test]
    fn patterns_that_cannot_be_used() {
        let cases = [
            ("https://", OriginPatternError::Host(HostError::Empty)),
            ("app://", OriginPatternError::Host(HostError::Empty)),
            ("://example.com", OriginPatternError::Scheme),
            ("1http://example.com", OriginPatternError::Scheme),
            (" https://example.com", OriginPatternError::Scheme),
            ("*://example.com", OriginPatternError::Scheme),
            ("https://*", OriginPatternError::Wildcard),
            ("https://a*.example.com", OriginPatternError::Wildcard),
            ("https://*a.example.com", OriginPatternError::Wildcard),
            ("https://*.*.example.com", OriginPatternError::Wildcard),
            ("https://a.*.example.com", OriginPatternError::Wildcard),
            ("https://example.com:*", OriginPatternError::Wildcard),
            ("https://*.192.0.2.1", OriginPatternError::Wildcard),
            ("https://*.[::1]", OriginPatternError::Wildcard),
            ("chrome-extension://*", OriginPatternError::Wildcard),
            ("app://*.example", OriginPatternError::Wildcard),
            ("https://example.com:", OriginPatternError::Port),
            ("https://example.com:0", OriginPatternError::Port),
            ("https://example.com:65536", OriginPatternError::Port),
            ("https://example.com.", OriginPatternError::Host(HostError::EmptyLabel)),
            ("https://*.example.com.", OriginPatternError::Host(HostError::EmptyLabel)),
            ("https://*.", OriginPatternError::Host(HostError::Empty)),
            ("https://a.example https://b.example", OriginPatternError::Host(HostError::Character(' '))),
            ("https://a.example ", OriginPatternError::Host(HostError::Character(' '))),
            ("https://127.1", OriginPatternError::Host(HostError::Address)),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<OriginPattern>(), Err(error), "{text}");
        }
    }
}
