//! The exported state. The simulation checks that an imported session makes the same decisions as one that was never
//! exported.

use tollgate::session::state::{RelativeTime, SessionState};
use tollgate::session::{CommandedClose, Input, Message, Session};
use tollgate::ws::inspector::InspectorState;

use super::*;

fn export(relay: &mut Relay) -> SessionState {
    let blank = Relay::new(lenient(), relay.now).session;
    std::mem::replace(&mut relay.session, blank).export(relay.now)
}

fn import(state: SessionState, setup: &Setup, now: Instant) -> Session {
    Session::import(state, Arc::new(setup.limits.clone()), None, now)
}

#[test]
fn the_state_has_the_values_of_the_session() {
    let setup = Setup {
        expires_after: Some(Duration::from_secs(60)),
        expiry_code: CloseCode(4403),
        age_jitter: 7,
        ..lenient().with(|limits| {
            limits.check_utf8 = true;
            limits.upstream_ping_interval = Some(Duration::from_secs(1));
        })
    };
    // The fragment ends inside a character.
    let events = [
        begin(Client, TEXT, 7, "äxy"),
        from(Upstream, BINARY, "abc"),
        Pass(1_500),
        more(Client, [b'u', 0xe2, 0x82]),
        Pass(500),
        Block(Client),
        Drain(5_000),
    ];
    let mut relay = play(setup, &events[..]);
    relay.send(Message::from("queued".to_owned())).unwrap();
    relay.close(CloseCode(4001), "bye");
    let now = relay.now;
    let state = export(&mut relay);
    let inspector = InspectorState {
        remaining: 0,
        message: Some(7),
        text: Some(vec![0xe2, 0x82]),
        mask: state.client.inspector.mask,
        fin: false,
    };
    assert_eq!(state.client.inspector, inspector);
    assert_eq!(state.upstream.inspector.message, Some(3));
    assert_eq!((state.client.input, state.upstream.input), (Input::Open, Input::Open));
    assert_eq!(state.expires, Some((RelativeTime(58_000_000_000), CloseCode(4403))));
    assert_eq!((state.opened_at, state.age_jitter), (RelativeTime(-2_000_000_000), 7));
    assert_eq!(state.drain_at, Some(RelativeTime(5_000_000_000)));
    assert_eq!(state.data_passed, RelativeTime(-500_000_000));
    assert_eq!(state.upstream.last_activity, RelativeTime(-2_000_000_000));
    assert_eq!(state.upstream.pinged, Some(RelativeTime(-500_000_000)));
    assert_eq!(state.client.blocked_since, Some(RelativeTime(0)));
    assert_eq!(state.close, Some(CommandedClose::new(CloseCode(4001), "bye")));
    assert_eq!((state.ping_tag, state.pings), (PING_TAG, 1));
    assert_eq!(state.counts.upstream, DirectionStats { messages: 1, bytes: 5 });
    assert_eq!(state.outcome.map(|outcome| outcome.cause), Some(CloseReason::Command));
    assert!(state.check_utf8 && !state.compressed);
    assert_eq!(import(state.clone(), &lenient(), now).export(now), state);
}

#[test]
fn queued_messages_are_a_part_of_the_state() {
    let mut relay = play(lenient(), &[from(Upstream, TEXT, "a")]);
    let messages = vec![Message::from("one".to_owned()), Message::from(vec![2])];
    messages.iter().for_each(|message| relay.send(message.clone()).unwrap());
    let state = export(&mut relay);
    let queued: Vec<Message> = state.messages.iter().map(|(message, _)| message.clone()).collect();
    assert_eq!(queued, messages);
    let mut session = import(state, &lenient(), relay.now);
    assert_eq!(session.poll_action(relay.now), None);
    session.receive(Upstream, &wire::frame(FIN | CONTINUATION, None, b"b"), relay.now);
    for message in messages {
        assert_eq!(session.poll_action(relay.now), Some(Action::SendMessage(message)));
    }
    assert_eq!(session.poll_action(relay.now), None);
}

/// The clock of another process may have a different origin, earlier or later.
#[test]
fn times_are_relative_to_the_import() {
    let setup = Setup {
        expires_after: Some(Duration::from_secs(60)),
        ..lenient().with(|limits| limits.idle_timeout = Some(Duration::from_secs(50)))
    };
    let mut relay = play(setup.clone(), &[text(Client, "a"), Pass(20 * SECOND)]);
    let state = export(&mut relay);
    for now in [relay.now + Duration::from_secs(1_000_000), relay.now - Duration::from_secs(1_000)] {
        let mut session = import(state.clone(), &setup, now);
        assert_eq!(session.poll_timeout(), Some(now + Duration::from_secs(30)));
        assert!(session.deadline_changed(), "the timer of the process is new");
        session.handle_timeout(now + Duration::from_secs(30));
        assert!(session.poll_action(now + Duration::from_secs(30)).is_some());
    }
}

#[test]
fn the_import_applies_new_limits_and_keeps_what_was_negotiated() {
    let setup = Setup { compressed: true, ..lenient().with(|limits| limits.check_utf8 = true) };
    let mut relay = play(setup, &[from(Client, BINARY, "12345")]);
    let now = relay.now;
    let state = export(&mut relay);
    let limited = lenient().with(|limits| limits.message_max_bytes = 8);
    let again = import(state.clone(), &limited, now).export(now);
    assert!(again.compressed && again.check_utf8);
    let mut session = import(state, &limited, now);
    session.receive(Client, &wire::frame(CONTINUATION, key(Client), b"6789"), now);
    let cause = session.abort(CloseReason::Aborted).cause;
    assert_eq!(cause, CloseReason::Violation(Client, Violation::MessageTooBig));
}

#[test]
fn times_that_are_far_away_saturate() {
    let now = Instant::now();
    let far = now + Duration::from_secs(300 * 365 * 86_400);
    assert_eq!(RelativeTime::since(far, now), RelativeTime(i64::MAX));
    assert_eq!(RelativeTime::since(now, far), RelativeTime(-i64::MAX));
    for nanos in [i64::MIN, -i64::MAX, -1, 0, 1, i64::MAX] {
        let there_and_back = RelativeTime::since(RelativeTime(nanos).to_instant(now), now);
        assert_eq!(there_and_back, RelativeTime(nanos.max(-i64::MAX)));
    }
}
