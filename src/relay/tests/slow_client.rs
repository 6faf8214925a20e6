//! Tests of the messages that are dropped for a client that accepts no bytes.

use super::*;
use crate::policy::limits::OnSlowClient;
use crate::session::Side;

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
