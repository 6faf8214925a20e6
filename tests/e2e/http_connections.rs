//! Connections that carry several ordinary requests: how long they stay open, to clients and to servers.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::exchange::{get, request};
use crate::support::gate::Gate;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing};

/// One worker, so that all clients share its connections to servers.
fn setup() -> Setup {
    Setup::new().route("http = true").server("workers = 1")
}

fn start(upstream: &Upstream) -> Gate {
    setup().start(upstream)
}

/// An unused connection closes after `keep_alive_timeout`, and a head that is not complete after `handshake_timeout`.
#[test]
fn an_unused_connection_closes_in_time() {
    let upstream = Upstream::bind();
    let listener = "keep_alive_timeout = \"300ms\"\nhandshake_timeout = \"2s\"";
    let gate = setup().listener(listener).start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    client.message();
    let began = Instant::now();
    client.expect_clean_end();
    assert!(began.elapsed() < Duration::from_millis(1500), "{:?}", began.elapsed());
    let mut client = Client::connect(&gate);
    client.get("/open/");
    server.message();
    server.respond("", "");
    client.message();
    let began = Instant::now();
    client.send(b"GET /open/ HTTP/1.1\r\n");
    client.expect_clean_end();
    assert!(began.elapsed() >= Duration::from_millis(1500), "{:?}", began.elapsed());
}

/// The last request that a connection may carry says so in its response.
#[test]
fn a_connection_carries_a_number_of_requests() {
    let upstream = Upstream::bind();
    let gate = setup().listener("requests_per_connection = 2").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send([get("/open/1"), get("/open/2"), get("/open/3")].concat().as_bytes());
    let mut server = upstream.accept();
    for close in [None, Some("close")] {
        server.message();
        server.respond("", "");
        assert_eq!(client.message().head.get("Connection"), close);
    }
    client.expect_clean_end();
    // The third request was not read.
    client.stream.sock.shutdown(std::net::Shutdown::Both).unwrap();
}

/// A client that asks for it gets its connection closed after the response.
#[test]
fn a_client_may_close_its_connection() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "Connection: close\r\n", "").as_bytes());
    let mut server = upstream.accept();
    assert_eq!(server.message().head.get("Connection"), None);
    server.respond("", "last");
    assert_eq!(client.message().body, "last");
    client.expect_clean_end();
}

/// Rejections close the connection, and requests behind them are not read.
#[test]
fn a_rejection_closes_the_connection() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send([get("/open/"), get("/nowhere"), get("/open/")].concat().as_bytes());
    let mut server = upstream.accept();
    server.message();
    server.respond("", "first");
    assert_eq!(client.message().body, "first");
    let answer = client.response();
    assert_eq!((answer.head.status(), answer.head.get("Connection")), (404, Some("close")));
}

/// A drain lets the response in progress end, and closes the connection then. An unused connection closes at once.
#[test]
fn a_drain_ends_connections_at_a_response_boundary() {
    let upstream = Upstream::bind();
    let mut gate = start(&upstream);
    let mut unused = Client::connect(&gate);
    unused.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    unused.message();
    let mut waiting = Client::connect(&gate);
    waiting.get("/open/poll");
    server.message();
    let mut streaming = Client::connect(&gate);
    streaming.get("/open/events");
    let mut events = upstream.accept();
    events.message();
    events.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n");
    streaming.head();
    assert_eq!(streaming.chunk().as_deref(), Some("a"));
    gate.drain();
    unused.expect_clean_end();
    server.respond("", "polled");
    let answer = waiting.message();
    assert_eq!((answer.body.as_str(), answer.head.get("Connection")), ("polled", Some("close")));
    waiting.expect_clean_end();
    events.send(b"1\r\nb\r\n0\r\n\r\n");
    assert_eq!((streaming.chunk().as_deref(), streaming.chunk()), (Some("b"), None));
    assert_eq!(streaming.line(), "");
    streaming.expect_clean_end();
    assert!(gate.wait_exit().success());
}

/// A response that does not end is cut off at the end of the drain.
#[test]
fn a_response_that_does_not_end_is_cut_off_with_the_process() {
    let upstream = Upstream::bind();
    let mut gate = setup().server("drain_timeout = \"500ms\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/events");
    let mut server = upstream.accept();
    server.message();
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.head();
    gate.signal(Signal::TERM);
    client.expect_end();
    gate.wait_exit();
}

