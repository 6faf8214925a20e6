//! Moves the bytes of one session: reads, asks the session, writes. All judgement is the session's.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::clock;
use super::cycle;
use super::lifecycle::Phase;
use super::port::{Flow, Port, Stream};
use super::upgrade::{Gateway, random};
use super::worker::Seat;
use crate::policy::admission::Lease;
use crate::session::{Action, Cause, Outcome, Session, Side, Step};
use crate::telemetry::sessions::{KeptAsked, Parties, RequestId};
use crate::ws::frame::{ControlFrame, Opcode};

/// How much is read at once. The buffer belongs to the thread; a session owns bytes only while they cannot go on.
const READ_BYTES: usize = 64 * 1024;
/// How long one poll of a session may take before the other sessions of its thread get theirs. A poll ends after the read in
/// which this has passed, so it may take one read longer.
const POLL_BUDGET: Duration = Duration::from_micros(250);
/// How many frames are judged before the clock is read again; a frame costs about half a microsecond.
const FRAMES_PER_CLOCK: usize = 64;
/// How often a deadline that has passed is looked at again because the kernel has an event that tokio has not reported.
const POSTPONED_MAX: u8 = 8;
/// How often the kernel is asked whether a client has closed whose bytes are not read because it exceeded its rate, where no
/// event shows it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
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
    /// When a client that waits for its rate is looked at again.
    watch_at: Option<Instant>,
    /// How often the deadline that has passed was postponed.
    postponed: u8,
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
            nap_at: Some(clock::after(now, NAP_AFTER)),
            watch_at: None,
            postponed: 0,
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
            // What is left is to close two connections, which keeps no client from its next session.
            relay.lease.release_client();
            relay.lingers_until = Some(clock::after(now, SERVER_FIRST.saturating_add(LINGER)));
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
                cycle::wake_next(cx.waker());
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

    /// Reads once from a side, if the other side can take it, and does what the session says.
    fn pump(&mut self, from: Side, cx: &mut Context<'_>, now: Instant, budget: &Budget) -> Pumped {
        let other_is_blocked = self.port(from.other()).is_blocked();
        let waiting = self.session.waiting(from);
        let port = self.port(from);
        if port.is_read_closed() || (other_is_blocked && !waiting) {
            return Pumped::Held;
        }
        if waiting {
            return self.watch(from, cx, now);
        }
        if std::mem::take(&mut port.judge_kept) {
            let kept = std::mem::take(&mut port.kept);
            return match self.judge(from, &kept, cx, now, budget) {
                Judged::Ended(outcome) => Pumped::Ended(outcome),
                Judged::UpTo(judged, again) => {
                    self.port(from).keep_on(kept, judged, again);
                    Pumped::Moved
                }
            };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let port = self.port(from);
            let kept = port.kept.len();
            let read = port.poll_read(cx, scratch);
            let key_updates = port.take_key_updates();
            if key_updates > 0 {
                self.session.count_key_updates(key_updates, now);
            }
            match read {
                Poll::Pending => Pumped::Asleep,
                Poll::Ready(Ok(len)) if len > kept => {
                    let bytes = scratch.get(..len).unwrap_or_default();
                    match self.judge(from, bytes, cx, now, budget) {
                        Judged::Ended(outcome) => Pumped::Ended(outcome),
                        Judged::UpTo(judged, again) => {
                            self.port(from).keep(bytes.get(judged..).unwrap_or_default(), again);
                            Pumped::Moved
                        }
                    }
                }
                Poll::Ready(read) => {
                    self.end_input(from, read.err().as_ref(), now);
                    Pumped::Moved
                }
            }
        })
    }

    /// Nothing more comes from a side. After its Close it may have ended only its own direction (RFC 8446 section 6.1), so
    /// the answer to that Close is still sent.
    fn end_input(&mut self, from: Side, error: Option<&io::Error>, now: Instant) {
        let orderly = error.is_none_or(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        if orderly && self.session.may_end_input(from) {
            self.port(from).close_read();
        } else {
            self.lose(from, error.is_none(), now);
        }
    }

    /// Nothing more comes from a side, and nothing can be sent to it. A client that is gone counts as a session no more.
    fn lose(&mut self, side: Side, in_order: bool, now: Instant) {
        self.port(side).end(in_order);
        self.session.gone(side, now);
        if side == Side::Client {
            self.lease.release_client();
        }
    }

    /// Looks whether a client has closed that is not read because it exceeded its rate: then it waits for nothing, and what it
    /// counts against is free at once.
    fn watch(&mut self, from: Side, cx: &mut Context<'_>, now: Instant) -> Pumped {
        if self.port(from).watch(cx) || self.watch_at.is_some_and(|at| now < at) {
            return Pumped::Held;
        }
        if self.port(from).is_peer_closed() {
            self.lose(from, false, now);
            return Pumped::Moved;
        }
        // It sent more, so the next event of the stream is known already and wakes nobody.
        let at = clock::after(now, WATCH_INTERVAL);
        self.watch_at = Some(at);
        self.seat.timer.set(at, now, cx.waker());
        Pumped::Held
    }

    fn judge(&mut self, from: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant, budget: &Budget) -> Judged {
        let to = from.other();
        let (mut sent, mut at, mut frames) = (0, 0, 0);
        let again = loop {
            if at == bytes.len() {
                break false;
            }
            frames += 1;
            if frames % FRAMES_PER_CLOCK == 0 && budget.is_spent() {
                break true;
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
                    Action::End(outcome) => return Judged::Ended(outcome),
                }
            }
        };
        self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
        Judged::UpTo(at, again)
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
        let closed = Side::BOTH.map(|side| {
            let other_goes_first = side == Side::Upstream && server_first;
            self.port(side).poll_close(cx, other_goes_first).is_ready()
        });
        if closed == [true, true] || left.is_zero() {
            return Poll::Ready(());
        }
        self.seat.timer.set(if server_first { clock::after(now, server_has) } else { until }, now, cx.waker());
        Poll::Pending
    }
}

/// The time that one poll of a session may take.
struct Budget(Option<Instant>);

impl Budget {
    fn new(now: Instant) -> Self {
        Self(now.checked_add(POLL_BUDGET))
    }

    fn is_spent(&self) -> bool {
        self.0.is_none_or(|end| clock::now() >= end)
    }
}

/// How far bytes were judged.
enum Judged {
    /// So many of them; whether the rest can be judged without more.
    UpTo(usize, bool),
    /// The session is over.
    Ended(Outcome),
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
