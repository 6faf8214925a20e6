//! Simulates a session between two random endpoints, well-behaved or malicious, in virtual time.
//!
//! Every run is determined by its seed. `TOLLGATE_SEED=7` replays one run, `TOLLGATE_SEEDS=1000000` makes that many.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod harness;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use harness::endpoint::{Endpoint, Habits};
use harness::random::{Random, number_from_env};
use harness::relay::{PING_TAG, Relay, Setup, quota};
use harness::wire::{self, CLOSE, PONG};
use tollgate::policy::limits::{ByteQuota, LimitMode, Limits, OnExcess};
use tollgate::session::{CloseReason, Message, Outcome, Side};
use tollgate::ws::code::CloseCode;
use tollgate::ws::frame::REASON_MAX_BYTES;

/// The default number of runs of each test.
const SEEDS: u64 = 6_000;
/// The maximum number of events in a run before it is finished.
const EVENTS_MAX: usize = 120;
/// The longest time for which a busy thread does not run its sessions.
const OVERSLEEP_MAX: Duration = Duration::from_secs(2);
/// The longest time after which the client of a lost upstream is closed.
const LOSS_DELAY_MAX: Duration = Duration::from_secs(7);

/// Runs every seed, and prints the seed of a failing run.
fn for_each_seed(mut run: impl FnMut(u64)) {
    let seeds = match number_from_env("TOLLGATE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number_from_env("TOLLGATE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("replay this failure with TOLLGATE_SEED={seed}");
            resume_unwind(panic);
        }
    }
}

fn is_default_run() -> bool {
    number_from_env("TOLLGATE_SEED").is_none() && number_from_env("TOLLGATE_SEEDS").is_none_or(|seeds| seeds >= SEEDS)
}

fn random_limits(random: &mut Random) -> Setup {
    let span = |random: &mut Random| Duration::from_millis(random.pick(&[100, 1_000, 5_000, 20_000]));
    let sometimes = |random: &mut Random| if random.chance(50) { Some(span(random)) } else { None };
    let mut setup = Setup::lenient();
    let on_excess = random.pick(&[OnExcess::Close, OnExcess::Delay, OnExcess::Drop]);
    if random.chance(60) {
        setup = setup.rate(1 + random.below(20) as u32, 1 + random.below(10) as u32, on_excess);
    }
    if random.chance(30) {
        setup = setup.byte_rate(1 + random.below(2_000) as u32, 1 + random.below(1_000) as u32, on_excess);
    }
    if random.chance(15) {
        setup = setup.reporting();
    }
    let size = |random: &mut Random| random.pick(&[30, 126, 1_000, 65_535, u64::MAX, u64::MAX, u64::MAX]);
    setup.limits = Limits {
        overhead: if random.chance(30) { quota(1, 3) } else { setup.limits.overhead },
        frame_max_bytes: size(random),
        message_max_bytes: size(random),
        upstream_message_max_bytes: random.chance(50).then(|| size(random)),
        idle_timeout: sometimes(random),
        ping_interval: sometimes(random),
        upstream_ping_interval: sometimes(random),
        pong_timeout: span(random),
        close_timeout: span(random),
        write_timeout: span(random),
        check_utf8: random.chance(50),
        ..setup.limits
    };
    setup.expires_after = random.chance(10).then(|| span(random));
    setup.limits.max_session_age = random.chance(10).then(|| span(random));
    setup.age_jitter = u16::MAX;
    setup.loss_delay = random.pick(&[Duration::ZERO, Duration::from_millis(1), LOSS_DELAY_MAX]);
    setup.compressed = random.chance(30);
    setup
}

fn random_habits(random: &mut Random, compressed: bool) -> Habits {
    Habits {
        evil: random.chance(30),
        answers_pings: random.chance(80),
        answers_close: random.chance(70),
        closes: random.pick(&[0, 0, 1, 5]),
        compressed,
    }
}

