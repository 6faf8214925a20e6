//! A connection to a server for ordinary requests, one after another.

use std::fmt;
use std::future::{Future as _, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, sleep};

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
    /// last byte of the request that the server took; a wait for the client does not count.
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
        let (mut deadline, mut sent) = (pin!(sleep(timeout)), progress.bytes());
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
            while deadline.as_mut().poll(cx).is_ready() {
                if !progress.is_waiting() && progress.bytes() == sent {
                    return Poll::Ready(Err(OpenError::Timeout));
                }
                sent = progress.bytes();
                let now = Instant::from_std(clock::now());
                deadline.as_mut().reset(now.checked_add(timeout).unwrap_or(now));
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
