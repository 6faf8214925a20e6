//! The stream of a connection that carries ordinary requests. It tells how much was sent and whether a response has begun,
//! and while the connection is unused it treats received bytes as an error.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::UpstreamStream;

/// What is known of a stream that hyper owns. All of it is used by the task of the connection only.
#[derive(Debug, Default)]
pub(super) struct Watch {
    has_received: AtomicBool,
    is_unused: AtomicBool,
    sent: AtomicU64,
}

impl Watch {
    /// Begins a request.
    pub(super) fn begin(&self) {
        self.has_received.store(false, Ordering::Relaxed);
        self.is_unused.store(false, Ordering::Relaxed);
    }

    /// No request is in progress: nothing may be received.
    pub(super) fn end(&self) {
        self.is_unused.store(true, Ordering::Relaxed);
    }

    /// Whether a byte was received since the request began.
    pub(super) fn has_received(&self) -> bool {
        self.has_received.load(Ordering::Relaxed)
    }

    /// Returns the number of bytes that the kernel has taken, or TLS.
    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    fn note_sent(&self, written: &Poll<io::Result<usize>>) {
        if let Poll::Ready(Ok(bytes)) = written {
            self.sent.fetch_add(u64::try_from(*bytes).unwrap_or(u64::MAX), Ordering::Relaxed);
        }
    }
}

/// A stream to a server.
#[derive(Debug)]
pub(super) struct WatchedStream {
    stream: UpstreamStream,
    watch: Arc<Watch>,
}

impl WatchedStream {
    pub(super) fn new(stream: UpstreamStream) -> (Self, Arc<Watch>) {
        let watch = Arc::<Watch>::default();
        (Self { stream, watch: Arc::clone(&watch) }, watch)
    }

    /// Asks the kernel for received bytes. The event loop may not have reported them yet: then they would be read as
    /// the beginning of the next response.
    fn expect_nothing(&self) -> Poll<io::Result<()>> {
        match recv(self.stream.socket().socket(), &mut [0; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT) {
            Ok((_, 0)) => Poll::Ready(Ok(())),
            Ok(_) => Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "bytes without a request"))),
            Err(error) => match io::Error::from(error) {
                error if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
                error => Poll::Ready(Err(error)),
            },
        }
    }
}

impl AsyncRead for WatchedStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.watch.has_received.store(true, Ordering::Relaxed);
        }
        if read.is_pending() && this.watch.is_unused.load(Ordering::Relaxed) {
            return this.expect_nothing();
        }
        read
    }
}

impl AsyncWrite for WatchedStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watch.note_sent(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watch.note_sent(&written);
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::task::Waker;

    use tokio::net::UnixStream;

    use super::*;

    fn read(stream: &mut WatchedStream) -> Poll<io::Result<usize>> {
        let (mut bytes, mut cx) = ([0; 64], Context::from_waker(Waker::noop()));
        let mut buf = ReadBuf::new(&mut bytes);
        Pin::new(stream).poll_read(&mut cx, &mut buf).map_ok(|()| buf.filled().len())
    }

    #[test]
    fn bytes_that_the_event_loop_has_not_reported_are_an_error_on_an_unused_connection() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            let (mut stream, watch) = WatchedStream::new(UnixStream::from_std(near).unwrap().into());
            watch.begin();
            // This task does not return to the event loop, which reports nothing further.
            assert!(read(&mut stream).is_pending());
            watch.end();
            assert!(read(&mut stream).is_pending());
            far.write_all(b"stray").unwrap();
            assert!(!watch.has_received());
            assert!(matches!(read(&mut stream), Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::InvalidData));
        });
    }

    #[test]
    fn the_first_byte_of_a_response_is_noted() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = std::os::unix::net::UnixStream::pair().unwrap();
            near.set_nonblocking(true).unwrap();
            far.write_all(b"HTTP").unwrap();
            let (mut stream, watch) = WatchedStream::new(UnixStream::from_std(near).unwrap().into());
            watch.begin();
            stream.stream.socket().ready(tokio::io::Interest::READABLE).await.unwrap();
            assert!(matches!(read(&mut stream), Poll::Ready(Ok(4))));
            assert!(watch.has_received());
            watch.begin();
            drop(far);
            stream.stream.socket().ready(tokio::io::Interest::READABLE).await.unwrap();
            assert!(matches!(read(&mut stream), Poll::Ready(Ok(0))));
            assert!(!watch.has_received());
        });
    }
}
