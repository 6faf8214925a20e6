//! Servers that expect a PROXY header: the header names the client as Tollgate knows it.

use std::net::{Ipv6Addr, SocketAddr, TcpStream};

use crate::support::gate::Gate;
use crate::support::pki::plain_client_config;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

const ON: &str = "proxy_protocol = true";

/// A header as the server reads it.
#[derive(Debug, PartialEq)]
enum Header {
    Tcp { source: SocketAddr, destination: SocketAddr, family: u8 },
    Local,
}

/// Reads a header byte by byte, as `doc/proxy-protocol.txt` section 2.2 of HAProxy describes it.
fn parse(bytes: &[u8]) -> Header {
    let mut bytes = bytes.iter().copied();
    let mut take = |n: usize| bytes.by_ref().take(n).collect::<Vec<u8>>();
    assert_eq!(take(12), [0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a]);
    let (command, family) = (take(1)[0], take(1)[0]);
    let len = take(2);
    let len = usize::from(len[0]) << 8 | usize::from(len[1]);
    let address = |bytes: Vec<u8>| match <[u8; 4]>::try_from(bytes.as_slice()) {
        Ok(v4) => v4.into(),
        Err(_) => <[u8; 16]>::try_from(bytes.as_slice()).unwrap().into(),
    };
    // Version 2 with the commands LOCAL and PROXY, and TCP over IPv4 and IPv6.
    let size = match (command, family, len) {
        (0x20, 0x00, 0) => return Header::Local,
        (0x21, 0x11, 12) => 4,
        (0x21, 0x21, 36) => 16,
        other => panic!("{other:?}"),
    };
    let [source, destination] = [(); 2].map(|()| address(take(size)));
    let [source_port, destination_port] = [(); 2].map(|()| {
        let port = take(2);
        u16::from(port[0]) << 8 | u16::from(port[1])
    });
    assert!(take(1).is_empty(), "no byte follows");
    let (source, destination) = (SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port));
    Header::Tcp { source, destination, family }
}

fn tcp(source: &str, destination: &str, family: u8) -> Header {
    Header::Tcp { source: source.parse().unwrap(), destination: destination.parse().unwrap(), family }
}

/// Opens a session, passes a message each way, and returns the header.
fn header_of(mut client: Client, upstream: &Upstream, request: &Request) -> Header {
    client.send(&request.bytes());
    let (header, mut server) = upstream.accept_proxied();
    let asked = server.open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101, "{answer:?}");
    let mut session = Session { client, server, asked, answer };
    session.echo("hello");
    session.close();
    parse(&header)
}

fn open() -> Request {
    Request::to("/open/")
}

/// Connects, and returns the client with the ends of its connection.
fn connect(gate: &Gate) -> (Client, String, String) {
    let stream = TcpStream::connect(gate.address()).unwrap();
    let ends = (stream.local_addr().unwrap().to_string(), stream.peer_addr().unwrap().to_string());
    (Client::handshake(stream, plain_client_config(), "chat.example.com"), ends.0, ends.1)
}

#[test]
fn the_header_has_both_ends_of_the_clients_connection() {
    let upstream = Upstream::bind();
    for (listener, family) in [("address = \"127.0.0.1:0\"", 0x11), ("address = \"[::1]:0\"", 0x21)] {
        let gate = Setup::new().upstream(ON).listener(listener).start(&upstream);
        let (client, source, destination) = connect(&gate);
        assert_eq!(header_of(client, &upstream, &open()), tcp(&source, &destination, family));
    }
}

#[test]
fn the_destination_is_the_address_that_the_client_connected_to() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().upstream(ON).listener("address = \"0.0.0.0:0\"").start(&upstream);
    let port = gate.address().port();
    gate.set_address(&serde_json::json!({ "address": format!("127.0.0.9:{port}") }));
    let (client, source, destination) = connect(&gate);
    assert_eq!(destination, format!("127.0.0.9:{port}"));
    assert_eq!(header_of(client, &upstream, &open()), tcp(&source, &destination, 0x11));
}

#[test]
fn a_header_from_a_balancer_is_passed_on() {
    let upstream = Upstream::bind();
    let listener = "proxy_protocol_from = [\"127.0.0.1\"]\ntrusted_proxies = [\"10.0.0.0/8\"]";
    let gate = Setup::new().upstream(ON).listener(listener).start(&upstream);
    let via = |line: &str| Client::connect_via(&gate, format!("PROXY {line}\r\n").as_bytes());
    for (line, expected) in [
        ("TCP4 192.0.2.7 198.51.100.1 40000 443", tcp("192.0.2.7:40000", "198.51.100.1:443", 0x11)),
        ("TCP6 2001:db8::7 2001:db8::1 40000 443", tcp("[2001:db8::7]:40000", "[2001:db8::1]:443", 0x21)),
        ("TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.1 40000 443", tcp("192.0.2.7:40000", "198.51.100.1:443", 0x11)),
    ] {
        assert_eq!(header_of(via(line), &upstream, &open()), expected, "{line}");
    }
    // A balancer that connects for itself.
    let client = via("UNKNOWN");
    let (source, destination) = (client.stream.sock.local_addr().unwrap(), gate.address());
    assert_eq!(header_of(client, &upstream, &open()), Header::Tcp { source, destination, family: 0x11 });
}

#[test]
fn a_client_that_a_trusted_proxy_names_has_no_port() {
    let upstream = Upstream::bind();
    let gate = Setup::new().upstream(ON).listener("trusted_proxies = [\"127.0.0.1\"]").start(&upstream);
    let own = gate.address().to_string();
    let mapped: Ipv6Addr = "::ffff:127.0.0.1".parse().unwrap();
    let mixed = SocketAddr::new(mapped.into(), gate.address().port()).to_string();
    for (address, expected) in [
        ("192.0.2.7", tcp("192.0.2.7:0", &own, 0x11)),
        // The families are mixed, so the IPv4 address is mapped.
        ("2001:db8::7", tcp("[2001:db8::7]:0", &mixed, 0x21)),
    ] {
        let request = open().with(&format!("X-Forwarded-For: {address}"));
        assert_eq!(header_of(Client::connect(&gate), &upstream, &request), expected);
    }
    // An untrusted client cannot name another.
    let gate = Setup::new().upstream(ON).start(&upstream);
    let (client, source, destination) = connect(&gate);
    let request = open().with("X-Forwarded-For: 192.0.2.7");
    assert_eq!(header_of(client, &upstream, &request), tcp(&source, &destination, 0x11));
}

#[test]
fn no_header_is_sent_without_the_key() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    Session::open(&gate, &upstream).close();
}

/// The keys for headers, paths and PROXY headers do not affect each other.
#[test]
fn the_header_precedes_a_rewritten_request() {
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .upstream("proxy_protocol = true\ntitle_case_headers = true\npath = \"/base\"")
        .route("upstream_host = \"chat.internal\"\nset_headers = { X-Region = \"eu\" }\nreplace_path = \"/x\"")
        .start(&upstream);
    let (mut client, source, destination) = connect(&gate);
    client.send(&Request::to("/open/a?b=c").bytes());
    let (header, mut server) = upstream.accept_proxied();
    assert_eq!(parse(&header), tcp(&source, &destination, 0x11));
    let text = server.head_text();
    assert!(text.starts_with("GET /base/x?b=c HTTP/1.1\r\n"), "{text}");
    for line in ["\r\nHost: chat.internal\r\n", "\r\nX-Region: eu\r\n"] {
        assert!(text.contains(line), "{text}");
    }
}
