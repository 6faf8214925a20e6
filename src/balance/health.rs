//! The health of one server: failures of requests, the times for which it is passed over, and its slow start.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::checks::CheckConfig;
use super::early::EarlyEnds;
use super::standing::{Change, Failure, Standing};

/// The time for which a server that accepted no connection or sent no answer is passed over. Then one request tries it.
pub const SKIP_FOR: Duration = Duration::from_secs(5);
/// The time of the first ejection. Each further one takes twice as long.
pub const EJECT_FOR: Duration = Duration::from_secs(10);
/// The longest ejection. A server that was not ejected for this long begins with [`EJECT_FOR`] again.
pub const EJECT_FOR_MAX: Duration = Duration::from_mins(5);
/// The time that consecutive failures of answers last at least before they eject a server which succeeded within
/// [`RECENT`] before them. A client can cause such failures, for example by a path that the server answers with 500: they
/// count if no request of another client succeeds in this time.
pub const RUN_MIN: Duration = Duration::from_millis(200);
/// See [`RUN_MIN`].
pub const RECENT: Duration = Duration::from_secs(1);
/// The share of its weight with which a slow start begins, in thousandths.
const SLOW_START_FROM: u64 = 100;
/// The bit of [`Health::skip_until_ms`] that says that the server is down by its checks.
const DOWN: u64 = 1 << 63;
/// A whole weight, in the unit of [`Health::weight_share`].
pub(super) const WHOLE: u32 = 1000;

/// How requests and checks judge the health of an upstream's servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthConfig {
    /// The checks; `None` if its servers are not checked.
    pub checks: Option<CheckConfig>,
    /// The number of consecutive failures that eject a server; `None` if none do.
    pub eject_after: Option<NonZeroU32>,
    /// The largest share of the servers that is ejected at once, in percent.
    pub eject_max_percent: u8,
    /// The time in which a server that was added or has recovered gets to its full weight.
    pub slow_start: Duration,
}

/// The health of a server. Times are in milliseconds of the pool's clock. The choice of a server reads only the atomic
/// values.
///
/// Two judges decide. Requests skip and eject the server for a time (passive health), and checks find it down or up
/// ([`Checks`](super::checks::Checks)). Requests judge a server that is down as any other one: a server that is down gets
/// requests if no other one is left, and then one that answers them goes before one that does not. It does not count
/// towards `eject_max`. When it is up again, its failures and its ejection are over, and it starts slowly. A passing check
/// of a server that is not down does not end an ejection: a server that answers each upgrade with 500 passes most checks.
/// After a failed connection it is the trial, once the time for which the server is skipped has ended.
#[derive(Debug, Default)]
pub struct Health {
    history: Mutex<History>,
    /// Whether there is a failure since the last success.
    troubled: AtomicBool,
    ejected: AtomicBool,
    /// Whether the server is passed over because it sent no answer, so that only an answer ends that.
    silent: AtomicBool,
    /// Whether the last request failed, or checks found it down since.
    failing: AtomicBool,
    /// The time before which held requests do not try the server, which fails; 0 if none did.
    probe_after_ms: AtomicU64,
    /// The time until which requests pass the server over, or 0 if they do not; with the bit [`DOWN`] if it is down by its
    /// checks. One value has both, so that the choice of a server that is well reads only one.
    skip_until_ms: AtomicU64,
    /// The begin of an attempt to connect that has not ended; 0 if there is none.
    connecting_since_ms: AtomicU64,
    /// The begin of a request that waits for its answer, without a success since; 0 if there is none.
    answering_since_ms: AtomicU64,
    /// The time of the last success; 0 if there was none.
    last_success_ms: AtomicU64,
    /// The begin of its slow start; 0 if there was none.
    slow_since_ms: AtomicU64,
    /// Whether sessions that begin are counted, because one ended early.
    ends_early: AtomicBool,
}

/// How long a request may wait before its server is suspect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// For the connection, in milliseconds.
    pub connect_ms: u64,
    /// For the answer, in milliseconds.
    pub answer_ms: u64,
}

#[derive(Debug, Default)]
struct History {
    /// The number of failures since the last success.
    consecutive: u32,
    /// The time of the first of them.
    run_since_ms: u64,
    /// The number of failures since the log reported a recovery.
    failures: u64,
    /// Whether the log reported a failure, and no recovery since.
    reported: bool,
    /// The number of ejections that lengthen the next one.
    ejections: u32,
    /// The end of the last ejection.
    ejected_until_ms: u64,
    /// Its sessions that ended early.
    early: EarlyEnds,
    /// Whether these caused the last ejection.
    is_ejected_early: bool,
}

