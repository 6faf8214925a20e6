//! Times as the server has them: whole milliseconds.

use std::time::Duration;

use crate::runtime::entropy::random;

/// Returns the milliseconds of a span.
pub(super) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

/// Returns the span of this many milliseconds.
pub(super) fn of_millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Returns a random part of a span, so that nodes do not act at the same time.
pub(super) fn random_part(span: Duration) -> Duration {
    span.mul_f64(f64::from(u32::from_be_bytes(random())) / f64::from(u32::MAX))
}
