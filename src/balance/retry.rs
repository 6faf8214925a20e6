//! The budget of an upstream's retries, so that a pool that fails is not hit harder.

use std::sync::{Mutex, PoisonError};

/// The span whose requests and retries are compared, in seconds.
const WINDOW_SECS: usize = 10;
/// One retry is permitted for this many requests.
const REQUESTS_PER_RETRY: u32 = 10;
/// The number of retries that are permitted in each second, whatever the number of requests.
const RETRIES_PER_SECOND: u32 = 10;

/// The budget of an upstream's retries: a tenth of the requests of the last ten seconds, and at least 10 in each second.
///
/// The lock is held for a few additions, without any wait.
#[derive(Debug, Default)]
pub struct RetryBudget(Mutex<Window>);

/// The requests and the retries of the last seconds.
#[derive(Debug, Default)]
struct Window {
    /// By second, modulo the window.
    seconds: [Second; WINDOW_SECS],
    total: Second,
    /// The number of the current second.
    now: u64,
}

#[derive(Debug, Default, Clone, Copy)]
struct Second {
    requests: u32,
    retries: u32,
}

impl RetryBudget {
    /// Counts a request, but not its retries.
    pub fn count_request(&self, now_ms: u64) {
        self.with(now_ms, |second, total| {
            second.requests = second.requests.saturating_add(1);
            total.requests = total.requests.saturating_add(1);
        });
    }

    /// Takes a retry from the budget. Returns false if it is used up.
    pub fn take(&self, now_ms: u64) -> bool {
        self.with(now_ms, |second, total| {
            let is_left = second.retries < RETRIES_PER_SECOND || total.retries < total.requests / REQUESTS_PER_RETRY;
            if is_left {
                second.retries = second.retries.saturating_add(1);
                total.retries = total.retries.saturating_add(1);
            }
            is_left
        })
    }

    fn with<T>(&self, now_ms: u64, change: impl FnOnce(&mut Second, &mut Second) -> T) -> T {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Window { seconds, total, now } = &mut *window;
        // Another thread may have read the clock later. Its second is the current one.
        let at = (now_ms / 1000).max(*now);
        for passed in (*now + 1..=at).rev().take(seconds.len()) {
            let old = std::mem::take(second(seconds, passed));
            total.requests = total.requests.saturating_sub(old.requests);
            total.retries = total.retries.saturating_sub(old.retries);
        }
        *now = at;
        change(second(seconds, at), total)
    }
}

fn second(seconds: &mut [Second; WINDOW_SECS], number: u64) -> &mut Second {
    let [first, rest @ ..] = seconds;
    let index = usize::try_from(number).unwrap_or_default() % WINDOW_SECS;
    index.checked_sub(1).and_then(|index| rest.get_mut(index)).unwrap_or(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(budget: &RetryBudget, now_ms: u64, wanted: usize) -> usize {
        (0..wanted).filter(|_| budget.take(now_ms)).count()
    }

    #[test]
    fn ten_retries_are_permitted_in_each_second() {
        let budget = RetryBudget::default();
        for (now_ms, expected) in [(0, 10), (999, 0), (1_000, 10), (1_001, 0), (9_000, 10), (3_600_000, 10)] {
            assert_eq!(taken(&budget, now_ms, 100), expected, "{now_ms}");
        }
    }

    #[test]
    fn a_tenth_of_the_requests_may_be_retried() {
        let budget = RetryBudget::default();
        // At 2,500 requests a second, in any order of requests and retries.
        for second in 0..10 {
            (0..2_500).for_each(|_| budget.count_request(second * 1000));
            assert_eq!(taken(&budget, second * 1000 + 500, 1_000), 250, "{second}");
        }
        // The oldest second leaves with its retries.
        assert_eq!(taken(&budget, 10_000, 1_000), 10);
        (0..2_500).for_each(|_| budget.count_request(10_999));
        assert_eq!(taken(&budget, 10_999, 1_000), 240);
    }

    /// Retries that are not taken in one second are left for a failure in the next one.
    #[test]
    fn the_budget_of_the_last_ten_seconds_may_be_used_at_once() {
        let budget = RetryBudget::default();
        (0..10).for_each(|second| (0..100).for_each(|_| budget.count_request(second * 1000)));
        assert_eq!(taken(&budget, 9_500, 1_000), 100);
        // Long afterwards, nothing is left of it.
        assert_eq!(taken(&budget, 60_000, 1_000), 10);
    }

    /// A clock that another thread read earlier moves nothing back.
    #[test]
    fn an_earlier_time_counts_in_the_current_second() {
        let budget = RetryBudget::default();
        assert_eq!(taken(&budget, 5_000, 20), 10);
        assert_eq!(taken(&budget, 4_999, 20), 0);
    }
}
