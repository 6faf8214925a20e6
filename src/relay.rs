//! Moves the bytes of one session: reads, asks the session, writes. All judgement is the session's.

mod budget;
pub mod port;
mod read;

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::policy::admission::Lease;
use crate::runtime::clock;
use crate::runtime::cycle::Ticket;
use crate::runtime::entropy::random;
use crate::runtime::guard::Seat;
use crate::runtime::lifecycle::{Lifecycle, Phase};
use crate::session::{Action, Cause, Outcome, Session, Side};
use crate::telemetry::request::{KeptAsked, RequestId};
use crate::telemetry::sessions::{Parties, Sessions};
use crate::ws::frame::{ControlFrame, Opcode};
use budget::{Budget, Pumped};
use port::{Flow, Port, Stream};

/// How often a deadline that has passed is looked at again because the kernel has an event that tokio has not reported.
const POSTPONED_MAX: u8 = 8;
/// After how much silence a session drops its ciphers' state, a third of its memory; to make that again costs what a
/// `send` does.
const NAP_AFTER: Duration = Duration::from_secs(5);
/// How long the last bytes of a session may take to reach both sides, and both sides to close their ends.
const LINGER: Duration = Duration::from_secs(2);
/// How long before that a server has to close first, as it must (RFC 6455 section 7.1.1). Who closes first keeps the port for
/// a minute, and a proxy that did would have none left for a busy server. A server that waits for us instead keeps the
/// session's place for so long.
const SERVER_FIRST: Duration = Duration::from_millis(100);

/// What a session needs of the process.
#[derive(Debug)]
pub struct Process {
    /// Serving, draining, cut.
    pub lifecycle: Lifecycle,
    /// The log of sessions.
    pub sessions: Sessions,
}

/// What the log says of a session beside how it went.
#[derive(Debug)]
pub struct About {
    /// The client's address.
    pub client: IpAddr,
    /// The upstream's server.
    pub server: Arc<str>,
    /// The id of its request.
    pub request_id: RequestId,
    /// What it asked for.
    pub asked: KeptAsked,
}

/// A stream, and what was read from it behind its handshake.
#[derive(Debug)]
pub struct Joined<S>(pub S, pub Vec<u8>);

/// One session on its way: the future that moves both directions, and logs how it went when it is over.
///
/// Only who was admitted gets one, and what the admission counts is given back when it is dropped.
#[derive(Debug)]
pub struct Relay<C, U> {
    session: Session,
    client: Port<C>,
    upstream: Port<U>,
    seat: Seat,
    /// When the session hibernates, if nothing is read before. Absent: it does.
    nap_at: Option<Instant>,
    /// When a client that waits for its rate is looked at again.
    watch_at: Option<Instant>,
    /// How often the deadline that has passed was postponed.
    postponed: u8,
    /// A client that closed its direction while it waited was pinged.
    probed: bool,
    /// Its place among the sessions that have more to do.
    ticket: Ticket,
    /// The phase of the process that the session knows of.
    phase: Phase,
    /// The session is over, and both ends are being closed for so long.
    lingers_until: Option<Instant>,
    started: Instant,
    about: About,
    lease: Lease,
    process: Arc<Process>,
}

impl<C, U> Relay<C, U> {
    /// Begins right after the 101.
    pub fn new(
        lease: Lease,
        session: Session,
        client: Joined<C>,
        upstream: Joined<U>,
        about: About,
        process: Arc<Process>,
        seat: Seat,
    ) -> Self {
        process.lifecycle.open_session();
        let now = clock::now();
        let relay = Self {
            session,
            client: Port::new(client.0, client.1),
            upstream: Port::new(upstream.0, upstream.1),
            seat,
            nap_at: Some(clock::after(now, NAP_AFTER)),
            watch_at: None,
            postponed: 0,
            probed: false,
            ticket: Ticket::default(),
            phase: Phase::Serving,
            lingers_until: None,
            started: now,
            about,
            lease,
            process,
        };
        relay.process.sessions.log_start(&relay.parties());
        relay
    }

