//! A client's stream while its request is read and answered.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::runtime::cycle::Allowance;

/// How much is read ahead of a request that is not answered yet. RFC 6455 section 4.1 lets a client send nothing then, but
/// some do; what is beyond stays in the kernel.
const BEHIND_MAX_BYTES: usize = 16 * 1024;

/// How many reads there are in a cycle of the worker. One of many small records may take a quarter of a millisecond.
const READS: u32 = 2;
/// How often a client that sent more than that is looked at, so that it holds nothing for long after it left.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// Keeps what a client sends behind its request from hyper. hyper looks for the end of a stream only while it has nothing
/// unread itself, so that otherwise a client that sent something early and left would keep its session's slot until the
/// upstream has answered.
#[derive(Debug)]
pub(super) struct RequestStream<'a, S> {
    stream: S,
    /// Whether hyper has given out the request. Up to then it gets what it asks for.
    summary: &'a AtomicBool,
    head: Head,
    behind: Vec<u8>,
    /// Whether the client has closed its direction, which no read shows while bytes before that are unread.
    is_closed: fn(&S) -> bool,
    /// When the client is looked at again that sent more than is kept.
    look: Option<Pin<Box<Sleep>>>,
    reads: Allowance,
}

/// How far the head of the request has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Head {
    /// Only empty lines yet, which are ignored (RFC 9112 section 2.2).
    Blank,
    /// Within a line.
    InLine,
    /// At the beginning of a line.
    AtLine,
    Ended,
}

impl<'a, S> RequestStream<'a, S> {
    pub(super) fn new(stream: S, summary: &'a AtomicBool, is_closed: fn(&S) -> bool) -> Self {
        Self {
            stream,
            summary,
            head: Head::Blank,
            behind: Vec::new(),
            is_closed,
            look: None,
            reads: Allowance::default(),
        }
    }

    /// The stream, and what came behind the request. `unread` is what hyper has of it.
    pub(super) fn into_parts(self, unread: Bytes) -> (S, Bytes) {
        if self.behind.is_empty() {
            return (self.stream, unread);
        }
        (self.stream, [&unread[..], &self.behind].concat().into())
    }
}

impl Head {
    /// Reads on; where the head ends in these bytes, if it does.
    fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        if *self == Self::Ended {
            return None;
        }
        for (at, byte) in bytes.iter().enumerate() {
            match (*self, byte) {
                (Self::AtLine, b'\n') => {
                    *self = Self::Ended;
                    return Some(at + 1);
                }
                (Self::InLine, b'\n') => *self = Self::AtLine,
                (Self::Blank, b'\n') | (_, b'\r') => {}
                _ => *self = Self::InLine,
            }
        }
        None
    }
}

impl<S: AsyncRead + Unpin> RequestStream<'_, S> {
    /// Reads nothing for hyper, until the stream ends.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 1024];
        while self.behind.len() < BEHIND_MAX_BYTES {
            if !self.reads.take(READS, cx.waker()) {
                return Poll::Pending;
            }
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            self.behind.extend_from_slice(read.filled());
        }
        while !(self.is_closed)(&self.stream) {
            let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK_INTERVAL)));
            ready!(look.as_mut().poll(cx));
            self.look = None;
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for RequestStream<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if this.summary.load(Ordering::Relaxed) {
            return this.poll_end(cx);
        }
        if !this.behind.is_empty() {
            // hyper did not take this empty line for the end of the head.
            let len = this.behind.len().min(buf.remaining());
            buf.put_slice(this.behind.get(..len).unwrap_or_default());
            this.behind.drain(..len);
            return Poll::Ready(Ok(()));
        }
        if !this.reads.take(READS, cx.waker()) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if let Some(end) = this.head.read(read) {
            this.behind.extend_from_slice(read.get(end..).unwrap_or_default());
            buf.set_filled(before + end);
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestStream<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
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
    use std::task::Waker;

    use super::*;

    /// What hyper gets of these bytes up to the moment in which it has the request, with a read for each so many bytes; and
    /// what is kept behind it.
    fn split(bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>) {
        let summary = AtomicBool::new(false);
        let mut stream = RequestStream::new(bytes, &summary, |_| false);
        let mut got = Vec::new();
        while stream.head != Head::Ended {
            let mut part = vec![0; step];
            let mut buf = ReadBuf::new(&mut part);
            assert!(Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_ready());
            assert!(!buf.filled().is_empty(), "the stream ends within the head");
            got.extend_from_slice(buf.filled());
        }
        summary.store(true, Ordering::Relaxed);
        let mut none = [0; 64];
        let mut buf = ReadBuf::new(&mut none);
        // The end of the stream is seen although there is something unread.
        assert!(Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_ready());
        assert!(buf.filled().is_empty());
        (got, stream.into_parts(Bytes::new()).1.to_vec())
    }

    #[test]
    fn what_comes_behind_a_head_is_kept() {
        for (head, behind) in [
            ("GET / HTTP/1.1\r\nA: b\r\n\r\n", ""),
            ("GET / HTTP/1.1\r\nA: b\r\n\r\n", "\r\n\r\nmore"),
            ("GET / HTTP/1.1\nA: b\n\n", "more"),
            ("\r\n\n\r\nGET / HTTP/1.1\r\nA: b\n\r\n", "GET / HTTP/1.1\r\n\r\n"),
        ] {
            let bytes = format!("{head}{behind}");
            for step in 1..=bytes.len() {
                let (got, kept) = split(bytes.as_bytes(), step);
                assert_eq!((got.as_slice(), kept.as_slice()), (head.as_bytes(), behind.as_bytes()), "{step}");
            }
        }
    }

    #[test]
    fn what_is_no_end_to_hyper_is_given_to_it() {
        let summary = AtomicBool::new(false);
        let bytes = b"GET / HTTP/1.1\r\n\r\nmore";
        let mut stream = RequestStream::new(&bytes[..], &summary, |_| false);
        let (mut got, mut part) = (Vec::new(), [0; 100]);
        for _ in 0..2 {
            let mut buf = ReadBuf::new(&mut part);
            assert!(Pin::new(&mut stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf).is_ready());
            got.extend_from_slice(buf.filled());
        }
        assert_eq!(got, bytes);
    }

    #[test]
    fn what_is_kept_is_bounded_and_a_client_that_left_is_noticed_all_the_same() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let summary = AtomicBool::new(true);
        let bytes = vec![b'x'; 1 << 20];
        let (mut none, mut cx) = ([0; 1], Context::from_waker(Waker::noop()));
        let mut stream = RequestStream::new(&bytes[..], &summary, |_| false);
        assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut ReadBuf::new(&mut none)).is_pending());
        assert_eq!(stream.behind.len(), BEHIND_MAX_BYTES);
        let mut stream = RequestStream::new(&bytes[..], &summary, |_| true);
        let mut buf = ReadBuf::new(&mut none);
        assert!(Pin::new(&mut stream).poll_read(&mut cx, &mut buf).is_ready() && buf.filled().is_empty());
    }
}
