//! How long a certificate authority refuses the orders of a section, in a file beside the account, so that a process that
//! restarts again and again does not ask more often.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::folder::{Folder, REFUSAL};
use super::schedule::RETRY_AFTER_MAX;

/// The refusals of all orders that were not followed by a success.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Their number.
    pub count: u32,
    /// When the next order may begin, in seconds since the Unix epoch.
    pub until: u64,
}

impl Refusal {
    /// Returns how long no order may begin: at most as long as an authority can demand.
    pub fn left(self, unix: Duration) -> Duration {
        Duration::from_secs(self.until).saturating_sub(unix).min(RETRY_AFTER_MAX)
    }

    /// Reads the file; `None` if there is none that can be read. A damaged file costs one order, which writes it again.
    pub(super) fn read(folder: &Folder) -> Option<Self> {
        serde_json::from_slice(&folder.read(REFUSAL).ok()??).ok()
    }

    /// Writes or removes the file.
    ///
    /// # Errors
    /// If the disk fails.
    pub(super) fn write(refusal: Option<Self>, folder: &Folder) -> std::io::Result<()> {
        match refusal {
            Some(refusal) => folder.write(REFUSAL, &serde_json::to_vec(&refusal)?),
            None => folder.remove(REFUSAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_lasts_for_a_day_at_most() {
        let (refusal, secs) = (Refusal { count: 3, until: 1_000_000 }, Duration::from_secs);
        assert_eq!(refusal.left(secs(999_400)), secs(600));
        assert_eq!(refusal.left(secs(1_000_001)), Duration::ZERO);
        // The time was set back.
        assert_eq!(refusal.left(Duration::ZERO), RETRY_AFTER_MAX);
    }
}
