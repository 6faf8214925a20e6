//! Counts of quotas by key: a bounded store that limiters of all snapshots share.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use governor::RateLimiter;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;

use super::lease::key::LeaseClient;
use super::lease::share::{LeaseScope, Share};
use super::quota::{CallClock, Count, NotUntil, Quota, governor_of, nanos, nanos_at, not_until};

/// The maximum number of keys with a count of their own. A key takes about 150 bytes, so this is 10 MB at worst.
pub const KEYS_MAX: usize = 65_536;
/// The number of counts that further keys share: 0.5 MB at worst.
const CELLS: u16 = 4_096;
/// Once half of the keys are in use, a group may have one in `GROUP_SHARE` of them.
const GROUP_SHARE: usize = 64;
/// The minimum number of keys at which a sweep is worth its time.
const SWEEP_MIN: usize = 1_024;
/// The shortest time between two sweeps. A sweep visits every key under the lock.
const SWEEP_PAUSE_NANOS: u64 = 1_000_000_000;

/// A key that quotas are counted by.
pub trait Grouped {
    /// Returns the group of keys that one client can use, if there is such a group.
    fn group(&self) -> Option<u64>;

    /// Returns the client by which nodes share the quota of the key, if they can.
    fn client(&self) -> Option<LeaseClient> {
        None
    }
}

impl Grouped for Arc<str> {
    fn group(&self) -> Option<u64> {
        None
    }
}

/// One count for each key, for as long as it matters. The number of keys is bounded. There is at most one sweep per
/// second, so a flood of keys costs neither memory nor much time.
///
/// Once half of the keys are in use, a group gets no further counts beyond a 64th of all. A key without a count of its
/// own shares one of 4,096 cells, which is selected by a keyed hash of its group, or of the key if it has no group. So
/// a flood of one group uses one cell, and each key of any other flood affects a 4,096th of the keys after it.
#[derive(Debug)]
pub struct Counts<K> {
    inner: Mutex<CountMap<K>>,
    max: usize,
    hasher: RandomState,
    /// The leases of these quotas, if nodes share them.
    scope: Option<Arc<LeaseScope>>,
}

#[derive(Debug)]
struct CountMap<K> {
    by_key: HashMap<K, Arc<Count>>,
    /// The number of keys of each group.
    by_group: HashMap<u64, usize>,
    /// From this number of keys on, a new key causes a sweep.
    sweep_above: usize,
    swept: Option<u64>,
    /// The cells in use.
    cells: HashMap<u16, Arc<Count>>,
}

impl<K: Hash + Eq + Clone + Grouped> Counts<K> {
    /// Creates a store without keys.
    pub fn new() -> Self {
        Self::shared(None)
    }

    /// Creates a store without keys. With a scope, nodes share these quotas.
    pub fn shared(scope: Option<Arc<LeaseScope>>) -> Self {
        let map = CountMap {
            by_key: HashMap::new(),
            by_group: HashMap::new(),
            sweep_above: SWEEP_MIN,
            swept: None,
            cells: HashMap::new(),
        };
        Self { inner: Mutex::new(map), max: KEYS_MAX, hasher: RandomState::new(), scope }
    }

    /// Returns the count of a key.
    pub fn get(&self, key: &K, now: Instant) -> Arc<Count> {
        self.get_at(key, nanos_at(now))
    }

    /// Returns the count of a key at a time in the scale of counts.
    fn get_at(&self, key: &K, now: u64) -> Arc<Count> {
        let mut map = self.lock();
        if let Some(count) = map.by_key.get(key) {
            return Arc::clone(count);
        }
        let group = key.group();
        let rested = map.swept.is_none_or(|swept| now.saturating_sub(swept) >= SWEEP_PAUSE_NANOS);
        if rested && (map.by_key.len() >= map.sweep_above || self.is_full(&map, group)) {
            map.sweep(now);
        }
        if self.is_full(&map, group) {
            let hash = group.map_or_else(|| self.hasher.hash_one(key), |group| self.hasher.hash_one(group));
            let cell = u16::try_from(hash % u64::from(CELLS)).unwrap_or_default();
            return Arc::clone(map.cells.entry(cell).or_insert_with(|| self.new_count(None)));
        }
        let count = self.new_count(key.client());
        map.by_key.insert(key.clone(), Arc::clone(&count));
        if let Some(group) = group {
            *map.by_group.entry(group).or_default() += 1;
        }
        count
    }

    /// Returns the keys with a count of their own that is not fully replenished, at most `max`, each with its count as
    /// [`Count::export`] returns it. The cells are left out: another process selects them by another hash.
    pub(super) fn export(&self, max: usize, now: Instant) -> Vec<(K, i64)> {
        let (map, nanos) = (self.lock(), nanos_at(now));
        let used = map.by_key.iter().filter(|(_, count)| !count.is_whole(nanos));
        used.take(max).map(|(key, count)| (key.clone(), count.export(now))).collect()
    }