struct World {
    random: Random,
    relay: Relay,
    ends: [Endpoint; 2],
    /// The limits of the session, the current ones last.
    limits: Vec<Limits>,
    /// When a reason to end the session became visible to the endpoints.
    closing_since: Option<Instant>,
}

impl World {
    fn new(mut random: Random, setup: Setup, habits: [Habits; 2]) -> Self {
        let limits = vec![setup.limits.clone()];
        // The start time does not affect a run: only differences of times matter.
        let relay = Relay::with_twin(setup, Instant::now());
        let ends = [Endpoint::new(Side::Client, habits[0]), Endpoint::new(Side::Upstream, habits[1])];
        random.next();
        Self { random, relay, ends, limits, closing_since: None }
    }

    fn end(&mut self, side: Side) -> &mut Endpoint {
        &mut self.ends[usize::from(side == Side::Upstream)]
    }

    /// Lets both endpoints read and answer the received frames.
    fn react(&mut self) {
        for end in &mut self.ends {
            if !self.relay.is_blocked(end.side) && !self.relay.peer(end.side).disconnected {
                end.react(&self.relay.peer(end.side).received, &mut self.random);
            }
            if self.relay.closing_since.is_some() || end.decoder.has_seen_close() {
                self.closing_since.get_or_insert(self.relay.now);
            }
        }
    }

    fn arrive(&mut self, side: Side, len: usize) {
        if !self.relay.peer(side).disconnected && self.relay.outcome.is_none() {
            let bytes = self.end(side).take(len);
            self.relay.arrive(side, &bytes);
        }
    }

    /// Issues a random command of an operator.
    fn command(&mut self) {
        match self.random.below(100) {
            0..50 => {
                let message = random_message(&mut self.random);
                let _ = self.relay.send(message);
            }
            50..85 => {
                let limits = random_limits(&mut self.random).limits;
                self.set_limits(limits);
            }
            85..94 => {
                let after = Duration::from_millis(self.random.pick(&[0, 10, 1_000, 30_000]));
                let after = self.random.chance(50).then_some(after);
                self.relay.set_expiry(after);
            }
            _ => {
                let code = CloseCode(self.random.pick(&[1000, 1005, 1012, 4000, 65535]));
                let reason = self.random.pick(&["", "maintenance", LONG_REASON]);
                self.relay.close(code, reason);
            }
        }
    }

    fn set_limits(&mut self, limits: Limits) {
        self.limits.push(limits.clone());
        self.relay.set_limits(limits);
    }

    /// Triggers one random event.
    fn happen(&mut self) {
        if self.random.chance(15) {
            self.relay.reimport();
        }
        if self.random.chance(8) {
            return self.command();
        }
        let side = self.random.pick(&Side::BOTH);
        match self.random.below(100) {
            0..40 => {
                let random = &mut self.random;
                self.ends[usize::from(side == Side::Upstream)].queue_random(random);
            }
            40..75 => {
                let queued = self.end(side).queue.len();
                let len = if self.random.chance(40) { queued } else { 1 + self.random.below(queued.clamp(1, 50)) };
                self.arrive(side, len);
            }
            75..85 => {
                let span = Duration::from_millis(self.random.pick(&[1, 10, 100, 1_000, 10_000]));
                self.relay.pass(span);
            }
            85..89 => {
                self.relay.pass_to_deadline();
            }
            89..90 => {
                let span = OVERSLEEP_MAX.mul_f64(self.random.below(100) as f64 / 100.0);
                self.relay.oversleep(span);
            }
            90..94 => self.relay.block(side),
            94..98 => self.relay.unblock(side),
            98..99 if self.random.chance(30) => self.relay.lose(side),
            99 if self.random.chance(30) => {
                let after = Duration::from_millis(self.random.below(3_000) as u64);
                self.relay.drain_in(after);
            }
            _ => {}
        }
    }

