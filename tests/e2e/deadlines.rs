//! Deadlines take into account what has arrived, not only what the proxy has had time to read. Clients that are slow,
//! delayed or disconnected get exactly the configured time.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use rustls::version::TLS12;
use serde_json::{Value, json};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::pki;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{CLOSE, End, Frame, PING, PONG};

/// Stops the proxy for `time`, as a paused machine or a throttled control group does. `meanwhile` runs while it is
/// stopped.
fn pause(gate: &Gate, time: Duration, meanwhile: impl FnOnce()) {
    gate.stop();
    meanwhile();
    // The pause itself is under test: there is no event to wait for.
    sleep(time);
    gate.signal(Signal::CONT);
}

fn ended_because(gate: &Gate) -> Value {
    gate.log.next("session ended")["cause"].clone()
}

#[test]
fn data_that_arrived_during_a_pause_counts() {
    let upstream = Upstream::bind();
    for layer in ["own", "rustls"] {
        let server = format!("workers = 1\nrecord_layer = \"{layer}\"");
        let gate = Setup::new().server(&server).limits("idle_timeout = \"2s\"").start(&upstream);
        let mut sessions: Vec<_> = (0..5).map(|_| Session::open(&gate, &upstream)).collect();
        pause(&gate, Duration::from_millis(2500), || {
            for (number, session) in sessions.iter_mut().enumerate() {
                // Data in either direction counts as activity.
                if number % 2 == 0 { session.client.send_text("in time") } else { session.server.send_text("in time") }
            }
        });
        for (number, mut session) in sessions.into_iter().enumerate() {
            if number % 2 == 0 {
                session.server.expect_text("in time")
            } else {
                session.client.expect_text("in time")
            }
            session.close();
            assert_eq!(ended_because(&gate), json!("closed"), "{layer}");
        }
    }
}

#[test]
fn a_pong_that_arrived_during_a_pause_counts() {
    let upstream = Upstream::bind();
    let limits = "ping_interval = \"500ms\"\nupstream_ping_interval = \"500ms\"\npong_timeout = \"2s\"";
    let gate = Setup::new().server("workers = 1").limits(limits).start(&upstream);
    let mut sessions: Vec<_> = (0..5).map(|_| Session::open(&gate, &upstream)).collect();
    let mut pings = Vec::new();
    for Session { client, server, .. } in &mut sessions {
        pings.push((client.frame(), server.frame()));
    }
    pause(&gate, Duration::from_millis(2500), || {
        for (Session { client, server, .. }, (to_client, to_server)) in sessions.iter_mut().zip(pings) {
            assert_eq!((to_client.opcode, to_server.opcode), (PING, PING));
            client.send_frame(Frame { opcode: PONG, ..to_client });
            server.send_frame(Frame { opcode: PONG, mask: None, ..to_server });
        }
    });
    for Session { mut client, mut server, .. } in sessions {
        client.send_frame(Frame::close(1000, ""));
        assert_eq!(server.expect_close(1000), "");
        server.send_frame(Frame::close(1000, ""));
        client.expect_close(1000);
        assert_eq!(ended_because(&gate), json!("closed"));
    }
}

/// The ping is queued in the kernel behind megabytes for a client on a slow link. While the client acknowledges some of
/// them it counts as alive; after that the usual `pong_timeout` applies.
#[test]
fn pong_timeout_starts_when_a_slow_client_stops_reading() {
    const MESSAGE_BYTES: usize = 3 << 20;
    let upstream = Upstream::bind();
    let limits = "ping_interval = \"1s\"\npong_timeout = \"1s\"\nwrite_timeout = \"1m\"\nclose_timeout = \"200ms\"";
    let gate = Setup::new().server("workers = 1").limits(limits).start(&upstream);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    socket.connect(&gate.address().into()).unwrap();
    let client = Client::handshake(TcpStream::from(socket), pki::plain_client_config(), "chat.example.com");
    let Session { mut client, mut server, .. } = Session::open_over(client, &upstream, &Request::to("/open/"), &[]);
    server.send_frame(Frame::new(2, vec![7; MESSAGE_BYTES]));
    // Takes about 4 s in total, in steps that are short compared to the `pong_timeout` of 1 s.
    let mut taken = 0;
    let mut read = Vec::new();
    // The header of the frame has 10 bytes.
    while taken < 10 + MESSAGE_BYTES {
        let part = client.take_up_to(16 << 10);
        taken += part.len();
        read.extend(part);
        sleep(Duration::from_millis(20));
    }
    // The ping follows the message, so the client receives it only now.
    let mut behind = read.split_off(10 + MESSAGE_BYTES);
    while behind.len() < 10 {
        behind.extend(client.take_up_to(64));
    }
    assert_eq!(behind[0], 0x89, "a ping");
    client.send_frame(Frame::new(PONG, &behind[2..10]));
    client.send_text("alive");
    server.expect_text("alive");
    // A client that reads nothing more gets the usual timeout.
    assert_eq!(server.expect_close(1001), "no pong");
    server.send_frame(Frame::close(1001, ""));
    let line = gate.log.next("session ended");
    assert_eq!(line["cause"], json!("client_no_pong"), "{line}");
}

