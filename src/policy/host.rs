//! Parses the hosts of requests and the host patterns of routes by one grammar.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Returns the host of a request's `Host` header or `:authority` (RFC 9110 section 7.2), as routes compare it: in lower
/// case, without port and without one trailing dot; an IPv6 address in brackets and in its canonical form.
///
/// Returns `None` unless the text is one host name or address, optionally with a port from 1 to 65535. User
/// information, lists, spaces, controls, escapes and text that is not ASCII are rejected. An empty port is the default
/// port (RFC 3986 section 3.2.3).
#[must_use]
pub fn request_host(authority: &str) -> Option<String> {
    let (host, port) = split_port(authority);
    if let Some(port) = port.filter(|port| !port.is_empty()) {
        parse_port(port)?;
    }
    parse_host(without_root_dot(host)).ok()
}

/// The hosts that a route serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This host, in lower case, without port. An IPv6 address has brackets.
    Exact(Box<str>),
    /// Every subdomain of this domain (`*.example.com`), at any depth, but not the domain itself.
    Subdomains(Box<str>),
}

impl HostPattern {
    /// Whether the pattern matches a host in the form of [`request_host`].
    #[must_use]
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *host,
            Self::Subdomains(domain) => is_subdomain(host, domain),
        }
    }

    pub(super) fn order(&self, other: &Self) -> Ordering {
        fn key(pattern: &HostPattern) -> (u8, Reverse<usize>, &str) {
            match pattern {
                HostPattern::Exact(host) => (0, Reverse(0), host),
                HostPattern::Subdomains(domain) => (1, Reverse(domain.len()), domain),
                HostPattern::Any => (2, Reverse(0), ""),
            }
        }
        key(self).cmp(&key(other))
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;

    /// Reads `chat.example.com`, `*.example.com`, `192.0.2.1` or `[2001:db8::1]`, in any case. One trailing dot is
    /// dropped. [`HostPattern::Any`] has no text form.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "*" {
            return Err(HostPatternError::Every);
        }
        if let Ok(address) = text.parse::<Ipv6Addr>() {
            return Err(HostPatternError::Brackets(address));
        }
        let after_scheme = text.split_once("://").map(|(_scheme, rest)| rest);
        let before_path = before(after_scheme.unwrap_or(text), &['/', '?', '#']);
        let (host, port) = split_port(before_path);
        if host.is_empty() {
            return Err(HostPatternError::Host(HostError::Empty));
        }
        if after_scheme.is_some() {
            return Err(HostPatternError::Scheme(host.into()));
        }
        if before_path != text {
            return Err(HostPatternError::Path(host.into()));
        }
        if port.is_some() {
            return Err(HostPatternError::Port(host.into()));
        }
        let host = without_root_dot(host);
        let domain = host.strip_prefix("*.");
        if domain.unwrap_or(host).contains('*') {
            return Err(HostPatternError::Wildcard);
        }
        let name: Box<str> = parse_host(domain.unwrap_or(host)).map_err(HostPatternError::Host)?.into();
        match domain {
            Some(_) if is_address(&name) => Err(HostPatternError::AddressWildcard),
            Some(_) => Ok(Self::Subdomains(name)),
            None => Ok(Self::Exact(name)),
        }
    }
}

/// Why a host pattern is invalid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPatternError {
    /// The pattern is `*`.
    Every,
    /// The pattern has a scheme; this is its host.
    Scheme(Box<str>),
    /// The pattern has a path; this is its host.
    Path(Box<str>),
    /// The pattern has a port; this is its host.
    Port(Box<str>),
    /// The pattern is an IPv6 address without brackets.
    Brackets(Ipv6Addr),
    /// The pattern has a `*` in a position other than the whole first label.
    Wildcard,
    /// The pattern has a `*` before an address.
    AddressWildcard,
    /// The pattern is not a host.
    Host(HostError),
}

