//! Tests of `quota`, in virtual time and on threads.

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
fn waiters_are_served_in_turn() {
    let start = Instant::now();
    let step = Duration::from_millis(5);
    for burst in [1, 7] {
        let bucket = Bucket::new(quota(200, burst), start);
        for _ in 0..burst {
            assert_eq!(bucket.take_or_wait(start), Ok(start));
        }
        // Each gets a place of its own, one interval after the other, and needs to wake but once.
        for place in 1..=500 {
            assert_eq!(bucket.take_or_wait(start), Ok(start + step * place), "burst {burst}");
        }
        // Who comes later comes after them, and does not get what was promised.
        let later = start + step * 250 + step / 2;
        assert!(bucket.take(later).is_err());
        assert_eq!(bucket.take_or_wait(later), Ok(start + step * 501));
        // When all have had their turn nothing is left over, and nothing is owed.
        let after = start + step * 502;
        assert_eq!(bucket.take(after), Ok(()));
        assert_eq!(bucket.take(after), Err(Exceeded { until: after + step }));
    }
}

#[test]
fn a_place_that_is_given_back_is_the_next_one_to_be_taken() {
    let start = Instant::now();
    let step = Duration::from_millis(100);
    let bucket = Bucket::new(quota(10, 1), start);
    let places = [0, 1, 2].map(|_| bucket.take_or_wait(start).unwrap());
    assert_eq!(places, [start, start + step, start + 2 * step]);
    bucket.give_back();
    assert_eq!(bucket.take_or_wait(start), Ok(start + 2 * step));
    // Whatever goes back, the quota never holds more than its burst.
    (0..10).for_each(|_| bucket.give_back());
    let later = start + Duration::from_secs(1);
    assert_eq!((bucket.take(later), bucket.take(later).is_err()), (Ok(()), true));
}

