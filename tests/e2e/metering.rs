//! Message and overhead quotas, and the handling of what exceeds them.

use std::thread;

use serde_json::json;

use crate::support::pki::token;
use crate::support::request::Request;
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, CONTINUATION, Frame, PING};

/// The whole burst passes, and the first message beyond it ends the session.
#[test]
fn excess_messages_close_the_session() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_rate = \"1/h\"\nmessage_burst = 5").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    for n in 0..6 {
        session.client.send_text(&n.to_string());
    }
    for n in 0..5 {
        session.server.expect_text(&n.to_string());
    }
    assert_eq!(session.expect_closed(1008, "message rate exceeded"), []);
    let line = gate.log.next("session ended");
    assert_eq!((&line["messages_in"], &line["throttled"]), (&json!(5), &json!(1)), "{line}");
}

/// A message beyond the rate is delayed; no message is lost or reordered.
#[test]
fn excess_messages_are_delayed() {
    let upstream = Upstream::bind();
    let limits = "message_rate = \"20/s\"\nmessage_burst = 1\non_excess = \"delay\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    for n in 0..8 {
        session.client.send_text(&n.to_string());
    }
    for n in 0..8 {
        session.server.expect_text(&n.to_string());
    }
    // The other direction is not delayed.
    session.server.send_text("free");
    session.client.expect_text("free");
    session.close();
    let line = gate.log.next("session ended");
    assert_eq!((&line["messages_in"], &line["cause"]), (&json!(8), &json!("closed")), "{line}");
    // Seven of them exceed the rate, unless the machine was busy in between.
    assert!(line["throttled"].as_u64().unwrap() >= 1, "{line}");
    assert!(line["age_ms"].as_u64().unwrap() >= 7 * 50 - 5, "{line}");
}

/// A delay lasts about as long as the rate requires: seven messages at 20/s pass before two at 1/s, however busy the
/// machine is.
#[test]
fn a_delay_ends_when_the_rate_allows() {
    let upstream = Upstream::bind();
    let limits = |rate: &str| format!("message_rate = \"{rate}\"\nmessage_burst = 1\non_excess = \"delay\"\n");
    let slow = "[[route]]\nname = \"slow\"\npath = \"/slow\"\nupstream = \"main\"\nauth = \"none\"\n[route.limits]\n";
    let setup = Setup::new().server("workers = 1").limits(&limits("20/s")).more(&format!("{slow}{}", limits("1/s")));
    let gate = setup.start(&upstream);
    let open = |path: &str| Session::open_with(&gate, &upstream, &Request::to(path), &[]);
    let (fast, slow) = (open("/open/"), open("/slow"));
    thread::scope(|scope| {
        for (mut session, messages) in [(slow, 3), (fast, 8)] {
            scope.spawn(move || {
                (0..messages).for_each(|n: u32| session.client.send_text(&n.to_string()));
                (0..messages).for_each(|n| session.server.expect_text(&n.to_string()));
                session.close();
            });
        }
    });
    let ended = || gate.log.next("session ended")["route"].clone();
    assert_eq!([ended(), ended()], ["open", "slow"]);
}

/// A message beyond the quota is dropped with all its fragments; control frames between them pass.
#[test]
fn excess_messages_are_dropped_whole() {
    let upstream = Upstream::bind();
    let limits = "message_rate = \"1/h\"\nmessage_burst = 2\non_excess = \"drop\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("one");
    session.client.send_frame(Frame::text("tw").unfinished());
    session.client.send_frame(Frame::new(CONTINUATION, "o"));
    session.client.send_text("dropped");
    session.client.send_frame(Frame::text("dropped,").unfinished());
    session.client.send_frame(Frame::new(PING, "passes"));
    session.client.send_frame(Frame::new(CONTINUATION, " too"));
    let frames: Vec<Frame> = (0..4).map(|_| session.server.frame()).collect();
    let expected =
        [Frame::text("one"), Frame::text("tw").unfinished(), Frame::new(CONTINUATION, "o"), Frame::new(PING, "passes")];
    assert_eq!(frames, expected.map(Frame::masked));
    session.close();
    let line = gate.log.next("session ended");
    assert_eq!((&line["messages_in"], &line["throttled"]), (&json!(2), &json!(2)), "{line}");
}

/// Sessions of one subject share a quota; a session of another subject has its own.
#[test]
fn sessions_of_a_subject_share_a_quota() {
    let upstream = Upstream::bind();
    let limits = "message_rate = \"1/h\"\nmessage_burst = 2\nrate_key = \"subject\"";
    let gate = Setup::new().room_limits(limits).start(&upstream);
    let open = |subject: &str| {
        let request = Request::to("/room/blue").bearer(&token(&json!({ "sub": subject })));
        Session::open_with(&gate, &upstream, &request, &[])
    };
    let (mut first, mut second, mut other) = (open("ada"), open("ada"), open("bob"));
    for session in [&mut first, &mut second, &mut other] {
        session.client.send_text("one");
        session.server.expect_text("one");
    }
    first.client.send_text("two");
    first.expect_closed(1008, "message rate exceeded");
    other.client.send_text("two");
    other.server.expect_text("two");
    // A new session does not reset the quota.
    let mut third = open("ada");
    third.client.send_text("three");
    third.expect_closed(1008, "message rate exceeded");
}

