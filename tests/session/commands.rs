//! An operator's commands: close, new limits, another expiry.

use std::num::NonZeroU32;

use tollgate::policy::limits::Limits;
use tollgate::policy::quota::{Quota, Rate};

use super::*;

const BYE: Event = Command(CloseCode(4001), "bye");

fn commanded() -> Option<Outcome> {
    end(ClosedBy::Tollgate, 4001, CloseReason::Command)
}

// Close.

#[test]
fn a_command_closes_both_sides_with_its_code_and_reason() {
    let closed = ["close 4001 bye"];
    check(lenient(), std::slice::from_ref(&BYE), &closed, &closed, None);
    let events = [text(Client, "a"), BYE, close(Client, 4001, "bye"), close(Upstream, 4001, "")];
    check(lenient(), &events, &closed, &["text a", "close 4001 bye"], commanded());
    check(lenient(), &[BYE, Disconnect(Client), Disconnect(Upstream)], &closed, &closed, commanded());
    check(lenient(), &[BYE, Pass(5 * SECOND - 1)], &closed, &closed, None);
    check(lenient(), &[BYE, Pass(5 * SECOND)], &closed, &closed, commanded());
}

#[test]
fn a_commanded_close_has_a_valid_code_and_a_reason_that_fits() {
    let long = "ä".repeat(62);
    let cases = [
        (1000, "", "close 1000".to_owned()),
        (1012, "restart", "close 1012 restart".to_owned()),
        (1005, "no code", "close 1008 no code".to_owned()),
        (0, "", "close 1008".to_owned()),
        (65_535, "", "close 1008".to_owned()),
        (4999, &"a".repeat(124), format!("close 4999 {}", "a".repeat(123))),
        (4999, &long, format!("close 4999 {}", "ä".repeat(61))),
    ];
    for (code, reason, expected) in cases {
        let mut relay = Relay::new(lenient(), Instant::now());
        relay.close(CloseCode(code), reason);
        for side in Side::BOTH {
            assert_eq!(shown(&relay, side), [&*expected]);
        }
    }
}

#[test]
fn a_command_closes_a_session_whose_client_exceeds_its_rate() {
    let setup = lenient().rate(1, 1, Delay);
    let events = [text(Client, "a"), text(Client, "b"), BYE];
    let relay = play(setup.clone(), &events);
    assert!(!relay.session.waiting(Client));
    // The delayed message is not forwarded early, and the Close after it is received.
    let events = [&events[..], &[close(Client, 4001, ""), close(Upstream, 4001, "")]].concat();
    check(setup, &events, &["close 4001 bye"], &["text a", "close 4001 bye"], commanded());
}

#[test]
fn a_command_returns_the_reservation_of_the_message_that_waits() {
    let shared = Arc::new(Limiter::new(quota(1, 1)));
    let setup = Setup { messages: Some(shared), ..lenient().rate(1, 1, Delay) };
    let now = Instant::now();
    let [mut closed, mut other] = [(); 2].map(|()| Relay::new(setup.clone(), now));
    for event in [text(Client, "a"), text(Client, "b"), BYE] {
        apply(&mut closed, &event);
    }
    apply(&mut other, &text(Client, "c"));
    other.pass(Duration::from_secs(1));
    assert_eq!(shown(&other, Upstream), ["text c"]);
}

#[test]
fn a_command_closes_a_session_with_a_blocked_side() {
    for side in Side::BOTH {
        let closed = ["close 4001 bye"];
        check(lenient(), &[Block(side), BYE], &closed, &closed, None);
        check(lenient(), &[Block(side), BYE, Pass(5 * SECOND)], &closed, &closed, commanded());
    }
}

