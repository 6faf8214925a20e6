//! Relays the bytes of one session: reads, passes them to the session, writes. The session makes every decision.

pub mod adopted;
mod budget;
mod commands;
pub mod description;
pub mod early_ends;
pub mod facts;
pub mod facts_state;
pub mod freezing;
pub mod image;
mod output_age;
pub mod peer_io;
mod read;
pub mod recheck;
mod releasable;
pub mod revoke;
pub mod registry;
pub mod renewal;
pub mod renewal_count;
pub mod replaced;
mod slow_client;
pub mod stream;
pub mod session_task;
pub mod terms;
pub mod watcher;
pub mod workers;
mod write;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::policy::grant::Lease;
use crate::runtime::clock;
use crate::runtime::cycle::Ticket;
use crate::runtime::entropy::random;
use crate::runtime::guard::LoadGuard;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::session::{Action, CloseReason, Outcome, Session, Side};
use crate::telemetry::events::Events;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::worker::SessionMetrics;
use crate::telemetry::sessions::{SessionEnd, Sessions};
use budget::{Budget, ReadOutcome};
use description::RateWindow;
use early_ends::EarlyEnds;
use facts::SessionFacts;
use freezing::FreezeRequest;
use output_age::SlowClient;
use peer_io::PeerIo;
use registry::SessionGuard;
use releasable::Releasable;
use stream::Stream;
use watcher::Watcher;

/// The maximum number of times that a passed deadline is postponed because the kernel has an event that tokio has not
/// reported.
const POSTPONED_MAX: u8 = 8;
/// The time without input after which a session drops the state of its ciphers, a third of its memory. Deriving it
/// again costs as much as a `send`.
const HIBERNATE_AFTER: Duration = Duration::from_secs(5);
/// The time in which the last bytes of a session must reach both sides, and both sides must close their ends.
const LINGER: Duration = Duration::from_secs(2);
/// Grace period before [`LINGER`] for the server to close first, as it must (RFC 6455 section 7.1.1). The side that
/// closes first holds the port for a minute, and a proxy that did would run out of ports for a busy server. If the
/// server waits for us to close instead, the session keeps its slot for this time.
const SERVER_CLOSES_FIRST: Duration = Duration::from_millis(100);

/// The parts of the process that sessions use.
#[derive(Debug)]
pub struct Process {
    /// The phase of the process.
    pub lifecycle: Lifecycle,
    /// The log of sessions.
    pub sessions: Sessions,
    /// The metrics of the process.
    pub metrics: Arc<Metrics>,
    /// The last ends of sessions and rejections.
    pub events: Events,
    /// The sessions whose server disconnects soon after its 101.
    pub early_ends: EarlyEnds,
}

/// A stream, and the bytes that were read from it after its handshake.
#[derive(Debug)]
pub struct Prefixed<S>(pub S, pub Vec<u8>);

/// The guards of a relayed session.
#[derive(Debug)]
pub struct RelayGuards {
    /// Its timer and its registration.
    pub session: SessionGuard,
    /// The guard that counts its connection in the load of the worker. Several sessions of one connection could share
    /// it.
    pub connection: LoadGuard,
    /// The guard that counts it in the metrics of the worker.
    pub metrics: SessionMetrics,
}

/// A relayed session: a future that moves the bytes of both directions, and logs the outcome when the session is over.
///
/// It requires the [`Lease`] of an admitted request. Dropping it releases the slots of that lease.
#[derive(Debug)]
pub struct Relay<C, U> {
    session: Session,
    client: PeerIo<C>,
    upstream: PeerIo<Releasable<U>>,
    guard: SessionGuard,
    load: LoadGuard,
    metrics: SessionMetrics,
    /// The time at which the session hibernates, unless bytes are read before. `None` while it hibernates.
    hibernate_at: Option<Instant>,
    /// The time of the next disconnect check of a client that is not read.
    watch_at: Option<Instant>,
    /// The number of times that the passed deadline was postponed.
    postponed: u8,
    /// Whether the client was pinged because it had shut down its direction while it was throttled.
    probed: bool,
    /// Its position in the queue of tasks with more to do.
    ticket: Ticket,
    /// The phase of the process that the session last acted on.
    phase: Phase,
    /// The end of the time for closing both connections. `None` until the session is over.
    lingers_until: Option<Instant>,
    /// Earlier counts of a session that forwards messages.
    rates: Option<Box<RateWindow>>,
    /// The state of a client that is slower than its upstream.
    slow: Option<Box<SlowClient>>,
    /// The operators that watch its frames.
    watchers: Vec<Watcher>,
    facts: Arc<SessionFacts>,
    lease: Lease,
    open: OpenSession,
    process: Arc<Process>,
}

/// Counts a session as open until it is dropped.
#[derive(Debug)]
struct OpenSession(Arc<Process>);

impl OpenSession {
    fn new(process: &Arc<Process>) -> Self {
        process.lifecycle.open_session();
        Self(Arc::clone(process))
    }
}

