//! The only place that reads the clocks; everything else is told the time.

use std::time::{Duration, Instant, SystemTime};

use crate::config::BUILT;
use crate::policy::admission::Clocks;

/// Monotonic time.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
pub fn now() -> Instant {
    Instant::now()
}

/// The time so long after another one, or as far as the clock goes.
pub fn after(time: Instant, span: Duration) -> Instant {
    time.checked_add(span).unwrap_or_else(|| after(time, span / 2))
}

/// Both clocks. While the wall clock cannot be right it is at the end of time, so that every token counts as expired.
pub fn both() -> Clocks {
    Clocks { instant: now(), unix: unix().unwrap_or(Duration::MAX) }
}

/// The time since the Unix epoch; `None` if it is before this version was made, and so cannot be right.
#[expect(clippy::disallowed_methods, reason = "this is the one place")]
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
    fn a_clock_before_the_build_is_not_believed() {
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
    fn no_span_goes_beyond_the_end_of_the_clock() {
        let start = now();
        assert_eq!(after(start, Duration::from_secs(1)), start + Duration::from_secs(1));
        let last = after(start, Duration::MAX);
        assert!(last > start && after(last, Duration::MAX) >= last);
    }

    #[test]
    fn this_version_was_made_before_now() {
        assert!(unix().is_some());
    }
}