/// A request that waits for its connection or its answer, until it is dropped.
#[derive(Debug)]
pub struct Waiting<'a>(&'a AtomicU64);

impl Health {
    /// Returns how a request regards the server. A request that has waited as long as `patience` says is taken for a
    /// failure before its timeout, so that fewer requests wait with it.
    #[inline]
    pub fn standing(&self, now_ms: u64, patience: Patience) -> Standing {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        if now_ms < until {
            return self.standing_of_bad(until, now_ms, patience);
        }
        if self.is_suspect(now_ms, patience) { Standing::Skipped } else { Standing::Good }
    }

    #[cold]
    fn standing_of_bad(&self, until: u64, now_ms: u64, patience: Patience) -> Standing {
        let (is_down, is_passed_over) = (until & DOWN != 0, now_ms < until & !DOWN);
        let found = if is_passed_over && self.is_ejected() {
            Standing::Ejected
        } else if is_passed_over || self.is_suspect(now_ms, patience) {
            Standing::Skipped
        } else {
            Standing::Good
        };
        if is_down { found.of_down() } else { found }
    }

    #[inline]
    fn is_suspect(&self, now_ms: u64, patience: Patience) -> bool {
        let is_overdue = |since: &AtomicU64, after_ms| {
            let since = since.load(Ordering::Relaxed);
            since != 0 && now_ms.saturating_sub(since) >= after_ms
        };
        is_overdue(&self.connecting_since_ms, patience.connect_ms)
            || is_overdue(&self.answering_since_ms, patience.answer_ms)
    }

