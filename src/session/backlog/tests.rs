//! Tests of the queue: which messages are dropped, and which bytes remain.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TEXT: u8 = 0x81;
pub const PING: u8 = 0x89;
const FIRST: u8 = 0x01;
const NEXT: u8 = 0x00;
const LAST: u8 = 0x80;

/// Returns a frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let header = Header::decode(&[first, 0]).unwrap().unwrap();
    let mut out = Vec::new();
    Header { payload_len: payload.len() as u64, ..header }.encode(&mut out);
    out.extend_from_slice(payload);
    out
}

/// Memory for this many frames of up to a few bytes.
fn frames(count: usize) -> usize {
    count * (PIECE_BYTES + 8)
}

fn pushed(max_bytes: usize, pushed: &[Vec<u8>]) -> Backlog {
    let mut backlog = Backlog::new(max_bytes, 0, false);
    for frame in pushed {
        backlog.push(frame);
    }
    backlog
}

fn all(backlog: &mut Backlog) -> Vec<u8> {
    let mut all = Vec::new();
    while !backlog.is_empty() {
        let mut out = Vec::new();
        backlog.take(&mut out, 1);
        all.extend(out);
    }
    all
}

#[test]
fn the_oldest_messages_are_dropped_when_the_queue_is_full() {
    let messages: Vec<_> = (0..10_u8).map(|n| frame(TEXT, &[n])).collect();
    let mut backlog = pushed(frames(3), &messages);
    assert_eq!((backlog.take_dropped(), backlog.take_dropped()), (7, 0));
    assert!(!backlog.is_full());
    assert_eq!(all(&mut backlog), messages[7..].concat());
    assert_eq!((backlog.len(), backlog.bytes, backlog.pieces.capacity()), (0, 0, 0));
}

#[test]
fn control_frames_stay_in_their_order() {
    let ping = |n| frame(PING, &[n]);
    let sent = [ping(1), frame(FIRST, b"a"), ping(2), frame(LAST, b"b"), ping(3), frame(TEXT, b"c"), ping(4)];
    let mut backlog = pushed(frames(5), &sent);
    assert_eq!(backlog.take_dropped(), 1);
    assert_eq!(all(&mut backlog), [ping(1), ping(2), ping(3), frame(TEXT, b"c"), ping(4)].concat());
}

#[test]
fn a_message_of_which_bytes_were_taken_is_completed() {
    let mut backlog = pushed(frames(2), &[frame(FIRST, b"a"), frame(NEXT, b"b")]);
    let mut out = Vec::new();
    backlog.take(&mut out, 1);
    assert_eq!(out, frame(FIRST, b"a"));
    for n in 0..4 {
        backlog.push(&frame(NEXT, &[n]));
    }
    // Nothing can be dropped, so the caller has to stop reading.
    assert!(backlog.is_full());
    backlog.push(&frame(LAST, b"z"));
    backlog.push(&frame(TEXT, b"later"));
    assert_eq!(backlog.take_dropped(), 1, "the later message");
    let rest = [frame(NEXT, b"b"), (0..4).flat_map(|n| frame(NEXT, &[n])).collect(), frame(LAST, b"z")];
    assert_eq!(all(&mut backlog), rest.concat());
}

#[test]
fn a_message_that_began_before_the_queue_is_completed() {
    let mut backlog = Backlog::new(frames(1), 3, true);
    backlog.push(b"xyz");
    backlog.push(&frame(LAST, b"end"));
    backlog.push(&frame(TEXT, b"new"));
    assert_eq!(backlog.take_dropped(), 1);
    assert_eq!(all(&mut backlog), [b"xyz".to_vec(), frame(LAST, b"end")].concat());
}

#[test]
fn later_fragments_of_a_dropped_message_are_dropped_too() {
    let mut backlog = pushed(frames(2), &[frame(FIRST, b"a"), frame(TEXT, b"").repeat(0)]);
    backlog.push(&frame(PING, b"1"));
    backlog.push(&frame(PING, b"2"));
    assert_eq!(backlog.take_dropped(), 1);
    backlog.push(&frame(NEXT, b"b"));
    backlog.push(&frame(LAST, b"c"));
    assert_eq!(all(&mut backlog), [frame(PING, b"1"), frame(PING, b"2")].concat());
    backlog.push(&frame(TEXT, b"d"));
    assert_eq!(all(&mut backlog), frame(TEXT, b"d"));
}

#[test]
fn a_message_that_is_too_large_is_dropped_and_the_others_stay() {
    let others = [frame(TEXT, b"a"), frame(TEXT, b"b")];
    let mut backlog = pushed(frames(4), &others);
    let large = frame(TEXT, &vec![b'x'; 10_000]);
    backlog.push(&large[..100]);
    assert_eq!(backlog.take_dropped(), 1);
    backlog.push(&large[100..]);
    // In fragments its size is known later.
    backlog.push(&frame(FIRST, &[b'y'; 100]));
    backlog.push(&frame(NEXT, &[b'y'; 300]));
    backlog.push(&frame(LAST, b"y"));
    assert_eq!(backlog.take_dropped(), 1);
    assert_eq!(all(&mut backlog), others.concat());
}

