//! The facts of a request that routing and admission read, independent of the protocol that carried it.

use std::fmt;
use std::net::IpAddr;

use http::header::{ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, HOST, ORIGIN, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri};

use super::forwarded::{Client, Scheme};
use super::session_slots::SessionId;
use crate::ws::handshake::Opening;

/// The kind of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind<'a> {
    /// The opening handshake of a WebSocket.
    WebSocket,
    /// An ordinary HTTP request with this method, which gets a response.
    Http(&'a Method),
}

impl RequestKind<'_> {
    /// Returns the method.
    pub fn method(&self) -> &str {
        match self {
            Self::WebSocket => Method::GET.as_str(),
            Self::Http(method) => method.as_str(),
        }
    }

    /// Whether the request may change something at the server (RFC 9110 section 9.2.1): a browser sends it with the
    /// cookies of its host from any page, so its origin is checked. An opening handshake is such a request, although its
    /// method is safe.
    pub fn is_unsafe(&self) -> bool {
        match self {
            Self::WebSocket => true,
            Self::Http(method) => !method.is_safe(),
        }
    }
}

/// The facts of a request.
#[derive(Clone, Copy)]
pub struct RequestFacts<'a> {
    /// Its kind.
    pub kind: RequestKind<'a>,
    /// The host that the client names, with its port if there is one: as sent, not yet checked.
    pub authority: &'a str,
    /// The path of the request target, as sent.
    pub path: &'a str,
    /// The query of the request target, as sent.
    pub query: Option<&'a str>,
    /// The value of `Origin`.
    pub origin: Option<&'a [u8]>,
    /// All headers.
    pub headers: &'a HeaderMap,
    /// The offered subprotocols, one of which may carry the token.
    pub protocols: &'a [&'a str],
    /// The client's address.
    pub address: IpAddr,
    /// The scheme by which the client connects.
    pub scheme: Scheme,
    /// The id of the request, and of the session that it may become.
    pub id: SessionId,
}

impl<'a> RequestFacts<'a> {
    /// Returns the facts of an opening handshake.
    pub fn of_opening(opening: &'a Opening<'_>, headers: &'a HeaderMap, client: Client, id: SessionId) -> Self {
        Self {
            kind: RequestKind::WebSocket,
            authority: opening.authority,
            path: opening.path,
            query: opening.query,
            origin: opening.origin,
            headers,
            protocols: &opening.protocols,
            address: client.address,
            scheme: client.scheme,
            id,
        }
    }

    /// Whether it is a preflight request of a browser (Fetch standard, CORS protocol), which has no body. A browser adds no
    /// credential to it; one that it has is not looked at.
    pub fn is_preflight(&self) -> bool {
        matches!(self.kind, RequestKind::Http(method) if *method == Method::OPTIONS)
            && self.origin.is_some()
            && self.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD)
            && ![CONTENT_LENGTH, TRANSFER_ENCODING].iter().any(|name| self.headers.contains_key(name))
    }

    /// Returns the facts of an ordinary request; `None` if it does not have exactly one `Host` (RFC 9112 section 3.2),
    /// or has more than one `Origin` (RFC 6454 section 7.3).
    pub fn of_http(
        (method, uri): (&'a Method, &'a Uri),
        headers: &'a HeaderMap,
        client: Client,
        id: SessionId,
    ) -> Option<Self> {
        let at_most_once = |name| {
            let mut lines = headers.get_all(name).into_iter();
            let first = lines.next();
            lines.next().is_none().then_some(first)
        };
        let host = at_most_once(HOST)??.to_str().ok()?;
        Some(Self {
            kind: RequestKind::Http(method),
            // In absolute form the authority of the target replaces Host (RFC 9112 section 3.2.2).
            authority: uri.authority().map_or(host, |authority| authority.as_str()),
            path: uri.path(),
            query: uri.query(),
            origin: at_most_once(ORIGIN)?.map(http::HeaderValue::as_bytes),
            headers,
            protocols: &[],
            address: client.address,
            scheme: client.scheme,
            id,
        })
    }
}

/// Without headers, query and subprotocols, which may contain tokens.
impl fmt::Debug for RequestFacts<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestFacts")
            .field("kind", &self.kind)
            .field("authority", &self.authority)
            .field("path", &self.path)
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const CLIENT: Client = Client { address: IpAddr::V4(Ipv4Addr::LOCALHOST), scheme: Scheme::Https, endpoints: None };

    #[test]
    fn debug_contains_no_secret() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, "a.example".parse().unwrap());
        headers.insert("authorization", "Bearer secret".parse().unwrap());
        let uri: Uri = "/chat?token=secret".parse().unwrap();
        let facts = RequestFacts::of_http((&Method::GET, &uri), &headers, CLIENT, 1).unwrap();
        let facts = RequestFacts { protocols: &["secret"], ..facts };
        let text = format!("{facts:?}");
        assert!(text.contains("/chat") && text.contains("a.example") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn facts_of_an_ordinary_request() {
        let facts = |uri: &str, lines: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                headers.append(*name, value.parse().unwrap());
            }
            let uri: Uri = uri.parse().unwrap();
            RequestFacts::of_http((&Method::GET, &uri), &headers, CLIENT, 1)
                .map(|facts| (facts.authority.to_owned(), facts.path.to_owned(), facts.origin.map(<[u8]>::to_vec)))
        };
        let host = ("host", "a.example");
        assert_eq!(facts("/x?y", &[host]), Some(("a.example".into(), "/x".into(), None)));
        assert_eq!(facts("https://b.example/", &[host]), Some(("b.example".into(), "/".into(), None)));
        assert_eq!(
            facts("/", &[host, ("origin", "null")]),
            Some(("a.example".into(), "/".into(), Some(b"null".into())))
        );
        assert_eq!(facts("/", &[]), None);
        assert_eq!(facts("/", &[host, host]), None);
        assert_eq!(facts("/", &[host, ("origin", "null"), ("origin", "null")]), None);
    }
}
