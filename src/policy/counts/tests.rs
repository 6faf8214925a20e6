//! Tests of `counts`: bounds, sweeps, floods and threads.

use std::time::Duration;

use super::*;
use crate::policy::quota::tests::{on_threads, quota};

fn keyed<K: Hash + Eq + Clone + Grouped>(counts: Counts<K>, quota: Quota) -> (Arc<Counts<K>>, KeyedLimiter<K>) {
    let counts = Arc::new(counts);
    (Arc::clone(&counts), KeyedLimiter::over(counts, quota))
}

impl Grouped for &str {
    fn group(&self) -> Option<u64> {
        None
    }
}

/// A group, and a key in it.
impl Grouped for (Option<u64>, u64) {
    fn group(&self) -> Option<u64> {
        self.0
    }
}

#[test]
fn keys_are_bounded_and_swept() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts { max: 2, ..Counts::<&str>::new() }, quota(1, 1));
    assert!(limiter.check(&"a", start).is_ok());
    assert!(limiter.check(&"a", start).is_err());
    assert!(limiter.check(&"b", start).is_ok());
    // Both counts are in use, so another key gets a cell, which it may share.
    assert!(limiter.check(&"c", start).is_ok());
    assert!(limiter.check(&"c", start).is_err());
    // Two seconds later every count is fully replenished, and only one that a session holds is kept.
    let later = start + Duration::from_secs(2);
    let held = counts.get(&"a", later);
    counts.get(&"e", later);
    let (keys, cells) = {
        let map = counts.lock();
        let mut keys: Vec<_> = map.by_key.keys().copied().collect();
        keys.sort_unstable();
        (keys, map.cells.len())
    };
    assert_eq!((keys.as_slice(), cells), (&["a", "e"][..], 0));
    drop(held);
}

#[test]
fn a_full_map_is_swept_once_a_second() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts { max: 2, ..Counts::<&str>::new() }, quota(100, 1));
    let known = |key: &'static str| counts.lock().by_key.contains_key(key);
    for key in ["a", "b", "c"] {
        assert!(limiter.check(&key, start).is_ok());
    }
    // All counts are replenished, but the third key has just caused a sweep.
    let soon = start + Duration::from_nanos(SWEEP_PAUSE_NANOS) / 2;
    counts.get(&"c", soon);
    assert!(known("a") && known("b") && !known("c"));
    counts.get(&"c", start + Duration::from_nanos(SWEEP_PAUSE_NANOS));
    assert!(!known("a") && !known("b") && known("c"));
}

/// Returns how many of `keys` new keys, each of its own group or of none, pass once after a flood.
fn passed(limiter: &KeyedLimiter<(Option<u64>, u64)>, keys: u64, grouped: bool, now: Instant) -> usize {
    let key = |key| (grouped.then_some(1_000_000 + key), key);
    (0..keys).filter(|&n| limiter.check(&key(n), now).is_ok()).count()
}

/// An IPv6 /48 has as many /64s as there are counts. Every other key still gets a count of its own.
#[test]
fn a_flood_of_one_group_does_not_affect_other_keys() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts::<(Option<u64>, u64)>::new(), quota(1, 1));
    for key in 0..2 * KEYS_MAX as u64 {
        let _ = limiter.check(&(Some(7), key), start);
    }
    assert_eq!(counts.lock().by_key.len(), KEYS_MAX / 2);
    assert_eq!(counts.lock().cells.len(), 1);
    assert_eq!(passed(&limiter, 10_000, true, start), 10_000);
    assert_eq!(passed(&limiter, 10_000, false, start), 10_000);
    // The group itself shares the quota of one key.
    assert!(limiter.check(&(Some(7), u64::MAX), start).is_err());
    let later = start + Duration::from_secs(1);
    assert!(limiter.check(&(Some(7), u64::MAX), later).is_ok());
}

/// A group has counts of its own up to its share of a map that other keys fill.
#[test]
fn a_group_keeps_its_share_of_a_half_full_map() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts { max: 256, ..Counts::<(Option<u64>, u64)>::new() }, quota(1, 1));
    for key in 0..128 {
        assert!(limiter.check(&(None, key), start).is_ok());
    }
    for key in 0..10 {
        let _ = limiter.check(&(Some(7), key), start);
    }
    assert_eq!(counts.lock().by_group.get(&7), Some(&4));
}

/// If the map is full of keys without a group, each further key uses one of 4,096 cells.
#[test]
fn keys_beyond_the_map_share_many_cells() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts::<(Option<u64>, u64)>::new(), quota(1, 1));
    for key in 0..KEYS_MAX as u64 {
        assert!(limiter.check(&(None, u64::MAX - key), start).is_ok());
    }
    // Each cell admits one key: of 1,024 keys in 4,096 cells 905 are expected to be the first in theirs, with a
    // standard deviation of 9.
    let passed = passed(&limiter, 1_024, false, start);
    assert!((840..=970).contains(&passed), "{passed}");
    // A flood of any size adds no more than the cells.
    for key in 0..100_000 {
        counts.get(&(None, 10_000_000 + key), start);
    }
    let map = counts.lock();
    assert_eq!(map.by_key.len(), KEYS_MAX);
    assert!(map.cells.len() <= usize::from(CELLS));
}

#[test]
fn threads_take_no_more_than_a_burst() {
    let start = Instant::now();
    let (_, limiter) = keyed(Counts::<&str>::new(), quota(1, 100));
    let taken = on_threads(|| (0..1_000).filter(|_| limiter.check(&"k", start).is_ok()).count());
    assert_eq!(taken.iter().sum::<usize>(), 100);
}

#[test]
fn a_quota_is_replaced_over_its_counts() {
    let start = Instant::now();
    let (counts, limiter) = keyed(Counts::<&str>::new(), quota(1, 3));
    (0..3).for_each(|_| limiter.check(&"a", start).unwrap());
    let replaced = KeyedLimiter::over(counts, quota(1, 2));
    assert!(replaced.check(&"a", start).is_err());
    assert!(replaced.check(&"b", start).is_ok());
}
