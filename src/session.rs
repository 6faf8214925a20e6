//! One proxied WebSocket from the 101 to its end: both directions, the closing handshake, heartbeats and deadlines.
//!
//! A `Session` touches no socket and no clock. **After every call, take its actions until there are none.** The loop of
//! whoever owns the sockets is:
//!
//! ```text
//! bytes came from a side   -> receive(side, bytes, now), again with the rest, until it says More or Wait
//! a side's stream ended    -> gone(side, now)
//! a side takes no bytes    -> blocked(side, now); takes them again -> unblocked(side, now)
//! deadline() has passed    -> pass_deadline(now)
//! after each of these      -> next_action(now) until None
//! ```
//!
//! What [`Step::Forward`] and [`Action::Send`] tell goes to the other side, or to the side named, in the order told.

mod outcome;
mod peer;

use std::sync::Arc;
use std::time::Instant;

use crate::policy::limits::{Limits, OnExcess};
use crate::policy::quota::Bucket;
use crate::ws::close::{Close, CloseCode};
use crate::ws::frame::{CONTROL_MAX_BYTES, ControlFrame, Header, Opcode, apply_mask};
use crate::ws::inspector::{Inspector, Next, Rules};

pub use outcome::{By, Cause, Counts, Outcome, Passed};
use peer::{Input, Peer};

/// A fragment inside a message that carries less than this costs more to handle than it is worth, and is counted.
const SMALL_FRAGMENT_BYTES: u64 = 128;

/// One of the two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Upstream,
}

impl Side {
    /// The two sides.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// The side that this side talks to.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}

/// What to do with the start of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Pass this many bytes on as they are.
    Forward(usize),
    /// Pass this many bytes on to nobody.
    Discard(usize),
    /// Keep the bytes, at most [`KEPT_MAX_BYTES`], and come again when there are more.
    More,
    /// Keep the bytes and read no more from this side until [`Session::waiting`] says so.
    Wait,
}

/// How many bytes a session may leave with [`Step::More`]: a control frame of which one byte is missing.
pub const KEPT_MAX_BYTES: usize = 2 + 4 + CONTROL_MAX_BYTES - 1;

/// What a session wants done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Send a control frame of our own, masked if it goes to the upstream.
    Send {
        /// To this side.
        to: Side,
        /// This frame.
        frame: ControlFrame,
    },
    /// The session is over: send what waits to be sent, and close both streams.
    End(Outcome),
}

/// What a session starts from.
#[derive(Debug)]
pub struct Terms {
    /// The route's bounds.
    pub limits: Arc<Limits>,
    /// The quota of the client's messages, which other sessions may share.
    pub messages: Option<Arc<Bucket>>,
    /// When the token runs out.
    pub expires: Option<Instant>,
    /// Whether permessage-deflate was negotiated.
    pub compressed: bool,
    /// Marks the pings of this session, so that their pongs are known.
    pub ping_tag: [u8; 4],
}

/// One proxied WebSocket.
#[derive(Debug)]
pub struct Session {
    limits: Arc<Limits>,
    messages: Option<Arc<Bucket>>,
    overhead: Bucket,
    client: Peer,
    upstream: Peer,
    expires: Option<Instant>,
    drain_at: Option<Instant>,
    /// When data last passed either way.
    data_passed: Instant,
    /// Until when the client is not read, because it exceeded its rate.
    wait_until: Option<Instant>,
    /// How it ends; set by the first reason there is.
    outcome: Option<Outcome>,
    /// When the closing handshake must be over.
    close_by: Option<Instant>,
    /// The closing handshake is over, or its time is.
    over: bool,
    ended: bool,
    ping_tag: [u8; 4],
    pings: u32,
    counts: Counts,
}

impl Session {
    /// Starts right after the 101.
    pub fn new(terms: Terms, now: Instant) -> Self {
        let Terms { limits, messages, expires, compressed, ping_tag } = terms;
        let from_client = Rules {
            masked: true,
            compressed,
            frame_max_bytes: limits.frame_max_bytes,
            message_max_bytes: limits.message_max_bytes,
            check_utf8: limits.check_utf8,
        };
        let upstream_max_bytes = limits.upstream_message_max_bytes.unwrap_or(u64::MAX);
        let from_upstream = Rules {
            masked: false,
            frame_max_bytes: upstream_max_bytes,
            message_max_bytes: upstream_max_bytes,
            check_utf8: false,
            ..from_client
        };
        Self {
            overhead: Bucket::new(limits.overhead, now),
            client: Peer::new(Inspector::new(from_client), limits.ping_interval, now),
            upstream: Peer::new(Inspector::new(from_upstream), limits.upstream_ping_interval, now),
            limits,
            messages,
            expires,
            drain_at: None,
            data_passed: now,
            wait_until: None,
            outcome: None,
            close_by: None,
            over: false,
            ended: false,
            ping_tag,
            pings: 0,
            counts: Counts::default(),
        }
    }

