//! Moves the bytes of one session: reads, asks the session, writes. All judgement is the session's.

use std::cell::RefCell;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::clock;
use super::port::{Flow, Port, Stream};
use super::upgrade::{Gateway, random};
use super::worker::Place;
use crate::policy::admission::Admission;
use crate::session::{Action, Cause, Outcome, Session, Side, Step};
use crate::telemetry::sessions::{self, Ended};
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
    pub request_id: String,
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
    timer: Option<Pin<Box<Sleep>>>,
    /// When the session hibernates, if nothing is read before. Absent: it does.
    nap_at: Option<Instant>,
    /// Ready at the drain, and then, set again, at the cut.
    signal: Pin<Box<WaitForCancellationFutureOwned>>,
    draining: bool,
    outcome: Option<Outcome>,
    started: Instant,
    about: About,
    admission: Admission,
    gateway: Arc<Gateway>,
    _place: Place,
}

impl<C, U> Relay<C, U> {
    /// Begins right after the 101.
    pub fn new(
        admission: Admission,
        session: Session,
        client: Joined<C>,
        upstream: Joined<U>,
        about: About,
        gateway: Arc<Gateway>,
        place: Place,
    ) -> Self {
        gateway.lifecycle.open_session();
        Self {
            session,
            client: Port::new(client.0, client.1),
            upstream: Port::new(upstream.0, upstream.1),
            timer: None,
            nap_at: Some(clock::now() + NAP_AFTER),
            signal: Box::pin(gateway.lifecycle.drain_signal()),
            draining: false,
            outcome: None,
            started: clock::now(),
            about,
            admission,
            gateway,
            _place: place,
        }
    }

    fn log(&self, outcome: Outcome, now: Instant) {
        sessions::log(&Ended {
            request_id: &self.about.request_id,
            route: &self.admission.route().name,
            subject: self.admission.subject(),
            client: self.about.client,
            server: &self.about.server,
            age: now.saturating_duration_since(self.started),
            outcome,
            counts: self.session.counts(),
        });
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
        while relay.signal.as_mut().poll(cx).is_ready() {
            if relay.draining {
                if relay.outcome.is_none() {
                    let outcome = relay.session.abort(Cause::Cut);
                    relay.log(outcome, clock::now());
                }
                return Poll::Ready(());
            }
            relay.draining = true;
            relay.signal = Box::pin(relay.gateway.lifecycle.cut_signal());
            relay.session.drain_at(relay.gateway.lifecycle.take_turn());
        }
        if relay.outcome.is_none() {
            let Poll::Ready(outcome) = relay.poll_session(cx) else { return Poll::Pending };
            relay.outcome = Some(outcome);
            let now = clock::now();
            relay.log(outcome, now);
            relay.timer = Some(Box::pin(sleep_until((now + LINGER).into())));
        }
        relay.poll_close(cx)
    }
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    fn poll_session(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        for _ in 0..TURNS {
            let now = clock::now();
            let mut moved = self.poll_deadline(cx, now);
            for side in Side::BOTH {
                if let Some(outcome) = self.settle(cx, now) {
                    return Poll::Ready(outcome);
                }
                match self.pump(side, cx, now) {
                    Pumped::Ended(outcome) => return Poll::Ready(outcome),
                    Pumped::Moved => {
                        moved = true;
                        self.nap_at = Some(now + NAP_AFTER);
                    }
                    Pumped::Idle => {}
                }
            }
            if let Some(outcome) = self.settle(cx, now) {
                return Poll::Ready(outcome);
            }
            if !moved && !self.arm_timer(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Does what the session wants, and sends what waits.
    fn settle(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
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
            return Pumped::Idle;
        }
        if std::mem::take(&mut port.judge_kept) {
            let kept = std::mem::take(&mut port.kept);
            return self.judge(from, &kept, cx, now);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let port = self.port(from);
            let kept = port.kept.len();
            match port.poll_read(cx, scratch) {
                Poll::Pending => Pumped::Idle,
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

    /// Whether something was due.
    fn poll_deadline(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let fired = self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if fired {
            self.timer = None;
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
        fired
    }

    /// Sets the timer to the session's next deadline or its nap; whether that has passed already. A timer that fires too
    /// early is set again then, so that one that is put off with every message costs nothing with every message.
    fn arm_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let next = [self.session.deadline(), self.nap_at].into_iter().flatten().min();
        let Some(deadline) = next.map(tokio::time::Instant::from_std) else { return false };
        match &mut self.timer {
            Some(timer) if timer.deadline() <= deadline => {}
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // The timer comes first: who keeps sending would else use up all that the runtime lets a task do at a time, and
        // a timer that is asked then is never ready.
        let late = self.timer.as_mut().is_none_or(|timer| timer.as_mut().poll(cx).is_ready());
        let closed = Side::BOTH.map(|side| self.port(side).poll_close(cx).is_ready());
        if closed == [true, true] || late { Poll::Ready(()) } else { Poll::Pending }
    }
}

enum Pumped {
    Idle,
    Moved,
    Ended(Outcome),
}
