//! Tests of the shared clock.

use super::*;

#[test]
fn a_time_in_the_future_is_no_pause() {
    assert_eq!(since(u64::MAX), Duration::ZERO);
    assert!(since(monotonic_nanos()) < Duration::from_secs(3600));
}
