//! The opening handshake (RFC 6455 section 4): parses a client's request, and checks an upstream's answer against it.

use aws_lc_rs::digest;
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, PAD, STANDARD};
use http::header::{
    CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY,
    SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, Method, StatusCode, Uri, Version};

use super::deflate;
use super::grammar::is_token;

/// The version of the protocol that RFC 6455 defines.
pub const VERSION: &str = "13";
/// The GUID that is appended to the key before hashing (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Limit on the subprotocols that a request offers. Each is compared with those before it.
pub const PROTOCOLS_MAX: usize = 64;
/// Limit on the extensions that a request offers, of all names together.
pub const EXTENSIONS_MAX: usize = 32;
/// Limit on the names in the `Connection` of a request. Each names a header that is not forwarded.
pub const CONNECTION_NAMES_MAX: usize = 64;

/// Base64 with padding that accepts non-zero trailing bits in the last character. RFC 4648 section 3.5 leaves it to the
/// decoder whether to reject them, and RFC 6455 section 4.1 itself has a key with such bits.
const LENIENT: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// A well-formed request to open a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opening<'a> {
    /// The requested host, with its port if the client sent one. It is as sent, not validated.
    pub authority: &'a str,
    /// The path of the request target, as sent.
    pub path: &'a str,
    /// The query of the request target, as sent.
    pub query: Option<&'a str>,
    /// The value of `Sec-WebSocket-Key`, as sent.
    pub key: &'a str,
    /// The offered subprotocols, in the client's order.
    pub protocols: Vec<&'a str>,
    /// The offers of permessage-deflate, each with its parameters, in the client's order. Other extensions are not
    /// forwarded, since the meaning of their reserved bits is unknown.
    pub extensions: Vec<&'a str>,
    /// The value of `Origin`.
    pub origin: Option<&'a [u8]>,
}

/// The reason why a request does not open a WebSocket; one variant per rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OpeningError {
    /// No `Upgrade: websocket` with `Connection: upgrade` (section 4.2.1 items 3 and 4), or a version other than
    /// HTTP/1.1; in HTTP/1.0 `Upgrade` is ignored (RFC 9110 section 7.8).
    NotUpgrade,
    /// Not exactly one `Sec-WebSocket-Version`, or a value other than 13 (section 4.2.1 item 6).
    Version,
    /// A method other than GET (section 4.2.1 item 1).
    Method,
    /// A request with a body: a `Content-Length` other than 0 or any `Transfer-Encoding`. An opening handshake does not
    /// have a body, and a body that two parties delimit differently allows request smuggling (RFC 9112 section 11.2).
    Body,
    /// Not exactly one `Host`, in visible ASCII (RFC 9112 section 3.2).
    Host,
    /// A request target that is neither a path nor an absolute URI of HTTP or WebSocket (RFC 9112 section 3.2).
    Target,
    /// Not exactly one `Sec-WebSocket-Key`, or a value that is not 16 bytes in base64 (section 4.2.1 item 5).
    Key,
    /// `Sec-WebSocket-Protocol` is not a list of distinct tokens (section 4.1 item 10).
    Protocol,
    /// `Sec-WebSocket-Extensions` does not have the form of section 9.1.
    Extensions,
    /// More than one `Origin` (RFC 6454 section 7.3).
    Origin,
    /// More than [`PROTOCOLS_MAX`] subprotocols, [`EXTENSIONS_MAX`] extensions or [`CONNECTION_NAMES_MAX`] names in
    /// `Connection` (a limit of our own: lists are parsed before the client is authenticated).
    TooManyItems,
}

impl OpeningError {
    /// Returns its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotUpgrade => "not_upgrade",
            Self::Version => "version",
            Self::Method => "method",
            Self::Body => "body",
            Self::Host => "host",
            Self::Target => "target",
            Self::Key => "key",
            Self::Protocol => "subprotocol",
            Self::Extensions => "extensions",
            Self::Origin => "origin",
            Self::TooManyItems => "too_many_items",
        }
    }
}

