//! Quotas of bytes, counted by the generic cell rate algorithm.
//!
//! governor counts cells of a whole number of nanoseconds each. A byte at 300 MiB/s takes 3.2 ns, so here the time of
//! any number of bytes is computed at once, and rounded up to a nanosecond.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::quota::{Count, NotUntil, Quota, WAIT_MAX, instant_at, nanos, nanos_at};

/// A quota of bytes with a count that other limiters may share. A cell of its [`Quota`] is a byte.
#[derive(Debug)]
pub struct ByteLimiter {
    count: Arc<Count>,
    quota: Quota,
    /// The time in which an exhausted quota is replenished.
    burst_nanos: u64,
}

impl ByteLimiter {
    /// Creates a limiter over a count that may have been used with another quota.
    pub fn over(count: Arc<Count>, quota: Quota) -> Self {
        let burst_nanos = cost(quota, quota.burst.get().into());
        Self { count, quota, burst_nanos }
    }

    /// Returns the count.
    pub fn count(&self) -> &Arc<Count> {
        &self.count
    }

    /// Returns the number of bytes that an unused quota allows at once.
    pub fn burst_bytes(&self) -> u32 {
        self.quota.burst.get()
    }

    /// Takes bytes if the quota allows all of them now. Returns whether it does; if not, nothing is taken. More bytes
    /// than the burst are never allowed.
    pub fn check(&self, bytes: u64, now: Instant) -> bool {
        let (now, cost) = (nanos_at(now), cost(self.quota, bytes));
        let allowed = |count: u64| {
            let next = count.max(now).saturating_add(cost);
            (next.saturating_sub(now) <= self.burst_nanos).then_some(next)
        };
        self.count.update(allowed).is_ok()
    }

    /// Takes bytes even beyond the quota. Later bytes then wait for them.
    pub fn charge(&self, bytes: u64, now: Instant) {
        let (now, cost) = (nanos_at(now), cost(self.quota, bytes));
        // The update is never rejected.
        let _ = self.count.update(|count| Some(count.max(now).saturating_add(cost)));
    }

    /// Takes bytes that may be allowed only later: returns the instant from which they may be used without another
    /// check. More bytes than the burst are allowed once the quota is fully replenished, and later bytes wait for the
    /// difference. Bytes that are not used are given back by [`ByteLimiter::refund`].
    ///
    /// # Errors
    /// If the bytes are allowed only after more than a minute, or more than the time of the burst if that is longer.
    /// Nothing is taken then. The error contains the time, that far ahead, at which the caller may try again.
    pub fn reserve(&self, bytes: u64, now: Instant) -> Result<Instant, NotUntil> {
        let (now_nanos, cost) = (nanos_at(now), cost(self.quota, bytes));
        let ahead_nanos = self.burst_nanos.max(nanos(WAIT_MAX));
        let start = |count: u64| {
            let unused = self.burst_nanos.saturating_sub(cost);
            count.max(now_nanos).saturating_sub(unused).max(now_nanos)
        };
        let reserved = self.count.update(|count| {
            let in_time = start(count).saturating_sub(now_nanos) <= ahead_nanos;
            in_time.then(|| count.max(now_nanos).saturating_add(cost))
        });
        match reserved {
            Ok(before) => Ok(instant_at(start(before), now)),
            Err(_) => Err(NotUntil { until: instant_at(now_nanos.saturating_add(ahead_nanos), now) }),
        }
    }

    /// Gives back bytes that were taken this long ago and not used, as far as they have not been replenished since:
    /// otherwise bytes that are held could be saved up beyond the burst. Reservations of other callers keep their
    /// instants.
    pub fn refund(&self, bytes: u64, held: Duration) {
        let cost = cost(self.quota, bytes).saturating_sub(nanos(held));
        // The update is never rejected.
        let _ = self.count.update(|count| Some(count.saturating_sub(cost)));
    }
}