impl Drop for OpenSession {
    fn drop(&mut self) {
        self.0.lifecycle.close_session();
    }
}

/// Why a relay stops.
#[derive(Debug)]
pub enum RelayExit {
    /// The session is over, and both connections are closed.
    Ended,
    /// The session is to be frozen. The relay continues if it is polled again instead.
    Freeze(FreezeRequest),
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Creates the relay right after the 101, and logs the start of the session.
    pub fn new(
        lease: Lease,
        session: Session,
        client: Prefixed<C>,
        upstream: Prefixed<U>,
        facts: Arc<SessionFacts>,
        process: Arc<Process>,
        guards: RelayGuards,
    ) -> Self {
        let RelayGuards { session: guard, connection: load, metrics } = guards;
        let now = clock::now();
        let relay = Self {
            session,
            client: PeerIo::new(client.0, client.1),
            upstream: PeerIo::new(Releasable(Some(upstream.0)), upstream.1),
            guard,
            load,
            metrics,
            hibernate_at: Some(clock::after(now, HIBERNATE_AFTER)),
            watch_at: None,
            postponed: 0,
            probed: false,
            ticket: Ticket::default(),
            phase: Phase::Serving,
            lingers_until: None,
            rates: None,
            slow: None,
            watchers: Vec::new(),
            facts,
            lease,
            open: OpenSession::new(&process),
            process,
        };
        relay.limit_unsent();
        relay.process.sessions.log_start(&relay.facts.log_summary());
        relay
    }

