//! The state of a session at the moment of the upgrade: frames, records, unsent bytes, keys, quotas, closing handshakes.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;
use socket2::{Domain, Socket, Type};

use super::{BETWEEN_KEY_UPDATES, Over, Stage, echo};
use crate::support::PATIENCE;
use crate::support::pki;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::wire::{BINARY, CONTINUATION, Frame, PING, PONG, Peer, TEXT};

#[test]
fn idle_sessions_continue_in_the_new_process() {
    let mut stage = Stage::new(Setup::new());
    let mut sessions: Vec<Session> = (0..20).map(|_| stage.open()).collect();
    stage.move_all(20);
    assert_eq!(stage.api.sessions("limit=100").len(), 20);
    sessions.iter_mut().for_each(|session| session.echo("after"));
    stage.open().close();
    sessions.into_iter().for_each(Session::close);
    stage.api.wait_for_sessions(0);
}

#[test]
fn ten_upgrades_in_a_row_keep_a_session() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    for number in 0..10 {
        stage.move_all(1);
        session.echo(&format!("message {number}"));
    }
    session.close();
}

/// Sends numbered messages with some in flight until told to stop, and checks that each returns once and in order.
/// All the time the client updates its key, and requests an update of the proxy's. Returns their number.
fn talk(client: &mut Client, over: &Over) -> u32 {
    const IN_FLIGHT: u32 = 8;
    let (mut number, mut updated) = (0_u32, Instant::now());
    while !over.get() {
        if updated.elapsed() > BETWEEN_KEY_UPDATES {
            updated = Instant::now();
            client.stream.conn.refresh_traffic_keys().unwrap();
        }
        client.send_text(&number.to_string());
        number += 1;
        if let Some(answered) = number.checked_sub(IN_FLIGHT) {
            client.expect_text(&answered.to_string());
        }
    }
    (number.saturating_sub(IN_FLIGHT - 1)..number).for_each(|answered| client.expect_text(&answered.to_string()));
    number
}

/// The clients update their keys all the time, also while their sessions are frozen.
#[test]
fn messages_and_key_updates_pass_once_and_in_order_during_upgrades() {
    const SESSIONS: usize = 6;
    let mut stage = Stage::new(Setup::new());
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| stage.open()).collect();
    let over = Over::default();
    thread::scope(|scope| {
        let (over, guard) = (&over, over.guard());
        let mut talking = Vec::new();
        for Session { mut client, server, .. } in sessions {
            scope.spawn(move || echo(server));
            talking.push(scope.spawn(move || {
                let sent = talk(&mut client, over);
                client.send_frame(Frame::close(4001, "done"));
                client.expect_close(4001);
                client.expect_clean_end();
                sent
            }));
        }
        (0..5).for_each(|_| stage.move_all(SESSIONS));
        drop(guard);
        for thread in talking {
            assert!(thread.join().unwrap() > 0);
        }
    });
    let ended = (0..SESSIONS).map(|_| stage.gate.log.next("session ended"));
    assert!(ended.into_iter().all(|line| line["code"] == 4001));
}

/// The new process knows the next keys of both directions, also of a client that has not sent anything since.
#[test]
fn a_key_update_just_before_the_upgrade_is_applied_after_it() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    session.client.stream.conn.refresh_traffic_keys().unwrap();
    session.client.send(b"");
    stage.move_all(1);
    session.server.send_text("with the new key");
    session.client.expect_text("with the new key");
    session.client.stream.conn.refresh_traffic_keys().unwrap();
    session.echo("and the next one");
    session.close();
}

#[test]
fn fragmented_messages_continue_in_both_directions() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    // The character is split between the fragments.
    let (first, rest) = (&"caf\u{e9}".as_bytes()[..4], &"caf\u{e9}".as_bytes()[4..]);
    session.client.send_frame(Frame::new(TEXT, first).unfinished());
    assert_eq!(session.server.frame().payload, first);
    session.server.send_frame(Frame::new(TEXT, first).unfinished());
    assert_eq!(session.client.frame().payload, first);
    stage.move_all(1);
    session.client.send_frame(Frame::new(PING, "between fragments"));
    assert_eq!(session.server.frame().opcode, PING);
    session.server.send_frame(Frame::new(PONG, "between fragments"));
    assert_eq!(session.client.frame().opcode, PONG);
    session.client.send_frame(Frame::new(CONTINUATION, rest));
    let frame = session.server.frame();
    assert_eq!((frame.opcode, frame.fin, frame.payload.as_slice()), (CONTINUATION, true, rest));
    session.server.send_frame(Frame::new(CONTINUATION, rest));
    assert_eq!(session.client.frame().payload, rest);
    session.echo("the next message");
    // A new message within a fragmented one is still a violation.
    session.client.send_frame(Frame::text("unfinished").unfinished());
    session.server.frame();
    stage.move_all(1);
    session.client.send_frame(Frame::text("a second one"));
    session.server.expect_close(1002);
    session.server.send_frame(Frame::close(1002, ""));
    session.client.expect_close(1002);
}