/// Returns the time of this number of bytes at the rate, in nanoseconds, rounded up. It is at most 73 years, so that
/// sums do not overflow.
fn cost(quota: Quota, bytes: u64) -> u64 {
    let count = u128::from(quota.rate.count.get());
    let cost = u128::from(bytes).saturating_mul(quota.rate.period.as_nanos()).div_ceil(count);
    u64::try_from(cost).unwrap_or(u64::MAX).min(1 << 61)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::quota::tests::{on_threads, quota};

    fn limiter(rate: u32, burst: u32) -> ByteLimiter {
        ByteLimiter::over(Arc::default(), quota(rate, burst))
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let (limiter, start) = (limiter(1_000, 500), Instant::now());
        assert!(limiter.check(200, start) && limiter.check(300, start) && !limiter.check(1, start));
        let later = start + Duration::from_millis(100);
        assert!(!limiter.check(101, later) && limiter.check(100, later) && !limiter.check(1, later));
        assert!(!limiter.check(501, start + Duration::from_secs(60)), "more than the burst is never allowed");
    }

    #[test]
    fn reserved_bytes_follow_each_other() {
        let (limiter, start) = (limiter(1_000, 500), Instant::now());
        let after = |millis| Ok(start + Duration::from_millis(millis));
        assert_eq!(limiter.reserve(500, start), after(0));
        assert_eq!(limiter.reserve(100, start), after(100));
        assert_eq!(limiter.reserve(100, start), after(200));
        limiter.refund(100, Duration::ZERO);
        assert_eq!(limiter.reserve(400, start), after(500));
        // 50 of the 100 bytes have been replenished after 50 ms, and all of the 400 after 400 ms.
        limiter.refund(100, Duration::from_millis(50));
        limiter.refund(400, Duration::from_millis(400));
        assert_eq!(limiter.reserve(50, start), after(500));
    }

    #[test]
    fn more_bytes_than_the_burst_wait_for_a_full_quota_and_delay_later_ones() {
        let (limiter, start) = (limiter(1_000, 500), Instant::now());
        assert_eq!(limiter.reserve(1_500, start), Ok(start));
        assert_eq!(limiter.reserve(500, start), Ok(start + Duration::from_millis(1_500)));
    }

    #[test]
    fn bytes_beyond_a_minute_are_not_reserved() {
        let (limiter, start) = (limiter(10, 10), Instant::now());
        let minute = start + Duration::from_mins(1);
        limiter.charge(600, start);
        assert_eq!(limiter.reserve(10, start), Ok(minute));
        assert_eq!(limiter.reserve(10, start), Err(NotUntil { until: minute }));
        // At a rate of which one burst takes longer, the wait is as long as that burst.
        let slow = ByteLimiter::over(
            Arc::default(),
            Quota {
                rate: crate::policy::quota::Rate { period: Duration::from_hours(1), ..quota(10, 10).rate },
                ..quota(10, 10)
            },
        );
        assert_eq!(slow.reserve(10, start), Ok(start));
        assert_eq!(slow.reserve(10, start), Ok(start + Duration::from_hours(1)));
        assert_eq!(slow.reserve(10, start), Err(NotUntil { until: start + Duration::from_hours(1) }));
    }

    /// At 900 MiB/s a byte takes 1.06 ns.
    #[test]
    fn high_rates_are_exact() {
        let (limiter, mut now) = (limiter(900 << 20, 1 << 20), Instant::now());
        let (start, mut sent) = (now, 0_u64);
        while sent < 900 << 20 {
            now = limiter.reserve(65_536, now).unwrap();
            sent += 65_536;
        }
        let seconds = now.duration_since(start).as_secs_f64();
        assert!((0.998..1.001).contains(&seconds), "{seconds}");
    }

    #[test]
    fn threads_never_share_bytes() {
        let (limiter, start) = (limiter(1, 4_000), Instant::now());
        let taken: usize = on_threads(|| (0..1_000).filter(|_| limiter.check(3, start)).count()).into_iter().sum();
        assert_eq!(taken, 4_000 / 3);
    }

    proptest! {
        /// In no span are more bytes allowed than the burst and the rate times the span, for any reservations at any
        /// times. Reservations are in order.
        #[test]
        fn no_span_has_more_bytes_than_burst_and_rate(
            rate in 1..5_000_u32,
            burst in 1..5_000_u32,
            calls in prop::collection::vec((0..500_u64, 1..5_000_u64), 1..40),
        ) {
            let (limiter, mut now) = (limiter(rate, burst), Instant::now());
            let mut allowed: Vec<(Instant, u64)> = Vec::new();
            for (pause, bytes) in calls {
                now += Duration::from_millis(pause);
                let bytes = bytes.min(burst.into());
                if let Ok(at) = limiter.reserve(bytes, now) {
                    prop_assert!(at >= now && allowed.last().is_none_or(|(last, _)| *last <= at));
                    allowed.push((at, bytes));
                }
            }
            for (index, (from, _)) in allowed.iter().enumerate() {
                let mut sum = 0;
                for (at, bytes) in &allowed[index..] {
                    sum += u32::try_from(*bytes).unwrap();
                    let span = at.duration_since(*from).as_secs_f64();
                    prop_assert!(f64::from(sum) <= f64::from(burst) + f64::from(rate) * span + 0.1, "{sum} in {span}");
                }
            }
        }
    }
}
