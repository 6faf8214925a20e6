//! Finds a server for a request, and lets the request wait for one: while every server is full, `admit_rate` is used up,
//! or no server is up.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep};

use super::rates::{AdmitRates, Cell, seconds_for};
use crate::balance::queue::Ticket;
use crate::balance::{Attempt, NoServer, PendingRequest, Pool, ServerSession};
use crate::policy::rejection::Rejection;
use crate::runtime::clock::after;
use crate::runtime::entropy::random;

/// The longest time after which the first request in the queue looks again, whether or not it is woken: the times for
/// which servers are passed over end without an event.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A request that looks for a server. It leaves the queue when dropped.
pub(super) struct Seeker<'a, F> {
    /// The pool whose servers it tries: that of its snapshot or, once it has waited, the one in use.
    pool: Arc<Pool>,
    /// Returns the attempt of the request at the servers of a pool.
    attempt_at: F,
    attempt: Attempt,
    /// The tried servers that it may try again: see [`Pool::note_left`].
    may_recover: Vec<usize>,
    rates: &'a AdmitRates,
    clock: fn() -> Instant,
    /// Whether it needs a permission of `admit_rate` to try a server.
    is_paced: bool,
    /// The permission to try a server, which it did not use yet.
    cell: Option<Cell>,
    position: Option<Position>,
    /// How long it has waited.
    pub(super) waited: Duration,
}

/// A position in the queue.
struct Position {
    ticket: Ticket,
    since: Instant,
    /// Whether no server was up since then, so that the request is held.
    held: bool,
}

/// The server of a request.
pub(super) struct Found {
    /// The pool of the server.
    pub(super) pool: Arc<Pool>,
    /// The request as a session of the server.
    pub(super) session: ServerSession,
    /// The request as one that is pending.
    pub(super) pending: PendingRequest,
}

/// Why a request finds no server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Blocked {
    /// Every server is full or draining.
    Full,
    /// `admit_rate` is used up.
    Rate,
    /// `max_pending_requests` requests are pending.
    Busy,
    /// The request has tried every server.
    AllTried,
    /// No server is up.
    Down,
}

impl Blocked {
    /// Returns the rejection of a request that tried no server, and its further text for the log.
    pub(super) fn rejection(self, pool: &Pool) -> (Rejection, &'static str) {
        match self {
            Self::Full => (Rejection::UpstreamFull { retry_after_secs: within_spread(pool) }, ""),
            Self::Rate => {
                let waiting = pool.queue().waiting();
                let seconds = pool.config().admit_rate.map_or(1, |rate| seconds_for(rate, waiting));
                (
                    Rejection::UpstreamRate {
                        retry_after_secs: seconds.saturating_add(below(seconds.saturating_add(1))),
                    },
                    "",
                )
            }
            Self::Busy => (Rejection::UpstreamBusy { retry_after_secs: within_spread(pool) }, ""),
            Self::AllTried => (Rejection::Unreachable, ""),
            Self::Down if pool.config().servers.is_empty() => (Rejection::Unreachable, "the upstream has no server"),
            Self::Down => (Rejection::Unreachable, "no server is up"),
        }
    }
}

/// Returns a number of seconds from 1 to `reconnect_spread`, at random, so that clients that are rejected together do not
/// return together.
fn within_spread(pool: &Pool) -> u64 {
    below(pool.config().loss.reconnect_spread.as_secs()).saturating_add(1)
}

/// Returns a random number below a limit; 0 if that is 0.
fn below(limit: u64) -> u64 {
    u64::from_be_bytes(random()).checked_rem(limit).unwrap_or_default()
}

