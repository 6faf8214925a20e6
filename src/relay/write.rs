//! Writes to the sides of a session: forwarded bytes, control frames of our own, and pending output.

use std::task::Context;
use std::time::Instant;

use super::Relay;
use super::peer_io::Backpressure;
use super::stream::Stream;
use crate::runtime::entropy::random;
use crate::session::Side;
use crate::ws::frame::{ControlFrame, Opcode};

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    pub(super) fn send_frame(&mut self, to: Side, frame: &ControlFrame, cx: &mut Context<'_>, now: Instant) {
        let mask = match to {
            Side::Client => None,
            Side::Upstream => Some(random()),
        };
        if frame.opcode() == Opcode::Ping {
            self.peer(to).note_ping();
        }
        let mut bytes = Vec::with_capacity(64);
        frame.encode(mask, &mut bytes);
        if !self.watchers.is_empty() {
            self.report_own_frame(to.other(), &bytes, now);
        }
        if self.peer(to).send_control(cx, &bytes).is_err() {
            self.close_write(to, now);
        }
    }

    pub(super) fn send(&mut self, to: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant) {
        if !self.watchers.is_empty() {
            self.report_frames(to.other(), bytes, now);
        }
        if !bytes.is_empty() && self.peer(to).send(cx, bytes).is_err() {
            self.close_write(to, now);
        }
        if to == Side::Client && self.client.has_backlog() {
            self.follow_dropped_frame();
        }
    }

    /// Flushes the output of a side. Returns whether this may cause an action of the session: the side accepts bytes
    /// again, or writing failed.
    pub(super) fn flush(&mut self, side: Side, cx: &mut Context<'_>, now: Instant) -> bool {
        let backpressure = self.peer(side).flush(cx);
        match backpressure {
            Backpressure::Clear | Backpressure::Stalled => {}
            Backpressure::Cleared => self.session.on_unblocked(side, now),
            Backpressure::Progressing => self.session.on_blocked(side, now),
            Backpressure::Failed => self.close_write(side, now),
        }
        let may_drop = match backpressure {
            Backpressure::Cleared | Backpressure::Progressing => true,
            Backpressure::Clear => self.client.has_backlog(),
            Backpressure::Stalled | Backpressure::Failed => false,
        };
        if side == Side::Client && may_drop {
            self.follow_slow_client(now);
        }
        matches!(backpressure, Backpressure::Cleared | Backpressure::Failed)
    }

    /// Handles a failed write. Bytes that the side sent before are still read: a server may have sent everything and
    /// closed.
    pub(super) fn close_write(&mut self, side: Side, now: Instant) {
        self.peer(side).close_write();
        self.session.on_write_closed(side, now);
    }
}
