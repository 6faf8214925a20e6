//! Ordinary requests of several clients behind one proxy, and of a client that provokes answers: what each is charged for.

use std::time::{Duration, Instant};

use crate::support::PATIENCE;
use crate::support::exchange::request;
use crate::support::gate::Gate;
use crate::support::session::Client;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

const ADA: &str = "X-Forwarded-For: 198.51.100.7\r\n";
const BOB: &str = "X-Forwarded-For: 198.51.100.8\r\n";

/// A trusted proxy in front, and one worker, so that all clients share its connections to servers.
fn start(server: &str, upstream: &Upstream) -> Gate {
    let setup = Setup::new().route("http = true").listener("trusted_proxies = [\"127.0.0.1\"]");
    setup.server(&format!("workers = 1\n{server}")).start(upstream)
}

/// Opens a connection of the proxy, with a first request of a client that is answered.
fn kept(gate: &Gate, upstream: &Upstream, of: &str) -> Client {
    let mut client = Client::connect(gate);
    client.send(request("GET", "/open/", of, "").as_bytes());
    let mut server = upstream.accept();
    server.message();
    server.respond("Connection: close\r\n", "");
    client.message();
    client
}

fn opening(of: &str) -> String {
    let lines = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                 Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    request("GET", "/open/", &format!("{of}{lines}"), "")
}

/// An upgrade is charged to its client, also as a later request of a connection that another client has begun.
#[test]
fn each_upgrade_on_a_kept_connection_is_charged_to_its_client() {
    let upstream = Upstream::bind();
    let gate = start("upgrade_rate = \"2/h\"\nupgrade_burst = 2", &upstream);
    let mut sessions = Vec::new();
    let others = (10..14).map(|other| format!("X-Forwarded-For: 198.51.100.{other}\r\n"));
    for (number, other) in others.enumerate() {
        let mut client = kept(&gate, &upstream, &other);
        client.send(opening(ADA).as_bytes());
        if number < 2 {
            sessions.push((upstream.accept(), client));
            continue;
        }
        assert_eq!(client.response().head.status(), 429, "{number}");
    }
}

/// Requests that are admitted are charged to `request_rate` only, and those that are rejected to their client.
#[test]
fn rejected_requests_on_kept_connections_are_charged_to_their_client() {
    let upstream = Upstream::bind();
    let gate = start("upgrade_rate = \"3/h\"\nupgrade_burst = 3", &upstream);
    let mut client = kept(&gate, &upstream, BOB);
    for _ in 0..10 {
        client.send(request("GET", "/open/", BOB, "").as_bytes());
        let mut server = upstream.accept();
        server.message();
        server.respond("Connection: close\r\n", "");
        assert_eq!(client.message().head.status(), 200);
    }
    for other in 10..13 {
        let mut client = kept(&gate, &upstream, &format!("X-Forwarded-For: 198.51.100.{other}\r\n"));
        client.send(request("GET", "/room/blue", ADA, "").as_bytes());
        assert_eq!(client.response().head.status(), 401);
    }
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", ADA, "").as_bytes());
    assert_eq!(client.response().head.status(), 429);
}

/// One client behind a proxy has its share of `max_http_requests`, as one that connects itself.
#[test]
fn a_client_behind_a_proxy_has_a_share_of_the_requests() {
    let upstream = Upstream::bind();
    let gate = start("max_http_requests = 32", &upstream);
    let ask = |of: &str| {
        let mut client = Client::connect(&gate);
        client.send(request("GET", "/open/", of, "").as_bytes());
        client
    };
    let _waiting: Vec<_> = (0..16).map(|_| (ask(ADA), upstream.accept())).collect();
    assert_eq!(ask(ADA).response().head.status(), 503);
    assert_eq!(gate.log.next("refused")["cause"], "address_requests");
    let mut other = ask(BOB);
    let mut server = upstream.accept();
    server.message();
    server.respond("", "yes");
    assert_eq!(other.message().body, "yes");
}

/// A client that provokes errors of an application does not have its server ejected. A server that is overloaded is.
#[test]
fn only_statuses_of_an_overloaded_server_eject_it() {
    for (status, ejects) in [("500 Oops", false), ("501 No", false), ("505 No", false), ("503 Busy", true)] {
        let servers = [Upstream::bind(), Upstream::bind()];
        let accepted = Upstream::accept_all(&servers);
        let setup = Setup::new().route("http = true").to(servers[0].address()).to(servers[1].address());
        let gate = Gate::start(setup.more("[upstream.main.health]\ncheck = \"off\"\neject_after = 3"));
        let is_ejected = || gate.log.count(|line| line.contains("server ejected")) > 0;
        // A run of failures counts once it has lasted for 200 ms.
        let until = Instant::now() + if ejects { PATIENCE } else { Duration::from_secs(1) };
        while Instant::now() < until && !is_ejected() {
            let mut client = Client::connect(&gate);
            client.get("/open/");
            let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
            server.message();
            let status = if index == 0 { status } else { "200 OK" };
            server.send(format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").as_bytes());
            client.message();
        }
        assert_eq!(is_ejected(), ejects, "{status}");
    }
}

/// The server has got the request: a GET is not repeated after an answer that makes no sense.
#[test]
fn a_101_that_was_not_asked_for_is_not_repeated() {
    let upstream = Upstream::bind();
    let gate = start("", &upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.message();
    server.respond("", "");
    client.message();
    client.send(request("GET", "/open/", "", "").as_bytes());
    server.message();
    server.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n");
    assert_eq!(client.response().head.status(), 502);
    upstream.assert_untouched();
}

/// A server that wrongly sends the body that a head without one announces does not answer the next request with it.
#[test]
fn a_connection_to_a_server_carries_nothing_after_a_body_that_is_announced_and_not_permitted() {
    let upstream = Upstream::bind();
    let gate = start("", &upstream);
    for (method, status) in [("HEAD", "200 OK"), ("GET", "204 No Content"), ("GET", "304 Not Modified")] {
        for (announced, is_kept) in [
            ("", true),
            ("Content-Length: 0\r\n", true),
            ("Content-Length: 5\r\n", false),
            ("Transfer-Encoding: chunked\r\n", false),
        ] {
            let mut client = Client::connect(&gate);
            client.send(request(method, "/open/", "", "").as_bytes());
            let mut server = upstream.accept();
            server.message();
            server.send(format!("HTTP/1.1 {status}\r\nETag: \"x\"\r\n{announced}\r\n").as_bytes());
            client.head();
            client.send(request("GET", "/open/", "", "").as_bytes());
            let mut next = if is_kept { server } else { upstream.accept() };
            next.message();
            next.respond("Connection: close\r\n", "right");
            assert_eq!(client.message().body, "right", "{method} {status} {announced}");
        }
    }
}

/// Bytes behind a whole response are no response to the next request.
#[test]
fn a_server_that_sends_more_than_its_response_loses_the_connection() {
    let upstream = Upstream::bind();
    let gate = start("", &upstream);
    let stray = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
    for is_apart in [false, true] {
        let mut client = Client::connect(&gate);
        client.send(request("GET", "/open/", "", "").as_bytes());
        let mut server = upstream.accept();
        server.message();
        if is_apart {
            server.respond("", "first");
        } else {
            server.send(&[b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst", &stray[..]].concat());
        }
        assert_eq!(client.message().body, "first");
        if is_apart {
            server.send(stray);
        }
        client.send(request("GET", "/open/", "", "").as_bytes());
        let mut next = upstream.accept();
        next.message();
        next.respond("Connection: close\r\n", "right");
        assert_eq!(client.message().body, "right", "{is_apart}");
    }
}
