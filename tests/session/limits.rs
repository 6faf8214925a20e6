//! Byte quotas, and limits that are only reported.

use tollgate::policy::byte_quota::ByteLimiter;
use tollgate::policy::limits::{LimitAction, LimitKind};

use super::*;

/// Returns what the limits of a session would have done.
fn reported(relay: &Relay) -> Vec<(&'static str, u64)> {
    relay.session.reported().map(|(limit, count)| (limit.label(), count)).collect()
}

fn binary(side: Side, payload_len: usize) -> Event {
    from(side, FIN | BINARY, vec![b'x'; payload_len])
}

/// The header of a client's frame has six bytes, that of the upstream two.
#[test]
fn each_direction_has_a_quota_of_bytes_with_headers() {
    let setup = || lenient().byte_rate(100, 100, Close);
    let passes = [binary(Client, 94), binary(Upstream, 98)];
    assert_eq!(play(setup(), &passes).session.counts().client.bytes, 100);
    assert_eq!(play(setup(), &passes).session.counts().upstream.bytes, 100);
    for (side, len) in [(Client, 95), (Upstream, 99)] {
        let relay = play(setup(), &[binary(side, len)]);
        // No part of the frame is forwarded.
        assert!(relay.forwarded(side.other()).is_empty(), "{side:?}");
        assert_eq!(relay.session.counts().throttled, 1);
    }
    // Half of the bytes are replenished after half a second.
    let relay = play(setup(), &[binary(Client, 94), Pass(500), binary(Client, 44), Pass(499), binary(Client, 44)]);
    assert_eq!(relay.forwarded(Upstream).len(), 150);
}

#[test]
fn delayed_bytes_pass_in_pieces_when_the_rate_allows() {
    for side in Side::BOTH {
        // Frames of 100 and of 308 bytes: a length of more than 125 takes two bytes more.
        let mask_len = if side == Client { 4 } else { 0 };
        let events = [binary(side, 98 - mask_len), binary(side, 304 - mask_len)];
        let mut relay = play(lenient().byte_rate(100, 100, Delay), &events);
        let whole = 100 + 308;
        for (second, passed) in [(0, 100), (1, 200), (2, 300), (3, 400), (4, whole)] {
            assert_eq!(relay.forwarded(side.other()).len(), passed, "after {second} s");
            assert_eq!(relay.session.waiting(side), passed < whole, "after {second} s");
            // The other direction is not delayed.
            apply(&mut relay, &from(side.other(), FIN | PING, ""));
            relay.pass(Duration::from_secs(1));
        }
        assert_eq!(relay.session.counts().throttled, 1, "a frame counts once");
        assert_eq!(relay.outcome, None);
    }
}

/// A delayed frame and the time that it takes do not end a session as idle or silent.
#[test]
fn a_side_that_waits_for_bytes_is_neither_idle_nor_silent() {
    let setup = lenient().byte_rate(1, 10, Delay).with(|limits| {
        limits.idle_timeout = Some(Duration::from_secs(5));
        limits.upstream_ping_interval = Some(Duration::from_secs(5));
    });
    let mut relay = play(setup, &[binary(Upstream, 60)]);
    relay.pass(Duration::from_secs(50));
    assert_eq!((relay.outcome, relay.forwarded(Client).len()), (None, 60));
    relay.pass(Duration::from_secs(6));
    assert_eq!((relay.outcome, relay.forwarded(Client).len()), (None, 62));
}

#[test]
fn messages_beyond_the_bytes_are_dropped_whole() {
    let events = [
        binary(Client, 50),
        // Its first frame is within the quota, so the whole message passes, and later messages are beyond the quota.
        from(Client, BINARY, "begin"),
        from(Client, FIN | CONTINUATION, vec![b'x'; 200]),
        binary(Client, 1),
        from(Client, FIN | PING, "passes"),
        Pass(1_000),
        binary(Client, 1),
        Pass(2_000),
        text(Client, "late"),
    ];
    let relay = play(lenient().byte_rate(100, 100, Drop), &events);
    let frames = shown(&relay, Upstream);
    let kinds: Vec<_> = frames.iter().map(|frame| frame.split(' ').next().unwrap()).collect();
    assert_eq!(kinds, ["binary", "binary+", "continuation", "ping", "text"]);
    assert_eq!(relay.session.counts().throttled, 2);
    // The upstream is delayed instead.
    let mut relay = play(lenient().byte_rate(100, 100, Drop), &[binary(Upstream, 98), binary(Upstream, 98)]);
    assert_eq!((relay.forwarded(Client).len(), relay.session.waiting(Upstream)), (100, true));
    relay.pass(Duration::from_secs(1));
    assert_eq!(relay.forwarded(Client).len(), 200);
}