    fn parties(&self) -> Parties<'_> {
        Parties {
            request_id: self.about.request_id,
            route: &self.lease.route().name,
            subject: self.lease.subject(),
            client: self.about.client,
            server: &self.about.server,
            asked: self.about.asked.asked(),
        }
    }

    fn log(&self, outcome: Outcome, now: Instant) {
        let age = now.saturating_duration_since(self.started);
        self.process.sessions.log_end(&self.parties(), age, outcome, &self.session.counts());
    }
}

impl<C, U> Drop for Relay<C, U> {
    fn drop(&mut self) {
        self.process.lifecycle.close_session();
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Future for Relay<C, U> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let relay = &mut *self;
        let now = clock::now();
        if relay.phase != relay.process.lifecycle.phase() && relay.follow_phase(now) == Phase::Cut {
            return Poll::Ready(());
        }
        if relay.lingers_until.is_none() {
            let Poll::Ready(outcome) = relay.poll_session(cx, now) else { return Poll::Pending };
            relay.log(outcome, now);
            // What is left is to close two connections, which keeps no client from its next session.
            relay.lease.release_client();
            relay.lingers_until = Some(clock::after(now, SERVER_FIRST.saturating_add(LINGER)));
        }
        relay.poll_close(cx, now)
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    fn follow_phase(&mut self, now: Instant) -> Phase {
        self.phase = self.process.lifecycle.phase();
        if self.lingers_until.is_none() {
            match self.phase {
                Phase::Serving => {}
                Phase::Draining => self.session.drain_at(self.process.lifecycle.take_turn(now)),
                Phase::Cut => {
                    let outcome = self.session.abort(Cause::Cut);
                    self.log(outcome, now);
                }
            }
        }
        self.phase
    }

    fn poll_session(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Outcome> {
        let budget = Budget::new(now);
        let mut due = self.seat.timer.pass(now) || self.postponed > 0;
        // A side with nothing more to read wakes this task when there is, so it is not asked twice.
        let mut asleep = [false; 2];
        if let Some(outcome) = self.settle(cx, now) {
            return Poll::Ready(outcome);
        }
        loop {
            let mut moved = false;
            for (side, asleep) in Side::BOTH.into_iter().zip(&mut asleep) {
                if *asleep {
                    continue;
                }
                match self.pump(side, cx, now, &budget) {
                    Pumped::Ended(outcome) => return Poll::Ready(outcome),
                    Pumped::Asleep => *asleep = true,
                    Pumped::Held => {}
                    Pumped::Moved => {
                        moved = true;
                        if let Some(outcome) = self.settle(cx, now) {
                            return Poll::Ready(outcome);
                        }
                    }
                }
            }
            let nap_at = clock::after(now, NAP_AFTER);
            if moved && self.nap_at.replace(nap_at).is_none() {
                self.seat.timer.set(nap_at, now, cx.waker());
            }
            if moved && !budget.is_spent() {
                continue;
            }
            // All that has arrived was read before a deadline is judged, or as much as the budget allows.
            if std::mem::take(&mut due) && self.pass_deadline(now) {
                if let Some(outcome) = self.settle(cx, now) {
                    return Poll::Ready(outcome);
                }
                continue;
            }
            self.arm_timer(cx, now);
            if moved || self.postponed > 0 {
                self.ticket.wake_in_turn(cx.waker());
            }
            return Poll::Pending;
        }
    }

    /// Does what the session wants, and sends what waits.
    #[inline]
    fn settle(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
        if self.session.may_act() || self.client.has_to_flush() || self.upstream.has_to_flush() {
            self.act(cx, now)
        } else {
            None
        }
    }

    fn act(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
        loop {
            while let Some(action) = self.session.next_action(now) {
                match action {
                    Action::Send { to, frame } => self.send_frame(to, &frame, cx, now),
                    Action::End(outcome) => return Some(outcome),
                }
            }
            let failed = Side::BOTH.map(|side| self.flush(side, cx, now));
            // What a side can be told no longer may leave the session something to do.
            if failed == [false, false] {
                return None;
            }
        }
    }

    fn send_frame(&mut self, to: Side, frame: &ControlFrame, cx: &mut Context<'_>, now: Instant) {
        let mask = match to {
            Side::Client => None,
            Side::Upstream => Some(random()),
        };
        if frame.opcode() == Opcode::Ping {
            self.port(to).note_ping();
        }
        let mut bytes = Vec::with_capacity(64);
        frame.encode(mask, &mut bytes);
        self.send(to, &bytes, cx, now);
    }

    fn send(&mut self, to: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant) {
        if !bytes.is_empty() && self.port(to).send(cx, bytes).is_err() {
            self.deafen(to, now);
        }
    }

    /// Whether nothing can be sent to that side any more, which is news.
    fn flush(&mut self, side: Side, cx: &mut Context<'_>, now: Instant) -> bool {
        let flow = self.port(side).flush(cx);
        match flow {
            Flow::Free | Flow::Stuck => {}
            Flow::Freed => self.session.unblocked(side, now),
            Flow::Slow => self.session.blocked(side, now),
            Flow::Failed => self.deafen(side, now),
        }
        flow == Flow::Failed
    }

    /// Writing failed. What the side sent before that is still read: a server may have said all and closed.
    fn deafen(&mut self, side: Side, now: Instant) {
        self.port(side).deafen();
        self.session.deaf(side, now);
    }

    fn port(&mut self, side: Side) -> &mut Port<dyn Stream> {
        match side {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }

    /// Does what is due; false if that is postponed because the kernel has an event that tokio has not reported.
    fn pass_deadline(&mut self, now: Instant) -> bool {
        if self.postponed < POSTPONED_MAX
            && Side::BOTH.into_iter().any(|side| self.session.is_overdue(side, now) && self.port(side).has_event())
        {
            self.postponed += 1;
            return false;
        }
        self.postponed = 0;
        for side in Side::BOTH {
            if self.session.is_pong_overdue(side, now) && self.port(side).takes_bytes_before_ping() {
                self.session.extend_pong(side, now);
            }
        }
        self.session.pass_deadline(now);
        if self.watch_at.is_some_and(|at| at <= now) {
            self.watch_at = None;
        }
        if self.nap_at.is_some_and(|at| at <= now) {
            self.nap_at = None;
            self.client.hibernate();
        }
        // What waits for a side that was given up would keep the other one from being read, and its Close with it.
        for side in Side::BOTH {
            if self.session.is_gone(side) {
                self.port(side).end(false);
            }
        }
        true
    }

    /// Sees to it that this task wakes for the session's next deadline, and its nap.
    fn arm_timer(&mut self, cx: &mut Context<'_>, now: Instant) {
        if !self.session.hastened() && self.seat.timer.is_set() {
            return;
        }
        if let Some(at) = [self.session.deadline(), self.nap_at, self.watch_at].into_iter().flatten().min() {
            self.seat.timer.set(at, now, cx.waker());
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(until) = self.lingers_until else { return Poll::Ready(()) };
        self.seat.timer.pass(now);
        let left = until.saturating_duration_since(now);
        let server_has = left.saturating_sub(LINGER);
        let server_first = self.session.has_closed(Side::Upstream) && !server_has.is_zero();
        let mut ticket = std::mem::take(&mut self.ticket);
        let closed = Side::BOTH.map(|side| {
            let other_goes_first = side == Side::Upstream && server_first;
            self.port(side).poll_close(cx, other_goes_first, &mut ticket).is_ready()
        });
        self.ticket = ticket;
        if closed == [true, true] || left.is_zero() {
            return Poll::Ready(());
        }
        self.seat.timer.set(if server_first { clock::after(now, server_has) } else { until }, now, cx.waker());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests;
