//! The web origins that may open a session (RFC 6455 section 10.2, RFC 6454).
//!
//! A browser lets any page open a WebSocket to any host, with that host's cookies, and sends the page's origin in the
//! opening handshake. Only the check of that origin keeps a foreign page from using a visitor's session.

use std::fmt;
use std::str::FromStr;

use super::host::{HostError, before, is_address, is_subdomain, parse_host, parse_port, split_port};

/// The origins that a route admits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origins {
    patterns: Option<Vec<OriginPattern>>,
    missing: MissingOrigin,
}

impl Origins {
    /// Creates the origin check. `patterns` is `None` if the route lists no origins: every origin is admitted. An empty
    /// list admits no origin.
    #[must_use]
    pub fn new(patterns: Option<Vec<OriginPattern>>, missing: MissingOrigin) -> Self {
        Self { patterns, missing }
    }

    /// Whether a request with this `Origin` header value is admitted (`None`: the request has no such header).
    ///
    /// A value is one origin as serialised by RFC 6454 section 6.1, or `null`. If the route lists origins, any other
    /// value is rejected: an empty one, a list, one with a path or user information. If it lists none, the value is not
    /// read. The caller rejects a request with several such headers.
    #[must_use]
    pub fn allow(&self, origin: Option<&[u8]>) -> bool {
        let Some(origin) = origin else { return self.missing == MissingOrigin::Allow };
        let Some(patterns) = &self.patterns else { return true };
        let Some(value) = Value::from_header(origin) else { return false };
        patterns.iter().any(|pattern| pattern.matches(&value))
    }

    /// Whether every origin is admitted, because the route lists none.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.patterns.is_none()
    }
}

/// The decision on a request without `Origin`, which only browsers reliably send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingOrigin {
    /// The request is admitted.
    Allow,
    /// The request is rejected.
    Refuse,
}

/// One allowed origin: `https://chat.example.com`, `https://*.example.com`, `http://localhost:3000` or `null`.
///
/// Scheme, host and port must all be equal. For `http` and `https` the default port may be omitted, case is ignored,
/// and `*.` before a domain matches its subdomains at any depth, but not the domain itself. For any other scheme, such
/// as `chrome-extension://` or `capacitor://`, the text after the scheme is compared byte by byte. It may be empty, as
/// in `file://`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginPattern(PatternKind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum PatternKind {
    This(Value),
    /// The subdomains of the host of this origin.
    Subdomains(Origin),
}

impl OriginPattern {
    /// Whether the origin does not identify the author of a page: any page can send `null` from a sandboxed frame, and
    /// every local file that a visitor opens sends `null` or `file://`.
    #[must_use]
    pub fn is_anyone(&self) -> bool {
        match &self.0 {
            PatternKind::This(Value::Null) => true,
            PatternKind::This(Value::Origin(origin)) => origin.scheme == "file",
            PatternKind::Subdomains(_) => false,
        }
    }

    fn matches(&self, value: &Value) -> bool {
        match (&self.0, value) {
            (PatternKind::This(this), value) => this == value,
            (PatternKind::Subdomains(_), Value::Null) => false,
            (PatternKind::Subdomains(domain), Value::Origin(origin)) => {
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
            return Ok(Self(PatternKind::This(Value::Null)));
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
            Some(_) if origin.is_name() => Ok(Self(PatternKind::Subdomains(origin))),
            Some(_) => Err(OriginPatternError::Wildcard),
            None => Ok(Self(PatternKind::This(Value::Origin(origin)))),
        }
    }
}

/// The value of an `Origin` header.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Value {
    /// An opaque origin, such as that of a sandboxed frame or a local file. All opaque origins have this value.
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

/// Scheme, host and port, normalised so that equal origins compare equal (RFC 6454 section 4).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Origin {
    /// In lower case.
    scheme: String,
    /// The host. For a scheme without a default port, the whole text after the scheme.
    host: String,
    /// The port, even if it is the default port; `None` for a scheme without a default port.
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

    /// Whether the host can have subdomains.
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

/// Parses the text after an unknown scheme: an identifier, optionally with a port, or an empty text.
fn parse_opaque(text: &str) -> Result<String, HostError> {
    if text.len() > OPAQUE_MAX_BYTES {
        return Err(HostError::TooLong);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '~' | ':');
    match text.chars().find(|c| !allowed(*c)) {
        Some(other) => Err(HostError::Character(other)),
        None => Ok(text.to_owned()),
    }
}

/// Why an origin pattern is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OriginPatternError {
    /// The pattern is `*`.
    Every,
    /// The pattern has no scheme; this is the text before its path.
    NoScheme(Box<str>),
    /// The scheme is malformed (RFC 3986 section 3.1).
    Scheme,
    /// The pattern has a path, even if only a slash, or a query; this is the origin before it.
    Path(Box<str>),
    /// The pattern has a user name or password; this is the origin without it.
    UserInfo(Box<str>),
    /// The pattern has a `*` in a position other than the whole first label of an `http` or `https` origin, or before
    /// an address.
    Wildcard,
    /// The port is malformed.
    Port,
    /// The host is malformed.
    Host(HostError),
}

impl fmt::Display for OriginPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("leave `origins` out to admit every origin"),
            Self::NoScheme(host) => write!(f, "an origin starts with a scheme: write `https://{host}`"),
            Self::Scheme => f.write_str("a scheme is a letter followed by letters, digits, `+`, `-` and `.`"),
            Self::Path(origin) => write!(f, "an origin has no path: write `{origin}`"),
            Self::UserInfo(origin) => write!(f, "an origin has no user information: write `{origin}`"),
            Self::Wildcard => f.write_str("`*` stands for whole labels before a domain, as in `https://*.example.com`"),
            Self::Port => f.write_str("a port is a number from 1 to 65535"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OriginPatternError {}

/// The serialisation of an opaque origin (RFC 6454 section 6.1).
const NULL: &str = "null";

/// The characters that end the authority of a URI (RFC 3986 section 3.2).
const PATH_STARTS: [char; 3] = ['/', '?', '#'];

/// The maximum length of the text after an unknown scheme: that of a host name.
const OPAQUE_MAX_BYTES: usize = 253;

#[cfg(test)]
mod tests;