#[test]
fn waits_are_bounded() {
    let start = Instant::now();
    let bucket = Bucket::new(quota(1, 1), start);
    let places: Vec<_> = (0..1000).map_while(|_| bucket.take_or_wait(start).ok()).collect();
    assert_eq!(places.len(), 61);
    assert_eq!(places.last(), Some(&(start + WAIT_MAX)));
    assert_eq!(bucket.take_or_wait(start), Err(Exceeded { until: start + WAIT_MAX }));
    // What was promised to those who went away is over then.
    let later = start + WAIT_MAX + Duration::from_secs(1);
    assert_eq!(bucket.take_or_wait(later), Ok(later));
    // At a slow rate there is one place to wait for, however far.
    let hour = Duration::from_secs(3600);
    let slow = Bucket::new(Quota { rate: Rate { period: hour, ..quota(1, 1).rate }, ..quota(1, 1) }, start);
    assert_eq!(slow.take_or_wait(start), Ok(start));
    assert_eq!(slow.take_or_wait(start), Ok(start + hour));
    assert_eq!(slow.take_or_wait(start), Err(Exceeded { until: start + hour }));
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
    let buckets = Buckets { max: 2, ..Buckets::<&str>::new(quota(1, 1)) };
    assert!(buckets.get(&"a", start).take(start).is_ok());
    assert!(buckets.get(&"a", start).take(start).is_err());
    assert!(buckets.get(&"b", start).take(start).is_ok());
    // Both are in use, so another one gets a cell, which it may share.
    assert!(buckets.get(&"c", start).take(start).is_ok());
    assert!(buckets.get(&"c", start).take(start).is_err());
    // A second later nobody's bucket tells anything any more, except one that a session holds.
    let later = start + Duration::from_secs(2);
    let held = buckets.get(&"a", later);
    buckets.get(&"e", later);
    let (keys, cells) = {
        let map = lock(&buckets.inner);
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
    let buckets = Buckets { max: 2, ..Buckets::<&str>::new(quota(100, 1)) };
    let known = |key: &'static str| lock(&buckets.inner).by_key.contains_key(key);
    for key in ["a", "b", "c"] {
        assert!(buckets.get(&key, start).take(start).is_ok());
    }
    // All are whole again, but the map was swept for the third just now.
    let soon = start + SWEEP_PAUSE / 2;
    buckets.get(&"c", soon);
    assert!(known("a") && known("b") && !known("c"));
    buckets.get(&"c", start + SWEEP_PAUSE);
    assert!(!known("a") && !known("b") && known("c"));
}

/// How many of so many new keys, each of its own group or of none, pass once after a flood.
fn passed(buckets: &Buckets<(Option<u64>, u64)>, keys: u64, grouped: bool, now: Instant) -> usize {
    let key = |key| (grouped.then_some(1_000_000 + key), key);
    (0..keys).filter(|&n| buckets.get(&key(n), now).take(now).is_ok()).count()
}

/// An IPv6 /48 has as many /64s as there are buckets. All others still find one of their own.
#[test]
fn a_flood_of_one_group_costs_others_nothing() {
    let start = Instant::now();
    let buckets = Buckets::<(Option<u64>, u64)>::new(quota(1, 1));
    for key in 0..2 * BUCKETS_MAX as u64 {
        let _ = buckets.get(&(Some(7), key), start).take(start);
    }
    assert_eq!(lock(&buckets.inner).by_key.len(), BUCKETS_MAX / 2);
    assert_eq!(lock(&buckets.inner).cells.len(), 1);
    assert_eq!(passed(&buckets, 10_000, true, start), 10_000);
    assert_eq!(passed(&buckets, 10_000, false, start), 10_000);
    // The group itself has what one key has.
    assert!(buckets.get(&(Some(7), u64::MAX), start).take(start).is_err());
    let later = start + Duration::from_secs(1);
    assert!(buckets.get(&(Some(7), u64::MAX), later).take(later).is_ok());
}

/// A group that is not the only one to blame for a full map has buckets of its own up to its share.
#[test]
fn a_group_keeps_its_share_of_a_half_full_map() {
    let start = Instant::now();
    let buckets = Buckets { max: 256, ..Buckets::<(Option<u64>, u64)>::new(quota(1, 1)) };
    for key in 0..128 {
        assert!(buckets.get(&(None, key), start).take(start).is_ok());
    }
    for key in 0..10 {
        let _ = buckets.get(&(Some(7), key), start).take(start);
    }
    assert_eq!(lock(&buckets.inner).by_group.get(&7), Some(&4));
}

/// With the map full of keys of no group each further one takes a 4,096th of the cells.
#[test]
fn keys_beyond_the_map_share_many_cells() {
    let start = Instant::now();
    let buckets = Buckets::<(Option<u64>, u64)>::new(quota(1, 1));
    for key in 0..BUCKETS_MAX as u64 {
        assert!(buckets.get(&(None, u64::MAX - key), start).take(start).is_ok());
    }
    // Each cell passes one: of 1,024 keys in 4,096 cells 905 are expected to be the first in theirs, with a standard
    // deviation of 9.
    let passed = passed(&buckets, 1_024, false, start);
    assert!((840..=970).contains(&passed), "{passed}");
    // A flood of any size leaves no more than the cells behind.
    for key in 0..100_000 {
        buckets.get(&(None, 10_000_000 + key), start);
    }
    let map = lock(&buckets.inner);
    assert_eq!(map.by_key.len(), BUCKETS_MAX);
    assert!(map.cells.len() <= usize::from(CELLS));
}

const THREADS: usize = 4;

/// What each of four threads that start together gives.
fn on_threads<T: Send>(run: impl Fn() -> T + Sync) -> Vec<T> {
    let barrier = std::sync::Barrier::new(THREADS);
    let each = || {
        barrier.wait();
        run()
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(each)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn threads_never_share_a_reservation() {
    const EACH: u32 = 2_000;
    let start = Instant::now();
    let step = Duration::from_millis(5);
    let bucket = Bucket::new(quota(200, 1), start);
    let reserved = on_threads(|| (0..EACH).map(|_| bucket.take_or_wait(start)).collect::<Vec<_>>());
    let mut places: Vec<Instant> = reserved.iter().flatten().map(|place| place.unwrap()).collect();
    places.sort_unstable();
    assert_eq!(places.len(), THREADS * EACH as usize);
    assert!(places.iter().zip(0..).all(|(place, number)| *place == start + step * number));
}

#[test]
fn threads_take_no_more_than_a_burst() {
    let start = Instant::now();
    let buckets = Buckets::<&str>::new(quota(1, 100));
    let taken = on_threads(|| (0..1_000).filter(|_| buckets.get(&"k", start).take(start).is_ok()).count());
    assert_eq!(taken.iter().sum::<usize>(), 100);
}

#[test]
fn threads_never_hold_more_slots_than_there_are() {
    use std::sync::atomic::AtomicU32;
    let max = NonZeroU32::new(3).unwrap();
    let (slots, held, most) = (Slots::new(), AtomicU32::new(0), AtomicU32::new(0));
    let taken = on_threads(|| {
        let mut mine = Vec::new();
        for round in 0..5_000_usize {
            if let Some(slot) = slots.take("k", max) {
                most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                mine.push(slot);
            }
            if round % 3 == 0 && !mine.is_empty() {
                // It is counted out before it is given back, so that the count is never too high.
                held.fetch_sub(1, Ordering::SeqCst);
                mine.pop();
            }
        }
        held.fetch_sub(u32::try_from(mine.len()).unwrap(), Ordering::SeqCst);
        mine.clear();
    });
    assert_eq!(taken.len(), THREADS);
    let most = most.into_inner();
    assert!((1..=max.get()).contains(&most), "{most}");
    assert!(lock(&slots.taken).is_empty());
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
