//! Where a request carries its token, and how the token is taken out before the upstream sees the request.
//!
//! Finding and taking out use the same matching, so that what was found is always taken out. No name is matched
//! more loosely than an upstream could read it, and none more strictly.

use std::fmt;
use std::str::FromStr;

use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

/// One place in which a client may put its token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSource {
    /// `Authorization: Bearer <token>` (RFC 6750 section 2.1). Written `header`.
    Header,
    /// A cookie of this name. Written `cookie:<name>`.
    Cookie(String),
    /// A query parameter of this name (RFC 6750 section 2.3). Written `query:<name>`.
    Query(String),
    /// The entry of `Sec-WebSocket-Protocol` that follows the entry of this name. Written `subprotocol:<name>`.
    Subprotocol(String),
}

/// Why a token source cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSourceError {
    /// Not one of the four kinds.
    UnknownKind,
    /// The kind needs a name, or `header` has one.
    Name,
    /// A cookie or a subprotocol is named by a token (RFC 9110 section 5.6.2).
    NameNotToken,
    /// The name of a query parameter has a space, `&`, `=`, `#`, `%`, `+`, or something that is not ASCII.
    NameNotQuery,
}

impl fmt::Display for TokenSourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind | Self::Name => {
                "a token source is `header`, `cookie:<name>`, `query:<name>` or `subprotocol:<name>`"
            }
            Self::NameNotToken => "the name must be letters, digits and characters of !#$%&'*+-.^_`|~",
            Self::NameNotQuery => "the name of a query parameter is written decoded, without space, &, =, #, % and +",
        })
    }
}

impl std::error::Error for TokenSourceError {}

impl FromStr for TokenSource {
    type Err = TokenSourceError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (kind, name) = match text.split_once(':') {
            Some((kind, name)) => (kind, Some(name)),
            None => (text, None),
        };
        if !matches!(kind, "header" | "cookie" | "query" | "subprotocol") {
            return Err(TokenSourceError::UnknownKind);
        }
        match (kind, name.filter(|name| !name.is_empty())) {
            ("header", None) if name.is_none() => Ok(Self::Header),
            ("cookie", Some(name)) => token(name).map(Self::Cookie),
            ("subprotocol", Some(name)) => token(name).map(Self::Subprotocol),
            ("query", Some(name)) => {
                let allowed = |byte: u8| byte.is_ascii_graphic() && !b"&=#%+".contains(&byte);
                let is_name = name.bytes().all(allowed);
                if is_name { Ok(Self::Query(name.to_owned())) } else { Err(TokenSourceError::NameNotQuery) }
            }
            _ => Err(TokenSourceError::Name),
        }
    }
}

/// The token of the first source that carries one. More than one candidate in one source is no token, and ends the
/// search: which one was meant, the client and we could read differently (RFC 6750 section 2 allows one method only).
#[must_use]
pub fn find<'a>(
    sources: &[TokenSource],
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    protocols: &[&'a str],
) -> Option<&'a str> {
    for source in sources {
        let found = match source {
            TokenSource::Header => in_authorization(headers),
            TokenSource::Cookie(name) => {
                let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
                let values = pairs.filter_map(|pair| cookie_value(pair, name));
                Found::single(values.map(|value| str::from_utf8(value).unwrap_or_default()))
            }
            TokenSource::Query(name) => Found::single(
                query.into_iter().flat_map(|query| query.split('&')).filter_map(|part| query_value(part, name)),
            ),
            TokenSource::Subprotocol(marker) => {
                let markers = protocols.iter().enumerate().filter(|(_, protocol)| **protocol == marker);
                Found::single(markers.map(|(place, _)| protocols.get(place + 1).copied().unwrap_or_default()))
            }
        };
        match found {
            Found::Nothing => {}
            Found::One(token) => return Some(token),
            Found::Several => return None,
        }
    }
    None
}