    /// Judges the start of the bytes that came from a side.
    pub fn receive(&mut self, from: Side, bytes: &[u8], now: Instant) -> Step {
        if bytes.is_empty() {
            return Step::More;
        }
        let peer = self.peer_mut(from);
        peer.heard(now);
        if peer.input != Input::Open {
            return Step::Discard(bytes.len());
        }
        self.judge(from, bytes, now).unwrap_or_else(|cause| {
            self.peer_mut(from).input = Input::Broken;
            self.end(By::Tollgate, cause, now);
            Step::Discard(bytes.len())
        })
    }

    /// Says that nothing more comes from a side and nothing more can be sent to it.
    pub fn gone(&mut self, side: Side, now: Instant) {
        let peer = self.peer_mut(side);
        let input = std::mem::replace(&mut peer.input, Input::Gone);
        peer.drop_output();
        if input != Input::Open {
            return;
        }
        if !peer.close_sent {
            self.end(By::from(side), Cause::Gone(side), now);
            return;
        }
        // It went instead of answering the other side's Close, so that side gets its answer from us.
        let code = self.outcome.and_then(|outcome| outcome.code).unwrap_or(CloseCode::NORMAL);
        let other = self.peer_mut(side.other());
        if !other.close_sent && other.input != Input::Gone {
            other.close_waits.get_or_insert((code, ""));
        }
    }

    /// Says that bytes wait for a side that takes none; again whenever it took some of them.
    pub fn blocked(&mut self, to: Side, now: Instant) {
        self.peer_mut(to).blocked_since = Some(now);
    }

    /// Says that nothing waits for a side any more.
    pub fn unblocked(&mut self, to: Side, now: Instant) {
        let peer = self.peer_mut(to);
        if peer.blocked_since.take().is_some() {
            // Our ping may have been among what it did not take, so the time for its pong starts again.
            peer.pinged = peer.pinged.map(|_| now);
            // While one side takes nothing the other is not read, so its silence meant nothing.
            self.peer_mut(to.other()).heard(now);
        }
    }

    /// Ends the session at this time because the process goes away.
    pub fn drain_at(&mut self, at: Instant) {
        self.drain_at = Some(at);
    }

    /// Whether a side is not to be read for now because it exceeded its rate.
    pub fn waiting(&self, side: Side) -> bool {
        side == Side::Client && self.wait_until.is_some()
    }

    /// What passed so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Ends the session at once, without a closing handshake.
    pub fn abort(&mut self, cause: Cause) -> Outcome {
        self.ended = true;
        *self.outcome.get_or_insert(Outcome { by: By::Tollgate, code: None, cause })
    }

    /// When [`Session::pass_deadline`] is to be called next.
    pub fn deadline(&self) -> Option<Instant> {
        if self.ended {
            return None;
        }
        let mut earliest = self.wait_until;
        let mut add = |at: Option<Instant>| earliest = earliest.into_iter().chain(at).min();
        for side in Side::BOTH {
            add(self.peer(side).blocked_since.and_then(|since| since.checked_add(self.limits.write_timeout)));
        }
        if self.close_by.is_some() {
            add(self.close_by);
        } else {
            add(self.expires);
            add(self.drain_at);
            add(self.idle_at());
            add(self.heartbeat_at(Side::Client));
            add(self.heartbeat_at(Side::Upstream));
        }
        earliest
    }

    /// Does what is due by now.
    pub fn pass_deadline(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if due(self.wait_until) {
            self.wait_until = None;
            self.client.heard(now);
        }
        for side in Side::BOTH {
            if due(self.peer(side).blocked_since.and_then(|since| since.checked_add(self.limits.write_timeout))) {
                let peer = self.peer_mut(side);
                peer.input = Input::Gone;
                peer.drop_output();
                self.end(By::Tollgate, Cause::WriteStall(side), now);
            }
        }
        if self.close_by.is_some() {
            if due(self.close_by) {
                self.close_now();
            }
        } else if due(self.expires) {
            self.end(By::Tollgate, Cause::TokenExpired, now);
        } else if due(self.drain_at) {
            self.end(By::Tollgate, Cause::Drain, now);
        } else if due(self.idle_at()) {
            self.end(By::Tollgate, Cause::IdleTimeout, now);
        } else {
            for side in Side::BOTH {
                if !due(self.heartbeat_at(side)) {
                    continue;
                }
                if self.peer(side).pinged.is_some() {
                    self.end(By::Tollgate, Cause::NoPong(side), now);
                } else {
                    self.peer_mut(side).ping_waits = true;
                }
            }
        }
    }

