//! Clients that are slower than their upstream: how long their data waits, and whether messages are queued for them.

use std::time::Instant;

use super::Session;
use super::outcome::{CloseReason, ClosedBy};
use crate::policy::limits::{LimitKind, OnSlowClient};

impl Session {
    /// Whether the owner has to report how long data waits for the client, with [`Session::on_client_behind`] and
    /// [`Session::on_client_caught_up`].
    pub fn closes_slow_client(&self) -> bool {
        self.limits.on_slow_client == OnSlowClient::Close
    }

    /// Records that data waits for the client since `now`. It replaces an earlier time.
    pub fn on_client_behind(&mut self, now: Instant) {
        self.deadline_changed = true;
        self.lifetime.behind_since = Some(now);
    }

    /// Records that the client has got that data.
    pub fn on_client_caught_up(&mut self) {
        self.deadline_changed = true;
        self.lifetime.behind_since = None;
    }

    /// Whether [`Session::handle_timeout`] would end the session because data has waited too long for the client.
    pub fn is_client_overdue(&self, now: Instant) -> bool {
        self.closing_since.is_none() && self.behind_at().is_some_and(|at| at <= now)
    }

    /// Returns how much memory the messages may need that wait for a client that is blocked; `None` if the upstream is
    /// not read meanwhile. Compressed messages refer to earlier ones, so none of them could be dropped.
    pub fn backlog_max_bytes(&self) -> Option<usize> {
        let OnSlowClient::DropOldest { buffer_bytes } = self.limits.on_slow_client else { return None };
        let may_drop = !self.is_reporting && !self.client.inspector.rules().compressed && !self.is_closing();
        may_drop.then(|| usize::try_from(buffer_bytes).unwrap_or(usize::MAX))
    }

    /// Records that nothing of the upstream's unfinished frame is sent to the client. Call it again whenever more of that
    /// frame was received.
    pub fn on_frame_dropped(&mut self) {
        self.deadline_changed = true;
        self.upstream.mid_frame = false;
    }

    /// Whether a message of the upstream is in progress.
    pub fn is_upstream_in_message(&self) -> bool {
        self.upstream.inspector.in_message()
    }

    /// Returns when data has waited too long for the client.
    pub(super) fn behind_at(&self) -> Option<Instant> {
        let since = self.lifetime.behind_since.filter(|_| self.closes_slow_client())?;
        since.checked_add(self.limits.write_timeout)
    }

    /// Ends the session because data has waited too long, or reports that it would have ended. If the client accepts no
    /// bytes, the time for which it may do so restarts, so that it can be sent a Close.
    pub fn end_slow_client(&mut self, now: Instant) {
        if self.is_reporting {
            self.report(LimitKind::SlowClient);
            self.on_client_behind(now);
        } else {
            self.client.blocked_since = self.client.blocked_since.map(|_| now);
            self.end(ClosedBy::Tollgate, CloseReason::SlowClient, now);
        }
    }
}
