//! The client's stream while hyper reads and answers its requests.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::body_scanner::BodyScanner;
use super::head_reader::HeadReader;
use super::head_rejection::HeadRejection;
use super::request_deadlines::RequestDeadlines;
use super::request_progress::{Phase, RequestProgress};
use crate::policy::proxy_header::{self, START_BYTES};
use crate::runtime::cycle::Allowance;
use crate::telemetry::request::RequestId;

/// Limit on the bytes read behind a request that is not answered yet. RFC 6455 section 4.1 forbids clients to send any,
/// but some do. Further bytes stay in the kernel.
const BEHIND_MAX_BYTES: usize = 16 * 1024;

/// Reads per cycle of the worker. A read of many small records may take a quarter of a millisecond.
const READS: u32 = 2;
/// The bytes that the kernel may hold unsent of responses to ordinary requests. It takes further ones at half of that. By
/// default it holds megabytes and takes further ones when a third is free, for which a slow client that reads all the time
/// would need longer than `write_timeout`.
const UNSENT_MAX_BYTES: u32 = 128 * 1024;
/// The interval at which a client that sent more than `BEHIND_MAX_BYTES` is checked for a disconnect, so that its
/// session slot is freed soon after.
const LOOK_INTERVAL: Duration = Duration::from_millis(250);

/// A stream that withholds from hyper the bytes that a client sends behind its request. hyper detects the end of a
/// stream only while its own buffer is empty. Otherwise a client that sent bytes early and disconnected would count as
/// a session until the upstream has answered. And hyper gets the bytes of a body exactly, so that those of the next
/// request are read as a head of their own.
#[derive(Debug)]
pub(super) struct RequestStream<'a, S> {
    stream: S,
    progress: &'a RequestProgress,
    /// The writer while a head is read: hyper writes only to reject the head.
    rejection: HeadRejection,
    head: HeadReader,
    /// The first bytes of the first head, and their number.
    start: ([u8; START_BYTES], usize),
    body: Option<BodyScanner>,
    /// The bytes that were read and not passed to hyper.
    behind: Vec<u8>,
    /// Whether the stream has taken all bytes of a response that was passed to hyper as a whole.
    is_answered: bool,
    /// Whether the client has shut down its sending direction, which a read does not show while earlier bytes are
    /// unread.
    is_closed: fn(&S) -> bool,
    /// Limits the bytes that the kernel holds unsent; 0 removes the limit.
    limit_unsent: fn(&S, u32),
    is_limited: bool,
    /// The next check of a client that sent more than `BEHIND_MAX_BYTES`.
    look: Option<Pin<Box<Sleep>>>,
    reads: Allowance,
    deadlines: RequestDeadlines,
}

impl<'a, S> RequestStream<'a, S> {
    pub(super) fn new(
        stream: S,
        progress: &'a RequestProgress,
        deadlines: RequestDeadlines,
        request_id: RequestId,
        (is_closed, limit_unsent): (fn(&S) -> bool, fn(&S, u32)),
    ) -> Self {
        Self {
            stream,
            progress,
            rejection: HeadRejection::new(request_id),
            head: HeadReader::new(),
            start: ([0; START_BYTES], 0),
            body: None,
            behind: Vec::new(),
            is_answered: false,
            is_closed,
            limit_unsent,
            is_limited: false,
            look: None,
            reads: Allowance::default(),
            deadlines,
        }
    }

    /// Whether the client sent a PROXY header in place of a request, as far as the head was read.
    pub(super) fn is_proxy_header(&self) -> bool {
        let (start, len) = &self.start;
        proxy_header::is_start(start.get(..*len).unwrap_or_default())
    }

    /// Whether a head was not received in time.
    pub(super) fn is_late(&self) -> bool {
        self.deadlines.is_late()
    }

    fn keep_start(&mut self, read: &[u8]) {
        let (start, len) = &mut self.start;
        for (kept, byte) in start.iter_mut().skip(*len).zip(read) {
            *kept = *byte;
            *len += 1;
        }
    }