#[test]
fn a_close_passes_whatever_the_quota_of_bytes() {
    let setup = || lenient().byte_rate(1, 10, Delay);
    let events = [binary(Client, 4), binary(Upstream, 50), close(Client, 4000, "bye"), close(Upstream, 4000, "bye")];
    let relay = play(setup(), &events);
    // The upstream is read again, so that its Close is found behind its frame.
    let frames = shown(&relay, Client);
    assert_eq!(frames.last().map(String::as_str), Some("close 4000 bye"), "{frames:?}");
    assert_eq!(relay.outcome, end(ClosedBy::Client, 4000, CloseReason::Closed));
}

/// Sessions that have ended while delayed do not use up shared bytes.
#[test]
fn a_delayed_side_that_disconnects_returns_its_bytes() {
    let (start, counts) = (Instant::now(), [Arc::default(), Arc::default()]);
    for _ in 0..50 {
        let mut relay = Relay::with_bytes(lenient().byte_rate(10, 10, Delay), counts.clone(), start);
        for event in [binary(Client, 4), binary(Client, 4), Disconnect(Client)] {
            apply(&mut relay, &event);
        }
    }
    let limiter = ByteLimiter::over(counts[0].clone(), quota(10, 10));
    assert_eq!(limiter.reserve(10, start), Ok(start + Duration::from_secs(1)));
}

/// Sessions of one address share the bytes. A client that declares a large frame and disconnects does not use them up.
#[test]
fn declared_bytes_that_never_arrive_are_returned() {
    let begin = from(Client, BINARY, "x");
    let header =
        |first: u8, len: u32| Bytes(Client, [&[first, 0xff, 0, 0, 0, 0], &len.to_be_bytes()[..], &[0; 4]].concat());
    let table = [
        // A continuation of 500 MiB, of which only the header arrives.
        (Drop, vec![begin.clone(), header(FIN | CONTINUATION, 500 << 20)], 7 + 14),
        (Delay, vec![begin.clone(), header(FIN | CONTINUATION, 500 << 20)], 7 + 14),
        (Close, vec![header(FIN | BINARY, 70_000), Bytes(Client, vec![0; 100])], 14 + 100),
        (Drop, vec![header(FIN | BINARY, 70_000), Bytes(Client, vec![0; 100])], 14 + 100),
        (Delay, vec![header(FIN | BINARY, 70_000), Bytes(Client, vec![0; 100])], 14 + 100),
    ];
    for (on_excess, events, arrived) in table {
        for end in [Disconnect(Client), close(Upstream, 1000, ""), Command(CloseCode(4001), "")] {
            let (start, counts) = (Instant::now(), [Arc::default(), Arc::default()]);
            let mut relay = Relay::with_bytes(lenient().byte_rate(1, 80_000, on_excess), counts.clone(), start);
            events.iter().chain([&end]).for_each(|event| apply(&mut relay, event));
            let limiter = ByteLimiter::over(counts[0].clone(), quota(1, 80_000));
            let left = 80_000 - arrived;
            assert!(!limiter.check(left + 1, start) && limiter.check(left, start), "{on_excess:?}, {end:?}");
        }
    }
}

/// Bytes of a frame that were returned when its session began to close are charged once they arrive.
#[test]
fn bytes_that_arrive_while_the_session_closes_are_charged() {
    let (start, counts) = (Instant::now(), [Arc::default(), Arc::default()]);
    let mut relay = Relay::with_bytes(lenient().byte_rate(1, 1_000, Close), counts.clone(), start);
    let frame = wire::frame(FIN | BINARY, key(Client), &[0; 120]);
    let events = [
        Bytes(Client, frame[..26].to_vec()),
        Command(CloseCode(4001), ""),
        Bytes(Client, frame[26..66].to_vec()),
        Disconnect(Client),
    ];
    events.iter().for_each(|event| apply(&mut relay, event));
    let limiter = ByteLimiter::over(counts[0].clone(), quota(1, 1_000));
    assert!(!limiter.check(935, start) && limiter.check(934, start));
}

