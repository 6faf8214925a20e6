//! The time for which sessions were not served: its percentiles for the log, and the clock of both processes.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Limit on the pauses that are kept, 4 bytes each. Further ones only count for the longest.
const PAUSES_MAX: usize = 1 << 20;

/// The pauses of the sessions that the new process has started.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pauses {
    micros: Vec<u32>,
    longest: Duration,
}

impl Pauses {
    /// Adds the pause of one session.
    pub fn add(&mut self, pause: Duration) {
        self.longest = self.longest.max(pause);
        if self.micros.len() < PAUSES_MAX {
            self.micros.push(u32::try_from(pause.as_micros()).unwrap_or(u32::MAX));
        }
    }

    /// Returns the longest pause.
    pub fn longest(&self) -> Duration {
        self.longest
    }

    /// Returns the pause that `percent` of the sessions do not exceed, rounded down to microseconds.
    pub fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.micros.clone();
        sorted.sort_unstable();
        let rank = (sorted.len() * percent.min(100)).div_ceil(100);
        let micros = sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default();
        Duration::from_micros(micros.into())
    }
}

/// Returns the time of `CLOCK_MONOTONIC` in nanoseconds, which is the same in the old and the new process.
pub fn monotonic_nanos() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or_default())
}

/// Returns the time since `nanos` of [`monotonic_nanos`], and zero for a time in the future.
pub fn since(nanos: u64) -> Duration {
    Duration::from_nanos(monotonic_nanos().saturating_sub(nanos))
}

#[cfg(test)]
mod tests;
