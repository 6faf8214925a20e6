//! Reading: what comes from a side, how far it is judged in one poll, and how an end of it is taken.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Relay;
use super::budget::{Budget, ReadOutcome};
use super::peer_io::Stream;
use crate::runtime::clock;
use crate::session::{Action, Outcome, Side, Verdict};

/// How much is read at once. The buffer belongs to the thread; a session owns bytes only while they cannot go on.
const READ_BYTES: usize = 64 * 1024;
/// How many frames are judged before the clock is read again; a frame costs about half a microsecond.
pub(super) const FRAMES_PER_CLOCK: usize = 64;
/// How often the kernel is asked whether a client has closed whose bytes are not read because it exceeded its rate, where no
/// event shows it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client that closed its direction has to show, by a reset, that it closed the connection.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Reads once from a side, if the other side can take it, and does what the session says.
    pub(super) fn read_side(&mut self, from: Side, cx: &mut Context<'_>, now: Instant, budget: &Budget) -> ReadOutcome {
        if self.peer(from).is_read_closed() {
            return ReadOutcome::Paused;
        }
        if self.session.waiting(from) || self.peer(from.other()).is_blocked() {
            return self.watch(from, cx, now);
        }
        let peer = self.peer(from);
        if std::mem::take(&mut peer.reprocess) {
            let unprocessed = std::mem::take(&mut peer.unprocessed);
            return match self.process(from, &unprocessed, cx, now, budget) {
                Processed::Ended(outcome) => ReadOutcome::Ended(outcome),
                Processed::UpTo(processed, again) => {
                    self.peer(from).keep_rest(unprocessed, processed, again);
                    ReadOutcome::Progress
                }
            };
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let peer = self.peer(from);
            let unprocessed = peer.unprocessed.len();
            let read = peer.poll_read(cx, scratch);
            let key_updates = peer.take_key_updates();
            if key_updates > 0 {
                self.session.count_key_updates(key_updates, now);
            }
            match read {
                // The session judges key updates at once.
                Poll::Pending if key_updates > 0 => ReadOutcome::Progress,
                Poll::Pending => ReadOutcome::Pending,
                Poll::Ready(Ok(len)) if len > unprocessed => {
                    let bytes = scratch.get(..len).unwrap_or_default();
                    match self.process(from, bytes, cx, now, budget) {
                        Processed::Ended(outcome) => ReadOutcome::Ended(outcome),
                        Processed::UpTo(processed, again) => {
                            self.peer(from).keep(bytes.get(processed..).unwrap_or_default(), again);
                            ReadOutcome::Progress
                        }
                    }
                }
                Poll::Ready(read) => {
                    self.end_input(from, read.err().as_ref(), now);
                    ReadOutcome::Progress
                }
            }
        })
    }

    /// Nothing more comes from a side. After its Close it may have ended only its own direction (RFC 8446 section 6.1), so
    /// the answer to that Close is still sent.
    fn end_input(&mut self, from: Side, error: Option<&io::Error>, now: Instant) {
        let orderly = error.is_none_or(|error| error.kind() == io::ErrorKind::UnexpectedEof);
        if orderly && self.session.may_end_input(from) {
            self.peer(from).close_read();
            if from == Side::Client {
                self.lease.release_client();
            }
        } else {
            self.disconnect(from, error.is_none(), now);
        }
    }

    /// Nothing more comes from a side, and nothing can be sent to it. A client that is gone counts as a session no more.
    fn disconnect(&mut self, side: Side, in_order: bool, now: Instant) {
        self.peer(side).end(in_order);
        self.session.on_disconnected(side, now);
        if side == Side::Client {
            self.lease.release_client();
        }
    }

    /// Looks whether a client has closed that is not read, because it exceeded its rate or the upstream takes nothing. Then
    /// it counts as a session no more. One that is gone for good ends its session, since nothing is owed to it; one that
    /// has closed its direction alone may still have sent a Close, and gets what it sent passed on.
    fn watch(&mut self, from: Side, cx: &mut Context<'_>, now: Instant) -> ReadOutcome {
        if from == Side::Upstream || self.peer(from).watch(cx) || self.watch_at.is_some_and(|at| now < at) {
            return ReadOutcome::Paused;
        }
        let state = self.peer(from).socket_state();
        if state.disconnected {
            self.disconnect(from, false, now);
            return ReadOutcome::Progress;
        }
        if state.peer_closed {
            self.lease.release_client();
            if self.session.waiting(from) && !std::mem::replace(&mut self.probed, true) {
                // The kernel of a client that has closed the connection answers this with a reset.
                self.session.ping(from);
                let at = clock::after(now, PROBE_INTERVAL);
                self.watch_at = Some(at);
                self.guard.timer.set(at, now, cx.waker());
                return ReadOutcome::Progress;
            }
        }
        // It sent more, so the next event of the stream is known already and wakes nobody.
        let at = clock::after(now, WATCH_INTERVAL);
        self.watch_at = Some(at);
        self.guard.timer.set(at, now, cx.waker());
        ReadOutcome::Paused
    }

    fn process(&mut self, from: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant, budget: &Budget) -> Processed {
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
                Verdict::Forward(n) => at += n,
                Verdict::Discard(n) => {
                    self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
                    at += n;
                    sent = at;
                }
                Verdict::More => break false,
                Verdict::Wait => break true,
            }
            while let Some(action) = self.session.poll_action(now) {
                self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
                sent = at;
                match action {
                    Action::Send { to, frame } => self.send_frame(to, &frame, cx, now),
                    Action::SendMessage(message) => self.send(Side::Client, &message.encode(), cx, now),
                    Action::End(outcome) => return Processed::Ended(outcome),
                }
            }
        };
        self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
        Processed::UpTo(at, again)
    }
}

/// How far bytes were judged.
enum Processed {
    /// So many of them; whether the rest can be judged without more.
    UpTo(usize, bool),
    /// The session is over.
    Ended(Outcome),
}
