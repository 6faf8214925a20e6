//! Passive health of one server: whether it failed recently, and what the log has reported of that.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The time for which a server that accepted no connection is tried last. Then one request tries it again.
pub const SKIP_FOR: Duration = Duration::from_secs(5);

/// Whether a server failed lately.
#[derive(Debug, Default)]
pub struct Health {
    /// Until when it is passed over, in milliseconds of the pool's clock; 0: it is not.
    skip_until_ms: AtomicU64,
    /// Its last failure was logged, and no recovery since.
    failing: AtomicBool,
    /// Requests that it failed since.
    failures: AtomicU64,
}

impl Health {
    /// Whether to try it now. Of those that come after it was passed over for a while one gets to try; the others pass it
    /// over until that one has an answer.
    pub fn is_due(&self, now_ms: u64) -> bool {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        until == 0
            || (now_ms >= until
                && self
                    .skip_until_ms
                    .compare_exchange(until, skip_until(now_ms), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok())
    }

    /// It took no connection.
    pub fn skip(&self, now_ms: u64) {
        self.skip_until_ms.store(skip_until(now_ms), Ordering::Relaxed);
    }

    /// It took one.
    pub fn connected(&self) {
        self.skip_until_ms.store(0, Ordering::Relaxed);
    }

    /// It failed a request. True if that is news, and `may_log` allows a line.
    pub fn fail(&self, may_log: impl FnOnce() -> bool) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        // Without a line it stays unsaid, so that the next failure is news, too.
        !self.failing.load(Ordering::Relaxed) && may_log() && !self.failing.swap(true, Ordering::Relaxed)
    }

    /// It answered a request. The number of those that it failed, if that is news, and `may_log` allows a line.
    pub fn recover(&self, may_log: impl FnOnce() -> bool) -> Option<u64> {
        let news = self.failing.load(Ordering::Relaxed) && may_log() && self.failing.swap(false, Ordering::Relaxed);
        news.then(|| self.failures.swap(0, Ordering::Relaxed))
    }
}

fn skip_until(now_ms: u64) -> u64 {
    let skip_ms = u64::try_from(SKIP_FOR.as_millis()).unwrap_or(u64::MAX);
    now_ms.saturating_add(skip_ms).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_failed_is_tried_again_by_one_request() {
        let health = Health::default();
        let skip_ms = u64::try_from(SKIP_FOR.as_millis()).unwrap();
        assert!(health.is_due(0) && health.is_due(0), "nothing is known of it");
        health.skip(1_000);
        for now in [1_000, 1_000 + skip_ms - 1] {
            assert!(!health.is_due(now), "{now}");
        }
        let again = 1_000 + skip_ms;
        assert!(health.is_due(again), "one tries it");
        assert!(!health.is_due(again), "the others wait for that");
        // The one that tried it never came back.
        assert!(health.is_due(again + skip_ms) && !health.is_due(again + skip_ms));
        health.connected();
        assert!(health.is_due(again + skip_ms) && health.is_due(again + skip_ms));
    }

    #[test]
    fn a_change_is_reported_once() {
        let health = Health::default();
        assert_eq!(health.recover(|| true), None, "it never failed");
        assert!(!health.fail(|| false), "no line is allowed");
        assert!(health.fail(|| true) && !health.fail(|| true) && !health.fail(|| true));
        assert_eq!(health.recover(|| false), None);
        assert_eq!(health.recover(|| true), Some(4));
        assert_eq!(health.recover(|| true), None);
        assert!(health.fail(|| true));
        assert_eq!(health.recover(|| true), Some(1));
    }
}