#[test]
fn a_commanded_close_waits_for_the_end_of_a_frame() {
    let whole = ["text word", "close 4001 bye"];
    for side in Side::BOTH {
        let events = [begin(side, FIN | TEXT, 4, ""), BYE];
        let relay = play(lenient(), &events);
        assert_eq!(shown(&relay, side), ["close 4001 bye"]);
        assert_eq!(shown(&relay, side.other()), ["text(0 of 4)"]);
        let relay = play(lenient(), &[&events[..], &[more(side, "word"), text(side, "late")]].concat());
        assert_eq!(shown(&relay, side.other()), whole);
        let relay = play(lenient(), &[from(side, TEXT, "word"), BYE]);
        assert_eq!(shown(&relay, side.other()), ["text+ word", "close 4001 bye"]);
    }
}

#[test]
fn a_command_has_no_effect_on_a_session_that_is_closing_or_has_ended() {
    let events = [close(Client, 4000, ""), BYE, Pass(5 * SECOND)];
    check(lenient(), &events, &["close 4000"], &["close 4000"], end(ClosedBy::Client, 4000, CloseReason::Closed));
    let first = ["close 4001 bye"];
    let events = [BYE, Command(CloseCode(4002), "again"), Pass(5 * SECOND), BYE];
    check(lenient(), &events, &first, &first, commanded());
    let drained = ["close 1001 going away"];
    let outcome = end(ClosedBy::Tollgate, 1001, CloseReason::Drain);
    check(lenient(), &[Drain(0), Pass(0), BYE, Pass(5 * SECOND)], &drained, &drained, outcome);
    let mut relay = play(lenient(), &[]);
    let cut = relay.session.abort(CloseReason::Aborted);
    relay.session.close(CloseCode::NORMAL, "", relay.now);
    assert_eq!(relay.session.poll_action(relay.now), None);
    assert_eq!(relay.session.abort(CloseReason::Closed), cut);
}

// Limits.

/// Plays events, changes the limits, and plays further events.
fn play_with_change(setup: Setup, before: &[Event], change: impl FnOnce(&mut Limits), after: &[Event]) -> Relay {
    let limits = setup.clone().with(change).limits;
    let mut relay = play(setup, before);
    relay.set_limits(limits);
    after.iter().for_each(|event| apply(&mut relay, event));
    relay
}

#[track_caller]
fn assert_violation(relay: &Relay, side: Side, violation: Violation) {
    let cause = relay.outcome.map(|outcome| outcome.cause);
    assert_eq!(cause, Some(CloseReason::Violation(side, violation)));
}

#[test]
fn new_frame_limits_apply_from_the_next_frame() {
    let small = |limits: &mut Limits| limits.frame_max_bytes = 4;
    let before = [begin(Client, FIN | BINARY, 8, "1234")];
    let relay =
        play_with_change(lenient(), &before, small, &[more(Client, "5678"), from(Client, FIN | BINARY, "1234")]);
    assert_eq!(shown(&relay, Upstream), ["binary 12345678", "binary 1234"]);
    let after = [more(Client, "5678"), from(Client, FIN | BINARY, "12345"), Pass(5 * SECOND)];
    assert_violation(&play_with_change(lenient(), &before, small, &after), Client, Violation::FrameTooBig);
    let setup = lenient().with(small);
    let relay = play_with_change(setup, &[], |limits| limits.frame_max_bytes = 5, &[from(Client, FIN | TEXT, "12345")]);
    assert_eq!(shown(&relay, Upstream), ["text 12345"]);
}

#[test]
fn a_message_in_progress_is_judged_by_its_new_limit_at_its_next_frame() {
    for side in Side::BOTH {
        let limit = |max_bytes: u64| {
            move |limits: &mut Limits| match side {
                Client => limits.message_max_bytes = max_bytes,
                Upstream => limits.upstream_message_max_bytes = Some(max_bytes),
            }
        };
        let before = [from(side, BINARY, "12345")];
        let after = [from(side, FIN | CONTINUATION, "6"), Pass(5 * SECOND)];
        let relay = play_with_change(lenient().with(limit(20)), &before, limit(5), &after);
        assert_violation(&relay, side, Violation::MessageTooBig);
        let relay = play_with_change(lenient().with(limit(5)), &before, limit(6), &after);
        assert_eq!(shown(&relay, side.other()), ["binary+ 12345", "continuation 6"]);
    }
}