    /// Gives the session a reason to end unless it has one, and advances the time until it has ended.
    fn finish(&mut self) -> Outcome {
        if self.relay.outcome.is_none() {
            if self.random.chance(50) {
                let side = self.random.pick(&Side::BOTH);
                self.relay.lose(side);
            } else {
                self.relay.drain_in(Duration::ZERO);
                self.relay.pass(Duration::ZERO);
            }
            self.closing_since.get_or_insert(self.relay.now);
        }
        while self.relay.outcome.is_none() {
            self.react();
            assert!(self.relay.pass_to_deadline(), "the session has no deadline and does not end");
        }
        self.react();
        let outcome = self.relay.outcome.expect("the loop ends with an outcome");
        let ended_at = self.relay.ended_at.expect("there is an outcome");
        let took = self.closing_since.map_or(Duration::ZERO, |since| ended_at.saturating_duration_since(since));
        let longest = |timeout: fn(&Limits) -> Duration| self.limits.iter().map(timeout).max().unwrap_or_default();
        let late = OVERSLEEP_MAX + LOSS_DELAY_MAX;
        let allowed = longest(|limits| limits.close_timeout) + longest(|limits| limits.write_timeout) + late;
        assert!(took <= allowed, "closing took {took:?} of {allowed:?}");
        outcome
    }

    /// Checks that every endpoint that could receive a Close has received one. The decoders have checked that nothing
    /// follows it and that all frames are well-formed.
    fn check_closes(&self, outcome: Outcome) {
        for end in &self.ends {
            let peer = self.relay.peer(end.side);
            let frames = self.relay.frames(end.side);
            let closes = frames.iter().filter(|frame| frame.opcode == CLOSE).count();
            assert!(closes <= 1);
            let mid_frame =
                peer.received.len() != frames.iter().filter(|frame| frame.is_whole()).map(length).sum::<usize>();
            assert!(closes == 1 || peer.disconnected || peer.stalled || mid_frame, "no Close for the {:?}", end.side);
            for close in frames.iter().filter(|frame| frame.opcode == CLOSE) {
                // An upstream that does not answer a ping gets its Close earlier than its client.
                if end.side == Side::Upstream && close.payload == wire::close_payload(1001, "no pong") {
                    continue;
                }
                // A side that closes chooses its own code, and may break a rule afterwards.
                if outcome.cause != CloseReason::Closed {
                    assert_eq!(close.close_code(), outcome.code.map(|code| code.0), "{outcome:?}");
                }
                if outcome.cause == CloseReason::Command {
                    let (code, reason) = self.relay.commanded.as_ref().expect("a command");
                    let code = if code.may_be_sent() { *code } else { CloseCode::POLICY_VIOLATION };
                    let reason = &reason[..reason.floor_char_boundary(REASON_MAX_BYTES)];
                    assert_eq!(close.payload, wire::close_payload(code.0, reason));
                }
            }
        }
    }

    /// Checks that every message of the session's own was sent, unless the client could not receive it. The relay has
    /// checked their order and that none is sent inside another message.
    fn check_sent(&self) {
        let Relay { queued, sent, .. } = &self.relay;
        let peer = self.relay.peer(Side::Client);
        assert!(
            *sent == queued.len() || peer.disconnected || peer.stalled || !self.relay.client_is_between_messages(),
            "{sent} of {} messages were sent",
            queued.len()
        );
    }

