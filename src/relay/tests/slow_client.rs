//! Tests of the messages that are dropped for a client that accepts no bytes.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::policy::limits::OnSlowClient;
use crate::session::Side;
use crate::session::backlog::Backlog;
use crate::session::backlog::tests::{PING, frame, received, sent};
use crate::ws::frame::Header;

/// Returns the message with this number, of 1,003 bytes.
fn numbered(number: u16) -> Vec<u8> {
    let mut frame = vec![0x82, 126, 3, 231];
    frame.extend(number.to_be_bytes());
    frame.resize(1_003, b'x');
    frame
}

/// Returns a relay that drops messages beyond 64 KiB, and the bytes that its client receives. The upstream sends
/// `count` messages, and the client accepts `accepts` bytes.
fn dropping(
    count: u16,
    accepts: usize,
    terms: SessionConfig,
) -> (Relay<Peer, Peer>, [Rc<RefCell<Vec<u8>>>; 2], Rc<Cell<usize>>) {
    let client = Peer::new(Vec::new(), Then::IsSilent);
    let upstream = Peer::new((0..count).flat_map(numbered).collect(), Then::IsSilent);
    client.accepts.set(accepts);
    let bytes = [Rc::clone(&client.received), Rc::clone(&upstream.says)];
    let accepts = Rc::clone(&client.accepts);
    (relay_with(terms, client, upstream, clock::now()), bytes, accepts)
}

fn drop_oldest() -> SessionConfig {
    let on_slow_client = OnSlowClient::DropOldest { buffer_bytes: 64 << 10 };
    terms(Limits { on_slow_client, write_timeout: PATIENCE, ..limits() })
}

