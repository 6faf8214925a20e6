//! One side of a relayed session: its stream, and the few bytes that are buffered for reading and for writing.

pub mod state;

use std::io;
use std::num::NonZeroU64;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use socket2::SockRef;
use tokio::io::ReadBuf;

use super::stream::{Stream, UNIX_WRITTEN};
use crate::runtime::cycle::Ticket;
use crate::runtime::socket_state::{SocketState, unacknowledged_bytes};
use crate::session::backlog::Backlog;

/// Limit on the bytes that the other end may still send after a session is over. The connection is then closed.
const DISCARD_MAX_BYTES: u32 = 256 * 1024;
/// The least that one read counts towards that limit: a read of a single byte may have cost several key updates.
const DISCARD_MIN_BYTES: u32 = 4096;
/// The bytes of a backlog that are written at once: those of one TLS record.
const REFILL_BYTES: usize = 16 * 1024;
/// The number of such writes in one flush. Then other sessions of the thread run.
const REFILLS_MAX: usize = 16;

/// One side of a relayed session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub(super) struct PeerIo<S: ?Sized> {
    /// Bytes that were read but not processed: a part of a frame header or of a control frame, the bytes of a client
    /// that exceeded its rate, or the rest after the budget of a poll.
    pub unprocessed: Vec<u8>,
    /// Whether `unprocessed` can be processed without reading more.
    pub reprocess: bool,
    /// Bytes that the stream has not taken. While there are any, the other side is not read, except into `backlog`.
    out: Vec<u8>,
    /// Frames behind `out` of which the oldest may be dropped, while the side is blocked.
    backlog: Option<Box<Backlog>>,
    /// The number of bytes that the stream has taken.
    taken: u64,
    /// Whether the stream may hold bytes that the kernel has not taken.
    unflushed: bool,
    /// The progress of this side's output when it was last found to be blocked.
    blocked_at: Option<NonZeroU64>,
    /// Whether nothing more is read or written, because the stream ended or failed.
    pub ended: bool,
    /// Whether nothing more is written, because a write failed. Bytes that the side sent before are still read.
    write_closed: bool,
    /// Whether output is not for the stream: there is a backlog, or nothing more is written.
    diverts: bool,
    /// Whether nothing more is read, because the side shut down its direction after its Close. Output is still written.
    read_closed: bool,
    /// The number of bytes that the side's kernel had acknowledged when a ping was sent behind other bytes, or when
    /// this was last checked.
    acknowledged: Option<NonZeroU64>,
    /// The number of bytes that were read and discarded after the session was over.
    discarded: u32,
    closing: Closing,
    stream: S,
}

/// The progress of closing a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// Pending output is sent, and then our direction is shut down.
    Sending,
    /// Input is discarded until the other end closes: closing a socket with unread bytes would reset the connection,
    /// which may discard our last bytes.
    Waiting,
    Done,
}

/// Whether a side takes the bytes that are sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backpressure {
    /// All output was taken, and none was pending before.
    Clear,
    /// All output was taken, for the first time since the side was blocked.
    Cleared,
    /// Output is pending, and either the side was not blocked before, or some was taken since the last flush.
    Progressing,
    /// Output is pending, and none was taken since the last flush.
    Stalled,
    /// The stream failed.
    Failed,
}

impl<S> PeerIo<S> {
    /// Creates a side. `early` are the bytes that were read after the handshake.
    pub fn new(stream: S, early: Vec<u8>) -> Self {
        let reprocess = !early.is_empty();
        Self {
            unprocessed: early,
            reprocess,
            out: Vec::new(),
            backlog: None,
            taken: 0,
            // The stream may still hold the last bytes of the handshake.
            unflushed: true,
            blocked_at: None,
            ended: false,
            write_closed: false,
            diverts: false,
            read_closed: false,
            acknowledged: None,
            discarded: 0,
            closing: Closing::Sending,
            stream,
        }
    }
}

impl<S: Stream + ?Sized> PeerIo<S> {
    /// Whether output is pending for this side.
    pub fn is_blocked(&self) -> bool {
        self.blocked_at.is_some() || !self.out.is_empty()
    }