    /// Logs and counts the end of the session.
    fn log(&mut self, outcome: Outcome, now: Instant) {
        let age = now.saturating_duration_since(self.facts.started);
        let reported: Vec<_> = self.session.reported().collect();
        let (counts, reason) = (self.session.counts(), self.session.reason_of(outcome.cause));
        let end = SessionEnd { age, outcome, reason, counts, dropped: self.dropped(), reported: &reported };
        let Process { sessions, events, .. } = &*self.process;
        let summary = self.facts.log_summary();
        sessions.log_end(&summary, &end);
        events.push_end(&summary, &end, sessions.identities(), clock::unix());
        self.metrics.end(&outcome, age);
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Future for Relay<C, U> {
    type Output = RelayExit;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<RelayExit> {
        let relay = &mut *self;
        let now = clock::now();
        if relay.phase != relay.process.lifecycle.phase() && relay.follow_phase(now) == Phase::Aborted {
            return Poll::Ready(RelayExit::Ended);
        }
        if let Some(request) = relay.run_commands(cx, now) {
            return Poll::Ready(RelayExit::Freeze(request));
        }
        if relay.lingers_until.is_none() {
            let polled = relay.poll_session(cx, now);
            relay.metrics.count(&relay.session.counts(), relay.session.on_excess());
            if relay.session.has_new_reports() {
                relay.count_reports(now);
            }
            let Poll::Ready(outcome) = polled else { return Poll::Pending };
            relay.count_dropped(now);
            relay.log(outcome, now);
            relay.log_undelivered();
            // Only the two connections remain to be closed. That must not keep the client from its next session.
            relay.lease.release_client();
            relay.lingers_until = Some(clock::after(now, SERVER_CLOSES_FIRST.saturating_add(LINGER)));
        }
        relay.poll_close(cx, now).map(|()| RelayExit::Ended)
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    fn follow_phase(&mut self, now: Instant) -> Phase {
        self.phase = self.process.lifecycle.phase();
        if self.lingers_until.is_none() {
            match self.phase {
                Phase::Serving => {}
                Phase::Draining => self.session.drain_at(self.process.lifecycle.next_close_slot(now)),
                Phase::Aborted => {
                    let outcome = self.session.abort(CloseReason::Aborted);
                    self.log(outcome, now);
                }
            }
        }
        self.phase
    }

    fn poll_session(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Outcome> {
        let budget = Budget::new(now);
        let before = self.session.counts();
        let mut due = self.guard.timer.pass(now) || self.postponed > 0;
        // A side that returned `Pending` has registered our waker, so it is not read again in this poll.
        let mut pending = [false; 2];
        if let Some(outcome) = self.drive_output(cx, now) {
            return Poll::Ready(outcome);
        }
        loop {
            let mut progress = false;
            for (side, pending) in Side::BOTH.into_iter().zip(&mut pending) {
                if *pending {
                    continue;
                }
                match self.read_side(side, cx, now, &budget) {
                    ReadOutcome::Ended(outcome) => return Poll::Ready(outcome),
                    ReadOutcome::Pending => *pending = true,
                    ReadOutcome::Paused => {}
                    ReadOutcome::Progress => {
                        progress = true;
                        if let Some(outcome) = self.drive_output(cx, now) {
                            return Poll::Ready(outcome);
                        }
                    }
                }
            }
            if progress {
                let counts = self.session.counts();
                let rates = self.rates.get_or_insert_with(|| Box::new(RateWindow::new(&before, now)));
                rates.record(&counts, now);
            }
            let hibernate_at = clock::after(now, HIBERNATE_AFTER);
            if progress && self.hibernate_at.replace(hibernate_at).is_none() {
                self.guard.timer.set(hibernate_at, now, cx.waker());
            }
            if progress && !budget.is_spent() {
                continue;
            }
            // Bytes that have arrived are read before a deadline is handled, as far as the budget allows.
            if std::mem::take(&mut due) && self.handle_timeout(now) {
                if let Some(outcome) = self.drive_output(cx, now) {
                    return Poll::Ready(outcome);
                }
                continue;
            }
            self.arm_timer(cx, now);
            if progress || self.postponed > 0 {
                self.ticket.wake_in_order(cx.waker());
            }
            return Poll::Pending;
        }
    }

    /// Executes the actions of the session, and flushes pending output.
    #[inline]
    fn drive_output(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
        if self.session.may_act() || self.client.has_to_flush() || self.upstream.has_to_flush() {
            self.run_actions(cx, now)
        } else {
            None
        }
    }

    fn run_actions(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
        loop {
            while let Some(action) = self.session.poll_action(now) {
                match action {
                    Action::Send { to, frame } => self.send_frame(to, &frame, cx, now),
                    Action::SendMessage(message) => self.send(Side::Client, &message.encode(), cx, now),
                    Action::UpstreamLost(spread) => self.release_upstream(spread, cx, now),
                    Action::End(outcome) => return Some(outcome),
                }
            }
            let changed = Side::BOTH.map(|side| self.flush(side, cx, now));
            // A side that accepts bytes again, or can no longer be written, may cause another action.
            if changed == [false, false] || !self.session.may_act() {
                return None;
            }
        }
    }

    /// Closes the connection to a lost upstream. Its client is closed within this span, at a time that is its own among
    /// the sessions that the server loses together. Its slots are kept until then: the client is still connected.
    fn release_upstream(&mut self, spread: Duration, cx: &mut Context<'_>, now: Instant) {
        self.upstream.release(cx);
        let close_at = self.lease.lose_server(spread, u16::from_be_bytes(random()), now);
        self.session.close_client_at(close_at, now);
    }

    fn peer(&mut self, side: Side) -> &mut PeerIo<dyn Stream> {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// Handles the passed deadlines. Returns false if that is postponed because the kernel has an event that tokio has
    /// not reported.
    fn handle_timeout(&mut self, now: Instant) -> bool {
        if self.postponed < POSTPONED_MAX
            && Side::BOTH.into_iter().any(|side| self.session.is_overdue(side, now) && self.peer(side).has_event())
        {
            self.postponed += 1;
            return false;
        }
        self.postponed = 0;
        for side in Side::BOTH {
            if self.session.is_pong_overdue(side, now) && self.peer(side).takes_bytes_before_ping() {
                self.session.extend_pong(side, now);
            }
        }
        if self.session.is_client_overdue(now) {
            self.judge_slow_client(now);
        }
        self.session.handle_timeout(now);
        self.log_undelivered();
        if self.watch_at.is_some_and(|at| at <= now) {
            self.watch_at = None;
        }
        if self.hibernate_at.is_some_and(|at| at <= now) {
            self.hibernate_at = None;
            self.client.hibernate();
            self.rates = None;
        }
        // Output that is pending for a disconnected side would keep the other side, and so its Close, from being read.
        for side in Side::BOTH {
            // A lost upstream may be sent a last Close before it is released.
            let is_released_later = side == Side::Upstream && self.session.is_upstream_lost();
            if self.session.is_disconnected(side) && !is_released_later {
                self.peer(side).end(false);
            }
        }
        true
    }

    /// Sets the timer to the next deadline of the session, of its hibernation or of the check for a disconnect.
    fn arm_timer(&mut self, cx: &mut Context<'_>, now: Instant) {
        if !self.session.deadline_changed() && self.guard.timer.is_set() {
            return;
        }
        if let Some(at) = [self.session.poll_timeout(), self.hibernate_at, self.watch_at].into_iter().flatten().min() {
            self.guard.timer.set(at, now, cx.waker());
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(until) = self.lingers_until else { return Poll::Ready(()) };
        self.guard.timer.pass(now);
        let left = until.saturating_duration_since(now);
        let server_has = left.saturating_sub(LINGER);
        let server_closes_first = self.session.has_closed(Side::Upstream) && !server_has.is_zero();
        let mut ticket = std::mem::take(&mut self.ticket);
        let closed = Side::BOTH.map(|side| {
            let other_closes_first = side == Side::Upstream && server_closes_first;
            self.peer(side).poll_close(cx, other_closes_first, &mut ticket).is_ready()
        });
        self.ticket = ticket;
        if closed == [true, true] || left.is_zero() {
            return Poll::Ready(());
        }
        self.guard.timer.set(if server_closes_first { clock::after(now, server_has) } else { until }, now, cx.waker());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
