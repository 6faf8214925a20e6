//! The state of quotas: counts that are a process's own, and counts that are shared with other nodes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};

use super::clock::{CallClock, REPLENISH_MAX, nanos, nanos_at};
use crate::policy::lease::share::Share;

/// The maximum time ahead for which a cell can be reserved. It bounds the cells that go unused when clients disconnect
/// before their time.
const WAIT_MAX: Duration = Duration::from_mins(1);

/// The shortest time after which a caller that gets no cell of a shared quota tries again.
const RETRY_NANOS: u64 = 50_000_000;

/// The state of a quota that no other node counts: the theoretical arrival time of the next cell, in nanoseconds. Zero
/// for an unused quota.
#[derive(Debug, Default)]
pub struct LocalCount(AtomicU64);

impl LocalCount {
    /// Returns the theoretical arrival time relative to `now`, in nanoseconds: the form in which another process can
    /// import it.
    pub fn export(&self, now: Instant) -> i64 {
        exported_nanos(&self.0, now)
    }

    /// Creates the count that another process exported.
    pub fn import(exported: i64, now: Instant) -> Self {
        Self(AtomicU64::new(imported_nanos(exported, now)))
    }
}

impl StateStore for LocalCount {
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

/// The state of a quota: the theoretical arrival time of the next cell, and the share of the quota that this node may
/// use where nodes share it.
#[derive(Debug)]
pub struct Count(Kind);

/// How far ahead cells are reserved, in nanoseconds.
#[derive(Debug, Clone, Copy)]
pub(in crate::policy) struct Ahead {
    /// The maximum time to a cell.
    pub reserve: u64,
    /// The time after which a caller that gets no cell may try again.
    pub retry: u64,
}

#[derive(Debug)]
enum Kind {
    Own(LocalCount),
    Shared(Arc<Share>),
}

impl Default for Count {
    fn default() -> Self {
        Self(Kind::Own(LocalCount::default()))
    }
}

impl Count {
    /// Creates the count of a quota that nodes share.
    pub(in crate::policy) fn shared(share: Share) -> Self {
        Self(Kind::Shared(Arc::new(share)))
    }

    /// Returns the share of this node, if nodes share the quota.
    pub(in crate::policy) fn share(&self) -> Option<&Arc<Share>> {
        match &self.0 {
            Kind::Own(_) => None,
            Kind::Shared(share) => Some(share),
        }
    }

    fn arrival(&self) -> &AtomicU64 {
        match &self.0 {
            Kind::Own(count) => &count.0,
            Kind::Shared(share) => share.arrival(),
        }
    }

    /// Whether the quota is fully replenished and no lease of it is held, so that a new count would be equivalent.
    pub(in crate::policy) fn is_whole(&self, now: u64) -> bool {
        // A lease is known to others than this count.
        let is_leased = self.share().is_some_and(|share| Arc::strong_count(share) > 1);
        self.arrival().load(Ordering::Relaxed) <= now && !is_leased
    }

    /// Replaces the theoretical arrival time by the one that `change` returns, and returns the earlier one. Nothing
    /// changes if `change` returns `None`.
    ///
    /// # Errors
    /// The theoretical arrival time if it was not changed.
    pub(in crate::policy) fn update(&self, change: impl Fn(u64) -> Option<u64>) -> Result<u64, u64> {
        self.arrival().fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
    }

    /// Returns the theoretical arrival time relative to `now`, as [`LocalCount::export`] does.
    pub fn export(&self, now: Instant) -> i64 {
        exported_nanos(self.arrival(), now)
    }

    /// Raises the count to the one that another process exported, if that is higher.
    pub(in crate::policy) fn raise(&self, exported: i64, now: Instant) {
        let other = imported_nanos(exported, now);
        // A higher count stays.
        let _ = self.update(|count| (count < other).then_some(other));
    }

    /// Creates the count that another process exported. No other node counts it.
    pub fn import(exported: i64, now: Instant) -> Self {
        Self(Kind::Own(LocalCount::import(exported, now)))
    }

    /// Returns how far ahead cells are reserved, after a cell was found not to be available yet. `least` applies to
    /// counts that nodes do not share.
    pub(in crate::policy) fn ahead(&self, least: u64, now: u64) -> Ahead {
        match &self.0 {
            Kind::Own(_) => {
                let ahead = least.max(nanos(WAIT_MAX));
                Ahead { reserve: ahead, retry: ahead }
            }
            Kind::Shared(share) => {
                share.on_delayed(now);
                let ahead = share.ahead(now);
                Ahead { reserve: ahead, retry: ahead.max(RETRY_NANOS) }
            }
        }
    }

    /// Records that a cost was given back. Returns the time to deduct from the count.
    pub(in crate::policy) fn refund(&self, cost: u64) -> u64 {
        match &self.0 {
            Kind::Own(_) => cost,
            Kind::Shared(share) => {
                share.on_refunded(cost);
                share.scaled_refund(cost)
            }
        }
    }

    /// Decides on a cell as governor's stores do, at the time of the current call. Where this node may use a share of
    /// the quota, the cell takes as many times longer to replenish as the quota is larger than the share.
    #[inline]
    pub(in crate::policy) fn measure_and_replace<T, E>(
        &self,
        decide: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        match &self.0 {
            Kind::Own(count) => count.measure_and_replace(&NotKeyed::NonKey, decide),
            Kind::Shared(share) => measure_share(share, &decide),
        }
    }
}

/// Apart from the code of counts of one process, and with a closure that is not inlined here, so that these cost one check.
#[cold]
#[inline(never)]
fn measure_share<T, E>(share: &Arc<Share>, decide: &dyn Fn(Option<Nanos>) -> Result<(T, Nanos), E>) -> Result<T, E> {
    let now = CallClock::nanos();
    let arrival = share.arrival();
    let mut before = arrival.load(Ordering::Relaxed);
    loop {
        let (outcome, after) = decide((before > 0).then(|| before.into()))?;
        let start = before.max(now);
        let cost = after.as_u64().saturating_sub(start);
        let after = start.saturating_add(share.scaled(cost, now));
        match arrival.compare_exchange_weak(before, after, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => {
                share.on_taken(cost, before, now);
                return Ok(outcome);
            }
            Err(changed) => before = changed,
        }
    }
}

fn exported_nanos(arrival: &AtomicU64, now: Instant) -> i64 {
    let difference = i128::from(arrival.load(Ordering::Relaxed)) - i128::from(nanos_at(now));
    i64::try_from(difference).unwrap_or(i64::MIN)
}

/// Returns the theoretical arrival time that another process exported. No quota takes longer than [`REPLENISH_MAX`], so
/// a later time is not valid, and sums with it could overflow.
fn imported_nanos(exported: i64, now: Instant) -> u64 {
    let max = i64::try_from(REPLENISH_MAX.as_nanos()).unwrap_or(i64::MAX);
    nanos_at(now).saturating_add_signed(exported.min(max))
}
