//! The bodies of ordinary requests and of their responses: streamed in both directions, within limits.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::support::PATIENCE;
use crate::support::exchange::request;
use crate::support::gate::Gate;
use crate::support::pki;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

fn start(upstream: &Upstream) -> Gate {
    Setup::new().route("http = true").start(upstream)
}

/// Each part of a body arrives before the next one is sent, in both directions at once.
#[test]
fn bodies_are_streamed_both_ways() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Transfer-Encoding: chunked\r\n", "3\r\none\r\n").as_bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    assert_eq!((asked.get("Transfer-Encoding"), asked.get("Content-Length")), (Some("chunked"), None));
    assert_eq!(server.chunk().as_deref(), Some("one"));
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nuno!\r\n");
    assert_eq!(client.head().status(), 200);
    assert_eq!(client.chunk().as_deref(), Some("uno!"));
    client.send(b"3\r\ntwo\r\n");
    assert_eq!(server.chunk().as_deref(), Some("two"));
    server.send(b"3\r\ndue\r\n");
    assert_eq!(client.chunk().as_deref(), Some("due"));
    client.send(b"0\r\n\r\n");
    assert_eq!((server.chunk(), server.line()), (None, String::new()));
    server.send(b"0\r\n\r\n");
    assert_eq!((client.chunk(), client.line()), (None, String::new()));
    let line = gate.log.next("request");
    assert_eq!((line["bytes_in"].as_u64(), line["bytes_out"].as_u64()), (Some(6), Some(7)));
}

/// Server-sent events arrive one by one, for as long as the server sends them.
#[test]
fn server_sent_events_are_not_buffered() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/events", "Accept: text/event-stream\r\n", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    // Without a length, the body ends with the connection.
    server.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n");
    assert_eq!(client.head().get("Content-Type"), Some("text/event-stream"));
    for n in 0..20 {
        let event = format!("data: {n}\n\n");
        server.send(event.as_bytes());
        assert_eq!(client.chunk(), Some(event));
    }
    drop(server);
    assert_eq!(client.chunk(), None);
}

/// A side that does not read stops the other one: no more than the buffers of the kernel and of Tollgate is in flight.
#[test]
fn a_slow_side_holds_up_the_other() {
    const PART: usize = 1 << 16;
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").limits("request_max_size = \"1GiB\"").start(&upstream);
    let part = vec![b'x'; PART];
    let mut client = Client::connect(&gate);
    client.set_timeout(Duration::from_millis(500));
    client.send(request("POST", "/open/", "Content-Length: 1073741824\r\n", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    let mut sent = 0;
    while client.stream.write(&part).is_ok() {
        sent += PART;
        assert!(sent < 64 << 20, "the client is not held up");
    }
    let (_, peak) = gate.rss_kib();
    assert!(peak < 120 << 10, "{peak} KiB");
    // The other direction.
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    server.stream.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    let mut sent = 0;
    while server.stream.write(&part).is_ok() {
        sent += PART;
        assert!(sent < 64 << 20, "the server is not held up");
    }
    let (_, peak) = gate.rss_kib();
    assert!(peak < 120 << 10, "{peak} KiB");
}

/// The client is told to continue once a server has accepted the connection, and not if the request is rejected.
#[test]
fn an_expectation_is_met_after_admission() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").limits("request_max_size = \"10B\"").start(&upstream);
    let lines = |length: usize| format!("Expect: 100-continue\r\nContent-Length: {length}\r\n");
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", &lines(4), "").as_bytes());
    assert_eq!(client.head().first_line, "HTTP/1.1 100 Continue");
    client.send(b"body");
    let mut server = upstream.accept();
    let asked = server.message();
    assert_eq!((asked.head.get("Expect"), asked.body.as_str()), (None, "body"));
    server.respond("", "done");
    assert_eq!(client.message().body, "done");
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", &lines(11), "").as_bytes());
    assert_eq!(client.head().status(), 413);
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/room/blue", &lines(4), "").as_bytes());
    assert_eq!(client.head().status(), 401);
    upstream.assert_untouched();
}

