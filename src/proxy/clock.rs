//! The only place that reads the clocks; everything else is told the time.

use std::time::{Duration, Instant, SystemTime};

use crate::policy::admission::Now;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// Both clocks.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn both() -> Now {
    // A clock before 1970 lets no token pass as expired by mistake: it makes every `exp` lie far ahead, and every
    // `nbf` too, so that tokens with either are judged as they would be in 1970.
    let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    Now { instant: Instant::now(), unix }
}

/// The time so long after another one, or as far as the clock goes.
pub fn after(time: Instant, span: Duration) -> Instant {
    time.checked_add(span).unwrap_or_else(|| after(time, span / 2))
}