/// The end of one direction does not end the other (RFC 6455 section 7.1.1, RFC 8446 section 6.1).
#[test]
fn an_end_that_half_closes_after_its_close_gets_the_answer() {
    let upstream = Upstream::bind();
    for layer in ["own", "rustls"] {
        let gate = Setup::new().server(&format!("record_layer = \"{layer}\"")).start(&upstream);
        for (how, version) in [("close_notify", None), ("end", None), ("both", None), ("both", Some(&TLS12))] {
            let config = match version {
                None => pki::plain_client_config(),
                Some(version) => pki::client_config(&[version]).into(),
            };
            let client = Client::connect_with(&gate, config, "chat.example.com");
            let Session { mut client, mut server, .. } =
                Session::open_over(client, &upstream, &Request::to("/open/"), &[]);
            client.send_text("last words");
            client.send_frame(Frame::close(4000, "bye"));
            if how != "end" {
                client.stream.conn.send_close_notify();
                client.stream.flush().unwrap();
            }
            if how != "close_notify" {
                client.stream.sock.shutdown(Shutdown::Write).unwrap();
            }
            server.expect_text("last words");
            assert_eq!(server.expect_close(4000), "bye");
            // Once this has passed, the end of the client's direction has arrived, too.
            server.send_text("an answer");
            client.expect_text("an answer");
            server.send_frame(Frame::close(4000, "bye"));
            assert_eq!(client.expect_close(4000), "bye", "{layer}, {how}");
            client.expect_clean_end();
            server.expect_clean_end();
            let line = gate.log.next("session ended");
            assert_eq!((&line["by"], &line["cause"]), (&json!("client"), &json!("closed")), "{line}");
        }
        // The same for the upstream.
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        server.send_frame(Frame::close(4001, ""));
        server.stream.shutdown(Shutdown::Write).unwrap();
        client.expect_close(4001);
        client.send_frame(Frame::close(4001, ""));
        assert_eq!(server.frame().opcode, CLOSE, "{layer}");
        client.expect_clean_end();
        server.expect_clean_end();
        assert_eq!(gate.log.next("session ended")["by"], json!("upstream"));
    }
}

/// The session ends and releases its limits at once, not when its delayed message would have been due.
#[test]
fn a_delayed_client_that_disconnects_ends_its_session_at_once() {
    let upstream = Upstream::bind();
    let limits = "message_rate = \"1/h\"\nmessage_burst = 1\non_excess = \"delay\"\nping_interval = \"off\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    for (leaves, behind) in [("end", 0), ("reset", 0), ("close_notify", 0), ("end", 80_000), ("reset", 80_000)] {
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        client.send_text("passes");
        client.send_text("waits");
        server.expect_text("passes");
        // More than one read takes, so that the end is behind unread bytes, and less than the kernel buffers.
        client.send_frame(Frame::new(2, vec![1; behind]));
        match leaves {
            "close_notify" => {
                client.stream.conn.send_close_notify();
                client.stream.flush().unwrap();
                drop(client);
            }
            "reset" => {
                SockRef::from(&client.stream.sock).set_linger(Some(Duration::ZERO)).unwrap();
                drop(client);
            }
            _ => drop(client),
        }
        assert_eq!(server.expect_close(1001), "client went away", "{leaves}, {behind}");
        server.send_frame(Frame::close(1001, ""));
        let line = gate.log.next("session ended");
        assert_eq!(line["cause"], json!("client_gone"), "{line}");
        assert!(line["age_ms"].as_u64().unwrap() < PATIENCE.as_millis() as u64, "{line}");
    }
}

