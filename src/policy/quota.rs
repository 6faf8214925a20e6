//! Quotas: rates with a burst, counted by [governor] with the generic cell rate algorithm.
//!
//! governor reads a clock and keeps its state in the limiter. Here the time is an argument, and the state is a
//! [`Count`] of its own: it outlives the quota that it is checked against, and it can be exported and imported. All
//! counts of the process share one epoch, so any limiter can use any count.

use std::cell::Cell;
use std::fmt;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

/// The maximum time ahead for which a cell can be reserved. It bounds the cells that go unused when clients disconnect
/// before their time.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(1);
/// The epoch of the process in the scale of counts, in nanoseconds: 146 years. So an instant before the epoch can be
/// represented, too.
const EPOCH_NANOS: u64 = 1 << 62;
/// The longest time in which an exhausted quota is replenished, 73 years: times in nanoseconds cannot overflow.
const REPLENISH_MAX: Duration = Duration::from_nanos(1 << 61);

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
    fn interval(self) -> Duration {
        let interval = self.rate.period / self.rate.count.get();
        interval.clamp(Duration::from_nanos(1), REPLENISH_MAX / self.burst.get())
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

/// The state of a quota: the theoretical arrival time of the next cell, in nanoseconds. Zero for an unused quota.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Whether the quota is fully replenished, so that a new count would be equivalent.
    pub(super) fn is_whole(&self, now: u64) -> bool {
        self.0.load(Ordering::Relaxed) <= now
    }

    /// Replaces the theoretical arrival time by the one that `change` returns, and returns the earlier one. Nothing
    /// changes if `change` returns `None`.
    ///
    /// # Errors
    /// The theoretical arrival time if it was not changed.
    pub(super) fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
    }

    /// Returns the theoretical arrival time relative to `now`, in nanoseconds: the form in which another process can
    /// import it.
    pub fn export(&self, now: Instant) -> i64 {
        let difference = i128::from(self.0.load(Ordering::Relaxed)) - i128::from(nanos_at(now));
        i64::try_from(difference).unwrap_or(i64::MIN)
    }

    /// Raises the count to the one that another process exported, if that is higher.
    pub(super) fn raise(&self, exported: i64, now: Instant) {
        let other = imported_nanos(exported, now);
        // A higher count stays.
        let _ = self.update(|count| (count < other).then_some(other));
    }

    /// Creates the count that another process exported.
    pub fn import(exported: i64, now: Instant) -> Self {
        Self(AtomicU64::new(imported_nanos(exported, now)))
    }
}

/// Returns the theoretical arrival time that another process exported. No quota takes longer than [`REPLENISH_MAX`], so
/// a later time is not valid, and sums with it could overflow.
fn imported_nanos(exported: i64, now: Instant) -> u64 {
    let max = i64::try_from(REPLENISH_MAX.as_nanos()).unwrap_or(i64::MAX);
    nanos_at(now).saturating_add_signed(exported.min(max))
}

impl StateStore for Count {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let mut before = self.0.load(Ordering::Relaxed);
        loop {
            let (outcome, after) = decide((before > 0).then(|| before.into()))?;
            match self.0.compare_exchange_weak(before, after.into(), Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(outcome),
                Err(changed) => before = changed,
            }
        }
    }
}

/// A count that several limiters may share.
#[derive(Debug, Clone)]
struct SharedCount(Arc<Count>);

impl StateStore for SharedCount {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, key: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        self.0.measure_and_replace(key, decide)
    }
}

/// The clock for governor: it returns the time of the current call.
#[derive(Debug, Clone, Copy)]
pub(super) struct CallClock;

thread_local! {
    /// Set right before each call of governor on the same thread.
    static CALL_TIME: Cell<u64> = const { Cell::new(0) };
}

impl CallClock {
    /// Sets the time of the next call.
    pub(super) fn set(now: Instant) {
        CALL_TIME.set(nanos_at(now));
    }

    /// Creates a limiter whose times are measured from zero, as those of all counts are.
    pub(super) fn limiter<S: StateStore>(
        quota: Quota,
        store: S,
    ) -> RateLimiter<S::Key, S, Self, NoOpMiddleware<Nanos>> {
        CALL_TIME.set(0);
        RateLimiter::new(quota.to_governor(), store, Self)
    }
}

impl Clock for CallClock {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        CALL_TIME.get().into()
    }
}

/// A quota with a count of its own, without an allocation.
pub struct LocalLimiter(RateLimiter<NotKeyed, Count, CallClock, NoOpMiddleware<Nanos>>);

impl LocalLimiter {
    /// Creates a limiter over this count.
    pub fn new(quota: Quota, count: Count) -> Self {
        Self(CallClock::limiter(quota, count))
    }

    /// Returns the count, for a limiter with another quota or of another process.
    pub fn into_count(self) -> Count {
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
        let governor = CallClock::limiter(quota, SharedCount(Arc::clone(&count)));
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
        self.governor.check().map_err(|rejected| not_until(&rejected, now))
    }

    /// Takes one cell, which may be available only later: returns the instant from which it may be used without another
    /// check. Callers that share a limiter get one cell each, in the order of their calls, and each wakes once.
    /// governor's `until_ready` guarantees neither. A cell that is not used is given back by [`Limiter::refund`].
    ///
    /// # Errors
    /// If the next cell is available only after more than a minute, or more than one interval if that is longer.
    /// Nothing is taken then. The error contains the time, that far ahead, at which the caller may try again. So
    /// callers that find the quota reserved retry spread over time.
    pub fn reserve(&self, now: Instant) -> Result<Instant, NotUntil> {
        let now_nanos = nanos_at(now);
        let ahead_nanos = self.interval_nanos.max(nanos(WAIT_MAX));
        let mut at = now_nanos;
        loop {
            CALL_TIME.set(at);
            let Err(rejected) = self.governor.check() else {
                return Ok(instant_at(at, now));
            };
            // Another thread may take the cell meanwhile; the next error then has a later time.
            at = rejected.earliest_possible().as_u64();
            if at.saturating_sub(now_nanos) > ahead_nanos {
                return Err(NotUntil { until: instant_at(now_nanos.saturating_add(ahead_nanos), now) });
            }
        }
    }

    /// Refunds one cell that was taken and not used. Reservations of other callers keep their instants, so the next
    /// cell may be available at the same time as the last of them.
    pub fn refund(&self) {
        // The update is never rejected.
        let _ = self.count.update(|count| Some(count.saturating_sub(self.interval_nanos)));
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

/// The epoch of all counts: the first instant that was used.
static EPOCH: OnceLock<Instant> = OnceLock::new();

/// Converts an instant to the scale of counts.
pub(super) fn nanos_at(now: Instant) -> u64 {
    let epoch = *EPOCH.get_or_init(|| now);
    match now.checked_duration_since(epoch) {
        Some(since) => EPOCH_NANOS.saturating_add(nanos(since)),
        None => EPOCH_NANOS.saturating_sub(nanos(epoch.saturating_duration_since(now))),
    }
}

/// Converts a time in the scale of counts to an instant, at least `now`. Returns `now` if no `Instant` can represent
/// it.
pub(super) fn instant_at(nanos: u64, now: Instant) -> Instant {
    now.checked_add(Duration::from_nanos(nanos.saturating_sub(nanos_at(now)))).unwrap_or(now)
}

/// Returns the nanoseconds of a span, at most [`REPLENISH_MAX`], so that sums of a few spans do not overflow.
pub(super) fn nanos(span: Duration) -> u64 {
    u64::try_from(span.min(REPLENISH_MAX).as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests;
