//! Limits one kind of log lines about the server to one in an interval, and counts the lines that are left out.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The limit of one kind of log lines.
#[derive(Debug)]
pub(super) struct LogLimit {
    interval: Duration,
    /// When the last line was written, and the number of lines that were left out since then.
    last: Mutex<(Option<Instant>, u64)>,
}

impl LogLimit {
    /// Creates a limit of one line in an interval.
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, last: Mutex::default() }
    }

    /// Returns the number of lines that were left out before this one if it may be written; otherwise counts it as left out.
    pub(super) fn may_write(&self, now: Instant) -> Option<u64> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, left_out) = &mut *last;
        if written.is_some_and(|at| now.saturating_duration_since(at) < self.interval) {
            *left_out = left_out.saturating_add(1);
            return None;
        }
        *written = Some(now);
        Some(std::mem::take(left_out))
    }

    /// Lets the next line be written.
    pub(super) fn reset(&self) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_an_interval_is_written() {
        let (limit, start) = (LogLimit::new(Duration::from_secs(10)), Instant::now());
        let at = |secs| start.checked_add(Duration::from_secs(secs)).unwrap();
        let written = [0, 1, 9, 10, 11, 30].map(|secs| limit.may_write(at(secs)));
        assert_eq!(written, [Some(0), None, None, Some(2), None, Some(1)]);
        limit.reset();
        assert_eq!(limit.may_write(at(31)), Some(0));
    }
}
