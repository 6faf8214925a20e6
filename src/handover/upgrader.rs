//! The handle by which the admin API and the signals replace the running process.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

/// The result of an upgrade, when all sessions have moved or drain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeSummary {
    /// The id of the new process.
    pub pid: u32,
    /// The version of the new process.
    pub version: String,
    /// The number of sessions that the new process continues.
    pub moved: usize,
    /// The number of sessions that stay in this process and drain.
    pub drained: usize,
    /// The number of sessions that were lost.
    pub failed: usize,
    /// The longest time for which a session was not served.
    pub longest_pause: Duration,
    /// The time from the start of the new process to the end of the last move.
    pub took: Duration,
}

/// Why an upgrade changed nothing, or was not completed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UpgradeError {
    /// Another upgrade is in progress.
    InProgress,
    /// The process is stopping.
    Stopping,
    /// The new program could not be started.
    Start(PathBuf, String),
    /// The new process ended, or did not answer in time, before it could take over.
    NoAnswer(String),
    /// The new process rejected the configuration or the state, for this reason.
    Rejected(String),
    /// The programs have no version of the state format in common: ours, and those of the new one.
    NoCommonVersion([u16; 2], [u16; 2]),
    /// The new process failed after it had taken over. This process continues with the sessions that it still has.
    Failed(String),
    /// The system did not provide a socket, a thread or a descriptor.
    System(String),
}

impl fmt::Display for UpgradeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProgress => f.write_str("another upgrade is in progress"),
            Self::Stopping => f.write_str("the process is stopping"),
            Self::Start(path, error) => write!(f, "cannot start {}: {error}", path.display()),
            Self::NoAnswer(reason) => write!(f, "the new process did not take over: {reason}"),
            Self::Rejected(reason) => write!(f, "the new process cannot take over: {reason}"),
            Self::NoCommonVersion([own_min, own_max], [min, max]) => write!(
                f,
                "no common version of the state format: this process writes {own_min} to {own_max}, the new one reads \
                 {min} to {max}"
            ),
            Self::Failed(reason) => write!(f, "the new process failed after it had taken over: {reason}"),
            Self::System(error) => write!(f, "the system does not permit an upgrade: {error}"),
        }
    }
}

impl std::error::Error for UpgradeError {}
