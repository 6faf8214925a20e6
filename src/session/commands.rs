//! An operator's commands to a running session: close it, change its limits or its expiry, send a message.

use std::sync::Arc;
use std::time::Instant;

use super::Session;
use super::metering::ByteMeters;
use super::outbox::{CommandedClose, QUEUED_MAX_AGE, SendError};
use super::outcome::{CloseReason, ClosedBy};
use super::rules::{message_limiter, on_excess, sizes};
use super::side::Side;
use crate::policy::counters::SharedCounts;
use crate::policy::expiry::Expiry;
use crate::policy::limits::{Limits, OnExcess, RateKey};
use crate::policy::quota::{Count, LocalCount, LocalLimiter};
use crate::ws::code::CloseCode;
use crate::ws::frame::Message;

impl Session {
    /// Ends the session for a reason of the operator: both sides are sent a Close with this code and text. A code that
    /// must not be sent becomes 1008, and the text is truncated to
    /// [`REASON_MAX_BYTES`](crate::ws::frame::REASON_MAX_BYTES). Has no effect on a session that is closing or has
    /// ended.
    pub fn close(&mut self, code: CloseCode, reason: &str, now: Instant) {
        if self.is_closing() {
            return;
        }
        self.outbox.get_or_insert_default().close = Some(CommandedClose::new(code, reason));
        self.end(ClosedBy::Tollgate, CloseReason::Command, now);
    }

    /// Ends the session because it was revoked, a changed configuration does not admit it any more or has removed its
    /// route, its server drains or sheds sessions, or another session has taken over its slot. `cause` has the code and
    /// the text of the Close. Has no effect on a session that is closing or has ended.
    pub fn revoke(&mut self, cause: CloseReason, now: Instant) {
        if !self.is_closing() {
            self.end(ClosedBy::Tollgate, cause, now);
        }
    }

    /// Replaces the limits.
    ///
    /// - Sizes apply from the next frame header of each side. A message in progress is judged by its new limit at its
    ///   next frame.
    /// - The overhead quota applies at once. Frames counted against the old one still count.
    /// - `shared` are the counts of messages and bytes that the session shares with others, if any. Without them the
    ///   session keeps its own counts. A message that waits for its rate is judged again, so the client is read again,
    ///   and so are bytes. They keep waiting if their quota and their count stay the same.
    /// - The treatment of a slow client applies at once. A change begins to measure the age of its data again.
    /// - Timeouts and the maximum age are measured from the same instants as before. One that has passed under its new
    ///   length is due at once.
    /// - Compression and the UTF-8 check of texts stay as they were negotiated. Where messages may be compressed, new
    ///   limits that drop messages delay them instead: later messages are compressed with reference to earlier ones.
    pub fn set_limits(&mut self, limits: Arc<Limits>, shared: SharedCounts, now: Instant) {
        self.deadline_changed = true;
        let on_excess = on_excess(&limits, self.client.inspector.rules().compressed);
        let is_same_mode = limits.mode == self.limits.mode && on_excess == self.on_excess;
        self.set_message_quota(&limits, shared.messages, is_same_mode, now);
        self.set_byte_quota(&limits, shared.bytes, is_same_mode, now);
        for side in Side::BOTH {
            let (frame_max_bytes, message_max_bytes) = sizes(side, &limits);
            self.peer_mut(side).inspector.set_sizes(frame_max_bytes, message_max_bytes);
        }
        if limits.overhead != self.limits.overhead {
            let unused = LocalLimiter::new(limits.overhead, LocalCount::default());
            let count = std::mem::replace(&mut self.overhead, unused).into_count();
            self.overhead = LocalLimiter::new(limits.overhead, count);
        }
        if limits.on_slow_client != self.limits.on_slow_client {
            self.lifetime.behind_since = None;
        }
        self.is_reporting = limits.is_reporting();
        self.limits = limits;
        self.on_excess = on_excess;
    }

    fn set_message_quota(&mut self, limits: &Limits, shared: Option<Arc<Count>>, is_same_mode: bool, now: Instant) {
        let own =
            self.messages.as_ref().filter(|_| self.limits.messages.is_some_and(|old| old.key == RateKey::Session));
        let count = shared.or_else(|| own.map(|own| Arc::clone(own.count())));
        let is_same_count = match (&self.messages, &count) {
            (Some(old), Some(count)) => Arc::ptr_eq(old.count(), count),
            (None, _) => limits.messages.is_none(),
            (Some(_), None) => false,
        };
        if is_same_count && is_same_mode && self.limits.messages == limits.messages {
            return;
        }
        // A message that waited was counted as throttled already.
        let waited = std::mem::take(&mut self.reservation_retry) || self.reservation_held;
        self.refund_message();
        self.reservation_retry = waited && !limits.is_reporting() && limits.on_excess() != Some(OnExcess::Close);
        if waited && self.wait_until.is_some() {
            self.end_wait(Side::Client, now);
        }
        self.messages = message_limiter(limits, count.unwrap_or_default());
    }

