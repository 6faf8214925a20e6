//! Limits the rate of one kind of log lines, and counts the lines that are left out.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::policy::quota::{Limiter, Quota, Rate};

/// At most 50 lines per second on average, and bursts of 500: about 20 KB per second under attack.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN.saturating_add(49), period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(499),
};

/// The quota of one kind of log lines.
#[derive(Debug)]
pub struct LineQuota {
    lines: Limiter,
    left_out: AtomicU64,
}

impl LineQuota {
    /// Creates an unused quota.
    pub fn new() -> Self {
        Self { lines: Limiter::new(LINES), left_out: AtomicU64::new(0) }
    }

    /// Whether the quota allows one more line; if not, counts it as left out.
    pub fn may_write(&self, now: Instant) -> bool {
        let may = self.lines.check(now).is_ok();
        self.left_out.fetch_add(u64::from(!may), Ordering::Relaxed);
        may
    }

    /// Returns the number of lines that were left out since the last call, if any.
    pub fn take_left_out(&self) -> Option<u64> {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        (left_out > 0).then_some(left_out)
    }
}

impl Default for LineQuota {
    fn default() -> Self {
        Self::new()
    }
}
