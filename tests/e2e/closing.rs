//! The closing handshake between ends that do not play by the book, and the heartbeat.

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

/// As many servers do: it closes, and does not wait for the answer.
#[test]
fn an_upstream_that_closes_and_goes() {
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
fn a_client_that_closes_and_goes() {
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

/// Who closed gets an answer, from us if need be.
#[test]
fn an_upstream_that_goes_instead_of_answering() {
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
fn ends_that_never_answer() {
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

/// What is on its way when a Close crosses it still arrives; what comes behind a Close does not.
#[test]
fn closes_that_cross_data() {
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
fn closes_that_cross_each_other() {
    let (upstream, gate) = stage();
    for _ in 0..20 {
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        client.send_frame(Frame::close(4001, ""));
        server.send_frame(Frame::close(4002, ""));
        // Each gets the other's, or, if that came too late, the answer to its own: one Close, and the end.
        for frame in [client.frame(), server.frame()] {
            assert_eq!(frame.opcode, CLOSE, "{frame:?}");
        }
        client.expect_clean_end();
        server.expect_clean_end();
    }
}

/// A client that answers its pings lives, and its pongs are for us; pongs that nobody asked for pass.
#[test]
fn a_heartbeat() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("ping_interval = \"100ms\"\nupstream_ping_interval = \"100ms\"").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    for _ in 0..4 {
        for frame in [client.frame(), server.frame()] {
            assert_eq!(frame.opcode, PING, "{frame:?}");
        }
        // Any byte proves that an end lives; the next ping comes only when it is silent again.
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

/// What a session counted against is given back when it is over.
#[test]
fn places_are_given_back() {
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
        // The place is free once the gate has seen that the client's end is closed, too.
        assert_eq!(session.client.expect_end(), End::Clean);
        drop(session);
        while Client::connect(&gate).ask(&Request::to("/room/red").bearer(&good_token())).head.status() == 503 {}
        assert_eq!(gate.log.next("session ended")["cause"], "upstream_gone");
    }
    // A refusal behind the counting gives back, too: by the upstream, or by a token.
    for _ in 0..3 {
        let mut client = Client::connect(&gate);
        client.send(&request.bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(client.response().head.status(), 403);
    }
}

/// Connections that ask for nothing take the places for handshakes and no others, and leave them when their time is over.
#[test]
fn places_for_handshakes() {
    const TIMEOUT: Duration = Duration::from_millis(500);
    let upstream = Upstream::bind();
    let limits = "max_sessions = 2\nmax_handshakes = 1";
    let gate = Setup::new().server(limits).listener("handshake_timeout = \"500ms\"").start(&upstream);
    let start = Instant::now();
    let idle = Client::connect(&gate);
    // This one waits until the time of the other is over, though there is room for sessions.
    let first = Session::open(&gate, &upstream);
    assert!(start.elapsed() >= TIMEOUT, "{:?}", start.elapsed());
    // A session needs no place for handshakes any more.
    let second = Session::open(&gate, &upstream);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 503);
    drop((idle, first, second));
}

/// A listener that nobody comes to keeps no place from the others.
#[test]
fn listeners_share_the_places_for_handshakes() {
    let upstream = Upstream::bind();
    let more = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]\n";
    let limits = "max_sessions = 1\nmax_handshakes = 1";
    let mut gate = Setup::new().server(limits).more(&more.repeat(2)).start(&upstream);
    // The last one, before anybody has come to the two others.
    gate.go_to_next_listener();
    gate.go_to_next_listener();
    assert_eq!(Client::connect(&gate).ask(&Request::to("/elsewhere")).head.status(), 404);
}

/// One address cannot take all of the places, and one that is a session does not count among them. Beyond its share it waits,
/// and other addresses do not.
#[test]
fn handshakes_of_one_address() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("handshakes_per_address = 2").start(&upstream);
    let open = |_| {
        let mut session = Session::open(&gate, &upstream);
        // What passes proves that the session has begun, and with that given its place back.
        session.client.send_text("here");
        session.server.expect_text("here");
        session
    };
    let sessions: Vec<Session> = (0..3).map(open).collect();
    let idle: Vec<Client> = (0..2).map(|_| Client::connect(&gate)).collect();
    let waiting = TcpStream::connect(gate.address()).unwrap();
    let other = Client::connect_from(&gate, [127, 0, 0, 2]);
    Session::open_over(other, &upstream, &Request::to("/open/"), &[]).close();
    // The places are free again as soon as the gate has seen that the clients are gone.
    drop(idle);
    let client = Client::handshake(waiting, plain_client_config(), "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    drop(sessions);
}

/// Connections that ask for nothing fill the share of their address, and the line of those that wait for it; a client of
/// another address is served meanwhile.
#[test]
fn silent_connections_of_one_address_delay_no_other() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("handshake_timeout = \"5m\"").start(&upstream);
    // max_handshakes is 32, so that the share is 16, and 32 may wait.
    let silent: Vec<TcpStream> = (0..16 + 32).map(|_| TcpStream::connect(gate.address()).unwrap()).collect();
    let mut beyond = TcpStream::connect(gate.address()).unwrap();
    beyond.set_read_timeout(Some(PATIENCE)).unwrap();
    assert_eq!(beyond.read(&mut [0]).unwrap(), 0, "the line is full");
    for _ in 0..3 {
        let other = Client::connect_from(&gate, [127, 0, 0, 2]);
        Session::open_over(other, &upstream, &Request::to("/open/"), &[]).close();
    }
    drop(silent);
}

/// Clients that have their refusal and do not close hold no place, and each gets its answer.
#[test]
fn refused_clients_hold_no_place() {
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
