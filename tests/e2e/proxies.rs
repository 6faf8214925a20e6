//! The address of the client behind balancers: PROXY headers and the headers of trusted proxies.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::plain_client_config;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Head;

/// All clients of the tests connect from 127.0.0.1, unless they say otherwise.
const FROM_BALANCER: &str = "proxy_protocol_from = [\"127.0.0.1\"]";
const TRUSTED: &str = "trusted_proxies = [\"127.0.0.1\", \"10.0.0.0/8\"]";

/// The warning about a header that must not be there.
pub const UNEXPECTED_HEADER: &str = "a PROXY header, but the peer is not in proxy_protocol_from, or it sent one before";

/// Returns a header of version 1.
fn v1(client: &str) -> Vec<u8> {
    let (family, own) = if client.contains(':') { ("TCP6", "2001:db8::1") } else { ("TCP4", "198.51.100.1") };
    format!("PROXY {family} {client} {own} 40000 443\r\n").into_bytes()
}

/// Returns a header of version 2 with this command, family and body.
fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let len = u16::try_from(body.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[command, family][..], &len, body].concat()
}

/// The addresses of 192.0.2.7 and of a balancer, in version 2.
const V4: [u8; 12] = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x01, 0xbb];

/// Checks the address in the headers that the upstream received, and in the log line of the session.
fn expect_client(gate: &Gate, session: Session, address: &str) {
    expect_forwarded(&session.asked, address, "https");
    session.close();
    assert_eq!(gate.log.next("session ended")["client"], address);
}

fn expect_forwarded(asked: &Head, address: &str, scheme: &str) {
    assert_eq!(asked.get("X-Forwarded-For"), Some(address));
    assert_eq!(asked.get("X-Forwarded-Proto"), Some(scheme));
    let node = if address.contains(':') { format!("\"[{address}]\"") } else { address.to_owned() };
    let forwarded = format!("for={node};host=\"chat.example.com\";proto={scheme}");
    assert_eq!(asked.get("Forwarded"), Some(forwarded.as_str()));
}

/// Sends bytes on a connection of its own, and checks that the proxy closes it with nothing but an alert. Returns the
/// log line.
fn expect_closed(gate: &Gate, bytes: &[u8]) -> Value {
    let mut stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(bytes).unwrap();
    let mut received = Vec::new();
    // Unread bytes make it a reset.
    let _ = stream.read_to_end(&mut received);
    assert!(received.is_empty(), "{received:?}");
    gate.log.next("connection closed: no valid PROXY header")
}

#[test]
fn a_proxy_header_of_either_version_names_the_client() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener(FROM_BALANCER).start(&upstream);
    let v6 = [&[0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7][..], &[0; 16], &[0, 1, 0, 2]].concat();
    let tlvs = [&V4[..], &[0x04, 0, 3, 0, 0, 0], &[0x02, 0, 1, b'a'], &[0xee, 0x03, 0xe8], &[0xff; 1000]].concat();
    for (header, address) in [
        (v1("192.0.2.7"), "192.0.2.7"),
        (v1("2001:db8::7"), "2001:db8::7"),
        (v1("::ffff:192.0.2.7"), "192.0.2.7"),
        (v2(0x21, 0x11, &V4), "192.0.2.7"),
        (v2(0x21, 0x21, &v6), "2001:db8::7"),
        (v2(0x21, 0x11, &tlvs), "192.0.2.7"),
        // Without a client, the peer's address stays.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (v2(0x20, 0x00, b""), "127.0.0.1"),
        (v2(0x20, 0x11, &V4), "127.0.0.1"),
        (v2(0x21, 0x00, b""), "127.0.0.1"),
        (v2(0x21, 0x31, &[b'x'; 216]), "127.0.0.1"),
    ] {
        let client = Client::connect_via(&gate, &header);
        expect_client(&gate, Session::open_over(client, &upstream, &Request::to("/open/"), &[]), address);
    }
}

#[test]
fn a_header_may_arrive_byte_by_byte() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener(FROM_BALANCER).start(&upstream);
    for header in [v1("192.0.2.7"), v2(0x21, 0x11, &V4)] {
        let mut stream = TcpStream::connect(gate.address()).unwrap();
        stream.set_nodelay(true).unwrap();
        for byte in header {
            stream.write_all(&[byte]).unwrap();
        }
        let client = Client::handshake(stream, plain_client_config(), "chat.example.com");
        expect_client(&gate, Session::open_over(client, &upstream, &Request::to("/open/"), &[]), "192.0.2.7");
    }
}

