//! The socket below rustls: it counts the bytes that the kernel takes, and bounds the duration of a read.

use std::fmt;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::clock;
use super::cycle::Ticket;
use super::socket::SocketStream;

/// Limit on the output of a session that rustls buffers. The relay counts on it as a part of its own limit.
pub const OUTPUT_MAX_BYTES: usize = 32 * 1024;
/// Limit on the duration of one read of a session. tokio-rustls receives until the reader's buffer is full, which with
/// small records and key updates would delay the other sessions of the thread.
const READ_BUDGET: Duration = Duration::from_micros(250);

/// A socket that counts the bytes that the kernel takes. rustls buffers, so writes to rustls do not show whether a
/// client reads.
pub struct TlsSocket {
    stream: SocketStream,
    written: u64,
    /// The end of the current read. `None`: the read is not limited.
    read_ends: Option<Instant>,
    ticket: Ticket,
}

impl TlsSocket {
    /// Wraps a socket whose reads are not bounded until [`TlsSocket::poll_read_through`] is called.
    pub fn new(stream: SocketStream) -> Self {
        Self { stream, written: 0, read_ends: None, ticket: Ticket::default() }
    }

    /// Wraps a socket of which the kernel has taken this many bytes.
    pub fn resume(stream: SocketStream, written: u64) -> Self {
        Self { written, ..Self::new(stream) }
    }

    /// Returns the underlying socket.
    pub fn into_inner(self) -> SocketStream {
        self.stream
    }

    /// Returns the number of bytes that the kernel has taken.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Returns the underlying socket.
    pub fn get_ref(&self) -> &SocketStream {
        &self.stream
    }

    /// Reads from a TLS stream over such a socket for at most 250 µs. A read that this ends continues in a
    /// later cycle.
    pub fn poll_read_through<S: AsyncRead + Unpin>(
        stream: &mut S,
        socket: impl Fn(&mut S) -> &mut Self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        socket(stream).read_ends = Some(clock::after(clock::now(), READ_BUDGET));
        let read = Pin::new(&mut *stream).poll_read(cx, buf);
        if read.is_pending() && socket(stream).is_read_over() {
            socket(stream).ticket.wake_in_order(cx.waker());
        }
        read
    }

    fn is_read_over(&self) -> bool {
        self.read_ends.is_some_and(|end| clock::now() >= end)
    }

    fn count(&mut self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(n)) = &result {
            self.written += *n as u64;
        }
        result
    }
}

impl AsyncRead for TlsSocket {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_read_over() {
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for TlsSocket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.count(result)
    }

    /// Writes several records at once.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl fmt::Debug for TlsSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSocket")
            .field("stream", &self.stream)
            .field("written", &self.written)
            .finish_non_exhaustive()
    }
}