    fn set_byte_quota(&mut self, limits: &Limits, shared: Option<[Arc<Count>; 2]>, is_same_mode: bool, now: Instant) {
        let is_own = self.limits.bytes.is_some_and(|old| old.key == RateKey::Session);
        let old = self.metering.as_ref().and_then(|metering| metering.bytes.as_ref());
        let counts = shared.or_else(|| old.filter(|_| is_own).map(ByteMeters::counts));
        let is_same_count = match (old, &counts) {
            (Some(old), Some(counts)) => old.has_counts(counts),
            (None, _) => limits.bytes.is_none(),
            (Some(_), None) => false,
        };
        if is_same_count && is_same_mode && self.limits.bytes == limits.bytes {
            return;
        }
        if let Some(bytes) = self.bytes() {
            bytes.refund(now);
            let message_waits = self.reservation_held || self.reservation_retry;
            for side in Side::BOTH {
                if self.waiting(side) && !(side == Side::Client && message_waits) {
                    self.end_wait(side, now);
                }
            }
        }
        let mut metering = self.metering.take().map(|metering| *metering).unwrap_or_default();
        metering.bytes = ByteMeters::new(limits, counts);
        self.metering = metering.boxed(limits.is_reporting());
    }

    /// Changes when the token expires, and the code of the Close; `None` means never. A time that has passed ends the
    /// session at once. Has no effect on a session that is closing or has ended; returns whether it had one.
    pub fn set_expiry(&mut self, expires: Option<Expiry>) -> bool {
        if self.is_closing() {
            return false;
        }
        self.deadline_changed = true;
        self.lifetime.expires = expires;
        true
    }

    /// Queues a message of our own for the client. It is sent once the client accepts bytes and no message of the
    /// upstream is in progress (RFC 6455 section 5.4), and before a later Close of ours. It is dropped if that takes
    /// longer than [`QUEUED_MAX_AGE`], if a message of the upstream does not end before the Close, or if nothing can be
    /// sent to the client any more. A sent message counts as one of the upstream's in
    /// [`SessionStats`](super::SessionStats), and an idle session stays idle.
    ///
    /// # Errors
    /// Fails if the queue is full, or if the session is closing.
    pub fn send(&mut self, message: Message, now: Instant) -> Result<(), SendError> {
        if self.is_closing() || self.client.output_closed() {
            return Err(SendError::Closing);
        }
        let expires = now.checked_add(QUEUED_MAX_AGE).unwrap_or(now);
        self.outbox.get_or_insert_default().push(message, expires)?;
        self.action_due = true;
        self.deadline_changed = true;
        Ok(())
    }

    /// Returns the number of messages that were queued and dropped since the last call.
    pub fn take_undelivered(&mut self) -> u32 {
        let Some(outbox) = &mut self.outbox else { return 0 };
        let undelivered = outbox.take_undelivered();
        if outbox.is_empty() {
            self.outbox = None;
        }
        undelivered
    }

    /// Returns the next message of our own that may be sent now.
    pub(super) fn next_message(&mut self) -> Option<Message> {
        let (client, upstream) = (&self.client, &self.upstream);
        let outbox = self.outbox.as_mut()?;
        if client.output_closed() {
            outbox.drop_messages();
        }
        // This queue is bounded and the output buffer of the socket is not, so a blocked client is sent only the
        // messages that must precede its Close.
        let accepts = client.blocked_since.is_none() || client.pending_close.is_some();
        let message = if accepts && !upstream.inspector.in_message() { outbox.pop() } else { None };
        if outbox.is_empty() {
            self.outbox = None;
        }
        if let Some(message) = &message {
            let header = message.header();
            let counts = self.counts.of(Side::Upstream);
            counts.messages = counts.messages.saturating_add(1);
            counts.bytes = counts.bytes.saturating_add(header.payload_len).saturating_add(header.len as u64);
        }
        message
    }

    /// Whether the closing handshake has begun or the session has ended.
    pub fn is_closing(&self) -> bool {
        self.outcome.is_some() || self.ended
    }
}
