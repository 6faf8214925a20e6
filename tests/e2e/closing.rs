//! The closing handshake with ends that deviate from it, the heartbeat, and the release of limits.

use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki::{good_token, plain_client_config};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{CLOSE, End, Frame, PING, PONG};

fn stage() -> (Upstream, Gate) {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    (upstream, gate)
}

fn expect_ended(gate: &Gate, by: &str, code: u16) {
    let line = gate.log.next("session ended");
    assert_eq!((&line["by"], &line["code"], &line["cause"]), (&json!(by), &json!(code), &json!("closed")), "{line}");
}

/// Many servers send their Close and disconnect without waiting for the answer.
#[test]
fn an_upstream_may_disconnect_after_its_close() {
    let (upstream, gate) = stage();
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    server.send_text("last words");
    server.send_frame(Frame::close(4000, "bye"));
    drop(server);
    client.expect_text("last words");
    assert_eq!(client.expect_close(4000), "bye");
    client.send_frame(Frame::close(4000, ""));
    client.expect_clean_end();
    drop(client);
    expect_ended(&gate, "upstream", 4000);
}

#[test]
fn a_client_may_disconnect_after_its_close() {
    let (upstream, gate) = stage();
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    client.send_text("last words");
    client.send_frame(Frame::close(4000, "bye"));
    client.stream.sock.shutdown(Shutdown::Both).unwrap();
    server.expect_text("last words");
    assert_eq!(server.expect_close(4000), "bye");
    server.send_frame(Frame::close(4000, ""));
    server.expect_clean_end();
    drop(server);
    expect_ended(&gate, "client", 4000);
}

/// A Close is always answered, by the proxy if the other end does not.
#[test]
fn a_close_is_answered_if_the_upstream_disconnects() {
    let (upstream, gate) = stage();
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    client.send_frame(Frame::close(4000, "bye"));
    server.expect_close(4000);
    drop(server);
    client.expect_close(4000);
    client.expect_clean_end();
    drop(client);
    expect_ended(&gate, "client", 4000);
}

#[test]
fn close_timeout_ends_an_unanswered_closing_handshake() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("close_timeout = \"200ms\"").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    client.send_frame(Frame::close(4000, "bye"));
    server.expect_close(4000);
    client.expect_close(4000);
    client.expect_clean_end();
    server.expect_clean_end();
    drop((client, server));
    expect_ended(&gate, "client", 4000);
}

/// Data in flight when a Close crosses it still arrives; data after a Close does not.
#[test]
fn data_that_crosses_a_close_arrives() {
    let (upstream, gate) = stage();
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    let text = Frame::text("on its way").bytes();
    server.send(&text[..5]);
    assert_eq!(client.take(5), text[..5]);
    client.send_frame(Frame::close(1000, ""));
    client.send_text("behind the Close");
    client.send(b"no frames at all");
    assert_eq!(server.expect_close(1000), "");
    server.send(&text[5..]);
    server.send_text("before the answer");
    server.send_frame(Frame::close(1000, ""));
    assert_eq!(client.take(text.len() - 5), text[5..]);
    client.expect_text("before the answer");
    client.expect_close(1000);
    server.expect_clean_end();
    client.expect_clean_end();
}

#[test]
fn crossing_closes_end_both_sides_cleanly() {
    let (upstream, gate) = stage();
    for _ in 0..20 {
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        client.send_frame(Frame::close(4001, ""));
        server.send_frame(Frame::close(4002, ""));
        // Each end gets the other's Close or, if that came too late, the answer to its own: one Close, then the end.
        for frame in [client.frame(), server.frame()] {
            assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        }
        client.expect_clean_end();
        server.expect_clean_end();
    }
}

/// Answers to the proxy's pings keep the session alive and are not forwarded; unsolicited pongs are.
#[test]
fn answers_to_pings_are_consumed_and_unsolicited_pongs_forwarded() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("ping_interval = \"100ms\"\nupstream_ping_interval = \"100ms\"").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    for _ in 0..4 {
        for frame in [client.frame(), server.frame()] {
            assert_eq!(frame.opcode, PING, "{frame:?}");
        }
        // Any byte proves that an end is alive; the next ping is sent only after it has been silent again.
        client.send_frame(Frame::new(PONG, "of my own"));
        server.send_frame(Frame::new(PONG, "of my own"));
        for frame in [client.frame(), server.frame()] {
            assert_eq!((frame.opcode, frame.payload.as_slice()), (PONG, &b"of my own"[..]), "{frame:?}");
        }
    }
    let ping = client.frame();
    client.send_frame(Frame { opcode: PONG, ..ping });
    client.send_text("behind the pong");
    loop {
        let frame = server.frame();
        if frame.opcode != PING {
            assert_eq!(frame.payload, b"behind the pong");
            break;
        }
    }
}

