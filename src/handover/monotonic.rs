//! The clock that the old and the new process share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

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
