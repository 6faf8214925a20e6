//! A connection to a server for ordinary requests, one after another.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::sleep;

use super::open::{OpenError, builder};
use super::request_body::{BodyProgress, RequestBody};
use super::stream::UpstreamStream;
use super::watched_stream::{Watch, WatchedStream};
use crate::runtime::clock;

/// A connection. It is served by the task that uses it, and by none while it is unused.
pub struct HttpConnection {
    sender: http1::SendRequest<RequestBody>,
    connection: http1::Connection<TokioIo<WatchedStream>, RequestBody>,
    watch: Arc<Watch>,
    has_ended: bool,
}

impl HttpConnection {
    /// Uses a stream that carried no request.
    ///
    /// # Errors
    /// If hyper cannot use it.
    pub async fn new(stream: UpstreamStream, title_case_headers: bool) -> Result<Self, OpenError> {
        let (stream, watch) = WatchedStream::new(stream);
        let (sender, connection) = builder(title_case_headers).handshake(TokioIo::new(stream)).await?;
        Ok(Self { sender, connection, watch, has_ended: false })
    }

    /// Sends a request, and returns the response when its head has arrived. It must arrive within `timeout` after the
    /// last byte of the request that the kernel took; a wait for the client does not count.
    ///
    /// # Errors
    /// If the head is not received in time, the connection breaks, or the response is not HTTP or has too large a head.
    pub async fn exchange(
        &mut self,
        request: Request<RequestBody>,
        timeout: Duration,
        progress: &BodyProgress,
    ) -> Result<Response<Incoming>, OpenError> {
        self.watch.begin();
        let mut response = pin!(self.sender.send_request(request));
        let (connection, has_ended) = (&mut self.connection, &mut self.has_ended);
        let mut waiting = HeadWait::new(timeout, self.watch.sent(), clock::now());
        let mut deadline = pin!(sleep(timeout));
        let watch = &self.watch;
        poll_fn(|cx| {
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(OpenError::from));
            }
            drive(connection, has_ended, cx);
            if let Poll::Ready(response) = response.as_mut().poll(cx) {
                return Poll::Ready(response.map_err(OpenError::from));
            }
            if *has_ended {
                return Poll::Ready(Err(OpenError::Broken(io::ErrorKind::UnexpectedEof.into())));
            }
            waiting.follow(watch.sent(), progress.is_waiting(), clock::now);
            while deadline.as_mut().poll(cx).is_ready() {
                let Some(end) = waiting.end(clock::now()) else { return Poll::Ready(Err(OpenError::Timeout)) };
                deadline.as_mut().reset(end.into());
            }
            Poll::Pending
        })
        .await
    }

    /// Reads and writes what is possible now.
    pub fn poll(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, &mut self.has_ended, cx);
    }

    /// Whether it can carry another request. It must not be waited for by a task.
    pub fn is_idle(&mut self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        self.poll(&mut cx);
        !self.has_ended && matches!(self.sender.poll_ready(&mut cx), Poll::Ready(Ok(())))
    }

    /// Whether it can carry another request, and the kernel has no bytes that belong to none.
    pub fn is_unspoiled(&mut self) -> bool {
        self.is_idle() && {
            self.watch.end();
            self.is_idle()
        }
    }

    /// Whether a byte of the response to the last request was received.
    pub fn has_received(&self) -> bool {
        self.watch.has_received()
    }

    /// Whether the server has closed it.
    pub fn has_ended(&self) -> bool {
        self.has_ended
    }
}

/// The wait for the head of a response. It begins anew with each byte of the request, and after each wait for the client.
#[derive(Debug)]
struct HeadWait {
    timeout: Duration,
    since: Instant,
    sent: u64,
    is_for_client: bool,
}

impl HeadWait {
    fn new(timeout: Duration, sent: u64, now: Instant) -> Self {
        Self { timeout, since: now, sent, is_for_client: false }
    }

    /// Notes the number of bytes that were sent up to now, and whether the server waits for the client.
    fn follow(&mut self, sent: u64, is_for_client: bool, now: impl FnOnce() -> Instant) {
        if (sent, is_for_client) != (self.sent, self.is_for_client) {
            (self.sent, self.is_for_client, self.since) = (sent, is_for_client, now());
        }
    }

    /// Returns the next time at which the wait may be over; `None` if it is over now.
    fn end(&self, now: Instant) -> Option<Instant> {
        let since = if self.is_for_client { now } else { self.since };
        Some(clock::after(since, self.timeout)).filter(|end| *end > now)
    }
}

fn drive(
    connection: &mut http1::Connection<TokioIo<WatchedStream>, RequestBody>,
    has_ended: &mut bool,
    cx: &mut Context<'_>,
) {
    // Its error is also that of the response.
    *has_ended = *has_ended || Pin::new(connection).poll(cx).is_ready();
}

impl fmt::Debug for HttpConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpConnection").field("has_ended", &self.has_ended).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_is_awaited_from_the_last_byte_of_the_request() {
        let start = Instant::now();
        let at = |seconds: u64| start + Duration::from_secs(seconds);
        let mut wait = HeadWait::new(Duration::from_secs(10), 100, start);
        let follow = |wait: &mut HeadWait, sent: u64, is_for_client: bool, now: u64| {
            wait.follow(sent, is_for_client, || at(now));
        };
        // The head of the request.
        follow(&mut wait, 150, false, 1);
        assert_eq!(wait.end(at(10)), Some(at(11)));
        assert_eq!(wait.end(at(11)), None);
        // The client sends its body slowly.
        follow(&mut wait, 150, true, 2);
        assert_eq!(wait.end(at(10)), Some(at(20)));
        assert_eq!(wait.end(at(20)), Some(at(30)));
        follow(&mut wait, 151, true, 22);
        assert_eq!(wait.end(at(30)), Some(at(40)));
        // The last byte leaves soon after the time at which the wait was looked at.
        follow(&mut wait, 152, false, 31);
        follow(&mut wait, 152, false, 39);
        assert_eq!(wait.end(at(40)), Some(at(41)));
        assert_eq!(wait.end(at(41)), None);
    }
}