    /// The next thing to do.
    pub fn next_action(&mut self, now: Instant) -> Option<Action> {
        if self.ended {
            return None;
        }
        for side in Side::BOTH {
            // Between the frames that come from the other side, and never after a Close.
            if self.peer(side.other()).mid_frame || self.peer(side).close_sent || self.answers_come(side) {
                continue;
            }
            let peer = self.peer_mut(side);
            if let Some((code, reason)) = peer.close_waits.take() {
                peer.close_sent = true;
                return Some(Action::Send { to: side, frame: ControlFrame::close(code, reason) });
            }
            if std::mem::take(&mut peer.ping_waits) {
                peer.pinged = Some(now);
                self.pings = self.pings.wrapping_add(1);
                return Some(Action::Send { to: side, frame: ControlFrame::ping(self.ping_payload()) });
            }
        }
        let outcome = self.outcome.filter(|_| self.over || self.handshake_over())?;
        self.ended = true;
        Some(Action::End(outcome))
    }

    fn judge(&mut self, from: Side, bytes: &[u8], now: Instant) -> Result<Step, Cause> {
        let broken = |violation| Cause::Violation(from, violation);
        match self.peer(from).inspector.look(bytes).map_err(broken)? {
            Next::Incomplete => Ok(Step::More),
            Next::Payload(n) => {
                let payload = bytes.get(..n).unwrap_or(bytes);
                self.peer_mut(from).inspector.payload(payload).map_err(broken)?;
                Ok(self.pass_data(from, n, now))
            }
            Next::Data(header) => self.judge_data(from, &header, bytes, now),
            Next::Control(header) => self.judge_control(from, &header, bytes, now),
        }
    }

    fn judge_data(&mut self, from: Side, header: &Header, bytes: &[u8], now: Instant) -> Result<Step, Cause> {
        let broken = |violation| Cause::Violation(from, violation);
        let first = header.opcode != Opcode::Continuation;
        if from == Side::Client && !self.upstream.is_deaf() {
            if first && let Some(step) = self.count_message(now)? {
                return Ok(step);
            }
            if !first && !header.fin && header.payload_len < SMALL_FRAGMENT_BYTES {
                self.overhead.take(now).map_err(|_| Cause::OverheadRate)?;
            }
        }
        let payload = bytes.get(header.len..).unwrap_or_default();
        let here = usize::try_from(header.payload_len).unwrap_or(usize::MAX).min(payload.len());
        let peer = self.peer_mut(from);
        peer.inspector.begin(header).map_err(broken)?;
        if here > 0 {
            peer.inspector.payload(payload.get(..here).unwrap_or_default()).map_err(broken)?;
        }
        let skipped = self.peer(from).skipping || self.peer(from.other()).is_deaf();
        if first && !skipped {
            self.counts.of(from).messages += 1;
        }
        Ok(self.pass_data(from, header.len + here, now))
    }

    /// Counts the message that begins here; a step if it may not pass now.
    fn count_message(&mut self, now: Instant) -> Result<Option<Step>, Cause> {
        self.client.skipping = false;
        let (Some(bucket), Some(quota)) = (&self.messages, self.limits.messages) else { return Ok(None) };
        let Err(exceeded) = bucket.take(now) else { return Ok(None) };
        self.counts.throttled += 1;
        match quota.on_excess {
            OnExcess::Close => Err(Cause::MessageRate),
            OnExcess::Delay if self.close_by.is_none() => {
                self.wait_until = Some(exceeded.until);
                Ok(Some(Step::Wait))
            }
            // Who ends a session discards what still comes (RFC 6455 section 1.4), so there is no use in a delay: behind
            // the message may be the Close that all wait for.
            OnExcess::Delay | OnExcess::Drop => {
                self.client.skipping = true;
                Ok(None)
            }
        }
    }

    /// Decides on `n` bytes of data frames that keep the rules, whose frame the inspector has taken.
    fn pass_data(&mut self, from: Side, n: usize, now: Instant) -> Step {
        let muted = self.peer(from.other()).is_deaf();
        let peer = self.peer_mut(from);
        if peer.skipping || muted {
            peer.mid_frame = false;
            return Step::Discard(n);
        }
        peer.mid_frame = !peer.inspector.at_boundary();
        self.data_passed = now;
        self.counts.of(from).bytes += n as u64;
        Step::Forward(n)
    }

    fn judge_control(&mut self, from: Side, header: &Header, bytes: &[u8], now: Instant) -> Result<Step, Cause> {
        let muted = self.peer(from.other()).is_deaf();
        if from == Side::Client && !muted {
            self.overhead.take(now).map_err(|_| Cause::OverheadRate)?;
        }
        let mut plain = [0; CONTROL_MAX_BYTES];
        let payload = bytes.get(header.len..).unwrap_or_default();
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX).min(payload.len()).min(plain.len());
        let plain = &mut plain[..len];
        plain.copy_from_slice(&payload[..len]);
        apply_mask(plain, header.mask.unwrap_or_default(), 0);

