//! Tests of `Session` in memory and in virtual time.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

#[path = "session/commands.rs"]
mod commands;
#[path = "session/leases.rs"]
mod leases;
#[path = "session/limits.rs"]
mod limits;
mod harness;
#[path = "session/loss.rs"]
mod loss;
#[path = "session/messages.rs"]
mod messages;
#[path = "session/slow_client.rs"]
mod slow_client;
#[path = "session/state.rs"]
mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use harness::relay::{PING_TAG, Relay, Setup, quota};
use harness::wire::{self, BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, RSV1, TEXT};
use tollgate::policy::limits::OnExcess::{Close, Delay, Drop};
use tollgate::policy::limits::OnSlowClient;
use tollgate::policy::quota::Limiter;
use tollgate::session::Side::{self, Client, Upstream};
use tollgate::session::{Action, AdmissionRule, CloseReason, ClosedBy, DirectionStats, Outcome, SessionStats};
use tollgate::ws::code::CloseCode;
use tollgate::ws::frame::REASON_MAX_BYTES;
use tollgate::ws::violation::Violation;

/// An event of a session.
#[derive(Debug, Clone)]
enum Event {
    /// A side sends these bytes.
    Bytes(Side, Vec<u8>),
    Disconnect(Side),
    CloseWrite(Side),
    Block(Side),
    Unblock(Side),
    /// Data waits for the client.
    Behind,
    /// The client has got that data.
    CaughtUp,
    /// This many milliseconds pass.
    Pass(u64),
    /// The process drains this session in this many milliseconds.
    Drain(u64),
    /// An operator closes the session.
    Command(CloseCode, &'static str),
    /// A changed configuration ends the session.
    Revoke(CloseReason),
}

use Event::{Behind, Block, Bytes, CaughtUp, CloseWrite, Command, Disconnect, Drain, Pass, Revoke, Unblock};

/// Returns the event of a frame as the side must send it: masked by the client, unmasked by the upstream.
fn from(side: Side, first: u8, payload: impl AsRef<[u8]>) -> Event {
    Bytes(side, wire::frame(first, key(side), payload.as_ref()))
}

/// Returns the event of a partial frame: a header with the payload length `len`, and the start of the payload.
fn begin(side: Side, first: u8, len: u64, payload: impl AsRef<[u8]>) -> Event {
    let mut bytes = wire::header(first, key(side), len);
    bytes.extend(wire::masked(payload.as_ref(), key(side)));
    Bytes(side, bytes)
}

/// Returns the event of further payload of such a frame, after a multiple of four bytes of it.
fn more(side: Side, payload: impl AsRef<[u8]>) -> Event {
    Bytes(side, wire::masked(payload.as_ref(), key(side)))
}

fn text(side: Side, payload: &str) -> Event {
    from(side, FIN | TEXT, payload)
}

fn close(side: Side, code: u16, reason: &str) -> Event {
    from(side, FIN | CLOSE, wire::close_payload(code, reason))
}

/// Returns the event of the pong to our ping number `count`.
fn our_pong(side: Side, count: u32) -> Event {
    from(side, FIN | PONG, [PING_TAG, count.to_be_bytes()].concat())
}

fn key(side: Side) -> Option<[u8; 4]> {
    (side == Client).then_some([0xa1, 0xb2, 0xc3, 0xd4])
}

fn play(setup: Setup, events: &[Event]) -> Relay {
    let mut relay = Relay::new(setup, Instant::now());
    for event in events {
        apply(&mut relay, event);
    }
    relay
}

fn apply(relay: &mut Relay, event: &Event) {
    match event {
        Bytes(side, bytes) => relay.arrive(*side, bytes),
        Disconnect(side) => relay.lose(*side),
        CloseWrite(side) => relay.close_write(*side),
        Block(side) => relay.block(*side),
        Unblock(side) => relay.unblock(*side),
        Behind => relay.call(|session, now| session.on_client_behind(now)),
        CaughtUp => relay.call(|session, _| session.on_client_caught_up()),
        Pass(ms) => relay.pass(Duration::from_millis(*ms)),
        Drain(ms) => relay.drain_in(Duration::from_millis(*ms)),
        Command(code, reason) => relay.close(*code, reason),
        Revoke(cause) => relay.revoke(*cause),
    }
}

/// Returns the frames that a side received. Our pings are shown by their number, since their payload is binary.
fn shown(relay: &Relay, side: Side) -> Vec<String> {
    let show = |frame: wire::Frame| match frame.payload.strip_prefix(&PING_TAG) {
        Some(count) if frame.opcode == PING => format!("our ping {}", count.last().copied().unwrap_or_default()),
        _ => frame.to_string(),
    };
    relay.frames(side).into_iter().map(show).collect()
}

/// Plays the events and checks the frames that each side received and the outcome.
#[track_caller]
fn check(setup: Setup, events: &[Event], client: &[&str], upstream: &[&str], end: Option<Outcome>) {
    let relay = play(setup, events);
    assert_eq!(shown(&relay, Client), client, "frames to the client after {events:?}");
    assert_eq!(shown(&relay, Upstream), upstream, "frames to the upstream after {events:?}");
    assert_eq!(relay.outcome, end, "after {events:?}");
}

fn end(by: ClosedBy, code: impl Into<Option<u16>>, cause: CloseReason) -> Option<Outcome> {
    Some(Outcome { by, code: code.into().map(CloseCode), cause })
}

const SECOND: u64 = 1_000;

fn lenient() -> Setup {
    Setup::lenient()
}

// Forwarding.

#[test]
fn frames_are_forwarded_byte_for_byte() {
    let masked = |payload| wire::frame(FIN | BINARY, Some([9, 8, 7, 6]), payload);
    let (big, bigger) = (vec![7; 300], vec![8; 70_000]);
    let from_client = [masked(b"one"), masked(&big), masked(&bigger), masked(b"")].concat();
    let from_upstream = [wire::frame(FIN | TEXT, None, b"two"), wire::frame(FIN | BINARY, None, &bigger)].concat();
    let relay = play(lenient(), &[Bytes(Client, from_client.clone()), Bytes(Upstream, from_upstream.clone())]);
    // The masking key is the client's, which shows that frames are not encoded anew.
    assert!(relay.peer(Upstream).received == from_client);
    assert!(relay.peer(Client).received == from_upstream);
    let counts = relay.session.counts();
    let expected = SessionStats {
        client: DirectionStats { messages: 4, bytes: from_client.len() as u64 },
        upstream: DirectionStats { messages: 2, bytes: from_upstream.len() as u64 },
        throttled: 0,
    };
    assert_eq!(counts, expected);
}

#[test]
fn partial_frames_are_forwarded() {
    check(lenient(), &[begin(Client, FIN | TEXT, 10, "hal")], &[], &["text hal(3 of 10)"], None);
    check(lenient(), &[begin(Upstream, BINARY, 10, "")], &["binary+(0 of 10)"], &[], None);
}

#[test]
fn incomplete_headers_and_control_frames_are_kept() {
    let frames = [wire::frame(FIN | PING, key(Client), b"are you there"), wire::frame(FIN | TEXT, key(Client), b"hi")];
    for frame in frames {
        let header = if frame[0] & 0x08 == 0 { 6 } else { frame.len() };
        let mut relay = Relay::new(lenient(), Instant::now());
        for (index, byte) in frame.iter().enumerate() {
            assert!(relay.peer(Upstream).received.len() == if index < header { 0 } else { index });
            relay.arrive(Client, &[*byte]);
        }
        assert_eq!(relay.peer(Upstream).received, frame);
    }
}

#[test]
fn pings_and_pongs_are_forwarded() {
    let events =
        [from(Client, FIN | PING, "a"), from(Upstream, FIN | PONG, "a"), from(Upstream, FIN | PONG, "unasked")];
    check(lenient(), &events, &["pong a", "pong unasked"], &["ping a"], None);
}

#[test]
fn control_frames_are_forwarded_inside_a_fragmented_message() {
    let events = [
        from(Client, TEXT, "a"),
        from(Client, FIN | PING, "?"),
        from(Client, CONTINUATION, "b"),
        from(Client, FIN | CONTINUATION, "c"),
    ];
    check(lenient(), &events, &[], &["text+ a", "ping ?", "continuation+ b", "continuation c"], None);
}

#[test]
fn a_compressed_message_is_marked_on_its_first_frame_only() {
    let setup = Setup { compressed: true, ..lenient().with(|limits| limits.check_utf8 = true) };
    let events = [from(Client, FIN | RSV1 | TEXT, [0xff]), from(Upstream, FIN | RSV1 | BINARY, "z")];
    check(setup.clone(), &events, &["binary* z"], &["text* \u{fffd}"], None);
    let cases = [
        vec![from(Client, FIN | RSV1 | PING, "")],
        vec![from(Client, RSV1 | TEXT, ""), from(Client, FIN | RSV1 | CONTINUATION, "")],
        vec![from(Client, FIN | 0x20 | TEXT, "")],
        vec![from(Client, FIN | 0x10 | TEXT, "")],
    ];
    for events in cases {
        let relay = play(setup.clone(), &[events, vec![Pass(6 * SECOND)]].concat());
        let cause = CloseReason::Violation(Client, Violation::ReservedBit);
        assert_eq!(relay.outcome, end(ClosedBy::Tollgate, 1002, cause));
    }
}

// The closing handshake.

#[test]
fn a_close_and_its_answer_are_forwarded_unchanged() {
    for (first, by) in [(Client, ClosedBy::Client), (Upstream, ClosedBy::Upstream)] {
        let events = [close(first, 4321, "bye"), close(first.other(), 1000, "thanks")];
        let (one, two) = (["close 4321 bye"], ["close 1000 thanks"]);
        let (client, upstream) = if first == Client { (two, one) } else { (one, two) };
        check(lenient(), &events, &client, &upstream, end(by, 4321, CloseReason::Closed));
        // The session does not end before the answer.
        assert_eq!(play(lenient(), &events[..1]).outcome, None);
    }
}

#[test]
fn a_close_without_a_code_is_forwarded_unchanged() {
    let events = [from(Client, FIN | CLOSE, ""), from(Upstream, FIN | CLOSE, "")];
    check(lenient(), &events, &["close"], &["close"], end(ClosedBy::Client, None, CloseReason::Closed));
}

#[test]
fn input_after_a_close_is_ignored() {
    let rubbish = Bytes(Client, vec![0xff; 20]);
    let events = [close(Client, 1000, ""), text(Client, "late"), rubbish, close(Upstream, 1000, "")];
    check(lenient(), &events, &["close 1000"], &["close 1000"], end(ClosedBy::Client, 1000, CloseReason::Closed));
}

#[test]
fn frames_are_forwarded_to_a_side_that_closed_until_it_is_answered() {
    let events = [
        begin(Upstream, FIN | TEXT, 8, "last"),
        close(Client, 1000, ""),
        more(Upstream, "word"),
        text(Upstream, "and one more"),
        close(Upstream, 1000, ""),
    ];
    let client = ["text lastword", "text and one more", "close 1000"];
    check(lenient(), &events, &client, &["close 1000"], end(ClosedBy::Client, 1000, CloseReason::Closed));
}

#[test]
fn nothing_is_forwarded_after_a_close_of_ours() {
    let events = [
        Drain(0),
        Pass(0),
        text(Client, "late"),
        text(Upstream, "late"),
        close(Client, 1001, ""),
        close(Upstream, 1001, ""),
    ];
    let closed = ["close 1001 going away"];
    check(lenient(), &events, &closed, &closed, end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

#[test]
fn a_close_inside_a_fragmented_message_is_forwarded() {
    let events = [from(Client, TEXT, "a"), close(Client, 1001, "")];
    check(lenient(), &events, &[], &["text+ a", "close 1001"], None);
}

#[test]
fn a_close_is_answered_after_the_close_timeout() {
    let events = [close(Client, 4000, "bye"), Pass(5 * SECOND - 1)];
    check(lenient(), &events, &[], &["close 4000 bye"], None);
    let events = [close(Client, 4000, "bye"), Pass(5 * SECOND)];
    check(lenient(), &events, &["close 4000"], &["close 4000 bye"], end(ClosedBy::Client, 4000, CloseReason::Closed));
}

#[test]
fn a_close_is_answered_if_the_other_side_disconnects() {
    let events = [close(Upstream, 4000, "bye"), Disconnect(Client)];
    check(lenient(), &events, &["close 4000 bye"], &["close 4000"], end(ClosedBy::Upstream, 4000, CloseReason::Closed));
    // No Close is sent inside a frame of the disconnected side.
    let events = [begin(Client, FIN | TEXT, 9, "x"), close(Upstream, 4000, ""), Disconnect(Client)];
    check(lenient(), &events, &["close 4000"], &["text x(1 of 9)"], end(ClosedBy::Upstream, 4000, CloseReason::Closed));
}

#[test]
fn a_side_that_closes_and_disconnects_does_not_delay_the_end() {
    let events = [close(Client, 4000, ""), Disconnect(Client), close(Upstream, 4000, "")];
    check(lenient(), &events, &[], &["close 4000"], end(ClosedBy::Client, 4000, CloseReason::Closed));
}

// Close codes.

/// The events that lead to a close reason, and the code and reason text that both sides are sent. Each case names the
/// next one, so that no variant is forgotten: the `match` does not compile without it.
struct Case {
    setup: Setup,
    events: Vec<Event>,
    code: u16,
    reason: &'static str,
    next: Option<CloseReason>,
}

fn case(cause: CloseReason) -> Case {
    let case = |setup, events, code, reason, next| Case { setup, events, code, reason, next };
    match cause {
        // The code and reason are those of the side that closes.
        CloseReason::Closed => case(
            lenient(),
            vec![close(Client, 4000, "x"), close(Upstream, 4000, "x")],
            4000,
            "x",
            Some(CloseReason::MessageRate),
        ),
        CloseReason::MessageRate => {
            let setup = lenient().rate(1, 1, Close);
            let events = vec![text(Client, ""), text(Client, "")];
            case(setup, events, 1008, "message rate exceeded", Some(CloseReason::ByteRate(Client)))
        }
        CloseReason::ByteRate(side) => {
            let next = if side == Client { CloseReason::ByteRate(Upstream) } else { CloseReason::OverheadRate };
            let setup = lenient().byte_rate(1, 10, Close);
            let reason = match side {
                Client => "byte rate of the client exceeded",
                Upstream => "byte rate of the upstream exceeded",
            };
            case(setup, vec![from(side, FIN | BINARY, [0; 10])], 1008, reason, Some(next))
        }
        CloseReason::OverheadRate => {
            let setup = lenient().with(|limits| limits.overhead = quota(1, 1));
            let events = vec![from(Client, FIN | PING, ""), from(Client, FIN | PING, "")];
            case(setup, events, 1008, "frame rate exceeded", Some(CloseReason::TokenExpired))
        }
        CloseReason::TokenExpired => {
            let setup = Setup { expires_after: Some(Duration::from_secs(60)), ..lenient() };
            case(setup, vec![Pass(60 * SECOND)], 1008, "token expired", Some(CloseReason::MaxAge))
        }
        CloseReason::MaxAge => {
            let setup = lenient().with(|limits| limits.max_session_age = Some(Duration::from_secs(60)));
            case(setup, vec![Pass(60 * SECOND)], 1001, "maximum session age", Some(CloseReason::IdleTimeout))
        }
        CloseReason::IdleTimeout => {
            let setup = lenient().with(|limits| limits.idle_timeout = Some(Duration::from_secs(60)));
            case(setup, vec![Pass(60 * SECOND)], 1001, "idle timeout", Some(CloseReason::Drain))
        }
        CloseReason::Drain => {
            case(lenient(), vec![Drain(100), Pass(100)], 1001, "going away", Some(CloseReason::NoPong(Client)))
        }
        CloseReason::NoPong(side) => {
            let next = if side == Client { CloseReason::NoPong(Upstream) } else { CloseReason::Disconnected(Client) };
            let interval = Some(Duration::from_secs(30));
            let setup = lenient().with(|limits| match side {
                Client => limits.ping_interval = interval,
                Upstream => limits.upstream_ping_interval = interval,
            });
            let code = if side == Client { 1001 } else { 1014 };
            case(setup, vec![Pass(40 * SECOND)], code, "no pong", Some(next))
        }
        CloseReason::Disconnected(side) => {
            let (code, reason, next) = match side {
                Client => (1001, "client went away", CloseReason::Disconnected(Upstream)),
                Upstream => (1014, "upstream went away", CloseReason::WriteStall(Client)),
            };
            case(lenient(), vec![Disconnect(side)], code, reason, Some(next))
        }
        CloseReason::WriteStall(side) => {
            let (code, reason, next) = match side {
                Client => (1001, "client does not read", CloseReason::WriteStall(Upstream)),
                Upstream => (1014, "upstream does not read", CloseReason::SlowClient),
            };
            case(lenient(), vec![Block(side), Pass(30 * SECOND)], code, reason, Some(next))
        }
        CloseReason::SlowClient => {
            let setup = lenient().with(|limits| limits.on_slow_client = OnSlowClient::Close);
            case(setup, vec![Behind, Pass(30 * SECOND)], 1008, "slow consumer", Some(CloseReason::Command))
        }
        CloseReason::Command => {
            let events = vec![Command(CloseCode(4001), "maintenance")];
            case(lenient(), events, 4001, "maintenance", Some(CloseReason::Replaced))
        }
        CloseReason::Replaced => {
            let reason = "replaced by a newer session";
            case(lenient(), vec![Revoke(cause)], 1008, reason, Some(CloseReason::Revoked))
        }
        CloseReason::Revoked => {
            case(lenient(), vec![Revoke(cause)], 1008, "revoked", Some(CloseReason::NotAdmitted(AdmissionRule::Origin)))
        }
        CloseReason::NotAdmitted(_) => {
            case(lenient(), vec![Revoke(cause)], 1008, "no longer admitted", Some(CloseReason::Removed))
        }
        CloseReason::Removed => {
            case(lenient(), vec![Revoke(cause)], 1001, "route removed", Some(CloseReason::ServerDrain))
        }
        CloseReason::ServerDrain => {
            case(lenient(), vec![Revoke(cause)], 1012, "server drained", Some(CloseReason::Rebalance))
        }
        CloseReason::Rebalance => case(lenient(), vec![Revoke(cause)], 1012, "rebalanced", Some(CloseReason::Aborted)),
        // Neither side is sent a Close; see `an_abort_skips_the_closing_handshake`.
        CloseReason::Aborted => {
            case(lenient(), vec![], 1001, "", Some(CloseReason::Violation(Client, Violation::ReservedBit)))
        }
        CloseReason::Violation(side, violation) => {
            let Broken { setup, bytes, code, next } = broken(side, violation);
            let next = match (next, side) {
                (Some(next), side) => Some(CloseReason::Violation(side, next)),
                (None, Client) => Some(CloseReason::Violation(Upstream, Violation::ReservedBit)),
                (None, Upstream) => None,
            };
            case(setup, vec![Bytes(side, bytes)], code, violation.label(), next)
        }
    }
}

/// Bytes that break a rule, and a setup in which the rule applies.
struct Broken {
    setup: Setup,
    bytes: Vec<u8>,
    code: u16,
    next: Option<Violation>,
}

fn broken(side: Side, violation: Violation) -> Broken {
    use Violation as V;
    let key = key(side);
    let frame = |first, payload: &[u8]| wire::frame(first, key, payload);
    let limited = lenient().with(|limits| {
        limits.frame_max_bytes = 10;
        limits.message_max_bytes = 15;
        limits.upstream_message_max_bytes = Some(15);
        limits.check_utf8 = true;
    });
    let long = |first: u8, form: u8, len: &[u8]| {
        let mask_bit = if key.is_some() { 0x80 } else { 0 };
        [&[first, form | mask_bit], len, &key.map(Vec::from).unwrap_or_default()].concat()
    };
    let (bytes, code, next) = match violation {
        V::ReservedBit => (frame(FIN | RSV1 | TEXT, b""), 1002, Some(V::ReservedOpcode)),
        V::ReservedOpcode => (frame(FIN | 3, b""), 1002, Some(V::LengthNotMinimal)),
        V::LengthNotMinimal => (long(FIN | TEXT, 126, &[0, 125]), 1002, Some(V::LengthOver63Bits)),
        V::LengthOver63Bits => (long(FIN | TEXT, 127, &[0x80, 0, 0, 0, 0, 0, 0, 0]), 1002, Some(V::NotMasked)),
        // Each rule about masks applies to one side. The other side breaks its own rule with the same bytes.
        V::NotMasked => (wire::frame(FIN | TEXT, None, b""), 1002, Some(V::Masked)),
        V::Masked => (wire::frame(FIN | TEXT, Some([1, 2, 3, 4]), b""), 1002, Some(V::FragmentedControl)),
        V::FragmentedControl => (frame(PING, b""), 1002, Some(V::LongControl)),
        V::LongControl => (frame(FIN | PING, &[0; 126]), 1002, Some(V::UnexpectedContinuation)),
        V::UnexpectedContinuation => (frame(FIN | CONTINUATION, b""), 1002, Some(V::InterruptedMessage)),
        V::InterruptedMessage => ([frame(TEXT, b""), frame(TEXT, b"")].concat(), 1002, Some(V::ShortClose)),
        V::ShortClose => (frame(FIN | CLOSE, b"\x03"), 1002, Some(V::CloseCode)),
        V::CloseCode => (frame(FIN | CLOSE, &1005_u16.to_be_bytes()), 1002, Some(V::CloseReason)),
        V::CloseReason => (frame(FIN | CLOSE, b"\x03\xe8\xff"), 1007, Some(V::TextNotUtf8)),
        V::TextNotUtf8 => (frame(FIN | TEXT, b"\xff"), 1007, Some(V::FrameTooBig)),
        V::FrameTooBig => (long(FIN | BINARY, 16, &[]), 1009, Some(V::MessageTooBig)),
        V::MessageTooBig => ([frame(BINARY, &[0; 9]), long(FIN | CONTINUATION, 7, &[])].concat(), 1009, None),
    };
    Broken { setup: limited, bytes, code, next }
}

/// Whether the side cannot break the rule.
fn cannot_break(cause: CloseReason) -> bool {
    match cause {
        // A client must mask its frames, and an upstream must not.
        CloseReason::Violation(Side::Client, Violation::Masked)
        | CloseReason::Violation(Side::Upstream, Violation::NotMasked) => true,
        // Only text of clients is checked (`route.limits.check_utf8`).
        CloseReason::Violation(Upstream, Violation::TextNotUtf8) => true,
        _ => false,
    }
}

#[test]
fn every_cause_has_its_close_code() {
    let mut next = Some(CloseReason::Closed);
    let mut seen = Vec::new();
    while let Some(cause) = next {
        assert!(!seen.contains(&cause), "{cause:?} twice");
        seen.push(cause);
        let Case { setup, events, code, reason, next: following } = case(cause);
        next = following;
        if cause == CloseReason::Aborted || cannot_break(cause) {
            continue;
        }
        let mut relay = play(setup, &events);
        relay.pass(Duration::from_secs(10));
        let outcome = relay.outcome.unwrap_or_else(|| panic!("{cause:?} does not end the session"));
        assert_eq!((outcome.cause, outcome.code), (cause, Some(CloseCode(code))));
        let expected = if reason.is_empty() { format!("close {code}") } else { format!("close {code} {reason}") };
        for side in Side::BOTH {
            let absent =
                matches!(cause, CloseReason::Disconnected(lost) | CloseReason::WriteStall(lost) if lost == side);
            let last = shown(&relay, side).pop();
            let is_told = cause == CloseReason::NoPong(Upstream) && side == Upstream;
            let expected = if is_told { "close 1001 no pong".to_owned() } else { expected.clone() };
            assert_eq!(last, (!absent).then_some(expected), "{cause:?} to the {side:?}");
        }
    }
    assert_eq!(seen.len(), 24 + 2 * 16, "{seen:?}");
}

#[test]
fn labels_are_log_names_and_reasons_fit_into_a_close() {
    let mut next = Some(CloseReason::Closed);
    let mut labels = Vec::new();
    while let Some(cause) = next {
        next = case(cause).next;
        labels.push(cause.label());
        assert!(cause.reason().len() <= REASON_MAX_BYTES, "{cause:?}");
        assert!(cause.label().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{cause:?}");
    }
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), 26, "{labels:?}");
}

#[test]
fn an_abort_skips_the_closing_handshake() {
    let mut relay = play(lenient(), &[text(Client, "hi")]);
    assert_eq!(Some(relay.session.abort(CloseReason::Aborted)), end(ClosedBy::Tollgate, None, CloseReason::Aborted));
    assert_eq!(relay.session.poll_action(relay.now), None);
    assert_eq!(relay.session.poll_timeout(), None);
    // An abort does not replace an earlier outcome.
    let mut relay = play(lenient(), &[close(Client, 4000, "")]);
    assert_eq!(Some(relay.session.abort(CloseReason::Aborted)), end(ClosedBy::Client, 4000, CloseReason::Closed));
}

#[test]
fn a_violation_is_not_forwarded_and_its_close_follows_the_answers_to_earlier_frames() {
    let closed = "close 1002 reserved opcode";
    for side in Side::BOTH {
        let other = side.other();
        let events = [text(side, "fine"), from(side, FIN | 7, "bad"), text(side, "never")];
        let relay = play(lenient(), &events);
        assert_eq!(
            (shown(&relay, other), shown(&relay, side)),
            (vec!["text fine".to_owned(), closed.to_owned()], vec![])
        );
        let events = [&events[..], &[text(other, "answer"), close(other, 1002, "theirs")]].concat();
        let relay = play(lenient(), &events);
        assert_eq!(shown(&relay, side), ["text answer", closed]);
        let cause = CloseReason::Violation(side, Violation::ReservedOpcode);
        assert_eq!(relay.outcome, end(ClosedBy::Tollgate, 1002, cause));
    }
}

#[test]
fn an_offender_is_sent_a_close_if_the_other_side_is_silent_or_disconnects() {
    let closed = "close 1002 reserved opcode";
    let cause = CloseReason::Violation(Client, Violation::ReservedOpcode);
    let ended = end(ClosedBy::Tollgate, 1002, cause);
    let bad = from(Client, FIN | 7, "bad");
    check(lenient(), &[bad.clone(), Disconnect(Upstream)], &[closed], &[closed], ended);
    check(lenient(), &[bad.clone(), Pass(4_999)], &[], &[closed], None);
    check(lenient(), &[bad, Pass(5_000)], &[closed], &[closed], ended);
}

#[test]
fn the_close_to_an_offender_waits_for_the_end_of_a_frame() {
    let events = [begin(Upstream, FIN | TEXT, 8, "half"), from(Client, FIN | 7, "")];
    let closed = "close 1002 reserved opcode";
    check(lenient(), &events, &["text half(4 of 8)"], &[closed], None);
    let events = [&events[..], &[more(Upstream, "full"), close(Upstream, 1002, "")]].concat();
    let cause = CloseReason::Violation(Client, Violation::ReservedOpcode);
    check(lenient(), &events, &["text halffull", closed], &[closed], end(ClosedBy::Tollgate, 1002, cause));
}

// Sizes.

#[test]
fn size_limits_are_exact() {
    let setup = || {
        lenient().with(|limits| {
            limits.frame_max_bytes = 200;
            limits.message_max_bytes = 300;
            limits.upstream_message_max_bytes = Some(250);
        })
    };
    type Frames = &'static [(u8, u64)];
    let table: &[(Side, Frames, Option<Violation>)] = &[
        (Client, &[(FIN | BINARY, 200)], None),
        (Client, &[(FIN | BINARY, 201)], Some(Violation::FrameTooBig)),
        (Client, &[(BINARY, 200), (FIN | CONTINUATION, 100)], None),
        (Client, &[(BINARY, 200), (FIN | CONTINUATION, 101)], Some(Violation::MessageTooBig)),
        (Client, &[(BINARY, 200), (CONTINUATION, 100), (FIN | CONTINUATION, 0)], None),
        (Client, &[(BINARY, 200), (CONTINUATION, 100), (FIN | CONTINUATION, 1)], Some(Violation::MessageTooBig)),
        (Client, &[(FIN | BINARY, 200), (FIN | BINARY, 200)], None),
        (Client, &[(BINARY, 150), (FIN | PING, 100), (FIN | CONTINUATION, 150)], None),
        (Upstream, &[(FIN | BINARY, 250)], None),
        (Upstream, &[(FIN | BINARY, 251)], Some(Violation::FrameTooBig)),
        (Upstream, &[(BINARY, 250), (FIN | CONTINUATION, 1)], Some(Violation::MessageTooBig)),
        (Client, &[(FIN | BINARY, (1 << 63) - 1)], Some(Violation::FrameTooBig)),
        (Client, &[(FIN | BINARY, 1 << 63)], Some(Violation::LengthOver63Bits)),
        (Client, &[(FIN | BINARY, u64::MAX)], Some(Violation::LengthOver63Bits)),
    ];
    for (side, frames, expected) in table {
        let mut relay = Relay::new(setup(), Instant::now());
        for (first, len) in *frames {
            let here = usize::try_from(*len).unwrap().min(300);
            apply(&mut relay, &begin(*side, *first, *len, vec![0; here]));
        }
        relay.lose(Client);
        relay.lose(Upstream);
        let cause =
            expected.map_or(CloseReason::Disconnected(Client), |violation| CloseReason::Violation(*side, violation));
        assert_eq!(relay.outcome.map(|outcome| outcome.cause), Some(cause), "{side:?} {frames:?}");
    }
}

#[test]
fn the_longest_possible_frame_is_forwarded_without_limits() {
    for side in Side::BOTH {
        let longest = (1 << 63) - 1;
        let events = [begin(side, BINARY, longest, "some"), more(side, "more")];
        let received = ["binary+ somemore(8 of 9223372036854775807)"];
        let (client, upstream): (&[&str], &[&str]) = if side == Upstream { (&received, &[]) } else { (&[], &received) };
        check(lenient(), &events, client, upstream, None);
    }
}

#[test]
fn the_size_of_a_message_does_not_overflow() {
    let mut relay = Relay::new(lenient().with(|limits| limits.message_max_bytes = u64::MAX - 1), Instant::now());
    // The sum of the announced lengths must not overflow. A test cannot send 2^63 bytes of payload.
    apply(&mut relay, &begin(Client, BINARY, (1 << 63) - 1, ""));
    assert_eq!(relay.outcome, None);
}

// Rates.

#[test]
fn a_message_over_the_rate_ends_the_session() {
    let events =
        [text(Client, "1"), text(Client, "2"), text(Client, "3"), text(Client, "4"), close(Upstream, 1008, "")];
    let closed = "close 1008 message rate exceeded";
    let ended = end(ClosedBy::Tollgate, 1008, CloseReason::MessageRate);
    check(lenient().rate(10, 2, Close), &events, &[closed], &["text 1", "text 2", closed], ended);
}

#[test]
fn a_message_over_the_rate_is_delayed() {
    let setup = || lenient().rate(10, 2, Delay);
    let burst = [text(Client, "1"), text(Client, "2"), text(Client, "3"), text(Client, "4")];
    check(setup(), &burst, &[], &["text 1", "text 2"], None);
    let later = [&burst[..], &[Pass(99)]].concat();
    check(setup(), &later, &[], &["text 1", "text 2"], None);
    let later = [&burst[..], &[Pass(100)]].concat();
    check(setup(), &later, &[], &["text 1", "text 2", "text 3"], None);
    let later = [&burst[..], &[Pass(200)]].concat();
    check(setup(), &later, &[], &["text 1", "text 2", "text 3", "text 4"], None);
}

#[test]
fn the_rate_counts_messages_and_not_fragments() {
    let fragments = ["a"; 20].map(|part| from(Client, CONTINUATION, part));
    let events =
        [&[from(Client, TEXT, "")], &fragments[..], &[from(Client, FIN | CONTINUATION, ""), text(Client, "b")]]
            .concat();
    let relay = play(lenient().rate(1, 2, Close), &events);
    assert_eq!(relay.frames(Upstream).len(), 23);
    assert_eq!(relay.session.counts().client.messages, 2);
}

#[test]
fn messages_of_the_upstream_have_no_rate() {
    let events = vec![text(Upstream, "x"); 100];
    assert_eq!(play(lenient().rate(1, 1, Close), &events).frames(Client).len(), 100);
}

#[test]
fn only_whole_messages_are_dropped() {
    let events = [
        text(Client, "1"),
        from(Client, TEXT, "2a"),
        from(Client, FIN | PING, "?"),
        // The quota has a free cell again, but the rest of a dropped message is dropped as well.
        Pass(SECOND),
        from(Client, CONTINUATION, "2b"),
        from(Client, FIN | CONTINUATION, "2c"),
        text(Client, "3"),
        text(Client, "4"),
    ];
    let setup = lenient().rate(1, 1, Drop);
    let relay = play(setup, &events);
    assert_eq!(shown(&relay, Upstream), ["text 1", "ping ?", "text 3"]);
    let counts = relay.session.counts();
    assert_eq!((counts.client.messages, counts.throttled), (2, 2));
}

#[test]
fn a_partly_forwarded_message_is_not_dropped() {
    let events = [
        from(Client, TEXT, "1a"),
        from(Client, CONTINUATION, "1b"),
        from(Client, FIN | CONTINUATION, "1c"),
        text(Client, "2"),
    ];
    let upstream = ["text+ 1a", "continuation+ 1b", "continuation 1c"];
    check(lenient().rate(1, 1, Drop), &events, &[], &upstream, None);
}

#[test]
fn a_dropped_frame_does_not_delay_our_frames_to_the_upstream() {
    let setup = lenient().rate(1, 1, Drop).with(|limits| limits.upstream_ping_interval = Some(Duration::from_secs(30)));
    let events = [text(Client, "1"), begin(Client, FIN | TEXT, 8, "half"), Pass(30 * SECOND), Disconnect(Client)];
    let upstream = ["text 1", "our ping 1", "close 1001 client went away"];
    check(setup, &events, &[], &upstream, None);
}

#[test]
fn a_violation_in_a_dropped_message_ends_the_session() {
    let setup = || lenient().rate(1, 1, Drop).with(|limits| limits.message_max_bytes = 10);
    let events = [text(Client, "1"), from(Client, TEXT, "12345"), from(Client, FIN | CONTINUATION, "123456")];
    let closed = "close 1009 message too big";
    check(setup(), &events, &[], &["text 1", closed], None);
}

#[test]
fn sessions_that_share_a_limiter_share_its_rate() {
    let start = Instant::now();
    let limiter = Arc::new(Limiter::new(quota(1, 3)));
    let setup = Setup { messages: Some(limiter), ..lenient().rate(1, 3, Drop) };
    let (mut a, mut b) = (Relay::new(setup.clone(), start), Relay::new(setup, start));
    for _ in 0..2 {
        apply(&mut a, &text(Client, "x"));
        apply(&mut b, &text(Client, "x"));
    }
    assert_eq!(a.frames(Upstream).len(), 2);
    assert_eq!(b.frames(Upstream).len(), 1);
}

#[test]
fn sessions_delayed_by_a_shared_quota_are_served_in_order() {
    let start = Instant::now();
    let limiter = Arc::new(Limiter::new(quota(1, 1)));
    let setup = Setup { messages: Some(limiter), ..lenient().rate(1, 1, Delay) };
    let mut relays = [Relay::new(setup.clone(), start), Relay::new(setup, start)];
    for relay in &mut relays {
        apply(relay, &text(Client, "1"));
        apply(relay, &text(Client, "2"));
    }
    // The relay that is woken, after how many seconds, and the number of messages that each has forwarded by then.
    let table = [(1, 1, [1, 0]), (0, 1, [2, 0]), (1, 2, [2, 1]), (1, 3, [2, 2])];
    for (woken, seconds, expected) in table {
        let relay = &mut relays[woken];
        relay.pass((start + Duration::from_secs(seconds)) - relay.now);
        assert_eq!([&relays[0], &relays[1]].map(|relay| relay.frames(Upstream).len()), expected, "{seconds} s");
    }
    let throttled = relays.map(|relay| relay.session.counts().throttled);
    assert_eq!(throttled, [1, 2], "each message that waited counts once");
}

#[test]
fn floods_of_control_frames_or_small_fragments_end_the_session() {
    let setup = || lenient().with(|limits| limits.overhead = quota(1, 20));
    let in_two_fragments =
        [wire::frame(BINARY, key(Client), &[0; 200]), wire::frame(FIN | CONTINUATION, key(Client), b"x")];
    let in_two_fragments = Bytes(Client, in_two_fragments.concat());
    let table: Vec<(&str, Event, bool)> = vec![
        ("pings", from(Client, FIN | PING, "x"), true),
        ("pongs", from(Client, FIN | PONG, "x"), true),
        ("empty fragments", from(Client, CONTINUATION, ""), true),
        ("small fragments", from(Client, CONTINUATION, [0; 127]), true),
        ("larger fragments", from(Client, CONTINUATION, [0; 128]), false),
        ("whole messages", text(Client, "x"), false),
        ("messages with a small last fragment", in_two_fragments, false),
        ("an upstream's pings", from(Upstream, FIN | PING, "x"), false),
        ("an upstream's fragments", from(Upstream, CONTINUATION, ""), false),
    ];
    for (name, event, ends) in table {
        let mut events = vec![event.clone(); 30];
        if matches!(event, Bytes(_, bytes) if bytes[0] == CONTINUATION) {
            events.insert(0, from(Client, BINARY, [0; 200]));
            events.insert(0, from(Upstream, BINARY, [0; 200]));
        }
        events.push(Pass(5 * SECOND));
        let expected = if ends { end(ClosedBy::Tollgate, 1008, CloseReason::OverheadRate) } else { None };
        assert_eq!(play(setup(), &events).outcome, expected, "{name}");
    }
}

#[test]
fn frames_that_are_not_forwarded_are_not_counted() {
    let setup = || lenient().rate(1, 1, Close).with(|limits| limits.overhead = quota(1, 1));
    let flood = [from(Client, FIN | PING, ""), text(Client, "x")];
    let events = [&[Drain(0), Pass(0), close(Upstream, 1001, "")], &flood[..], &flood, &flood].concat();
    let closed = ["close 1001 going away"];
    check(setup(), &events, &closed, &closed, None);
    let events = [&events[..], &[close(Client, 1001, "")]].concat();
    check(setup(), &events, &closed, &closed, end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

#[test]
fn a_close_does_not_count_as_overhead() {
    // One ping exhausts the quota. A Close is the last frame of a side and is not counted.
    let setup = lenient().with(|limits| limits.overhead = quota(1, 1));
    let events = [from(Client, FIN | PING, ""), close(Client, 4000, ""), close(Upstream, 4000, "")];
    check(setup, &events, &["close 4000"], &["ping", "close 4000"], end(ClosedBy::Client, 4000, CloseReason::Closed));
}

#[test]
fn input_is_forwarded_after_a_failed_write() {
    for side in Side::BOTH {
        let (other, by) = (side.other(), ClosedBy::from(side));
        // Frames for this side are dropped. Its own earlier frames, above all its Close, are forwarded.
        let last_words = [text(other, "lost"), text(side, "last"), close(side, 4000, "done"), close(other, 4000, "")];
        let relay = play(lenient(), &[&[CloseWrite(side)], &last_words[..]].concat());
        assert_eq!(
            (shown(&relay, side), shown(&relay, other)),
            (vec![], vec!["text last".into(), "close 4000 done".into()])
        );
        assert_eq!(relay.outcome, end(by, 4000, CloseReason::Closed));
        // Without a Close, the side counts as disconnected at the end of its stream or after the close timeout.
        let closed = if side == Client { "close 1001 client went away" } else { "close 1014 upstream went away" };
        let code = if side == Client { 1001 } else { 1014 };
        for last in [Disconnect(side), Pass(5 * SECOND)] {
            let relay = play(lenient(), &[CloseWrite(side), last, close(other, code, "")]);
            assert_eq!(shown(&relay, other), [closed]);
            assert_eq!(relay.outcome, end(by, code, CloseReason::Disconnected(side)));
        }
    }
}

#[test]
fn answers_to_pings_do_not_count_as_overhead() {
    let setup = || lenient().with(|limits| limits.overhead = quota(1, 1));
    let asked = [from(Upstream, FIN | PING, "x"), from(Client, FIN | PONG, "x")];
    let thirty = vec![asked; 30].concat();
    assert_eq!(play(setup(), &thirty).outcome, None);
    let unasked = [&thirty[..], &vec![from(Client, FIN | PONG, "x"); 2], &[Pass(5 * SECOND)]].concat();
    assert_eq!(play(setup(), &unasked).outcome, end(ClosedBy::Tollgate, 1008, CloseReason::OverheadRate));
}

#[test]
fn a_delayed_client_is_not_idle() {
    let setup = lenient().rate(1, 1, Delay).with(|limits| limits.idle_timeout = Some(Duration::from_millis(500)));
    let events = [text(Client, "1"), text(Client, "2"), Pass(900), Pass(100)];
    check(setup, &events, &[], &["text 1", "text 2"], None);
}

// Heartbeat.

fn pinging(client: Option<u64>, upstream: Option<u64>) -> Setup {
    lenient().with(|limits| {
        limits.ping_interval = client.map(Duration::from_secs);
        limits.upstream_ping_interval = upstream.map(Duration::from_secs);
    })
}

#[test]
fn a_ping_is_due_only_after_silence() {
    let setup = || pinging(Some(30), Some(60));
    check(setup(), &[Pass(30 * SECOND - 1)], &[], &[], None);
    check(setup(), &[Pass(30 * SECOND)], &["our ping 1"], &[], None);
    let spoken = [Pass(29 * SECOND), text(Client, "x"), Pass(30 * SECOND - 1)];
    check(setup(), &spoken, &[], &["text x"], None);
    let spoken = [&spoken[..], &[Pass(1)]].concat();
    check(setup(), &spoken, &["our ping 1"], &["text x"], None);
    // Any byte counts as activity, even a part of a header.
    let spoken = [Pass(29 * SECOND), Bytes(Client, vec![0x81]), Pass(30 * SECOND - 1)];
    check(setup(), &spoken, &[], &[], None);
    let both = [Pass(30 * SECOND), our_pong(Client, 1), Pass(30 * SECOND)];
    check(setup(), &both, &["our ping 1", "our ping 2"], &["our ping 3"], None);
}

#[test]
fn a_ping_waits_for_the_end_of_a_frame() {
    let events = [begin(Upstream, FIN | TEXT, 8, "half"), Pass(30 * SECOND)];
    check(pinging(Some(30), None), &events, &["text half(4 of 8)"], &[], None);
    let events = [&events[..], &[more(Upstream, "full")]].concat();
    check(pinging(Some(30), None), &events, &["text halffull", "our ping 1"], &[], None);
}

/// A client that is gone would not be noticed, since no ping can be sent to it.
#[test]
fn a_side_that_stops_within_a_frame_while_a_ping_waits_ends_the_session() {
    let half = begin(Upstream, FIN | TEXT, 8, "half");
    let stops = |seconds: u64| [half.clone(), Pass(seconds * SECOND - 1)];
    check(pinging(Some(30), None), &stops(40), &["text half(4 of 8)"], &[], None);
    // The client gets no Close within the frame: its connection ends.
    let events = [&stops(40)[..], &[Pass(1)]].concat();
    let ended = || end(ClosedBy::Tollgate, 1014, CloseReason::NoPong(Upstream));
    check(pinging(Some(30), None), &events, &["text half(4 of 8)"], &["close 1001 no pong"], ended());
    // Every byte of the frame extends the time.
    let goes_on = [&stops(40)[..], &[more(Upstream, "f"), Pass(40 * SECOND - 1)]].concat();
    check(pinging(Some(30), None), &goes_on, &["text halff(5 of 8)"], &[], None);
    // So does a byte of the client, which shows that it is there.
    let speaks = [half.clone(), Pass(35 * SECOND), text(Client, "x"), Pass(40 * SECOND - 1)];
    check(pinging(Some(30), None), &speaks, &["text half(4 of 8)"], &["text x"], None);
    let events = [&speaks[..], &[Pass(1)]].concat();
    check(pinging(Some(30), None), &events, &["text half(4 of 8)"], &["text x", "close 1001 no pong"], ended());
    // Without pings of the client no ping waits.
    check(pinging(None, None), &stops(4_000), &["text half(4 of 8)"], &[], None);
    // A client that is blocked has the write timeout.
    let blocked = [half.clone(), Pass(30 * SECOND), Block(Client), Pass(500 * SECOND)];
    let setup = || pinging(Some(30), None).with(|limits| limits.write_timeout = Duration::from_secs(1_000));
    check(setup(), &blocked, &["text half(4 of 8)"], &[], None);
    // The same for the client, while a ping to the upstream waits.
    let events = [begin(Client, FIN | TEXT, 8, "half"), Pass(40 * SECOND)];
    check(pinging(None, Some(30)), &events, &["close 1001 no pong"], &["text half(4 of 8)"], None);
}

#[test]
fn pongs_to_our_pings_are_dropped_and_others_are_forwarded() {
    let setup = || pinging(Some(30), None);
    let pinged = |pongs: &[Event]| [&[Pass(30 * SECOND), text(Client, "x"), Pass(30 * SECOND)], pongs].concat();
    let client = ["our ping 1", "our ping 2"];
    let table: &[(&str, Event, bool)] = &[
        ("the last", our_pong(Client, 2), true),
        ("a late one", our_pong(Client, 1), true),
        ("one without a ping", our_pong(Client, 3), false),
        ("number zero", our_pong(Client, 0), false),
        ("the tag alone", from(Client, FIN | PONG, PING_TAG), false),
        ("a longer one", from(Client, FIN | PONG, [&PING_TAG[..], &[0, 0, 0, 1, 0]].concat()), false),
        ("an empty one", from(Client, FIN | PONG, ""), false),
    ];
    for (name, pong, swallowed) in table {
        let relay = play(setup(), &pinged(std::slice::from_ref(pong)));
        assert_eq!(shown(&relay, Client), client, "{name}");
        assert_eq!(relay.frames(Upstream).len(), if *swallowed { 1 } else { 2 }, "{name}");
        assert_eq!(relay.outcome, None, "{name}");
    }
}

#[test]
fn pongs_of_the_upstream_to_our_pings_are_dropped() {
    let events = [Pass(30 * SECOND), our_pong(Upstream, 1), Pass(15 * SECOND)];
    check(pinging(None, Some(30)), &events, &[], &["our ping 1"], None);
}

#[test]
fn a_missing_pong_ends_the_session() {
    let closed = "close 1001 no pong";
    let setup = || pinging(Some(30), None);
    check(setup(), &[Pass(40 * SECOND - 1)], &["our ping 1"], &[], None);
    check(setup(), &[Pass(40 * SECOND)], &["our ping 1", closed], &[closed], None);
    let cause = CloseReason::NoPong(Client);
    let late = [Pass(40 * SECOND), close(Upstream, 1001, ""), Pass(5 * SECOND)];
    check(setup(), &late, &["our ping 1", closed], &[closed], end(ClosedBy::Tollgate, 1001, cause));
    // Any input counts like a pong.
    let alive = [Pass(39 * SECOND), text(Client, "x"), Pass(29 * SECOND)];
    check(setup(), &alive, &["our ping 1"], &["text x"], None);
}

#[test]
fn silence_does_not_count_while_the_other_side_is_blocked() {
    let setup = || pinging(Some(10), None).with(|limits| limits.write_timeout = Duration::from_secs(1_000));
    check(setup(), &[Block(Upstream), Pass(500 * SECOND)], &[], &[], None);
    let events = [Block(Upstream), Pass(500 * SECOND), Unblock(Upstream), Pass(10 * SECOND - 1)];
    check(setup(), &events, &[], &[], None);
    // This holds for a ping that was sent before, too.
    let events = [Pass(10 * SECOND), Block(Upstream), Pass(500 * SECOND), Unblock(Upstream), Pass(10 * SECOND - 1)];
    check(setup(), &events, &["our ping 1"], &[], None);
}

#[test]
fn silence_does_not_count_while_the_client_is_delayed() {
    let setup = pinging(Some(1), None).rate(1, 1, Delay).with(|limits| {
        let hourly = limits.messages.as_mut().expect("a rate is set");
        hourly.quota.rate.period = Duration::from_secs(3_600);
    });
    let events = [text(Client, "1"), text(Client, "2"), Pass(3_599 * SECOND)];
    check(setup.clone(), &events, &[], &["text 1"], None);
    let events = [&events[..], &[Pass(SECOND)]].concat();
    check(setup, &events, &[], &["text 1", "text 2"], None);
}

#[test]
fn the_pong_timeout_restarts_when_a_side_is_unblocked() {
    let setup = || pinging(Some(30), None).with(|limits| limits.write_timeout = Duration::from_secs(1_000));
    let events = [Pass(30 * SECOND), Block(Client), Pass(100 * SECOND), Unblock(Client), Pass(10 * SECOND - 1)];
    check(setup(), &events, &["our ping 1"], &[], None);
    let events = [&events[..], &[Pass(1)]].concat();
    let closed = "close 1001 no pong";
    check(setup(), &events, &["our ping 1", closed], &[closed], None);
}

// Deadlines.

#[test]
fn pings_do_not_keep_an_idle_session_open() {
    let setup = || pinging(Some(10), None).with(|limits| limits.idle_timeout = Some(Duration::from_secs(30)));
    let alive = |seconds| [Pass(seconds * SECOND), from(Client, FIN | PING, "")];
    let events = [&alive(9)[..], &alive(9), &alive(9), &[Pass(3 * SECOND - 1)]].concat();
    check(setup(), &events, &[], &["ping", "ping", "ping"], None);
    let events = [&events[..], &[Pass(1)]].concat();
    let closed = "close 1001 idle timeout";
    check(setup(), &events, &[closed], &["ping", "ping", "ping", closed], None);
    let events = [&alive(9)[..], &alive(9), &[text(Upstream, "x")], &alive(9), &alive(9)].concat();
    check(setup(), &events, &["text x"], &["ping", "ping", "ping", "ping"], None);
}

#[test]
fn a_drain_waits_for_the_end_of_a_frame() {
    let events = [begin(Client, FIN | TEXT, 8, "half"), Drain(0), Pass(SECOND)];
    let closed = "close 1001 going away";
    check(lenient(), &events, &[closed], &["text half(4 of 8)"], None);
    let events = [&events[..], &[more(Client, "full"), text(Client, "late")]].concat();
    check(lenient(), &events, &[closed], &["text halffull", closed], None);
    let events = [&events[..], &[close(Client, 1001, ""), close(Upstream, 1001, "")]].concat();
    check(lenient(), &events, &[closed], &["text halffull", closed], end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

#[test]
fn an_unfinished_frame_delays_the_end_only_until_the_close_timeout() {
    let events = [begin(Client, FIN | TEXT, 800, "half"), Drain(0), Pass(5 * SECOND - 1)];
    let (client, upstream) = (["close 1001 going away"], ["text half(4 of 800)"]);
    check(lenient(), &events, &client, &upstream, None);
    let events = [&events[..], &[Pass(1)]].concat();
    check(lenient(), &events, &client, &upstream, end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

#[test]
fn an_upstream_that_disconnects_between_frames_is_reported_with_1014() {
    let events = [text(Upstream, "x"), Disconnect(Upstream)];
    let client = ["text x", "close 1014 upstream went away"];
    check(lenient(), &events, &client, &[], None);
    let events = [&events[..], &[close(Client, 1014, "")]].concat();
    check(lenient(), &events, &client, &[], end(ClosedBy::Upstream, 1014, CloseReason::Disconnected(Upstream)));
    let fragment = [from(Upstream, TEXT, "x"), Disconnect(Upstream)];
    check(lenient(), &fragment, &["text+ x", client[1]], &[], None);
}

#[test]
fn no_close_is_sent_inside_a_frame_of_a_disconnected_side() {
    // The session ends without a Close to the other side.
    let events = [begin(Upstream, FIN | TEXT, 9, "x"), Disconnect(Upstream)];
    check(
        lenient(),
        &events,
        &["text x(1 of 9)"],
        &[],
        end(ClosedBy::Upstream, 1014, CloseReason::Disconnected(Upstream)),
    );
    let events = [begin(Client, FIN | TEXT, 9, "x"), Disconnect(Client)];
    check(lenient(), &events, &[], &["text x(1 of 9)"], end(ClosedBy::Client, 1001, CloseReason::Disconnected(Client)));
}

#[test]
fn a_client_that_disconnects_is_reported_with_1001() {
    let events = [Disconnect(Client)];
    let upstream = ["close 1001 client went away"];
    check(lenient(), &events, &[], &upstream, None);
    check(
        lenient(),
        &[Disconnect(Client), Pass(5 * SECOND)],
        &[],
        &upstream,
        end(ClosedBy::Client, 1001, CloseReason::Disconnected(Client)),
    );
    check(
        lenient(),
        &[Disconnect(Client), Disconnect(Upstream)],
        &[],
        &upstream,
        end(ClosedBy::Client, 1001, CloseReason::Disconnected(Client)),
    );
}

#[test]
fn frames_for_a_disconnected_side_are_not_counted() {
    let events = [text(Client, "1"), Disconnect(Upstream), text(Client, "2"), from(Client, FIN | PING, "")];
    let relay = play(lenient(), &events);
    let client = DirectionStats { messages: 1, bytes: relay.peer(Upstream).received.len() as u64 };
    assert_eq!(relay.session.counts(), SessionStats { client, ..SessionStats::default() });
}

#[test]
fn a_side_is_given_up_only_if_it_accepts_no_bytes() {
    check(lenient(), &[Block(Client), Pass(30 * SECOND - 1)], &[], &[], None);
    let slow = [Block(Client), Pass(20 * SECOND), Block(Client), Pass(20 * SECOND), Unblock(Client), Pass(60 * SECOND)];
    check(lenient(), &slow, &[], &[], None);
    let upstream = ["close 1001 client does not read"];
    check(lenient(), &[Block(Client), Pass(30 * SECOND)], &[], &upstream, None);
    let events = [Block(Client), Pass(30 * SECOND), Pass(5 * SECOND)];
    check(lenient(), &events, &[], &upstream, end(ClosedBy::Tollgate, 1001, CloseReason::WriteStall(Client)));
}

#[test]
fn messages_over_the_rate_do_not_delay_the_closing_handshake() {
    let setup = || lenient().rate(1, 1, Delay).with(|limits| limits.messages.as_mut().unwrap().quota.rate.period *= 60);
    let beyond = [text(Client, "1"), text(Client, "2"), text(Client, "3"), close(Client, 4000, "done")];
    // A message over the quota is dropped, because a side that has closed discards it anyway (RFC 6455 section 1.4).
    let events = [&beyond[..], &[close(Upstream, 4000, "")]].concat();
    let upstream = ["text 1", "close 4000 done"];
    check(setup(), &events, &["close 4000"], &upstream, end(ClosedBy::Upstream, 4000, CloseReason::Closed));
    let events = [&[text(Client, "1"), close(Upstream, 4000, "")], &beyond[1..]].concat();
    check(setup(), &events, &["close 4000"], &upstream, end(ClosedBy::Upstream, 4000, CloseReason::Closed));
}

#[test]
fn a_delayed_client_is_read_again_when_the_session_closes() {
    let setup = lenient().rate(1, 1, Delay);
    let events =
        [text(Client, "1"), text(Client, "2"), close(Client, 1001, ""), Drain(0), Pass(0), close(Upstream, 1001, "")];
    let closed = "close 1001 going away";
    check(setup, &events, &[closed], &["text 1", closed], end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

#[test]
fn the_first_close_reason_is_kept() {
    let events = [Drain(0), Pass(0), from(Client, FIN | 7, ""), Disconnect(Upstream)];
    let closed = ["close 1001 going away"];
    check(lenient(), &events, &closed, &closed, end(ClosedBy::Tollgate, 1001, CloseReason::Drain));
}

/// Sessions that have ended while delayed do not use up a shared quota.
#[test]
fn a_delayed_client_that_disconnects_returns_its_reservation() {
    let start = Instant::now();
    let limiter = Arc::new(Limiter::new(quota(1, 1)));
    let setup = || Setup { messages: Some(Arc::clone(&limiter)), ..lenient().rate(1, 1, Delay) };
    for _ in 0..100 {
        let mut relay = Relay::new(setup(), start);
        for event in [text(Client, "a"), text(Client, "b"), Disconnect(Client)] {
            apply(&mut relay, &event);
        }
    }
    // The first message was forwarded, so the next one is due after one second and not after a hundred.
    assert_eq!(limiter.reserve(start), Ok(start + Duration::from_millis(SECOND)));
}

#[test]
fn a_session_has_a_deadline_unless_nothing_can_become_due() {
    let none = |setup, events: &[Event]| play(setup, events).session.poll_timeout().is_none();
    assert!(none(lenient(), &[]));
    assert!(none(lenient(), &[text(Client, "x"), text(Upstream, "x")]));
    assert!(none(lenient(), &[Block(Client), Unblock(Client)]));
    // The session has ended.
    assert!(none(lenient(), &[Disconnect(Client), Disconnect(Upstream)]));
    let table = [
        (pinging(Some(1), None), vec![]),
        (pinging(None, Some(1)), vec![]),
        (pinging(Some(1), None), vec![Pass(SECOND)]),
        (lenient().with(|limits| limits.idle_timeout = Some(Duration::from_secs(1))), vec![]),
        (Setup { expires_after: Some(Duration::from_secs(1)), ..lenient() }, vec![]),
        (lenient().rate(1, 1, Delay), vec![text(Client, ""), text(Client, "")]),
        (lenient(), vec![Drain(0)]),
        (lenient(), vec![Block(Upstream)]),
        (lenient(), vec![Disconnect(Client)]),
        (lenient(), vec![close(Upstream, 1000, "")]),
        (lenient(), vec![from(Client, 0x7f, "")]),
    ];
    for (setup, events) in table {
        assert!(!none(setup, &events), "{events:?}");
    }
}

// UTF-8.

#[test]
fn text_is_checked_if_the_route_requires_it() {
    let setup = || lenient().with(|limits| limits.check_utf8 = true);
    let closed = "close 1007 text not UTF-8";
    // The invalid byte is found before any byte of its frame is forwarded.
    let events = [text(Client, "ä"), from(Client, FIN | TEXT, b"a\xff")];
    check(setup(), &events, &[], &["text ä", closed], None);
    // A part of this frame was forwarded, so the upstream cannot be sent a Close, and the session ends at once.
    let events = [begin(Client, FIN | TEXT, 9, "good"), more(Client, b"\xff")];
    let cause = CloseReason::Violation(Client, Violation::TextNotUtf8);
    check(setup(), &events, &[closed], &["text good(4 of 9)"], end(ClosedBy::Tollgate, 1007, cause));
    // A character may be split between frames, but not by the end of the message.
    let events = [from(Client, TEXT, b"\xc3"), from(Client, FIN | CONTINUATION, b"\xa4")];
    check(setup(), &events, &[], &["text+ \u{fffd}", "continuation \u{fffd}"], None);
    let events = [from(Client, TEXT, b"\xc3"), from(Client, FIN | CONTINUATION, b"")];
    check(setup(), &events, &[], &["text+ \u{fffd}", closed], None);
    // Binary messages are not checked, nor is text on a route without the check.
    check(setup(), &[from(Client, FIN | BINARY, b"\xff")], &[], &["binary \u{fffd}"], None);
    check(lenient(), &[from(Client, FIN | TEXT, b"\xff")], &[], &["text \u{fffd}"], None);
}

#[test]
fn only_a_clients_text_is_checked() {
    let setup = lenient().with(|limits| limits.check_utf8 = true);
    check(setup, &[from(Upstream, FIN | TEXT, b"\xff")], &["text \u{fffd}"], &[], None);
}
