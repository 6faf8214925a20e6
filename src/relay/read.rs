//! Reads from the sides of a session within the budget of a poll, and handles the end of their input.

use std::cell::RefCell;
use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::Relay;
use super::budget::{Budget, ReadOutcome};
use super::stream::Stream;
use crate::runtime::clock;
use crate::session::{Action, Outcome, Side, Verdict};

/// The maximum size of one read. The buffer belongs to the thread. A session owns bytes only while they cannot be
/// forwarded.
const READ_BYTES: usize = 64 * 1024;
/// The number of frames that are processed between two readings of the clock. A frame takes about half a microsecond.
pub(super) const FRAMES_PER_CLOCK: usize = 64;
/// The interval at which a client that is not read is checked for a disconnect while no event would report it.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// The time after which a client that has shut down its direction and was pinged is checked for a reset, which shows
/// that it has closed the connection.
const PROBE_INTERVAL: Duration = Duration::from_millis(200);
thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    /// Reads once from a side, if the other side accepts bytes, and executes the verdicts of the session.
    pub(super) fn read_side(&mut self, from: Side, cx: &mut Context<'_>, now: Instant, budget: &Budget) -> ReadOutcome {
        if self.peer(from).is_read_closed() {
            return ReadOutcome::Paused;
        }
        if self.session.waiting(from) || (self.peer(from.other()).is_blocked() && !self.queues(from, now)) {
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
                // The session acts on key updates at once.
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

    /// Handles the end of the input from a side. After its Close a side may have shut down only its own direction (RFC
    /// 8446 section 6.1), so the answer to that Close is still sent.
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

    /// Handles a disconnect: the side is neither read nor written any more. The slots of a disconnected client are
    /// released.
    fn disconnect(&mut self, side: Side, in_order: bool, now: Instant) {
        if side == Side::Upstream && !self.session.is_closing() {
            self.process.early_ends.report(&self.facts, now);
        }
        self.peer(side).end(in_order);
        self.session.on_disconnected(side, now);
        if side == Side::Client {
            self.lease.release_client();
        }
    }

    /// Checks whether a client has closed that is not read, because it exceeded its rate or the upstream is blocked. If
    /// so, its slots are released. A client that has disconnected ends its session, since nothing can be sent to it. A
    /// client that has shut down only its direction may have sent a Close before, and its bytes are still forwarded.
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
                // The kernel of a client that has closed the connection answers the ping with a reset.
                self.session.ping(from);
                let at = clock::after(now, PROBE_INTERVAL);
                self.watch_at = Some(at);
                self.guard.timer.set(at, now, cx.waker());
                return ReadOutcome::Progress;
            }
        }
        // The client has sent more bytes, so the stream is ready already and no event wakes this task.
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
                    Action::UpstreamLost(spread) => self.release_upstream(spread, cx, now),
                    Action::End(outcome) => return Processed::Ended(outcome),
                }
            }
        };
        self.send(to, bytes.get(sent..at).unwrap_or_default(), cx, now);
        Processed::UpTo(at, again)
    }
}

/// The progress of processing bytes.
enum Processed {
    /// The number of processed bytes, and whether the rest can be processed without reading more.
    UpTo(usize, bool),
    /// The session is over.
    Ended(Outcome),
}
