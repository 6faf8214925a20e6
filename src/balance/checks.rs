//! The active health of one server: the outcomes of its checks, and whether they find it up or down.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;

/// The longest text of a failed check that is kept, in bytes.
const REASON_MAX_BYTES: usize = 200;

/// How the servers of an upstream are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckConfig {
    /// The check.
    pub check: Check,
    /// The time between the begins of two checks of a server, and the timeout of each.
    pub interval: Duration,
    /// The number of consecutive checks that pass before a server that is down is up.
    pub rise: NonZeroU32,
    /// The number of consecutive checks that fail before a server that is up is down.
    pub fall: NonZeroU32,
}

/// A check of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// The server accepts a connection.
    Tcp,
    /// It answers a `GET` for this path with a status from 200 to 399.
    Http(PathAndQuery),
    /// It completes an opening handshake for this path, and answers a ping.
    WebSocket(PathAndQuery),
}

/// The checks of a server.
#[derive(Debug, Default)]
pub struct Checks {
    progress: Mutex<Progress>,
    passed: AtomicU64,
    failed: AtomicU64,
}

#[derive(Debug, Default)]
struct Progress {
    /// The number of consecutive checks that contradict the state of the server.
    against: u32,
    last: Option<LastCheck>,
}

/// The last check of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastCheck {
    /// The time of its end, in milliseconds of the pool's clock.
    pub at_ms: u64,
    /// Why it failed; `None` if it passed.
    pub failure: Option<Arc<str>>,
}

/// A change of a server's state by its checks, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckChange {
    /// It gets no sessions while another server is left.
    Down {
        /// The number of consecutive checks that failed.
        checks: u32,
    },
    /// It gets sessions again.
    Up {
        /// The number of consecutive checks that passed.
        checks: u32,
    },
}

impl Checks {
    /// Records a check that passed, or why it failed. Returns the change that it causes to a server which is down or
    /// not.
    pub(super) fn record(
        &self,
        failure: Option<&str>,
        now_ms: u64,
        is_down: bool,
        config: &CheckConfig,
    ) -> Option<CheckChange> {
        let mut progress = self.progress();
        let count = if failure.is_none() { &self.passed } else { &self.failed };
        count.fetch_add(1, Ordering::Relaxed);
        let text = |reason: &str| reason.get(..reason.floor_char_boundary(REASON_MAX_BYTES)).unwrap_or_default().into();
        progress.last = Some(LastCheck { at_ms: now_ms, failure: failure.map(text) });
        let contradicts = failure.is_none() == is_down;
        progress.against = if contradicts { progress.against.saturating_add(1) } else { 0 };
        let checks = progress.against;
        let needed = if is_down { config.rise } else { config.fall };
        if checks < needed.get() {
            return None;
        }
        progress.against = 0;
        Some(if is_down { CheckChange::Up { checks } } else { CheckChange::Down { checks } })
    }

    /// Forgets the checks, because the server is not checked any more. Their numbers stay.
    pub(super) fn forget(&self) {
        *self.progress() = Progress::default();
    }

    /// Returns the last check; `None` if there was none since the server is checked.
    pub fn last(&self) -> Option<LastCheck> {
        self.progress().last.clone()
    }

    /// Returns the number of checks that passed.
    pub fn passed(&self) -> u64 {
        self.passed.load(Ordering::Relaxed)
    }

    /// Returns the number of checks that failed.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
