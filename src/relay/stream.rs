//! The operations of a stream that the relay uses.

use std::io;
use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::runtime::socket::SocketStream;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// The operations of a stream that the relay uses.
pub trait Stream: AsyncRead + AsyncWrite + Unpin {
    /// Returns a number that grows whenever the kernel takes bytes that the stream held back.
    fn written(&self) -> u64;
    /// Whether the stream may hold bytes that it has taken but the kernel has not.
    fn holds_back(&self) -> bool;
    /// Returns how many bytes the kernel has taken from the stream, which has taken `taken` bytes.
    fn written_to_kernel(&self, taken: u64) -> u64;
    /// Returns the socket; `None` for a stream without one, as in tests.
    fn socket(&self) -> Option<BorrowedFd<'_>>;
    /// Becomes ready when the socket may be readable. The end of the stream counts as readable.
    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
    /// Returns the number of TLS key updates since the last call.
    fn take_key_updates(&mut self) -> u8;
    /// Drops the state that can be derived again, for an idle stream.
    fn hibernate(&mut self);
    /// Closes the socket of a side that is neither read nor written any more.
    fn release(&mut self) {}
    /// Returns the TLS version, as in `TLSv1_3`, of a stream that knows it.
    fn tls_version(&self) -> Option<&'static str> {
        None
    }
}

impl Stream for ClientStream {
    fn written(&self) -> u64 {
        self.written()
    }

    fn holds_back(&self) -> bool {
        self.holds_back()
    }

    fn written_to_kernel(&self, _taken: u64) -> u64 {
        written_to_kernel(self.socket(), self.written())
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket().socket())
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
        self.written()
    }

    fn holds_back(&self) -> bool {
        self.holds_back()
    }

    fn written_to_kernel(&self, taken: u64) -> u64 {
        written_to_kernel(self.socket(), if self.is_tls() { self.written() } else { taken })
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        Some(self.socket().socket())
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_read_ready(cx)
    }

    fn take_key_updates(&mut self) -> u8 {
        0
    }

    fn hibernate(&mut self) {}

    fn tls_version(&self) -> Option<&'static str> {
        self.tls_version()
    }
}

/// The number that represents the written bytes of a Unix socket.
pub(super) const UNIX_WRITTEN: u64 = u64::MAX / 2;

/// Returns how many bytes the kernel has taken. It reports the memory of a Unix socket's queue, not its bytes.
/// Subtracted from a constant, it shows whether the queue shrinks.
fn written_to_kernel(socket: &SocketStream, taken: u64) -> u64 {
    if socket.is_unix() { UNIX_WRITTEN } else { taken }
}
