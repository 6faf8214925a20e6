//! The commands of an operator to a running session: close it, change its limits or its expiry, send a message.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::outbox::{CommandedClose, SendError};
use super::outcome::{CloseReason, ClosedBy};
use super::rules::{on_excess, sizes};
use super::side::Side;
use crate::policy::limits::{Limits, OnExcess};
use crate::policy::quota::{Count, Limiter, LocalLimiter};
use crate::ws::code::CloseCode;
use crate::ws::frame::Message;

impl Session {
    /// Ends the session: both sides get a Close with this code and reason. A code that must not be sent becomes 1008, and
    /// the reason is truncated to [`REASON_MAX_BYTES`](crate::ws::frame::REASON_MAX_BYTES). Has no effect on a session that
    /// is closing or over.
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Instant) {
        if self.is_closing() {
            return;
        }
        self.outbox.get_or_insert_default().close = Some(CommandedClose::new(code, reason));
        self.end(ClosedBy::Tollgate, CloseReason::Command, now);
    }

    /// Replaces the limits.
    ///
    /// - Sizes apply from the next frame header of each side. A message in progress is judged by its new limit at its next
    ///   frame.
    /// - The overhead quota applies at once, with what was used of the old one.
    /// - `messages` replaces the limiter of the message quota. A message that waits for its rate is judged again by the new
    ///   one, so the client is read again; it goes on to wait if its quota and its limiter stay the same.
    /// - Timeouts are measured from the same instants as before. One that has passed by its new length is due at once.
    /// - Compression and the UTF-8 check of texts stay as they were negotiated. Where messages may be compressed, new limits
    ///   that drop messages delay them instead: later messages are compressed with reference to earlier ones.
    pub fn set_limits(&mut self, limits: Arc<Limits>, messages: Option<Arc<Limiter>>, now: Instant) {
        self.deadline_changed = true;
        let messages = messages.filter(|_| limits.messages.is_some());
        let on_excess = on_excess(&limits, self.client.inspector.rules().compressed);
        let same_limiter = match (&self.messages, &messages) {
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            (None, None) => true,
            _ => false,
        };
        if !same_limiter || self.limits.messages != limits.messages {
            // A message that waited was counted as throttled already.
            let waited = std::mem::take(&mut self.reservation_retry) || self.reservation_held;
            self.refund_reservation();
            self.reservation_retry = waited && on_excess == OnExcess::Delay;
            if self.wait_until.is_some() {
                self.end_wait(now);
            }
        }
        for side in Side::BOTH {
            let (frame_max_bytes, message_max_bytes) = sizes(side, &limits);
            self.peer_mut(side).inspector.set_sizes(frame_max_bytes, message_max_bytes);
        }
        if limits.overhead != self.limits.overhead {
            let unused = LocalLimiter::new(limits.overhead, Count::default());
            let count = std::mem::replace(&mut self.overhead, unused).into_count();
            self.overhead = LocalLimiter::new(limits.overhead, count);
        }
        self.limits = limits;
        self.messages = messages;
        self.on_excess = on_excess;
    }

    /// Changes when the token expires; `None`: never. A time that has passed ends the session at once.
    pub fn set_expiry(&mut self, expires: Option<Instant>) {
        self.deadline_changed = true;
        self.expires = expires;
    }

    /// Queues a message of our own for the client. It is sent as soon as the client accepts bytes and no message of the
    /// upstream is in progress towards it (RFC 6455 section 5.4), and before a Close of ours that comes later. It is dropped
    /// where a message of the upstream does not end before the Close, or nothing can be sent to the client any more. It is
    /// not a part of [`SessionStats`](super::SessionStats), and an idle session stays idle.
    ///
    /// # Errors
    /// If the queue is full, or the session is closing.
    pub fn send(&mut self, message: Message) -> Result<(), SendError> {
        if self.is_closing() || self.client.output_closed() {
            return Err(SendError::Closing);
        }
        self.outbox.get_or_insert_default().push(message)?;
        self.action_due = true;
        Ok(())
    }

    /// Returns the next message of our own that may be sent now.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        let (client, upstream) = (&self.client, &self.upstream);
        let outbox = self.outbox.as_mut()?;
        if client.output_closed() {
            outbox.drop_messages();
        }
        // The queue is bounded, and what waits in the socket's buffer is not: a client that accepts nothing gets only what
        // must precede its Close.
        let accepts = client.blocked_since.is_none() || client.pending_close.is_some();
        let message = if accepts && !upstream.inspector.in_message() { outbox.pop() } else { None };
        if outbox.is_empty() {
            self.outbox = None;
        }
        message
    }

    /// Whether its closing handshake has begun, or it is over.
    pub fn is_closing(&self) -> bool {
        self.outcome.is_some() || self.ended
    }
}