/// Polls until the upstream has nothing more to send.
fn poll_all(relay: &mut Relay<Peer, Peer>, says: &RefCell<Vec<u8>>) {
    let start = clock::now();
    loop {
        assert!(Pin::new(&mut *relay).poll(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        if says.borrow().is_empty() {
            return;
        }
        assert!(clock::now() < start + PATIENCE, "the upstream is not read");
    }
}

/// Returns a relay whose client has got 30 messages and whose upstream is within a later message, which is dropped: these
/// pieces of it came while the client accepted no bytes. It accepts all bytes now.
fn within_dropped(pieces: &[Vec<u8>]) -> (Relay<Peer, Peer>, [Rc<RefCell<Vec<u8>>>; 2]) {
    let (mut relay, [received, says], accepts) = dropping(30, 0, drop_oldest());
    poll_all(&mut relay, &says);
    for piece in pieces {
        *says.borrow_mut() = piece.clone();
        poll_all(&mut relay, &says);
    }
    accepts.set(usize::MAX);
    poll_all(&mut relay, &says);
    assert_eq!((numbers(&received.take()), relay.dropped()), ((0..30).collect(), 1));
    (relay, [received, says])
}

fn numbers(received: &[u8]) -> Vec<u16> {
    let messages = received.chunks(1_003);
    let number = |bytes: &[u8]| {
        assert_eq!(bytes, numbered(u16::from_be_bytes([bytes[4], bytes[5]])), "a whole message");
        u16::from_be_bytes([bytes[4], bytes[5]])
    };
    messages.map(number).collect()
}

#[test]
fn a_blocked_client_gets_the_newest_messages_when_it_accepts_bytes_again() {
    let (mut relay, [received, says], accepts) = dropping(1_000, 1_500, drop_oldest());
    // A read returns at most 64 KiB, so the mock cannot return all at once.
    let all = says.take();
    for piece in all.chunks(40_000) {
        *says.borrow_mut() = piece.to_vec();
        poll_all(&mut relay, &says);
        assert!(relay.client.pending_output() < 64 * 1024 + 40_000 + 16 * 1024, "{}", relay.client.pending_output());
    }
    // The message of which a part was sent is completed.
    assert_eq!(received.borrow().len(), 1_500);
    accepts.set(usize::MAX);
    poll_all(&mut relay, &says);
    let numbers = numbers(&received.borrow());
    assert!(numbers.is_sorted_by(|a, b| a < b) && numbers[..2] == [0, 1], "{numbers:?}");
    assert_eq!(numbers.last(), Some(&999));
    assert_eq!(relay.dropped(), 1_000 - numbers.len() as u64);
    assert_eq!(relay.client.pending_output(), 0);
    assert!(!relay.client.is_blocked() && !relay.client.has_to_flush());
    // It is as before.
    *says.borrow_mut() = numbered(7);
    poll_all(&mut relay, &says);
    assert!(received.borrow().ends_with(&numbered(7)));
}

#[test]
fn the_rest_of_a_dropped_frame_does_not_reach_a_client_that_accepts_bytes_again() {
    let large = frame(0x82, &vec![b'B'; 200_000]);
    let (mut relay, [received, says]) = within_dropped(&[large[..40_000].to_vec(), large[40_000..90_000].to_vec()]);
    for piece in large[90_000..].chunks(40_000) {
        *says.borrow_mut() = piece.to_vec();
        poll_all(&mut relay, &says);
        assert!(received.borrow().is_empty());
    }
    *says.borrow_mut() = numbered(7);
    poll_all(&mut relay, &says);
    assert_eq!(numbers(&received.borrow()), [7]);
    assert!(relay.dropped() == 1 && !relay.client.has_backlog() && !relay.client.has_to_flush());
}

#[test]
fn later_fragments_of_a_dropped_message_do_not_reach_a_client_that_accepts_bytes_again() {
    let fragments = [frame(0x02, &vec![b'F'; 40_000]), frame(0x00, &vec![b'F'; 40_000])];
    let (mut relay, [received, says]) = within_dropped(&fragments);
    *says.borrow_mut() = [frame(PING, b"theirs"), frame(0x00, b"more")].concat();
    poll_all(&mut relay, &says);
    assert_eq!(received.take(), frame(PING, b"theirs"), "a control frame is not held back");
    *says.borrow_mut() = [frame(0x80, b"last"), numbered(7)].concat();
    poll_all(&mut relay, &says);
    assert_eq!(numbers(&received.borrow()), [7]);
    assert!(relay.dropped() == 1 && !relay.client.has_backlog() && !relay.client.has_to_flush());
}

#[test]
fn a_client_is_closed_while_a_dropped_frame_has_not_ended() {
    let large = frame(0x82, &vec![b'B'; 200_000]);
    let (mut relay, [received, says]) = within_dropped(&[large[..40_000].to_vec(), large[40_000..90_000].to_vec()]);
    relay.session.ping(Side::Client);
    poll_all(&mut relay, &says);
    let ping = received.take();
    assert_eq!((ping.len(), ping[0]), (10, PING), "{ping:?}");
    *says.borrow_mut() = large[90_000..100_000].to_vec();
    poll_all(&mut relay, &says);
    relay.session.close(CloseCode::POLICY_VIOLATION, "over", clock::now());
    poll_all(&mut relay, &says);
    assert_eq!(*received.borrow(), frame(0x88, b"\x03\xf0over"));
}

#[test]
fn a_blocked_client_blocks_the_upstream_where_nothing_is_dropped() {
    let block = terms(Limits { write_timeout: PATIENCE, ..limits() });
    let compressed = SessionConfig { compressed: true, ..drop_oldest() };
    for terms in [block, compressed] {
        let (mut relay, [received, says], accepts) = dropping(30, 1_500, terms);
        poll_all(&mut relay, &says);
        *says.borrow_mut() = numbered(30);
        for _ in 0..3 {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
            assert_eq!(says.borrow().len(), 1_003, "the upstream is not read");
        }
        accepts.set(usize::MAX);
        poll_all(&mut relay, &says);
        assert_eq!(numbers(&received.borrow()), (0..=30).collect::<Vec<_>>());
    }
}

#[test]
fn nothing_is_kept_for_a_client_that_disconnects() {
    let (mut relay, [_, says], _) = dropping(30, 0, drop_oldest());
    poll_all(&mut relay, &says);
    *says.borrow_mut() = (0..30).flat_map(numbered).collect();
    poll_all(&mut relay, &says);
    assert!(relay.client.pending_output() > 30_000);
    relay.peer(Side::Client).end(false);
    assert_eq!(relay.client.pending_output(), 0);
}

/// Returns the received bytes without our own pings, and the number of those.
fn without(own: &[u8], mut received: &[u8]) -> (Vec<u8>, usize) {
    let (mut others, mut count) = (Vec::new(), 0);
    while !received.is_empty() {
        let header = Header::decode(received).unwrap().unwrap();
        let (frame, rest) = received.split_at(header.len + usize::try_from(header.payload_len).unwrap());
        if frame == own {
            count += 1;
        } else {
            others.extend_from_slice(frame);
        }
        received = rest;
    }
    (others, count)
}

proptest! {
    /// For any times at which a client accepts no bytes and accepts bytes again, also within a message that is dropped,
    /// it gets each message whole or not at all, in order, with all control frames in their places, also our own.
    #[test]
    fn a_client_that_is_blocked_at_any_times_gets_whole_messages(
        messages in vec(vec((0..400_usize, any::<bool>()), 1..4), 1..40),
        max_bytes in 200..3_000_usize,
        steps in vec((1..700_usize, prop_oneof![Just(0), Just(0), 1..900_usize, Just(usize::MAX)]), 1..60),
    ) {
        let (sent, own) = (sent(&messages), frame(PING, b"own"));
        let client = Peer::new(Vec::new(), Then::IsSilent);
        let (accepts, bytes) = (Rc::clone(&client.accepts), Rc::clone(&client.received));
        let mut io = PeerIo::new(client, Vec::new());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let (mut dropped, mut pings) = (0, 0);
        let mut steps = steps.iter().cycle();
        for (at, (message, frame)) in sent.iter().enumerate() {
            let least = Header::decode(frame).unwrap().unwrap().len;
            let mut from = 0;
            while from < frame.len() {
                let (cut, accepted) = steps.next().unwrap();
                accepts.set(*accepted);
                flush(&mut io, &mut cx);
                dropped += io.take_dropped();
                if io.is_blocked() {
                    let next = sent[at..].iter().find(|(message, _)| message.is_some());
                    let in_message = next.is_some_and(|(_, frame)| frame[0].trailing_zeros() >= 4);
                    let left = if from > 0 { frame.len() - from } else { 0 };
                    let is_full = io.backlog(|| Backlog::new(max_bytes, left as u64, in_message)).is_full();
                    dropped += io.take_dropped();
                    if is_full {
                        // The upstream is not read until the client accepts bytes.
                        accepts.set(usize::MAX);
                        flush(&mut io, &mut cx);
                        dropped += io.take_dropped();
                    }
                }
                if cut % 3 == 0 && (from == 0 || io.dropped_frame_left() > 0) {
                    io.send_control(&mut cx, &own).unwrap();
                    pings += 1;
                }
                let to = if message.is_some() { (from + cut).max(least).min(frame.len()) } else { frame.len() };
                io.send(&mut cx, &frame[from..to]).unwrap();
                flush(&mut io, &mut cx);
                dropped += io.take_dropped();
                from = to;
            }
        }
        accepts.set(usize::MAX);
        flush(&mut io, &mut cx);
        dropped += io.take_dropped();
        prop_assert!(!io.is_blocked() && !io.has_to_flush() && !io.has_backlog());
        let (got, own_pings) = without(&own, &bytes.borrow());
        prop_assert_eq!(own_pings, pings);
        prop_assert_eq!(received(&sent, &got) + dropped, messages.len() as u64);
    }
}

/// Flushes as the relay does.
fn flush(io: &mut PeerIo<Peer>, cx: &mut Context<'_>) {
    if io.has_to_flush() {
        io.flush(cx);
    }
}
