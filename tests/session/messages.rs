//! Messages that the session sends to the client on command.

use tollgate::session::{Message, QUEUED_MAX_BYTES, QUEUED_MESSAGES_MAX, SendError};

use super::*;

fn hello() -> Message {
    Message::from("hello".to_owned())
}

/// Plays events, queues `hello`, and plays further events.
fn play_with_hello(setup: Setup, before: &[Event], after: &[Event]) -> Relay {
    let mut relay = play(setup, before);
    assert_eq!(relay.send(hello()), Ok(()));
    after.iter().for_each(|event| apply(&mut relay, event));
    relay
}

#[test]
fn messages_are_sent_in_order() {
    let mut relay = play(Setup { compressed: true, ..lenient() }, &[text(Upstream, "a")]);
    for message in [hello(), Message::from(b"data".to_vec()), Message::from(String::new())] {
        assert_eq!(relay.send(message), Ok(()));
    }
    apply(&mut relay, &text(Upstream, "b"));
    assert_eq!(shown(&relay, Client), ["text a", "text hello", "binary data", "text", "text b"]);
    assert!(shown(&relay, Upstream).is_empty());
}

#[test]
fn a_message_waits_for_the_end_of_the_message_in_progress() {
    let fragments =
        [from(Upstream, TEXT, "a"), from(Upstream, CONTINUATION, "b"), from(Upstream, FIN | CONTINUATION, "c")];
    for begun in 1..=2 {
        let (before, after) = fragments.split_at(begun);
        let after = [&[from(Upstream, FIN | PING, "?")], after, &[text(Upstream, "next")]].concat();
        let shown = shown(&play_with_hello(lenient(), before, &after), Client);
        let mut expected = vec!["text+ a", "continuation+ b", "continuation c", "text hello", "text next"];
        expected.insert(begun, "ping ?");
        assert_eq!(shown, expected);
    }
    let relay = play_with_hello(lenient(), &[begin(Upstream, FIN | TEXT, 4, "w")], &[more(Upstream, "ord")]);
    assert_eq!(shown(&relay, Client), ["text word", "text hello"]);
    // A message of the client in progress has no effect.
    let relay = play_with_hello(lenient(), &[begin(Client, TEXT, 4, "w")], &[]);
    assert_eq!(shown(&relay, Client), ["text hello"]);
}

#[test]
fn a_message_precedes_later_frames_of_the_same_bytes() {
    let two = [wire::frame(FIN | CONTINUATION, None, b"b"), wire::frame(FIN | TEXT, None, b"c")].concat();
    let relay = play_with_hello(lenient(), &[from(Upstream, TEXT, "a")], &[Bytes(Upstream, two)]);
    assert_eq!(shown(&relay, Client), ["text+ a", "continuation b", "text hello", "text c"]);
}

#[test]
fn a_message_waits_for_a_blocked_client() {
    let relay = play_with_hello(lenient(), &[Block(Client)], &[]);
    assert!(shown(&relay, Client).is_empty());
    let relay = play_with_hello(lenient(), &[Block(Client)], &[Unblock(Client), text(Upstream, "b")]);
    assert_eq!(shown(&relay, Client), ["text hello", "text b"]);
}

#[test]
fn a_message_precedes_a_close_that_begins_later() {
    let closed = ["text hello", "close 4001 bye"];
    let relay = play_with_hello(lenient(), &[Block(Client)], &[Command(CloseCode(4001), "bye")]);
    assert_eq!(shown(&relay, Client), closed);
    // The Close waits for the end of a frame in progress, but not for the end of a message.
    let events = [Command(CloseCode(4001), "bye"), more(Upstream, "ord")];
    let relay = play_with_hello(lenient(), &[begin(Upstream, FIN | TEXT, 4, "w")], &events);
    assert_eq!(shown(&relay, Client), ["text word", "text hello", "close 4001 bye"]);
    // The upstream may end its message after the Close of the client.
    let events = [close(Client, 4000, ""), from(Upstream, FIN | CONTINUATION, "b"), close(Upstream, 4000, "")];
    let relay = play_with_hello(lenient(), &[from(Upstream, TEXT, "a")], &events);
    assert_eq!(shown(&relay, Client), ["text+ a", "continuation b", "text hello", "close 4000"]);
    // The message also precedes a Close that is sent after the close timeout.
    let events = [close(Client, 4000, ""), Pass(4 * SECOND)];
    let setup = lenient().with(|limits| limits.close_timeout = Duration::from_secs(4));
    let relay = play_with_hello(setup, &[Block(Client)], &events);
    assert_eq!(shown(&relay, Client), ["text hello", "close 4000"]);
}

