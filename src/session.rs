//! One proxied WebSocket from the 101 to its end: both directions, the closing handshake, heartbeats and deadlines.
//!
//! A `Session` uses neither sockets nor a clock. **After every call, take its actions until there are none.** The owner
//! of the sockets calls it as follows:
//!
//! ```text
//! a side sends bytes       -> receive(side, bytes, now), again with the rest, until it returns More or Wait
//! a side's stream ends     -> on_disconnected(side, now)
//! a write to a side fails  -> on_write_closed(side, now)
//! a side accepts no bytes  -> on_blocked(side, now); accepts them again -> on_unblocked(side, now)
//! data waits for the client -> on_client_behind(now); was received -> on_client_caught_up(), if closes_slow_client()
//! poll_timeout() is due    -> handle_timeout(now), after all received bytes were passed to receive()
//! deadline_changed()       -> poll_timeout() may be earlier than before
//! an operator's command    -> close(), set_limits(), set_expiry(), send()
//! after each of these      -> poll_action(now) until None
//! ```
//!
//! The bytes of [`Verdict::Forward`] are sent to the other side, the frame of [`Action::Send`] to the side that it
//! names, and the message of [`Action::SendMessage`] to the client, in the order in which they are returned.

pub mod backlog;
mod bytes;
mod commands;
mod deadlines;
mod lifetime;
mod loss;
mod metering;
mod outbox;
mod outcome;
mod peer;
mod receive;
mod report;
mod rules;
mod side;
mod slow_client;
pub mod state;

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::UpstreamLoss;
use crate::policy::counters::SharedCounts;
use crate::policy::expiry::Expiry;
use crate::policy::limits::{Limits, OnExcess};
use crate::policy::quota::{Count, Limiter, LocalCount, LocalLimiter};
use crate::ws::code::CloseCode;
use crate::ws::frame::{CONTROL_MAX_BYTES, ControlFrame};
use crate::ws::inspector::Inspector;

use lifetime::Lifetime;
pub use metering::{ByteMeterState, NewReport, ReportCounts};
use metering::{ByteMeters, Metering};
use outbox::Outbox;
pub use outbox::{CommandedClose, QUEUED_MAX_AGE, QUEUED_MAX_BYTES, QUEUED_MESSAGES_MAX, SendError};
pub use outcome::{AdmissionRule, CloseReason, ClosedBy, DirectionStats, Outcome, SessionStats};
pub use peer::Input;
use peer::Peer;
use rules::{on_excess, rules};
pub use side::Side;

pub use crate::ws::frame::Message;

/// A fragment with a smaller payload costs more to process than it is worth. It counts as overhead unless it is the
/// first or the last of its message.
const SMALL_FRAGMENT_BYTES: u64 = 128;

/// The decision on the first of the received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Forward this many bytes unchanged.
    Forward(usize),
    /// Drop this many bytes.
    Discard(usize),
    /// Keep the bytes, at most [`KEPT_MAX_BYTES`], and call `receive` again with them and the following bytes.
    More,
    /// Keep the bytes and read no more from this side while [`Session::waiting`] returns true.
    Wait,
}

/// The maximum number of bytes to keep after [`Verdict::More`]: a control frame without its last byte.
pub const KEPT_MAX_BYTES: usize = 2 + 4 + CONTROL_MAX_BYTES - 1;

/// A request of a session to its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a control frame of our own, masked if it goes to the upstream.
    Send {
        /// The receiver.
        to: Side,
        /// The frame.
        frame: ControlFrame,
    },
    /// Send a message of our own to the client.
    SendMessage(Message),
    /// The connection to the upstream was lost: close it, and call [`Session::close_client_at`] with a time within this
    /// span. Without the call the client is closed at once.
    UpstreamLost(Duration),
    /// The session has ended: flush the queued output and close both streams.
    End(Outcome),
}