    /// Checks that the forwarded bytes are a prefix of the sent ones, without answers to the session's pings and
    /// without dropped messages. Returns the sent frames beyond that prefix.
    fn check_forwarded(&self, from: Side) -> Vec<wire::Sent<'_>> {
        let forwarded = self.relay.forwarded(from.other());
        let drops = |limits: &Limits| limits.on_excess().is_some_and(|on_excess| on_excess != OnExcess::Close);
        let drops = from == Side::Client && self.limits.iter().any(drops);
        let mut rest = &forwarded[..];
        let mut dropping = false;
        let sent = wire::split(&self.ends[usize::from(from == Side::Upstream)].arrived);
        let mut beyond = Vec::new();
        for frame in sent {
            let ours = is_our_pong(&frame);
            if rest.is_empty() {
                if !ours {
                    beyond.push(frame);
                }
            } else if !ours && rest.starts_with(frame.bytes) {
                dropping &= frame.is_control() || !frame.begins();
                assert!(frame.is_control() || !dropping, "a part of a dropped message was forwarded");
                rest = &rest[frame.bytes.len()..];
            } else if !ours && !frame.is_control() && frame.bytes.starts_with(rest) {
                rest = &[];
            } else if !ours {
                assert!(drops && !frame.is_control(), "{frame:?} is missing before {rest:02x?}");
                assert!(frame.begins() || dropping, "the rest of a forwarded message was dropped");
                dropping = true;
            }
        }
        assert!(rest.is_empty(), "neither endpoint sent {rest:02x?}");
        for frame in wire::split(&forwarded) {
            assert!(!is_our_pong(&frame), "an answer to a ping of the session was forwarded");
        }
        beyond
    }
}

/// A reason that does not fit into a Close and whose limit is inside a character.
const LONG_REASON: &str = concat!(
    "a reason that is longer than a control frame, which is at most 125 bytes of payload, has to be cut where ",
    "a character ends: üüüüüüüüüüüü"
);

fn random_message(random: &mut Random) -> Message {
    let len = random.pick(&[0, 1, 125, 126, 300, 65_536]);
    if random.chance(50) { Message::from("x".repeat(len)) } else { Message::from(random.bytes(len)) }
}

fn length(frame: &wire::Frame) -> usize {
    frame.end - frame.start
}

fn is_our_pong(frame: &wire::Sent<'_>) -> bool {
    frame.first & 0x0f == PONG && frame.payload().len() == 8 && frame.payload().starts_with(&PING_TAG)
}

#[test]
fn invariants_hold_in_random_sessions() {
    let mut causes = BTreeMap::<&str, u32>::new();
    for_each_seed(|seed| {
        let mut random = Random::new(seed);
        let setup = random_limits(&mut random);
        let habits = [random_habits(&mut random, setup.compressed), random_habits(&mut random, setup.compressed)];
        let mut world = World::new(random, setup, habits);
        for _ in 0..world.random.below(EVENTS_MAX) {
            world.happen();
            world.react();
            if world.relay.outcome.is_some() {
                break;
            }
        }
        let outcome = world.finish();
        world.check_closes(outcome);
        world.check_sent();
        for side in Side::BOTH {
            world.check_forwarded(side);
        }
        *causes.entry(outcome.cause.label()).or_default() += 1;
    });
    if is_default_run() {
        println!("{causes:?}");
        // Every cause except `Aborted`, which only the relay uses, and those of a changed configuration or a newer
        // session.
        assert_eq!(causes.len(), 18, "the simulation does not reach every cause any more: {causes:?}");
    }
}