impl<'a> Opening<'a> {
    /// Parses the head of a request, in time linear in its size.
    ///
    /// # Errors
    /// Returns the first broken rule in the order of the variants. [`OpeningError::TooManyItems`] may come earlier,
    /// since a list is read only up to its limit.
    pub fn parse(
        method: &Method,
        uri: &'a Uri,
        version: Version,
        headers: &'a HeaderMap,
    ) -> Result<Self, OpeningError> {
        let upgrade = has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade");
        if version != Version::HTTP_11 || !upgrade {
            return Err(OpeningError::NotUpgrade);
        }
        if once(headers, &SEC_WEBSOCKET_VERSION) != Some(VERSION) {
            return Err(OpeningError::Version);
        }
        if method != Method::GET {
            return Err(OpeningError::Method);
        }
        let lengths = headers.get_all(CONTENT_LENGTH);
        if headers.contains_key(TRANSFER_ENCODING) || lengths.iter().any(|length| length != "0") {
            return Err(OpeningError::Body);
        }
        let host = once(headers, &HOST).ok_or(OpeningError::Host)?;
        // In absolute form the authority of the target replaces `Host` (RFC 9112 section 3.2.2).
        let authority = match (uri.scheme_str(), uri.authority()) {
            (None, None) => host,
            (Some("http" | "https" | "ws" | "wss"), Some(authority)) => authority.as_str(),
            _ => return Err(OpeningError::Target),
        };
        let path = uri.path();
        if !path.starts_with('/') {
            return Err(OpeningError::Target);
        }
        let key = once(headers, &SEC_WEBSOCKET_KEY).ok_or(OpeningError::Key)?;
        if !LENIENT.decode(key).is_ok_and(|bytes| bytes.len() == 16) {
            return Err(OpeningError::Key);
        }
        let protocols = protocols(headers)?;
        let extensions = extensions(headers, OpeningError::Extensions, OpeningError::TooManyItems)?;
        let origin = match at_most_once(headers, &ORIGIN) {
            Ok(origin) => origin.map(http::HeaderValue::as_bytes),
            Err(Repeated) => return Err(OpeningError::Origin),
        };
        if tokens(headers, &CONNECTION).nth(CONNECTION_NAMES_MAX).is_some() {
            return Err(OpeningError::TooManyItems);
        }
        let extensions = extensions.into_iter().filter(|offer| extension_name(offer) == deflate::NAME).collect();
        Ok(Self { authority, path, query: uri.query(), key, protocols, extensions, origin })
    }
}

/// The subprotocol and the extension that an upstream accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// The selected subprotocol.
    pub protocol: Option<&'a str>,
    /// The accepted extension, with its parameters.
    pub extension: Option<&'a str>,
}

/// The reason why an upstream's answer does not open a WebSocket; one variant per rule of RFC 6455 section 4.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AnswerError {
    /// A status other than 101, the only one that switches protocols.
    Status,
    /// No `Upgrade: websocket` with `Connection: upgrade`, or a version other than HTTP/1.1; in HTTP/1.0 `Upgrade` is
    /// ignored (RFC 9110 section 7.8).
    NotUpgrade,
    /// Not exactly one `Sec-WebSocket-Accept`, or a value that does not match the key.
    Accept,
    /// A subprotocol that was not offered, or more than one.
    Protocol,
    /// An extension that was not offered, more than one, or parameters that do not match (RFC 7692 section 7.1).
    Extension,
}

impl AnswerError {
    /// Returns its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::NotUpgrade => "not_upgrade",
            Self::Accept => "accept",
            Self::Protocol => "subprotocol",
            Self::Extension => "extension",
        }
    }
}

impl<'a> Answer<'a> {
    /// Parses the head of the answer to a request that sent `key`, offered the subprotocols `offered`, and made the
    /// offers `extensions_offered` of permessage-deflate.
    ///
    /// # Errors
    /// Returns the first broken rule in the order of the variants.
    pub fn parse(
        status: StatusCode,
        version: Version,
        headers: &'a HeaderMap,
        key: &str,
        offered: &[&str],
        extensions_offered: &[&str],
    ) -> Result<Self, AnswerError> {
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(AnswerError::Status);
        }
        let upgrade = has_token(headers, &UPGRADE, "websocket") && has_token(headers, &CONNECTION, "upgrade");
        if version != Version::HTTP_11 || !upgrade {
            return Err(AnswerError::NotUpgrade);
        }
        if once(headers, &SEC_WEBSOCKET_ACCEPT) != Some(accept(key).as_str()) {
            return Err(AnswerError::Accept);
        }
        let protocol = match at_most_once(headers, &SEC_WEBSOCKET_PROTOCOL) {
            Ok(None) => None,
            // Some servers send an empty value if they select no subprotocol.
            Ok(Some(value)) if value.is_empty() => None,
            Ok(Some(value)) => {
                let picked = value.to_str().ok().filter(|picked| offered.contains(picked));
                Some(picked.ok_or(AnswerError::Protocol)?)
            }
            Err(Repeated) => return Err(AnswerError::Protocol),
        };
        let accepted = extensions(headers, AnswerError::Extension, AnswerError::Extension)?;
        let extension = match accepted.as_slice() {
            [] => None,
            [one] if extension_name(one) == deflate::NAME && deflate::fits(one, extensions_offered) => Some(*one),
            _ => return Err(AnswerError::Extension),
        };
        Ok(Self { protocol, extension })
    }
}