    /// Returns the stream and the bytes behind the request. `unread` are those of them that hyper has read.
    pub(super) fn into_parts(self, unread: Bytes) -> (S, Bytes) {
        if self.is_limited {
            // A session limits what the kernel holds itself, if it has to.
            (self.limit_unsent)(&self.stream, 0);
        }
        if self.behind.is_empty() {
            return (self.stream, unread);
        }
        (self.stream, [&unread[..], &self.behind].concat().into())
    }

    /// Reads the next head if the response to the request before it was written.
    fn go_on(&mut self, cx: &mut Context<'_>) {
        if self.is_answered && self.progress.phase() == Phase::Processing {
            self.is_answered = false;
            self.head = HeadReader::new();
            self.progress.begin_head();
            // hyper waits for bytes that may be here already.
            cx.waker().wake_by_ref();
        }
    }

    /// Returns how many of these bytes, which the client sent, hyper gets now.
    fn passed(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.progress.phase() {
            Phase::Processing => Ok(0),
            Phase::Head => {
                let end = self.head.read(bytes);
                if end.is_some() {
                    self.progress.set_shape(self.head.shape());
                    self.deadlines.end();
                }
                Ok(end.unwrap_or(bytes.len()))
            }
            Phase::Body => {
                let body = self.body.get_or_insert(BodyScanner::Unlimited);
                let end = body.read(bytes)?;
                if end.is_some() {
                    self.body = None;
                    self.progress.enter(Phase::Processing);
                }
                Ok(end.unwrap_or(bytes.len()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> RequestStream<'_, S> {
    /// Waits until the stream ends, and keeps the bytes that the client sends until then. hyper reads none of them.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; 1024];
        while self.behind.len() < BEHIND_MAX_BYTES {
            if !self.reads.take(READS, cx.waker()) {
                return Poll::Pending;
            }
            let mut read = ReadBuf::new(&mut bytes);
            let Poll::Ready(polled) = Pin::new(&mut self.stream).poll_read(cx, &mut read) else {
                self.reads.restore();
                return Poll::Pending;
            };
            polled?;
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
        this.go_on(cx);
        match this.progress.phase() {
            Phase::Processing => return this.poll_end(cx),
            Phase::Body => this.body = this.progress.scanner().or(this.body),
            Phase::Head => {}
        }
        if !this.behind.is_empty() {
            // The next request, or hyper did not treat this empty line as the end of the head.
            let mut behind = std::mem::take(&mut this.behind);
            let given = behind.get(..behind.len().min(buf.remaining())).unwrap_or_default();
            let passed = this.passed(given)?;
            buf.put_slice(given.get(..passed).unwrap_or_default());
            behind.drain(..passed);
            // A connection that is kept needs no buffer.
            this.behind = if behind.is_empty() { Vec::new() } else { behind };
            return Poll::Ready(Ok(()));
        }
        if !this.reads.take(READS, cx.waker()) {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) else {
            this.reads.restore();
            if this.progress.phase() == Phase::Head {
                return this.deadlines.poll(this.head.is_blank(), cx).map(Err);
            }
            return Poll::Pending;
        };
        read?;
        let read = buf.filled().get(before..).unwrap_or_default();
        this.keep_start(read);
        let passed = this.passed(read)?;
        this.behind.extend_from_slice(read.get(passed..).unwrap_or_default());
        buf.set_filled(before + passed);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for RequestStream<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.progress.phase() == Phase::Head {
            return this.rejection.poll_write(&mut this.stream, cx, bytes);
        }
        this.is_answered = false;
        if !this.is_limited && this.progress.carries_answers() {
            (this.limit_unsent)(&this.stream, UNSENT_MAX_BYTES);
            this.is_limited = true;
        }
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.deadlines.note_write(written, this.progress.write_timeout(), cx)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        ready!(this.deadlines.note_write(flushed, this.progress.write_timeout(), cx))?;
        // hyper flushes the stream once it has written all bytes.
        this.is_answered = this.progress.has_answered();
        this.go_on(cx);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;
    use std::time::Instant;

    use super::*;

    fn stream<'a>(bytes: &'a [u8], progress: &'a RequestProgress) -> RequestStream<'a, &'a [u8]> {
        let hour = Duration::from_secs(3600);
        let deadlines = RequestDeadlines::new(Instant::now() + hour, hour, hour);
        RequestStream::new(bytes, progress, deadlines, RequestId(1), (|_| false, |_, _| ()))
    }

    /// Reads once. Returns what hyper gets; `None` if it has to wait.
    fn read(stream: &mut RequestStream<'_, &[u8]>, step: usize) -> Option<Vec<u8>> {
        let mut part = vec![0; step];
        let mut buf = ReadBuf::new(&mut part);
        let polled = Pin::new(stream).poll_read(&mut Context::from_waker(Waker::noop()), &mut buf);
        polled.is_ready().then(|| buf.filled().to_vec())
    }

    /// Returns the bytes that hyper gets up to the end of the head, in reads of `step` bytes, and those kept behind it.
    fn split(bytes: &[u8], step: usize) -> (Vec<u8>, Vec<u8>) {
        let progress = RequestProgress::new();
        let mut stream = stream(bytes, &progress);
        let mut got = Vec::new();
        while !stream.head.has_ended() {
            let part = read(&mut stream, step).unwrap();
            assert!(!part.is_empty(), "the stream ends within the head");
            got.extend(part);
        }
        progress.enter(Phase::Processing);
        // The end of the stream is detected although bytes are kept.
        assert_eq!(read(&mut stream, 64), Some(Vec::new()));
        (got, stream.into_parts(Bytes::new()).1.to_vec())
    }

    #[test]
    fn bytes_behind_the_head_are_kept() {
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
    fn kept_bytes_are_passed_on_if_hyper_reads_on() {
        let progress = RequestProgress::new();
        let bytes = b"GET / HTTP/1.1\r\n\r\nmore";
        let mut stream = stream(bytes, &progress);
        let got = [read(&mut stream, 100).unwrap(), read(&mut stream, 100).unwrap()].concat();
        assert_eq!(got, bytes);
    }

    #[test]
    fn a_body_that_the_service_takes_is_passed_on() {
        let progress = RequestProgress::new();
        let mut stream = stream(b"POST / HTTP/1.1\r\n\r\nbody", &progress);
        assert_eq!(read(&mut stream, 100).unwrap(), b"POST / HTTP/1.1\r\n\r\n");
        progress.take_body(BodyScanner::Unlimited);
        assert_eq!((read(&mut stream, 100).unwrap(), read(&mut stream, 100).unwrap()), (b"body".to_vec(), Vec::new()));
    }

    #[test]
    fn the_next_head_follows_the_body_once_the_response_is_written() {
        let bytes = b"POST / HTTP/1.1\r\n\r\nbodyGET / HTTP/1.1\r\n\r\nGET";
        for step in 1..=bytes.len() {
            let progress = RequestProgress::new();
            let mut stream = stream(bytes, &progress);
            let up_to = |end: &[u8], stream: &mut RequestStream<'_, &[u8]>| {
                let mut got = Vec::new();
                while !got.ends_with(end) {
                    got.extend(read(stream, step).unwrap());
                }
                got
            };
            assert_eq!(up_to(b"\r\n\r\n", &mut stream), b"POST / HTTP/1.1\r\n\r\n");
            progress.take_body(BodyScanner::Known(4));
            assert_eq!(up_to(b"body", &mut stream), b"body");
            assert_eq!(progress.phase(), Phase::Processing);
            progress.begin_answer(Duration::ZERO).store(true, std::sync::atomic::Ordering::Relaxed);
            // As poll_flush does once all is written.
            stream.is_answered = true;
            assert_eq!(up_to(b"\r\n\r\n", &mut stream), b"GET / HTTP/1.1\r\n\r\n");
            assert_eq!(progress.shape().request_line_len, 14);
        }
    }

    #[test]
    fn kept_bytes_are_limited_and_a_disconnect_beyond_the_limit_is_detected() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let _entered = runtime.enter();
        let progress = RequestProgress::new();
        progress.enter(Phase::Processing);
        let bytes = vec![b'x'; 1 << 20];
        let mut full = stream(&bytes, &progress);
        assert_eq!(read(&mut full, 1), None);
        assert_eq!(full.behind.len(), BEHIND_MAX_BYTES);
        let mut closed = RequestStream { is_closed: |_| true, ..stream(&bytes, &progress) };
        assert_eq!(read(&mut closed, 1), Some(Vec::new()));
    }
}