/// Trailer fields are passed on in both directions, except those that a client must not set.
#[test]
fn trailers_are_passed_on() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true\nset_headers = { X-Set = \"own\" }").start(&upstream);
    let mut client = Client::connect(&gate);
    let lines =
        "Transfer-Encoding: chunked\r\nTE: trailers\r\nTrailer: X-Sum, X-Real-IP, X-Set, Cookie, Authorization\r\n";
    let body = "4\r\nbody\r\n0\r\nX-Sum: 7\r\nX-Real-IP: 1.2.3.4\r\nx_set: forged\r\nX-Set: forged\r\nCookie: a=b\r\n\
                Authorization: Bearer forged\r\n\r\n";
    client.send(request("POST", "/open/", lines, body).as_bytes());
    let mut server = upstream.accept();
    let asked = server.message();
    assert_eq!((asked.head.get("TE"), asked.head.get("Connection")), (Some("trailers"), Some("TE")));
    assert_eq!((asked.body.as_str(), asked.trailers), ("body", vec!["x-sum: 7".to_owned()]));
    server.send(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\n\
          X-Sum: 8\r\nSet-Cookie: a=b\r\n\r\n",
    );
    let answer = client.message();
    assert_eq!((answer.body.as_str(), answer.trailers), ("ok", vec!["x-sum: 8".to_owned()]));
    // Both connections carry the next request.
    client.send(request("GET", "/open/", "", "").as_bytes());
    server.head();
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nnext");
    assert_eq!(client.message().body, "next");
}

/// A body beyond `request_max_size` gets a 413: by its length at once, and in chunks as soon as it is too long.
#[test]
fn a_body_that_is_too_large_gets_a_413() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").limits("request_max_size = \"10B\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Content-Length: 11\r\n", "").as_bytes());
    let answer = client.response();
    assert_eq!((answer.head.status(), answer.head.get("Connection")), (413, Some("close")));
    upstream.assert_untouched();
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Transfer-Encoding: chunked\r\n", "a\r\n0123456789\r\n").as_bytes());
    let mut server = upstream.accept();
    server.head();
    assert_eq!(server.chunk().as_deref(), Some("0123456789"));
    client.send(b"1\r\n.\r\n");
    assert_eq!(client.response().head.status(), 413);
    // The server gets no end of the body.
    assert_eq!(server.rest().0, b"");
    for _ in 0..2 {
        assert_eq!(gate.log.next("refused")["cause"], "body_too_large");
    }
}

/// Checks that the phases of a request that was admitted at once, and then waited 300 ms, say so.
fn check_waited_for_upstream(line: &Value) {
    let [admission, connect] = ["admission_ms", "connect_ms"].map(|name| line[name].as_u64().unwrap());
    assert!(connect >= 299 && admission < 299, "{line}");
}

/// A client that sends nothing of its body for `body_timeout` gets a 408.
#[test]
fn a_body_that_stalls_gets_a_408() {
    let upstream = Upstream::bind();
    let setup = Setup::new().route("http = true").log("slow_upgrade = \"50ms\"");
    let gate = setup.listener("body_timeout = \"300ms\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Content-Length: 10\r\n", "body").as_bytes());
    let mut server = upstream.accept();
    server.head();
    assert_eq!(client.response().head.status(), 408);
    let line = gate.log.next("refused");
    assert_eq!(line["cause"], "body_timeout");
    check_waited_for_upstream(&line);
    assert_eq!(server.rest().0, b"body");
}

