//! Quotas and slots: how many of something in how much time, and how many at once.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};

/// How many keys of one kind may have a quota of their own. A key takes about 200 bytes, so this is 13 MB at worst.
pub const BUCKETS_MAX: usize = 65_536;
/// Below this many keys no sweep is worth its time.
const SWEEP_MIN: usize = 1_024;

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

/// What is left of one quota. It is governor's, on a clock that shows what the caller says.
pub struct Bucket {
    limiter: governor::RateLimiter<NotKeyed, InMemoryState, Hand, NoOpMiddleware<Nanos>>,
    /// The point in time that the clock shows as zero.
    epoch: Instant,
    refill: Duration,
}

/// A clock that shows the latest time anyone told it.
struct Hand(AtomicU64);

impl Clock for Hand {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        self.0.load(Ordering::Relaxed).into()
    }
}

impl Bucket {
    /// A quota of which nothing is used yet.
    pub fn new(quota: Quota, now: Instant) -> Self {
        let rate = governor::Quota::with_period(quota.interval())
            .unwrap_or_else(|| governor::Quota::per_second(quota.rate.count))
            .allow_burst(quota.burst);
        let limiter = governor::RateLimiter::direct_with_clock(rate, Hand(AtomicU64::new(0)));
        Self { limiter, epoch: now, refill: quota.refill() }
    }

    /// Takes one out of the quota.
    ///
    /// # Errors
    /// If none is left; then nothing was taken.
    pub fn take(&self, now: Instant) -> Result<(), Exceeded> {
        let since_epoch = now.saturating_duration_since(self.epoch);
        let nanos = u64::try_from(since_epoch.as_nanos()).unwrap_or(u64::MAX);
        self.limiter.clock().0.fetch_max(nanos, Ordering::Relaxed);
        self.limiter.check().map_err(|not_until| {
            let until: Duration = not_until.earliest_possible().into();
            Exceeded { until: self.epoch + until }
        })
    }

    /// Whether it is whole again, so that a new one would do as well.
    fn is_whole(&self, now: Instant) -> bool {
        let last_used: Duration = self.limiter.clock().now().into();
        now.saturating_duration_since(self.epoch) >= last_used.saturating_add(self.refill)
    }
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bucket").field("refill", &self.refill).finish_non_exhaustive()
    }
}

/// One bucket for each key, as long as it tells more than a new one would. The number of keys is bounded: beyond it all
/// new keys share one bucket, so that a flood of keys costs those who flood, and not memory.
#[derive(Debug)]
pub struct Buckets<K> {
    quota: Quota,
    inner: Mutex<BucketMap<K>>,
    max: usize,
}

#[derive(Debug)]
struct BucketMap<K> {
    by_key: HashMap<K, Arc<Bucket>>,
    /// Above this many keys the next new one sweeps first.
    sweep_above: usize,
    overflow: Option<Arc<Bucket>>,
}

impl<K: Hash + Eq> Buckets<K> {
    /// No key has used anything yet.
    pub fn new(quota: Quota) -> Self {
        let map = BucketMap { by_key: HashMap::new(), sweep_above: SWEEP_MIN, overflow: None };
        Self { quota, inner: Mutex::new(map), max: BUCKETS_MAX }
    }

    /// The bucket of a key.
    pub fn get<Q>(&self, key: &Q, now: Instant) -> Arc<Bucket>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ToOwned<Owned = K> + ?Sized,
    {
        let mut map = lock(&self.inner);
        if let Some(bucket) = map.by_key.get(key) {
            return Arc::clone(bucket);
        }
        if map.by_key.len() >= map.sweep_above.min(self.max) {
            map.by_key.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_whole(now));
            map.sweep_above = SWEEP_MIN.max(map.by_key.len() * 2);
        }
        if map.by_key.len() >= self.max {
            return Arc::clone(map.overflow.get_or_insert_with(|| Arc::new(Bucket::new(self.quota, now))));
        }
        let bucket = Arc::new(Bucket::new(self.quota, now));
        map.by_key.insert(key.to_owned(), Arc::clone(&bucket));
        bucket
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
mod tests {
    use super::*;

    fn quota(count: u32, burst: u32) -> Quota {
        let rate = Rate { count: NonZeroU32::new(count).unwrap(), period: Duration::from_secs(1) };
        Quota { rate, burst: NonZeroU32::new(burst).unwrap() }
    }

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let start = Instant::now();
        let bucket = Bucket::new(quota(10, 3), start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        let tenth = Duration::from_millis(100);
        assert_eq!(bucket.take(start), Err(Exceeded { until: start + tenth }));
        assert_eq!(bucket.take(start + tenth), Ok(()));
        assert!(bucket.take(start + tenth).is_err());
        let later = start + Duration::from_secs(60);
        assert_eq!((0..10).filter(|_| bucket.take(later).is_ok()).count(), 3);
    }

    #[test]
    fn time_never_goes_back() {
        let start = Instant::now();
        let bucket = Bucket::new(quota(1, 1), start + Duration::from_secs(5));
        assert_eq!(bucket.take(start), Ok(()));
        assert!(bucket.take(start + Duration::from_secs(5)).is_err());
    }

    #[test]
    fn keys_are_bounded_and_swept() {
        let start = Instant::now();
        let buckets = Buckets { max: 2, ..Buckets::<String>::new(quota(1, 1)) };
        assert!(buckets.get("a", start).take(start).is_ok());
        assert!(buckets.get("a", start).take(start).is_err());
        assert!(buckets.get("b", start).take(start).is_ok());
        // Both are in use, so the two others share a bucket.
        assert!(buckets.get("c", start).take(start).is_ok());
        assert!(buckets.get("d", start).take(start).is_err());
        // A second later nobody's bucket tells anything any more, except one that a session holds.
        let later = start + Duration::from_secs(2);
        let held = buckets.get("a", later);
        buckets.get("e", later);
        let keys: Vec<String> = {
            let map = lock(&buckets.inner);
            let mut keys: Vec<_> = map.by_key.keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(keys, ["a", "e"]);
        drop(held);
    }

    #[test]
    fn slots_come_back() {
        let slots = Slots::new();
        let max = NonZeroU32::new(2).unwrap();
        let first = slots.take("k", max);
        let second = slots.take("k", max);
        assert!(first.is_some() && second.is_some());
        assert!(slots.take("k", max).is_none());
        assert!(slots.take("other", max).is_some());
        drop(first);
        assert!(slots.take("k", max).is_some());
        drop(second);
        assert!(lock(&slots.taken).is_empty());
    }
}
