//! When a key set is fetched: before it expires, again after a failure, and on demand for a key that it lacks.

use std::time::{Duration, Instant};

use http::HeaderMap;
use http::header::{AGE, CACHE_CONTROL};

/// The bounds of the lifetime of a key set, whatever `Cache-Control` says.
pub const LIFETIME_MIN: Duration = Duration::from_mins(1);
/// See [`LIFETIME_MIN`].
pub const LIFETIME_MAX: Duration = Duration::from_hours(1);
/// The lifetime of a key set whose response has no `max-age`.
pub const LIFETIME_DEFAULT: Duration = Duration::from_mins(5);
/// The pause after the first failure. It doubles with each further one, up to [`PAUSE_MAX`].
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest pause after a failure.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The number of fetches on demand in any [`DEMANDS_PERIOD`]. Two, so that a rotation right after a fetch is seen.
pub const DEMANDS_MAX: usize = 2;
/// See [`DEMANDS_MAX`].
pub const DEMANDS_PERIOD: Duration = Duration::from_secs(30);
/// The share of its lifetime after which a set is fetched again at the earliest.
const EARLY: f64 = 0.75;

/// The times at which one key set is fetched. One fetch is in progress at a time.
#[derive(Debug)]
pub struct KeySchedule {
    /// When the next fetch starts.
    due: Instant,
    is_fetching: bool,
    /// The number of failures since the last success.
    failures: u32,
    /// The end of the last fetch that succeeded.
    succeeded: Option<Instant>,
    /// The longest lifetime: at most [`LIFETIME_MAX`], and not longer than the set may be used.
    lifetime_max: Duration,
    /// When the last fetches on demand were granted, the latest last.
    demands: [Option<Instant>; DEMANDS_MAX],
}

/// The answer to a demand for a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Demand {
    /// A fetch starts now because of it.
    Granted,
    /// A fetch is in progress or about to start.
    Pending,
    /// There were [`DEMANDS_MAX`] fetches on demand within [`DEMANDS_PERIOD`].
    Refused,
}

impl KeySchedule {
    /// Creates a schedule whose first fetch is due now.
    pub fn new(now: Instant) -> Self {
        Self {
            due: now,
            is_fetching: false,
            failures: 0,
            succeeded: None,
            lifetime_max: LIFETIME_MAX,
            demands: [None; DEMANDS_MAX],
        }
    }

    /// Limits the lifetime to the time for which the set may be used without a further fetch, so that an issuer that
    /// answers is always asked in time. This limit also applies below [`LIFETIME_MIN`].
    pub fn limit_lifetime(&mut self, max: Duration) {
        self.lifetime_max = max.min(LIFETIME_MAX);
        let due = self.succeeded.and_then(|succeeded| succeeded.checked_add(self.lifetime_max.mul_f64(EARLY)));
        if let Some(due) = due.filter(|_| self.failures == 0) {
            self.due = self.due.min(due);
        }
    }

    /// Returns when the next fetch starts, if none is in progress.
    pub fn due(&self) -> Instant {
        self.due
    }

    /// Whether a fetch is in progress or about to start.
    pub fn is_pending(&self, now: Instant) -> bool {
        self.is_fetching || self.due <= now
    }

    /// Whether the last fetch failed.
    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }

    /// Asks for a fetch because of a key that the set lacks.
    pub fn demand(&mut self, now: Instant) -> Demand {
        if self.is_pending(now) {
            return Demand::Pending;
        }
        let [oldest, ..] = self.demands;
        if oldest.is_some_and(|oldest| now.saturating_duration_since(oldest) < DEMANDS_PERIOD) {
            return Demand::Refused;
        }
        self.demands.rotate_left(1);
        if let Some(last) = self.demands.last_mut() {
            *last = Some(now);
        }
        self.due = now;
        Demand::Granted
    }

    /// Starts a fetch.
    pub fn start(&mut self) {
        self.is_fetching = true;
    }

    /// Ends a fetch that succeeded. The next one is due before the lifetime ends: after 75% to 90% of it, as `random`
    /// decides.
    pub fn succeed(&mut self, now: Instant, lifetime: Option<Duration>, random: u32) {
        let lifetime = lifetime.unwrap_or(LIFETIME_DEFAULT).max(LIFETIME_MIN).min(self.lifetime_max);
        self.failures = 0;
        self.succeeded = Some(now);
        self.end(now, lifetime.mul_f64(EARLY + 0.15 * fraction(random)));
    }

    /// Ends a fetch that failed. The next one is due after a pause, of which `random` decides a half.
    pub fn fail(&mut self, now: Instant, random: u32) {
        let pause = PAUSE_MIN.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(PAUSE_MAX);
        self.failures = self.failures.saturating_add(1).min(u32::BITS - 1);
        self.end(now, pause.mul_f64(0.5 + 0.5 * fraction(random)));
    }

    fn end(&mut self, now: Instant, pause: Duration) {
        self.is_fetching = false;
        self.due = now.checked_add(pause).unwrap_or(now);
    }

    /// Returns after how many seconds, at least 1, a client may try again that needs the result of the next fetch.
    pub fn retry_after_secs(&self, now: Instant) -> u64 {
        let wait = if self.is_fetching { Duration::ZERO } else { self.due.saturating_duration_since(now) };
        wait.as_secs().saturating_add(1)
    }
}

/// Maps a random number to a number from 0 to 1.
fn fraction(random: u32) -> f64 {
    f64::from(random) / f64::from(u32::MAX)
}

/// Returns how long a response stays fresh (RFC 9111 section 4.2): `max-age` without `Age`; zero for `no-store` and
/// `no-cache`; `None` if `Cache-Control` has none of them.
pub fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let texts = headers.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut found = None;
    for directive in texts.flat_map(|text| text.split(',')) {
        let (name, value) = directive.split_once('=').unwrap_or((directive, ""));
        let name = name.trim();
        if name.eq_ignore_ascii_case("no-store") || name.eq_ignore_ascii_case("no-cache") {
            return Some(Duration::ZERO);
        }
        if name.eq_ignore_ascii_case("max-age") {
            found = found.or_else(|| value.trim().trim_matches('"').parse().ok().map(Duration::from_secs));
        }
    }
    let age = headers.get(AGE).and_then(|age| age.to_str().ok()?.trim().parse().ok()).map(Duration::from_secs);
    Some(found?.saturating_sub(age.unwrap_or_default()))
}

#[cfg(test)]
mod tests;