/// During `shutdown_delay` requests are served, and their connections are not kept.
#[test]
fn connections_are_not_kept_once_the_process_is_to_stop() {
    let upstream = Upstream::bind();
    let gate = setup().server("shutdown_delay = \"1m\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    assert_eq!(client.message().head.get("Connection"), None);
    gate.signal(Signal::TERM);
    gate.log.next("stopping");
    client.get("/open/");
    server.message();
    server.respond("", "");
    assert_eq!(client.message().head.get("Connection"), Some("close"));
    client.expect_clean_end();
}

/// A connection to a server that closes it, or that says that it will, is not used again.
#[test]
fn a_closed_connection_is_not_used_again() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("Connection: close\r\n", "first");
    assert_eq!(client.message().body, "first");
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "second");
    assert_eq!(client.message().body, "second");
    drop(server);
    // The end of the connection may arrive after the request: then the request is sent again.
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "third");
    assert_eq!(client.message().body, "third");
}

/// Only an idempotent request without a body is sent again if the server closes the connection without a response.
#[test]
fn a_request_is_repeated_only_if_it_is_safe() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let used = || {
        let mut client = Client::connect(&gate);
        client.send(request("GET", "/open/", "", "").as_bytes());
        let mut server = upstream.accept();
        server.message();
        server.respond("", "");
        client.message();
        (client, server)
    };
    for (method, lines, body, is_repeated) in [
        ("GET", "", "", true),
        ("DELETE", "", "", true),
        ("POST", "", "", false),
        ("PUT", "Content-Length: 4\r\n", "body", false),
    ] {
        let (mut client, mut server) = used();
        client.send(request(method, "/open/", lines, body).as_bytes());
        server.message();
        drop(server);
        if is_repeated {
            let mut server = upstream.accept();
            server.message();
            server.respond("Connection: close\r\n", "again");
            assert_eq!(client.message().body, "again", "{method}");
        } else {
            assert_eq!(client.response().head.status(), 502, "{method}");
        }
    }
    // The server got the request if any byte of its response arrives.
    for part in ["H", "HTTP/1.1 103 Early Hints\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Le"] {
        let (mut client, mut server) = used();
        client.get("/open/");
        server.message();
        server.send(part.as_bytes());
        drop(server);
        assert_eq!(client.response().head.status(), 502, "{part}");
        upstream.assert_untouched();
    }
    // A new connection has no such excuse.
    let mut client = Client::connect(&gate);
    client.get("/open/");
    upstream.accept().message();
    assert_eq!(client.response().head.status(), 502);
    upstream.assert_untouched();
}

/// A server that accepts no connection is passed over for a request that may be repeated.
#[test]
fn a_server_that_refuses_is_passed_over() {
    let (_reserved, refused) = refusing();
    let upstream = Upstream::bind();
    let setup = || setup().upstream("balance = \"round_robin\"").to(refused);
    let gate = setup().start(&upstream);
    for _ in 0..2 {
        let mut client = Client::connect(&gate);
        client.get("/open/");
        let mut server = upstream.accept();
        server.message();
        server.respond("Connection: close\r\n", "here");
        assert_eq!(client.message().body, "here");
    }
    let gate = Gate::start(setup());
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Content-Length: 0\r\n", "").as_bytes());
    assert_eq!(client.response().head.status(), 502);
}

/// Connections of upgrades and those with a PROXY header carry no further request.
#[test]
fn some_connections_to_servers_are_not_kept() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    Session::open(&gate, &upstream).close();
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    client.message();
    let gate = setup().upstream("proxy_protocol = true").start(&upstream);
    let mut client = Client::connect(&gate);
    for _ in 0..2 {
        client.get("/open/");
        let (header, mut server) = upstream.accept_proxied();
        assert_eq!(header[12], 0x21);
        server.message();
        server.respond("", "");
        client.message();
        server.expect_end();
    }
}

/// Unused connections to servers close after a few seconds.
#[test]
fn unused_connections_to_servers_close() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    client.message();
    server.expect_clean_end();
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "still here");
    assert_eq!(client.message().body, "still here");
}