#[test]
fn sessions_of_an_address_share_a_quota() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_rate = \"1/h\"\nrate_key = \"address\"").start(&upstream);
    let (mut first, mut second) = (Session::open(&gate, &upstream), Session::open(&gate, &upstream));
    first.client.send_text("one");
    first.server.expect_text("one");
    second.client.send_text("two");
    second.expect_closed(1008, "message rate exceeded");
}

/// Small fragments count as overhead; large ones and the last fragment of a message do not.
#[test]
fn small_fragments_are_overhead() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("overhead_rate = \"1/h\"\noverhead_burst = 2").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let client = &mut session.client;
    client.send_frame(Frame::text("a").unfinished());
    for _ in 0..20 {
        client.send_frame(Frame::new(CONTINUATION, [0x20; 128]).unfinished());
    }
    client.send_frame(Frame::new(CONTINUATION, "z"));
    (0..22).for_each(|_| drop(session.server.frame()));
    client.send_frame(Frame::text("a").unfinished());
    for _ in 0..3 {
        client.send_frame(Frame::new(CONTINUATION, "b").unfinished());
    }
    assert_eq!(session.expect_closed(1008, "frame rate exceeded").len(), 3);
    assert_eq!(gate.log.next("session ended")["cause"], "overhead_rate");
}

/// The bytes of each direction pass at the rate, in order, and the other direction is not delayed.
#[test]
fn excess_bytes_are_delayed_in_each_direction() {
    let upstream = Upstream::bind();
    let limits = "byte_rate = \"20KiB/s\"\nbyte_burst = \"2KiB\"\non_excess = \"delay\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    for from_client in [true, false] {
        let mut session = Session::open(&gate, &upstream);
        // Larger than the burst, so that it passes in parts.
        let payload: Vec<u8> = (0..12 * 1024).map(|n: u32| n.to_be_bytes()[3]).collect();
        let frame = Frame::new(BINARY, &payload);
        if from_client {
            session.client.send_frame(frame);
            session.server.send_text("free");
            session.client.expect_text("free");
            assert_eq!(session.server.frame().payload, payload);
        } else {
            session.server.send_frame(frame);
            session.client.send_text("free");
            session.server.expect_text("free");
            assert_eq!(session.client.frame().payload, payload);
        }
        session.close();
        let line = gate.log.next("session ended");
        assert_eq!((&line["throttled"], &line["cause"]), (&json!(1), &json!("closed")), "{line}");
        // 10 KiB beyond the burst.
        assert!(line["age_ms"].as_u64().unwrap() >= 500 - 5, "{line}");
    }
}

#[test]
fn messages_beyond_the_bytes_are_dropped_whole() {
    let upstream = Upstream::bind();
    let limits = "byte_rate = \"1KiB/h\"\nbyte_burst = \"2KiB\"\non_excess = \"drop\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("one");
    session.client.send_frame(Frame::new(BINARY, [0; 3000]).unfinished());
    session.client.send_frame(Frame::new(CONTINUATION, "dropped, too"));
    session.client.send_frame(Frame::new(PING, "passes"));
    session.client.send_text("two");
    session.server.expect_text("one");
    assert_eq!(session.server.frame().opcode, PING);
    session.server.expect_text("two");
    session.close();
    let line = gate.log.next("session ended");
    assert_eq!((&line["messages_in"], &line["throttled"]), (&json!(2), &json!(1)), "{line}");
}

/// Sessions of one subject share the bytes of each direction.
#[test]
fn sessions_of_a_subject_share_a_quota_of_bytes() {
    let upstream = Upstream::bind();
    let limits = "byte_rate = \"1KiB/h\"\nbyte_burst = \"2KiB\"\nrate_key = \"subject\"";
    let gate = Setup::new().room_limits(limits).start(&upstream);
    let open = |subject: &str| {
        let request = Request::to("/room/blue").bearer(&token(&json!({ "sub": subject })));
        Session::open_with(&gate, &upstream, &request, &[])
    };
    let (mut first, mut second, mut other) = (open("ada"), open("ada"), open("bob"));
    let frame = || Frame::new(BINARY, [0; 1500]);
    for session in [&mut first, &mut other] {
        session.client.send_frame(frame());
        session.server.frame();
    }
    // The other direction has a quota of its own.
    second.server.send_frame(frame());
    second.client.frame();
    second.client.send_frame(frame());
    assert_eq!(second.expect_closed(1008, "byte rate of the client exceeded"), []);
    first.close();
    other.close();
}

/// A client that declares 500 MiB and disconnects does not lock out the other clients of its address.
#[test]
fn bytes_that_are_declared_and_never_arrive_do_not_count() {
    let upstream = Upstream::bind();
    let limits = "byte_rate = \"1KiB/h\"\nbyte_burst = \"2KiB\"\nrate_key = \"address\"\non_excess = \"drop\"\n\
                  message_max_size = \"1GiB\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_frame(Frame::text("a").unfinished());
    let mut header = vec![0x80, 0xff, 0, 0, 0, 0];
    header.extend_from_slice(&(500_u32 << 20).to_be_bytes());
    header.extend_from_slice(&[0; 4]);
    session.client.send(&header);
    assert_eq!(session.server.frame().payload, b"a");
    drop(session);
    gate.log.next("session ended");
    let mut other = Session::open(&gate, &upstream);
    other.client.send_text("passes");
    other.server.expect_text("passes");
    other.close();
}
