//! Tables of headers and the clients found in them.

use super::*;

fn trusted() -> PeerSet {
    PeerSet::new(vec!["10.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()], true)
}

fn client(peer: Peer, lines: &[(&'static str, &str)]) -> (String, &'static str) {
    let mut headers = HeaderMap::new();
    for (name, value) in lines {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    let Client { address, scheme, .. } = Client::of_request(&headers, (peer, None), &trusted(), Scheme::Http);
    (address.to_string(), scheme.as_str())
}

/// Returns the client of a request from a trusted proxy.
fn address(lines: &[(&'static str, &str)]) -> String {
    client(peer("10.0.0.1"), lines).0
}

fn peer(address: &str) -> Peer {
    Peer::of_address(address.parse().unwrap())
}

#[test]
fn an_untrusted_peer_is_the_client_whatever_it_sends() {
    let lines = [
        ("x-forwarded-for", "203.0.113.9, 10.0.0.2"),
        ("forwarded", "for=203.0.113.9;proto=https"),
        ("x-forwarded-proto", "https"),
    ];
    assert_eq!(client(peer("192.0.2.1"), &lines), ("192.0.2.1".to_owned(), "http"));
    assert_eq!(client(peer("::ffff:192.0.2.1"), &lines), ("192.0.2.1".to_owned(), "http"));
}

#[test]
fn a_trusted_peer_without_headers_is_the_client() {
    assert_eq!(client(peer("10.0.0.1"), &[]), ("10.0.0.1".to_owned(), "http"));
    assert_eq!(client(Peer::Unix, &[]), ("127.0.0.1".to_owned(), "http"));
}

#[test]
fn the_last_address_that_is_not_trusted_is_the_client() {
    for (list, expected) in [
        ("203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("203.0.113.9,10.0.0.2 ,\t10.0.0.3", "203.0.113.9"),
        // The left is the client's own text.
        ("198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.9, 203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("garbage, \"quoted, 203.0.113.9", "203.0.113.9"),
        ("127.0.0.1, ::1, 203.0.113.9, fd00::2", "203.0.113.9"),
        // All of them are trusted: the first proxy is the client.
        ("10.0.0.3, 10.0.0.2", "10.0.0.3"),
        // Empty elements are ignored.
        (", ,203.0.113.9, ,", "203.0.113.9"),
        ("", "10.0.0.1"),
        // Forms of addresses.
        ("203.0.113.9:4711", "203.0.113.9"),
        ("2001:db8::7", "2001:db8::7"),
        ("[2001:db8::7]", "2001:db8::7"),
        ("[2001:db8::7]:4711", "2001:db8::7"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, ::ffff:10.0.0.2", "203.0.113.9"),
    ] {
        assert_eq!(address(&[("x-forwarded-for", list)]), expected, "{list}");
        assert_eq!(client(Peer::Unix, &[("x-forwarded-for", list)]).0, expected.replace("10.0.0.1", "127.0.0.1"));
    }
}

#[test]
fn an_element_without_an_address_ends_the_search_at_the_proxy_that_wrote_it() {
    for (list, expected) in [
        ("203.0.113.9, unknown", "10.0.0.1"),
        ("203.0.113.9, unknown, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9, 300.1.2.3", "10.0.0.1"),
        ("203.0.113.9, unix:, 10.0.0.2", "10.0.0.2"),
        ("203.0.113.9, 1.2.3.4 5.6.7.8", "10.0.0.1"),
        ("203.0.113.9, _hidden", "10.0.0.1"),
        ("203.0.113.9, 203.0.113.8:", "10.0.0.1"),
        ("203.0.113.9, [::1", "10.0.0.1"),
        ("203.0.113.9, é", "10.0.0.1"),
    ] {
        assert_eq!(address(&[("x-forwarded-for", list)]), expected, "{list}");
    }
}

#[test]
fn several_lines_are_one_list() {
    let lines =
        [("x-forwarded-for", "198.51.100.1"), ("x-forwarded-for", "203.0.113.9"), ("x-forwarded-for", "10.0.0.2")];
    assert_eq!(address(&lines), "203.0.113.9");
}

#[test]
fn a_bounded_number_of_elements_is_read() {
    let chain = |proxies: usize| format!("203.0.113.9{}", ", 10.0.0.2".repeat(proxies));
    assert_eq!(address(&[("x-forwarded-for", &chain(ELEMENTS_MAX - 1))]), "203.0.113.9");
    assert_eq!(address(&[("x-forwarded-for", &chain(ELEMENTS_MAX))]), "10.0.0.2");
}

#[test]
fn forwarded_counts_without_x_forwarded_for() {
    for (list, expected) in [
        ("for=203.0.113.9", "203.0.113.9"),
        ("For=203.0.113.9;Proto=https;by=10.0.0.1", "203.0.113.9"),
        ("by=10.0.0.1; for=203.0.113.9 ;host=a.example", "203.0.113.9"),
        ("for=\"203.0.113.9:4711\"", "203.0.113.9"),
        ("for=\"[2001:db8::7]\"", "2001:db8::7"),
        ("for=\"[2001:db8::7]:4711\"", "2001:db8::7"),
        ("for=198.51.100.1, for=203.0.113.9, for=10.0.0.2", "203.0.113.9"),
        // A quotation mark of the client changes no element of a proxy.
        ("for=\", for=203.0.113.9", "203.0.113.9"),
        ("for=\"198.51.100.1, for=\"[2001:db8::7]\"", "2001:db8::7"),
        ("for=198.51.100.1\\, for=203.0.113.9", "203.0.113.9"),
        ("\"for=198.51.100.1, for=203.0.113.9;host=\"a\\\", for=198.51.100.2\"", "203.0.113.9"),
        // Malformed, hidden and without `for`.
        ("for=203.0.113.9, for=unknown", "10.0.0.1"),
        ("for=203.0.113.9, for=_hidden, for=10.0.0.2", "10.0.0.2"),
        ("for=203.0.113.9, proto=https", "10.0.0.1"),
        ("for=203.0.113.9, for=203.0.113.8;for=203.0.113.7", "10.0.0.1"),
        ("for=203.0.113.9, for=", "10.0.0.1"),
    ] {
        assert_eq!(address(&[("forwarded", list)]), expected, "{list}");
        let both = [("forwarded", list), ("x-forwarded-for", "203.0.113.50")];
        assert_eq!(address(&both), "203.0.113.50", "X-Forwarded-For comes first: {list}");
    }
}

#[test]
fn the_scheme_is_that_of_the_last_trusted_proxy() {
    for (proto, expected) in [
        ("https", "https"),
        ("HTTPS", "https"),
        ("wss", "https"),
        ("http", "http"),
        ("ws", "http"),
        ("http, https", "https"),
        ("https,http", "http"),
        ("ftp", "http"),
        ("", "http"),
    ] {
        let lines = [("x-forwarded-for", "203.0.113.9"), ("x-forwarded-proto", proto)];
        assert_eq!(client(peer("10.0.0.1"), &lines).1, expected, "{proto}");
        assert_eq!(client(peer("10.0.0.1"), &lines[1..]).1, expected, "{proto} alone");
    }
    let forwarded = |list: &str| client(peer("10.0.0.1"), &[("forwarded", list), ("x-forwarded-proto", "https")]).1;
    assert_eq!(forwarded("for=203.0.113.9;proto=wss, for=10.0.0.2;proto=http"), "https");
    assert_eq!(forwarded("for=203.0.113.9"), "http", "the client may have written X-Forwarded-Proto");
}

#[test]
fn the_ends_of_the_connection_are_those_of_the_client_that_was_found() {
    let ends =
        |source: &str, destination: &str| Some(Endpoints::new(source.parse().unwrap(), destination.parse().unwrap()));
    let find = |peer: Peer, own, forwarded: &str| {
        let mut headers = HeaderMap::new();
        if !forwarded.is_empty() {
            headers.insert("x-forwarded-for", forwarded.parse().unwrap());
        }
        Client::of_request(&headers, (peer, own), &trusted(), Scheme::Http).endpoints
    };
    let own = ends("10.0.0.1:1234", "10.0.0.2:443");
    assert_eq!(find(peer("10.0.0.1"), own, ""), own);
    assert_eq!(find(peer("10.0.0.1"), own, "unknown"), own);
    assert_eq!(find(peer("10.0.0.1"), own, "192.0.2.7"), ends("192.0.2.7:0", "10.0.0.2:443"));
    assert_eq!(find(peer("10.0.0.1"), own, "2001:db8::7"), ends("[2001:db8::7]:0", "10.0.0.2:443"));
    let other = ends("192.0.2.1:1234", "10.0.0.2:443");
    assert_eq!(find(peer("192.0.2.1"), other, "192.0.2.7"), other);
    // Over a Unix socket the client is known only if the proxy names it, even as the address of such clients.
    assert_eq!(find(Peer::Unix, None, ""), None);
    assert_eq!(find(Peer::Unix, None, "unknown"), None);
    assert_eq!(find(Peer::Unix, None, "127.0.0.1"), ends("127.0.0.1:0", "0.0.0.0:0"));
    assert_eq!(find(Peer::Unix, None, "192.0.2.7"), ends("192.0.2.7:0", "0.0.0.0:0"));
}
