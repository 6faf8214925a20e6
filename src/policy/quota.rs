//! Quotas and slots: how many of something in how much time, and how many at once.

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hash, RandomState};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How many keys of one kind may have a quota of their own. A key takes about 200 bytes, so this is 13 MB at worst.
pub const BUCKETS_MAX: usize = 65_536;
/// How many quotas the keys beyond that share: 0.5 MB at worst.
const CELLS: u16 = 4_096;
/// Once half of the keys are there, a group of keys may have this share of them.
const GROUP_SHARE: usize = 64;
/// How far ahead those who wait for a quota may take from it. It bounds what is lost if they go away meanwhile.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Below this many keys no sweep is worth its time.
const SWEEP_MIN: usize = 1_024;
/// How long no sweep follows another: one looks at every key while all others wait for the map.
const SWEEP_PAUSE: Duration = Duration::from_secs(1);

/// A rate: at most `count` in each `period`, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how much time; never zero.
    pub period: Duration,
}

/// A rate, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many in the long run.
    pub rate: Rate,
    /// How many at once.
    pub burst: NonZeroU32,
}

impl Quota {
    /// The time in which one is given back; at least a nanosecond.
    fn interval(self) -> Duration {
        (self.rate.period / self.rate.count.get()).max(Duration::from_nanos(1))
    }

    /// The time in which an exhausted quota is whole again.
    fn refill(self) -> Duration {
        self.interval().saturating_mul(self.burst.get())
    }
}

/// The quota is used up until this point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exceeded {
    /// When one more will be allowed.
    pub until: Instant,
}

/// What is left of one quota, by the generic cell rate algorithm: all that is kept is the point in time at which the
/// quota would be whole again. Each that is taken moves it by one interval, and it may lie one burst ahead.
///
/// It is no library's, since none hands out a place in the future to who is willing to wait for it.
pub struct Bucket {
    /// When it is whole again, in nanoseconds since `epoch`.
    whole_at: AtomicU64,
    epoch: Instant,
    interval_nanos: u64,
    refill_nanos: u64,
}

impl Bucket {
    /// A quota of which nothing is used yet.
    pub fn new(quota: Quota, now: Instant) -> Self {
        let (interval_nanos, refill_nanos) = (nanos(quota.interval()), nanos(quota.refill()));
        Self { whole_at: AtomicU64::new(0), epoch: now, interval_nanos, refill_nanos }
    }

    /// Takes one out of the quota.
    ///
    /// # Errors
    /// If none is left; then nothing was taken.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        self.take_ahead(0, now).map(drop).map_err(|at| Exceeded { until: at })
    }

    /// Takes one out of the quota, if need be one that is there only later: the point in time from which on what it was
    /// taken for may pass, without asking again. So those who wait for a quota that they share are served in the order
    /// in which they came, and each wakes once. One that is not needed any more goes back by [`Bucket::give_back`].
    ///
    /// # Errors
    /// If so many wait already that there is none for the next minute, nor in the time in which one is given back, if
    /// that is longer; then nothing was taken, and it may be tried again.
    pub fn take_or_wait(&self, now: Instant) -> Result<Instant, Exceeded> {
        let ahead = self.interval_nanos.max(nanos(WAIT_MAX));
        self.take_ahead(ahead, now).map_err(|_| Exceeded { until: later(now, ahead) })
    }

    /// Gives back one that was taken and not used. Those that others have taken for later stay where they are, so that the
    /// next one to be taken may be there at the same time as the last of them.
    pub fn give_back(&self) {
        let back = |whole_at: u64| Some(whole_at.saturating_sub(self.interval_nanos));
        // The update is never refused.
        let _ = self.whole_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, back);
    }

    /// Takes one that is there at most so far ahead: from when on it is, and the same for one that is too far ahead.
    fn take_ahead(&self, ahead_nanos: u64, now: Instant) -> Result<Instant, Instant> {
        let now_nanos = nanos(now.saturating_duration_since(self.epoch));
        let next = |whole_at: u64| whole_at.max(now_nanos).saturating_add(self.interval_nanos);
        let there_at = |whole_at: u64| next(whole_at).saturating_sub(self.refill_nanos);
        let latest = now_nanos.saturating_add(ahead_nanos);
        let taken = self.whole_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |whole_at| {
            (there_at(whole_at) <= latest).then(|| next(whole_at))
        });
        let instant = |whole_at| now.max(later(self.epoch, there_at(whole_at)));
        taken.map(instant).map_err(instant)
    }

    /// Whether it is whole again, so that a new one would do as well.
    fn is_whole(&self, now: Instant) -> bool {
        nanos(now.saturating_duration_since(self.epoch)) >= self.whole_at.load(Ordering::Relaxed)
    }
}

/// More than five centuries are as good as for ever.
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