/// Opens a session for each place at which a frame of one of these sizes can be split. `send` sends a whole message and
/// the first part of the frame together, so that the proxy has both when the message has passed.
fn split_frames(from_client: bool) {
    let frames = [5, 300, 70_000].map(|len| Frame::new(BINARY, vec![0x5a; len]));
    let mut stage = Stage::new(Setup::new().server("max_sessions = 64"));
    let mut split = Vec::new();
    for frame in &frames {
        let bytes = if from_client { frame.clone().masked().bytes() } else { frame.bytes() };
        let header = bytes.len() - frame.payload.len();
        for at in 1..=header + 1 {
            let mut session = stage.open();
            let whole = if from_client { Frame::text("whole").masked() } else { Frame::text("whole") };
            let both = [&whole.bytes(), &bytes[..at]].concat();
            if from_client {
                session.client.send(&both);
                session.server.expect_text("whole");
            } else {
                session.server.send(&both);
                session.client.expect_text("whole");
            }
            split.push((session, frame, bytes[at..].to_vec()));
        }
    }
    stage.move_all(split.len());
    for (mut session, frame, rest) in split {
        let payload = if from_client {
            session.client.send(&rest);
            session.server.frame().payload
        } else {
            session.server.send(&rest);
            session.client.frame().payload
        };
        assert!(payload == frame.payload, "split before the last {} bytes", rest.len());
        session.echo("after");
        session.close();
    }
}

#[test]
fn a_frame_of_a_client_may_be_split_anywhere() {
    split_frames(true);
}

#[test]
fn a_frame_of_an_upstream_may_be_split_anywhere() {
    split_frames(false);
}

/// Returns the TLS records of these bytes.
fn records(client: &mut Client, bytes: &[u8]) -> Vec<u8> {
    let (tls, mut records) = (&mut client.stream.conn, Vec::new());
    tls.writer().write_all(bytes).unwrap();
    while tls.wants_write() {
        tls.write_tls(&mut records).unwrap();
    }
    records
}

#[test]
fn a_tls_record_may_be_split_anywhere() {
    let mut stage = Stage::new(Setup::new().server("max_sessions = 64"));
    let text = "a record in two parts";
    let mut split = Vec::new();
    for at in [1, 3, 4, 5, 6, 20, 30, 48] {
        let mut session = stage.open();
        let whole = records(&mut session.client, &Frame::text("whole").masked().bytes());
        let record = records(&mut session.client, &Frame::text(text).masked().bytes());
        assert!(at < record.len());
        session.client.stream.sock.write_all(&[&whole, &record[..at]].concat()).unwrap();
        session.server.expect_text("whole");
        split.push((session, record[at..].to_vec()));
    }
    stage.move_all(split.len());
    for (mut session, rest) in split {
        session.client.stream.sock.write_all(&rest).unwrap();
        session.server.expect_text(text);
        session.echo("after");
        session.close();
    }
}

/// Opens a session whose client receives little before it reads.
fn open_small(stage: &Stage) -> Session {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 << 10).unwrap();
    socket.connect(&stage.gate.address().into()).unwrap();
    let client = Client::handshake(TcpStream::from(socket), pki::plain_client_config(), "chat.example.com");
    let mut session = Session::open_over(client, &stage.upstream, &Request::to("/open/"), &[]);
    session.echo("first");
    session
}

fn numbered(number: u32) -> Frame {
    Frame::new(BINARY, [&number.to_be_bytes()[..], &[0x5a; 9_000]].concat())
}

