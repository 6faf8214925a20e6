//! The passive health of one server: whether it failed recently, and whether the log has reported it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// The time for which a server that accepted no connection is tried last. Then one request tries it again.
pub const SKIP_FOR: Duration = Duration::from_secs(5);

/// The passive health of a server.
#[derive(Debug, Default)]
pub struct Health {
    /// The time until which the server is skipped, in milliseconds of the pool's clock; 0 if it is not skipped.
    skip_until_ms: AtomicU64,
    /// Whether a failure was logged, and no recovery since.
    failing: AtomicBool,
    /// The number of failed requests since a recovery was last logged.
    failures: AtomicU64,
}

/// How a server is regarded by a request that needs one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// It did not fail recently, or it is due to be tried again.
    Good,
    /// It accepted no connection a short while ago. It is tried if no other server is left.
    Skipped,
}

impl Standing {
    /// Every standing, the best one first.
    pub const BEST_FIRST: [Self; 2] = [Self::Good, Self::Skipped];
}

impl Health {
    /// Returns how a request regards the server.
    pub fn standing(&self, now_ms: u64) -> Standing {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        if now_ms >= until { Standing::Good } else { Standing::Skipped }
    }

    /// Whether a request may try the server now, which is in good standing. When the time for which it is skipped is
    /// over, one request tries it. The others skip it for another [`SKIP_FOR`], or until that request connects.
    pub fn claim(&self, now_ms: u64) -> bool {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        until == 0
            || (now_ms >= until
                && self
                    .skip_until_ms
                    .compare_exchange(until, skip_until(now_ms), Ordering::Relaxed, Ordering::Relaxed)
                    .is_ok())
    }

    /// Whether the server is not passed over because it failed.
    pub fn is_healthy(&self) -> bool {
        self.skip_until_ms.load(Ordering::Relaxed) == 0
    }

    /// Whether a request failed, and none succeeded since.
    pub fn has_failed(&self) -> bool {
        self.failing.load(Ordering::Relaxed) || self.skip_until_ms.load(Ordering::Relaxed) != 0
    }

    /// Records that the server accepted no connection.
    pub fn skip(&self, now_ms: u64) {
        self.skip_until_ms.store(skip_until(now_ms), Ordering::Relaxed);
    }

    /// Records that the server accepted a connection.
    pub fn connected(&self) {
        self.skip_until_ms.store(0, Ordering::Relaxed);
    }

    /// Records a failed request. Returns true if the failure is to be logged: none was logged since the last recovery,
    /// and `may_log` allows a line.
    pub fn fail(&self, may_log: impl FnOnce() -> bool) -> bool {
        self.failures.fetch_add(1, Ordering::Relaxed);
        // If no line is allowed, the next failure is reported instead.
        !self.failing.load(Ordering::Relaxed) && may_log() && !self.failing.swap(true, Ordering::Relaxed)
    }

    /// Records an answered request. Returns the number of failed requests if the recovery is to be logged: a failure
    /// was logged, and `may_log` allows a line.
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
        assert!(health.claim(0) && health.claim(0), "it has not failed");
        health.skip(1_000);
        for now in [1_000, 1_000 + skip_ms - 1] {
            assert!(!health.claim(now), "{now}");
        }
        let again = 1_000 + skip_ms;
        assert!(health.claim(again), "one request tries it");
        assert!(!health.claim(again), "the others skip it");
        // The request that tried it never completed.
        assert!(health.claim(again + skip_ms) && !health.claim(again + skip_ms));
        health.connected();
        assert!(health.claim(again + skip_ms) && health.claim(again + skip_ms));
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