/// Takes every configured source out of the headers, used or not: `Authorization` whole, of `Cookie` only the pair.
/// The other cookies stay as they came, in their order.
pub fn strip_headers(sources: &[TokenSource], headers: &mut HeaderMap) {
    if sources.contains(&TokenSource::Header) {
        headers.remove(AUTHORIZATION);
    }
    let is_source = |pair: &[u8]| {
        sources.iter().any(|source| matches!(source, TokenSource::Cookie(name) if cookie_value(pair, name).is_some()))
    };
    let has_source = |line: &HeaderValue| line.as_bytes().split(|&byte| byte == b';').any(is_source);
    if !headers.get_all(COOKIE).iter().any(has_source) {
        return;
    }
    let lines: Vec<HeaderValue> = headers.get_all(COOKIE).iter().cloned().collect();
    headers.remove(COOKIE);
    for line in lines {
        if !has_source(&line) {
            headers.append(COOKIE, line);
            continue;
        }
        let pairs = line.as_bytes().split(|&byte| byte == b';').filter(|pair| !is_source(pair));
        let kept = pairs.map(<[u8]>::trim_ascii).filter(|pair| !pair.is_empty()).collect::<Vec<_>>().join(&b"; "[..]);
        if !kept.is_empty()
            && let Ok(mut kept) = HeaderValue::from_bytes(&kept)
        {
            kept.set_sensitive(line.is_sensitive());
            headers.append(COOKIE, kept);
        }
    }
}

/// The query without the parameters that are token sources; `None` if nothing is left. The others stay as they came.
#[must_use]
pub fn strip_query(sources: &[TokenSource], query: Option<&str>) -> Option<String> {
    let is_source = |part: &str| {
        sources.iter().any(|source| matches!(source, TokenSource::Query(name) if query_value(part, name).is_some()))
    };
    let kept = query?.split('&').filter(|part| !is_source(part)).collect::<Vec<_>>().join("&");
    (!kept.is_empty()).then_some(kept)
}

/// The subprotocols without the marker and its token, and the marker if one was taken out: if the upstream then picks
/// no subprotocol the client is answered with the marker, since browsers fail a connection whose offer is ignored.
#[must_use]
pub fn strip_protocols<'a>(sources: &[TokenSource], protocols: &[&'a str]) -> (Vec<&'a str>, Option<&'a str>) {
    let is_marker = |protocol: &str| {
        sources.iter().any(|source| matches!(source, TokenSource::Subprotocol(marker) if marker == protocol))
    };
    let mut kept = Vec::with_capacity(protocols.len());
    let mut first_marker = None;
    let mut follows_marker = false;
    for &protocol in protocols {
        // A marker after a marker could be the token of one and the marker of the next: both go, and what follows.
        let marker = is_marker(protocol);
        if marker {
            first_marker.get_or_insert(protocol);
        } else if !follows_marker {
            kept.push(protocol);
        }
        follows_marker = marker;
    }
    (kept, first_marker)
}

/// What one source carries.
enum Found<'a> {
    Nothing,
    One(&'a str),
    Several,
}

impl<'a> Found<'a> {
    /// A single empty candidate is nothing; an empty one beside another is one too many.
    fn single(mut candidates: impl Iterator<Item = &'a str>) -> Self {
        match (candidates.next(), candidates.next()) {
            (Some(_), Some(_)) => Self::Several,
            (Some(token), None) if !token.is_empty() => Self::One(token),
            _ => Self::Nothing,
        }
    }
}

/// RFC 6750 section 2.1: one line, the scheme `Bearer` in any case (RFC 9110 section 11.1), one token after it.
fn in_authorization(headers: &HeaderMap) -> Found<'_> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Found::Nothing,
        (Some(line), None) => line,
        (Some(_), Some(_)) => return Found::Several,
    };
    let Some((scheme, token)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
        return Found::Nothing;
    };
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Found::Nothing;
    }
    Found::single(token.split([' ', '\t']).filter(|word| !word.is_empty()))
}

/// The value of a cookie pair of this name. White space around name and value does not count (RFC 6265 section 5.2).
fn cookie_value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (key, value) = pair.split_at_checked(equals)?;
    (key.trim_ascii() == name.as_bytes()).then(|| value.strip_prefix(b"=").unwrap_or(value).trim_ascii())
}

/// The value of a query parameter of this name, which may be percent-encoded: `%74oken` is `token` to an upstream, and
/// so it must be to us. The value is taken as it is.
fn query_value<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    percent_decoded(key.as_bytes()).eq(name.bytes()).then_some(value)
}

/// RFC 3986 section 2.1; a `%` without two hexadecimal digits stands for itself.
fn percent_decoded(mut bytes: &[u8]) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let (&first, rest) = bytes.split_first()?;
        let hex = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        if let (b'%', &[high, low, ref rest @ ..]) = (first, rest)
            && let (Some(high), Some(low)) = (hex(high), hex(low))
        {
            bytes = rest;
            return Some(high << 4 | low);
        }
        bytes = rest;
        Some(first)
    })
}

fn token(name: &str) -> Result<String, TokenSourceError> {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.bytes().all(is_token) { Ok(name.to_owned()) } else { Err(TokenSourceError::NameNotToken) }
}

#[cfg(test)]
mod tests;