/// The configuration of a session.
#[derive(Debug)]
pub struct SessionConfig {
    /// The limits of the route.
    pub limits: Arc<Limits>,
    /// The quota of the client's messages, which other sessions may share.
    pub messages: Option<Arc<Limiter>>,
    /// The counts of bytes from the client and from the upstream that the session shares with others.
    pub bytes: Option<[Arc<Count>; 2]>,
    /// When the session ends because its token expires.
    pub expires: Option<Expiry>,
    /// A random number by which the maximum age of the session is shortened; see [`Limits::session_age_max`].
    pub age_jitter: u16,
    /// How the client is closed if the connection to the upstream is lost.
    pub loss: UpstreamLoss,
    /// Whether permessage-deflate was negotiated.
    pub compressed: bool,
    /// The tag of the session's own pings, by which their pongs are recognized.
    pub ping_tag: [u8; 4],
}

/// One proxied WebSocket.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct Session {
    limits: Arc<Limits>,
    messages: Option<Arc<Limiter>>,
    metering: Option<Box<Metering>>,
    /// The treatment of messages and bytes that exceed their quotas.
    on_excess: OnExcess,
    /// Whether limits are only reported.
    is_reporting: bool,
    has_new_reports: bool,
    overhead: LocalLimiter,
    client: Peer,
    upstream: Peer,
    lifetime: Box<Lifetime>,
    /// When data last passed either way.
    data_passed: Instant,
    /// Until when the client is not read because it exceeded its rate.
    wait_until: Option<Instant>,
    /// Whether a cell of the message quota is reserved for the message that waits.
    reservation_held: bool,
    /// Whether the message that waits has no cell yet and was counted as throttled.
    reservation_retry: bool,
    /// Whether the deadline may have become earlier.
    deadline_changed: bool,
    /// How the session ends. The first reason sets it.
    outcome: Option<Outcome>,
    /// When the closing handshake began.
    closing_since: Option<Instant>,
    /// Whether the closing handshake has timed out.
    over: bool,
    ended: bool,
    /// Whether an action may be due.
    action_due: bool,
    /// The queued frames of an operator's commands, if any.
    outbox: Option<Box<Outbox>>,
    ping_tag: [u8; 4],
    pings: u32,
    /// The number of pings sent to the client that it has not answered. As many of its pongs do not count as overhead.
    pongs_owed: u32,
    counts: SessionStats,
}

impl Session {
    /// Creates a session right after the 101.
    pub fn new(terms: SessionConfig, now: Instant) -> Self {
        let SessionConfig { limits, messages, bytes, expires, age_jitter, loss, compressed, ping_tag } = terms;
        let inspector = |side| Inspector::new(rules(side, &limits, compressed, limits.check_utf8));
        Self {
            overhead: LocalLimiter::new(limits.overhead, LocalCount::default()),
            client: Peer::new(inspector(Side::Client), now),
            upstream: Peer::new(inspector(Side::Upstream), now),
            on_excess: on_excess(&limits, compressed),
            is_reporting: limits.is_reporting(),
            has_new_reports: false,
            messages: messages.filter(|_| limits.messages.is_some()),
            metering: Metering { bytes: ByteMeters::new(&limits, bytes), ..Metering::default() }
                .boxed(limits.is_reporting()),
            limits,
            lifetime: Box::new(Lifetime::new(expires, age_jitter, loss, now)),
            data_passed: now,
            wait_until: None,
            reservation_held: false,
            reservation_retry: false,
            deadline_changed: true,
            outcome: None,
            closing_since: None,
            over: false,
            ended: false,
            action_due: false,
            outbox: None,
            ping_tag,
            pings: 0,
            pongs_owed: 0,
            counts: SessionStats::default(),
        }
    }

    /// Records that a side accepts none of the bytes queued for it. Call it again whenever the side has accepted some.
    pub fn on_blocked(&mut self, to: Side, now: Instant) {
        self.deadline_changed = true;
        self.peer_mut(to).blocked_since = Some(now);
    }

    /// Records that no bytes are queued for a side any more.
    pub fn on_unblocked(&mut self, to: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(to);
        if peer.blocked_since.take().is_some() {
            // Our ping may have been among the queued bytes, so its pong timeout restarts.
            peer.pinged = peer.pinged.map(|_| now);
            // The other side was not read while this one was blocked, so its silence does not count.
            self.peer_mut(to.other()).on_activity(now);
        }
    }

