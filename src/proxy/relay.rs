//! Moves the bytes of one session: reads, asks the session, writes. All judgement is the session's.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::{Sleep, sleep_until, timeout};

use super::clock;
use super::lifecycle::Lifecycle;
use super::tls::ClientStream;
use crate::policy::admission::Admission;
use crate::session::{Action, Cause, Counts, Outcome, Session, Side, Step};
use crate::upstream::UpstreamStream;
use crate::ws::frame::ControlFrame;

/// How much is read at once. The buffer belongs to the thread; a session owns bytes only while they cannot go on.
const READ_BYTES: usize = 64 * 1024;
/// How often a session may turn before others of its thread get theirs.
const TURNS: usize = 8;
/// How long the last bytes of a session may take to reach a side, and that side to close its end: closing a socket
/// with unread bytes would reset the connection and take the Close frame with it.
const LINGER: Duration = Duration::from_secs(2);

thread_local! {
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// A stream to one side, as the relay sees it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// A number that grows whenever the kernel takes bytes for this side.
    fn written(&self) -> u64;
}

impl Stream for ClientStream {
    fn written(&self) -> u64 {
        self.written()
    }
}

impl Stream for UpstreamStream {
    /// Nothing is held back on the way to the kernel, so what still waits is all that the relay has.
    fn written(&self) -> u64 {
        0
    }
}

/// One side: its stream, and the few bytes that may wait for it or for the rest of their frame.
#[derive(Debug)]
struct Port<S: ?Sized> {
    /// Bytes that were read and not yet judged: a part of a frame's head, or all that a client sent beyond its rate.
    kept: Vec<u8>,
    /// What is kept can be judged without reading more.
    judge_kept: bool,
    /// Bytes that the stream has not taken yet; while there are any the other side is not read.
    out: Vec<u8>,
    /// The stream may hold bytes that it has not given to the kernel.
    unflushed: bool,
    /// What [`Stream::written`] said when this side was last found to be blocked.
    blocked_at: Option<u64>,
    /// Nothing more is read or written: its stream ended or failed.
    ended: bool,
    stream: S,
}

impl<S: Stream> Port<S> {
    fn new((stream, kept): (S, Vec<u8>)) -> Self {
        let judge_kept = !kept.is_empty();
        Self { kept, judge_kept, out: Vec::new(), unflushed: false, blocked_at: None, ended: false, stream }
    }
}

impl<S: Stream + ?Sized> Port<S> {
    fn is_blocked(&self) -> bool {
        self.blocked_at.is_some() || !self.out.is_empty()
    }