impl fmt::Display for HostPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Every => f.write_str("leave `host` out to serve every host"),
            Self::Scheme(host) => write!(f, "a host has no scheme: write `{host}`"),
            Self::Path(host) => write!(f, "a host has no path: write `{host}`"),
            Self::Port(host) => write!(f, "a host has no port: write `{host}`"),
            Self::Brackets(address) => write!(f, "an IPv6 address needs brackets: write `[{address}]`"),
            Self::Wildcard => f.write_str("`*` stands for whole labels at the start, as in `*.example.com`"),
            Self::AddressWildcard => f.write_str("an address has no subdomains: write it without `*.`"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for HostPatternError {}

/// Parses a host name or address in the form of a URI, without port or trailing dot. This is stricter than RFC 3986
/// section 3.2.2, which allows nearly any text as a host. It accepts host names as in DNS and TLS, with `_` since
/// container networks use it, and addresses in the one form that every parser reads as the same address.
pub(super) fn parse_host(text: &str) -> Result<String, HostError> {
    if text.is_empty() {
        return Err(HostError::Empty);
    }
    if let Some(rest) = text.strip_prefix('[') {
        let address = rest.strip_suffix(']').and_then(|address| address.parse::<Ipv6Addr>().ok());
        return address.map(|address| format!("[{address}]")).ok_or(HostError::Address);
    }
    if !text.is_ascii() {
        return Err(HostError::NotAscii);
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some(other) = text.chars().find(|c| !allowed(*c)) {
        return Err(HostError::Character(other));
    }
    if text.split('.').any(str::is_empty) {
        return Err(HostError::EmptyLabel);
    }
    if text.len() > HOST_MAX_BYTES || text.split('.').any(|label| label.len() > LABEL_MAX_BYTES) {
        return Err(HostError::TooLong);
    }
    let host = text.to_ascii_lowercase();
    if ends_in_number(&host) && host.parse::<Ipv4Addr>().is_err() {
        return Err(HostError::Address);
    }
    Ok(host)
}

/// Whether the last label is a number. Browsers and resolvers read such a name as an IPv4 address in a legacy form:
/// `127.1`, `0x7f.0.0.1`.
fn ends_in_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or(host);
    match last.strip_prefix("0x") {
        Some(digits) => digits.bytes().all(|byte| byte.is_ascii_hexdigit()),
        None => last.bytes().all(|byte| byte.is_ascii_digit()),
    }
}

/// Why a text is not a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostError {
    /// The text is empty.
    Empty,
    /// The text has more than 253 bytes, or a label of more than 63 (RFC 1035 section 2.3.4).
    TooLong,
    /// A label is empty.
    EmptyLabel,
    /// The text contains this character, which is not allowed in host names.
    Character(char),
    /// The text is not ASCII: on the wire such names have their `xn--` form (RFC 5891 section 4.4).
    NotAscii,
    /// The text looks like an address, but is not one in the usual form.
    Address,
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the host is empty"),
            Self::TooLong => {
                write!(f, "a host has at most {HOST_MAX_BYTES} bytes, and each label at most {LABEL_MAX_BYTES}")
            }
            Self::EmptyLabel => f.write_str("a host must not begin or end with a dot, or contain two dots in a row"),
            Self::Character(c) => write!(f, "a host must not contain {c:?}"),
            Self::NotAscii => f.write_str("a host must be ASCII: write the `xn--` form of the name"),
            Self::Address => f.write_str("this is not an address: write it as in `192.0.2.1` or `[2001:db8::1]`"),
        }
    }
}

impl std::error::Error for HostError {}

/// Splits an authority into host and port. A colon within brackets is part of the address.
pub(super) fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') && host.contains('[') == host.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Parses a port from 1 to 65535, in decimal digits without a leading zero.
pub(super) fn parse_port(text: &str) -> Option<u16> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    text.parse().ok().filter(|_| plain)
}

/// Whether a host is a subdomain of a domain, at any depth, both in the form of [`parse_host`]. An address is not a
/// subdomain.
pub(super) fn is_subdomain(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|labels| labels.ends_with('.')) && !is_address(host)
}

/// Whether a host in the form of [`parse_host`] is an address rather than a name.
pub(super) fn is_address(host: &str) -> bool {
    host.starts_with('[') || ends_in_number(host)
}

/// Returns the text before the first delimiter, or all of it.
pub(super) fn before<'a>(text: &'a str, delimiters: &[char]) -> &'a str {
    text.split(delimiters).next().unwrap_or(text)
}

/// Removes one trailing dot: a name with it is the same name, absolute (RFC 1034 section 3.1).
fn without_root_dot(host: &str) -> &str {
    host.strip_suffix('.').filter(|name| !name.ends_with(']')).unwrap_or(host)
}