/// A session releases every limit that it counted against when it ends.
#[test]
fn session_limits_are_released_when_a_session_ends() {
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .server("max_sessions = 1")
        .limits("sessions_per_address = 1")
        .room_limits("sessions_per_subject = 1")
        .start(&upstream);
    let request = Request::to("/room/blue").bearer(&good_token());
    for _ in 0..5 {
        let mut session = Session::open_with(&gate, &upstream, &request, &[]);
        let response = Client::connect(&gate).ask(&request);
        assert_eq!(response.head.status(), 503);
        session.server.stream.shutdown(Shutdown::Both).unwrap();
        session.client.expect_close(1014);
        session.client.send_frame(Frame::close(1014, ""));
        // The slot is free once the proxy has seen the client close the connection, too.
        assert_eq!(session.client.expect_end(), End::Clean);
        drop(session);
        while Client::connect(&gate).ask(&Request::to("/room/red").bearer(&good_token())).head.status() == 503 {}
        assert_eq!(gate.log.next("session ended")["cause"], "upstream_gone");
    }
    // A rejection by the upstream, after the session was counted, releases the limits, too.
    for _ in 0..3 {
        let mut client = Client::connect(&gate);
        client.send(&request.bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().head.status(), 403);
    }
}

/// Silent connections use up `max_handshakes` only, and release their permits at `handshake_timeout`.
#[test]
fn silent_connections_use_only_handshake_permits() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let upstream = Upstream::bind();
    let limits = "max_sessions = 2\nmax_handshakes = 1";
    let gate = Setup::new().server(limits).listener("handshake_timeout = \"500ms\"").start(&upstream);
    let start = Instant::now();
    let idle = Client::connect(&gate);
    // This one waits until the idle connection times out, although sessions are below their limit.
    let first = Session::open(&gate, &upstream);
    assert!(start.elapsed() >= TIMEOUT, "{:?}", start.elapsed());
    // A session no longer holds a handshake permit.
    let second = Session::open(&gate, &upstream);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 503);
    drop((idle, first, second));
}

/// A listener without connections reserves no permits.
#[test]
fn listeners_share_the_handshake_permits() {
    let upstream = Upstream::bind();
    let more = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]\n";
    let limits = "max_sessions = 1\nmax_handshakes = 1";
    let mut gate = Setup::new().server(limits).more(&more.repeat(2)).start(&upstream);
    // Uses the last listener first, before any connection to the two others.
    gate.go_to_next_listener();
    gate.go_to_next_listener();
    assert_eq!(Client::connect(&gate).ask(&Request::to("/elsewhere")).head.status(), 404);
}

/// One address cannot use all handshake permits, and its sessions do not count. Connections beyond its share wait,
/// those of other addresses do not.
#[test]
fn handshakes_per_address_does_not_block_other_addresses() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("handshakes_per_address = 2").start(&upstream);
    let open = |_| {
        let mut session = Session::open(&gate, &upstream);
        // The message proves that the session has started and has released its permit.
        session.client.send_text("here");
        session.server.expect_text("here");
        session
    };
    let sessions: Vec<Session> = (0..3).map(open).collect();
    let idle: Vec<Client> = (0..2).map(|_| Client::connect(&gate)).collect();
    let waiting = TcpStream::connect(gate.address()).unwrap();
    let other = Client::connect_from(&gate, [127, 0, 0, 2]);
    Session::open_over(other, &upstream, &Request::to("/open/"), &[]).close();
    // The permits are free again once the proxy has seen the clients disconnect.
    drop(idle);
    let client = Client::handshake(waiting, plain_client_config(), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    drop(sessions);
}

/// Silent connections fill the share of their address and its queue. A client with another address is served meanwhile.
#[test]
fn silent_connections_of_one_address_do_not_delay_others() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("handshake_timeout = \"5m\"").start(&upstream);
    // The share of an address is 16. Of the others 8 wait, a quarter of `max_handshakes`, and the rest are closed.
    let silent: Vec<TcpStream> = (0..16 + 32).map(|_| TcpStream::connect(gate.address()).unwrap()).collect();
    let mut beyond = TcpStream::connect(gate.address()).unwrap();
    beyond.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(beyond.read(&mut [0]).unwrap(), 0, "the queue is full");
    for _ in 0..3 {
        let other = Client::connect_from(&gate, [127, 0, 0, 2]);
        Session::open_over(other, &upstream, &Request::to("/open/"), &[]).close();
    }
    drop(silent);
}

/// Rejected clients that do not close hold no handshake permit, and each gets its response.
#[test]
fn rejected_clients_hold_no_handshake_permit() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("max_handshakes = 1").start(&upstream);
    let mut refused = Vec::new();
    for _ in 0..10 {
        let mut client = Client::connect(&gate);
        assert_eq!(client.ask(&Request::to("/elsewhere")).head.status(), 404);
        refused.push(client);
    }
    Session::open(&gate, &upstream).close();
}
