//! Abusive clients and upstreams: bounds the resident memory of the child process while they attack it.

use std::thread;
use std::time::Duration;

use serde_json::json;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{BINARY, CONTINUATION, Frame, PING};

/// Memory that a debug build may use temporarily in any case: buffers of workers, of the allocator and of TLS.
const SLACK_KIB: u64 = 8 * 1024;

/// Runs `abuse` and checks that the peak memory of the proxy stays within [`SLACK_KIB`] of its memory before.
fn measure(what: &str, gate: &Gate, abuse: impl FnOnce()) {
    let (before, _) = gate.rss_kib();
    abuse();
    let (after, peak) = gate.rss_kib();
    eprintln!("{what}: {before} KiB before, {after} KiB after, peak {peak} KiB");
    assert!(peak < before + SLACK_KIB, "{what}: {before} KiB before, peak {peak} KiB");
}

/// Returns a masked binary frame header that announces `len` bytes of payload.
fn promise(len: u64) -> Vec<u8> {
    [&[0x82, 0xff][..], &len.to_be_bytes(), &[0; 4]].concat()
}

#[test]
fn an_oversized_frame_is_rejected_at_its_header() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("message_max_size = \"1024GiB\"").start(&upstream);
    measure("oversized frames", &gate, || {
        for len in [i64::MAX as u64, 1 << 62, (1 << 40) + 1] {
            let mut session = Session::open(&gate, &upstream);
            session.client.send(&promise(len));
            assert_eq!(session.expect_closed(1009, "frame too big"), []);
        }
        // A frame within the limit passes, and nothing is allocated for the announced length.
        let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
        client.send(&promise(1 << 40));
        client.send(&vec![7; 100_000]);
        assert!(server.take(14 + 100_000)[14..].iter().all(|byte| *byte == 7));
    });
}

#[test]
fn fragments_cost_no_memory_and_count_as_overhead() {
    const FRAGMENTS: usize = 100_000;
    let upstream = Upstream::bind();
    let limits = "overhead_rate = \"1000000/s\"\noverhead_burst = 1000000";
    let gate = Setup::new().limits(limits).start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let mut bytes = Frame::text("a").unfinished().masked().bytes();
    (0..FRAGMENTS).for_each(|_| bytes.extend(Frame::new(CONTINUATION, "b").unfinished().masked().bytes()));
    bytes.extend(Frame::new(CONTINUATION, "c").masked().bytes());
    measure("fragments within the rate", &gate, || {
        thread::scope(|scope| {
            scope.spawn(|| session.client.send(&bytes));
            assert!(session.server.take(bytes.len()) == bytes, "fragments pass unchanged");
        });
    });
    session.close();
    assert_eq!(gate.log.next("session ended")["messages_in"], 1);

    let gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    measure("fragments beyond the rate", &gate, || {
        session.client.send(&bytes);
        let passed = session.expect_closed(1008, "frame rate exceeded").len();
        assert!((200..2000).contains(&passed), "the burst plus the refill in between: {passed}");
    });
}

#[test]
fn pings_beyond_the_overhead_rate_end_the_session() {
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

/// A partial frame costs no more memory than its bytes, and its rest is still accepted later.
#[test]
fn partial_frames_cost_only_their_bytes() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let text = Frame::text("held").masked().bytes();
    let ping = Frame::new(PING, [7; 125]).masked().bytes();
    let mut held = Vec::new();
    measure("partial frames", &gate, || {
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
fn memory_is_bounded_when_the_client_does_not_read() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("write_timeout = \"2s\"\nclose_timeout = \"100ms\"").start(&upstream);
    let Session { client, mut server, .. } = Session::open(&gate, &upstream);
    server.stream.set_write_timeout(Some(BLOCKED)).unwrap();
    measure("a client that does not read", &gate, || {
        eprintln!("the upstream sent {} KiB", server.flood().0 / 1024);
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("client_write_stall"), &json!(1001)), "{line}");
    });
    drop(client);
}

/// Where the oldest messages are dropped, a client that accepts nothing is still given up.
#[test]
fn memory_is_bounded_when_messages_are_dropped_for_a_client_that_does_not_read() {
    let upstream = Upstream::bind();
    let limits = "on_slow_client = \"drop_oldest\"\nwrite_timeout = \"2s\"\nclose_timeout = \"100ms\"";
    let gate = Setup::new().limits(limits).start(&upstream);
    let Session { client, mut server, .. } = Session::open(&gate, &upstream);
    measure("a client for which messages are dropped", &gate, || {
        let frame = Frame::new(BINARY, vec![0x5a; 60 << 10]);
        while server.try_send_frame(frame.clone()).is_ok() {}
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("client_write_stall"), &json!(1001)), "{line}");
        assert!(line["dropped"].as_u64().unwrap() > 100, "{line}");
    });
    drop(client);
}

#[test]
fn memory_is_bounded_when_the_upstream_does_not_read() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("write_timeout = \"2s\"\nclose_timeout = \"100ms\"").start(&upstream);
    let Session { mut client, server, .. } = Session::open(&gate, &upstream);
    client.set_timeout(BLOCKED);
    measure("an upstream that does not read", &gate, || {
        eprintln!("the client sent {} KiB", client.flood().0 / 1024);
        let line = gate.log.next("session ended");
        assert_eq!((&line["cause"], &line["code"]), (&json!("upstream_write_stall"), &json!(1014)), "{line}");
    });
    drop(server);
}

/// A slow reader receives every byte, and its session is not ended.
#[test]
fn a_slow_reader_that_catches_up_loses_nothing() {
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
    // Bytes queued for a slow reader survive when the upstream sends a Close and disconnects, and so does the Close.
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
