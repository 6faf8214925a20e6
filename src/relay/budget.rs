//! The time budget of one poll of a session, and the outcome of one read.

use std::time::{Duration, Instant};

use crate::runtime::clock;
use crate::session::Outcome;

/// The time after which a poll of a session ends, so that the other sessions of its thread run. A poll ends after the
/// read in which this time passes, so it may take one read longer.
const POLL_BUDGET: Duration = Duration::from_micros(250);

/// The time budget of one poll of a session.
pub(super) struct Budget(Option<Instant>);

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self(now.checked_add(POLL_BUDGET))
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.is_none_or(|end| clock::now() >= end)
    }
}

/// The outcome of an attempt to read a side.
pub(super) enum ReadOutcome {
    /// Nothing can be read. The task is woken when that changes.
    Pending,
    /// The side is not read for now.
    Paused,
    /// Bytes were processed, or the state of the side changed.
    Progress,
    /// The session is over.
    Ended(Outcome),
}