/// A frame that is declared long before its session ends saves up no quota: its bytes have been replenished meanwhile.
#[test]
fn bytes_that_were_held_are_not_returned_twice() {
    let (start, counts) = (Instant::now(), [Arc::default(), Arc::default()]);
    let mut held: Vec<_> =
        (0..3).map(|_| Relay::with_bytes(lenient().byte_rate(100, 300, Close), counts.clone(), start)).collect();
    for relay in &mut held {
        apply(relay, &Bytes(Client, wire::frame(FIN | BINARY, key(Client), &[0; 94])[..6].to_vec()));
        apply(relay, &Pass(10_000));
    }
    let (limiter, now) = (ByteLimiter::over(counts[0].clone(), quota(100, 300)), start + Duration::from_secs(10));
    assert!(limiter.check(300, now));
    held.iter_mut().for_each(|relay| apply(relay, &Disconnect(Client)));
    assert!(!limiter.check(1, now), "the burst is used up");
}

#[test]
fn sessions_share_counts_of_bytes() {
    let (start, counts) = (Instant::now(), [Arc::default(), Arc::default()]);
    let open = || Relay::with_bytes(lenient().byte_rate(1, 100, Close), counts.clone(), start);
    let (mut first, mut second) = (open(), open());
    apply(&mut first, &binary(Client, 60));
    apply(&mut second, &binary(Client, 60));
    assert_eq!((first.forwarded(Upstream).len(), second.forwarded(Upstream).len()), (66, 0));
}

#[test]
fn a_changed_quota_of_bytes_applies_to_a_side_that_waits() {
    let setup = || lenient().byte_rate(1, 10, Delay);
    let waiting = || play(setup(), &[binary(Upstream, 8), binary(Upstream, 98)]);
    let mut relay = waiting();
    relay.set_limits(setup().limits);
    assert!(relay.session.waiting(Upstream), "the same quota changes nothing");
    // The bytes that were counted against the old quota still count: ten seconds at one byte a second.
    relay.set_limits(lenient().byte_rate(100, 100, Delay).limits);
    relay.pass(Duration::from_secs(9));
    assert_eq!(relay.forwarded(Client).len(), 10);
    relay.pass(Duration::from_secs(1));
    assert_eq!(relay.forwarded(Client).len(), 110);
    let mut relay = waiting();
    relay.set_limits(lenient().limits);
    assert_eq!(relay.forwarded(Client).len(), 110);
    let mut relay = waiting();
    relay.set_limits(setup().reporting().limits);
    assert_eq!((relay.forwarded(Client).len(), reported(&relay)), (110, vec![("upstream_byte_rate", 1)]));
}

#[test]
fn every_limit_is_reported_and_has_no_effect() {
    let table: [(Setup, Vec<Event>, (&str, u64)); 9] = [
        (lenient().rate(1, 1, Close), vec![text(Client, "a"); 4], ("message_rate", 3)),
        (lenient().rate(1, 1, Delay), vec![text(Client, "a"); 4], ("message_rate", 3)),
        (lenient().rate(1, 1, Drop), vec![text(Client, "a"); 4], ("message_rate", 3)),
        (lenient().byte_rate(1, 10, Delay), vec![binary(Client, 4), binary(Client, 200)], ("byte_rate", 1)),
        (lenient().byte_rate(1, 10, Drop), vec![binary(Upstream, 8), binary(Upstream, 1)], ("upstream_byte_rate", 1)),
        (lenient().with(|limits| limits.frame_max_bytes = 10), vec![binary(Client, 11)], ("frame_max_size", 1)),
        // Without `frame_max_size` a frame may be as large as a message.
        (
            lenient().with(|limits| (limits.frame_max_bytes, limits.message_max_bytes) = (10, 10)),
            vec![binary(Client, 11)],
            ("message_max_size", 1),
        ),
        (
            lenient().with(|limits| limits.message_max_bytes = 10),
            // Once for the message, and not for each of its further frames.
            vec![from(Client, BINARY, [0; 10]), from(Client, CONTINUATION, "x"), from(Client, FIN | CONTINUATION, "x")],
            ("message_max_size", 1),
        ),
        (
            lenient().with(|limits| limits.upstream_message_max_bytes = Some(10)),
            vec![binary(Upstream, 10), binary(Upstream, 11)],
            ("upstream_message_max_size", 1),
        ),
    ];
    for (setup, events, expected) in table {
        let relay = play(setup.clone().reporting(), &events);
        let unlimited = play(lenient(), &events);
        assert_eq!(reported(&relay), [expected]);
        assert!(Side::BOTH.into_iter().all(|side| relay.peer(side).received == unlimited.peer(side).received));
        assert_eq!((relay.outcome, relay.session.counts()), (None, unlimited.session.counts()), "{expected:?}");
        // The same events have an effect where the limit is enforced.
        let enforced = play(setup, &events);
        let differs = Side::BOTH.into_iter().any(|side| enforced.peer(side).received != unlimited.peer(side).received);
        assert!(differs, "{expected:?}");
    }
}