    /// Returns the number of bytes that the stream has not taken.
    pub fn pending_output(&self) -> usize {
        self.out.len().saturating_add(self.backlog.as_ref().map_or(0, |backlog| backlog.len()))
    }

    /// Returns the backlog of a blocked side, into which all output goes from now on until the side has taken
    /// everything, and a message that is dropped has ended.
    pub fn backlog(&mut self, new: impl FnOnce() -> Backlog) -> &mut Backlog {
        self.diverts = true;
        self.backlog.get_or_insert_with(|| Box::new(new()))
    }

    /// Whether there is a backlog. It may be empty.
    pub fn has_backlog(&self) -> bool {
        self.backlog.is_some()
    }

    /// Returns how many bytes are missing of the last frame if the backlog drops it.
    pub fn dropped_frame_left(&self) -> u64 {
        self.backlog.as_ref().map_or(0, |backlog| backlog.dropped_frame_left())
    }

    /// Returns the number of messages that were dropped since the last call. A backlog into which nothing more goes is
    /// freed.
    pub fn take_dropped(&mut self) -> u64 {
        let Some(backlog) = &mut self.backlog else { return 0 };
        let dropped = backlog.take_dropped();
        if !self.diverts {
            self.backlog = None;
        }
        dropped
    }

    /// Whether [`PeerIo::flush`] has output to flush or a change to report.
    #[inline]
    pub fn has_to_flush(&self) -> bool {
        self.unflushed || self.is_blocked() || (self.diverts && !self.write_closed)
    }

    /// Reads behind the unprocessed bytes, which are copied to the start of `scratch`. Returns the length of both
    /// together.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(scratch);
        buf.put_slice(&self.unprocessed);
        Pin::new(&mut self.stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    /// Whether nothing more is read from this side.
    pub fn is_read_closed(&self) -> bool {
        self.ended || self.read_closed
    }

    /// Stops reading. The side has shut down its direction, but may still read its output.
    pub fn close_read(&mut self) {
        self.read_closed = true;
        self.unprocessed = Vec::new();
        self.reprocess = false;
    }

    /// Returns the number of TLS key updates since the last call.
    pub fn take_key_updates(&mut self) -> u8 {
        self.stream.take_key_updates()
    }

    /// Returns the TLS version of the stream, if it knows it.
    pub fn tls_version(&self) -> Option<&'static str> {
        self.stream.tls_version()
    }

    /// Whether the kernel has an event of this side that tokio may not have reported: unread bytes, or free capacity of
    /// the send buffer while output is pending.
    pub fn has_event(&self) -> bool {
        let state = self.socket_state();
        (state.readable && !self.is_read_closed()) || (state.writable && self.is_blocked())
    }

    /// Returns the state of the socket in the kernel.
    pub fn socket_state(&self) -> SocketState {
        self.stream.socket().map(SocketState::of).unwrap_or_default()
    }

    /// Limits the bytes that the kernel holds for this side and has not sent. A socket without such a limit is left as it
    /// is.
    pub fn limit_unsent(&self, bytes: u32) {
        if let Some(socket) = self.stream.socket() {
            let _ = SockRef::from(&socket).set_tcp_notsent_lowat(bytes);
        }
    }

    /// Registers this task for the next read event of the stream. Returns false if the stream is ready already.
    pub fn watch(&self, cx: &mut Context<'_>) -> bool {
        self.stream.poll_read_ready(cx).is_pending()
    }

    /// Records how many bytes the side's kernel has acknowledged, if other bytes precede the ping that is sent next.
    pub fn note_ping(&mut self) {
        let (acknowledged, others_wait) = self.acknowledged_by_kernel();
        self.acknowledged = NonZeroU64::new(acknowledged).filter(|_| others_wait);
    }

    /// Whether other bytes preceded the ping, and the side's kernel has acknowledged some of them since the ping or
    /// since the last call.
    pub fn takes_bytes_before_ping(&mut self) -> bool {
        let Some(before) = self.acknowledged else { return false };
        let (acknowledged, others_wait) = self.acknowledged_by_kernel();
        self.acknowledged = NonZeroU64::new(acknowledged).filter(|_| others_wait);
        acknowledged > before.get()
    }