#[test]
fn nothing_is_lost_between_well_behaved_ends() {
    let mut messages = 0;
    for_each_seed(|seed| {
        let mut random = Random::new(seed);
        let setup = random_limits(&mut random);
        let lenient = Setup::lenient().limits;
        let mut setup = Setup { expires_after: None, ..setup };
        setup.limits = Limits {
            mode: setup.limits.mode,
            messages: setup.limits.messages.filter(|messages| messages.on_excess == OnExcess::Delay),
            // Fast enough for a frame of 64 KiB within a minute.
            bytes: setup
                .limits
                .bytes
                .filter(|bytes| bytes.on_excess == OnExcess::Delay)
                .map(|bytes| ByteQuota { quota: quota(2_000, bytes.quota.burst.get()), ..bytes }),
            write_timeout: Duration::from_secs(1_000_000),
            pong_timeout: Duration::from_secs(1_000_000),
            idle_timeout: None,
            ping_interval: setup.limits.ping_interval,
            upstream_ping_interval: setup.limits.upstream_ping_interval,
            check_utf8: setup.limits.check_utf8,
            ..lenient
        };
        let habits = [Habits::polite(setup.compressed); 2];
        let mut world = World::new(random, setup, habits);
        for _ in 0..EVENTS_MAX {
            if world.random.chance(10) {
                world.relay.reimport();
            }
            if world.random.chance(5) {
                let message = random_message(&mut world.random);
                let _ = world.relay.send(message);
            }
            if world.random.chance(2) {
                // Either another quota or the same one.
                let mut limits = world.limits[0].clone();
                let quotas = [quota(1, 1), quota(7, 3), quota(50, 10)];
                if let Some(messages) = &mut limits.messages
                    && world.random.chance(80)
                {
                    messages.quota = world.random.pick(&quotas);
                }
                if let Some(bytes) = &mut limits.bytes
                    && world.random.chance(80)
                {
                    bytes.quota = world.random.pick(&[quota(2_000, 20), quota(3_000, 5_000), quota(50_000, 100)]);
                }
                world.set_limits(limits);
            }
            let side = world.random.pick(&Side::BOTH);
            match world.random.below(10) {
                0..4 => world.ends[usize::from(side == Side::Upstream)].queue_random(&mut world.random),
                4..8 => {
                    let len = 1 + world.random.below(60);
                    world.arrive(side, len);
                }
                8 if world.random.chance(50) => world.relay.block(side),
                8 => world.relay.unblock(side),
                _ => {
                    let span = Duration::from_millis(world.random.below(3_000) as u64);
                    world.relay.pass(span);
                }
            }
            world.react();
        }
        Side::BOTH.into_iter().for_each(|side| world.relay.unblock(side));
        loop {
            Side::BOTH.into_iter().for_each(|side| world.arrive(side, usize::MAX));
            if !Side::BOTH.into_iter().any(|side| world.relay.session.waiting(side)) {
                break;
            }
            world.relay.pass(Duration::from_secs(1));
            world.react();
        }
        assert_eq!(world.relay.outcome, None);
        world.check_sent();
        for side in Side::BOTH {
            let lost = world.check_forwarded(side);
            assert!(lost.is_empty(), "frames of the {side:?} were lost: {lost:?}");
        }
        let counts = world.relay.session.counts();
        // The session's own messages count as the upstream's.
        let own = [(0, 0), (world.relay.sent_bytes, world.relay.sent as u64)];
        let passed = [(Side::Client, counts.client), (Side::Upstream, counts.upstream)];
        for ((side, passed), (own_bytes, own_messages)) in passed.into_iter().zip(own) {
            let forwarded = world.relay.forwarded(side.other());
            assert_eq!(passed.bytes, own_bytes + forwarded.len() as u64);
            let begun = wire::split(&forwarded).iter().filter(|frame| frame.begins()).count() as u64;
            assert_eq!(passed.messages, own_messages + begun);
            messages += begun;
        }
    });
    println!("{messages} messages");
}

#[test]
fn the_outcome_does_not_depend_on_how_input_is_split() {
    for_each_seed(|seed| {
        let mut random = Random::new(seed);
        let mut setup = random_limits(&mut random);
        // Where bytes are delayed, a frame is forwarded in pieces that depend on the split.
        setup.limits.bytes = setup.limits.bytes.filter(|bytes| bytes.on_excess == OnExcess::Close);
        let segments = random_segments(&mut random, setup.compressed);
        let whole = feed(&setup, &segments, |bytes| bytes.len());
        let single = feed(&setup, &segments, |_| 1);
        let cut = feed(&setup, &segments, |bytes| 1 + random.below(bytes.len()));
        // The rest of a frame may be invalid UTF-8 after its start has been forwarded. Only then does the split affect
        // the result: for the receiver, and also for the sender, because a receiver that is not sent a Close sends no
        // last answers.
        let last_is_cut = single.frames(Side::Upstream).last().is_some_and(|frame| !frame.is_whole());
        let may_be_broken_text = setup.limits.check_utf8 && last_is_cut;
        for other in [single, cut] {
            if may_be_broken_text {
                assert!(other.forwarded(Side::Upstream).starts_with(&whole.forwarded(Side::Upstream)));
                let (ours, theirs) = (other.forwarded(Side::Client), whole.forwarded(Side::Client));
                assert!(ours.starts_with(&theirs) || theirs.starts_with(&ours));
                continue;
            }
            assert_eq!(other.outcome, whole.outcome);
            for side in Side::BOTH {
                assert!(other.peer(side).received == whole.peer(side).received, "bytes to the {side:?}");
            }
        }
    });
}

