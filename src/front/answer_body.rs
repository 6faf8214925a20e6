//! The body of a response: one of Tollgate's own, or that of an upstream.

use std::convert::Infallible;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::headers;
use super::request_record::{RequestRecord, ResponseEnd};
use crate::balance::ServerSession;
use crate::runtime::clock;
use crate::runtime::pending_limit::AddressPermit;
use crate::upstream::response_body::ResponseBody;

/// The body of a response.
pub(super) enum AnswerBody {
    /// One of Tollgate's own.
    Own(Full<Bytes>),
    /// That of an upstream, which is streamed.
    Upstream(Box<ForwardedBody>),
}

/// The body of an upstream's response to an ordinary request. When it is dropped, the request has ended.
pub(super) struct ForwardedBody {
    body: ResponseBody,
    /// The request as one of its server's sessions, and as one in progress.
    _counts: (ServerSession, AddressPermit),
    record: RequestRecord,
    /// Set at the end of a response that the client gets as a whole.
    has_answered: Arc<AtomicBool>,
    /// How long the server may send nothing.
    idle: Option<(Duration, Pin<Box<Sleep>>)>,
    is_idle: bool,
    end: Option<ResponseEnd>,
}

impl ForwardedBody {
    pub(super) fn new(
        body: ResponseBody,
        counts: (ServerSession, AddressPermit),
        record: RequestRecord,
        has_answered: Arc<AtomicBool>,
        idle_timeout: Option<Duration>,
    ) -> Self {
        let idle = idle_timeout.map(|timeout| (timeout, Box::pin(sleep(timeout))));
        Self { body, _counts: counts, record, has_answered, idle, is_idle: false, end: None }
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            return self.poll_idle(cx).map(|()| {
                self.end = Some(ResponseEnd::Idle);
                Some(Err(io::ErrorKind::TimedOut.into()))
            });
        };
        self.is_idle = false;
        match &frame {
            None => self.end = Some(ResponseEnd::Whole),
            Some(Err(_)) => self.end = Some(ResponseEnd::UpstreamGone),
            Some(Ok(frame)) => self.record.add(frame.data_ref().map_or(0, Bytes::len)),
        }
        Poll::Ready(frame.map(|frame| frame.map(filtered)))
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some((timeout, sleep)) = &mut self.idle else { return Poll::Pending };
        if !self.is_idle {
            self.is_idle = true;
            let now = Instant::from_std(clock::now());
            sleep.as_mut().reset(now.checked_add(*timeout).unwrap_or(now));
        }
        sleep.as_mut().poll(cx)
    }
}

/// Removes the trailer fields that the client must not get from an upstream.
fn filtered(frame: Frame<Bytes>) -> Frame<Bytes> {
    match frame.into_trailers() {
        Ok(trailers) => Frame::trailers(headers::trailers_to_client(&trailers)),
        Err(data) => data,
    }
}

impl Drop for ForwardedBody {
    fn drop(&mut self) {
        let whole = self.body.is_end_stream().then_some(ResponseEnd::Whole);
        let end = self.end.or(whole).unwrap_or(ResponseEnd::ClientGone);
        self.record.end(end);
        if end == ResponseEnd::Whole {
            self.has_answered.store(true, Ordering::Relaxed);
        }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Own(body) => Pin::new(body)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(|never: Infallible| match never {}))),
            Self::Upstream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(body) => body.is_end_stream(),
            Self::Upstream(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(body) => body.size_hint(),
            Self::Upstream(body) => body.body.size_hint(),
        }
    }
}

impl fmt::Debug for AnswerBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Own(_) => "Own",
            Self::Upstream(_) => "Upstream",
        })
    }
}