#[test]
fn only_a_dropped_message_that_has_not_ended_goes_on() {
    let mut backlog = pushed(frames(1), &[frame(TEXT, b"a"), frame(TEXT, b"b")]);
    assert!(backlog.take_dropped() == 1 && !backlog.is_within_dropped(), "the dropped message has ended");
    let large = frame(TEXT, &[b'x'; 400]);
    backlog.push(&large[..100]);
    assert!(backlog.is_within_dropped() && backlog.dropped_frame_left() == large.len() as u64 - 100);
    backlog.push_control(&frame(PING, b"own"));
    assert_eq!(all(&mut backlog), [frame(TEXT, b"b"), frame(PING, b"own")].concat());
    backlog.push(&large[100..]);
    assert!(!backlog.is_within_dropped() && backlog.dropped_frame_left() == 0);
    assert!(backlog.is_empty());
    backlog.push(&frame(FIRST, &[b'y'; 400]));
    assert!(backlog.is_within_dropped() && backlog.dropped_frame_left() == 0);
    backlog.push(&frame(LAST, b"y"));
    assert!(!backlog.is_within_dropped() && backlog.is_empty());
}

#[test]
fn a_smaller_limit_applies_at_once() {
    let messages: Vec<_> = (0..4_u8).map(|n| frame(TEXT, &[n])).collect();
    let mut backlog = pushed(frames(4), &messages);
    backlog.set_max_bytes(frames(1));
    assert_eq!((backlog.take_dropped(), backlog.len()), (3, 3));
    backlog.clear();
    assert!(backlog.is_empty() && !backlog.is_full());
}

/// A frame that is pushed, with the number of its message; `None` for a control frame.
pub type Sent = (Option<usize>, Vec<u8>);

/// Returns the frames of messages: the size of each fragment, and whether a control frame follows it. Each payload
/// begins with a number of its own.
pub fn sent(messages: &[Vec<(usize, bool)>]) -> Vec<Sent> {
    let mut sent: Vec<Sent> = Vec::new();
    for (message, fragments) in messages.iter().enumerate() {
        for (index, (size, is_pinged)) in fragments.iter().enumerate() {
            let (is_first, is_last) = (index == 0, index + 1 == fragments.len());
            let first = u8::from(is_last) << 7 | u8::from(is_first);
            let payload = format!("{:06}{}", sent.len(), "x".repeat(*size));
            sent.push((Some(message), frame(first, payload.as_bytes())));
            if *is_pinged {
                let payload = format!("{:06}", sent.len());
                sent.push((None, frame(PING, payload.as_bytes())));
            }
        }
    }
    sent
}

/// Returns the positions of the frames that the client got. Panics unless they are whole, once and in order.
fn positions(sent: &[Sent], mut got: &[u8]) -> Vec<usize> {
    let mut positions: Vec<usize> = Vec::new();
    while !got.is_empty() {
        let after = positions.last().map_or(0, |last| last + 1);
        let next = sent[after..].iter().position(|(_, frame)| got.starts_with(frame));
        let next = after + next.expect("a whole frame that is later than the one before");
        got = &got[sent[next].1.len()..];
        positions.push(next);
    }
    positions
}

/// Returns the number of messages that the client got. Panics unless it got each of them whole or not at all, in order,
/// with all control frames in their places.
pub fn received(sent: &[Sent], got: &[u8]) -> u64 {
    let positions = positions(sent, got);
    let messages = sent.iter().filter_map(|(message, _)| *message).max().map_or(0, |last| last + 1);
    let mut received = 0;
    for message in 0..messages {
        let frames: Vec<_> = (0..sent.len()).filter(|at| sent[*at].0 == Some(message)).collect();
        let came = frames.iter().filter(|at| positions.contains(at)).count();
        assert!(came == 0 || came == frames.len(), "message {message}: {came} of {}", frames.len());
        received += u64::from(came > 0);
    }
    for (at, (message, _)) in sent.iter().enumerate() {
        assert!(message.is_some() || positions.contains(&at), "control frame {at}");
    }
    received
}

proptest! {
    /// For any pieces that are pushed and taken, the client gets every control frame, and each message whole or
    /// not at all; those that it does not get are counted. The memory is bounded by the limit and one push.
    #[test]
    fn the_client_gets_a_subsequence_of_whole_messages(
        messages in vec(vec((0..400_usize, any::<bool>()), 1..4), 1..60),
        max_bytes in 200..3_000_usize,
        cuts in vec((0..700_usize, 0..3_usize), 1..100),
    ) {
        let sent = sent(&messages);
        let mut backlog = Backlog::new(max_bytes, 0, false);
        let (mut got, mut dropped) = (Vec::new(), 0);
        let mut cuts = cuts.iter().cycle();
        for (_, bytes) in &sent {
            // Headers are pushed whole.
            let mut least = Header::decode(bytes).unwrap().unwrap().len;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let (cut, takes) = cuts.next().unwrap();
                let mut takes = *takes;
                // The owner does not push while the queue is full.
                while takes > 0 || backlog.is_full() {
                    let mut out = Vec::new();
                    backlog.take(&mut out, 1);
                    got.extend(out);
                    takes = takes.saturating_sub(1);
                }
                let (piece, later) = rest.split_at((*cut).max(least).min(rest.len()));
                backlog.push(piece);
                prop_assert!(backlog.bytes <= max_bytes + piece.len() + PIECE_BYTES, "{}", backlog.bytes);
                dropped += backlog.take_dropped();
                (rest, least) = (later, 1);
            }
        }
        got.extend(all(&mut backlog));
        prop_assert_eq!(received(&sent, &got) + dropped, messages.len() as u64);
    }
}
