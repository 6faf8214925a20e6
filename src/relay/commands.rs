//! Executes the commands that were delivered to a session.

use std::sync::Arc;
use std::task::Context;
use std::time::Instant;

use super::Relay;
use super::peer_io::Stream;
use super::registry::{Command, SessionActivity, SessionInfo};
use crate::session::Side;

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Executes all commands. The session acts on them in the same poll; a session that lingers only describes itself.
    #[inline]
    pub(super) fn run_commands(&mut self, cx: &Context<'_>, now: Instant) {
        for command in self.guard.take_commands(cx.waker()) {
            self.run_command(command, now);
        }
    }

    fn run_command(&mut self, command: Command, now: Instant) {
        let is_over = self.lingers_until.is_some();
        match command {
            // If the receiver was dropped, no description is needed.
            Command::Describe(reply) => drop(reply.send(self.describe(now))),
            _ if is_over => {}
            Command::Close { code, reason } => self.session.close(code, &reason, now),
            Command::SetLimits { limits, shared } => self.session.set_limits(limits, shared, now),
            Command::SetExpiry(expires) => self.session.set_expiry(expires),
            Command::Send(message) => {
                // The sender gets no error: a message to a closing session is lost like one in flight.
                if self.session.send(message).is_err() {
                    self.metrics.count_send_failure();
                }
            }
        }
    }

    fn describe(&self, now: Instant) -> SessionInfo {
        let grant = self.lease.grant();
        let activity = if self.lingers_until.is_some() {
            SessionActivity::Lingering
        } else if self.session.is_closing() {
            SessionActivity::Closing
        } else if self.session.waiting(Side::Client) {
            SessionActivity::Throttled
        } else {
            SessionActivity::Open
        };
        SessionInfo {
            route: Arc::clone(self.lease.route().name()),
            server: Arc::clone(&self.meta.server),
            subject: grant.subject.clone(),
            client: grant.address,
            age: now.saturating_duration_since(self.started),
            activity,
            stats: self.session.counts(),
        }
    }
}
