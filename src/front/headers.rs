//! Filters the headers between client and upstream, and adds those that Tollgate writes.

use std::net::IpAddr;

use http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, COOKIE, EXPIRES, FORWARDED, HOST, ORIGIN,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, SERVER, SET_COOKIE, TE,
    TRAILER, UPGRADE, VARY, WWW_AUTHENTICATE,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::balance::{Balance, Pool};
use crate::policy::admission::Admission;
use crate::policy::claims::canonical_header_name;
use crate::policy::credential::{self, TokenSource};
use crate::policy::header_names::HeaderClass;
use crate::policy::request::RequestFacts;
use crate::policy::route::Route;
use crate::telemetry::trace_context::{TRACEPARENT, TRACESTATE, TraceContext};
use crate::ws::handshake;

/// Response headers that apply to the whole origin, beyond this connection. The origin is Tollgate's: an upstream does
/// not know what else is served there, nor how.
const ORIGIN_WIDE: [&str; 8] = [
    "alt-svc",
    "clear-site-data",
    "expect-ct",
    "nel",
    "public-key-pins",
    "public-key-pins-report-only",
    "report-to",
    "strict-transport-security",
];

/// The header with the id of a request: in the request to the upstream, and in the response to a rejected client.
pub const X_REQUEST_ID: &str = "x-request-id";

/// Values that Tollgate adds to each request to an upstream.
#[derive(Debug)]
pub struct OwnHeaders<'a> {
    /// The id of this request.
    pub request_id: &'a str,
    /// The trace context of this request.
    pub trace: TraceContext,
    /// The id of the request to the upstream within the trace; random.
    pub span_id: [u8; 8],
    /// The headers that the route sets. The client's are removed under each of their spellings.
    pub set: &'a [(HeaderName, HeaderValue)],
}

/// Values that Tollgate adds to an opening handshake with an upstream.
#[derive(Debug)]
pub struct UpstreamHeaders<'a> {
    /// Those of each request.
    pub of_tollgate: OwnHeaders<'a>,
    /// Our own `Sec-WebSocket-Key`.
    pub key: &'a str,
    /// The subprotocols of the client's offer that are passed on.
    pub protocols: &'a [&'a str],
    /// The extensions of the client's offer that are passed on.
    pub extensions: &'a [&'a str],
}

/// The parts of an admission that the headers depend on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Admitted<'a> {
    pub(super) route: &'a Route,
    pub(super) pool: &'a Pool,
    pub(super) claim_headers: &'a [(HeaderName, HeaderValue)],
    pub(super) stripped: &'a [TokenSource],
}

/// Returns the headers of the opening handshake with the upstream. The client's are filtered before Tollgate's are
/// added, so that a client cannot remove Tollgate's by naming them in `Connection`.
pub fn to_upstream(facts: &RequestFacts<'_>, admission: &Admission, added: &UpstreamHeaders<'_>) -> HeaderMap {
    let admitted = Admitted {
        route: admission.route(),
        pool: admission.pool(),
        claim_headers: admission.claim_headers(),
        stripped: admission.stripped(),
    };
    let mut headers = filtered(facts, &admitted);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
    insert(&mut headers, &SEC_WEBSOCKET_KEY, HeaderValue::from_str(added.key).ok());
    insert_list(&mut headers, &SEC_WEBSOCKET_PROTOCOL, added.protocols);
    insert_list(&mut headers, &SEC_WEBSOCKET_EXTENSIONS, added.extensions);
    add(&mut headers, facts, &admitted, &added.of_tollgate);
    headers
}

/// Returns the headers of an ordinary request to the upstream, filtered as those of an opening handshake.
pub(super) fn of_request(facts: &RequestFacts<'_>, admitted: &Admitted<'_>, added: &OwnHeaders<'_>) -> HeaderMap {
    let mut headers = filtered(facts, admitted);
    // These concern trailers, which are passed on (RFC 9110 sections 6.6.2 and 10.1.4).
    if handshake::tokens(facts.headers, &TE).any(|token| token.eq_ignore_ascii_case(b"trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
        headers.insert(CONNECTION, HeaderValue::from_static("TE"));
    }
    pass_trailer_names(facts.headers, &mut headers);
    add(&mut headers, facts, admitted, added);
    headers
}

fn pass_trailer_names(from: &HeaderMap, to: &mut HeaderMap) {
    for names in from.get_all(TRAILER) {
        to.append(TRAILER, names.clone());
    }
}

/// Returns the headers of a client that the upstream of its route may see.
fn filtered(facts: &RequestFacts<'_>, admitted: &Admitted<'_>) -> HeaderMap {
    let (route, config) = (admitted.route, &admitted.route.config);
    let mut headers = of_client(facts.headers, &config.pass_headers, &withheld(route, &of_claims(route)));
    credential::strip_headers(admitted.stripped, &mut headers);
    if let Balance::StickyCookie(cookie) = &admitted.pool.config().balance {
        credential::strip_headers(&[TokenSource::Cookie(cookie.name.clone())], &mut headers);
    }
    headers
}

/// Returns the canonical names of the headers that carry claims.
fn of_claims(route: &Route) -> Vec<String> {
    route.config.forward_claims.iter().map(|(_, header)| canonical_header_name(header)).collect()
}

/// Returns the canonical names of the headers that a client must not send on a route.
fn withheld<'a>(route: &'a Route, of_claims: &'a [String]) -> [&'a [String]; 3] {
    [of_claims, route.auth.written(), route.config.rewrite.withheld()]
}

