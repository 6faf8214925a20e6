//! The limits of sessions: the oldest session that makes way for a new one, and limits that are only reported.

use std::io::{Read, Write};
use std::thread;

use serde_json::json;

use crate::support::gate::Gate;
use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, switching};
use crate::support::wire::{BINARY, CLOSE, Frame, PING, Peer};

const REPLACED: &str = "replaced by a newer session";

fn room(subject: &str) -> Request {
    Request::to("/room/blue").bearer(&token(&json!({ "sub": subject })))
}

fn open(gate: &Gate, upstream: &Upstream, subject: &str) -> Session {
    Session::open_with(gate, upstream, &room(subject), &[])
}

/// Checks that both ends get the Close of a session that was replaced, and answers it.
fn expect_closed(mut session: Session) {
    assert_eq!(session.client.expect_close(1008), REPLACED);
    assert_eq!(session.server.expect_close(1008), REPLACED);
    session.server.send_frame(Frame::close(1008, ""));
    session.client.send_frame(Frame::close(1008, ""));
    session.client.expect_clean_end();
    session.server.expect_clean_end();
}

/// Checks that the newest `limit` of the sessions are open and that the others were closed, the oldest first.
fn expect_replaced(gate: &Gate, sessions: Vec<Session>, limit: usize) {
    let replaced = sessions.len() - limit;
    for (number, mut session) in sessions.into_iter().enumerate() {
        if number < replaced {
            expect_closed(session);
            let line = gate.log.next("session ended");
            assert_eq!((&line["cause"], &line["by"]), (&json!("replaced"), &json!("tollgate")), "{line}");
        } else {
            session.echo("hello");
            session.close();
        }
    }
}

/// With two workers, the sessions are on both of them.
#[test]
fn a_new_session_of_a_subject_closes_the_oldest_one() {
    let upstream = Upstream::bind();
    let gate =
        Setup::new().room_limits("sessions_per_subject = 2\non_session_limit = \"close_oldest\"").start(&upstream);
    let mut other = open(&gate, &upstream, "bob");
    let sessions = (0..5).map(|_| open(&gate, &upstream, "ada")).collect();
    expect_replaced(&gate, sessions, 2);
    other.echo("hello");
    other.close();
}

#[test]
fn a_new_session_of_an_address_closes_the_oldest_one() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("sessions_per_address = 1\non_session_limit = \"close_oldest\"").start(&upstream);
    let from =
        |address| Session::open_over(Client::connect_from(&gate, address), &upstream, &Request::to("/open/"), &[]);
    let mut other = from([127, 0, 0, 9]);
    let sessions = (0..3).map(|_| from([127, 0, 0, 7])).collect();
    expect_replaced(&gate, sessions, 1);
    other.echo("hello");
    other.close();
}

/// A phone that lost its network neither reads nor answers, and its owner gets in again.
#[test]
fn a_client_that_does_not_answer_does_not_lock_its_owner_out() {
    let upstream = Upstream::bind();
    let gate =
        Setup::new().room_limits("sessions_per_subject = 1\non_session_limit = \"close_oldest\"").start(&upstream);
    let mut dead = Vec::new();
    for _ in 0..4 {
        let mut session = open(&gate, &upstream, "ada");
        session.echo("hello");
        dead.push(session);
    }
    let mut last = open(&gate, &upstream, "ada");
    last.echo("hello");
    last.close();
}

/// An upgrade takes over a slot only when the upstream has accepted it.
#[test]
fn an_upgrade_that_fails_closes_no_session() {
    let upstream = Upstream::bind();
    let gate =
        Setup::new().room_limits("sessions_per_subject = 1\non_session_limit = \"close_oldest\"").start(&upstream);
    let mut first = open(&gate, &upstream, "ada");
    let mut rejected = Client::connect(&gate);
    rejected.send(&room("ada").bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n");
    assert_eq!(rejected.response().head.status(), 503);
    first.echo("hello");
    // An upgrade that waits holds no slot, so it neither closes a session nor is it rejected.
    let mut waiting = Client::connect(&gate);
    waiting.send(&room("ada").bytes());
    let mut late = upstream.accept();
    let asked = late.head();
    let second = open(&gate, &upstream, "ada");
    expect_closed(first);
    late.send(&switching(&asked, &[]));
    assert_eq!(waiting.head().status(), 101);
    expect_closed(second);
    waiting.send_text("last");
    late.expect_text("last");
}

/// A session that a reload found beyond a new limit is the oldest one, too.
#[test]
fn sessions_that_were_open_before_the_limit_are_closed_first() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let old: Vec<_> = (0..2)
        .map(|_| {
            let mut session = open(&gate, &upstream, "ada");
            session.echo("hello");
            session
        })
        .collect();
    let limit = "close_timeout = \"1m\"\nsessions_per_subject = 1\non_session_limit = \"close_oldest\"\n";
    gate.reload(|text| {
        let (open, room) = text.split_once("name = \"room\"").unwrap();
        format!("{open}name = \"room\"{}", room.replace("close_timeout = \"1m\"", limit))
    });
    let new = open(&gate, &upstream, "ada");
    expect_replaced(&gate, old.into_iter().chain([new]).collect(), 1);
}

