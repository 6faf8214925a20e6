//! Where a request carries its token, and how the token is taken out before the upstream sees the request.

use std::str::FromStr;

use http::HeaderMap;

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
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TokenSourceError {}
impl std::fmt::Display for TokenSourceError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl FromStr for TokenSource {
    type Err = TokenSourceError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

/// The token of the first source that carries one. More than one candidate in one source is no token.
pub fn find<'a>(
    _sources: &[TokenSource],
    _headers: &'a HeaderMap,
    _query: Option<&'a str>,
    _protocols: &[&'a str],
) -> Option<&'a str> {
    todo!()
}

/// Takes every configured source out of the headers, used or not: `Authorization` whole, of `Cookie` only the pair.
pub fn strip_headers(_sources: &[TokenSource], _headers: &mut HeaderMap) {
    todo!()
}

/// The query without the parameters that are token sources; `None` if nothing is left.
pub fn strip_query(_sources: &[TokenSource], _query: Option<&str>) -> Option<String> {
    todo!()
}

/// The subprotocols without the marker and its token, and the marker if one was taken out: if the upstream then picks
/// no subprotocol the client is answered with the marker, since browsers fail a connection whose offer is ignored.
pub fn strip_protocols<'a>(_sources: &[TokenSource], _protocols: &[&'a str]) -> (Vec<&'a str>, Option<&'a str>) {
    todo!()
}