        let whole = header.len + len;
        let ours = match header.opcode {
            Opcode::Close => {
                let close = Close::parse(plain).map_err(|violation| Cause::Violation(from, violation))?;
                self.receive_close(from, close.code, now);
                false
            }
            Opcode::Pong => self.is_own_pong(plain),
            _ => false,
        };
        // If a Close of ours waits for the other side, this one is only the answer to its twin.
        let ours = ours || (header.opcode == Opcode::Close && self.peer(from.other()).close_waits.is_some());
        if muted || ours {
            return Ok(Step::Discard(whole));
        }
        if header.opcode == Opcode::Close {
            self.peer_mut(from.other()).close_sent = true;
        }
        self.counts.of(from).bytes += whole as u64;
        Ok(Step::Forward(whole))
    }

    fn receive_close(&mut self, from: Side, code: Option<CloseCode>, now: Instant) {
        self.peer_mut(from).input = Input::Closed;
        self.outcome.get_or_insert(Outcome { by: By::from(from), code, cause: Cause::Closed });
        self.start_closing(now);
    }

    /// Begins to end the session: both sides get a Close as soon as their direction is between frames; a side that broke
    /// a rule not before it had the answers to what it sent before.
    fn end(&mut self, by: By, cause: Cause, now: Instant) {
        let code = cause.close_code();
        self.outcome.get_or_insert(Outcome { by, code: Some(code), cause });
        for side in Side::BOTH {
            let peer = self.peer_mut(side);
            if !peer.close_sent && peer.input != Input::Gone {
                peer.close_waits.get_or_insert((code, cause.reason()));
            }
        }
        self.start_closing(now);
    }

    fn start_closing(&mut self, now: Instant) {
        if self.close_by.is_none() {
            self.close_by = now.checked_add(self.limits.close_timeout);
        }
        // Who waited for its rate is read again, so that its Close is seen.
        self.wait_until = None;
    }

    /// Gives up the closing handshake, but not without a Close for who has none yet.
    fn close_now(&mut self) {
        self.over = true;
        let code = self.outcome.and_then(|outcome| outcome.code).unwrap_or(CloseCode::NORMAL);
        for side in Side::BOTH {
            let peer = self.peer_mut(side);
            if !peer.close_sent && peer.input != Input::Gone {
                peer.close_waits.get_or_insert((code, ""));
            }
        }
    }

    /// Whether each side has had a Close and has sent one, or will not; who can have no Close is not waited for.
    fn handshake_over(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let (peer, other) = (self.peer(side), self.peer(side.other()));
            let unreachable = peer.input == Input::Gone || (other.mid_frame && other.input != Input::Open);
            unreachable || (peer.close_sent && peer.input != Input::Open)
        })
    }

    /// Whether a side that broke a rule may still be sent answers to what it sent before: until the other side, which has
    /// been told to close, has said all that it had to say.
    fn answers_come(&self, side: Side) -> bool {
        let (peer, other) = (self.peer(side), self.peer(side.other()));
        let other_is_told = !peer.mid_frame;
        peer.input == Input::Broken && other.input == Input::Open && other_is_told && !self.over
    }

    fn idle_at(&self) -> Option<Instant> {
        self.data_passed.checked_add(self.limits.idle_timeout?)
    }

    /// When a side is to be pinged, or must have been heard again.
    fn heartbeat_at(&self, side: Side) -> Option<Instant> {
        let (peer, other) = (self.peer(side), self.peer(side.other()));
        let interval = peer.ping_interval?;
        let unread = other.blocked_since.is_some() || self.waiting(side);
        if unread || peer.ping_waits || peer.blocked_since.is_some() {
            return None;
        }
        match peer.pinged {
            Some(pinged) => pinged.checked_add(self.limits.pong_timeout),
            None => peer.heard_at.checked_add(interval),
        }
    }

    fn ping_payload(&self) -> [u8; 8] {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&self.ping_tag);
        payload[4..].copy_from_slice(&self.pings.to_be_bytes());
        payload
    }

    /// A pong that answers one of our pings, the last one or an earlier one.
    fn is_own_pong(&self, payload: &[u8]) -> bool {
        match payload.split_first_chunk::<4>() {
            Some((tag, count)) if *tag == self.ping_tag => {
                <[u8; 4]>::try_from(count).is_ok_and(|count| (1..=self.pings).contains(&u32::from_be_bytes(count)))
            }
            _ => false,
        }
    }

    fn peer(&self, side: Side) -> &Peer {
        match side {
            Side::Client => &self.client,
            Side::Upstream => &self.upstream,
        }
    }

    fn peer_mut(&mut self, side: Side) -> &mut Peer {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}