#[test]
fn a_new_overhead_quota_applies_to_the_old_count() {
    let overhead = |burst| move |limits: &mut Limits| limits.overhead = quota(1, burst);
    let pings = |count| vec![from(Client, FIN | PING, ""); count];
    let setup = lenient().with(overhead(3));
    let exceeded = |relay: Relay| relay.outcome.map(|outcome| outcome.cause) == Some(CloseReason::OverheadRate);
    let after = |count| [pings(count), vec![Pass(5 * SECOND)]].concat();
    assert!(exceeded(play_with_change(setup.clone(), &pings(2), overhead(2), &after(1))));
    assert!(!exceeded(play_with_change(setup.clone(), &pings(2), overhead(10), &after(8))));
    assert!(exceeded(play_with_change(setup, &pings(2), overhead(10), &after(9))));
}

fn rate(per_second: u32, burst: u32, on_excess: tollgate::policy::limits::OnExcess) -> impl Fn(&mut Limits) {
    move |limits| *limits = lenient().rate(per_second, burst, on_excess).limits
}

#[test]
fn a_new_message_quota_applies_to_the_old_count() {
    let texts = |count| vec![text(Client, ""); count];
    let setup = lenient().rate(1, 3, Close);
    let exceeded = |relay: Relay| relay.outcome.map(|outcome| outcome.cause) == Some(CloseReason::MessageRate);
    let after = |count| [texts(count), vec![Pass(5 * SECOND)]].concat();
    assert!(exceeded(play_with_change(setup.clone(), &texts(2), rate(1, 2, Close), &after(1))));
    assert!(!exceeded(play_with_change(setup.clone(), &texts(2), rate(1, 5, Close), &after(3))));
    assert!(exceeded(play_with_change(setup.clone(), &texts(2), rate(1, 5, Close), &after(4))));
    assert!(!exceeded(play_with_change(setup, &texts(3), |limits| limits.messages = None, &after(9))));
}

/// Returns a relay whose fourth message waits for a second.
fn delayed() -> Relay {
    let relay = play(lenient().rate(1, 3, Delay), &["a", "b", "c", "d"].map(|payload| text(Client, payload)));
    assert!(relay.session.waiting(Client));
    relay
}

#[test]
fn a_message_that_waits_is_judged_again_by_the_new_quota() {
    // The change, and after how many milliseconds the message is forwarded.
    let slow = Quota {
        rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(10) },
        burst: NonZeroU32::new(3).unwrap(),
    };
    let table: [(&str, Box<dyn Fn(&mut Limits)>, u64); 6] = [
        ("no quota", Box::new(|limits| limits.messages = None), 0),
        ("a larger burst", Box::new(rate(1, 4, Delay)), 0),
        ("the same quota", Box::new(|_| ()), 1_000),
        ("a smaller burst", Box::new(rate(1, 1, Delay)), 3_000),
        (
            "a lower rate, of which less is used",
            Box::new(move |limits| {
                limits.messages.as_mut().unwrap().quota = slow;
            }),
            0,
        ),
        ("a higher rate without a burst", Box::new(rate(10, 1, Delay)), 3_000),
    ];
    for (what, change, ms) in table {
        let mut relay = delayed();
        let limits = lenient().rate(1, 3, Delay).with(change).limits;
        relay.set_limits(limits);
        if ms > 0 {
            relay.pass(Duration::from_millis(ms - 1));
            assert_eq!(shown(&relay, Upstream).len(), 3, "{what}: too early");
            relay.pass(Duration::from_millis(1));
        }
        assert_eq!(shown(&relay, Upstream).len(), 4, "{what}: too late");
        assert_eq!(relay.session.counts().throttled, 1, "{what}");
    }
}

