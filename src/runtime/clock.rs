//! Reads the clocks. All other code takes the time from here or as an argument.

use std::time::{Duration, Instant, SystemTime};

use crate::config::BUILT;
use crate::policy::admission::Clocks;

/// Returns the monotonic time.
#[expect(clippy::disallowed_methods, reason = "the only function that reads this clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns `time + span`. A span that overflows `Instant` is halved until it fits.
pub fn after(time: Instant, span: Duration) -> Instant {
    time.checked_add(span).unwrap_or_else(|| after(time, span / 2))
}

/// Reads both clocks. A wall clock that cannot be right reads as `Duration::MAX`, so that every token counts as
/// expired.
pub fn both() -> Clocks {
    Clocks { instant: now(), unix: unix().unwrap_or(Duration::MAX) }
}

/// Returns the time since the Unix epoch; `None` if it is before this version was built and so cannot be right.
#[expect(clippy::disallowed_methods, reason = "the only function that reads this clock")]
pub fn unix() -> Option<Duration> {
    credible(SystemTime::now())
}

fn credible(now: SystemTime) -> Option<Duration> {
    now.duration_since(SystemTime::UNIX_EPOCH).ok().filter(|since| *since >= BUILT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_build_is_rejected() {
        let second = Duration::from_secs(1);
        let at = |unix| credible(SystemTime::UNIX_EPOCH + unix);
        assert_eq!(credible(SystemTime::UNIX_EPOCH - second), None);
        for unix in [Duration::ZERO, second, Duration::from_secs(1_700_000_000), BUILT.saturating_sub(second)] {
            assert_eq!(at(unix), None, "{unix:?}");
        }
        for unix in [BUILT, BUILT + second, 2 * BUILT] {
            assert_eq!(at(unix), Some(unix));
        }
    }

    #[test]
    fn spans_that_overflow_the_clock_are_shortened() {
        let start = now();
        assert_eq!(after(start, Duration::from_secs(1)), start + Duration::from_secs(1));
        let last = after(start, Duration::MAX);
        assert!(last > start && after(last, Duration::MAX) >= last);
    }

    #[test]
    fn this_version_was_built_before_now() {
        assert!(unix().is_some());
    }
}
