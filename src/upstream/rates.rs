//! The rate at which requests try the servers of each upstream: `admit_rate`.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::{AdmitRate, UpstreamConfig};
use crate::policy::counts::Counts;
use crate::policy::quota::{Limiter, Quota, Rate};

/// The span whose requests may try servers at once, so that they are spread.
const BURST_SPAN: Duration = Duration::from_millis(100);

/// The counts of all upstreams, by name. They outlive configurations.
#[derive(Debug, Default)]
pub(super) struct AdmitRates(Arc<Counts<Arc<str>>>);

/// The permission to try a server. It is given back if no server is tried.
#[derive(Debug)]
pub(super) struct Cell {
    /// `None` for an upstream without a limit, and for a cell that was used.
    limiter: Option<Limiter>,
}

impl AdmitRates {
    /// Takes a cell of the upstream's rate.
    ///
    /// # Errors
    /// If none is available: the time at which the next one may be.
    pub(super) fn take(&self, config: &UpstreamConfig, now: Instant) -> Result<Cell, Instant> {
        let Some(rate) = config.admit_rate else { return Ok(Cell { limiter: None }) };
        let limiter = Limiter::over(self.0.get(&config.name, now), quota(rate));
        match limiter.check(now) {
            Ok(()) => Ok(Cell { limiter: Some(limiter) }),
            Err(not) => Err(not.until),
        }
    }
}

impl Cell {
    /// Records that a server is tried.
    pub(super) fn spend(mut self) {
        self.limiter = None;
    }
}

impl Drop for Cell {
    fn drop(&mut self) {
        self.limiter.iter().for_each(Limiter::refund);
    }
}

/// Returns the quota of a rate. Its burst is what the rate permits in 100 ms, at least one.
fn quota(rate: AdmitRate) -> Quota {
    let AdmitRate { count, period } = rate;
    let burst = u128::from(count.get()) * BURST_SPAN.as_nanos() / period.as_nanos().max(1);
    let burst = u32::try_from(burst).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN);
    Quota { rate: Rate { count, period }, burst }
}

/// Returns the time in which a rate permits this number of requests, in whole seconds from 1 to 30.
pub(super) fn seconds_for(rate: AdmitRate, requests: usize) -> u64 {
    let millis = rate.period.as_millis().saturating_mul(requests as u128) / u128::from(rate.count.get());
    u64::try_from(millis.div_ceil(1_000)).unwrap_or(u64::MAX).clamp(1, 30)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, seconds: u64) -> AdmitRate {
        AdmitRate { count: count.try_into().unwrap(), period: Duration::from_secs(seconds) }
    }

    #[test]
    fn a_tenth_of_a_second_may_be_used_at_once() {
        let table =
            [((100, 1), 10), ((20, 1), 2), ((1, 1), 1), ((600, 60), 1), ((1, 3600), 1), ((1_000_000, 1), 100_000)];
        for ((count, seconds), burst) in table {
            assert_eq!(quota(rate(count, seconds)).burst.get(), burst, "{count} in {seconds} s");
        }
    }

    #[test]
    fn the_time_for_requests_is_rounded_up_and_limited() {
        let table = [((100, 1), 0, 1), ((100, 1), 101, 2), ((100, 1), 512, 6), ((1, 20), 1, 20), ((1, 3600), 512, 30)];
        for ((count, seconds), requests, expected) in table {
            assert_eq!(seconds_for(rate(count, seconds), requests), expected, "{requests} at {count} in {seconds} s");
        }
    }
}