#[test]
fn the_delay_of_a_client_does_not_count_as_idle_after_a_change() {
    let mut relay = delayed();
    relay.block(Upstream);
    relay.pass(Duration::from_millis(900));
    relay.set_limits(lenient().with(|limits| limits.idle_timeout = Some(Duration::from_millis(500))).limits);
    relay.pass(Duration::from_millis(499));
    assert!(shown(&relay, Client).is_empty());
    relay.pass(Duration::from_millis(1));
    assert_eq!(shown(&relay, Client), ["close 1001 idle timeout"]);
}

#[test]
fn a_message_that_waits_may_be_dropped_or_end_the_session_under_the_new_quota() {
    let mut relay = delayed();
    relay.set_limits(lenient().rate(1, 3, Drop).limits);
    assert!(!relay.session.waiting(Client));
    relay.pass(Duration::from_secs(1));
    apply(&mut relay, &text(Client, "e"));
    assert_eq!(shown(&relay, Upstream), ["text a", "text b", "text c", "text e"]);
    let mut relay = delayed();
    relay.set_limits(lenient().rate(1, 3, Close).limits);
    apply(&mut relay, &close(Upstream, 1008, ""));
    assert_eq!(shown(&relay, Client), ["close 1008 message rate exceeded"]);
}

#[test]
fn a_reservation_with_the_old_limiter_is_returned() {
    let shared = Arc::new(Limiter::new(quota(1, 1)));
    let setup = Setup { messages: Some(Arc::clone(&shared)), ..lenient().rate(1, 1, Delay) };
    let mut relay = play(setup, &[text(Client, "a"), text(Client, "b")]);
    relay.set_limits(lenient().limits);
    assert_eq!(shown(&relay, Upstream), ["text a", "text b"]);
    assert_eq!(shared.reserve(relay.now), Ok(relay.now + Duration::from_secs(1)));
}

#[test]
fn delayed_sessions_keep_their_order_if_their_quota_is_unchanged() {
    let shared = Arc::new(Limiter::new(quota(1, 1)));
    let setup = Setup { messages: Some(shared), ..lenient().rate(1, 1, Delay) };
    let now = Instant::now();
    let mut relays = [(); 3].map(|()| Relay::new(setup.clone(), now));
    relays.iter_mut().for_each(|relay| apply(relay, &text(Client, "a")));
    for relay in &mut relays {
        relay.set_limits(setup.clone().with(|limits| limits.idle_timeout = Some(Duration::from_secs(60))).limits);
    }
    for passed in 1..=3 {
        let received = relays.each_ref().map(|relay| shown(relay, Upstream).len());
        assert_eq!(received.iter().sum::<usize>(), passed);
        assert!(received.is_sorted_by(|one, other| one >= other), "{received:?}");
        relays.iter_mut().for_each(|relay| relay.pass(Duration::from_secs(1)));
    }
}

#[test]
fn new_timeouts_are_measured_from_the_same_instants() {
    let seconds = Duration::from_secs;
    let idle = |after| move |limits: &mut Limits| limits.idle_timeout = Some(seconds(after));
    let pings = |after| move |limits: &mut Limits| limits.ping_interval = Some(seconds(after));
    let pong = |after| move |limits: &mut Limits| limits.pong_timeout = seconds(after);
    let closing = |after| move |limits: &mut Limits| limits.close_timeout = seconds(after);
    let writing = |after| move |limits: &mut Limits| limits.write_timeout = seconds(after);
    let table: [(&str, Setup, &[Event], Box<dyn Fn(&mut Limits)>, u64); 9] = [
        ("a longer idle timeout", lenient().with(idle(60)), &[Pass(30_000)], Box::new(idle(90)), 60),
        ("a shorter idle timeout", lenient().with(idle(60)), &[Pass(30_000)], Box::new(idle(40)), 10),
        ("an idle timeout that has passed", lenient().with(idle(60)), &[Pass(30_000)], Box::new(idle(20)), 0),
        ("pings", lenient(), &[Pass(30_000)], Box::new(pings(50)), 30),
        ("a shorter pong timeout", lenient().with(pings(10)), &[Pass(15_000)], Box::new(pong(7)), 2),
        ("a longer close timeout", lenient(), &[BYE, Pass(3_000)], Box::new(closing(9)), 6),
        ("a shorter close timeout", lenient(), &[BYE, Pass(3_000)], Box::new(closing(1)), 0),
        ("a longer write timeout", lenient(), &[Block(Client), Pass(20_000)], Box::new(writing(40)), 20),
        ("a side after a failed write", lenient(), &[CloseWrite(Client), Pass(3_000)], Box::new(closing(9)), 6),
    ];
    for (what, setup, before, change, after) in table {
        // The session begins to close, or ends, at this time and not before.
        let ends =
            |relay: &Relay| relay.outcome.is_some() || shown(relay, Upstream).len() > usize::from(has_command(before));
        let mut relay = play_with_change(setup, before, change, &[]);
        if after > 0 {
            relay.pass(seconds(after) - Duration::from_millis(1));
            assert!(!ends(&relay), "{what}: too early");
        }
        relay.pass(Duration::from_millis(u64::from(after > 0)));
        assert!(ends(&relay), "{what}: too late");
    }
}