/// Adds the headers that every request to an upstream has.
fn add(headers: &mut HeaderMap, facts: &RequestFacts<'_>, admitted: &Admitted<'_>, added: &OwnHeaders<'_>) {
    // An empty port means the default port and is omitted (RFC 3986 section 6.2.3).
    let authority = facts.authority.strip_suffix(':').unwrap_or(facts.authority);
    let host = admitted.route.config.upstream_host.clone().or_else(|| HeaderValue::from_str(authority).ok());
    insert(headers, &HOST, host);
    let address = facts.address.to_canonical();
    let scheme = facts.scheme.as_str();
    let forwarded = format!("for={};host={};proto={scheme}", forwarded_node(address), quoted(authority));
    insert(headers, &FORWARDED, HeaderValue::from_str(&forwarded).ok());
    let named = |name| HeaderName::from_static(name);
    insert(headers, &named("x-forwarded-for"), HeaderValue::from_str(&address.to_string()).ok());
    insert(headers, &named("x-forwarded-proto"), Some(HeaderValue::from_static(scheme)));
    insert(headers, &named("x-forwarded-host"), HeaderValue::from_str(authority).ok());
    insert(headers, &named(X_REQUEST_ID), HeaderValue::from_str(added.request_id).ok());
    insert(headers, &named(TRACEPARENT), HeaderValue::from_str(&added.trace.traceparent(added.span_id)).ok());
    let state = added.trace.tracestate(facts.headers);
    insert(headers, &named(TRACESTATE), state.and_then(|state| HeaderValue::from_str(&state).ok()));
    for (name, value) in admitted.claim_headers.iter().chain(added.set) {
        headers.append(name.clone(), value.clone());
    }
}

/// Removes the trailer fields of a client that an upstream could take for headers that it must not get from one.
pub(super) fn retain_trailers(route: &Route, trailers: &mut HeaderMap) {
    *trailers = of_client(trailers, &[], &withheld(route, &of_claims(route)));
    drop_head_fields(trailers);
}

/// Returns the trailer fields of an upstream that the client gets.
pub(super) fn trailers_to_client(upstream: &HeaderMap) -> HeaderMap {
    let mut trailers = to_client(upstream);
    drop_head_fields(&mut trailers);
    trailers
}

/// Removes the fields that must not be in trailers (RFC 9110 section 6.5.1): a recipient that merges trailers into the
/// head would take credentials, cookies and rules of caches from them that nobody has checked.
fn drop_head_fields(trailers: &mut HeaderMap) {
    const OF_HEAD: [HeaderName; 8] =
        [AUTHORIZATION, CACHE_CONTROL, COOKIE, EXPIRES, ORIGIN, SET_COOKIE, VARY, WWW_AUTHENTICATE];
    retain(trailers, |name| !OF_HEAD.contains(name) && !name.as_str().starts_with("content-"));
}

/// Returns the headers of a client that another server may see: none about its connection or the opening handshake, and
/// of those that a proxy usually sets only the ones in `pass`. Those with a canonical name in `withheld` are removed,
/// too.
pub(super) fn of_client(headers: &HeaderMap, pass: &[HeaderName], withheld: &[&[String]]) -> HeaderMap {
    let mut headers = end_to_end(headers);
    retain(&mut headers, |name| {
        let read = canonical_header_name(name);
        let passes = match HeaderClass::of(&read) {
            HeaderClass::Plain => true,
            HeaderClass::Trusted => pass.contains(name),
            HeaderClass::Written | HeaderClass::HopByHop => false,
        };
        passes && !withheld.iter().any(|names| names.contains(&read))
    });
    headers
}

/// Returns the headers of an upstream's 101 that the client gets. Tollgate writes those of the handshake itself.
pub fn to_client(upstream: &HeaderMap) -> HeaderMap {
    let mut headers = end_to_end(upstream);
    retain(&mut headers, |name| !name.as_str().starts_with("sec-websocket-") && !ORIGIN_WIDE.contains(&name.as_str()));
    // It would name the software behind Tollgate.
    headers.remove(SERVER);
    headers
}

