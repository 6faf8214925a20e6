//! Finds the token of a request, and removes token sources before the request goes to the upstream.
//!
//! Finding and removing match names in the same way, so a token that is found is always removed. Names match exactly as
//! an upstream could read them: neither more loosely nor more strictly.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::general_purpose::{GeneralPurpose, NO_PAD};
use http::header::{AUTHORIZATION, COOKIE};
use http::{HeaderMap, HeaderValue};

use crate::ws::grammar::{self, Encoded};

/// A part of the request that may carry the token.
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
    /// The rest of the entry of `Sec-WebSocket-Protocol` that starts with this text: the token itself, or its base64url
    /// as in Kubernetes. Written `subprotocol_prefix:<text>`.
    SubprotocolPrefix(String),
}

/// Why a token source is invalid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenSourceError {
    /// The kind is not one of the five.
    UnknownKind,
    /// The name is missing, or `header` has a name.
    Name,
    /// The name of a cookie or subprotocol, or the prefix of a subprotocol, is not a token (RFC 9110 section 5.6.2).
    NameNotToken,
    /// The name of a query parameter contains a space, a control character, `&`, `=`, `#`, `%`, `+`, or non-ASCII text.
    NameNotQuery,
}

impl fmt::Display for TokenSourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownKind | Self::Name => {
                "a token source is `header`, `cookie:<name>`, `query:<name>`, `subprotocol:<name>` or \
                 `subprotocol_prefix:<text>`"
            }
            Self::NameNotToken => "the name must be letters, digits and characters of !#$%&'*+-.^_`|~",
            Self::NameNotQuery => "the name of a query parameter is written decoded, without space, &, =, #, % or +",
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
        if !matches!(kind, "header" | "cookie" | "query" | "subprotocol" | "subprotocol_prefix") {
            return Err(TokenSourceError::UnknownKind);
        }
        match (kind, name.filter(|name| !name.is_empty())) {
            ("header", None) if name.is_none() => Ok(Self::Header),
            ("cookie", Some(name)) => token(name).map(Self::Cookie),
            ("subprotocol", Some(name)) => token(name).map(Self::Subprotocol),
            ("subprotocol_prefix", Some(text)) => token(text).map(Self::SubprotocolPrefix),
            ("query", Some(name)) => {
                let allowed = |byte: u8| byte.is_ascii_graphic() && !b"&=#%+".contains(&byte);
                let is_name = name.bytes().all(allowed);
                if is_name { Ok(Self::Query(name.to_owned())) } else { Err(TokenSourceError::NameNotQuery) }
            }
            _ => Err(TokenSourceError::Name),
        }
    }
}

/// One source carries different tokens, or `Authorization` occurs twice or contains more than one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ambiguous;

/// Returns the token of the first source that carries one. Equal candidates in one source count as one: browsers send a
/// cookie twice if it is set for a domain and for its parent.
///
/// # Errors
/// If the candidates in one source differ, which ends the search: the client and Tollgate could each mean a different
/// one (RFC 6750 section 2 allows only one method). `Authorization` is not a list (RFC 9110 section 11.6.2), so a
/// second field line is always an error.
pub fn find<'a>(
    sources: &[TokenSource],
    headers: &'a HeaderMap,
    query: Option<&'a str>,
    protocols: &[&'a str],
) -> Result<Option<Cow<'a, str>>, Ambiguous> {
    for source in sources {
        let found = match source {
            TokenSource::Header => in_authorization(headers)?,
            TokenSource::Cookie(name) => {
                let values = cookies(headers, name);
                single(values.map(|value| str::from_utf8(value).unwrap_or_default().into()))?
            }
            TokenSource::Query(name) => {
                let parts = query.into_iter().flat_map(|query| query.split('&'));
                single(parts.filter_map(|part| query_value(part, name)).map(decoded))?
            }
            TokenSource::Subprotocol(marker) => {
                let markers = protocols.iter().enumerate().filter(|(_, protocol)| **protocol == marker);
                single(markers.map(|(place, _)| protocols.get(place + 1).copied().unwrap_or_default().into()))?
            }
            TokenSource::SubprotocolPrefix(prefix) => {
                let rests = protocols.iter().filter_map(|protocol| protocol.strip_prefix(prefix.as_str()));
                single(rests.map(bare))?
            }
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns the source that carries this token, if one does.
pub fn source_of<'a>(
    sources: &'a [TokenSource],
    headers: &HeaderMap,
    query: Option<&str>,
    protocols: &[&str],
    token: &str,
) -> Option<&'a TokenSource> {
    let carries = |source: &&TokenSource| {
        let found = find(std::slice::from_ref(*source), headers, query, protocols);
        found.is_ok_and(|found| found.as_deref() == Some(token))
    };
    sources.iter().find(carries)
}

/// Removes every configured source from the headers, used or not: the whole of `Authorization`, and only the matching
/// pair of `Cookie`. The other cookies keep their values and their order.
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

/// Returns the values of the cookies of this name, without quotes.
pub fn cookies<'a>(headers: &'a HeaderMap, name: &str) -> impl Iterator<Item = &'a [u8]> {
    let pairs = headers.get_all(COOKIE).iter().flat_map(|line| line.as_bytes().split(|&byte| byte == b';'));
    pairs.filter_map(move |pair| cookie_value(pair, name)).map(unquoted)
}

/// Returns the decoded value of the first query parameter of this name.
pub(super) fn query_parameter<'a>(query: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query.split('&').find_map(|part| query_value(part, name)).map(decoded)
}