fn has_command(events: &[Event]) -> bool {
    events.iter().any(|event| matches!(event, Command(..)))
}

#[test]
fn compression_and_the_check_of_text_stay_as_negotiated() {
    let checking = |on| move |limits: &mut Limits| limits.check_utf8 = on;
    let bad = [from(Client, FIN | TEXT, [0xff]), Pass(5 * SECOND)];
    let relay = play_with_change(lenient(), &[], checking(true), &bad);
    assert_eq!(relay.outcome, None);
    let relay = play_with_change(lenient().with(checking(true)), &[], checking(false), &bad);
    assert_violation(&relay, Client, Violation::TextNotUtf8);
    let compressed = Setup { compressed: true, ..lenient() };
    let marked = [from(Client, FIN | RSV1 | TEXT, "x")];
    let relay = play_with_change(compressed, &[], |limits| limits.message_max_bytes = 10, &marked);
    assert_eq!(shown(&relay, Upstream), ["text* x"]);
}

#[test]
fn compressed_messages_are_delayed_and_never_dropped() {
    let compressed = Setup { compressed: true, ..lenient() };
    let texts = [text(Client, "a"), text(Client, "b"), text(Client, "c")];
    let mut relay = play_with_change(compressed, &[], rate(1, 1, Drop), &texts);
    assert!(relay.session.waiting(Client));
    relay.pass(Duration::from_secs(2));
    assert_eq!(shown(&relay, Upstream), ["text a", "text b", "text c"]);
    assert_eq!(relay.session.counts().throttled, 2);
}

// Expiry.

#[test]
fn the_expiry_may_change_until_the_session_closes() {
    let expiring = Setup { expires_after: Some(Duration::from_secs(60)), ..lenient() };
    // The setup, the new expiry after 30 seconds, and how many seconds later the session closes.
    let table = [
        (expiring.clone(), Some(10), Some(10)),
        (expiring.clone(), Some(90), Some(90)),
        (expiring.clone(), Some(0), Some(0)),
        (expiring, None, None),
        (lenient(), Some(10), Some(10)),
    ];
    for (setup, expires_after, closes_after) in table {
        let mut relay = play(setup, &[Pass(30 * SECOND)]);
        relay.set_expiry(expires_after.map(Duration::from_secs));
        if let Some(after) = closes_after.filter(|after| *after > 0) {
            relay.pass(Duration::from_secs(after) - Duration::from_millis(1));
            assert!(shown(&relay, Client).is_empty());
        }
        relay.pass(closes_after.map_or(Duration::from_secs(1_000_000), |_| Duration::from_millis(1)));
        let expected: &[&str] = if closes_after.is_some() { &["close 1008 token expired"] } else { &[] };
        assert_eq!(shown(&relay, Client), expected);
    }
    let mut relay = play(lenient(), std::slice::from_ref(&BYE));
    relay.set_expiry(Some(Duration::ZERO));
    relay.pass(Duration::from_secs(5));
    assert_eq!(relay.outcome, commanded());
}

