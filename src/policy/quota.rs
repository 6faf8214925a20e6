//! Quotas: rates with a burst, counted by [governor] with the generic cell rate algorithm.
//!
//! governor reads a clock and keeps its state in the limiter. Here the time is an argument, and the state is a
//! [`Count`] of its own: it outlives the quota that it is checked against, and it can be exported and imported. All
//! counts of the process share one epoch, so any limiter can use any count.

mod clock;
mod count;

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use clock::REPLENISH_MAX;
pub(super) use clock::{CallClock, instant_at, nanos, nanos_at};
pub use count::{Count, LocalCount};

/// A rate: at most `count` in each `period`, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// The number of cells.
    pub count: NonZeroU32,
    /// The time for that number; never zero.
    pub period: Duration,
}

/// A rate, and the number of cells that may be used at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The rate in the long run.
    pub rate: Rate,
    /// The number of cells of an unused quota.
    pub burst: NonZeroU32,
}

impl Quota {
    /// Returns the time in which one cell is replenished, at least a nanosecond.
    pub(super) fn interval(self) -> Duration {
        let interval = self.rate.period / self.rate.count.get();
        interval.clamp(Duration::from_nanos(1), REPLENISH_MAX / self.burst.get())
    }

    /// Returns the time in which an exhausted quota is replenished, in nanoseconds.
    pub(super) fn burst_nanos(self) -> u64 {
        nanos(self.interval()).saturating_mul(self.burst.get().into())
    }

    /// Converts the quota for governor.
    fn to_governor(self) -> governor::Quota {
        let quota = governor::Quota::with_period(self.interval());
        quota.unwrap_or(governor::Quota::per_second(self.rate.count)).allow_burst(self.burst)
    }
}

/// The quota is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUntil {
    /// The earliest time at which another cell may be available.
    pub until: Instant,
}

/// A count that several limiters may share.
#[derive(Debug, Clone)]
struct SharedCount(Arc<Count>);

impl StateStore for SharedCount {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(decide)
    }
}

/// Creates a limiter whose times are measured from zero, as those of all counts are.
pub(super) fn governor_of<S: StateStore>(
    quota: Quota,
    store: S,
) -> RateLimiter<S::Key, S, CallClock, NoOpMiddleware<Nanos>> {
    CallClock::set_nanos(0);
    RateLimiter::new(quota.to_governor(), store, CallClock)
}

/// A quota with a count of its own, without an allocation.
pub struct LocalLimiter(RateLimiter<NotKeyed, LocalCount, CallClock, NoOpMiddleware<Nanos>>);

impl LocalLimiter {
    /// Creates a limiter over this count.
    pub fn new(quota: Quota, count: LocalCount) -> Self {
        Self(governor_of(quota, count))
    }

    /// Returns the count, for a limiter with another quota or of another process.
    pub fn into_count(self) -> LocalCount {
        self.0.into_state_store()
    }

    /// Takes one cell.
    ///
    /// # Errors
    /// If no cell is available. Nothing is taken then.
    pub fn check(&self, now: Instant) -> Result<(), NotUntil> {
        CallClock::set(now);
        self.0.check().map_err(|rejected| not_until(&rejected, now))
    }
}

impl fmt::Debug for LocalLimiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LocalLimiter").finish_non_exhaustive()
    }
}

/// A quota with a count that other limiters may share.
pub struct Limiter {
    governor: RateLimiter<NotKeyed, SharedCount, CallClock, NoOpMiddleware<Nanos>>,
    count: Arc<Count>,
    interval_nanos: u64,
}

impl Limiter {
    /// Creates a limiter of an unused quota.
    pub fn new(quota: Quota) -> Self {
        Self::over(Arc::default(), quota)
    }

    /// Creates a limiter over a count that may have been used with another quota.
    pub fn over(count: Arc<Count>, quota: Quota) -> Self {
        if let Some(share) = count.share() {
            share.set_burst(quota.burst_nanos());
        }
        let governor = governor_of(quota, SharedCount(Arc::clone(&count)));
        Self { governor, count, interval_nanos: nanos(quota.interval()) }
    }

    /// Returns the count.
    pub fn count(&self) -> &Arc<Count> {
        &self.count
    }

    /// Takes one cell.
    ///
    /// # Errors
    /// If no cell is available. Nothing is taken then.
    pub fn check(&self, now: Instant) -> Result<(), NotUntil> {
        CallClock::set(now);
        self.governor.check().map_err(|rejected| self.refuse(&rejected, now))
    }

    /// Notes that a cell was refused.
    #[cold]
    #[inline(never)]
    fn refuse(&self, rejected: &governor::NotUntil<Nanos>, now: Instant) -> NotUntil {
        if let Some(share) = self.count.share() {
            share.on_refused(self.interval_nanos, nanos_at(now));
        }
        not_until(rejected, now)
    }

    /// Whether this node awaits a greater share of the quota, which would allow a cell that [`Limiter::check`] refuses.
    /// It does so for a few seconds at most.
    pub fn is_pending(&self, now: Instant) -> bool {
        self.count.share().is_some_and(|share| share.is_pending(self.interval_nanos, nanos_at(now)))
    }

    /// Takes one cell, which may be available only later: returns the instant from which it may be used without another
    /// check. Callers that share a limiter get one cell each, in the order of their calls, and each wakes once.
    /// governor's `until_ready` guarantees neither. A cell that is not used is given back by [`Limiter::refund`].
    ///
    /// # Errors
    /// If the next cell is available only after more than a minute, or more than one interval if that is longer.
    /// Nothing is taken then. The error contains the time, that far ahead, at which the caller may try again. So
    /// callers that find the quota reserved retry spread over time. Where nodes share the quota, half a second takes the
    /// place of the minute, or the rest of the lease if that is shorter.
    pub fn reserve(&self, now: Instant) -> Result<Instant, NotUntil> {
        let now_nanos = nanos_at(now);
        let mut at = now_nanos;
        loop {
            CallClock::set_nanos(at);
            let Err(rejected) = self.governor.check() else {
                return Ok(instant_at(at, now));
            };
            // Another thread may take the cell meanwhile; the next error then has a later time.
            at = rejected.earliest_possible().as_u64();
            let ahead = self.count.ahead(self.interval_nanos, now_nanos);
            if at.saturating_sub(now_nanos) > ahead.reserve {
                return Err(NotUntil { until: instant_at(now_nanos.saturating_add(ahead.retry), now) });
            }
        }
    }

    /// Refunds one cell that was taken and not used. Reservations of other callers keep their instants, so the next
    /// cell may be available at the same time as the last of them.
    pub fn refund(&self) {
        let cost = self.count.refund(self.interval_nanos);
        // The update is never rejected.
        let _ = self.count.update(|count| Some(count.saturating_sub(cost)));
    }
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter").field("interval_nanos", &self.interval_nanos).finish_non_exhaustive()
    }
}

pub(super) fn not_until(rejected: &governor::NotUntil<Nanos>, now: Instant) -> NotUntil {
    NotUntil { until: instant_at(rejected.earliest_possible().as_u64(), now) }
}

#[cfg(test)]
pub(super) mod tests;
