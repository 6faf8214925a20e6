//! Counts the decisions of the service of a forward authentication section.

use std::sync::atomic::{AtomicU64, Ordering};

/// How a question was decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthOutcome {
    /// The service admitted the client.
    Admitted,
    /// The service rejected the client.
    Rejected,
    /// The service gave no decision.
    Unavailable,
    /// An earlier answer admitted the client.
    Reused,
}

impl AuthOutcome {
    /// All outcomes.
    pub const ALL: [Self; 4] = [Self::Admitted, Self::Rejected, Self::Unavailable, Self::Reused];

    /// Returns the name in metric labels.
    pub fn label(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Rejected => "rejected",
            Self::Unavailable => "unavailable",
            Self::Reused => "reused",
        }
    }
}

/// The number of questions with each outcome.
#[derive(Debug, Default)]
pub(super) struct Outcomes {
    admitted: AtomicU64,
    rejected: AtomicU64,
    unavailable: AtomicU64,
    reused: AtomicU64,
}

impl Outcomes {
    pub(super) fn count(&self, outcome: AuthOutcome) {
        self.of(outcome).fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn get(&self, outcome: AuthOutcome) -> u64 {
        self.of(outcome).load(Ordering::Relaxed)
    }

    fn of(&self, outcome: AuthOutcome) -> &AtomicU64 {
        match outcome {
            AuthOutcome::Admitted => &self.admitted,
            AuthOutcome::Rejected => &self.rejected,
            AuthOutcome::Unavailable => &self.unavailable,
            AuthOutcome::Reused => &self.reused,
        }
    }
}