#[test]
fn a_balancer_without_a_valid_header_is_closed_and_logged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener(FROM_BALANCER).start(&upstream);
    let oversized = v2(0x21, 0x11, &[0; 5000]);
    for (bytes, error) in [
        (&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], "the connection does not begin with a PROXY header"),
        (b"GET / HTTP/1.1\r\n\r\n", "the connection does not begin with a PROXY header"),
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 99999 443\r\n", "a port in the PROXY header is not valid"),
        (&oversized[..16], "the PROXY header is too long"),
    ] {
        let line = expect_closed(&gate, bytes);
        assert_eq!((&line["client"], &line["error"]), (&"127.0.0.1".into(), &error.into()), "{line}");
        assert_eq!(line["listener"], gate.address().to_string(), "{line}");
    }
    upstream.assert_untouched();
    // A health check that only connects is not worth a warning.
    drop(TcpStream::connect(gate.address()).unwrap());
    let line = gate.log.next("closed without a PROXY header");
    assert_eq!(line["level"], "DEBUG");
}

#[test]
fn an_incomplete_header_is_closed_at_the_handshake_timeout() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener(FROM_BALANCER).listener("handshake_timeout = \"100ms\"").start(&upstream);
    for bytes in [&b""[..], b"PROXY TCP4 192.0.2.7"] {
        assert_eq!(expect_closed(&gate, bytes)["error"], "not in time");
    }
}

/// A client that could name itself would pass every rule about addresses.
#[test]
fn a_header_of_another_peer_is_refused() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("proxy_protocol_from = [\"127.0.0.2\"]").start(&upstream);
    for header in [v1("192.0.2.7"), v2(0x21, 0x11, &V4)] {
        let mut stream = TcpStream::connect(gate.address()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&header).unwrap();
        let mut received = Vec::new();
        let _ = stream.read_to_end(&mut received);
        // A TLS alert, if the client gets it before the reset.
        assert!(received.is_empty() || received[0] == 21, "{received:?}");
        let line = gate.log.next(UNEXPECTED_HEADER);
        assert_eq!((&line["level"], &line["client"]), (&"WARN".into(), &"127.0.0.1".into()), "{line}");
        assert_eq!(line["listener"], gate.address().to_string(), "{line}");
    }
    let mut stream = TcpStream::connect(gate.address()).unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    gate.log.next("TLS handshake failed");
    assert_eq!(gate.log.all(UNEXPECTED_HEADER).len(), 2);
    upstream.assert_untouched();
    expect_client(&gate, Session::open(&gate, &upstream), "127.0.0.1");
}

/// Of 32 permits, 16 may be held by connections whose header is missing.
#[test]
fn slow_headers_do_not_delay_other_connections() {
    let upstream = Upstream::bind();
    let listener = format!("{FROM_BALANCER}\nhandshake_timeout = \"5m\"");
    let gate = Setup::new().listener(&listener).start(&upstream);
    let slow: Vec<TcpStream> = (0..16).map(|_| TcpStream::connect(gate.address()).unwrap()).collect();
    let mut beyond = TcpStream::connect(gate.address()).unwrap();
    beyond.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(beyond.read(&mut [0]).unwrap(), 0, "too many connections wait for their header");
    gate.log.next("connection closed: too many connections wait for their handshake");
    for _ in 0..3 {
        let direct = Client::connect_from(&gate, [127, 0, 0, 2]);
        expect_client(&gate, Session::open_over(direct, &upstream, &Request::to("/open/"), &[]), "127.0.0.2");
    }
    // One of them sends its header after all.
    let mut first = slow.into_iter().next().unwrap();
    first.write_all(&v1("192.0.2.7")).unwrap();
    let client = Client::handshake(first, plain_client_config(), "chat.example.com");
    expect_client(&gate, Session::open_over(client, &upstream, &Request::to("/open/"), &[]), "192.0.2.7");
}

#[test]
fn handshakes_per_address_counts_the_address_of_the_header() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("handshakes_per_address = 2").listener(FROM_BALANCER).start(&upstream);
    let idle: Vec<Client> = (0..2).map(|_| Client::connect_via(&gate, &v1("192.0.2.7"))).collect();
    let mut waiting = TcpStream::connect(gate.address()).unwrap();
    waiting.write_all(&v1("192.0.2.7")).unwrap();
    for _ in 0..3 {
        let other = Client::connect_via(&gate, &v1("192.0.2.8"));
        expect_client(&gate, Session::open_over(other, &upstream, &Request::to("/open/"), &[]), "192.0.2.8");
    }
    drop(idle);
    let client = Client::handshake(waiting, plain_client_config(), "chat.example.com");
    expect_client(&gate, Session::open_over(client, &upstream, &Request::to("/open/"), &[]), "192.0.2.7");
}

#[test]
fn trusted_proxies_are_exempt_from_handshakes_per_address() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("handshakes_per_address = 2").listener(TRUSTED).start(&upstream);
    let idle: Vec<Client> = (0..8).map(|_| Client::connect(&gate)).collect();
    Session::open(&gate, &upstream).close();
    drop(idle);
}

fn with_headers(lines: &[&str]) -> Request {
    lines.iter().fold(Request::to("/open/"), |request, line| request.with(line))
}

