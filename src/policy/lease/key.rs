//! The names of shared quotas in the store. A name contains no subject.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The number of bytes of a subject's hash in a name: two of 2^64 subjects share one.
const HASH_BYTES: usize = 16;

/// The quotas that nodes share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseKind {
    /// Requests of an address: `upgrades`.
    Upgrades,
    /// Messages from clients.
    Messages,
    /// Bytes from clients.
    ClientBytes,
    /// Bytes from the upstream.
    UpstreamBytes,
    /// Ordinary requests.
    Requests,
}

impl LeaseKind {
    fn letter(self) -> char {
        match self {
            Self::Upgrades => 'u',
            Self::Messages => 'm',
            Self::ClientBytes => 'c',
            Self::UpstreamBytes => 's',
            Self::Requests => 'r',
        }
    }
}

/// The client whose quota it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LeaseClient {
    /// The SHA-256 of its identity.
    Hash([u8; 32]),
    /// Its address, or the first one of its /64.
    Address(IpAddr),
}

/// Returns the beginning of the names of one kind of quotas: `q:m:chat:`. The quota of requests of an address belongs to
/// no route. The name of a route contains neither a colon nor a brace.
pub fn prefix(kind: LeaseKind, route: Option<&str>) -> Box<str> {
    format!("q:{}:{}:", kind.letter(), route.unwrap_or_default()).into()
}

/// Returns the name of a quota: the prefix, and the address or a part of the hash.
pub fn name(prefix: &str, client: &LeaseClient) -> String {
    match client {
        LeaseClient::Hash(hash) => {
            let part = hash.get(..HASH_BYTES).unwrap_or(hash);
            format!("{prefix}h{}", URL_SAFE_NO_PAD.encode(part))
        }
        LeaseClient::Address(address) => format!("{prefix}a{address}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_by_kind_route_and_client() {
        let hash = LeaseClient::Hash([7; 32]);
        let address = |text: &str| LeaseClient::Address(text.parse().unwrap());
        let table = [
            (LeaseKind::Upgrades, None, address("192.0.2.1"), "q:u::a192.0.2.1"),
            (LeaseKind::Messages, Some("chat"), hash, "q:m:chat:hBwcHBwcHBwcHBwcHBwcHBw"),
            (LeaseKind::ClientBytes, Some("chat"), hash, "q:c:chat:hBwcHBwcHBwcHBwcHBwcHBw"),
            (LeaseKind::UpstreamBytes, Some("chat"), address("2001:db8::"), "q:s:chat:a2001:db8::"),
            (LeaseKind::Requests, Some("feed"), hash, "q:r:feed:hBwcHBwcHBwcHBwcHBwcHBw"),
        ];
        for (kind, route, client, expected) in table {
            assert_eq!(name(&prefix(kind, route), &client), expected);
        }
    }
}
