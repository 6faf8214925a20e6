//! Tests of the queue: which messages are dropped, and which bytes remain.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

const TEXT: u8 = 0x81;
const PING: u8 = 0x89;
const FIRST: u8 = 0x01;
const NEXT: u8 = 0x00;
const LAST: u8 = 0x80;

fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
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
fn a_smaller_limit_applies_at_once() {
    let messages: Vec<_> = (0..4_u8).map(|n| frame(TEXT, &[n])).collect();
    let mut backlog = pushed(frames(4), &messages);
    backlog.set_max_bytes(frames(1));
    assert_eq!((backlog.take_dropped(), backlog.len()), (3, 3));
    backlog.clear();
    assert!(backlog.is_empty() && !backlog.is_full());
}

/// A message or a control frame, and its frames.
#[derive(Debug, Clone)]
struct Item {
    is_control: bool,
    frames: Vec<Vec<u8>>,
}

fn item(number: usize, (is_control, sizes): &(bool, Vec<usize>)) -> Item {
    let text = |size: usize| format!("{number:06}{}", "x".repeat(size)).into_bytes();
    let frames = match (is_control, &sizes[..]) {
        (true, _) => vec![frame(PING, &text(0))],
        (false, [only]) => vec![frame(TEXT, &text(*only))],
        (false, [first, rest @ ..]) => {
            let mut frames = vec![frame(FIRST, &text(*first))];
            frames.extend(rest.iter().map(|size| frame(NEXT, &text(*size))));
            frames.push(frame(LAST, &text(0)));
            frames
        }
        (false, []) => vec![frame(TEXT, b"")],
    };
    Item { is_control: *is_control, frames }
}

/// Returns the items whose frames these bytes are, in order; `None` if they are not whole items.
fn received(items: &[Item], mut bytes: &[u8]) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    for (index, item) in items.iter().enumerate() {
        let whole = item.frames.concat();
        if let Some(rest) = bytes.strip_prefix(&whole[..]) {
            (bytes, found) = (rest, [found, vec![index]].concat());
        }
    }
    bytes.is_empty().then_some(found)
}

proptest! {
    /// Whatever is pushed and taken in whichever pieces, the client gets whole items in their order, every control
    /// frame, and all messages that are not counted as dropped. The memory is bounded by the limit and one push.
    #[test]
    fn the_client_gets_a_subsequence_of_whole_messages(
        shapes in vec((any::<bool>(), vec(0..400_usize, 1..4)), 1..60),
        max_bytes in 200..3_000_usize,
        cuts in vec((0..700_usize, 0..3_usize), 1..100),
    ) {
        let items: Vec<_> = shapes.iter().enumerate().map(|(number, shape)| item(number, shape)).collect();
        let mut backlog = Backlog::new(max_bytes, 0, false);
        let mut got = Vec::new();
        let mut dropped = 0;
        let mut cuts = cuts.iter().cycle();
        for bytes in items.iter().flat_map(|item| &item.frames) {
            // Headers are pushed whole.
            let header = Header::decode(bytes).unwrap().unwrap().len;
            let mut rest = &bytes[..];
            let mut least = header;
            while !rest.is_empty() {
                let (cut, takes) = cuts.next().unwrap();
                for _ in 0..*takes {
                    let mut out = Vec::new();
                    backlog.take(&mut out, 1);
                    got.extend(out);
                }
                if backlog.is_full() {
                    let mut out = Vec::new();
                    while backlog.is_full() {
                        backlog.take(&mut out, usize::MAX);
                    }
                    got.extend(out);
                }
                let (piece, later) = rest.split_at((*cut).max(least).min(rest.len()));
                backlog.push(piece);
                prop_assert!(backlog.bytes <= max_bytes + piece.len() + PIECE_BYTES, "{}", backlog.bytes);
                dropped += backlog.take_dropped();
                (rest, least) = (later, 1);
            }
        }
        got.extend(all(&mut backlog));
        let received = received(&items, &got);
        prop_assert!(received.is_some(), "not whole items in order");
        let received = received.unwrap();
        prop_assert_eq!(received.len() as u64 + dropped, items.len() as u64);
        for (index, item) in items.iter().enumerate() {
            prop_assert!(!item.is_control || received.contains(&index), "control frame {}", index);
        }
    }
}