/// A client that half-closes is still connected: everything that it sent passes, at its rate.
#[test]
fn a_delayed_client_that_half_closes_loses_nothing() {
    let upstream = Upstream::bind();
    let limits = "message_rate = \"10/s\"\nmessage_burst = 2\non_excess = \"delay\"";
    for layer in ["own", "rustls"] {
        let gate = Setup::new().server(&format!("record_layer = \"{layer}\"")).limits(limits).start(&upstream);
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        let frames: Vec<u8> = (0..8).flat_map(|number| Frame::text(&number.to_string()).masked().bytes()).collect();
        client.send(&[frames, Frame::close(1000, "bye").masked().bytes()].concat());
        client.stream.sock.shutdown(Shutdown::Write).unwrap();
        for number in 0..8 {
            server.expect_text(&number.to_string());
        }
        assert_eq!(server.expect_close(1000), "bye", "{layer}");
        server.send_frame(Frame::close(1000, ""));
        client.expect_close(1000);
        assert_eq!(ended_because(&gate), json!("closed"));
    }
}

/// Checks that a client releases its slot in `sessions_per_address` when it disconnects, regardless of the upstream.
fn check_place_is_free_after(leave: impl FnOnce(Client)) {
    let upstream = Upstream::bind();
    let limits = "sessions_per_address = 1\nwrite_timeout = \"1h\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let Session { client, server, .. } = Session::open(&gate, &upstream);
    leave(client);
    // From now on an admitted request gets a 502.
    upstream.hang_up_on_all();
    let end = Instant::now() + PATIENCE;
    loop {
        match Client::connect(&gate).ask(&Request::to("/open/")).head.status() {
            502 => break,
            429 => assert!(Instant::now() < end, "the slot is not free"),
            other => panic!("{other}"),
        }
    }
    drop(server);
}

#[test]
fn a_disconnected_client_releases_its_slot_while_the_upstream_does_not_read() {
    check_place_is_free_after(|mut client| {
        client.set_timeout(Duration::from_millis(300));
        client.flood();
        SockRef::from(&client.stream.sock).set_linger(Some(Duration::ZERO)).unwrap();
    });
}

#[test]
fn a_closed_client_releases_its_slot_while_the_upstream_does_not_answer() {
    check_place_is_free_after(|mut client| client.send_frame(Frame::close(1000, "")));
}

/// A key update costs as much as a dozen frames and carries no data, so it counts as overhead like a control frame.
#[test]
fn key_updates_are_metered() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("overhead_rate = \"1/h\"\noverhead_burst = 5").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    for number in 0..5 {
        client.stream.conn.refresh_traffic_keys().unwrap();
        client.send_text(&number.to_string());
        server.expect_text(&number.to_string());
    }
    client.stream.conn.refresh_traffic_keys().unwrap();
    client.send_text("one too many");
    assert_eq!(server.expect_close(1008), "frame rate exceeded");
    server.send_frame(Frame::close(1008, ""));
    assert_eq!(client.expect_close(1008), "frame rate exceeded");
    assert_eq!(ended_because(&gate), json!("overhead_rate"));
    // The same without data in between.
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    for _ in 0..6 {
        client.stream.conn.refresh_traffic_keys().unwrap();
        client.stream.flush().unwrap();
    }
    assert_eq!(server.expect_close(1008), "frame rate exceeded");
    server.send_frame(Frame::close(1008, ""));
    assert_eq!(client.expect_close(1008), "frame rate exceeded");
}

/// Before a session starts there is no quota to count key updates against, so their number is limited.
#[test]
fn key_updates_before_the_request_are_bounded() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut client = Client::connect(&gate);
    let request = Request::to("/open/").bytes();
    let sent = request.iter().chain([b'x'; 4096].iter()).try_for_each(|byte| {
        client.stream.conn.refresh_traffic_keys().unwrap();
        client.stream.write_all(&[*byte])
    });
    // Either the write or the read may find the closed connection.
    if sent.is_ok() {
        assert_eq!(client.rest().1, End::Cut);
    }
    upstream.assert_untouched();
}
