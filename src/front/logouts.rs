//! The logouts of the process: the tokens that were received, and those in progress.

use tokio::sync::Semaphore;

use crate::policy::logout::RecentLogouts;

/// The maximum number of logouts in progress: each may have a body that is being received, or wait for a disk.
const LOGOUTS_MAX: usize = 64;

/// The logouts of the process.
#[derive(Debug)]
pub struct Logouts {
    /// The tokens that were received.
    pub recent: RecentLogouts,
    /// One permit for each logout in progress.
    pub permits: Semaphore,
}

impl Default for Logouts {
    fn default() -> Self {
        Self { recent: RecentLogouts::default(), permits: Semaphore::new(LOGOUTS_MAX) }
    }
}
