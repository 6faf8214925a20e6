//! A stream that can be closed before its session ends, so that the session does not keep a descriptor.

use std::io;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::stream::Stream;

/// A stream until it is released, and after that one that has ended.
#[derive(Debug)]
pub(super) struct Releasable<S>(pub Option<S>);

impl<S: Stream> AsyncRead for Releasable<S> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_read(cx, buf))
    }
}

impl<S: Stream> AsyncWrite for Releasable<S> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let closed = || Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        self.0.as_mut().map_or_else(closed, |stream| Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_mut().map_or(Poll::Ready(Ok(())), |stream| Pin::new(stream).poll_shutdown(cx))
    }
}

impl<S: Stream> Stream for Releasable<S> {
    fn written(&self) -> u64 {
        self.0.as_ref().map_or(0, Stream::written)
    }

    fn holds_back(&self) -> bool {
        self.0.as_ref().is_some_and(Stream::holds_back)
    }

    fn written_to_kernel(&self, taken: u64) -> u64 {
        self.0.as_ref().map_or(taken, |stream| stream.written_to_kernel(taken))
    }

    fn socket(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref()?.socket()
    }

    fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.as_ref().map_or(Poll::Pending, |stream| stream.poll_read_ready(cx))
    }

    fn take_key_updates(&mut self) -> u8 {
        self.0.as_mut().map_or(0, Stream::take_key_updates)
    }

    fn hibernate(&mut self) {
        self.0.iter_mut().for_each(Stream::hibernate);
    }

    fn release(&mut self) {
        self.0 = None;
    }

    fn tls_version(&self) -> Option<&'static str> {
        self.0.as_ref()?.tls_version()
    }
}
