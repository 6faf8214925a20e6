//! The phases of the process (serving, draining, aborted), its readiness, and the times at which sessions close during
//! the drain.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

/// Time between the closes of two sessions during the drain, so that their clients do not all reconnect at once. It is
/// shorter if the drain timeout is too short for the number of sessions.
const CLOSE_INTERVAL: Duration = Duration::from_millis(10);
/// Part of the drain timeout over which closes are spread. The rest is for the closing handshakes of the last sessions.
const SPREAD: f64 = 0.75;

/// A phase of the process. Phases follow each other in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// New sessions are admitted.
    Serving,
    /// New requests are rejected, and open sessions are asked to close.
    Draining,
    /// Connections that are still open are cut off.
    Aborted,
}

/// Returns the time between the closes of two of these sessions, if all of them are to end within a drain timeout.
pub fn close_interval(drain_timeout: Duration, sessions: usize) -> Duration {
    let sessions = u32::try_from(sessions.max(1)).unwrap_or(u32::MAX);
    CLOSE_INTERVAL.min(drain_timeout.mul_f64(SPREAD).checked_div(sessions).unwrap_or_default())
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The phase of the process, shared by all workers.
#[derive(Debug)]
pub struct Lifecycle {
    phase: AtomicU8,
    is_ready: AtomicBool,
    is_admitting: AtomicBool,
    is_upgrading: AtomicBool,
    drain: CancellationToken,
    abort: CancellationToken,
    shutdown_delay_ms: AtomicU64,
    drain_timeout_ms: AtomicU64,
    sessions: AtomicUsize,
    /// When the drain started.
    drain_started: OnceLock<Instant>,
    /// Number of close slots handed out.
    close_slots: AtomicU32,
    /// Microseconds between two close slots.
    close_interval_us: AtomicU32,
}

impl Lifecycle {
    /// Creates a lifecycle in the serving phase, without a shutdown delay.
    pub fn new(drain_timeout: Duration) -> Self {
        Self {
            phase: AtomicU8::new(Phase::Serving as u8),
            is_ready: AtomicBool::new(true),
            is_admitting: AtomicBool::new(true),
            is_upgrading: AtomicBool::new(false),
            drain: CancellationToken::new(),
            abort: CancellationToken::new(),
            shutdown_delay_ms: AtomicU64::new(0),
            drain_timeout_ms: AtomicU64::new(millis(drain_timeout)),
            sessions: AtomicUsize::new(0),
            drain_started: OnceLock::new(),
            close_slots: AtomicU32::new(0),
            close_interval_us: AtomicU32::new(0),
        }
    }

    /// Ends the readiness, at the stop signal. Requests are still admitted.
    pub fn end_readiness(&self) {
        self.is_ready.store(false, Ordering::Relaxed);
    }

    /// Whether load balancers may send new clients: false from the stop signal on, for the whole shutdown delay and the
    /// drain.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    /// Rejects all further requests. It precedes the drain, so that no session starts after the drain was announced.
    pub fn stop_admitting(&self) {
        self.is_admitting.store(false, Ordering::Relaxed);
    }

    /// Whether requests are admitted.
    pub fn is_admitting(&self) -> bool {
        self.is_admitting.load(Ordering::Relaxed)
    }

    /// Sets whether the process is being replaced by a new one.
    pub fn set_upgrading(&self, is_upgrading: bool) {
        self.is_upgrading.store(is_upgrading, Ordering::Release);
    }

    /// Whether the process is being replaced. Changes of its state have to wait: the new process would not know them.
    pub fn is_upgrading(&self) -> bool {
        self.is_upgrading.load(Ordering::Acquire)
    }

    /// Starts the drain: sessions are asked to close, one after another.
    pub fn start_drain(&self, now: Instant) {
        self.drain_started.get_or_init(|| now);
        let interval = close_interval(self.drain_timeout(), self.sessions());
        self.close_interval_us.store(u32::try_from(interval.as_micros()).unwrap_or(u32::MAX), Ordering::Relaxed);
        self.phase.store(Phase::Draining as u8, Ordering::Release);
        self.drain.cancel();
    }

    /// Cuts off all connections that are still open.
    pub fn abort(&self) {
        self.phase.store(Phase::Aborted as u8, Ordering::Release);
        self.drain.cancel();
        self.abort.cancel();
    }

    /// Waits until the drain starts.
    pub async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Waits until open connections are to be cut off.
    pub async fn aborted(&self) {
        self.abort.cancelled().await;
    }

    /// Returns the current phase, at the cost of one atomic load.
    pub fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::Serving,
            1 => Phase::Draining,
            _ => Phase::Aborted,
        }
    }

    /// Waits until `phase` is over and returns the phase that the process is in then.
    pub async fn after(&self, phase: Phase) -> Phase {
        match phase {
            Phase::Serving => self.drain.cancelled().await,
            Phase::Draining => self.abort.cancelled().await,
            Phase::Aborted => std::future::pending().await,
        }
        self.phase()
    }

    /// Returns when the calling session is to close. Each session gets the next slot, counted from the start of the
    /// drain. A session that begins during the drain also gets a slot within it.
    pub fn next_close_slot(&self, now: Instant) -> Instant {
        let slot = self.close_slots.fetch_add(1, Ordering::Relaxed);
        let interval = Duration::from_micros(self.close_interval_us.load(Ordering::Relaxed).into());
        let after_start = interval.saturating_mul(slot).min(self.drain_timeout().mul_f64(SPREAD));
        let started = self.drain_started.get().copied().unwrap_or(now);
        started.checked_add(after_start).map_or(now, |at| at.max(now))
    }

    /// Returns the number of open sessions.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Returns how long the drain may take.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms.load(Ordering::Relaxed))
    }

    /// Returns how long requests are still admitted after the stop signal.
    pub fn shutdown_delay(&self) -> Duration {
        Duration::from_millis(self.shutdown_delay_ms.load(Ordering::Relaxed))
    }

    /// Changes how long requests are still admitted after the stop signal.
    pub fn set_shutdown_delay(&self, shutdown_delay: Duration) {
        self.shutdown_delay_ms.store(millis(shutdown_delay), Ordering::Relaxed);
    }

    /// Changes the maximum duration of the drain.
    pub fn set_drain_timeout(&self, drain_timeout: Duration) {
        self.drain_timeout_ms.store(millis(drain_timeout), Ordering::Relaxed);
    }

    /// Counts a session that begins.
    pub fn open_session(&self) {
        self.sessions.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a session that has ended.
    pub fn close_session(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn draining(timeout: Duration, sessions: u32, start: Instant) -> Lifecycle {
        let lifecycle = Lifecycle::new(timeout);
        (0..sessions).for_each(|_| lifecycle.open_session());
        lifecycle.start_drain(start);
        lifecycle
    }

    #[test]
    fn phases_follow_each_other() {
        let lifecycle = Lifecycle::new(SECOND);
        assert_eq!(lifecycle.phase(), Phase::Serving);
        lifecycle.start_drain(Instant::now());
        assert_eq!(lifecycle.phase(), Phase::Draining);
        lifecycle.abort();
        assert_eq!(lifecycle.phase(), Phase::Aborted);
    }

    #[test]
    fn closes_are_spread_over_three_quarters_of_the_drain_and_no_further() {
        let start = Instant::now();
        for (timeout, sessions, last) in [
            // One every 10 ms, if that is fast enough.
            (30, 1, 0),
            (30, 100, 990),
            // Otherwise as far apart as the drain timeout allows.
            (30, 10_000, 22_498),
            (1, 1_000, 749),
        ] {
            let lifecycle = draining(Duration::from_secs(timeout), sessions, start);
            let close_slots: Vec<_> = (0..sessions).map(|_| lifecycle.next_close_slot(start) - start).collect();
            assert!(close_slots.is_sorted() && close_slots[0] == Duration::ZERO);
            let millis = close_slots.last().unwrap().as_millis();
            assert!(millis.abs_diff(last) <= 1, "{timeout} s, {sessions} sessions: {millis} ms");
        }
    }

    #[test]
    fn a_session_that_begins_during_the_drain_closes_within_it() {
        let start = Instant::now();
        let lifecycle = draining(30 * SECOND, 10_000, start);
        (0..10_000).for_each(|_| _ = lifecycle.next_close_slot(start));
        let last = start + (30 * SECOND).mul_f64(SPREAD);
        for late in [0, 1, 10, 22] {
            assert_eq!(lifecycle.next_close_slot(start + late * SECOND), last, "{late} s late");
        }
        // A session that begins after the last slot closes at once.
        for late in [23, 29] {
            let now = start + late * SECOND;
            assert_eq!(lifecycle.next_close_slot(now), now, "{late} s late");
        }
    }

    #[test]
    fn with_a_drain_timeout_of_zero_all_sessions_close_at_once() {
        let start = Instant::now();
        let lifecycle = draining(Duration::ZERO, 3, start);
        assert_eq!([lifecycle.next_close_slot(start), lifecycle.next_close_slot(start)], [start, start]);
    }
}
