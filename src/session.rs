//! One proxied WebSocket from the 101 to its end: both directions, the closing handshake, heartbeats and deadlines.
//!
//! A `Session` touches no socket and no clock. **After every call, take its actions until there are none.** The owner of the
//! sockets calls it as follows:
//!
//! ```text
//! bytes come from a side   -> receive(side, bytes, now), again with the rest, until it returns More or Wait
//! a side's stream ends     -> on_disconnected(side, now)
//! a write to a side fails  -> on_write_closed(side, now)
//! a side accepts no bytes  -> on_blocked(side, now); accepts them again -> on_unblocked(side, now)
//! deadline() has passed    -> handle_timeout(now), once all that has arrived was given to receive()
//! deadline_changed()       -> deadline() may be earlier than it was
//! an operator's command    -> close(), set_limits(), set_expiry(), send()
//! after each of these      -> poll_action(now) until None
//! ```
//!
//! The bytes of [`Verdict::Forward`] go to the other side, the frame of [`Action::Send`] to the side that it names, and
//! [`Action::SendMessage`] to the client, in the order in which they are returned.

mod commands;
mod deadlines;
mod outbox;
mod outcome;
mod peer;
mod receive;
mod rules;
mod side;
pub mod state;

use std::sync::Arc;
use std::time::Instant;

use crate::policy::limits::{Limits, OnExcess};
use crate::policy::quota::{Count, Limiter, LocalLimiter};
use crate::ws::code::CloseCode;
use crate::ws::frame::{CONTROL_MAX_BYTES, ControlFrame};
use crate::ws::inspector::Inspector;

use outbox::Outbox;
pub use outbox::{CommandedClose, QUEUED_MAX_BYTES, QUEUED_MESSAGES_MAX, SendError};
pub use outcome::{CloseReason, ClosedBy, DirectionStats, Outcome, SessionStats};
pub use peer::Input;
use peer::Peer;
use rules::{on_excess, rules};
pub use side::Side;

pub use crate::ws::frame::Message;

/// A fragment inside a message that carries less than this costs more to handle than it is worth, and is counted.
const SMALL_FRAGMENT_BYTES: u64 = 128;

/// What to do with the start of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Pass this many bytes on as they are.
    Forward(usize),
    /// Pass this many bytes on to nobody.
    Discard(usize),
    /// Keep the bytes, at most [`KEPT_MAX_BYTES`], and come again when there are more.
    More,
    /// Keep the bytes and read no more from this side until [`Session::waiting`] says so.
    Wait,
}

/// How many bytes a session may leave with [`Verdict::More`]: a control frame of which one byte is missing.
pub const KEPT_MAX_BYTES: usize = 2 + 4 + CONTROL_MAX_BYTES - 1;

/// What a session wants done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Send a control frame of our own, masked if it goes to the upstream.
    Send {
        /// To this side.
        to: Side,
        /// This frame.
        frame: ControlFrame,
    },
    /// Send a message of our own to the client.
    SendMessage(Message),
    /// The session is over: send what waits to be sent, and close both streams.
    End(Outcome),
}

/// What a session starts from.
#[derive(Debug)]
pub struct SessionConfig {
    /// The route's bounds.
    pub limits: Arc<Limits>,
    /// The quota of the client's messages, which other sessions may share.
    pub messages: Option<Arc<Limiter>>,
    /// When the token runs out.
    pub expires: Option<Instant>,
    /// Whether permessage-deflate was negotiated.
    pub compressed: bool,
    /// Marks the pings of this session, so that their pongs are known.
    pub ping_tag: [u8; 4],
}

/// One proxied WebSocket.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub struct Session {
    limits: Arc<Limits>,
    messages: Option<Arc<Limiter>>,
    /// The treatment of messages that exceed their quota.
    on_excess: OnExcess,
    overhead: LocalLimiter,
    client: Peer,
    upstream: Peer,
    expires: Option<Instant>,
    drain_at: Option<Instant>,
    /// When data last passed either way.
    data_passed: Instant,
    /// Until when the client is not read, because it exceeded its rate.
    wait_until: Option<Instant>,
    /// The message that waits has its place in the quota.
    reservation_held: bool,
    /// The message that waits has none yet, and was counted as throttled.
    reservation_retry: bool,
    /// Something may have brought the deadline forward.
    deadline_changed: bool,
    /// How it ends; set by the first reason there is.
    outcome: Option<Outcome>,
    /// When the closing handshake began.
    closing_since: Option<Instant>,
    /// The closing handshake is over, or its time is.
    over: bool,
    ended: bool,
    /// Whether there may be an action.
    action_due: bool,
    /// The frames of an operator's commands, if there were any.
    outbox: Option<Box<Outbox>>,
    ping_tag: [u8; 4],
    pings: u32,
    /// Pings that the client was sent and has not answered: so many pongs of its own are no overhead.
    pongs_owed: u32,
    counts: SessionStats,
}