/// Returns the `Sec-WebSocket-Accept` for a key (section 4.2.2 item 5.4).
pub fn accept(key: &str) -> String {
    let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
    context.update(key.as_bytes());
    context.update(GUID);
    STANDARD.encode(context.finish())
}

/// Returns the `Sec-WebSocket-Key` for 16 random bytes (section 4.1 item 7).
pub fn key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// Returns the non-empty items of a header that is a list of tokens, such as `Connection` and `Upgrade` (RFC 9110
/// sections 7.6.1 and 7.8), over all its lines. Quotes have no meaning: every comma separates. Items are not checked to
/// be tokens.
pub fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let items = headers.get_all(name).into_iter().flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    items.map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

/// Whether a list of tokens contains this one, ignoring case.
fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers, name).any(|item| item.eq_ignore_ascii_case(token.as_bytes()))
}

/// Returns the non-empty items of a header whose items may contain quoted strings, over all its lines (RFC 9110 section
/// 5.6.1); `None` for a line that is not visible ASCII. The iterator is lazy: it reads nothing beyond the item
/// requested.
fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = Option<&'a str>> {
    headers.get_all(name).into_iter().flat_map(|line| {
        let (line, unreadable) = match line.to_str() {
            Ok(line) => (Some(line), None),
            Err(_) => (None, Some(None)),
        };
        let items = line.into_iter().flat_map(split_outside_quotes);
        items.filter(|item| !item.is_empty()).map(Some).chain(unreadable)
    })
}

/// Splits at the commas outside quoted strings (RFC 9110 section 5.6.4).
fn split_outside_quotes(line: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let comma = move |c: char| {
        let splits = c == ',' && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        splits
    };
    line.split(comma).map(|item| item.trim_matches([' ', '\t']))
}

/// The error for a header that appears more than once but may appear only once.
struct Repeated;

fn at_most_once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a http::HeaderValue>, Repeated> {
    let mut lines = headers.get_all(name).into_iter();
    let first = lines.next();
    if lines.next().is_some() { Err(Repeated) } else { Ok(first) }
}

/// Returns the value of a header that must appear exactly once, in visible ASCII.
fn once<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    at_most_once(headers, name).ok().flatten()?.to_str().ok()
}

fn protocols(headers: &HeaderMap) -> Result<Vec<&str>, OpeningError> {
    let mut protocols = Vec::new();
    for item in list(headers, &SEC_WEBSOCKET_PROTOCOL) {
        // Check the limit first: it bounds the comparisons per item.
        if protocols.len() >= PROTOCOLS_MAX {
            return Err(OpeningError::TooManyItems);
        }
        let item = item.filter(|item| is_token(item) && !protocols.contains(item)).ok_or(OpeningError::Protocol)?;
        protocols.push(item);
    }
    Ok(protocols)
}

fn extensions<E: Copy>(headers: &HeaderMap, malformed: E, too_many: E) -> Result<Vec<&str>, E> {
    let mut extensions = Vec::new();
    for item in list(headers, &SEC_WEBSOCKET_EXTENSIONS) {
        if extensions.len() >= EXTENSIONS_MAX {
            return Err(too_many);
        }
        extensions.push(item.filter(|item| is_token(extension_name(item))).ok_or(malformed)?);
    }
    Ok(extensions)
}

/// Returns the name of an offered extension: the part before its parameters.
fn extension_name(offer: &str) -> &str {
    offer.split_once(';').map_or(offer, |(name, _)| name).trim_matches([' ', '\t'])
}

#[cfg(test)]
mod tests;