/// Sends numbered messages until the proxy takes no more. Returns the number of those that were begun, and the rest of
/// the last one.
fn fill(mut stream: impl Write, encode: impl Fn(u32) -> Vec<u8>) -> (u32, Vec<u8>) {
    for number in 0.. {
        let bytes = encode(number);
        let mut sent = 0;
        while sent < bytes.len() {
            match stream.write(&bytes[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (number + 1, bytes[sent..].to_vec()),
                Err(error) => panic!("{error}"),
            }
        }
    }
    unreachable!()
}

fn expect_numbers<S: Read + Write>(peer: &mut Peer<S>, count: u32) {
    for number in 0..count {
        let frame = peer.frame();
        assert_eq!((frame.opcode, &frame.payload), (BINARY, &numbered(number).payload), "message {number}");
    }
}

/// The client reads nothing, so the proxy holds ciphertext that its socket does not accept.
#[test]
fn unsent_bytes_for_a_client_are_sent_by_the_new_process() {
    let mut stage = Stage::new(Setup::new().limits("write_timeout = \"5m\""));
    let session = open_small(&stage);
    session.server.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let (begun, rest) = fill(&session.server.stream, |number| numbered(number).bytes());
    session.server.stream.set_write_timeout(Some(PATIENCE)).unwrap();
    (0..3).for_each(|_| stage.move_all(1));
    let Session { mut client, mut server, .. } = session;
    thread::scope(|scope| {
        scope.spawn(|| {
            server.send(&rest);
            (begun..begun + 100).for_each(|number| server.send_frame(numbered(number)));
        });
        expect_numbers(&mut client, begun + 100);
    });
}

#[test]
fn unsent_bytes_for_an_upstream_are_sent_by_the_new_process() {
    let mut stage = Stage::new(Setup::new().limits("write_timeout = \"5m\""));
    stage.upstream.set_receive_buffer(16 << 10);
    let Session { mut client, mut server, .. } = stage.open();
    client.set_timeout(Duration::from_millis(300));
    let (begun, rest) = fill(&mut client.stream, |number| numbered(number).masked().bytes());
    client.set_timeout(PATIENCE);
    (0..3).for_each(|_| stage.move_all(1));
    thread::scope(|scope| {
        scope.spawn(|| {
            client.send(&rest);
            (begun..begun + 100).for_each(|number| client.send_frame(numbered(number)));
        });
        expect_numbers(&mut server, begun + 100);
    });
}

/// The delay of the quota continues: the messages arrive at the rate, in order.
#[test]
fn a_throttled_session_continues_at_its_rate() {
    const MESSAGES: u32 = 20;
    let limits = "message_rate = \"10/s\"\nmessage_burst = 1\non_excess = \"delay\"";
    let mut stage = Stage::new(Setup::new().limits(limits));
    let start = Instant::now();
    // Its first message uses the burst.
    let mut session = stage.open();
    (0..MESSAGES).for_each(|n| session.client.send_text(&n.to_string()));
    session.server.expect_text("0");
    stage.wait_for_activity(&session, "throttled");
    stage.move_all(1);
    (1..MESSAGES).for_each(|n| session.server.expect_text(&n.to_string()));
    assert!(start.elapsed() >= Duration::from_millis(1_990), "{:?}", start.elapsed());
    session.close();
}

/// A session that was idle for more than 5 s has released its buffers and keys' contexts.
#[test]
fn a_hibernating_session_continues() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let until = Instant::now() + PATIENCE;
    while stage.api.sessions("")[0]["idle_seconds"].as_f64().unwrap() < 5.5 {
        assert!(Instant::now() < until, "the session is never idle");
        thread::sleep(Duration::from_millis(200));
    }
    stage.move_all(1);
    stage.move_all(1);
    session.echo("awake");
    session.close();
}

/// The client answers the Close of the upstream only after the upgrade.
#[test]
fn a_closing_handshake_is_completed_by_the_new_process() {
    let mut stage = Stage::new(Setup::new());
    let mut by_upstream = stage.open();
    by_upstream.server.send_frame(Frame::close(4000, "bye"));
    assert_eq!(by_upstream.client.expect_close(4000), "bye");
    let mut by_client = stage.open();
    by_client.client.send_frame(Frame::close(4001, "me first"));
    assert_eq!(by_client.server.expect_close(4001), "me first");
    stage.wait_for_activity(&by_client, "closing");
    stage.move_all(2);
    by_upstream.client.send_frame(Frame::close(4000, ""));
    by_upstream.server.expect_close(4000);
    by_upstream.client.expect_clean_end();
    by_upstream.server.expect_clean_end();
    by_client.server.send_text("in flight");
    by_client.server.send_frame(Frame::close(4001, ""));
    by_client.client.expect_text("in flight");
    by_client.client.expect_close(4001);
    by_client.client.expect_clean_end();
    by_client.server.expect_clean_end();
    drop((by_upstream, by_client));
    let ends = [stage.gate.log.next("session ended"), stage.gate.log.next("session ended")];
    for (by, code) in [("upstream", 4000), ("client", 4001)] {
        assert!(ends.iter().any(|line| line["by"] == by && line["code"] == code), "{ends:?}");
    }
}

/// Both Closes have passed, and the client has not closed its connection yet.
#[test]
fn a_lingering_session_ends_in_order() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    session.client.send_frame(Frame::close(4002, ""));
    session.server.expect_close(4002);
    session.server.send_frame(Frame::close(4002, ""));
    session.client.expect_close(4002);
    session.client.expect_clean_end();
    let (earlier, answer) = stage.upgrade();
    assert_eq!(answer["failed"], 0, "{answer}");
    drop(session);
    let line = stage.gate.log.next("session ended");
    assert_eq!((&line["code"], &line["cause"]), (&json!(4002), &json!("closed")), "{line}");
    earlier.wait_end();
    stage.api.wait_for_sessions(0);
}
