//! When a certificate is renewed, and when an order that failed is repeated.

use std::time::Duration;

/// The share of the lifetime that is left at the renewal is one of this number.
const LEFT_SHARE: u32 = 3;
/// The renewal is earlier by a random time of at most one of this number of the lifetime, so that certificates that
/// were ordered together are not renewed together.
const JITTER_SHARE: u32 = 30;
/// The maximum pause after the first failure. It doubles with each further one.
const PAUSE_FIRST: Duration = Duration::from_mins(1);
/// The maximum pause.
const PAUSE_MAX: Duration = Duration::from_hours(1);
/// The minimum pause.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest time that a certificate authority can demand to wait.
pub const RETRY_AFTER_MAX: Duration = Duration::from_hours(24);

/// Returns when a certificate with this validity is renewed, as time since the Unix epoch: when a third of its lifetime
/// is left, or up to a thirtieth earlier.
pub fn renewal(not_before: Duration, not_after: Duration, random: u64) -> Duration {
    let lifetime = not_after.saturating_sub(not_before);
    not_after.saturating_sub(lifetime / LEFT_SHARE).saturating_sub(share(lifetime / JITTER_SHARE, random))
}

/// Returns the pause after this number of consecutive failures: a random time up to a maximum that doubles with each
/// (full jitter), and at least what the certificate authority demands.
pub fn pause(failures: u32, retry_after: Option<Duration>, random: u64) -> Duration {
    let doublings = failures.saturating_sub(1).min(u32::BITS - 1);
    let max = PAUSE_FIRST.saturating_mul(1 << doublings).min(PAUSE_MAX);
    let demanded = retry_after.unwrap_or_default().min(RETRY_AFTER_MAX);
    share(max, random).max(PAUSE_MIN).max(demanded)
}

/// Returns a share of a span: none for 0, and nearly all for `u64::MAX`.
fn share(span: Duration, random: u64) -> Duration {
    let nanos = span.as_nanos().saturating_mul(u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const HALF: u64 = 1 << 63;

    #[test]
    fn a_third_of_the_lifetime_is_left_at_the_renewal() {
        let table = [
            // Lifetime, random, left at the renewal.
            (90 * DAY, 0, 30 * DAY),
            (90 * DAY, HALF, 30 * DAY + 3 * DAY / 2),
            (90 * DAY, u64::MAX, 33 * DAY),
            (6 * DAY, 0, 2 * DAY),
            (Duration::from_secs(60), 0, Duration::from_secs(20)),
            (Duration::ZERO, u64::MAX, Duration::ZERO),
        ];
        for (lifetime, random, left) in table {
            let end = 20_000 * DAY;
            let found = end.saturating_sub(renewal(end.saturating_sub(lifetime), end, random));
            assert!(found.abs_diff(left) <= Duration::from_nanos(1), "{lifetime:?} {random}: {found:?}");
        }
        // The end is before the start.
        assert!(renewal(DAY, Duration::ZERO, u64::MAX).is_zero());
    }

    #[test]
    fn pauses_double_with_full_jitter_and_respect_retry_after() {
        let minutes = Duration::from_mins;
        let almost = |pause: Duration, max: Duration| max.abs_diff(pause) <= Duration::from_nanos(1);
        for (failures, max) in [(0, 1), (1, 1), (2, 2), (3, 4), (6, 32), (7, 60), (40, 60), (u32::MAX, 60)] {
            assert!(almost(pause(failures, None, u64::MAX), minutes(max)), "{failures}");
            assert_eq!(pause(failures, None, HALF), minutes(max) / 2, "{failures}");
            assert_eq!(pause(failures, None, 0), PAUSE_MIN);
        }
        assert_eq!(pause(1, Some(minutes(5)), u64::MAX), minutes(5));
        assert!(almost(pause(7, Some(minutes(5)), u64::MAX), minutes(60)));
        assert_eq!(pause(1, Some(Duration::MAX), 0), RETRY_AFTER_MAX);
    }
}
