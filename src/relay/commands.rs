//! Executes the commands that were delivered to a session.

use std::task::Context;
use std::time::Instant;

use super::Relay;
use super::description::{SessionActivity, SessionInfo};
use super::freezing::FreezeRequest;
use super::registry::Command;
use super::stream::Stream;
use super::watcher::Watcher;
use crate::policy::recheck::TermChanges;
use crate::session::{CloseReason, Side};
use crate::ws::frame::Message;

/// The maximum number of operators that watch one session.
const WATCHERS_MAX: usize = 4;

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Executes all commands. The session acts on them in the same poll; a session that lingers only describes itself.
    /// Returns the request to freeze the session, if there is one.
    #[inline]
    pub(super) fn run_commands(&mut self, cx: &Context<'_>, now: Instant) -> Option<FreezeRequest> {
        let mut freeze = None;
        for command in self.guard.take_commands(cx.waker()) {
            match command {
                Command::Freeze(request) if self.lingers_until.is_some() => request.answer_over(),
                Command::Freeze(request) => freeze = Some(request),
                command => self.run_command(command, now),
            }
        }
        freeze
    }

    fn run_command(&mut self, command: Command, now: Instant) {
        let is_over = self.lingers_until.is_some();
        match command {
            // It is not executed here.
            Command::Freeze(_) => {}
            // If the receiver was dropped, no description is needed.
            Command::Describe(reply) => drop(reply.try_send(self.describe(now))),
            Command::Send(message) => self.send_message(message, now),
            _ if is_over => {}
            Command::Close { code, reason } => self.session.close(code, &reason, now),
            Command::Revoke(cause) => {
                self.session.revoke(cause, now);
                if cause == CloseReason::Replaced {
                    // Another session of the client has taken over one of the slots. The other slot must not count
                    // until a client that may be gone has answered its Close.
                    self.lease.release_client();
                }
            }
            Command::SetExpiry(expires, count) => {
                if self.session.set_expiry(expires) {
                    count.add_one();
                }
            }
            Command::SetTerms(changes) => self.set_terms(*changes, now),
            Command::Watch(watcher, reply) => drop(reply.send(self.add_watcher(*watcher))),
        }
    }

    fn set_terms(&mut self, changes: TermChanges, now: Instant) {
        let TermChanges { limits, shared, expires, slots } = changes;
        self.session.set_limits(limits, shared, now);
        self.limit_unsent();
        // A session that is closing keeps the code of its Close.
        let _ = self.session.set_expiry(expires);
        self.lease.add_client(slots);
    }

    /// Counts and logs limits that would have acted. A session logs each limit once.
    #[cold]
    pub(super) fn count_reports(&mut self, now: Instant) {
        for report in self.session.take_reports() {
            let action = self.session.limits().action_on(report.kind, self.facts.subject().is_some());
            self.metrics.count_reported(report.kind, action, report.count);
            if report.is_first {
                self.process.sessions.log_reported(&self.facts.log_summary(), report.kind, action, now);
            }
        }
    }

    fn send_message(&mut self, message: Message, now: Instant) {
        if self.session.send(message, now).is_err() {
            self.metrics.count_send_failures(1);
            self.process.sessions.log_undelivered(&self.facts.log_summary(), 1);
        }
    }

    /// Logs the messages of operators that the session could not send in time.
    pub(super) fn log_undelivered(&mut self) {
        let undelivered = self.session.take_undelivered();
        if undelivered > 0 {
            self.metrics.count_send_failures(undelivered);
            self.process.sessions.log_undelivered(&self.facts.log_summary(), undelivered);
        }
    }

    fn add_watcher(&mut self, mut watcher: Watcher) -> bool {
        self.watchers.retain(Watcher::is_open);
        if self.watchers.len() >= WATCHERS_MAX {
            return false;
        }
        let upstream = self.session.frame_left(Side::Upstream).max(self.client.dropped_frame_left());
        watcher.begin(self.session.frame_left(Side::Client), upstream);
        self.watchers.push(watcher);
        true
    }

    /// Reports the frames in bytes that are being sent to the other side.
    #[cold]
    pub(super) fn report_frames(&mut self, from: Side, bytes: &[u8], now: Instant) {
        self.watchers.retain(Watcher::is_open);
        for watcher in &mut self.watchers {
            watcher.see(from, bytes, self.facts.started, now);
        }
    }

    /// As [`Relay::report_frames`], for a control frame of our own.
    pub(super) fn report_own_frame(&mut self, from: Side, frame: &[u8], now: Instant) {
        self.watchers.retain(Watcher::is_open);
        for watcher in &mut self.watchers {
            watcher.see_own(from, frame, self.facts.started, now);
        }
    }

    fn describe(&self, now: Instant) -> SessionInfo {
        let activity = if self.lingers_until.is_some() {
            SessionActivity::Lingering
        } else if self.session.is_closing() || self.session.is_upstream_lost() {
            SessionActivity::Closing
        } else if Side::BOTH.into_iter().any(|side| self.session.waiting(side)) {
            SessionActivity::Throttled
        } else {
            SessionActivity::Open
        };
        let stats = self.session.counts();
        let deadline = self.session.next_deadline();
        SessionInfo {
            id: self.facts.request_id,
            age: now.saturating_duration_since(self.facts.started),
            activity,
            stats,
            dropped: self.dropped(),
            rates: self.rates.as_ref().map(|rates| rates.rates(&stats, now)).unwrap_or_default(),
            last_activity: now.saturating_duration_since(self.session.data_passed()),
            limits: self.session.limits().clone(),
            reported: self.session.reported().collect(),
            upstream_tls: self.upstream.tls_version(),
            buffered_in: self.client.unprocessed.len().saturating_add(self.upstream.pending_output()),
            buffered_out: self.upstream.unprocessed.len().saturating_add(self.client.pending_output()),
            next_deadline: deadline.map(|(at, name)| (at.saturating_duration_since(now), name)),
        }
    }
}