impl<'a, F: Fn(&Pool) -> Attempt> Seeker<'a, F> {
    /// Creates the state of a request that has tried no server.
    pub(super) fn new(
        pool: &Arc<Pool>,
        attempt_at: F,
        (rates, is_paced): (&'a AdmitRates, bool),
        clock: fn() -> Instant,
    ) -> Self {
        let attempt = attempt_at(pool);
        Self {
            pool: Arc::clone(pool),
            attempt_at,
            attempt,
            may_recover: Vec::new(),
            rates,
            clock,
            is_paced,
            cell: None,
            position: None,
            waited: Duration::ZERO,
        }
    }

    /// Returns the pool whose servers it tries.
    pub(super) fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the servers that it has tried.
    pub(super) fn attempt(&mut self) -> &mut Attempt {
        &mut self.attempt
    }

    /// Whether it is held until a server is up.
    pub(super) fn is_held(&self) -> bool {
        self.position.as_ref().is_some_and(|position| position.held)
    }

    /// Notes that the server that it has found failed the request.
    pub(super) fn note_failed(&mut self) {
        let now_ms = self.pool.millis_at((self.clock)());
        self.pool.note_left(&self.attempt, &mut self.may_recover, now_ms);
    }

    /// Waits before a request that is held looks for a server again.
    pub(super) async fn pause_held(&mut self) {
        let began = (self.clock)();
        sleep(self.attempt.held_pause()).await;
        self.add_wait(began);
    }

    fn add_wait(&mut self, began: Instant) {
        self.waited = self.waited.saturating_add((self.clock)().saturating_duration_since(began));
    }

    /// Returns why a request that has failed, and may not try another server, does not wait for one either.
    pub(super) fn final_reason(&self) -> Blocked {
        if self.pool.rest_is_full(&self.attempt) { Blocked::Full } else { Blocked::AllTried }
    }

    /// Holds a request that has failed. Returns false if it is not to be held: `hold_upgrades` is off, a server is up, or
    /// the queue is full.
    pub(super) fn hold(&mut self) -> bool {
        if self.pool.config().hold_upgrades.is_none() || !self.pool.is_down() {
            return false;
        }
        let is_queued = self.join();
        self.position.iter_mut().for_each(|position| position.held = true);
        is_queued
    }

    /// Returns the server that the request tries next. It waits if a request is waiting already, or none is available.
    /// A retry does not wait behind others: if it has no position yet, they came later. It needs no further cell of
    /// `admit_rate`, unless it waits.
    ///
    /// # Errors
    /// If no server becomes available in time, or the request may not wait.
    pub(super) async fn next(&mut self, is_retry: bool) -> Result<Found, Blocked> {
        let must_wait = self.position.is_some() || !is_retry && !self.pool.queue().is_empty();
        if !must_wait {
            match self.look(is_retry) {
                Err((Blocked::Full | Blocked::Rate, _)) => {}
                Err((Blocked::Down, _)) if self.hold() => {}
                outcome => return outcome.map_err(|(blocked, _)| blocked),
            }
        }
        if !self.join() {
            return Err(self.reason());
        }
        let began = (self.clock)();
        let pause = || sleep(LOOK_AGAIN);
        let (mut deadline, mut look_again) = (pin!(pause()), pin!(pause()));
        let found = poll_fn(|cx| self.poll_wait(cx, deadline.as_mut(), look_again.as_mut(), is_retry)).await;
        self.add_wait(began);
        found
    }

    /// Takes the last position in the queue, unless the request has a position already. A request that is held goes behind
    /// the others, so that a few whose requests the servers always break do not take every attempt. Returns false if the
    /// queue is full.
    fn join(&mut self) -> bool {
        match &mut self.position {
            Some(position) if position.held => position.ticket.step_in_last(),
            Some(position) => position.ticket.step_in(),
            None => {
                let ticket = self.pool.queue().join(self.pool.config().queue_max);
                let since = (self.clock)();
                self.position = ticket.map(|ticket| Position { ticket, since, held: false });
            }
        }
        self.position.is_some()
    }

    fn poll_wait(
        &mut self,
        cx: &mut Context<'_>,
        mut deadline: Pin<&mut Sleep>,
        mut look_again: Pin<&mut Sleep>,
        is_retry: bool,
    ) -> Poll<Result<Found, Blocked>> {
        // Before the deadline is judged: it depends on whether a server of the pool in use is up.
        self.use_replacement();
        let now = (self.clock)();
        let until = self.deadline();
        if now >= until {
            let reason = self.reason();
            self.position = None;
            return Poll::Ready(Err(reason));
        }
        set(deadline.as_mut(), until.saturating_duration_since(now));
        if deadline.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        let is_first = self.position.as_ref().is_some_and(|position| position.ticket.is_first(cx.waker()));
        if !is_first {
            return Poll::Pending;
        }
        match self.look(is_retry) {
            Err((Blocked::AllTried, _)) => Poll::Ready(Err(Blocked::AllTried)),
            Err((_, pause)) => {
                set(look_again.as_mut(), pause);
                if look_again.poll(cx).is_ready() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
            Ok(found) => {
                self.position.iter().for_each(|position| position.ticket.step_out());
                Poll::Ready(Ok(found))
            }
        }
    }

    /// Returns when the request has waited long enough: `hold_upgrades` while no server is up, and `queue_timeout` in
    /// addition once one is; only `queue_timeout` if one was all the time.
    fn deadline(&mut self) -> Instant {
        let config = self.pool.config();
        let Some(position) = &mut self.position else { return (self.clock)() };
        let Some(hold) = config.hold_upgrades else { return after(position.since, config.queue_timeout) };
        let is_down = self.pool.is_down();
        position.held |= is_down;
        match (is_down, position.held) {
            (true, _) => after(position.since, hold),
            (false, true) => after(position.since, hold.saturating_add(config.queue_timeout)),
            (false, false) => after(position.since, config.queue_timeout),
        }
    }

    /// Goes over to the pool that has replaced its own.
    fn use_replacement(&mut self) {
        if let Some(pool) = self.pool.replacement() {
            self.attempt = (self.attempt_at)(&pool);
            self.may_recover.clear();
            self.pool = pool;
        }
    }

    /// Looks for a server once. The error has the time after which to look again.
    fn look(&mut self, is_retry: bool) -> Result<Found, (Blocked, Duration)> {
        let now = (self.clock)();
        let config = self.pool.config();
        let is_waiting = self.position.is_some();
        if self.is_paced && self.cell.is_none() && (is_waiting || !is_retry) {
            let wait = |until: Instant| (Blocked::Rate, until.saturating_duration_since(now));
            self.cell = Some(self.rates.take(config, now).map_err(wait)?);
        }
        let pending = self.pool.begin_request().ok_or((Blocked::Busy, LOOK_AGAIN))?;
        let now_ms = self.pool.millis_at(now);
        // A retry goes to another server, also after a wait.
        let is_paced = is_waiting && config.hold_upgrades.is_some() && (self.is_held() || !is_retry);
        let picked = if is_paced {
            self.pool.choose_paced(&mut self.attempt, now_ms)
        } else {
            if is_waiting {
                self.pool.forget_recovered(&mut self.attempt, &mut self.may_recover, now_ms);
            }
            self.pool.choose(&mut self.attempt, now_ms)
        };
        let session = picked.map(|picked| picked.session).map_err(|none| match none {
            NoServer::Full => (Blocked::Full, LOOK_AGAIN),
            NoServer::AllTried if self.pool.config().servers.is_empty() => (Blocked::Down, LOOK_AGAIN),
            NoServer::AllTried => (Blocked::AllTried, LOOK_AGAIN),
        })?;
        self.cell.take().into_iter().for_each(Cell::spend);
        Ok(Found { pool: Arc::clone(&self.pool), session, pending })
    }

    /// Returns why a request that cannot wait, or cannot wait any longer, finds no server.
    fn reason(&self) -> Blocked {
        let config = self.pool.config();
        if config.hold_upgrades.is_some() && self.pool.is_down() {
            Blocked::Down
        } else if self.pool.pending() >= config.max_pending_requests {
            Blocked::Busy
        } else if self.is_paced && config.admit_rate.is_some() && self.pool.has_capacity() {
            Blocked::Rate
        } else {
            Blocked::Full
        }
    }
}

/// Sets the time from now on until a timer ends.
fn set(timer: Pin<&mut Sleep>, span: Duration) {
    let now = tokio::time::Instant::from_std(crate::runtime::clock::now());
    timer.reset(now.checked_add(span).unwrap_or(now));
}
