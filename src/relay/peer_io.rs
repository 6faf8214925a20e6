//! One side of a relayed session: its stream, and the few bytes that may wait on the way in or out.

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::runtime::cycle::Ticket;
use crate::runtime::socket_state::{SocketState, unacknowledged_bytes};
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// How much the other end may still send after a session is over before its connection is cut.
const DISCARD_MAX_BYTES: u32 = 256 * 1024;
/// A read counts as no less than this towards that limit: one of a single byte may have cost several key updates.
const DISCARD_MIN_BYTES: u32 = 4096;

/// A stream to one side, as the relay sees it.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// A number that grows whenever the kernel takes bytes that the stream held back.
    fn written(&self) -> u64;
    /// Whether the stream may hold bytes that it has taken and the kernel has not.
    fn holds_back(&self) -> bool;
    /// How many bytes the kernel has taken, of which the stream took `taken`.
    fn written_to_kernel(&self, taken: u64) -> u64;
    /// The socket; absent where there is none, as in tests.
    fn socket(&self) -> Option<BorrowedFd<'_>>;
    /// Becomes ready when the socket may have something to read, the end of the stream included.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// How many TLS key updates came since this was called last.
    fn take_key_updates(&mut self) -> u8;
    /// Drops what it can make again, since it is idle.
    fn hibernate(&mut self);
}

impl Stream for ClientStream {
    fn written(&self) -> u64 {
        self.written()
    }

    fn holds_back(&self) -> bool {
        self.holds_back()
    }

    fn written_to_kernel(&self, _taken: u64) -> u64 {
        self.written()
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket().as_fd())
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_read_ready(cx)
    }

    fn take_key_updates(&mut self) -> u8 {
        self.take_key_updates()
    }

    fn hibernate(&mut self) {
        self.hibernate();
    }
}

impl Stream for UpstreamStream {
    fn written(&self) -> u64 {
        0
    }

    fn holds_back(&self) -> bool {
        false
    }

    /// Of a Unix socket's queue only the memory is known, so what counts is whether it shrinks.
    fn written_to_kernel(&self, taken: u64) -> u64 {
        if matches!(self, UpstreamStream::Unix(_)) { u64::MAX / 2 } else { taken }
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket())
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_read_ready(cx)
    }

    fn take_key_updates(&mut self) -> u8 {
        0
    }

    fn hibernate(&mut self) {}
}

/// One side.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub(super) struct PeerIo<S: ?Sized> {
    /// Bytes that were read and not yet judged: a part of a frame's head, or all that a client sent beyond its rate.
    pub unprocessed: Vec<u8>,
    /// What is kept can be judged without reading more.
    pub reprocess: bool,
    /// Bytes that the stream has not taken yet; while there are any the other side is not read.
    out: Vec<u8>,
    /// How many bytes the stream has taken.
    taken: u64,
    /// The stream may hold bytes that it has not given to the kernel.
    unflushed: bool,
    /// How far this side's output was when it was last found to be blocked.
    blocked_at: Option<u64>,
    /// Nothing more is read or written: its stream ended or failed.
    pub ended: bool,
    /// Nothing more is written, since that failed; what came before that is still read.
    write_closed: bool,
    /// Nothing more is read, since the side ended its direction after its Close; what is for it is still written.
    read_closed: bool,
    /// How many bytes the side's kernel had acknowledged when it was pinged behind others, or when that was last looked at.
    acknowledged: Option<NonZeroU64>,
    /// How much was read only to be thrown away.
    discarded: u32,
    closing: Closing,
    stream: S,
}

/// How far the close of a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    /// What waits is sent, and then the end of what we send.
    Sending,
    /// The other end may still send, until it has seen ours: closing a socket with unread bytes would reset the
    /// connection and take our last bytes with it.
    Waiting,
    Done,
}

/// Whether a side takes what is sent to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backpressure {
    /// It took everything, and had done so before.
    Clear,
    /// It took everything for the first time since it was blocked.
    Cleared,
    /// It left something, but took something, too.
    Progressing,
    /// It took nothing since it was last asked.
    Stalled,
    /// Its stream failed.
    Failed,
}

impl<S> PeerIo<S> {
    /// `early` is what was read behind the handshake.
    pub fn new(stream: S, early: Vec<u8>) -> Self {
        let reprocess = !early.is_empty();
        Self {
            unprocessed: early,
            reprocess,
            out: Vec::new(),
            taken: 0,
            // The last of the handshake may still be held by the stream.
            unflushed: true,
            blocked_at: None,
            ended: false,
            write_closed: false,
            read_closed: false,
            acknowledged: None,
            discarded: 0,
            closing: Closing::Sending,
            stream,
        }
    }
}

impl<S: Stream + ?Sized> PeerIo<S> {
    /// Whether bytes wait for this side.
    pub fn is_blocked(&self) -> bool {
        self.blocked_at.is_some() || !self.out.is_empty()
    }

    /// Whether [`PeerIo::flush`] has something to do, or to tell.
    #[inline]
    pub fn has_to_flush(&self) -> bool {
        self.unflushed || self.is_blocked()
    }

