//! Tests of commands to sessions, in every state of a session and on a runtime.

use tokio::net::UnixStream;

use super::super::description::SessionActivity;
use super::super::registry::Command;
use super::super::renewal_count::RenewalCount;
use super::*;
use crate::policy::client_slots::ClientSlots;
use crate::policy::counters::SharedCounts;
use crate::policy::recheck::TermChanges;
use crate::telemetry::metrics::gauges::Gauges;

/// The states of a session in which a command must reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Throttled,
    ClientBlocked,
    UpstreamBlocked,
    Hibernating,
    Closing,
    Lingering,
}

/// Returns a relay whose session is in `state` after its first poll, and the bytes that each side has received.
fn relay_in_state(
    worker: &SessionContext,
    state: State,
    now: Instant,
) -> (Relay<Peer, Peer>, [Rc<RefCell<Vec<u8>>>; 2]) {
    let (text, close) = (vec![0x81, 1, b'x'], vec![0x88, 0]);
    let (masked_text, masked_close) = (vec![0x81, 0x81, 0, 0, 0, 0, b'x'], vec![0x88, 0x80, 0, 0, 0, 0]);
    let (from_client, from_upstream) = match state {
        State::Idle | State::Hibernating => (Vec::new(), Vec::new()),
        State::Throttled => (masked_text.repeat(2), Vec::new()),
        State::ClientBlocked => (Vec::new(), text),
        State::UpstreamBlocked => (masked_text, Vec::new()),
        State::Closing => (Vec::new(), close),
        State::Lingering => (masked_close, close),
    };
    let (client, upstream) = (Peer::new(from_client, Then::IsSilent), Peer::new(from_upstream, Then::IsSilent));
    client.accepts.set(if state == State::ClientBlocked { 0 } else { usize::MAX });
    upstream.accepts.set(if state == State::UpstreamBlocked { 0 } else { usize::MAX });
    let received = [Rc::clone(&client.received), Rc::clone(&upstream.received)];
    let rate = Rate { count: NonZeroU32::MIN, period: Duration::from_secs(3_600) };
    let quota = Quota { rate, burst: NonZeroU32::MIN };
    let messages = MessageQuota { quota, key: RateKey::Session, on_excess: OnExcess::Delay };
    let terms = SessionConfig {
        messages: Some(Arc::new(Limiter::new(quota))),
        ..terms(Limits { messages: Some(messages), close_timeout: PATIENCE, ..limits() })
    };
    let mut relay = relay_in(worker, terms, client, upstream, now);
    if state == State::Hibernating {
        relay.hibernate_at = None;
        relay.client.hibernate();
    }
    (relay, received)
}

#[test]
fn a_command_reaches_a_session_in_every_state() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let reason = b"goodbye";
    for (state, activity) in [
        (State::Idle, SessionActivity::Open),
        (State::Throttled, SessionActivity::Throttled),
        (State::ClientBlocked, SessionActivity::Open),
        (State::UpstreamBlocked, SessionActivity::Open),
        (State::Hibernating, SessionActivity::Open),
        (State::Closing, SessionActivity::Closing),
        (State::Lingering, SessionActivity::Lingering),
    ] {
        let worker = SessionContext::default();
        let (mut relay, received) = relay_in_state(&worker, state, clock::now());
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending(), "{state:?}");
        let mut describe = || {
            let (reply, mut replied) = tokio::sync::mpsc::channel(1);
            worker.registry().deliver(RequestId(1), Command::Describe(reply)).unwrap();
            assert!(Pin::new(&mut relay).poll(&mut cx).is_pending(), "{state:?}");
            replied.try_recv().unwrap()
        };
        let info = describe();
        assert_eq!((info.activity, info.id), (activity, RequestId(1)), "{state:?}");
        assert_eq!(info.stats.throttled, u64::from(state == State::Throttled), "{state:?}");
        let close = Command::Close { code: CloseCode(4_001), reason: "goodbye".into() };
        worker.registry().deliver(RequestId(1), close).unwrap();
        let was_open = activity != SessionActivity::Closing && activity != SessionActivity::Lingering;
        let expected = if was_open { SessionActivity::Closing } else { activity };
        assert_eq!(describe().activity, expected, "{state:?}");
        let has_reason = |received: &[u8]| received.windows(reason.len()).any(|window| window == reason);
        // A blocked side gets its Close when it accepts bytes again. The upstream's is masked.
        let client_was_told = has_reason(&received[0].borrow());
        assert_eq!(client_was_told, was_open && state != State::ClientBlocked, "{state:?}");
        let upstream_closes = received[1].borrow().windows(2).filter(|window| *window == [0x88, 0x80 | 9]).count();
        assert_eq!(upstream_closes, usize::from(was_open && state != State::UpstreamBlocked), "{state:?}");
        drop(relay);
        assert!(worker.registry().list().is_empty());
    }
}