    /// Ends the session at this time because the process drains.
    pub fn drain_at(&mut self, at: Instant) {
        self.deadline_changed = true;
        self.lifetime.drain_at = Some(at);
    }

    /// Whether the input of a side may end because its Close was received. Bytes may still be sent to it.
    pub fn may_end_input(&self, side: Side) -> bool {
        self.peer(side).input == Input::Closed
    }

    /// Whether a side must not be read for now because it exceeded its rate.
    pub fn waiting(&self, side: Side) -> bool {
        self.wait_until(side).is_some()
    }

    /// Returns the messages and bytes forwarded until now.
    pub fn counts(&self) -> SessionStats {
        self.counts
    }

    /// Returns when data last passed in either direction.
    pub fn data_passed(&self) -> Instant {
        self.data_passed
    }

    /// Returns the limits in force.
    pub fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Returns the counts of messages and bytes that the session shares with others, or has alone.
    pub fn shared_counts(&self) -> SharedCounts {
        SharedCounts {
            messages: self.messages.as_ref().map(|limiter| Arc::clone(limiter.count())),
            bytes: self.metering.as_ref().and_then(|metering| metering.bytes.as_ref()).map(ByteMeters::counts),
        }
    }

    /// Returns how many payload bytes are missing of the frame of which a part was forwarded from a side.
    pub fn frame_left(&self, from: Side) -> u64 {
        let peer = self.peer(from);
        if peer.mid_frame { peer.inspector.remaining() } else { 0 }
    }

    /// Returns the treatment of messages and bytes that exceed their quotas.
    pub fn on_excess(&self) -> OnExcess {
        self.on_excess
    }

    /// Whether a side has sent and has been sent a Close, so that only its connection remains to be closed.
    pub fn has_closed(&self, side: Side) -> bool {
        let peer = self.peer(side);
        peer.close_sent && peer.input == Input::Closed
    }

    /// Whether a side has disconnected or was given up: nothing can be received from it or sent to it any more.
    pub fn is_disconnected(&self, side: Side) -> bool {
        self.peer(side).input == Input::Disconnected
    }

    /// Ends the session at once, without a closing handshake.
    pub fn abort(&mut self, cause: CloseReason) -> Outcome {
        self.ended = true;
        *self.outcome.get_or_insert(Outcome { by: ClosedBy::Tollgate, code: None, cause })
    }

