//! Finds the client of a request in `X-Forwarded-For` or `Forwarded` (RFC 7239), as trusted proxies wrote them.
//!
//! Each proxy appends the address that it saw, so only the right end of the list is trusted: from the right, the
//! addresses of trusted proxies are skipped, and the next one is the client. A client can write any text at the left.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use http::header::FORWARDED;
use http::{HeaderMap, HeaderValue};

use super::endpoints::Endpoints;
use super::peer::{Peer, PeerSet};

/// The maximum number of elements that are read, from the right: the proxies of a chain and the client.
pub const ELEMENTS_MAX: usize = 32;

const X_FORWARDED_FOR: &str = "x-forwarded-for";
const X_FORWARDED_PROTO: &str = "x-forwarded-proto";

/// The scheme by which a client connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scheme {
    /// Plain `http` or `ws`.
    Http,
    /// `https` or `wss`.
    Https,
}

impl Scheme {
    /// Returns the value of `X-Forwarded-Proto`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let is = |name: &str| text.eq_ignore_ascii_case(name.as_bytes());
        if is("https") || is("wss") {
            return Some(Self::Https);
        }
        (is("http") || is("ws")).then_some(Self::Http)
    }
}

/// The client of a request: the address under which it is judged, counted and logged, and its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Client {
    /// Its address, in canonical form.
    pub address: IpAddr,
    /// The scheme by which it connects.
    pub scheme: Scheme,
    /// The ends of its connection. `None` if it has no address or an unknown one, as over a Unix socket.
    pub endpoints: Option<Endpoints>,
}

impl Client {
    /// Returns the client of a request that `peer` sent over a connection of this scheme, with these ends. The headers
    /// count only if the peer is trusted.
    ///
    /// `X-Forwarded-For` counts if there is one, else `Forwarded`. The client is the last address that is not trusted,
    /// or the first one if all are. An element without an address, such as `unknown`, ends the search: the client is
    /// then the proxy that wrote it, whose own address is to its right. The scheme is that of the last
    /// `X-Forwarded-Proto`, or of the client's element in `Forwarded`.
    pub fn of_request(
        headers: &HeaderMap,
        (peer, endpoints): (Peer, Option<Endpoints>),
        trusted: &PeerSet,
        scheme: Scheme,
    ) -> Self {
        let own = Self { address: peer.address(), scheme, endpoints };
        if !trusted.contains(peer) {
            return own;
        }
        if headers.contains_key(X_FORWARDED_FOR) || !headers.contains_key(FORWARDED) {
            let nodes = elements(headers, X_FORWARDED_FOR).map(|text| (node(text), None));
            let found = last_untrusted(nodes, own, trusted);
            let proto = elements(headers, X_FORWARDED_PROTO).next().and_then(Scheme::parse);
            return Self { scheme: proto.unwrap_or(scheme), ..found };
        }
        last_untrusted(elements(headers, FORWARDED.as_str()).map(forwarded_element), own, trusted)
    }
}

/// Reads elements from the right up to the first one that is not of a trusted proxy. `own` is the client if there is
/// no element.
fn last_untrusted(
    elements: impl Iterator<Item = (Option<IpAddr>, Option<Scheme>)>,
    own: Client,
    trusted: &PeerSet,
) -> Client {
    let mut client = own;
    for (address, scheme) in elements.take(ELEMENTS_MAX) {
        let Some(address) = address else { break };
        let endpoints = Some(Endpoints::of_client(address, own.endpoints));
        client = Client { address, scheme: scheme.unwrap_or(own.scheme), endpoints };
        if !trusted.contains(Peer::Ip(address)) {
            break;
        }
    }
    client
}

/// Returns the elements of all lines of a header from the right, without empty ones (RFC 9110 section 5.6.1).
fn elements<'a>(headers: &'a HeaderMap, name: &'static str) -> impl Iterator<Item = &'a [u8]> {
    let lines = headers.get_all(name).iter().rev().map(HeaderValue::as_bytes);
    lines.flat_map(|line| FromRight { rest: Some(line), separator: b',' }).filter(|element| !element.is_empty())
}

/// The parts of a list from the right, trimmed. A separator in a quoted string does not count (RFC 9110 section 5.6.4).
///
/// Reading from the right, a quotation mark that a client wrote into the left of the list changes no part of a proxy.
struct FromRight<'a> {
    rest: Option<&'a [u8]>,
    separator: u8,
}

impl<'a> Iterator for FromRight<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let list = self.rest?;
        let mut quoted = false;
        let separates = |(at, byte): &(usize, &u8)| {
            if **byte == b'"' && !is_escaped(list, *at) {
                quoted = !quoted;
            }
            **byte == self.separator && !quoted
        };
        let separator = list.iter().enumerate().rev().find(separates).map(|(at, _)| at);
        self.rest = separator.and_then(|at| list.get(..at));
        let start = separator.map_or(0, |at| at.saturating_add(1));
        list.get(start..).map(<[u8]>::trim_ascii)
    }
}

/// Whether an odd number of backslashes precedes this position.
fn is_escaped(text: &[u8], at: usize) -> bool {
    let before = text.get(..at).unwrap_or_default();
    before.iter().rev().take_while(|byte| **byte == b'\\').count() % 2 == 1
}

/// Reads the parameters `for` and `proto` of an element of `Forwarded`. An element with two of one is malformed.
fn forwarded_element(element: &[u8]) -> (Option<IpAddr>, Option<Scheme>) {
    let value = |name: &str| {
        let mut found = FromRight { rest: Some(element), separator: b';' }.filter_map(|pair| {
            let equals = pair.iter().position(|byte| *byte == b'=')?;
            let (key, value) = (pair.get(..equals)?, pair.get(equals.saturating_add(1)..)?);
            key.eq_ignore_ascii_case(name.as_bytes()).then_some(value)
        });
        found.next().filter(|_| found.next().is_none()).map(unquoted)
    };
    (value("for").and_then(node), value("proto").and_then(Scheme::parse))
}

/// Removes the quotation marks of a quoted string. Neither an address nor a scheme needs an escape in it.
fn unquoted(value: &[u8]) -> &[u8] {
    value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value)
}

/// Parses an address, with or without a port: `192.0.2.7`, `192.0.2.7:80`, `2001:db8::7`, `[2001:db8::7]`,
/// `[2001:db8::7]:80`.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    let address = text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|node| node.ip()));
    address.or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests;