#[test]
fn new_limits_and_messages_reach_a_throttled_session() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let worker = SessionContext::default();
    let (mut relay, received) = relay_in_state(&worker, State::Throttled, clock::now());
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(relay.session.counts().client.messages, 1);
    let message = Message::Text("hello".into());
    worker.registry().deliver(RequestId(1), Command::Send(message)).unwrap();
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(*received[0].borrow(), b"\x81\x05hello");
    // Without a quota the delayed message is forwarded.
    let set_terms = |at: Option<Instant>| {
        let expires = at.map(|at| Expiry { at, code: CloseCode::POLICY_VIOLATION });
        let limits = Arc::new(limits());
        let changes = TermChanges { limits, shared: SharedCounts::default(), expires, slots: ClientSlots::default() };
        worker.registry().deliver(RequestId(1), Command::SetTerms(Box::new(changes))).unwrap();
    };
    set_terms(None);
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    assert_eq!(relay.session.counts().client.messages, 2);
    // An expiry that has passed ends the session.
    set_terms(Some(clock::now()));
    let start = clock::now();
    while !relay.session.is_closing() {
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
        assert!(clock::now() < start + PATIENCE, "the timer is not set to the new expiry");
    }
}

/// A command wakes an idle session on a runtime. The session closes both sides and is removed from its registry.
#[test]
fn a_command_wakes_a_session_on_a_runtime() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let worker = SessionContext::default();
        let (mut client, client_side) = UnixStream::pair().unwrap();
        let (mut upstream, upstream_side) = UnixStream::pair().unwrap();
        let [client_side, upstream_side] = [client_side, upstream_side].map(UpstreamStream::from);
        let terms = terms(Limits { close_timeout: PATIENCE, ..limits() });
        let relay = relay_in(&worker, terms, client_side, upstream_side, clock::now());
        let registry = Arc::clone(worker.registry());
        let ends = async {
            // Once the message is forwarded, the session waits for further bytes.
            client.write_all(&[0x81, 0x81, 0, 0, 0, 0, b'x']).await.unwrap();
            assert_eq!(upstream.read(&mut [0; 16]).await.unwrap(), 7);
            let close = Command::Close { code: CloseCode(4_001), reason: "bye".into() };
            registry.deliver(RequestId(1), close).unwrap();
            let mut frame = [0; 7];
            client.read_exact(&mut frame).await.unwrap();
            assert_eq!(frame, [0x88, 5, 0x0f, 0xa1, b'b', b'y', b'e']);
            assert_eq!(upstream.read(&mut [0; 16]).await.unwrap(), 11);
            client.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x0f, 0xa1]).await.unwrap();
            upstream.write_all(&[0x88, 2, 0x0f, 0xa1]).await.unwrap();
            drop((client, upstream));
        };
        tokio::join!(relay, ends);
        assert!(worker.registry().list().is_empty());
    });
}

#[test]
fn a_message_to_a_closing_session_is_counted_as_a_send_failure() {
    let (metrics, now) = (Metrics::new(Duration::ZERO), clock::now());
    let worker = SessionContext::new(metrics.worker());
    let (mut relay, _received) = relay_in_state(&worker, State::Closing, now);
    let mut cx = Context::from_waker(std::task::Waker::noop());
    assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    for expected in [0, 1] {
        let line = format!("tollgate_send_failures_total{{route=\"all\"}} {expected}\n");
        assert!(metrics.encode(&Gauges::default()).contains(&line), "{line}");
        worker.registry().deliver(RequestId(1), Command::Send(message("late"))).unwrap();
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending());
    }
}

/// The answer to a refresh counts the sessions that go on, and does not wait for others.
#[test]
fn a_session_that_is_closing_or_over_is_not_renewed() {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    let states = [
        (State::Idle, 1),
        (State::Throttled, 1),
        (State::ClientBlocked, 1),
        (State::UpstreamBlocked, 1),
        (State::Hibernating, 1),
        (State::Closing, 0),
        (State::Lingering, 0),
    ];
    for (state, renewed) in states {
        let worker = SessionContext::default();
        let (mut relay, _received) = relay_in_state(&worker, state, clock::now());
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending(), "{state:?}");
        let (count, total) = RenewalCount::new();
        let key = worker.registry().keys()[0];
        worker.registry().set_expiry(key, None, count);
        let mut total = std::pin::pin!(total.total());
        assert!(total.as_mut().poll(&mut cx).is_pending(), "{state:?}: the session was not polled");
        assert!(Pin::new(&mut relay).poll(&mut cx).is_pending(), "{state:?}");
        assert_eq!(total.as_mut().poll(&mut cx), Poll::Ready(renewed), "{state:?}");
    }
    // A session that ends before it is polled is not waited for either.
    let worker = SessionContext::default();
    let (relay, _received) = relay_in_state(&worker, State::Idle, clock::now());
    let (count, total) = RenewalCount::new();
    worker.registry().set_expiry(worker.registry().keys()[0], None, count);
    drop(relay);
    assert_eq!(std::pin::pin!(total.total()).poll(&mut cx), Poll::Ready(0));
}