/// A session whose limits are only reported and one without limits receive the same bytes at the same times. Each side
/// is sent the same bytes by both at every step, and both end in the same way.
#[test]
fn limits_that_are_only_reported_change_nothing() {
    let mut reports = BTreeMap::<&str, u64>::new();
    for_each_seed(|seed| {
        let mut random = Random::new(seed);
        let setup = random_limits(&mut random).reporting();
        let mut unlimited = setup.clone();
        unlimited.limits = Limits {
            mode: LimitMode::Enforce,
            messages: None,
            bytes: None,
            overhead: quota(1_000_000, 1_000_000),
            frame_max_bytes: u64::MAX,
            message_max_bytes: u64::MAX,
            upstream_message_max_bytes: None,
            idle_timeout: None,
            max_session_age: None,
            requests: None,
            request_max_bytes: Some(1 << 20),
            ..unlimited.limits
        };
        let start = Instant::now();
        let (mut reporting, mut unlimited) = (Relay::new(setup.clone(), start), Relay::new(unlimited, start));
        for (side, bytes) in random_segments(&mut random, setup.compressed) {
            let pause = Duration::from_millis(random.pick(&[0, 1, 100, 3_000]));
            for relay in [&mut reporting, &mut unlimited] {
                relay.arrive(side, &bytes);
                relay.pass(pause);
                assert!(Side::BOTH.into_iter().all(|side| !relay.session.waiting(side)));
            }
            for side in Side::BOTH {
                assert!(reporting.peer(side).received == unlimited.peer(side).received, "bytes to the {side:?}");
            }
            assert_eq!(reporting.outcome, unlimited.outcome);
        }
        assert_eq!(unlimited.session.reported().count(), 0);
        for (limit, count) in reporting.session.reported() {
            *reports.entry(limit.label()).or_default() += count;
        }
    });
    if is_default_run() {
        println!("{reports:?}");
        assert_eq!(reports.len(), 9, "the simulation does not exceed every limit any more: {reports:?}");
    }
}

/// Returns the bytes that the two endpoints send, in random order.
fn random_segments(random: &mut Random, compressed: bool) -> Vec<(Side, Vec<u8>)> {
    let mut ends = Side::BOTH.map(|side| Endpoint::new(side, random_habits(random, compressed)));
    let mut segments = Vec::new();
    for _ in 0..random.below(12) {
        let end = &mut ends[random.below(2)];
        for _ in 0..1 + random.below(4) {
            end.queue_random(random);
        }
        let len = if random.chance(50) { usize::MAX } else { random.below(100) };
        segments.push((end.side, end.take(len)));
    }
    segments
}

/// Feeds the segments in pieces at one point in time, and ends the session.
fn feed(setup: &Setup, segments: &[(Side, Vec<u8>)], mut piece: impl FnMut(&[u8]) -> usize) -> Relay {
    let mut relay = Relay::new(setup.clone(), Instant::now());
    for (side, bytes) in segments {
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(piece(bytes));
            relay.arrive(*side, now);
            bytes = later;
        }
    }
    relay.lose(Side::Client);
    relay.lose(Side::Upstream);
    relay
}
