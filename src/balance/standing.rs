//! How a request regards a server, and what changes that.

use std::time::Duration;

/// How a request regards a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It did not fail recently, or it is due to be tried again.
    Good,
    /// It accepted no connection or sent no answer a short while ago, or lets a request wait. It is tried if no server is
    /// in good standing.
    Skipped,
    /// It is ejected. It is tried if no other one is left that is not down by its checks.
    Ejected,
    /// As [`Standing::Good`], but it is down by its checks, as are those that follow.
    DownGood,
    /// As [`Standing::Skipped`], but it is down by its checks.
    DownSkipped,
    /// As [`Standing::Ejected`], but it is down by its checks. It is tried if no other server is left.
    DownEjected,
}

impl Standing {
    /// Every standing, the best one first.
    pub const BEST_FIRST: [Self; 6] =
        [Self::Good, Self::Skipped, Self::Ejected, Self::DownGood, Self::DownSkipped, Self::DownEjected];

    /// Whether the server may be due to be tried again, by one request.
    pub fn needs_claim(self) -> bool {
        matches!(self, Self::Good | Self::DownGood)
    }

    /// Returns the standing of a server that is down by its checks, and of which requests find this one.
    pub(super) fn of_down(self) -> Self {
        match self {
            Self::Good | Self::DownGood => Self::DownGood,
            Self::Skipped | Self::DownSkipped => Self::DownSkipped,
            Self::Ejected | Self::DownEjected => Self::DownEjected,
        }
    }
}

/// The kind of a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It did not accept the connection.
    Connect,
    /// It broke the connection, or its response was malformed or a status from 500 on.
    Answer,
    /// Its response was late, or the client left while it waited for it.
    Late {
        /// The begin of the wait, in milliseconds of the pool's clock.
        since_ms: u64,
    },
}

/// A change of a server's health, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A request failed, and none did before since the last recovery.
    Failed,
    /// The server is passed over.
    Ejected {
        /// The number of consecutive failures.
        failures: u32,
        /// How long it is passed over, before one request tries it.
        time: Duration,
    },
    /// A request succeeded.
    Recovered {
        /// The number of requests that failed before.
        failures: u64,
    },
}