const HOST_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(host: &str) -> Result<HostPattern, HostPatternError> {
        Ok(HostPattern::Exact(host.into()))
    }

    fn check(pattern: &str, expected: Result<HostPattern, HostPatternError>) {
        assert_eq!(pattern.parse(), expected, "{pattern}");
    }

    fn check_rejected(pattern: &str, message: &str) {
        assert_eq!(pattern.parse::<HostPattern>().map_err(|error| error.to_string()), Err(message.into()), "{pattern}");
    }

    #[test]
    fn exact_hosts_are_normalised() {
        check("chat.example.com", exact("chat.example.com"));
        check("Chat.EXAMPLE.com.", exact("chat.example.com"));
        check("localhost", exact("localhost"));
        check("chat_1.xn--bcher-kva.example", exact("chat_1.xn--bcher-kva.example"));
        check("192.0.2.1", exact("192.0.2.1"));
        check("[2001:DB8:0::1]", exact("[2001:db8::1]"));
    }

    #[test]
    fn a_wildcard_may_precede_a_domain() {
        check("*.example.com", Ok(HostPattern::Subdomains("example.com".into())));
        check("*.Example.com.", Ok(HostPattern::Subdomains("example.com".into())));
        check("*.com", Ok(HostPattern::Subdomains("com".into())));
    }

    #[test]
    fn errors_suggest_the_correct_text() {
        check_rejected("*", "leave `host` out to serve every host");
        check_rejected("chat.example.com:443", "a host has no port: write `chat.example.com`");
        check_rejected("chat.example.com:", "a host has no port: write `chat.example.com`");
        check_rejected("[2001:db8::1]:443", "a host has no port: write `[2001:db8::1]`");
        check_rejected("*.example.com:443", "a host has no port: write `*.example.com`");
        check_rejected("https://chat.example.com:443/ws", "a host has no scheme: write `chat.example.com`");
        check_rejected("chat.example.com/ws", "a host has no path: write `chat.example.com`");
        check_rejected("2001:db8:0::1", "an IPv6 address needs brackets: write `[2001:db8::1]`");
        check_rejected("*.192.0.2.1", "an address has no subdomains: write it without `*.`");
        check_rejected("user@example.com", "a host must not contain '@'");
        check_rejected("bücher.example", "a host must be ASCII: write the `xn--` form of the name");
    }

    #[test]
    fn wildcards_elsewhere_are_rejected() {
        for pattern in ["a*.example.com", "*a.example.com", "chat.*.com", "*.*.com", "**.com", "*.", "example.*"] {
            check(pattern, Err(HostPatternError::Wildcard));
        }
    }

    #[test]
    fn texts_that_are_not_hosts_are_rejected() {
        let longest = format!("{}b", "aa.".repeat(84));
        let too_long = format!("{longest}b");
        check(&longest, exact(&longest));
        let cases = [
            ("", HostError::Empty),
            ("https://", HostError::Empty),
            (".", HostError::Empty),
            ("..", HostError::EmptyLabel),
            (".example.com", HostError::EmptyLabel),
            ("example..com", HostError::EmptyLabel),
            ("example.com..", HostError::EmptyLabel),
            ("*..com", HostError::EmptyLabel),
            ("example .com", HostError::Character(' ')),
            (" example.com", HostError::Character(' ')),
            ("a.com,b.com", HostError::Character(',')),
            ("ex%61mple.com", HostError::Character('%')),
            ("[::1", HostError::Address),
            ("[::1].", HostError::Address),
            ("[fe80::1%25eth0]", HostError::Address),
            ("[192.0.2.1]", HostError::Address),
            ("[]", HostError::Address),
            ("127.1", HostError::Address),
            ("256.0.0.1", HostError::Address),
            ("0x7f.0.0.0x1", HostError::Address),
            ("010.0.0.1", HostError::Address),
            (&too_long, HostError::TooLong),
            (&format!("{}.com", "a".repeat(64)), HostError::TooLong),
        ];
        for (pattern, error) in cases {
            check(pattern, Err(HostPatternError::Host(error)));
        }
        check("*.[::1]", Err(HostPatternError::AddressWildcard));
    }

    #[test]
    fn request_hosts_are_normalised() {
        let cases = [
            ("chat.example.com", "chat.example.com"),
            ("CHAT.example.COM:443", "chat.example.com"),
            ("chat.example.com.", "chat.example.com"),
            ("chat.example.com.:65535", "chat.example.com"),
            ("192.0.2.1:8080", "192.0.2.1"),
            ("[::1]", "[::1]"),
            ("[0:0::0001]:443", "[::1]"),
            ("localhost:1", "localhost"),
            ("localhost:", "localhost"),
            ("chat.example.com.:", "chat.example.com"),
            ("192.0.2.1:", "192.0.2.1"),
            ("[::1]:", "[::1]"),
        ];
        for (authority, host) in cases {
            assert_eq!(request_host(authority).as_deref(), Some(host), "{authority}");
        }
    }

    #[test]
    fn malformed_authorities_have_no_host() {
        let refused = [
            "",
            ":443",
            ".",
            "..",
            "*",
            "*.example.com",
            "user@example.com",
            "user:secret@example.com",
            "@example.com",
            "a.example, b.example",
            "a.example,b.example",
            "a.example b.example",
            " a.example",
            "a.example ",
            "a.example\t",
            "a.example\r\nX-Evil: 1",
            "a.example\0",
            "a.example/",
            "a.example?",
            "a.example#",
            "a\\b.example",
            "http://a.example",
            "a..example",
            "a.example..",
            "a%2eexample",
            "é.example",
            ":",
            "a.example::",
            "a.example: ",
            "a.example:80:",
            "a.example:0",
            "a.example:080",
            "a.example:65536",
            "a.example:99999999999",
            "a.example:+80",
            "a.example:-1",
            "a.example:80:80",
            "a.example:http",
            "a.example:80 ",
            "::1",
            "[::1",
            "::1]",
            "[::1]443",
            "[::1].",
            "[::1]::",
            "::1:",
            "[::1].:",
            "[::1]:x",
            "[::1]]:443",
            "[::1%25lo]:443",
            "[v1.x]",
            "[]",
            "[a.example]",
        ];
        for authority in refused {
            assert_eq!(request_host(authority), None, "{authority:?}");
        }
    }

    #[test]
    fn a_wildcard_matches_subdomains_at_any_depth_only() {
        let pattern: HostPattern = "*.example.com".parse().unwrap();
        for (host, matches) in [
            ("a.example.com", true),
            ("a.b.example.com", true),
            ("example.com", false),
            ("evilexample.com", false),
            ("a.example.com.evil.com", false),
            ("com", false),
            ("", false),
        ] {
            assert_eq!(pattern.matches(host), matches, "{host}");
        }
    }
}