    /// Returns the next action.
    #[inline]
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.may_act() { self.find_action(now) } else { None }
    }

    /// Whether [`Session::poll_action`] may return an action. It is called after every frame, so it only reads a flag:
    /// until the session closes, pings and messages of our own are the only actions.
    #[inline]
    pub fn may_act(&self) -> bool {
        self.action_due
    }

    fn find_action(&mut self, now: Instant) -> Option<Action> {
        if self.ended {
            return None;
        }
        self.deadline_changed = true;
        if let Some(action) = self.next_loss_action() {
            return Some(action);
        }
        if let Some(message) = self.next_message() {
            return Some(Action::SendMessage(message));
        }
        for side in Side::BOTH {
            // A frame of ours is sent only between frames of the other side, and never after a Close.
            if self.peer(side.other()).mid_frame || self.peer(side).output_closed() || self.answers_come(side) {
                continue;
            }
            if let Some(frame) = self.take_pong(side) {
                return Some(Action::Send { to: side, frame });
            }
            let peer = self.peer_mut(side);
            if let Some(cause) = peer.pending_close.take() {
                peer.close_sent = true;
                let (code, reason) = self.close_of(cause);
                return Some(Action::Send { to: side, frame: ControlFrame::close(code, reason) });
            }
            if std::mem::take(&mut peer.ping_due) {
                peer.pinged = Some(now);
                self.pings = self.pings.wrapping_add(1);
                self.pongs_owed = self.pongs_owed.saturating_add(u32::from(side == Side::Client));
                return Some(Action::Send { to: side, frame: ControlFrame::ping(self.ping_payload()) });
            }
        }
        let Some(outcome) = self.outcome.filter(|_| self.over || self.handshake_over()) else {
            let pinging = self.client.ping_due || self.upstream.ping_due;
            self.action_due =
                self.outcome.is_some() || pinging || self.outbox.as_ref().is_some_and(|outbox| outbox.has_frames());
            return None;
        };
        self.ended = true;
        Some(Action::End(outcome))
    }

    /// Begins the closing handshake: each side is sent a Close once its direction is between frames. A side that broke
    /// a rule first receives the answers to its earlier frames.
    fn end(&mut self, by: ClosedBy, cause: CloseReason, now: Instant) {
        self.deadline_changed = true;
        let (code, _) = self.close_of(cause);
        self.outcome.get_or_insert(Outcome { by, code: Some(code), cause });
        for side in Side::BOTH {
            let peer = self.peer_mut(side);
            if !peer.output_closed() {
                peer.pending_close.get_or_insert(cause);
            }
        }
        self.start_closing(now);
    }

    fn start_closing(&mut self, now: Instant) {
        self.deadline_changed = true;
        self.action_due = true;
        self.closing_since.get_or_insert(now);
        self.release_quotas(now);
    }

    /// Reads a delayed side again, so that its Close is received, and gives back its reservations. A delayed message is
    /// not forwarded early.
    fn release_quotas(&mut self, now: Instant) {
        for side in Side::BOTH {
            self.set_wait(side, None);
        }
        self.refund_message();
        if let Some(bytes) = self.bytes() {
            bytes.refund(now);
        }
    }

    /// Ends the closing handshake after its timeout. A side that has not been sent a Close is still sent one.
    fn close_now(&mut self) {
        self.over = true;
        for side in Side::BOTH {
            let peer = self.peer_mut(side);
            if !peer.output_closed() {
                peer.pending_close.get_or_insert(CloseReason::Closed);
            }
        }
    }

    /// Returns the reason of our Close for this cause; empty if a side closed.
    pub fn reason_of(&self, cause: CloseReason) -> &str {
        self.close_of(cause).1
    }

    /// Returns the code and the reason of our Close.
    fn close_of(&self, cause: CloseReason) -> (CloseCode, &str) {
        match (cause, self.outbox.as_ref().and_then(|outbox| outbox.close.as_ref())) {
            (CloseReason::Command, Some(close)) => (close.code, &close.reason),
            (CloseReason::TokenExpired, _) => {
                (self.lifetime.expires.map_or(cause.close_code(), |expires| expires.code), cause.reason())
            }
            (cause, _) if cause.is_upstream_loss() => (self.lifetime.on_loss.close_code, cause.reason()),
            (CloseReason::Closed, _) => {
                (self.outcome.and_then(|outcome| outcome.code).unwrap_or(CloseCode::NORMAL), "")
            }
            _ => (cause.close_code(), cause.reason()),
        }
    }

    /// Whether each side has been sent a Close, or cannot be written, and its input has ended. A side that can no
    /// longer be sent a Close is not waited for.
    fn handshake_over(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let (peer, other) = (self.peer(side), self.peer(side.other()));
            let unreachable = peer.input == Input::Disconnected || (other.mid_frame && other.input != Input::Open);
            unreachable || (peer.output_closed() && peer.input != Input::Open)
        })
    }

    /// Whether a side that broke a rule may still be sent answers to its earlier frames: until the input of the other
    /// side, which is sent a Close, has ended.
    fn answers_come(&self, side: Side) -> bool {
        let (peer, other) = (self.peer(side), self.peer(side.other()));
        let other_can_answer = !peer.mid_frame && !other.is_write_closed();
        peer.input == Input::Broken && other.input == Input::Open && other_can_answer && !self.over
    }

    fn ping_payload(&self) -> [u8; 8] {
        let mut payload = [0; 8];
        payload[..4].copy_from_slice(&self.ping_tag);
        payload[4..].copy_from_slice(&self.pings.to_be_bytes());
        payload
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
