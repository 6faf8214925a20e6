//! Tests of `watcher`.

use super::*;
use crate::runtime::clock;
use crate::ws::frame::Message;

/// Returns the events of a stream that arrives in pieces of this size.
fn events(payload: bool, skip: u64, stream: &[u8], piece: usize) -> Vec<WatchEvent> {
    let (mut watcher, mut watch) = watch(payload);
    watcher.begin(0, skip);
    let now = clock::now();
    stream.chunks(piece).for_each(|bytes| watcher.see(Side::Upstream, bytes, now, now));
    std::iter::from_fn(|| watch.events.try_recv().ok()).collect()
}

fn frame(opcode: Opcode, length: u64, payload: Option<&[u8]>) -> WatchEvent {
    let payload = payload.map(Bytes::copy_from_slice);
    let at = Duration::ZERO;
    WatchEvent::Frame(WatchedFrame { from: Side::Upstream, opcode, fin: true, compressed: false, length, payload, at })
}

#[test]
fn frames_are_found_in_pieces_of_any_size() {
    let long = vec![b'x'; 70_000];
    let stream = [
        b"rest".to_vec(),
        Message::from("hello".to_owned()).encode(),
        Message::from(Vec::new()).encode(),
        Message::from(long.clone()).encode(),
        b"\x89\x82\x01\x02\x03\x04\x69\x6b".to_vec(),
    ]
    .concat();
    for piece in [1, 2, 3, 7, 100, stream.len()] {
        let headers = events(false, 4, &stream, piece);
        let kinds = [(Opcode::Text, 5), (Opcode::Binary, 0), (Opcode::Binary, 70_000), (Opcode::Ping, 2)];
        assert_eq!(headers, kinds.map(|(opcode, length)| frame(opcode, length, None)), "pieces of {piece}");
        let expected = [
            frame(Opcode::Text, 5, Some(b"hello")),
            frame(Opcode::Binary, 0, Some(b"")),
            frame(Opcode::Binary, 70_000, Some(&long[..PAYLOAD_MAX_BYTES])),
            frame(Opcode::Ping, 2, Some(b"hi")),
        ];
        assert_eq!(events(true, 4, &stream, piece), expected, "pieces of {piece}");
    }
}

#[test]
fn a_slow_operator_learns_how_many_frames_it_missed() {
    let (mut watcher, mut watch) = watch(false);
    let (now, one) = (clock::now(), Message::from("x".to_owned()).encode());
    (0..EVENTS_MAX + 7).for_each(|_| watcher.see(Side::Upstream, &one, now, now));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(watch.next()), Some(WatchEvent::Missed(7)));
    assert_eq!(runtime.block_on(watch.next()), Some(frame(Opcode::Text, 1, None)));
    drop(watch);
    assert!(!watcher.is_open());
}
