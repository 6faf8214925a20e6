//! The properties of the two ways in which a balancer names the client.

use std::net::IpAddr;

use http::{HeaderMap, HeaderValue};
use tollgate::policy::endpoints;
use tollgate::policy::forwarded::{Client, Scheme};
use tollgate::policy::peer::{Peer, PeerSet};
use tollgate::policy::proxy_header::{HEADER_MAX_BYTES, ProxyHeader};

/// Checks the header of the PROXY protocol: its result does not depend on how many bytes are received at once.
pub fn proxy_header(data: &[u8]) {
    let longer = [data, b"\x16\x03\x01"].concat();
    match ProxyHeader::parse(data) {
        Ok(None) => {
            assert!(data.len() < HEADER_MAX_BYTES);
            all_incomplete(data);
        }
        Ok(Some(header)) => {
            assert!(header.len <= data.len() && header.len <= HEADER_MAX_BYTES && header.len >= 15);
            assert_eq!(ProxyHeader::parse(&data[..header.len]), Ok(Some(header)));
            assert_eq!(ProxyHeader::parse(&longer), Ok(Some(header)));
            all_incomplete(&data[..header.len - 1]);
            let written = endpoints::proxy_header(header.endpoints);
            let same = ProxyHeader { len: written.len(), endpoints: header.endpoints };
            assert_eq!(ProxyHeader::parse(&written), Ok(Some(same)));
        }
        Err(error) => assert_eq!(ProxyHeader::parse(&longer), Err(error)),
    }
}

/// Every start of an incomplete header is incomplete, too.
fn all_incomplete(data: &[u8]) {
    for end in [0, 1, 6, 12, 16, data.len() / 2, data.len().saturating_sub(1), data.len()] {
        assert_eq!(ProxyHeader::parse(&data[..end.min(data.len())]), Ok(None), "{end}");
    }
}

/// Checks that a client cannot write anything into the headers of a trusted proxy that hides or replaces its address.
pub fn forwarded(data: &[u8]) {
    let trusted = PeerSet::new(vec!["10.0.0.0/8".parse().unwrap()], false);
    let client = |name: &'static str, lines: &[&[u8]]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(name, HeaderValue::from_bytes(line).ok()?);
        }
        let peer = Peer::of_address("10.0.0.1".parse().unwrap());
        Some(Client::of_request(&headers, (peer, None), &trusted, Scheme::Http).address)
    };
    for (address, node) in [("203.0.113.9", "203.0.113.9"), ("2001:db8::7", "\"[2001:db8::7]:4711\"")] {
        let expected: IpAddr = address.parse().unwrap();
        for proxies in ["", ", 10.0.0.2", " ,10.0.0.2 , , 10.0.0.3"] {
            let element = format!("{address}{proxies}");
            let one_line = client("x-forwarded-for", &[&[data, b",", element.as_bytes()].concat()]);
            assert!(one_line.is_none_or(|found| found == expected), "{one_line:?}");
            let two_lines = client("x-forwarded-for", &[data, element.as_bytes()]);
            assert!(two_lines.is_none_or(|found| found == expected), "{two_lines:?}");

            let element = format!("For={node};host=\"a\\\", b\";proto=https{}", proxies.replace("10", "for=10"));
            let forwarded = client("forwarded", &[&[data, b", ", element.as_bytes()].concat()]);
            assert!(forwarded.is_none_or(|found| found == expected), "{forwarded:?}");
        }
    }
}