/// Returns the query without the parameters that are token sources; `None` if no other parameter is left. The others
/// are unchanged.
#[must_use]
pub fn strip_query(sources: &[TokenSource], query: Option<&str>) -> Option<String> {
    let is_source = |part: &str| {
        sources.iter().any(|source| matches!(source, TokenSource::Query(name) if query_value(part, name).is_some()))
    };
    let kept = query?.split('&').filter(|part| !is_source(part)).collect::<Vec<_>>().join("&");
    (!kept.is_empty()).then_some(kept)
}

/// Returns the subprotocols without the marker and its token, and the marker if one was removed. If the upstream
/// selects no subprotocol, the response to the client names the marker, since browsers fail a connection whose offer is
/// ignored. For `subprotocol_prefix` the whole entry is the marker: a browser accepts only an entry that it sent.
#[must_use]
pub fn strip_protocols<'a>(sources: &[TokenSource], protocols: &[&'a str]) -> (Vec<&'a str>, Option<&'a str>) {
    let is_marker = |protocol: &str| {
        sources.iter().any(|source| matches!(source, TokenSource::Subprotocol(marker) if marker == protocol))
    };
    let has_prefix = |protocol: &str| {
        sources.iter().any(|source| match source {
            TokenSource::SubprotocolPrefix(prefix) => protocol.starts_with(prefix.as_str()),
            _ => false,
        })
    };
    let mut kept = Vec::with_capacity(protocols.len());
    let mut first_marker = None;
    let mut follows_marker = false;
    for &protocol in protocols {
        // A marker that follows a marker could be its token or a marker itself: both and the next entry are removed.
        let marker = is_marker(protocol);
        if marker || has_prefix(protocol) {
            first_marker.get_or_insert(protocol);
        } else if !follows_marker {
            kept.push(protocol);
        }
        follows_marker = marker;
    }
    (kept, first_marker)
}

/// Returns the only candidate of a source. Equal candidates count as one. An empty candidate does not count as a token,
/// but differs from one that is not empty.
fn single<'a>(mut candidates: impl Iterator<Item = Cow<'a, str>>) -> Result<Option<Cow<'a, str>>, Ambiguous> {
    let Some(first) = candidates.next() else { return Ok(None) };
    if candidates.any(|other| other != first) {
        return Err(Ambiguous);
    }
    Ok(Some(first).filter(|token| !token.is_empty()))
}

/// Returns the token of `Authorization` (RFC 6750 section 2.1): one field line, the scheme `Bearer` in any case (RFC
/// 9110 section 11.1), and one token.
fn in_authorization(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Ambiguous> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let line = match (lines.next(), lines.next()) {
        (None, _) => return Ok(None),
        (Some(line), None) => line,
        (Some(_), Some(_)) => return Err(Ambiguous),
    };
    let Some((scheme, token)) = line.to_str().ok().and_then(|line| line.split_once(' ')) else {
        return Ok(None);
    };
    if !scheme.eq_ignore_ascii_case("Bearer") {
        return Ok(None);
    }
    let mut words = token.split([' ', '\t']).filter(|word| !word.is_empty());
    match (words.next(), words.next()) {
        (Some(_), Some(_)) => Err(Ambiguous),
        (first, _) => Ok(first.map(Cow::Borrowed)),
    }
}

/// Returns the value of a cookie pair with this name. White space around name and value is ignored (RFC 6265 section
/// 5.2).
fn cookie_value<'a>(pair: &'a [u8], name: &str) -> Option<&'a [u8]> {
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    let (key, value) = pair.split_at_checked(equals)?;
    (key.trim_ascii() == name.as_bytes()).then(|| value.strip_prefix(b"=").unwrap_or(value).trim_ascii())
}

/// Returns a cookie's value without the quotes that may surround it (RFC 6265 section 4.1.1). The RFC defines no
/// escapes, so `%` and `\` are literal.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value)
}

/// Returns the token after the prefix of an entry: as it is if it contains dots, otherwise decoded from base64url.
/// Spare bits in the last character are ignored (RFC 4648 section 3.5), as in Kubernetes; the decoded token is still
/// parsed strictly.
fn bare(rest: &str) -> Cow<'_, str> {
    if rest.contains('.') {
        return rest.into();
    }
    let decoded = LENIENT_URL_SAFE.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    decoded.map_or(rest.into(), Cow::Owned)
}

/// Returns the value of a query parameter with this name, as it was sent. The name may be percent-encoded: an upstream
/// reads `%74oken` as `token`, so this does, too.
fn query_value<'a>(part: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = part.split_once('=').unwrap_or((part, ""));
    percent_decoded(key.as_bytes()).eq(name.bytes()).then_some(value)
}

/// Decodes the value of a query parameter once, as its name is: `%2E` is a dot (RFC 3986 section 6.2.2.2). A `+` is not
/// a space. A value that does not decode to UTF-8 is returned as it was sent, and fails as a token.
fn decoded(value: &str) -> Cow<'_, str> {
    if !value.contains('%') {
        return value.into();
    }
    String::from_utf8(percent_decoded(value.as_bytes()).collect()).map_or(value.into(), Cow::Owned)
}

/// Decodes percent-encoding. A `%` without two hexadecimal digits is literal.
fn percent_decoded(bytes: &[u8]) -> impl Iterator<Item = u8> {
    grammar::percent_decoded(bytes).map(|part| match part {
        Encoded::Literal(byte) | Encoded::Escaped(byte) => byte,
        Encoded::BadEscape => b'%',
    })
}

fn token(name: &str) -> Result<String, TokenSourceError> {
    if grammar::is_token(name) { Ok(name.to_owned()) } else { Err(TokenSourceError::NameNotToken) }
}

const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, NO_PAD.with_decode_allow_trailing_bits(true));

#[cfg(test)]
mod tests;