    /// Reads behind what is kept; the length of both together.
    fn read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(scratch);
        buf.put_slice(&self.kept);
        Pin::new(&mut self.stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    /// Keeps what could not be judged. An idle session has no memory for bytes that it does not have.
    fn keep(&mut self, rest: &[u8], judge_again: bool) {
        self.judge_kept = judge_again;
        if rest.is_empty() {
            self.kept = Vec::new();
        } else {
            self.kept.clear();
            self.kept.extend_from_slice(rest);
        }
    }

    /// Writes as much as the stream takes, and keeps the rest in order.
    fn send(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.out.is_empty() {
            while !bytes.is_empty() {
                match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                    Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Poll::Ready(n) => {
                        bytes = bytes.get(n..).unwrap_or_default();
                        self.unflushed = true;
                    }
                    Poll::Pending => break,
                }
            }
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Gives the stream what waits for it, and the kernel what the stream holds; whether nothing is left.
    fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.send(cx, &out)?;
            if !self.out.is_empty() {
                return Poll::Pending;
            }
        }
        if self.unflushed {
            match Pin::new(&mut self.stream).poll_flush(cx)? {
                Poll::Ready(()) => self.unflushed = false,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// One session on its way.
#[derive(Debug)]
struct Relay<C, U> {
    session: Session,
    client: Port<C>,
    upstream: Port<U>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// How a session went.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// How it ended.
    pub outcome: Outcome,
    /// What passed.
    pub counts: Counts,
}

/// The two streams of a session, each with what was read from it beyond its handshake.
#[derive(Debug)]
pub struct Streams<C, U> {
    /// The client's.
    pub client: (C, Vec<u8>),
    /// The upstream's.
    pub upstream: (U, Vec<u8>),
}

/// Relays until the session is over, then closes both streams. Only who was admitted can ask for it; what the
/// admission counts is given back at the end.
pub async fn run<C: Stream + 'static, U: Stream + 'static>(
    _admission: Admission,
    session: Session,
    streams: Streams<C, U>,
    lifecycle: &Lifecycle,
) -> Report {
    let _counted = lifecycle.count_session();
    let mut relay =
        Relay { session, client: Port::new(streams.client), upstream: Port::new(streams.upstream), timer: None };
    let mut asked_to_end = false;
    let outcome = loop {
        tokio::select! {
            biased;
            () = lifecycle.cut_off() => break relay.session.abort(Cause::Cut),
            () = lifecycle.draining(), if !asked_to_end => {
                asked_to_end = true;
                relay.session.drain_at(lifecycle.take_turn());
            }
            outcome = poll_fn(|cx| relay.poll(cx)) => break outcome,
        }
    };
    let report = Report { outcome, counts: relay.session.counts() };
    if outcome.cause != Cause::Cut {
        tokio::select! {
            () = lifecycle.cut_off() => {}
            ((), ()) = async { tokio::join!(close(relay.client), close(relay.upstream)) } => {}
        }
    }
    report
}

impl<C: Stream + 'static, U: Stream + 'static> Relay<C, U> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Outcome> {
        for _ in 0..TURNS {
            let now = clock::now();
            let mut moved = self.poll_deadline(cx, now);
            if let Some(outcome) = self.take_actions(cx, now) {
                return Poll::Ready(outcome);
            }
            self.flush(Side::Client, cx, now);
            self.flush(Side::Upstream, cx, now);
            for side in Side::BOTH {
                match self.pump(side, cx, now) {
                    Pumped::Ended(outcome) => return Poll::Ready(outcome),
                    Pumped::Moved => moved = true,
                    Pumped::Idle => {}
                }
            }
            if let Some(outcome) = self.take_actions(cx, now) {
                return Poll::Ready(outcome);
            }
            self.flush(Side::Client, cx, now);
            self.flush(Side::Upstream, cx, now);
            if !moved && !self.arm_timer(cx) {
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
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
            match port.read(cx, scratch) {
                Poll::Pending => Pumped::Idle,
                Poll::Ready(Ok(len)) if len > kept => self.judge(from, scratch.get(..len).unwrap_or_default(), cx, now),
                // The end of the stream, in whatever way it came.
                Poll::Ready(_) => {
                    self.lose(from, now);
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

    fn take_actions(&mut self, cx: &mut Context<'_>, now: Instant) -> Option<Outcome> {
        while let Some(action) = self.session.next_action(now) {
            match action {
                Action::Send { to, frame } => self.send_frame(to, &frame, cx, now),
                Action::End(outcome) => return Some(outcome),
            }
        }
        None
    }

    fn send_frame(&mut self, to: Side, frame: &ControlFrame, cx: &mut Context<'_>, now: Instant) {
        let mask = match to {
            Side::Client => None,
            Side::Upstream => Some(super::upgrade::random()),
        };
        let mut bytes = Vec::with_capacity(64);
        frame.encode(mask, &mut bytes);
        self.send(to, &bytes, cx, now);
    }

    fn send(&mut self, to: Side, bytes: &[u8], cx: &mut Context<'_>, now: Instant) {
        let port = self.port(to);
        if !bytes.is_empty() && !port.ended && port.send(cx, bytes).is_err() {
            self.lose(to, now);
        }
    }

    fn flush(&mut self, side: Side, cx: &mut Context<'_>, now: Instant) {
        let port = self.port(side);
        let flushed = port.flush(cx);
        let written = port.stream.written();
        match flushed {
            Poll::Ready(Ok(())) => {
                if port.blocked_at.take().is_some() {
                    self.session.unblocked(side, now);
                }
            }
            Poll::Pending => {
                if port.blocked_at.replace(written) != Some(written) {
                    self.session.blocked(side, now);
                }
            }
            Poll::Ready(Err(_)) => self.lose(side, now),
        }
    }

    /// A side's stream ended or failed: nothing is read from it or written to it any more.
    fn lose(&mut self, side: Side, now: Instant) {
        let port = self.port(side);
        port.ended = true;
        port.out = Vec::new();
        port.blocked_at = None;
        port.unflushed = false;
        self.session.gone(side, now);
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
        }
        fired
    }

    /// Sets the timer to the session's next deadline; whether that has passed already. A timer that fires too early is
    /// set again then, so that one that is put off with every message costs nothing with every message.
    fn arm_timer(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(deadline) = self.session.deadline().map(tokio::time::Instant::from_std) else { return false };
        match &mut self.timer {
            Some(timer) if timer.deadline() <= deadline => {}
            Some(timer) => timer.as_mut().reset(deadline),
            None => self.timer = Some(Box::pin(sleep_until(deadline))),
        }
        self.timer.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready())
    }
}

enum Pumped {
    Idle,
    Moved,
    Ended(Outcome),
}

/// Sends what is left, says that no more will come, and waits a little for the other end to say the same.
async fn close<S: Stream>(mut port: Port<S>) {
    if port.ended {
        return;
    }
    let closing = async {
        poll_fn(|cx| port.flush(cx)).await?;
        port.stream.shutdown().await?;
        let mut ignored = [0; 512];
        while port.stream.read(&mut ignored).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever goes wrong now, the session is over.
    let _ = timeout(LINGER, closing).await;
}
