//! Ordinary requests on routes with `http = true`: what is forwarded, and how.

use crate::support::exchange::{get, request};
use crate::support::gate::Gate;
use crate::support::pki::token;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

fn start(upstream: &Upstream) -> Gate {
    Setup::new().route("http = true").start(upstream)
}

/// Requests of one client connection use one connection to the server, one after another.
#[test]
fn requests_are_forwarded_over_kept_connections() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/a?b=c");
    let mut server = upstream.accept();
    let asked = server.message();
    assert_eq!(asked.head.first_line, "GET /open/a?b=c HTTP/1.1");
    assert_eq!(asked.head.get("Host"), Some("chat.example.com"));
    assert_eq!(asked.head.get("X-Forwarded-Proto"), Some("https"));
    assert_eq!(asked.head.get("Connection"), None);
    server.respond("X-Kept: yes\r\nServer: secret\r\n", "hello");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body.as_str()), (200, "hello"));
    assert_eq!((answer.head.get("X-Kept"), answer.head.get("Server")), (Some("yes"), None));
    assert_eq!(answer.head.get("Connection"), None);
    for n in 0..5 {
        client.get(&format!("/open/{n}"));
        assert_eq!(server.message().head.first_line, format!("GET /open/{n} HTTP/1.1"));
        server.respond("", &format!("body {n}"));
        assert_eq!(client.message().body, format!("body {n}"));
    }
    drop(client);
    upstream.assert_untouched();
    let line = gate.log.next("request");
    assert_eq!((line["route"].as_str(), line["status"].as_u64()), (Some("open"), Some(200)));
    assert_eq!((line["method"].as_str(), line["bytes_out"].as_u64()), (Some("GET"), Some(5)));
    assert_eq!((line["path"].as_str(), line["host"].as_str()), (Some("/open/a"), Some("chat.example.com")));
}

/// Requests that arrive together are answered in order, whatever their bodies.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    let chunked = request("POST", "/open/2", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n");
    let known = request("POST", "/open/3", "Content-Length: 5\r\n", "known");
    client.send([get("/open/1"), chunked, known, get("/open/4")].concat().as_bytes());
    let mut server = upstream.accept();
    for (n, body) in [(1, ""), (2, "body"), (3, "known"), (4, "")] {
        let asked = server.message();
        assert!(asked.head.first_line.ends_with(&format!(" /open/{n} HTTP/1.1")), "{asked:?}");
        assert_eq!(asked.body, body);
        server.respond("", &format!("answer {n}"));
    }
    for n in 1..=4 {
        assert_eq!(client.message().body, format!("answer {n}"));
    }
}

/// A WebSocket opens on the same route, also over a connection that has carried ordinary requests.
#[test]
fn a_websocket_opens_on_the_same_route() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    Session::open(&gate, &upstream).close();
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "polled");
    assert_eq!(client.message().body, "polled");
    let mut session =
        Session::open_over(client, &upstream, &crate::support::request::Request::to("/open/"), &[]);
    session.echo("hello");
    session.close();
}

/// The token of a request admits it, and is not forwarded.
#[test]
fn a_token_admits_a_request() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    let _ = (token, &mut client);
}
