//! Reports sessions whose server disconnects soon after its 101, for its health.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::mpsc;

use super::facts::SessionFacts;
use crate::balance::early::EARLY;

/// The maximum number of reports that wait. Further ones are dropped: fewer are enough to eject every server.
const REPORTS_MAX: usize = 4096;

/// A session that began and ended within [`EARLY`].
#[derive(Debug)]
pub struct EarlyEnd {
    /// The name of its upstream.
    pub upstream: Arc<str>,
    /// The upstream's server, as the configuration names it.
    pub server: Arc<str>,
    /// The time of its 101.
    pub opened: Instant,
    /// The time at which the server disconnected.
    pub ended: Instant,
}

/// Where relays report. By default, the reports are dropped.
#[derive(Debug, Default)]
pub struct EarlyEnds(Option<mpsc::Sender<EarlyEnd>>);

impl EarlyEnds {
    /// Returns the place for reports, and their receiver.
    pub fn channel() -> (Self, mpsc::Receiver<EarlyEnd>) {
        let (sender, receiver) = mpsc::channel(REPORTS_MAX);
        (Self(Some(sender)), receiver)
    }

    /// Reports a session that is open, if its server disconnects within [`EARLY`] of its 101. Neither side has sent a
    /// Close, and the client has not disconnected: otherwise the session would be closing.
    pub(super) fn report(&self, facts: &SessionFacts, now: Instant) {
        let SessionFacts { upstream, server, started, .. } = facts;
        if let Some(sender) = &self.0
            && now.saturating_duration_since(*started) < EARLY
        {
            let [upstream, server] = [upstream, server].map(Arc::clone);
            let _ = sender.try_send(EarlyEnd { upstream, server, opened: *started, ended: now });
        }
    }
}
