//! Moves the bytes of one session: reads, asks the session, writes. All judgement is the session's.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::clock;
use super::lifecycle::Phase;
use super::port::{Flow, Port, Stream};
use super::upgrade::{Gateway, random};
use super::worker::Seat;
use crate::policy::admission::Lease;
use crate::session::{Action, Cause, Outcome, Session, Side, Step};
use crate::telemetry::sessions::{KeptAsked, Parties, RequestId};
use crate::ws::frame::ControlFrame;

/// How much is read at once. The buffer belongs to the thread; a session owns bytes only while they cannot go on.
const READ_BYTES: usize = 64 * 1024;
/// How often a session may turn before others of its thread get theirs.
const TURNS: usize = 8;
/// After how much silence a session drops its ciphers' state, a third of its memory; to make that again costs what a
/// `send` does.
const NAP_AFTER: Duration = Duration::from_secs(5);
/// How long the last bytes of a session may take to reach both sides, and both sides to close their ends.
const LINGER: Duration = Duration::from_secs(2);
/// How long before that a server has to close first, as it must (RFC 6455 section 7.1.1). Who closes first keeps the port for
/// a minute, and a proxy that did would have none left for a busy server. A server that waits for us instead keeps the
/// session's place for so long.
const SERVER_FIRST: Duration = Duration::from_millis(100);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
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
    /// The phase of the process that the session knows of.
    phase: Phase,
    /// The session is over, and both ends are being closed for so long.
    lingers_until: Option<Instant>,
    started: Instant,
    about: About,
    lease: Lease,
    gateway: Arc<Gateway>,
}

impl<C, U> Relay<C, U> {
    /// Begins right after the 101.
    pub fn new(
        lease: Lease,
        session: Session,
        client: Joined<C>,
        upstream: Joined<U>,
        about: About,
        gateway: Arc<Gateway>,
        seat: Seat,
    ) -> Self {
        gateway.lifecycle.open_session();
        let now = clock::now();
        let relay = Self {
            session,
            client: Port::new(client.0, client.1),
            upstream: Port::new(upstream.0, upstream.1),
            seat,
            nap_at: Some(now + NAP_AFTER),
            phase: Phase::Serving,
            lingers_until: None,
            started: now,
            about,
            lease,
            gateway,
        };
        relay.gateway.sessions.log_start(&relay.parties());
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
        self.gateway.sessions.log_end(&self.parties(), age, outcome, &self.session.counts());
    }
}

