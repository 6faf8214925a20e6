//! How long one poll of a session may take, and what comes of one read in it.

use std::time::{Duration, Instant};

use crate::runtime::clock;
use crate::session::Outcome;

/// How long one poll of a session may take before the other sessions of its thread get theirs. A poll ends after the read in
/// which this has passed, so it may take one read longer.
const POLL_BUDGET: Duration = Duration::from_micros(250);

/// The time that one poll of a session may take.
pub(super) struct Budget(Option<Instant>);

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self(now.checked_add(POLL_BUDGET))
    }

    pub(super) fn is_spent(&self) -> bool {
        self.0.is_none_or(|end| clock::now() >= end)
    }
}

/// What came of trying to read a side.
pub(super) enum ReadOutcome {
    /// There is nothing to read, and this task wakes when there is.
    Pending,
    /// It is not to be read for now.
    Paused,
    /// Something was done.
    Progress,
    /// The session is over.
    Ended(Outcome),
}