/// A reload keeps connections, and its routes apply to their next requests.
#[test]
fn a_reload_applies_to_the_next_request() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    client.message();
    gate.reload(|text| text.replace("http = true", "http = true\nset_headers = { X-New = \"yes\" }"));
    client.get("/open/");
    let asked = server.message();
    assert_eq!(asked.head.get("X-New"), Some("yes"));
    server.respond("", "");
    client.message();
    gate.reload(|text| text.replace("http = true", ""));
    client.get("/open/");
    assert_eq!(client.response().head.status(), 426);
}

/// `max_http_requests` limits requests in progress.
#[test]
fn requests_in_progress_are_limited() {
    let upstream = Upstream::bind();
    let gate = setup().server("max_http_requests = 1").start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    let mut other = Client::connect(&gate);
    other.get("/open/");
    let answer = other.response();
    assert_eq!((answer.head.status(), answer.head.get("Retry-After")), (503, Some("5")));
    assert_eq!(gate.log.next("refused")["cause"], "requests_full");
    server.respond("", "done");
    assert_eq!(client.message().head.get("Connection"), None);
    // One connection is kept already.
    let mut other = Client::connect(&gate);
    other.get("/open/");
    server.message();
    server.respond("", "");
    assert_eq!(other.message().head.get("Connection"), Some("close"));
}

/// `request_rate` limits requests by subject or address, and can be reported only.
#[test]
fn the_rate_of_requests_is_limited() {
    let upstream = Upstream::bind();
    let start = |limits: &str| setup().limits(limits).start(&upstream);
    let gate = start("request_rate = \"2/h\"");
    let mut client = Client::connect(&gate);
    for _ in 0..2 {
        client.get("/open/");
        let mut server = upstream.accept();
        server.message();
        server.respond("Connection: close\r\n", "");
        assert_eq!(client.message().head.status(), 200);
    }
    client.get("/open/");
    let answer = client.response();
    assert_eq!(answer.head.status(), 429);
    let wait: u64 = answer.head.get("Retry-After").unwrap().parse().unwrap();
    assert!((1700..=1801).contains(&wait), "{wait}");
    let gate = start("request_rate = \"1/h\"\nmode = \"report\"");
    let mut client = Client::connect(&gate);
    for _ in 0..2 {
        client.get("/open/");
        let mut server = upstream.accept();
        server.message();
        server.respond("Connection: close\r\n", "");
        assert_eq!(client.message().head.status(), 200);
    }
}

/// A response whose body others could delimit or decode differently is not passed on, and its connection closes.
#[test]
fn a_response_with_another_framing_gets_a_502() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    for lines in [
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
    ] {
        let mut client = Client::connect(&gate);
        client.get("/open/");
        let mut server = upstream.accept();
        server.head();
        server.send(format!("HTTP/1.1 200 OK\r\n{lines}\r\n2\r\nok\r\n0\r\n\r\n").as_bytes());
        assert_eq!(client.response().head.status(), 502, "{lines}");
        assert_eq!(gate.log.next("refused")["cause"], "upstream_malformed", "{lines}");
        server.expect_end();
    }
}

/// A body whose beginning is malformed, and arrives with the head, gets a 502: the client has got nothing yet.
#[test]
fn a_response_whose_body_begins_malformed_gets_a_502() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    for body in ["no size\r\n", "-1\r\nx\r\n0\r\n\r\n"] {
        let mut client = Client::connect(&gate);
        client.get("/open/");
        let mut server = upstream.accept();
        server.head();
        server.send(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{body}").as_bytes());
        assert_eq!(client.response().head.status(), 502, "{body}");
        assert_eq!(gate.log.next("refused")["cause"], "upstream_malformed", "{body}");
        server.expect_end();
    }
    // A whole body that arrives with the head is passed on, with its trailers, and the connection is kept.
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    for n in 0..3 {
        let end = if n == 1 { "0\r\nX-Sum: 8\r\n\r\n" } else { "0\r\n\r\n" };
        let data = if n == 2 { "" } else { "2\r\nok\r\n" };
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n";
        server.send(format!("{head}{data}{end}").as_bytes());
        let answer = client.message();
        assert_eq!((answer.head.status(), answer.body.as_str()), (200, if n == 2 { "" } else { "ok" }));
        client.get("/open/");
        server.message();
    }
}
