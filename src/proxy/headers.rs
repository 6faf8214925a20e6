//! What of a client's headers an upstream sees, what of an upstream's answer a client sees, and what we add.

use std::net::IpAddr;

use http::header::{
    CONNECTION, CONTENT_LENGTH, FORWARDED, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, SEC_WEBSOCKET_EXTENSIONS,
    SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::policy::admission::Admission;
use crate::policy::claims::name_as_read;
use crate::policy::credential;
use crate::policy::route::{Auth, Route};
use crate::ws::handshake::{self, Opening};

/// Headers that concern one connection only (RFC 9110 section 7.6.1), beside those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, UPGRADE, TE, TRAILER, TRANSFER_ENCODING, CONTENT_LENGTH, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION];
/// The same, of names that have no constant. `HTTP2-Settings` would ask for another upgrade (RFC 9113 section 3.1).
const HOP_BY_HOP_NAMES: [&str; 3] = ["keep-alive", "proxy-connection", "http2-settings"];
/// What tells an upstream who a client is; a client's own word on it counts for nothing. Most of it is not told by us
/// either, but some upstreams believe it.
const TOLD_BY_US: [&str; 8] = [
    "host",
    "forwarded",
    "x-request-id",
    "x-real-ip",
    "x-client-ip",
    "true-client-ip",
    "x-cluster-client-ip",
    "cf-connecting-ip",
];
/// And everything that begins so.
const TOLD_BY_US_PREFIXES: [&str; 2] = ["x-forwarded-", "sec-websocket-"];

/// What an upstream is told of a request beside what the client sent.
#[derive(Debug)]
pub struct Via<'a> {
    /// The client's address.
    pub address: IpAddr,
    /// The id of this request.
    pub request_id: &'a str,
    /// Our own `Sec-WebSocket-Key`.
    pub key: &'a str,
    /// The subprotocols that are left of the client's offer.
    pub protocols: &'a [&'a str],
    /// The extensions that are left of the client's offer.
    pub extensions: &'a [&'a str],
}

/// The headers of the request to the upstream, written anew: first the client's are thinned out, then ours are added,
/// so that nothing a client names in `Connection` can take away what we say.
pub fn to_upstream(client: &HeaderMap, opening: &Opening<'_>, admission: &Admission, via: &Via<'_>) -> HeaderMap {
    let route = admission.route();
    let mut headers = end_to_end(client);
    if let Auth::Token(verifier) = &route.auth {
        credential::strip_headers(&verifier.sources, &mut headers);
    }
    retain(&mut headers, |name| !is_told_by_us(name, route));

    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
    let host = route.upstream_host.clone().or_else(|| HeaderValue::from_str(opening.authority).ok());
    insert(&mut headers, &HOST, host);
    insert(&mut headers, &SEC_WEBSOCKET_KEY, HeaderValue::from_str(via.key).ok());
    insert_list(&mut headers, &SEC_WEBSOCKET_PROTOCOL, via.protocols);
    insert_list(&mut headers, &SEC_WEBSOCKET_EXTENSIONS, via.extensions);

    let address = via.address.to_canonical();
    let forwarded = format!("for={};host={};proto=https", forwarded_node(address), quoted(opening.authority));
    insert(&mut headers, &FORWARDED, HeaderValue::from_str(&forwarded).ok());
    let named = |name| HeaderName::from_static(name);
    insert(&mut headers, &named("x-forwarded-for"), HeaderValue::from_str(&address.to_string()).ok());
    insert(&mut headers, &named("x-forwarded-proto"), Some(HeaderValue::from_static("https")));
    insert(&mut headers, &named("x-forwarded-host"), HeaderValue::from_str(opening.authority).ok());
    insert(&mut headers, &named("x-request-id"), HeaderValue::from_str(via.request_id).ok());
    for (name, value) in admission.claim_headers() {
        headers.insert(name.clone(), value.clone());
    }
    headers
}

/// The headers of an upstream's answer that are for the client. The handshake's own are written by us.
pub fn to_client(upstream: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(upstream);
    retain(&mut headers, |name| !name.as_str().starts_with("sec-websocket-"));
    headers
}

/// Without what concerns only the connection that it came over.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let named: Vec<String> = headers
        .get_all(CONNECTION)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(|name| name.trim().to_ascii_lowercase())
        .collect();
    let mut kept = headers.clone();
    retain(&mut kept, |name| {
        !HOP_BY_HOP.contains(name)
            && !HOP_BY_HOP_NAMES.contains(&name.as_str())
            && !named.iter().any(|named| named == name.as_str())
    });
    kept
}

/// A name is judged as an upstream may read it.
fn is_told_by_us(name: &HeaderName, route: &Route) -> bool {
    let read = name_as_read(name);
    TOLD_BY_US.contains(&read.as_str())
        || TOLD_BY_US_PREFIXES.iter().any(|prefix| read.starts_with(prefix))
        || route.forward_claims.iter().any(|(_, claim)| name_as_read(claim) == read)
}

fn retain(headers: &mut HeaderMap, keep: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = headers.keys().filter(|name| !keep(name)).cloned().collect();
    for name in dropped {
        headers.remove(name);
    }
}

fn insert(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    if let Some(value) = value {
        headers.insert(name.clone(), value);
    }
}

fn insert_list(headers: &mut HeaderMap, name: &HeaderName, items: &[&str]) {
    if !items.is_empty() {
        insert(headers, name, HeaderValue::from_str(&items.join(", ")).ok());
    }
}

/// RFC 7239 section 6: an IPv6 address stands in brackets and quotes.
fn forwarded_node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// A quoted string (RFC 9110 section 5.6.4). A checked authority holds neither quotes nor backslashes.
fn quoted(authority: &str) -> String {
    format!("\"{authority}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn hop_by_hop_headers_go_no_further() {
        let kept = end_to_end(&headers(&[
            ("connection", "upgrade, X-Named"),
            ("upgrade", "websocket"),
            ("x-named", "1"),
            ("te", "trailers"),
            ("keep-alive", "5"),
            ("http2-settings", "x"),
            ("cookie", "a=b"),
            ("content-length", "0"),
        ]));
        assert_eq!(kept, headers(&[("cookie", "a=b")]));
    }

    #[test]
    fn an_answer_keeps_cookies_but_not_its_handshake() {
        let kept = to_client(&headers(&[
            ("connection", "upgrade"),
            ("sec-websocket-accept", "x"),
            ("sec-websocket-protocol", "x"),
            ("set-cookie", "a=b"),
        ]));
        assert_eq!(kept, headers(&[("set-cookie", "a=b")]));
    }

    #[test]
    fn nodes() {
        assert_eq!(forwarded_node("192.0.2.1".parse().unwrap()), "192.0.2.1");
        assert_eq!(forwarded_node("2001:db8::1".parse().unwrap()), "\"[2001:db8::1]\"");
    }
}