impl<C, U> Drop for Relay<C, U> {
    fn drop(&mut self) {
        self.gateway.lifecycle.close_session();
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Future for Relay<C, U> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let relay = &mut *self;
        let now = clock::now();
        if relay.phase != relay.gateway.lifecycle.phase() && relay.follow_phase(now) == Phase::Cut {
            return Poll::Ready(());
        }
        if relay.lingers_until.is_none() {
            let Poll::Ready(outcome) = relay.poll_session(cx, now) else { return Poll::Pending };
            relay.log(outcome, now);
            relay.lingers_until = Some(now + SERVER_FIRST + LINGER);
        }
        relay.poll_close(cx, now)
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    fn follow_phase(&mut self, now: Instant) -> Phase {
        self.phase = self.gateway.lifecycle.phase();
        if self.lingers_until.is_none() {
            match self.phase {
                Phase::Serving => {}
                Phase::Draining => self.session.drain_at(self.gateway.lifecycle.take_turn(now)),
                Phase::Cut => {
                    let outcome = self.session.abort(Cause::Cut);
                    self.log(outcome, now);
                }
            }
        }
        self.phase
    }

    fn poll_session(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Outcome> {
        if self.seat.timer.pass(now) {
            self.pass_deadline(now);
        }
        if let Some(outcome) = self.settle(cx, now) {
            return Poll::Ready(outcome);
        }
        // Who has nothing more to read wakes this task when there is, so it is not asked twice.
        let mut asleep = [false; 2];
        for _ in 0..TURNS {
            let mut moved = false;
            for (side, asleep) in Side::BOTH.into_iter().zip(&mut asleep) {
                if *asleep {
                    continue;
                }
                match self.pump(side, cx, now) {
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
            if !moved {
                self.arm_timer(cx, now);
                return Poll::Pending;
            }
            if self.nap_at.replace(now + NAP_AFTER).is_none() {
                self.seat.timer.set(now + NAP_AFTER, now, cx.waker());
            }
        }
        // Who always has something to read gets here every time, and its deadlines pass all the same.
        self.arm_timer(cx, now);
        cx.waker().wake_by_ref();
        Poll::Pending
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

    /// Reads once from a side, if the other side can take it, and does what the session says.
    fn pump(&mut self, from: Side, cx: &mut Context<'_>, now: Instant) -> Pumped {
        let other_is_blocked = self.port(from.other()).is_blocked();
        let waiting = self.session.waiting(from);
        let port = self.port(from);
        if port.ended || waiting || other_is_blocked {
            return Pumped::Held;
        }
        if std::mem::take(&mut port.judge_kept) {
            let kept = std::mem::take(&mut port.kept);
            return self.judge(from, &kept, cx, now);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let port = self.port(from);
            let kept = port.kept.len();
            match port.poll_read(cx, scratch) {
                Poll::Pending => Pumped::Asleep,
                Poll::Ready(Ok(len)) if len > kept => self.judge(from, scratch.get(..len).unwrap_or_default(), cx, now),
                Poll::Ready(read) => {
                    self.port(from).end(read.is_ok());
                    self.session.gone(from, now);
                    Pumped::Moved
                }
            }
        })
    }

    fn judge(&mut self, from: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant) -> Pumped {
        let to = from.other();
        let (mut sent, mut at) = (0, 0);
        let waits = loop {
            if at == bytes.len() {
                break false;
            }
            match self.session.receive(from, bytes.get(at..).unwrap_or_default(), now) {
                Step::Forward(n) => at += n,
                Step::Discard(n) => {
                    self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
                    at += n;
                    sent = at;
                }
                Step::More => break false,
                Step::Wait => break true,
            }
            while let Some(action) = self.session.next_action(now) {
                self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
                sent = at;
                match action {
                    Action::Send { to, frame } => self.send_frame(to, &frame, cx, now),
                    Action::End(outcome) => return Pumped::Ended(outcome),
                }
            }
        };
        self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
        self.port(from).keep(bytes.get(at..).unwrap_or_default(), waits);
        Pumped::Moved
    }

    fn send_frame(&mut self, to: Side, frame: &ControlFrame, cx: &mut Context<'_>, now: Instant) {
        let mask = match to {
            Side::Client => None,
            Side::Upstream => Some(random()),
        };
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

    fn pass_deadline(&mut self, now: Instant) {
        self.session.pass_deadline(now);
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
    }

    /// Sees to it that this task wakes for the session's next deadline, and its nap.
    fn arm_timer(&mut self, cx: &mut Context<'_>, now: Instant) {
        if !self.session.hastened() && self.seat.timer.is_set() {
            return;
        }
        if let Some(at) = [self.session.deadline(), self.nap_at].into_iter().flatten().min() {
            self.seat.timer.set(at, now, cx.waker());
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        let Some(until) = self.lingers_until else { return Poll::Ready(()) };
        self.seat.timer.pass(now);
        let left = until.saturating_duration_since(now);
        let server_has = left.saturating_sub(LINGER);
        let server_first = self.session.has_closed(Side::Upstream) && !server_has.is_zero();
        let closed = Side::BOTH.map(|side| {
            let other_goes_first = side == Side::Upstream && server_first;
            self.port(side).poll_close(cx, other_goes_first).is_ready()
        });
        if closed == [true, true] || left.is_zero() {
            return Poll::Ready(());
        }
        self.seat.timer.set(if server_first { now + server_has } else { until }, now, cx.waker());
        Poll::Pending
    }
}

/// What came of trying to read a side.
enum Pumped {
    /// There is nothing to read, and this task wakes when there is.
    Asleep,
    /// It is not to be read for now.
    Held,
    /// Something was done.
    Moved,
    /// The session is over.
    Ended(Outcome),
}

#[cfg(test)]
mod tests;