    /// Reads behind what is kept; the length of both together.
    pub fn poll_read(&mut self, cx: &mut Context<'_>, scratch: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut buf = ReadBuf::new(scratch);
        buf.put_slice(&self.unprocessed);
        Pin::new(&mut self.stream).poll_read(cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    /// Whether nothing more is read from this side.
    pub fn is_read_closed(&self) -> bool {
        self.ended || self.read_closed
    }

    /// Nothing more is read: the side ended its direction, and may still read what is for it.
    pub fn close_read(&mut self) {
        self.read_closed = true;
        self.unprocessed = Vec::new();
        self.reprocess = false;
    }

    /// How many TLS key updates came since this was called last.
    pub fn take_key_updates(&mut self) -> u8 {
        self.stream.take_key_updates()
    }

    /// Whether the kernel has an event of this side that tokio may not have reported yet: unread bytes, or room where bytes
    /// wait.
    pub fn has_event(&self) -> bool {
        let state = self.socket_state();
        (state.readable && !self.is_read_closed()) || (state.writable && self.is_blocked())
    }

    /// What the kernel knows of the socket.
    pub fn socket_state(&self) -> SocketState {
        self.stream.socket().map(SocketState::of).unwrap_or_default()
    }

    /// Registers this task for the next event of the stream; false if it has one already.
    pub fn watch(&self, cx: &mut Context<'_>) -> bool {
        self.stream.poll_read_ready(cx).is_pending()
    }

    /// Remembers how much the side has acknowledged, if other bytes lie before the ping that is sent next.
    pub fn note_ping(&mut self) {
        let (acknowledged, others_wait) = self.acknowledged_by_kernel();
        self.acknowledged = NonZeroU64::new(acknowledged).filter(|_| others_wait);
    }

    /// Whether the ping lay behind other bytes and the side has taken some of those since the ping was sent, or since this
    /// was asked last.
    pub fn takes_bytes_before_ping(&mut self) -> bool {
        let Some(before) = self.acknowledged else { return false };
        let (acknowledged, others_wait) = self.acknowledged_by_kernel();
        self.acknowledged = NonZeroU64::new(acknowledged).filter(|_| others_wait);
        acknowledged > before.get()
    }

    /// How many bytes the side's kernel has acknowledged, and whether there are some that it has not.
    fn acknowledged_by_kernel(&self) -> (u64, bool) {
        let unacknowledged = self.stream.socket().map_or(0, unacknowledged_bytes);
        (self.stream.written_to_kernel(self.taken).saturating_sub(unacknowledged), unacknowledged > 0)
    }

    /// Keeps what could not be judged of bytes that were read. An idle session has no memory for bytes that it does not have.
    pub fn keep(&mut self, rest: &[u8], reprocess: bool) {
        self.reprocess = reprocess;
        if rest.is_empty() {
            self.unprocessed = Vec::new();
        } else {
            self.unprocessed.clear();
            self.unprocessed.extend_from_slice(rest);
        }
    }

    /// Keeps what is left of bytes that were kept before, without another allocation.
    pub fn keep_rest(&mut self, mut unprocessed: Vec<u8>, processed: usize, reprocess: bool) {
        self.reprocess = reprocess;
        unprocessed.drain(..processed.min(unprocessed.len()));
        self.unprocessed = if unprocessed.is_empty() { Vec::new() } else { unprocessed };
    }

    /// Writes as much as the stream takes, and keeps the rest in order.
    pub fn send(&mut self, cx: &mut Context<'_>, mut bytes: &[u8]) -> io::Result<()> {
        if self.write_closed || self.ended {
            return Ok(());
        }
        if self.out.is_empty() {
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
        }
        self.out.extend_from_slice(bytes);
        Ok(())
    }

    /// Gives the stream what waits for it, and the kernel what the stream holds.
    pub fn flush(&mut self, cx: &mut Context<'_>) -> Backpressure {
        let flushed = self.poll_flush(cx);
        let progress = self.taken.wrapping_add(self.stream.written());
        match flushed {
            Poll::Ready(Ok(())) if self.blocked_at.take().is_some() => Backpressure::Cleared,
            Poll::Ready(Ok(())) => Backpressure::Clear,
            Poll::Ready(Err(_)) => Backpressure::Failed,
            Poll::Pending if self.blocked_at.replace(progress) == Some(progress) => Backpressure::Stalled,
            Poll::Pending => Backpressure::Progressing,
        }
    }

    /// Drops what the stream can make again.
    pub fn hibernate(&mut self) {
        self.stream.hibernate();
    }

    /// Gives up writing: what waits is dropped, and what comes later, too.
    pub fn close_write(&mut self) {
        self.write_closed = true;
        self.out = Vec::new();
        self.unflushed = false;
        self.blocked_at = None;
    }

    /// Gives up the stream: nothing is read from it any more, nor written, but for our own end if the other end said so in
    /// order (RFC 8446 section 6.1) and lacks nothing of what was sent to it.
    pub fn end(&mut self, in_order: bool) {
        let lacks_nothing = self.out.is_empty() && !self.unflushed && !self.write_closed;
        self.close_write();
        self.ended = true;
        self.closing = if in_order && lacks_nothing { Closing::Sending } else { Closing::Done };
        self.unprocessed = Vec::new();
        self.reprocess = false;
    }

    /// Sends what is left, says that no more will come, and waits for the other end to say the same; in the other order
    /// where the other end goes first.
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
            // Whatever goes wrong now, the session is over.
            self.closing = step.unwrap_or(Closing::Done);
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.out.is_empty() {
            let out = std::mem::take(&mut self.out);
            self.send(cx, &out)?;
            if !self.out.is_empty() {
                return Poll::Pending;
            }
        }
        if self.unflushed {
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
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
            // One read a poll: it may be of many small records.
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