    /// Returns the position behind all output, as a number of bytes that the stream will have taken.
    pub fn output_end(&self) -> u64 {
        self.taken.saturating_add(self.pending_output() as u64)
    }

    /// Whether the kernel has taken the output up to this position.
    pub fn is_written(&self, end: u64) -> bool {
        self.taken > end || (self.taken == end && !self.unflushed)
    }

    /// Returns how many bytes the side's kernel has acknowledged, and how many it would have if it had all that were
    /// written. `None` for a Unix socket, whose kernel reports no bytes.
    pub fn acknowledged(&self) -> Option<(u64, u64)> {
        let written = self.stream.written_to_kernel(self.taken);
        let (acknowledged, _) = self.acknowledged_by_kernel();
        (written < UNIX_WRITTEN).then_some((acknowledged, written))
    }

    /// Returns how many bytes the side's kernel has acknowledged, and whether others are unacknowledged.
    fn acknowledged_by_kernel(&self) -> (u64, bool) {
        let unacknowledged = self.stream.socket().map_or(0, unacknowledged_bytes);
        (self.stream.written_to_kernel(self.taken).saturating_sub(unacknowledged), unacknowledged > 0)
    }

    /// Keeps the bytes of a read that could not be processed. If there are none, the buffer is freed, so that an idle
    /// session does not own one.
    pub fn keep(&mut self, rest: &[u8], reprocess: bool) {
        self.reprocess = reprocess;
        if rest.is_empty() {
            self.unprocessed = Vec::new();
        } else {
            self.unprocessed.clear();
            self.unprocessed.extend_from_slice(rest);
        }
    }

    /// Keeps the rest of bytes that were kept before, without another allocation.
    pub fn keep_rest(&mut self, mut unprocessed: Vec<u8>, processed: usize, reprocess: bool) {
        self.reprocess = reprocess;
        unprocessed.drain(..processed.min(unprocessed.len()));
        self.unprocessed = if unprocessed.is_empty() { Vec::new() } else { unprocessed };
    }

    /// Writes as many bytes as the stream takes, and queues the rest.
    pub fn send(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> io::Result<()> {
        if self.diverts {
            self.divert(bytes);
            return Ok(());
        }
        let rest = if self.out.is_empty() { self.write(cx, bytes)? } else { bytes };
        if !rest.is_empty() {
            self.out.extend_from_slice(rest);
        }
        Ok(())
    }

    /// As [`PeerIo::send`], for a control frame of our own, which may precede the rest of a frame that is dropped.
    pub fn send_control(&mut self, cx: &mut Context<'_>, frame: &[u8]) -> io::Result<()> {
        match self.backlog.as_mut().filter(|_| self.diverts && !self.write_closed) {
            Some(backlog) => backlog.push_control(frame),
            None => self.send(cx, frame)?,
        }
        Ok(())
    }

    /// Writes as many bytes as the stream takes. Returns the others.
    #[inline]
    fn write<'a>(&mut self, cx: &mut Context<'_>, mut bytes: &'a [u8]) -> io::Result<&'a [u8]> {
        while !bytes.is_empty() {
            match Pin::new(&mut self.stream).poll_write(cx, bytes)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(n) => {
                    bytes = bytes.get(n..).unwrap_or_default();
                    self.taken += n as u64;
                }
                Poll::Pending => break,
            }
        }
        self.unflushed = self.stream.holds_back();
        Ok(bytes)
    }

    /// Queues bytes in the backlog, or drops them if nothing more is written.
    #[cold]
    fn divert(&mut self, bytes: &[u8]) {
        if let Some(backlog) = self.backlog.as_mut().filter(|_| !self.write_closed) {
            backlog.push(bytes);
        }
    }