/// A body that goes on, but with less than 512 bytes per second, gets a 408, too. A faster one may take longer than
/// `body_timeout`.
#[test]
fn a_body_that_is_too_slow_gets_a_408() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").listener("body_timeout = \"600ms\"").start(&upstream);
    let begin = |lines: &str| {
        let mut client = Client::connect(&gate);
        client.send(request("POST", "/open/", lines, "").as_bytes());
        // The pause after each part, in which the client reads.
        client.set_timeout(Duration::from_millis(50));
        (client, upstream.accept())
    };
    let (mut client, mut server) = begin("Content-Length: 1000\r\n");
    let (mut answer, mut sent) = ([0; 64], 0);
    let read = loop {
        client.send(b"x");
        sent += 1;
        assert!(sent < 100, "the client is not given up");
        if let Ok(read) = client.stream.read(&mut answer) {
            break read;
        }
    };
    assert!(sent > 6 && answer[..read].starts_with(b"HTTP/1.1 408 "), "{sent}");
    assert_eq!(gate.log.next("refused")["cause"], "body_timeout");
    server.head();
    assert!(server.rest().0.iter().all(|byte| *byte == b'x'));
    let (mut client, mut server) = begin("Content-Length: 5000\r\n");
    for _ in 0..20 {
        client.send(&[b'x'; 250]);
        client.stream.read(&mut answer).unwrap_err();
    }
    client.set_timeout(PATIENCE);
    assert_eq!(server.message().body.len(), 5000);
    server.respond("", "done");
    assert_eq!(client.message().body, "done");
}

/// A client that takes its response at a few bytes per second is cut off: the kernel has no room for further bytes within
/// `write_timeout`.
#[test]
fn a_client_that_takes_its_response_too_slowly_is_cut_off() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").limits("write_timeout = \"1s\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    server.stream.set_write_timeout(Some(Duration::from_millis(50))).unwrap();
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
    let (part, mut sent, mut taken) = (vec![b'x'; 1 << 16], 0, 0);
    loop {
        match server.stream.write(&part) {
            Ok(written) => sent += written,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                // One byte in each pause of the server.
                taken += client.stream.sock.read(&mut [0]).unwrap();
                assert!(taken < 200, "the client is not cut off");
            }
            Err(_) => break,
        }
        assert!(sent < 64 << 20, "the server is not held up");
    }
    assert!(taken > 3, "{taken}");
    assert_eq!(gate.log.next("request")["cause"], "client_gone");
}

/// A slow client that reads all the time gets its response, although it reads less within `write_timeout` than the kernel's
/// send buffer holds.
#[test]
fn a_slow_client_that_reads_all_the_time_gets_its_response() {
    const BYTES: usize = 6_000_000;
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").limits("write_timeout = \"2s\"").start(&upstream);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(32 << 10).unwrap();
    socket.connect(&gate.address().into()).unwrap();
    let mut client = Client::handshake(socket.into(), pki::plain_client_config(), "chat.example.com");
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    let sending = thread::spawn(move || {
        let body = vec![b'x'; BYTES];
        server.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {BYTES}\r\n\r\n").as_bytes());
        server.stream.write_all(&body)
    });
    client.head();
    let mut taken = 0;
    while taken < BYTES {
        // 500 KB per second: the kernel's buffer without a limit takes longer than the timeout.
        thread::sleep(Duration::from_millis(20));
        taken += client.take_up_to(10_000).len();
    }
    sending.join().unwrap().unwrap();
    let line = gate.log.next("request");
    assert_eq!((&line["cause"], line["bytes_out"].as_u64()), (&Value::Null, Some(6_000_000)));
}

/// A server that sends no head in time fails the request with 504. The time that the client needs does not count.
#[test]
fn a_server_that_does_not_answer_gets_a_504() {
    let upstream = Upstream::bind();
    let setup = Setup::new().route("http = true").log("slow_upgrade = \"50ms\"");
    let gate = setup.upstream("http_response_timeout = \"300ms\"").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    assert_eq!(client.response().head.status(), 504);
    let line = gate.log.next("refused");
    assert_eq!(line["cause"], "upstream_timeout");
    check_waited_for_upstream(&line);
}

/// A response that breaks within its body reaches the client as broken.
#[test]
fn a_response_that_breaks_is_not_completed() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    for head in ["Content-Length: 10\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let mut client = Client::connect(&gate);
        client.send(request("GET", "/open/", "", "").as_bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(format!("HTTP/1.1 200 OK\r\n{head}").as_bytes());
        client.head();
        drop(server);
        let (rest, _) = client.rest();
        let rest = String::from_utf8(rest).unwrap();
        assert!(rest.contains("half") && !rest.ends_with("0\r\n\r\n"), "{rest:?}");
        assert_eq!(gate.log.next("request")["cause"], "upstream_gone");
    }
}

