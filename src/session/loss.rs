//! The end of a connection: a side that disconnects or cannot be written, and a lost upstream whose client is closed at
//! the time that its owner sets.
//!
//! A client whose upstream is lost gets its Close later than others that lost the same server. Until then its data is
//! discarded, its pings are answered, and its own Close ends the session at once, as every other deadline does.

use std::time::Instant;

use super::lifetime::Loss;
use super::outcome::{CloseReason, ClosedBy};
use super::peer::Input;
use super::side::Side;
use super::{Action, Session};
use crate::ws::code::CloseCode;
use crate::ws::frame::{ControlFrame, Opcode};

impl Session {
    /// Records that a side has disconnected: nothing more can be received from it or sent to it.
    pub fn on_disconnected(&mut self, side: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(side);
        let input = std::mem::replace(&mut peer.input, Input::Disconnected);
        peer.drop_output();
        if input != Input::Open {
            return;
        }
        if !peer.close_sent {
            self.lose(side, ClosedBy::from(side), CloseReason::Disconnected(side), now);
            return;
        }
        // It disconnected instead of answering a Close, so the other side is sent a Close of ours.
        let other = self.peer_mut(side.other());
        if !other.output_closed() {
            other.pending_close.get_or_insert(CloseReason::Closed);
        }
    }

    /// Records that a write to a side has failed. Bytes that it sent before, above all its Close, may still arrive.
    pub fn on_write_closed(&mut self, side: Side, now: Instant) {
        self.deadline_changed = true;
        let peer = self.peer_mut(side);
        if !peer.is_write_closed() {
            peer.drop_output();
            peer.write_closed_since = Some(now);
        }
    }

    /// Sets when the client is closed after [`Action::UpstreamLost`]. Has no effect on a
    /// session that is closing or has ended.
    pub fn close_client_at(&mut self, at: Instant, now: Instant) {
        self.deadline_changed = true;
        if let Some(loss) = &mut self.lifetime.loss {
            loss.close_at = at;
        }
        if at <= now {
            self.close_after_loss(now);
        }
    }

    /// Whether the upstream is lost and the client has not been sent a Close yet.
    pub fn is_upstream_lost(&self) -> bool {
        self.lifetime.loss.is_some() && !self.is_closing()
    }

    /// Gives up a side. The client of a lost upstream is closed when its owner allows it; any other end is at once.
    pub(super) fn lose(&mut self, side: Side, by: ClosedBy, cause: CloseReason, now: Instant) {
        self.deadline_changed = true;
        let is_connected = matches!(cause, CloseReason::NoPong(_));
        let waits = side == Side::Upstream && self.closing_since.is_none() && !self.client.output_closed();
        if waits || !is_connected {
            let peer = self.peer_mut(side);
            peer.input = Input::Disconnected;
            peer.drop_output();
        }
        if !waits {
            self.end(by, cause, now);
            return;
        }
        self.action_due = true;
        let is_upstream_told = !is_connected;
        let loss = Loss { by, cause, close_at: now, is_upstream_told, is_announced: false, pong: None };
        self.lifetime.loss.get_or_insert(loss);
        // The client is read from now on, and nothing of it is forwarded.
        self.release_quotas(now);
    }

    /// Returns when the client of a lost upstream is closed, once the owner could set that time.
    pub(super) fn loss_at(&self) -> Option<Instant> {
        self.lifetime.loss.as_ref().filter(|loss| loss.is_announced).map(|loss| loss.close_at)
    }

    /// Closes the client of a lost upstream.
    pub(super) fn close_after_loss(&mut self, now: Instant) {
        if let Some(Loss { by, cause, .. }) = self.lifetime.loss.take() {
            self.end(by, cause, now);
        }
    }

    /// Returns what to do about a loss at once. An upstream that does not answer a ping may still read a Close, for whose
    /// answer the session does not wait. Then the loss is announced to the owner.
    pub(super) fn next_loss_action(&mut self) -> Option<Action> {
        let (is_closing, mid_frame) = (self.is_closing(), self.client.mid_frame);
        let loss = self.lifetime.loss.as_mut().filter(|_| !is_closing)?;
        if !std::mem::replace(&mut loss.is_upstream_told, true) && !mid_frame {
            let frame = ControlFrame::close(CloseCode::GOING_AWAY, loss.cause.reason());
            return Some(Action::Send { to: Side::Upstream, frame });
        }
        let is_new = !std::mem::replace(&mut loss.is_announced, true);
        is_new.then_some(Action::UpstreamLost(self.lifetime.on_loss.reconnect_spread))
    }

    /// Answers a control frame of the client in place of a lost upstream: a ping with a pong, of several pings the last
    /// one (RFC 6455 section 5.5.3), and a Close with a Close.
    pub(super) fn answer_for_upstream(&mut self, opcode: Opcode, payload: &[u8]) {
        let Some(loss) = &mut self.lifetime.loss else { return };
        match opcode {
            Opcode::Ping => loss.pong = Some(Box::new(ControlFrame::pong(payload))),
            Opcode::Close if !self.client.output_closed() => {
                self.client.pending_close.get_or_insert(CloseReason::Closed);
            }
            _ => return,
        }
        self.action_due = true;
    }

    /// Returns the pong that is due to a side.
    pub(super) fn take_pong(&mut self, to: Side) -> Option<ControlFrame> {
        let loss = self.lifetime.loss.as_mut().filter(|_| to == Side::Client)?;
        loss.pong.take().map(|pong| *pong)
    }
}