    /// Writes pending output to the stream, and flushes the stream to the kernel.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> Backpressure {
        let flushed = self.poll_flush(cx);
        let progress = NonZeroU64::MIN.saturating_add(self.taken.wrapping_add(self.stream.written()));
        match flushed {
            Poll::Ready(Ok(())) if self.blocked_at.take().is_some() => Backpressure::Cleared,
            Poll::Ready(Ok(())) => Backpressure::Clear,
            Poll::Ready(Err(_)) => Backpressure::Failed,
            Poll::Pending if self.blocked_at.replace(progress) == Some(progress) => Backpressure::Stalled,
            Poll::Pending => Backpressure::Progressing,
        }
    }

    /// Drops the state of the stream that can be derived again.
    pub fn hibernate(&mut self) {
        self.stream.hibernate();
    }

    /// Stops writing. Pending and later output is dropped.
    pub fn close_write(&mut self) {
        self.write_closed = true;
        self.diverts = true;
        self.backlog.iter_mut().for_each(|backlog| backlog.clear());
        self.out = Vec::new();
        self.unflushed = false;
        self.blocked_at = None;
    }

    /// Stops reading and writing. Our direction is still shut down in order if the other end did so (RFC 8446 section
    /// 6.1) and no output is pending or was dropped.
    pub fn end(&mut self, in_order: bool) {
        let lacks_nothing = self.pending_output() == 0 && !self.unflushed && !self.write_closed;
        self.close_write();
        self.ended = true;
        self.closing = if in_order && lacks_nothing { Closing::Sending } else { Closing::Done };
        self.unprocessed = Vec::new();
        self.reprocess = false;
    }

    /// Closes the socket of a side that was ended, after our direction was shut down if that is due.
    pub fn release(&mut self, cx: &mut Context<'_>) {
        if self.closing == Closing::Sending {
            // It cannot be waited for: the session may last longer than the connection.
            let _ = Pin::new(&mut self.stream).poll_shutdown(cx);
        }
        self.end(false);
        self.stream.release();
    }

    /// Sends pending output, shuts down our direction, and waits for the other end to do the same. If
    /// `other_closes_first`, waits for the other end before our direction is shut down.
    pub fn poll_close(&mut self, cx: &mut Context<'_>, other_closes_first: bool, ticket: &mut Ticket) -> Poll<()> {
        loop {
            let step = match self.closing {
                Closing::Sending if other_closes_first => {
                    ready!(self.poll_close_second(cx, ticket)).map(|()| Closing::Done)
                }
                Closing::Sending => ready!(self.poll_shutdown(cx)).map(|()| Closing::Waiting),
                Closing::Waiting => ready!(self.poll_end(cx, ticket)).map(|()| Closing::Done),
                Closing::Done => return Poll::Ready(()),
            };
            // An error has no further consequence: the session is over.
            self.closing = step.unwrap_or(Closing::Done);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut refills = 0;
        loop {
            if !self.out.is_empty() {
                let mut out = std::mem::take(&mut self.out);
                let left = self.write(cx, &out)?.len();
                if left > 0 {
                    out.drain(..out.len().saturating_sub(left));
                    self.out = out;
                    return Poll::Pending;
                }
            }
            if self.unflushed {
                ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.unflushed = false;
            }
            let Some(backlog) = self.backlog.as_mut().filter(|_| self.diverts) else { return Poll::Ready(Ok(())) };
            if backlog.is_empty() {
                // The rest of a dropped message must not reach the stream.
                self.diverts = self.write_closed || backlog.is_within_dropped();
                return Poll::Ready(Ok(()));
            }
            backlog.take(&mut self.out, REFILL_BYTES);
            refills += 1;
            if refills > REFILLS_MAX {
                Ticket::default().wake_in_order(cx.waker());
                return Poll::Pending;
            }
        }
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_close_second(&mut self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<io::Result<()>> {
        ready!(self.poll_flush(cx))?;
        ready!(self.poll_end(cx, ticket))?;
        self.poll_shutdown(cx)
    }

    fn poll_end(&mut self, cx: &mut Context<'_>, ticket: &mut Ticket) -> Poll<io::Result<()>> {
        let mut ignored = [0; 4096];
        let mut has_read = false;
        while self.discarded < DISCARD_MAX_BYTES {
            // One read per poll: it may consist of many small records.
            if std::mem::replace(&mut has_read, true) {
                ticket.wake_in_order(cx.waker());
                return Poll::Pending;
            }
            let mut buf = ReadBuf::new(&mut ignored);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
            let len = u32::try_from(buf.filled().len()).unwrap_or(DISCARD_MAX_BYTES);
            self.discarded = self.discarded.saturating_add(len.max(DISCARD_MIN_BYTES));
        }
        Poll::Ready(Ok(()))
    }
}