#[test]
fn each_idle_time_is_reported_once() {
    let setup = lenient().with(|limits| limits.idle_timeout = Some(Duration::from_secs(1))).reporting();
    let events = [Pass(10_000), text(Client, "a"), Pass(999), text(Client, "a"), Pass(5_000)];
    let relay = play(setup, &events);
    assert_eq!((reported(&relay), relay.outcome), (vec![("idle_timeout", 2)], None));
    assert_eq!(relay.session.next_deadline(), None);
}

#[test]
fn the_maximum_age_is_reported_once_and_applies_when_it_is_enforced() {
    let aged = lenient().with(|limits| limits.max_session_age = Some(Duration::from_secs(10)));
    let mut relay = play(aged.clone().reporting(), &[Pass(30_000), text(Client, "a"), Pass(30_000)]);
    assert_eq!((reported(&relay), relay.outcome), (vec![("max_session_age", 1)], None));
    assert_eq!(relay.session.poll_timeout(), None);
    relay.set_limits(aged.limits);
    relay.pass(Duration::ZERO);
    assert_eq!(shown(&relay, Client), ["close 1001 maximum session age"]);
}

#[test]
fn small_frames_are_reported_as_overhead() {
    let setup = lenient().with(|limits| limits.overhead = quota(1, 2)).reporting();
    let mut relay = play(setup, &vec![from(Client, FIN | PING, ""); 5]);
    assert_eq!((reported(&relay), relay.outcome), (vec![("overhead_rate", 3)], None));
    relay.session.count_key_updates(4, relay.now);
    assert_eq!((reported(&relay), relay.outcome), (vec![("overhead_rate", 7)], None));
}

/// The limits of sessions that the upgrade exceeded.
#[test]
fn exceeded_numbers_of_sessions_are_among_the_reports() {
    let mut relay = play(lenient().reporting(), &[]);
    relay.session.report_upgrade(&[]);
    assert!(!relay.session.has_new_reports());
    relay.session.report_upgrade(&[LimitKind::SessionsPerSubject, LimitKind::SessionsPerAddress]);
    let expected = vec![("sessions_per_subject", 1), ("sessions_per_address", 1)];
    assert_eq!((reported(&relay), relay.session.take_reports().len()), (expected, 2));
}

#[test]
fn the_caller_takes_each_report_once() {
    let mut relay = play(lenient().rate(1, 1, Drop).reporting(), &[text(Client, "a")]);
    assert!(!relay.session.has_new_reports());
    for (first, messages) in [(true, 2), (false, 1)] {
        (0..messages).for_each(|_| apply(&mut relay, &text(Client, "a")));
        assert!(relay.session.has_new_reports());
        let taken = relay.session.take_reports();
        let taken: Vec<_> = taken.iter().map(|report| (report.kind, report.count, report.is_first)).collect();
        assert_eq!(taken, [(LimitKind::MessageRate, messages, first)]);
        assert!(!relay.session.has_new_reports() && relay.session.take_reports().is_empty());
    }
    assert_eq!(relay.session.limits().action(LimitKind::MessageRate), LimitAction::Drop);
}

/// Limits that are only reported allow compression, so later limits that drop messages delay them.
#[test]
fn limits_can_be_enforced_after_they_were_reported() {
    let dropping = lenient().rate(1, 1, Drop);
    assert!(dropping.clone().reporting().limits.allow_compression() && !dropping.limits.allow_compression());
    let setup = Setup { compressed: true, ..dropping.clone().reporting() };
    let mut relay = play(setup, &[text(Client, "a"), text(Client, "b")]);
    relay.set_limits(dropping.limits);
    apply(&mut relay, &text(Client, "c"));
    assert!(relay.session.waiting(Client));
    relay.pass(Duration::from_secs(2));
    assert_eq!(shown(&relay, Upstream), ["text a", "text b", "text c"]);
}