impl Session {
    /// Starts right after the 101.
    pub fn new(terms: SessionConfig, now: Instant) -> Self {
        let SessionConfig { limits, messages, expires, compressed, ping_tag } = terms;
        let inspector = |side| Inspector::new(rules(side, &limits, compressed, limits.check_utf8));
        Self {
            overhead: LocalLimiter::new(limits.overhead, Count::default()),
            client: Peer::new(inspector(Side::Client), now),
            upstream: Peer::new(inspector(Side::Upstream), now),
            on_excess: on_excess(&limits, compressed),
            messages: messages.filter(|_| limits.messages.is_some()),
            limits,
            expires,
            drain_at: None,
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

    /// Says that nothing more comes from a side and nothing more can be sent to it.
    pub fn on_disconnected(&mut self, side: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(side);
        let input = std::mem::replace(&mut peer.input, Input::Disconnected);
        peer.drop_output();
        if input != Input::Open {
            return;
        }
        if !peer.close_sent {
            self.end(ClosedBy::from(side), CloseReason::Disconnected(side), now);
            return;
        }
        // It went instead of answering the other side's Close, so that side gets its answer from us.
        let other = self.peer_mut(side.other());
        if !other.output_closed() {
            other.pending_close.get_or_insert(CloseReason::Closed);
        }
    }

    /// Says that nothing can be sent to a side any more, while what it sent before may still come: its Close above all.
    pub fn on_write_closed(&mut self, side: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(side);
        if !peer.is_write_closed() {
            peer.drop_output();
            peer.write_closed_since = Some(now);
        }
    }

    /// Says that bytes wait for a side that takes none; again whenever it took some of them.
    pub fn on_blocked(&mut self, to: Side, now: Instant) {
        self.deadline_changed = true;
        self.peer_mut(to).blocked_since = Some(now);
    }

    /// Says that nothing waits for a side any more.
    pub fn on_unblocked(&mut self, to: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(to);
        if peer.blocked_since.take().is_some() {
            // Our ping may have been among what it did not take, so the time for its pong starts again.
            peer.pinged = peer.pinged.map(|_| now);
            // While one side takes nothing the other is not read, so its silence meant nothing.
            self.peer_mut(to.other()).on_activity(now);
        }
    }

    /// Ends the session at this time because the process goes away.
    pub fn drain_at(&mut self, at: Instant) {
        self.deadline_changed = true;
        self.drain_at = Some(at);
    }

    /// Whether the end of what a side sends is no loss, because its Close came before: what is for it may still be sent.
    pub fn may_end_input(&self, side: Side) -> bool {
        self.peer(side).input == Input::Closed
    }

    /// Whether a side is not to be read for now because it exceeded its rate.
    pub fn waiting(&self, side: Side) -> bool {
        side == Side::Client && self.wait_until.is_some()
    }

    /// What passed so far.
    pub fn counts(&self) -> SessionStats {
        self.counts
    }

    /// Whether both Closes have passed at that side, so that only the connection is left to be closed.
    pub fn has_closed(&self, side: Side) -> bool {
        let peer = self.peer(side);
        peer.close_sent && peer.input == Input::Closed
    }

    /// Whether nothing comes from a side and nothing can be sent to it any more, because it went or was given up.
    pub fn is_disconnected(&self, side: Side) -> bool {
        self.peer(side).input == Input::Disconnected
    }

    /// Ends the session at once, without a closing handshake.
    pub fn abort(&mut self, cause: CloseReason) -> Outcome {
        self.ended = true;
        *self.outcome.get_or_insert(Outcome { by: ClosedBy::Tollgate, code: None, cause })
    }

    /// The next thing to do.
    #[inline]
    pub fn poll_action(&mut self, now: Instant) -> Option<Action> {
        if self.may_act() { self.find_action(now) } else { None }
    }

    /// Whether [`Session::poll_action`] may return one. It is asked after every frame, so it reads a flag: until the session
    /// closes there are only pings and messages of our own.
    #[inline]
    pub fn may_act(&self) -> bool {
        self.action_due
    }

    fn find_action(&mut self, now: Instant) -> Option<Action> {
        if self.ended {
            return None;
        }
        self.deadline_changed = true;
        if let Some(message) = self.next_message() {
            return Some(Action::SendMessage(message));
        }
        for side in Side::BOTH {
            // Between the frames that come from the other side, and never after a Close.
            if self.peer(side.other()).mid_frame || self.peer(side).output_closed() || self.answers_come(side) {
                continue;
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
            self.action_due = self.outcome.is_some() || pinging || self.outbox.is_some();
            return None;
        };
        self.ended = true;
        Some(Action::End(outcome))
    }

    /// Begins to end the session: both sides get a Close as soon as their direction is between frames; a side that broke
    /// a rule not before it had the answers to what it sent before.
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
        // Who waited for its rate is read again, so that its Close is seen; the message that waited does not pass early.
        self.wait_until = None;
        self.refund_reservation();
    }

    fn refund_reservation(&mut self) {
        if std::mem::take(&mut self.reservation_held)
            && let Some(messages) = &self.messages
        {
            messages.refund();
        }
    }

    /// Gives up the closing handshake, but not without a Close for who has none yet.
    fn close_now(&mut self) {
        self.over = true;
        for side in Side::BOTH {
            let peer = self.peer_mut(side);
            if !peer.output_closed() {
                peer.pending_close.get_or_insert(CloseReason::Closed);
            }
        }
    }

    /// Returns the code and the reason of our Close.
    fn close_of(&self, cause: CloseReason) -> (CloseCode, &str) {
        match (cause, self.outbox.as_ref().and_then(|outbox| outbox.close.as_ref())) {
            (CloseReason::Command, Some(close)) => (close.code, &close.reason),
            (CloseReason::Closed, _) => {
                (self.outcome.and_then(|outcome| outcome.code).unwrap_or(CloseCode::NORMAL), "")
            }
            _ => (cause.close_code(), cause.reason()),
        }
    }

    /// Whether each side has had a Close and has sent one, or will not; who can have no Close is not waited for.
    fn handshake_over(&self) -> bool {
        Side::BOTH.into_iter().all(|side| {
            let (peer, other) = (self.peer(side), self.peer(side.other()));
            let unreachable = peer.input == Input::Disconnected || (other.mid_frame && other.input != Input::Open);
            unreachable || (peer.output_closed() && peer.input != Input::Open)
        })
    }

    /// Whether a side that broke a rule may still be sent answers to what it sent before: until the other side, which has
    /// been told to close, has said all that it had to say.
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
