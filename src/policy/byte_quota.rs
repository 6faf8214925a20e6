//! Quotas of bytes, counted by the generic cell rate algorithm.
//!
//! governor counts cells of a whole number of nanoseconds each. A byte at 300 MiB/s takes 3.2 ns, so here the time of
//! any number of bytes is computed at once, and rounded up to a nanosecond.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::lease::share::Share;
use super::quota::{Count, NotUntil, Quota, instant_at, nanos, nanos_at};

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
        if let Some(share) = count.share() {
            share.set_burst(burst_nanos);
        }
        Self { count, quota, burst_nanos }
    }

    /// Returns the count.
    pub fn count(&self) -> &Arc<Count> {
        &self.count
    }

    /// Returns the number of bytes that an unused quota, or this node's share of it, allows at once.
    pub fn burst_bytes(&self, now: Instant) -> u32 {
        let burst = self.quota.burst.get();
        self.count.share().map_or(burst, |share| share.part(burst, nanos_at(now)))
    }

    /// Takes bytes if the quota allows all of them now. Returns whether it does; if not, nothing is taken. More bytes
    /// than the burst are never allowed. Where nodes share the quota, an unused share allows as many bytes as the quota,
    /// and later bytes wait for them: a share may be smaller than any frame.
    pub fn check(&self, bytes: u64, now: Instant) -> bool {
        let (now, cost) = (nanos_at(now), cost(self.quota, bytes));
        let Some(share) = self.count.share() else {
            let allowed = |count: u64| {
                let next = count.max(now).saturating_add(cost);
                (next.saturating_sub(now) <= self.burst_nanos).then_some(next)
            };
            return self.count.update(allowed).is_ok();
        };
        let taken = self.count.update(self.allowed_by(share, cost, now));
        match taken {
            Ok(before) => share.on_taken(cost, before, now),
            Err(_) => share.on_refused(cost, now),
        }
        taken.is_ok()
    }

    /// Returns the count after this cost, for a share that allows it.
    fn allowed_by(&self, share: &Share, cost: u64, now: u64) -> impl Fn(u64) -> Option<u64> {
        let (scaled, burst) = (share.scaled(cost, now), self.burst_nanos);
        move |count| {
            let next = count.max(now).saturating_add(scaled);
            let is_unused = count <= now && cost <= burst;
            (next.saturating_sub(now) <= burst || is_unused).then_some(next)
        }
    }

    /// Waits for a greater share of the quota, if this node needs one for these bytes and awaits it for a few seconds at
    /// most. Returns when to try again.
    pub fn await_share(&self, bytes: u64, now: Instant) -> Option<Instant> {
        let share = self.count.share()?;
        let (now_nanos, cost) = (nanos_at(now), cost(self.quota, bytes));
        let count = share.arrival().load(Ordering::Relaxed);
        if self.allowed_by(share, cost, now_nanos)(count).is_some() {
            return None;
        }
        share.on_refused(cost, now_nanos);
        let is_pending = share.is_pending(cost, now_nanos);
        is_pending.then(|| instant_at(now_nanos.saturating_add(share.ahead(now_nanos)), now))
    }

    /// Whether this node awaits a greater share of the quota, which would allow bytes that [`ByteLimiter::check`]
    /// refuses. It does so for a few seconds at most.
    pub fn is_pending(&self, bytes: u64, now: Instant) -> bool {
        self.count.share().is_some_and(|share| share.is_pending(cost(self.quota, bytes), nanos_at(now)))
    }

    /// Takes bytes even beyond the quota. Later bytes then wait for them.
    pub fn charge(&self, bytes: u64, now: Instant) {
        let (now, cost) = (nanos_at(now), cost(self.quota, bytes));
        let scaled = self.scaled(cost, now);
        // The update is never rejected.
        if let (Ok(before), Some(share)) =
            (self.count.update(|count| Some(count.max(now).saturating_add(scaled))), self.count.share())
        {
            share.on_taken(cost, before, now);
        }
    }

    /// Returns the time in which the quota, or this node's share of it, replenishes a cost.
    fn scaled(&self, cost: u64, now: u64) -> u64 {
        self.count.share().map_or(cost, |share| share.scaled(cost, now))
    }

    /// Takes bytes that may be allowed only later: returns the instant from which they may be used without another
    /// check. More bytes than the burst are allowed once the quota is fully replenished, and later bytes wait for the
    /// difference. Bytes that are not used are given back by [`ByteLimiter::refund`].
    ///
    /// # Errors
    /// If the bytes are allowed only after more than a minute, or more than the time of the burst if that is longer.
    /// Nothing is taken then. The error contains the time, that far ahead, at which the caller may try again. Where nodes
    /// share the quota, half a second takes the place of the minute, or the rest of the lease if that is shorter.
    pub fn reserve(&self, bytes: u64, now: Instant) -> Result<Instant, NotUntil> {
        let (now_nanos, full_cost) = (nanos_at(now), cost(self.quota, bytes));
        let cost = self.scaled(full_cost, now_nanos);
        let start = |count: u64| {
            let unused = self.burst_nanos.saturating_sub(cost);
            count.max(now_nanos).saturating_sub(unused).max(now_nanos)
        };
        // The limit matters only for bytes that have to wait.
        let ahead = |count: u64| match start(count).saturating_sub(now_nanos) {
            0 => None,
            wait => Some((wait, self.count.ahead(self.burst_nanos, now_nanos))),
        };
        let reserved = self.count.update(|count| {
            let in_time = ahead(count).is_none_or(|(wait, ahead)| wait <= ahead.reserve);
            in_time.then(|| count.max(now_nanos).saturating_add(cost))
        });
        let Ok(before) = reserved else {
            let retry = self.count.ahead(self.burst_nanos, now_nanos).retry;
            return Err(NotUntil { until: instant_at(now_nanos.saturating_add(retry), now) });
        };
        if let Some(share) = self.count.share() {
            share.on_taken(full_cost, before, now_nanos);
        }
        Ok(instant_at(start(before), now))
    }

    /// Gives back bytes that were taken this long ago and not used, as far as they have not been replenished since:
    /// otherwise bytes that are held could be saved up beyond the burst. Reservations of other callers keep their
    /// instants.
    pub fn refund(&self, bytes: u64, held: Duration) {
        let cost = self.count.refund(cost(self.quota, bytes)).saturating_sub(nanos(held));
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