    /// Whether a request may try the server now, whose standing is one that [needs it](Standing::needs_claim). When the
    /// time for which it is passed over has ended, one request tries it. The others pass it over for another
    /// [`SKIP_FOR`], or until that request succeeds.
    pub fn claim(&self, now_ms: u64) -> bool {
        let until = self.skip_until_ms.load(Ordering::Relaxed);
        let next = later(now_ms, SKIP_FOR) | (until & DOWN);
        let claim = || self.skip_until_ms.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed);
        until == 0 || until == DOWN || (now_ms >= until & !DOWN && claim().is_ok())
    }

    /// Sets the time until which requests pass the server over; 0 ends it. Returns whether they did before.
    fn skip_until(&self, until_ms: u64) -> bool {
        let set = |until| Some((until & DOWN) | until_ms);
        let before = self.skip_until_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, set);
        before.is_ok_and(|before| before & !DOWN != 0)
    }

    /// Whether a held request may try the server now, which fails: no other request is trying it, and none was permitted
    /// to for a while. The next one is permitted after `pause_ms`.
    pub fn claim_probe(&self, now_ms: u64, pause_ms: u64) -> bool {
        let is_idle = |since: &AtomicU64| since.load(Ordering::Relaxed) == 0;
        let after = self.probe_after_ms.load(Ordering::Relaxed);
        let next = now_ms.saturating_add(pause_ms);
        let claim = || self.probe_after_ms.compare_exchange(after, next, Ordering::Relaxed, Ordering::Relaxed);
        let is_due = now_ms >= after && is_idle(&self.connecting_since_ms) && is_idle(&self.answering_since_ms);
        is_due && claim().is_ok()
    }

    /// Whether the last request failed, or none succeeded since the server is down by its checks.
    pub fn is_failing(&self) -> bool {
        self.failing.load(Ordering::SeqCst)
    }

    /// Whether the server is neither passed over nor down.
    pub fn is_healthy(&self) -> bool {
        self.skip_until_ms.load(Ordering::Relaxed) == 0
    }

    /// Whether the server is down by its checks.
    pub fn is_down(&self) -> bool {
        self.skip_until_ms.load(Ordering::Relaxed) & DOWN != 0
    }

    /// Whether the server is ejected, also while one request tries it.
    pub fn is_ejected(&self) -> bool {
        self.ejected.load(Ordering::Relaxed)
    }

    /// Whether a request failed, and none succeeded since.
    pub fn has_failed(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Returns the share of its weight that the server has now, in thousandths: from a tenth of it to the whole.
    pub fn weight_share(&self, now_ms: u64, slow_start: Duration) -> u32 {
        let since = self.slow_since_ms.load(Ordering::Relaxed);
        if since == 0 {
            return WHOLE;
        }
        let passed = now_ms.saturating_sub(since).saturating_mul(WHOLE.into());
        let share = passed.checked_div(millis(slow_start)).map_or(WHOLE.into(), |share| share.max(SLOW_START_FROM));
        u32::try_from(share).map_or(WHOLE, |share| share.min(WHOLE))
    }

    /// Begins a slow start.
    pub fn start_slowly(&self, now_ms: u64) {
        self.slow_since_ms.store(now_ms.max(1), Ordering::Relaxed);
    }

    /// Records the begin of an attempt to connect.
    pub fn connecting(&self, now_ms: u64) -> Waiting<'_> {
        Waiting::begin(&self.connecting_since_ms, now_ms)
    }

    /// Records that a request begins to wait for its answer.
    pub fn answering(&self, now_ms: u64) -> Waiting<'_> {
        Waiting::begin(&self.answering_since_ms, now_ms)
    }

    /// Records that the server accepted a connection. If it is ejected or sent no answer, its answer is what counts.
    pub fn connected(&self, now_ms: u64) {
        let is_passed_over = self.skip_until_ms.load(Ordering::Relaxed) & !DOWN != 0;
        let needs_answer = self.is_ejected() || self.silent.load(Ordering::Relaxed);
        if is_passed_over && !needs_answer && self.skip_until(0) {
            self.start_slowly(now_ms);
        }
    }

    /// Records a check that passed. It takes the place of the request that would try a server which was skipped.
    pub(super) fn passed(&self, now_ms: u64) {
        let is_due = self.skip_until_ms.load(Ordering::Relaxed) & !DOWN <= now_ms;
        if is_due {
            self.connected(now_ms);
        }
    }

    /// Records that checks found the server down, until [`Health::set_up`].
    pub(super) fn set_down(&self) {
        let _history = self.history();
        self.skip_until_ms.fetch_or(DOWN, Ordering::Relaxed);
        self.failing.store(true, Ordering::SeqCst);
    }

    /// Records that checks found the server up. If it was down, requests judge it anew.
    pub(super) fn set_up(&self, now_ms: u64) {
        let mut history = self.history();
        if !self.is_down() {
            return;
        }
        let History { ejections, ejected_until_ms, .. } = *history;
        *history = History { ejections, ejected_until_ms, ..History::default() };
        self.ends_early.store(false, Ordering::Relaxed);
        self.troubled.store(false, Ordering::Relaxed);
        self.failing.store(false, Ordering::SeqCst);
        self.ejected.store(false, Ordering::Relaxed);
        self.silent.store(false, Ordering::Relaxed);
        self.start_slowly(now_ms);
        self.skip_until_ms.store(0, Ordering::Relaxed);
    }

    /// Records a failed request. Without an answer for as long as `patience` says, the server stays passed over, if no
    /// other request has succeeded since that one began: otherwise a client could cause it by a path that the server
    /// answers late. `may_eject` is asked if the server is to be ejected; it is not if it already is. Returns the change that is to be logged. A first failure is reported only if `may_log` allows a line; otherwise
    /// the next one is.
    pub fn fail(
        &self,
        failure: Failure,
        now_ms: u64,
        (config, patience): (&HealthConfig, Patience),
        may_eject: impl FnOnce() -> bool,
        may_log: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let mut history = self.history();
        self.troubled.store(true, Ordering::Relaxed);
        self.failing.store(true, Ordering::SeqCst);
        history.failures = history.failures.saturating_add(1);
        if history.consecutive == 0 {
            history.run_since_ms = now_ms;
        }
        history.consecutive = history.consecutive.saturating_add(1);
        let is_silent = matches!(failure, Failure::Late { since_ms } if self.is_silent(since_ms, now_ms, patience));
        self.silent.fetch_or(is_silent, Ordering::Relaxed);
        let was_ejected = self.is_ejected();
        if was_ejected && now_ms < history.ejected_until_ms {
            // The server was tried because no other one was left, or the request began before the ejection.
            return None;
        }
        let is_many = config.eject_after.is_some_and(|after| history.consecutive >= after.get());
        let lasts = failure == Failure::Connect || self.is_of_all_clients(&history, now_ms);
        let is_due = is_many && lasts;
        if is_due && (was_ejected || may_eject()) {
            history.is_ejected_early = false;
            return Some(Change::Ejected { failures: history.consecutive, time: self.eject(&mut history, now_ms) });
        }
        if failure == Failure::Connect || was_ejected || is_silent {
            self.skip_until(later(now_ms, SKIP_FOR));
        }
        let is_news = !history.reported && may_log();
        history.reported |= is_news;
        is_news.then_some(Change::Failed)
    }

    fn eject(&self, history: &mut History, now_ms: u64) -> Duration {
        let time = history.eject(now_ms);
        self.ejected.store(true, Ordering::Relaxed);
        self.skip_until(history.ejected_until_ms);
        history.reported = true;
        time
    }

    /// Records that a session of the server begins.
    pub fn opened(&self, now_ms: u64) {
        if self.ends_early.load(Ordering::Relaxed) {
            let mut history = self.history();
            history.early.opened(now_ms);
            self.ends_early.store(history.early.count() > 0, Ordering::Relaxed);
        }
    }

    /// Records that a session ended within [`EARLY`](super::early::EARLY) of its begin, since the server disconnected.
    /// `may_eject` is as for [`Health::fail`]. Returns the ejection, if it causes one.
    pub fn ended_early(
        &self,
        opened_ms: u64,
        now_ms: u64,
        config: &HealthConfig,
        may_eject: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let mut history = self.history();
        history.early.ended(opened_ms, now_ms);
        self.ends_early.store(true, Ordering::Relaxed);
        let (was_ejected, failures) = (self.is_ejected(), history.early.count());
        if was_ejected && now_ms < history.ejected_until_ms {
            return None;
        }
        let is_many = config.eject_after.is_some_and(|after| failures >= after.get());
        if !is_many || !history.early.lasts(now_ms) || !(was_ejected || may_eject()) {
            return None;
        }
        self.troubled.store(true, Ordering::Relaxed);
        history.failures = history.failures.saturating_add(failures.into());
        history.is_ejected_early = true;
        Some(Change::Ejected { failures, time: self.eject(&mut history, now_ms) })
    }

    /// Whether a request that began to wait at this time shows that the server answers none.
    fn is_silent(&self, since_ms: u64, now_ms: u64, patience: Patience) -> bool {
        let last = self.last_success_ms.load(Ordering::Relaxed);
        now_ms.saturating_sub(since_ms) >= patience.answer_ms && (last == 0 || last < since_ms)
    }

    /// Whether failures of answers last so long without a success that they do not concern the requests of one client.
    fn is_of_all_clients(&self, history: &History, now_ms: u64) -> bool {
        let last = self.last_success_ms.load(Ordering::Relaxed);
        let was_recent = last != 0 && history.run_since_ms.saturating_sub(last) < millis(RECENT);
        !was_recent || now_ms.saturating_sub(history.run_since_ms) >= millis(RUN_MIN)
    }

    /// Records a request that succeeded. Returns the recovery if it is to be logged: the failure was, and `may_log`
    /// allows a line.
    pub fn succeed(&self, now_ms: u64, may_log: impl FnOnce() -> bool) -> Option<Change> {
        self.last_success_ms.store(now_ms.max(1), Ordering::Relaxed);
        self.answering_since_ms.store(0, Ordering::Relaxed);
        if !self.has_failed() && !self.is_failing() {
            return None;
        }
        let mut history = self.history();
        self.failing.store(false, Ordering::SeqCst);
        history.consecutive = 0;
        if history.awaits_survivor(now_ms) {
            return None;
        }
        let was_passed_over = self.skip_until(0);
        self.silent.store(false, Ordering::Relaxed);
        if self.ejected.swap(false, Ordering::Relaxed) || was_passed_over {
            self.start_slowly(now_ms);
        }
        let is_news = history.reported && may_log();
        if history.reported && !is_news {
            return None;
        }
        self.troubled.store(false, Ordering::Relaxed);
        history.reported = false;
        let failures = std::mem::take(&mut history.failures);
        is_news.then_some(Change::Recovered { failures })
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl History {
    /// Whether an answer does not end the ejection: sessions ended early, and none has outlived that time since.
    fn awaits_survivor(&mut self, now_ms: u64) -> bool {
        self.early.pass(now_ms);
        self.is_ejected_early &= self.early.count() > 0;
        self.is_ejected_early
    }

    /// Begins an ejection, and returns its length.
    fn eject(&mut self, now_ms: u64) -> Duration {
        if now_ms.saturating_sub(self.ejected_until_ms) >= millis(EJECT_FOR_MAX) {
            self.ejections = 0;
        }
        let factor = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
        let time = EJECT_FOR.saturating_mul(factor).min(EJECT_FOR_MAX);
        self.ejections = self.ejections.saturating_add(1).min(u32::BITS - 1);
        self.ejected_until_ms = later(now_ms, time);
        time
    }
}

impl<'a> Waiting<'a> {
    fn begin(since: &'a AtomicU64, now_ms: u64) -> Self {
        let _ = since.compare_exchange(0, now_ms.max(1), Ordering::Relaxed, Ordering::Relaxed);
        Self(since)
    }
}

impl Drop for Waiting<'_> {
    /// Ends the wait. Others that began later are no longer seen as waiting: the outcome of this one shows the state of
    /// the server.
    fn drop(&mut self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn later(now_ms: u64, time: Duration) -> u64 {
    now_ms.saturating_add(millis(time)).clamp(1, DOWN - 1)
}

pub mod state;
#[cfg(test)]
mod tests;