/// The time after `at`; `at` itself if no `Instant` can hold it, which is centuries ahead.
fn later(at: Instant, nanos: u64) -> Instant {
    at.checked_add(Duration::from_nanos(nanos)).unwrap_or(at)
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("refill_nanos", &self.refill_nanos).finish_non_exhaustive()
    }
}

/// A key of a quota.
pub trait Grouped {
    /// What one client can have many such keys of. Keys without a group are each for itself.
    fn group(&self) -> Option<u64>;
}

/// One bucket for each key, as long as it tells more than a new one would. The number of keys is bounded, and a flood of
/// keys costs neither memory nor, as there is a sweep at most once a second, much time.
///
/// From half of that number on a group gets no further buckets once it has a 64th of all. A key that gets none shares one of
/// 4,096 cells, which a keyed hash chooses: of its group, or else of itself. So a flood of one group costs one cell, and each
/// key of any other flood a 4,096th of the keys that come after it.
#[derive(Debug)]
pub struct Buckets<K> {
    quota: Quota,
    inner: Mutex<BucketMap<K>>,
    max: usize,
    hasher: RandomState,
}

#[derive(Debug)]
struct BucketMap<K> {
    by_key: HashMap<K, Arc<Bucket>>,
    /// How many of the keys each group has.
    by_group: HashMap<u64, usize>,
    /// Above this many keys the next new one sweeps first.
    sweep_above: usize,
    swept: Option<Instant>,
    /// Those of the cells that were used.
    cells: HashMap<u16, Arc<Bucket>>,
}

impl<K: Hash + Eq + Clone + Grouped> Buckets<K> {
    /// No key has used anything yet.
    pub fn new(quota: Quota) -> Self {
        let map = BucketMap {
            by_key: HashMap::new(),
            by_group: HashMap::new(),
            sweep_above: SWEEP_MIN,
            swept: None,
            cells: HashMap::new(),
        };
        Self { quota, inner: Mutex::new(map), max: BUCKETS_MAX, hasher: RandomState::new() }
    }

    /// The bucket of a key.
    pub fn get(&self, key: &K, now: Instant) -> Arc<Bucket> {
        let mut map = lock(&self.inner);
        if let Some(bucket) = map.by_key.get(key) {
            return Arc::clone(bucket);
        }
        let group = key.group();
        let rested = map.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_PAUSE);
        if rested && (map.by_key.len() >= map.sweep_above || self.is_full(&map, group)) {
            map.sweep(now);
        }
        if self.is_full(&map, group) {
            let hash = group.map_or_else(|| self.hasher.hash_one(key), |group| self.hasher.hash_one(group));
            let cell = u16::try_from(hash % u64::from(CELLS)).unwrap_or_default();
            return Arc::clone(map.cells.entry(cell).or_insert_with(|| Arc::new(Bucket::new(self.quota, now))));
        }
        let bucket = Arc::new(Bucket::new(self.quota, now));
        map.by_key.insert(key.clone(), Arc::clone(&bucket));
        if let Some(group) = group {
            *map.by_group.entry(group).or_default() += 1;
        }
        bucket
    }

    /// Whether no bucket is left for a new key of this group.
    fn is_full(&self, map: &BucketMap<K>, group: Option<u64>) -> bool {
        let of_group = group.and_then(|group| map.by_group.get(&group)).copied().unwrap_or_default();
        let len = map.by_key.len();
        len >= self.max || len >= self.max / 2 && of_group >= (self.max / GROUP_SHARE).max(1)
    }
}

impl<K: Hash + Eq + Grouped> BucketMap<K> {
    /// Forgets every bucket that is whole and that nothing holds.
    fn sweep(&mut self, now: Instant) {
        let tells = |bucket: &Arc<Bucket>| Arc::strong_count(bucket) > 1 || !bucket.is_whole(now);
        self.by_key.retain(|_, bucket| tells(bucket));
        self.cells.retain(|_, bucket| tells(bucket));
        self.by_group.clear();
        for group in self.by_key.keys().filter_map(Grouped::group) {
            *self.by_group.entry(group).or_default() += 1;
        }
        self.sweep_above = SWEEP_MIN.max(self.by_key.len().saturating_mul(2));
        self.swept = Some(now);
    }
}

/// Counts how many of each key there are at once.
#[derive(Debug)]
pub struct Slots<K> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of a key's slots; dropping it gives it back.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// All free.
    pub fn new() -> Self {
        Self { taken: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Takes one of the `max` slots of a key, if one is free.
    pub fn take(&self, key: K, max: NonZeroU32) -> Option<Slot<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(key.clone()).or_insert(0);
        if *count >= max.get() {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Slot { taken: Arc::clone(&self.taken), key })
    }
}

impl<K: Hash + Eq + Clone> Default for Slots<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// The maps are whole after every step, so a panic of another holder leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
