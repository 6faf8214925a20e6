//! Clients and upstreams that want to cost more than they pay: what they cost is looked up in the child's memory.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, CONTINUATION, Frame, PING};

/// Memory that a debug build may need for a while, whatever happens: buffers of a worker, of the allocator, of TLS.
const SLACK_KIB: u64 = 8 * 1024;

/// Runs the abuse, and bounds by how much the memory of the gate grew, at the most.
fn measure(what: &str, gate: &Gate, abuse: impl FnOnce()) {
    let (before, _) = gate.rss_kib();
    abuse();
    let (after, peak) = gate.rss_kib();
    eprintln!("{what}: {before} KiB before, {after} KiB after, {peak} KiB at the most");
    assert!(peak < before + SLACK_KIB, "{what}: {before} KiB before, {peak} KiB at the most");
}

/// A frame's header that promises this many bytes.
fn promise(len: u64) -> Vec<u8> {
    [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn an_offer_of_too_many_bytes_is_refused_at_its_header() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_max_size = \"1024GiB\"").start(&upstream);
    measure("offers", &gate, || {
        for len in [i64::MAX as u64, 1 << 62, (1 << 40) + 1] {
            let mut session = Session::open(&gate, &upstream);
            session.client.send(&promise(len));
            assert_eq!(session.expect_closed(1009, "frame too big"), []);
        }
        // What is within the limit passes, and is no promise of ours to keep it.
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        client.send(&promise(1 << 40));
        client.send(&vec![7; 100_000]);
        assert!(server.take(14 + 100_000)[14..].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn a_hundred_thousand_fragments() {
    const FRAGMENTS: usize = 100_000;
    let upstream = Upstream::bind();
    let limits = "overhead_rate = \"1000000/s\"\noverhead_burst = 1000000";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let mut bytes = Frame::text("a").unfinished().masked().bytes();
    (0..FRAGMENTS).for_each(|_| bytes.extend(Frame::new(CONTINUATION, "b").unfinished().masked().bytes()));
    bytes.extend(Frame::new(CONTINUATION, "c").masked().bytes());
    measure("fragments that are allowed", &gate, || {
        thread::scope(|scope| {
            scope.spawn(|| session.client.send(&bytes));
            assert!(session.server.take(bytes.len()) == bytes, "they pass as they are");
        });
    });
    session.close();
    assert_eq!(gate.log.next("session ended")["messages_in"], 1);

    let gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    measure("fragments that are not", &gate, || {
        session.client.send(&bytes);
        let passed = session.expect_closed(1008, "frame rate exceeded").len();
        assert!((200..2000).contains(&passed), "the burst, and what the rate gives back meanwhile: {passed}");
    });
}

#[test]
fn a_thousand_pings() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let pings = Frame::new(PING, [7; 125]).masked().bytes().repeat(1000);
    measure("pings", &gate, || {
        session.client.send(&pings);
        let passed = session.expect_closed(1008, "frame rate exceeded");
        assert!(passed.iter().all(|frame| frame.opcode == PING));
        assert!((200..1000).contains(&passed.len()), "{}", passed.len());
    });
}

/// Half a frame costs no more than its bytes; and who sends the rest later is still understood.
#[test]
fn frames_that_are_held() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let text = Frame::text("held").masked().bytes();
    let ping = Frame::new(PING, [7; 125]).masked().bytes();
    let mut held = Vec::new();
    measure("held frames", &gate, || {
        for n in 0..24 {
            let mut session = Session::open(&gate, &upstream);
            let (frame, at) = if n % 2 == 0 { (&text, 1 + n % text.len()) } else { (&ping, 130) };
            session.client.send(&frame[..at]);
            held.push((session, frame, at));
        }
    });
    for (mut session, frame, at) in held {
        session.client.send(&frame[at..]);
        assert_eq!(&session.server.take(frame.len()), frame);
        session.close();
    }
}

const BLOCKED: Duration = Duration::from_millis(200);

#[test]
fn a_slow_reader_with_a_fast_upstream() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("write_timeout = \"2s\"\nclose_timeout = \"100ms\"").start(&upstream);
    let Session { client, mut server, .. } = Session::open(&gate, &upstream);
    server.stream.set_write_timeout(Some(BLOCKED)).unwrap();
    measure("a slow reader", &gate, || {
        eprintln!("the upstream sent {} KiB", server.flood().0 / 1024);
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("client_write_stall"), &json!(1001)), "{line}");
    });
    drop(client);
}

#[test]
fn a_slow_upstream_with_a_fast_client() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("write_timeout = \"2s\"\nclose_timeout = \"100ms\"").start(&upstream);
    let Session { mut client, server, .. } = Session::open(&gate, &upstream);
    client.set_timeout(BLOCKED);
    measure("a slow upstream", &gate, || {
        eprintln!("the client sent {} KiB", client.flood().0 / 1024);
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("upstream_write_stall"), &json!(1014)), "{line}");
    });
    drop(server);
}

/// A reader that is slow, but reads, loses nothing and is not cut off.
#[test]
fn a_reader_that_catches_up() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_max_size = \"1GiB\"").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.server.stream.set_write_timeout(Some(BLOCKED)).unwrap();
    let mut rest = Vec::new();
    measure("a reader that catches up", &gate, || {
        let (sent, unsent) = session.server.flood();
        rest = unsent;
        let frame = Frame::new(BINARY, vec![0x5a; 60 << 10]).bytes();
        let received = session.client.take(sent);
        assert!(received.iter().zip(frame.iter().cycle()).all(|(came, sent)| came == sent), "in order and whole");
    });
    session.server.send(&rest);
    assert_eq!(session.client.take(rest.len()), rest);
    // What waits for a slow reader is not lost when the upstream closes and goes, and neither is the Close.
    let (sent, rest) = session.server.flood();
    let (mut server, left) = (session.server, rest.len());
    thread::scope(|scope| {
        scope.spawn(move || {
            server.stream.set_write_timeout(Some(PATIENCE)).unwrap();
            server.send(&rest);
            server.send_frame(Frame::close(4000, "that was all"));
        });
        session.client.take(sent + left);
        assert_eq!(session.client.expect_close(4000), "that was all");
        session.client.send_frame(Frame::close(4000, ""));
        session.client.expect_clean_end();
    });
}
