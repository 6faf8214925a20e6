//! Tests of `quota`, in virtual time and on threads.

use super::*;

pub(crate) fn quota(count: u32, burst: u32) -> Quota {
    let rate = Rate { count: NonZeroU32::new(count).unwrap(), period: Duration::from_secs(1) };
    Quota { rate, burst: NonZeroU32::new(burst).unwrap() }
}

#[test]
fn a_burst_passes_and_then_the_rate() {
    let start = Instant::now();
    let limiter = Limiter::new(quota(10, 3));
    for _ in 0..3 {
        assert_eq!(limiter.check(start), Ok(()));
    }
    let tenth = Duration::from_millis(100);
    assert_eq!(limiter.check(start), Err(NotUntil { until: start + tenth }));
    assert_eq!(limiter.check(start + tenth), Ok(()));
    assert!(limiter.check(start + tenth).is_err());
    let later = start + Duration::from_secs(60);
    assert_eq!((0..10).filter(|_| limiter.check(later).is_ok()).count(), 3);
}

#[test]
fn an_earlier_time_gains_nothing() {
    let start = Instant::now();
    let limiter = Limiter::new(quota(1, 1));
    assert_eq!(limiter.check(start + Duration::from_secs(5)), Ok(()));
    assert_eq!(limiter.check(start), Err(NotUntil { until: start + Duration::from_secs(6) }));
    // A time before the epoch of the process is valid, too.
    let before = start.checked_sub(Duration::from_secs(3_600)).unwrap();
    let limiter = Limiter::new(quota(1, 1));
    assert_eq!((limiter.check(before), limiter.check(start)), (Ok(()), Ok(())));
}

#[test]
fn reservations_are_distinct_and_in_order() {
    let start = Instant::now();
    let step = Duration::from_millis(5);
    for burst in [1, 7] {
        let limiter = Limiter::new(quota(200, burst));
        for _ in 0..burst {
            assert_eq!(limiter.reserve(start), Ok(start));
        }
        // Each call gets an instant of its own, one interval after the other.
        for index in 1..=500 {
            assert_eq!(limiter.reserve(start), Ok(start + step * index), "burst {burst}");
        }
        // A later call gets a later instant, and does not take a reserved cell.
        let later = start + step * 250 + step / 2;
        assert!(limiter.check(later).is_err());
        assert_eq!(limiter.reserve(later), Ok(start + step * 501));
        // After the last reservation the quota is neither exceeded nor saved up.
        let after = start + step * 502;
        assert_eq!(limiter.check(after), Ok(()));
        assert_eq!(limiter.check(after), Err(NotUntil { until: after + step }));
    }
}

#[test]
fn a_refunded_cell_is_the_next_one_to_be_taken() {
    let start = Instant::now();
    let step = Duration::from_millis(100);
    let limiter = Limiter::new(quota(10, 1));
    let reserved = [0, 1, 2].map(|_| limiter.reserve(start).unwrap());
    assert_eq!(reserved, [start, start + step, start + 2 * step]);
    limiter.refund();
    assert_eq!(limiter.reserve(start), Ok(start + 2 * step));
    // After any number of refunds the quota holds at most its burst.
    (0..10).for_each(|_| limiter.refund());
    let later = start + Duration::from_secs(1);
    assert_eq!((limiter.check(later), limiter.check(later).is_err()), (Ok(()), true));
}

#[test]
fn reservations_are_bounded() {
    let start = Instant::now();
    let limiter = Limiter::new(quota(1, 1));
    let reserved: Vec<_> = (0..1000).map_while(|_| limiter.reserve(start).ok()).collect();
    assert_eq!(reserved.len(), 61);
    assert_eq!(reserved.last(), Some(&(start + Duration::from_mins(1))));
    assert_eq!(limiter.reserve(start), Err(NotUntil { until: start + Duration::from_mins(1) }));
    // Reservations that were not used expire.
    let later = start + Duration::from_mins(1) + Duration::from_secs(1);
    assert_eq!(limiter.reserve(later), Ok(later));
    // At a slow rate one cell can be reserved, however far ahead.
    let hour = Duration::from_secs(3600);
    let slow = Limiter::new(Quota { rate: Rate { period: hour, ..quota(1, 1).rate }, ..quota(1, 1) });
    assert_eq!(slow.reserve(start), Ok(start));
    assert_eq!(slow.reserve(start), Ok(start + hour));
    assert_eq!(slow.reserve(start), Err(NotUntil { until: start + hour }));
}

const THREADS: usize = 4;

/// Returns the results of four threads that start together.
pub(crate) fn on_threads<T: Send>(run: impl Fn() -> T + Sync) -> Vec<T> {
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
    let limiter = Limiter::new(quota(200, 1));
    let reserved = on_threads(|| (0..EACH).map(|_| limiter.reserve(start).unwrap()).collect::<Vec<_>>());
    let mut reserved: Vec<Instant> = reserved.into_iter().flatten().collect();
    reserved.sort_unstable();
    assert_eq!(reserved.len(), THREADS * EACH as usize);
    assert!(reserved.iter().zip(0..).all(|(at, number)| *at == start + step * number));
}

#[test]
fn a_quota_is_replaced_over_its_count() {
    let start = Instant::now();
    let limiter = Limiter::new(quota(1, 10));
    (0..10).for_each(|_| limiter.check(start).unwrap());
    // The new quota has the same rate and half the burst: the cells that were used count.
    let smaller = Limiter::over(Arc::clone(limiter.count()), quota(1, 5));
    assert_eq!(smaller.check(start), Err(NotUntil { until: start + Duration::from_secs(6) }));
    // A limiter of the old quota that a session still holds shares the count.
    let later = start + Duration::from_secs(6);
    limiter.check(later).unwrap();
    assert!(smaller.check(later).is_err());
    let faster = Limiter::over(Arc::clone(limiter.count()), quota(1_000, 12_000));
    assert_eq!(faster.check(later), Ok(()));
}

#[test]
fn an_imported_count_decides_like_the_exported_one() {
    let start = Instant::now();
    let limiter = Limiter::new(quota(10, 3));
    let fresh = LocalCount::import(limiter.count().export(start), start);
    assert_eq!(LocalLimiter::new(quota(10, 3), fresh).check(start), Ok(()));
    for step in 0..50_u64 {
        let now = start + Duration::from_millis(37 * step);
        let imported = Count::import(limiter.count().export(now), now);
        let copy = Limiter::over(Arc::new(imported), quota(10, 3));
        assert_eq!(copy.check(now), limiter.check(now), "step {step}");
        assert_eq!(copy.reserve(now), limiter.reserve(now), "step {step}");
    }
}

#[test]
fn quotas_of_any_size_do_not_overflow() {
    let start = Instant::now();
    for period in [Duration::from_nanos(1), Duration::MAX] {
        for (count, burst) in [(1, 1), (1, u32::MAX), (u32::MAX, 1), (u32::MAX, u32::MAX)] {
            let rate = Rate { period, ..quota(count, 1).rate };
            let limiter = Limiter::new(Quota { rate, ..quota(1, burst) });
            for _ in 0..100 {
                let _ = (limiter.check(start), limiter.reserve(start));
            }
        }
    }
}
