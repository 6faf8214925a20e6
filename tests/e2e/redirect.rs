//! A plain listener that redirects to https. The interop suite `acme` has the challenges that it answers.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::request::Request;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Peer;

/// Routes of one host, and of the subdomains of another.
const HOSTS: &str = "host = \"chat.example.com\"";
const WIDE: &str =
    "[[route]]\nname = \"wide\"\nhost = \"*.example.net\"\npath = \"/\"\nupstream = \"main\"\nauth = \"none\"\n";
const PLAIN: &str = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = false\nredirect = \"https\"\n";

/// Sends a request. Returns the status and the header `Location`, after the connection was closed.
fn ask(gate: &Gate, request: &Request) -> (u16, Option<String>) {
    let stream = TcpStream::connect(gate.address()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut client = Peer::new(stream, true);
    client.send(&request.bytes());
    let head = client.head();
    client.rest();
    (head.status(), head.get("Location").map(str::to_owned))
}

fn request(line: &str, host: &str) -> Request {
    Request::to("/")
        .without("Upgrade")
        .without("Connection")
        .without("Sec-WebSocket-Version")
        .without("Sec-WebSocket-Key")
        .first_line(&format!("{line} HTTP/1.1"))
        .replacing(&format!("Host: {host}"))
}

#[test]
fn every_request_is_redirected_to_the_same_target_on_a_host_of_a_route() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().route(HOSTS).more(&format!("{WIDE}{PLAIN}")).start(&upstream);
    let port = gate.address().port();
    gate.go_to_next_listener();
    let to = |host: &str, target: &str| Some(format!("https://{host}:{port}{target}"));
    for (line, host, expected) in [
        ("GET /", "chat.example.com", (301, to("chat.example.com", "/"))),
        ("HEAD /a%20b/?c=d&e", "Chat.Example.com:80", (301, to("chat.example.com", "/a%20b/?c=d&e"))),
        ("POST /x", "a.b.example.net", (308, to("a.b.example.net", "/x"))),
        ("DELETE /x", "chat.example.com.", (308, to("chat.example.com", "/x"))),
        ("GET http://chat.example.com/y", "other.example", (301, to("chat.example.com", "/y"))),
        ("GET //evil.example/%2e%2e", "chat.example.com", (301, to("chat.example.com", "//evil.example/%2e%2e"))),
        (
            "GET /.well-known/acme-challenge/x",
            "chat.example.com",
            (301, to("chat.example.com", "/.well-known/acme-challenge/x")),
        ),
        ("GET /", "evil.example", (421, None)),
        ("GET /", "example.net", (421, None)),
        ("GET /", "chat.example.com@evil.example", (400, None)),
        ("GET /", "chat.example.com/x", (400, None)),
        ("GET /", "chat.example.com\r\nHost: chat.example.com", (400, None)),
        ("OPTIONS *", "chat.example.com", (400, None)),
    ] {
        assert_eq!(ask(&gate, &request(line, host)), expected, "{line} {host:?}");
        if expected.1.is_none() {
            let refused = gate.log.next("refused");
            let cause = match (expected.0, line) {
                (421, _) => "misdirected",
                (_, "OPTIONS *") => "framing",
                _ => "host",
            };
            assert_eq!((&refused["status"], &refused["cause"]), (&json!(expected.0), &json!(cause)), "{line} {host:?}");
            continue;
        }
        let logged = gate.log.next("redirect");
        assert_eq!(
            (&logged["status"], logged["method"].as_str()),
            (&json!(expected.0), line.split(' ').next()),
            "{line}"
        );
        if line.starts_with("HEAD") {
            assert_eq!((&logged["host"], &logged["path"]), (&json!("Chat.Example.com:80"), &json!("/a%20b/")));
        }
    }
    // An opening handshake is never served without TLS.
    let upgrade = Request::to("/open/").replacing("Host: chat.example.com");
    assert_eq!(ask(&gate, &upgrade), (301, to("chat.example.com", "/open/")));
}

#[test]
fn a_redirect_counts_in_upgrade_rate_and_has_no_port_without_a_listener_with_tls() {
    let upstream = Upstream::bind();
    let metrics = "[metrics]\naddress = \"127.0.0.1:0\"";
    let setup =
        Setup::new().server("upgrade_rate = \"2/h\"").listener("tls = false\nredirect = \"https\"").more(metrics);
    let gate = setup.start(&upstream);
    let metrics: SocketAddr = gate.log.next("metrics")["address"].as_str().unwrap().parse().unwrap();
    let ask = || ask(&gate, &request("GET /a", "anything.example"));
    let expected = (301, Some("https://anything.example/a".to_owned()));
    assert_eq!([ask(), ask()], [expected.clone(), expected]);
    assert_eq!(ask(), (429, None));
    let refused = gate.log.next("refused");
    assert_eq!((&refused["cause"], &refused["host"]), (&json!("upgrade_rate"), &json!("anything.example")));
    let mut scrape = TcpStream::connect(metrics).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    scrape.read_to_string(&mut text).unwrap();
    let line = "tollgate_http_requests_total{route=\"\",status=\"301\"} 2";
    assert!(text.lines().any(|found| found == line), "{text}");
}