/// Reads up to a Close and answers it.
fn answer_close<S: Read + Write>(peer: &mut Peer<S>) {
    let code = loop {
        let frame = peer.frame();
        if frame.opcode == CLOSE {
            break frame.close_payload().0.unwrap();
        }
    };
    // The other end may have closed the connection already.
    let _ = peer.try_send_frame(Frame::close(code, ""));
    peer.rest();
}

/// Many threads open sessions of one subject at once. Each upgrade is accepted, and all sessions but as many as the
/// limit allows are closed with the reason.
#[test]
fn racing_upgrades_of_one_subject_are_all_accepted() {
    const THREADS: usize = 8;
    const EACH: usize = 12;
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .server("max_sessions = 500\nmax_handshakes = 500")
        .room_limits("sessions_per_subject = 3\non_session_limit = \"close_oldest\"")
        .start(&upstream);
    thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..THREADS * EACH {
                let mut server = upstream.accept();
                server.open(&[]);
                scope.spawn(move || answer_close(&mut server));
            }
        });
        for _ in 0..THREADS {
            scope.spawn(|| {
                for _ in 0..EACH {
                    let mut client = Client::connect(&gate);
                    client.send(&room("ada").bytes());
                    assert_eq!(client.head().status(), 101);
                    scope.spawn(move || answer_close(&mut client));
                }
            });
        }
        let replaced = THREADS * EACH - 3;
        gate.log.wait_until("the ends of the replaced sessions", |lines| {
            lines.iter().filter(|line| line.contains("\"cause\":\"replaced\"")).count() >= replaced
        });
        // The rest is open until the drain.
        gate.drain();
        gate.log.wait_until("the ends of all sessions", |lines| {
            lines.iter().filter(|line| line.contains("\"session ended\"")).count() >= THREADS * EACH
        });
    });
    let ended = gate.log.all("session ended");
    let caused_by = |cause: &str| ended.iter().filter(|line| line["cause"] == cause).count();
    assert_eq!((caused_by("replaced"), caused_by("drain")), (THREADS * EACH - 3, 3));
    assert_eq!(gate.log.count(|line| line.contains("\"refused\"")), 0);
}

/// Every limit would act on these sessions, and they are as without limits.
#[test]
fn limits_that_are_reported_have_no_effect() {
    let upstream = Upstream::bind();
    let limits = "mode = \"report\"\nmessage_rate = \"1/h\"\nbyte_rate = \"1KiB/h\"\non_excess = \"drop\"\n\
                  message_max_size = \"2KiB\"\noverhead_rate = \"1/h\"\noverhead_burst = 1\nidle_timeout = \"100ms\"\n\
                  upstream_message_max_size = \"1KiB\"\nsessions_per_address = 1";
    let gate = Setup::new().limits(limits).start(&upstream);
    // Where messages are dropped, they must not be compressed. Here none is dropped.
    let request = Request::to("/open/").with("Sec-WebSocket-Extensions: permessage-deflate");
    let mut sessions: Vec<_> = (0..3).map(|_| Session::open_with(&gate, &upstream, &request, &[])).collect();
    let session = &mut sessions[2];
    assert!(session.asked.get("Sec-WebSocket-Extensions").is_some());
    let big = Frame::new(BINARY, [7; 5000]);
    for _ in 0..3 {
        session.client.send_frame(big.clone());
        assert_eq!(session.server.frame().payload, big.payload);
        session.server.send_frame(big.clone());
        assert_eq!(session.client.frame().payload, big.payload);
        session.client.send_frame(Frame::new(PING, ""));
        assert_eq!(session.server.frame().opcode, PING);
    }
    gate.log.wait_for("an idle session", |line| line.contains("\"limit\":\"idle_timeout\""));
    for session in sessions {
        session.close();
    }
    let ends: Vec<_> = (0..3).map(|_| gate.log.next("session ended")).collect();
    let busy = ends.iter().find(|line| line["messages_in"] == 3).unwrap();
    assert_eq!((&busy["throttled"], &busy["cause"]), (&json!(0), &json!("closed")));
    let reported = busy["reported"].as_str().unwrap();
    let expected = [
        "message_rate 2",
        "byte_rate 3",
        "upstream_byte_rate 3",
        "overhead_rate 2",
        "message_max_size 3",
        "upstream_message_max_size 3",
    ];
    for part in expected {
        assert!(reported.split(", ").any(|found| found == part), "{part} is not in {reported}");
    }
    let beyond =
        |line: &&serde_json::Value| line["reported"].as_str().is_some_and(|all| all.contains("sessions_per_address 1"));
    assert_eq!(ends.iter().filter(beyond).count(), 2, "{ends:?}");
    // Each session has one line for each limit, with the action.
    let lines = gate.log.all("limit exceeded, and only reported");
    let of = |limit: &str| lines.iter().filter(|line| line["limit"] == limit).collect::<Vec<_>>();
    assert_eq!((of("message_rate").len(), of("sessions_per_address").len()), (1, 2));
    assert_eq!(of("message_rate")[0]["action"], "drop");
    assert_eq!(of("sessions_per_address")[0]["action"], "refuse");
}
