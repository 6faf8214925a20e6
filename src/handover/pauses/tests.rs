//! Tests of the pauses.

use super::*;

#[test]
fn percentiles_are_of_all_pauses() {
    let mut pauses = Pauses::default();
    assert_eq!((pauses.percentile(50), pauses.longest()), (Duration::ZERO, Duration::ZERO));
    (1..=200).rev().for_each(|millis| pauses.add(Duration::from_millis(millis)));
    let millis = [0, 50, 99, 100, 250].map(|percent| pauses.percentile(percent).as_millis());
    assert_eq!(millis, [1, 100, 198, 200, 200]);
    assert_eq!(pauses.longest(), Duration::from_millis(200));
}

#[test]
fn a_time_in_the_future_is_no_pause() {
    assert_eq!(since(u64::MAX), Duration::ZERO);
    assert!(since(monotonic_nanos()) < Duration::from_secs(3600));
}