/// Returns the headers of a response to an ordinary request that the client gets. `has_length` tells that the response
/// has no body and the length of another one: it answers `HEAD`, or is a 304 (RFC 9110 section 8.6).
pub(super) fn of_response(upstream: &HeaderMap, has_length: bool) -> HeaderMap {
    let mut headers = to_client(upstream);
    if let (true, Some(length)) = (has_length, upstream.get(CONTENT_LENGTH)) {
        headers.insert(CONTENT_LENGTH, length.clone());
    }
    pass_trailer_names(upstream, &mut headers);
    headers
}

/// Returns the headers of any other response of an upstream that the client gets. They include the protocols and
/// versions that the upstream would accept (RFC 9110 section 15.5.22 and RFC 6455 section 4.4).
pub fn to_refused_client(status: StatusCode, upstream: &HeaderMap) -> HeaderMap {
    let mut headers = to_client(upstream);
    for version in upstream.get_all(SEC_WEBSOCKET_VERSION) {
        headers.append(SEC_WEBSOCKET_VERSION, version.clone());
    }
    if status == StatusCode::UPGRADE_REQUIRED && upstream.contains_key(UPGRADE) {
        for protocols in upstream.get_all(UPGRADE) {
            headers.append(UPGRADE, protocols.clone());
        }
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
    headers
}

/// Returns the headers without those that concern only the connection over which they were received.
fn end_to_end(headers: &HeaderMap) -> HeaderMap {
    let mut kept = headers.clone();
    // One lookup per name, so that the cost is not the product of names and headers.
    for name in handshake::tokens(headers, &CONNECTION) {
        if let Ok(name) = HeaderName::from_bytes(name) {
            kept.remove(name);
        }
    }
    retain(&mut kept, |name| HeaderClass::of(&canonical_header_name(name)) != HeaderClass::HopByHop);
    kept
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

/// Formats a node. An IPv6 address is put in brackets and quotes (RFC 7239 section 6).
fn forwarded_node(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("\"[{address}]\""),
    }
}

/// Returns a quoted string (RFC 9110 section 5.6.4). A validated authority contains neither quotes nor backslashes.
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
    fn hop_by_hop_headers_are_removed() {
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
    fn a_response_keeps_cookies_but_not_handshake_headers() {
        let kept = to_client(&headers(&[
            ("connection", "upgrade"),
            ("sec-websocket-accept", "x"),
            ("sec-websocket-protocol", "x"),
            ("sec-websocket-version", "13"),
            ("set-cookie", "a=b"),
        ]));
        assert_eq!(kept, headers(&[("set-cookie", "a=b")]));
    }

    #[test]
    fn origin_wide_response_headers_are_removed() {
        let mut lines: Vec<_> = ORIGIN_WIDE.iter().map(|name| (*name, "x")).collect();
        lines.push(("set-cookie", "a=b"));
        for kept in [to_client(&headers(&lines)), to_refused_client(StatusCode::FORBIDDEN, &headers(&lines))] {
            assert_eq!(kept, headers(&[("set-cookie", "a=b")]));
        }
    }

    #[test]
    fn a_rejection_keeps_the_accepted_protocols_and_versions() {
        let upgrade_headers = headers(&[
            ("connection", "Upgrade, close, keep-alive, sec-websocket-version"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13, 8"),
            ("sec-websocket-accept", "x"),
            ("keep-alive", "5"),
            ("retry-after", "7"),
            ("www-authenticate", "Basic"),
            ("allow", "GET"),
            ("proxy-authenticate", "Basic"),
        ]);
        let always = [("retry-after", "7"), ("www-authenticate", "Basic"), ("allow", "GET")];
        let with = |more: &[(&'static str, &'static str)]| headers(&[&always, more].concat());
        let version = ("sec-websocket-version", "13, 8");
        assert_eq!(to_refused_client(StatusCode::BAD_REQUEST, &upgrade_headers), with(&[version]));
        let upgrade = [version, ("upgrade", "websocket"), ("connection", "Upgrade")];
        assert_eq!(to_refused_client(StatusCode::UPGRADE_REQUIRED, &upgrade_headers), with(&upgrade));
        let bare = to_refused_client(StatusCode::UPGRADE_REQUIRED, &headers(&[("retry-after", "7")]));
        assert_eq!(bare, headers(&[("retry-after", "7")]));
    }

    #[test]
    fn headers_named_in_connection_are_removed_in_any_case() {
        let kept = end_to_end(&headers(&[
            ("connection", "X-A,, x-b ,\t,X_C, not a name, upgrade"),
            ("connection", "x-d"),
            ("connection", "\"x-q, x-f, \\\", x-g\""),
            ("x-a", "1"),
            ("x-f", "1"),
            ("x-b", "1"),
            ("x-d", "1"),
            ("x-e", "1"),
        ]));
        assert_eq!(kept, headers(&[("x-e", "1")]));
    }

    #[test]
    fn ipv6_nodes_are_bracketed_and_quoted() {
        assert_eq!(forwarded_node("192.0.2.1".parse().unwrap()), "192.0.2.1");
        assert_eq!(forwarded_node("2001:db8::1".parse().unwrap()), "\"[2001:db8::1]\"");
    }
}