/// A response that breaks because the rest of the request's body does not arrive is logged with that cause.
#[test]
fn a_body_that_fails_after_the_response_began_is_the_cause() {
    let upstream = Upstream::bind();
    let setup = Setup::new().route("http = true").limits("request_max_size = \"10B\"");
    let gate = setup.listener("body_timeout = \"300ms\"").start(&upstream);
    for (rest, cause) in [
        (Some(""), "body_timeout"),
        (Some("b\r\n0123456789.\r\n"), "body_too_large"),
        (Some("no size\r\n"), "framing"),
        (None, "client_gone"),
    ] {
        let mut client = Client::connect(&gate);
        client.send(request("POST", "/open/", "Transfer-Encoding: chunked\r\n", "").as_bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n");
        assert_eq!((client.head().status(), client.chunk().as_deref()), (200, Some("half")));
        match rest {
            Some(rest) => {
                client.send(rest.as_bytes());
                let (rest, _) = client.rest();
                assert_eq!(String::from_utf8_lossy(&rest), "", "{cause}");
            }
            None => drop(client),
        }
        assert_eq!(gate.log.next("request")["cause"], cause);
    }
}

/// A client that disconnects ends its request at the server.
#[test]
fn a_client_that_disconnects_ends_the_request() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    drop(client);
    server.expect_end();
    assert_eq!(gate.log.next("refused")["cause"], "client_gone");
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n");
    client.head();
    drop(client);
    server.expect_end();
    assert_eq!(gate.log.next("request")["cause"], "client_gone");
}

/// A server may answer before it has read the whole body: the client gets the response, and its connection closes.
#[test]
fn a_response_before_the_end_of_the_body_arrives() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/", "Content-Length: 1000\r\n", "the beginning").as_bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
    let answer = client.response();
    assert_eq!((answer.head.status(), answer.body.as_str()), (403, "no"));
    assert_eq!(answer.head.get("Connection"), Some("close"));
}

/// `max_pending_requests` does not count a request whose response takes long.
#[test]
fn long_polls_do_not_keep_upgrades_waiting() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true").upstream("max_pending_requests = 1").start(&upstream);
    let mut polling = Client::connect(&gate);
    polling.send(request("GET", "/open/poll", "", "").as_bytes());
    let mut poll = upstream.accept();
    poll.head();
    Session::open(&gate, &upstream).close();
    poll.respond("", "at last");
    assert_eq!(polling.message().body, "at last");
}

/// The metrics count requests by status, and connections by what they carry.
#[test]
fn requests_are_counted() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().route("http = true").more("[metrics]\naddress = \"127.0.0.1:0\"").start(&upstream);
    let metrics: SocketAddr = gate.log.next("metrics")["address"].as_str().unwrap().parse().unwrap();
    let mut client = Client::connect(&gate);
    for status in ["200 OK", "200 OK", "404 Not Found", "299 Own"] {
        client.send(request("GET", "/open/", "", "").as_bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").as_bytes());
        client.message();
    }
    let mut other = Client::connect(&gate);
    other.send(request("GET", "/room/blue", "", "").as_bytes());
    assert_eq!(other.response().head.status(), 401);
    for _ in 0..4 {
        gate.log.next("request");
    }
    let mut scrape = TcpStream::connect(metrics).unwrap();
    scrape.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    scrape.read_to_string(&mut text).unwrap();
    for line in [
        "tollgate_http_requests_total{route=\"open\",status=\"200\"} 2",
        "tollgate_http_requests_total{route=\"open\",status=\"404\"} 1",
        "tollgate_http_requests_total{route=\"open\",status=\"2xx\"} 1",
        "tollgate_http_requests_total{route=\"room\",status=\"401\"} 1",
        "tollgate_http_rejections_total{route=\"room\",outcome=\"no_token\"} 1",
        "tollgate_http_request_duration_seconds_count{route=\"open\"} 4",
        "tollgate_connections{state=\"http\"} 1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
    }
    assert!(!text.contains("tollgate_upgrades_total{"), "no request was an upgrade\n{text}");
    gate.signal(Signal::TERM);
    assert!(gate.wait_exit().success());
}