    /// Raises the counts of these keys to those that another process exported.
    pub(super) fn import(&self, exported: Vec<(K, i64)>, now: Instant) {
        for (key, count) in exported.into_iter().take(self.max) {
            self.get(&key, now).raise(count, now);
        }
    }

    /// Creates the count of a client. Without one, the node uses the share that needs no lease.
    fn new_count(&self, client: Option<LeaseClient>) -> Arc<Count> {
        let shared = |scope| Count::shared(Share::new(Arc::clone(scope), client));
        Arc::new(self.scope.as_ref().map_or_else(Count::default, shared))
    }

    /// Whether a new key of this group gets no count of its own.
    fn is_full(&self, map: &CountMap<K>, group: Option<u64>) -> bool {
        let of_group = group.and_then(|group| map.by_group.get(&group)).copied().unwrap_or_default();
        let len = map.by_key.len();
        len >= self.max || len >= self.max / 2 && of_group >= (self.max / GROUP_SHARE).max(1)
    }

    /// Locks the map. It is consistent after every step, so a panic of another holder does no harm.
    fn lock(&self) -> MutexGuard<'_, CountMap<K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Hash + Eq + Clone + Grouped> Default for Counts<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Grouped> CountMap<K> {
    /// Drops every count that is fully replenished and that no limiter holds.
    fn sweep(&mut self, now: u64) {
        let matters = |count: &Arc<Count>| Arc::strong_count(count) > 1 || !count.is_whole(now);
        self.by_key.retain(|_, count| matters(count));
        self.cells.retain(|_, count| matters(count));
        self.by_group.clear();
        for group in self.by_key.keys().filter_map(Grouped::group) {
            *self.by_group.entry(group).or_default() += 1;
        }
        self.sweep_above = SWEEP_MIN.max(self.by_key.len().saturating_mul(2));
        self.swept = Some(now);
    }
}

/// The store of a keyed limiter.
struct SharedCounts<K> {
    counts: Arc<Counts<K>>,
    quota: Quota,
}

impl<K: Hash + Eq + Clone + Grouped> StateStore for SharedCounts<K> {
    type Key = K;

    fn measure_and_replace<T, F, E>(&self, key: &K, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let now = CallClock::nanos();
        let count = self.counts.get_at(key, now);
        let share = count.share();
        if let Some(share) = share {
            share.set_burst(self.quota.burst_nanos());
        }
        let decided = count.measure_and_replace(decide);
        if let (Err(_), Some(share)) = (&decided, share) {
            share.on_refused(nanos(self.quota.interval()), now);
        }
        decided
    }
}

/// A quota of each key.
pub struct KeyedLimiter<K: Hash + Eq + Clone + Grouped> {
    governor: RateLimiter<K, SharedCounts<K>, CallClock, NoOpMiddleware<Nanos>>,
    counts: Arc<Counts<K>>,
    quota: Quota,
}

impl<K: Hash + Eq + Clone + Grouped> KeyedLimiter<K> {
    /// Creates a limiter over counts that may have been used with another quota.
    pub fn over(counts: Arc<Counts<K>>, quota: Quota) -> Self {
        let store = SharedCounts { counts: Arc::clone(&counts), quota };
        Self { governor: governor_of(quota, store), counts, quota }
    }

    /// Takes one cell of a key's quota.
    ///
    /// # Errors
    /// If no cell is available. Nothing is taken then.
    pub fn check(&self, key: &K, now: Instant) -> Result<(), NotUntil> {
        CallClock::set(now);
        self.governor.check_key(key).map_err(|refused| not_until(&refused, now))
    }

    /// Whether [`KeyedLimiter::check`] would refuse a cell of a key's quota only because this node awaits a greater share
    /// of it. It does so for a few seconds at most.
    pub fn awaits_share(&self, key: &K, now: Instant) -> bool {
        if self.counts.scope.is_none() {
            return false;
        }
        let (count, now, cost) = (self.counts.get(key, now), nanos_at(now), nanos(self.quota.interval()));
        let Some(share) = count.share() else { return false };
        let tolerance = self.quota.burst_nanos().saturating_sub(cost);
        if share.arrival().load(Ordering::Relaxed) <= now.saturating_add(tolerance) {
            return false;
        }
        share.on_refused(cost, now);
        share.is_pending(cost, now)
    }
}

impl<K: Hash + Eq + Clone + Grouped> fmt::Debug for KeyedLimiter<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyedLimiter").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