#[test]
fn a_message_is_dropped_where_a_close_comes_inside_another_message() {
    let begun = [from(Upstream, TEXT, "a")];
    let late = from(Upstream, FIN | CONTINUATION, "b");
    let relay = play_with_hello(lenient(), &begun, &[Command(CloseCode(4001), "bye"), late.clone()]);
    assert_eq!(shown(&relay, Client), ["text+ a", "close 4001 bye"]);
    let relay = play_with_hello(lenient(), &begun, &[close(Upstream, 4000, ""), close(Client, 4000, "")]);
    assert_eq!(shown(&relay, Client), ["text+ a", "close 4000"]);
    assert!(relay.outcome.is_some());
    let relay = play_with_hello(lenient(), &begun, &[Disconnect(Upstream)]);
    assert_eq!(shown(&relay, Client), ["text+ a", "close 1014 upstream went away"]);
}

#[test]
fn messages_to_a_client_that_cannot_receive_them_are_dropped() {
    for event in [CloseWrite(Client), Disconnect(Client)] {
        let begun = [from(Upstream, TEXT, "a")];
        let mut relay = play_with_hello(lenient(), &begun, &[event, from(Upstream, FIN | CONTINUATION, "b")]);
        assert_eq!(shown(&relay, Client), ["text+ a"]);
        assert_eq!(relay.send(hello()), Err(SendError::Closing));
    }
}

#[test]
fn no_message_is_queued_while_the_session_closes() {
    let events = [
        vec![Command(CloseCode(4001), "")],
        vec![close(Client, 4000, "")],
        vec![close(Upstream, 4000, "")],
        vec![Disconnect(Upstream)],
        vec![Bytes(Client, vec![0xff, 0xff])],
        vec![Drain(0), Pass(0)],
        vec![Command(CloseCode(4001), ""), Pass(5 * SECOND)],
    ];
    for events in events {
        let mut relay = play(lenient(), &events);
        let received = shown(&relay, Client);
        assert_eq!(relay.send(hello()), Err(SendError::Closing), "after {events:?}");
        assert_eq!(shown(&relay, Client), received);
    }
    let mut relay = play(lenient(), &[]);
    relay.session.abort(CloseReason::Aborted);
    assert_eq!(relay.session.send(hello(), relay.now), Err(SendError::Closing));
}

#[test]
fn the_queue_is_bounded() {
    let blocked = || play(lenient(), &[Block(Client)]);
    let mut relay = blocked();
    for _ in 0..QUEUED_MESSAGES_MAX {
        assert_eq!(relay.send(Message::from(String::new())), Ok(()));
    }
    assert_eq!(relay.send(Message::from(String::new())), Err(SendError::QueueFull));
    relay.unblock(Client);
    assert_eq!(shown(&relay, Client).len(), QUEUED_MESSAGES_MAX);
    assert_eq!(relay.send(hello()), Ok(()));

    let mut relay = blocked();
    assert_eq!(relay.send(Message::from(vec![0; QUEUED_MAX_BYTES + 1])), Err(SendError::QueueFull));
    assert_eq!(relay.send(Message::from(vec![0; QUEUED_MAX_BYTES - 5])), Ok(()));
    assert_eq!(relay.send(Message::from(vec![0; 6])), Err(SendError::QueueFull));
    assert_eq!(relay.send(hello()), Ok(()));
    assert_eq!(relay.send(Message::from(vec![0])), Err(SendError::QueueFull));
    relay.unblock(Client);
    assert_eq!(relay.sent, 2);
    assert_eq!(relay.send(Message::from(vec![0; QUEUED_MAX_BYTES])), Ok(()));
}

#[test]
fn a_message_counts_as_one_of_the_upstream_and_an_idle_session_stays_idle() {
    let setup = lenient().with(|limits| limits.idle_timeout = Some(Duration::from_secs(60)));
    let relay = play_with_hello(setup, &[Pass(30 * SECOND)], &[Pass(30 * SECOND)]);
    let upstream = DirectionStats { messages: 1, bytes: 7 };
    assert_eq!(relay.session.counts(), SessionStats { upstream, ..SessionStats::default() });
    assert_eq!(shown(&relay, Client), ["text hello", "close 1001 idle timeout"]);
}

#[test]
fn a_message_that_cannot_be_sent_in_time_is_dropped_and_reported() {
    let mut relay = play(lenient(), &[Block(Client)]);
    assert_eq!(relay.send(hello()), Ok(()));
    relay.pass(Duration::from_secs(2));
    assert_eq!(relay.send(hello()), Ok(()));
    relay.pass(Duration::from_secs(3));
    assert_eq!(relay.undelivered, 1);
    relay.unblock(Client);
    assert_eq!(shown(&relay, Client), ["text hello"]);
    // A message that a Close overtakes is reported as well.
    let relay = play_with_hello(lenient(), &[from(Upstream, TEXT, "a")], &[Disconnect(Client)]);
    assert_eq!(relay.undelivered, 1);
}