/// The section of the token may have a close code of its own. A session that closes already keeps its reason.
#[test]
fn the_close_of_an_expired_token_has_the_code_of_its_section() {
    let setup = Setup { expires_after: Some(Duration::from_secs(60)), expiry_code: CloseCode(4403), ..lenient() };
    let both = ["close 4403 token expired"];
    let outcome = end(ClosedBy::Tollgate, 4403, CloseReason::TokenExpired);
    let mut relay = play(setup, &[Pass(60 * SECOND - 1)]);
    assert!(shown(&relay, Client).is_empty());
    relay.pass(Duration::from_millis(1));
    // No later expiry changes the Close that the other side gets after its frame.
    relay.set_expiry(None);
    assert_eq!(
        (shown(&relay, Client), shown(&relay, Upstream)),
        (both.map(str::to_owned).into(), both.map(str::to_owned).into())
    );
    relay.pass(Duration::from_secs(5));
    assert_eq!(relay.outcome, outcome);
}

/// A side in the middle of a frame gets its Close later, with the same code.
#[test]
fn a_later_expiry_does_not_change_the_close_in_progress() {
    let setup = Setup { expires_after: Some(Duration::from_secs(1)), expiry_code: CloseCode(4403), ..lenient() };
    let mut relay = play(setup, &[begin(Client, FIN | TEXT, 6, "abcd"), Pass(SECOND)]);
    relay.set_expiry(Some(Duration::from_secs(60)));
    apply(&mut relay, &more(Client, "ef"));
    assert_eq!(shown(&relay, Upstream), ["text abcdef", "close 4403 token expired"]);
    assert_eq!(shown(&relay, Client), ["close 4403 token expired"]);
}

// Age.

/// The age is measured from the 101, whatever passes, and a random number takes up to a tenth from it.
#[test]
fn a_session_ends_at_its_maximum_age_less_its_share_of_a_tenth() {
    let aged = |seconds, age_jitter| Setup {
        age_jitter,
        ..lenient().with(|limits| limits.max_session_age = Some(Duration::from_secs(seconds)))
    };
    for (seconds, jitter, ends_at_ms) in
        [(100, 0, 100_000), (100, 0x8000, 95_000), (100, u16::MAX, 90_001), (3600, 0x4000, 3_510_000)]
    {
        let mut relay = play(aged(seconds, jitter), &[Pass(ends_at_ms / 2), text(Client, "x"), text(Upstream, "y")]);
        assert_eq!(relay.session.next_deadline().map(|(_, name)| name), Some("max_session_age"));
        relay.pass(Duration::from_millis(ends_at_ms - ends_at_ms / 2 - 1));
        assert!(!relay.session.is_closing(), "{seconds} s, {jitter}");
        relay.pass(Duration::from_millis(1));
        assert_eq!(shown(&relay, Client).last().unwrap(), "close 1001 maximum session age", "{seconds} s, {jitter}");
    }
}

#[test]
fn a_new_maximum_age_is_measured_from_the_start_of_the_session() {
    // The ages before and after a change at 30 seconds, and when the session closes.
    let table = [(None, Some(40), 40), (Some(40), Some(90), 90), (Some(90), Some(20), 30), (Some(40), None, 0)];
    for (before, after, closes_at) in table {
        let seconds = |age: Option<u64>| age.map(Duration::from_secs);
        let setup = lenient().with(|limits| limits.max_session_age = seconds(before));
        let aged = move |limits: &mut Limits| limits.max_session_age = seconds(after);
        let mut relay = play_with_change(setup, &[Pass(30 * SECOND)], aged, &[]);
        if closes_at > 30 {
            relay.pass(Duration::from_secs(closes_at - 30) - Duration::from_millis(1));
            assert!(!relay.session.is_closing(), "{before:?} to {after:?}");
        }
        relay.pass(if closes_at == 0 { Duration::from_secs(1_000) } else { Duration::from_millis(1) });
        assert_eq!(relay.session.is_closing(), closes_at > 0, "{before:?} to {after:?}");
    }
}