#[test]
fn headers_of_an_untrusted_peer_are_ignored_and_removed() {
    let upstream = Upstream::bind();
    let spoofed = with_headers(&[
        "X-Forwarded-For: 192.0.2.7",
        "X-Forwarded-Proto: http",
        "Forwarded: for=192.0.2.7;proto=http",
        "X-Real-IP: 192.0.2.7",
    ]);
    for listener in ["", "trusted_proxies = [\"127.0.0.2\"]"] {
        let gate = Setup::new().listener(listener).start(&upstream);
        let session = Session::open_with(&gate, &upstream, &spoofed, &[]);
        assert_eq!(session.asked.get("X-Real-IP"), None);
        expect_client(&gate, session, "127.0.0.1");
    }
}

#[test]
fn a_trusted_proxy_names_the_client_at_the_right_of_what_the_client_wrote() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener(TRUSTED).start(&upstream);
    for (lines, address, scheme) in [
        (&["X-Forwarded-For: 192.0.2.7"][..], "192.0.2.7", "https"),
        (&["X-Forwarded-For: 192.0.2.7, 10.0.0.2"], "192.0.2.7", "https"),
        (&["X-Forwarded-For: 198.51.100.1, 127.0.0.1, 192.0.2.7, 10.0.0.2"], "192.0.2.7", "https"),
        (&["X-Forwarded-For: 198.51.100.1", "X-Forwarded-For: 192.0.2.7"], "192.0.2.7", "https"),
        (&["X-Forwarded-For: \"198.51.100.1, 2001:db8::7"], "2001:db8::7", "https"),
        (&["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: ws"], "192.0.2.7", "http"),
        (&["X-Forwarded-For: 192.0.2.7", "X-Forwarded-Proto: http, wss"], "192.0.2.7", "https"),
        (&["Forwarded: for=198.51.100.1, for=192.0.2.7;proto=http;by=10.0.0.1, for=10.0.0.2"], "192.0.2.7", "http"),
        (&["X-Forwarded-For: 192.0.2.7", "Forwarded: for=198.51.100.1;proto=http"], "192.0.2.7", "https"),
        (&["X-Forwarded-For: 192.0.2.7, unknown, 10.0.0.2"], "10.0.0.2", "https"),
        (&[], "127.0.0.1", "https"),
    ] {
        let session = Session::open_with(&gate, &upstream, &with_headers(lines), &[]);
        expect_forwarded(&session.asked, address, scheme);
        session.close();
        assert_eq!(gate.log.next("session ended")["client"], address, "{lines:?}");
    }
}

/// The header names a proxy that is trusted, which in turn names the client.
#[test]
fn the_address_of_the_proxy_header_is_the_peer_of_the_forwarded_headers() {
    let upstream = Upstream::bind();
    let listener = format!("{FROM_BALANCER}\ntrusted_proxies = [\"10.0.0.0/8\"]");
    let gate = Setup::new().listener(&listener).start(&upstream);
    let request = with_headers(&["X-Forwarded-For: 192.0.2.7"]);
    for (from, expected) in [("10.0.0.2", "192.0.2.7"), ("192.0.2.9", "192.0.2.9")] {
        let client = Client::connect_via(&gate, &v1(from));
        expect_client(&gate, Session::open_over(client, &upstream, &request, &[]), expected);
    }
}

#[test]
fn address_lists_and_limits_use_the_address_of_the_client() {
    let upstream = Upstream::bind();
    let setup = Setup::new().listener(TRUSTED).route("deny_addresses = [\"192.0.2.66\"]");
    let gate = setup.limits("sessions_per_address = 1").start(&upstream);
    let request = |address: &str| with_headers(&[&format!("X-Forwarded-For: {address}")]);
    let refused = |address: &str| {
        let answer = Client::connect(&gate).ask(&request(address));
        let line = gate.log.next("refused");
        assert_eq!(line["client"], address);
        answer.head.status()
    };
    assert_eq!(refused("192.0.2.66"), 403);
    let session = Session::open_with(&gate, &upstream, &request("192.0.2.7"), &[]);
    assert_eq!(refused("192.0.2.7"), 429);
    Session::open_with(&gate, &upstream, &request("192.0.2.8"), &[]).close();
    session.close();
}

#[test]
fn upgrade_rate_counts_the_address_of_the_client() {
    let upstream = Upstream::bind();
    let listener = format!("{FROM_BALANCER}\ntrusted_proxies = [\"10.0.0.0/8\"]");
    let gate = Setup::new().listener(&listener).server("upgrade_rate = \"2/h\"").start(&upstream);
    let status = |from: &str, lines: &[&str]| {
        let request = lines.iter().fold(Request::to("/elsewhere"), |request, line| request.with(line));
        Client::connect_via(&gate, &v1(from)).ask(&request).head.status()
    };
    // By the PROXY header, and by a header of a trusted proxy; the same client has one quota.
    assert_eq!(["192.0.2.7"; 3].map(|from| status(from, &[])), [404, 404, 429]);
    assert_eq!(status("10.0.0.2", &["X-Forwarded-For: 192.0.2.7"]), 429);
    assert_eq!(status("10.0.0.2", &["X-Forwarded-For: 192.0.2.7, 192.0.2.8"]), 404);
    assert_eq!(status("192.0.2.9", &["X-Forwarded-For: 192.0.2.7"]), 404);
}
