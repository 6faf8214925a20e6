//! The body of a client's request on its way to a server: streamed, with limits on its size and on each wait for the
//! client.

use std::error::Error;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::policy::framing::FramingError;
use crate::policy::rejection::Rejection;

/// The limits of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The maximum number of its bytes; `None`: unlimited.
    pub max_bytes: Option<u64>,
    /// How long the client may send nothing.
    pub timeout: Duration,
}

/// Removes trailer fields.
pub type TrailerFilter = Box<dyn Fn(&mut HeaderMap) + Send + Sync>;

/// The body of a request.
#[derive(Default)]
pub struct RequestBody(Option<Box<StreamedBody>>);

/// A body that the client sends.
struct StreamedBody {
    body: Incoming,
    limits: BodyLimits,
    /// Removes the trailer fields that the server must not see.
    filter: TrailerFilter,
    /// The end of the present wait for the client.
    wait: Option<Pin<Box<Sleep>>>,
    is_wait_over: bool,
    progress: Arc<BodyProgress>,
}

/// The reason why a body did not arrive as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// It exceeds its limit.
    TooLarge,
    /// The client sent nothing for too long.
    Timeout,
    /// It is not delimited as its head says.
    Malformed,
    /// The client disconnected.
    ClientGone,
}

/// The progress of a body, which outlives it.
#[derive(Debug, Default)]
pub struct BodyProgress {
    bytes: AtomicU64,
    /// Whether the server would take bytes that the client did not send yet.
    is_waiting: AtomicBool,
    /// Whether all of it was passed on.
    has_ended: AtomicBool,
    /// 0, or the fault.
    fault: AtomicU8,
}

impl BodyFault {
    const ALL: [Self; 4] = [Self::TooLarge, Self::Timeout, Self::Malformed, Self::ClientGone];

    /// Returns the rejection of the request.
    pub fn rejection(self) -> Rejection {
        match self {
            Self::TooLarge => Rejection::BodyTooLarge,
            Self::Timeout => Rejection::BodyTimeout,
            Self::Malformed => Rejection::Framing(FramingError::Body),
            Self::ClientGone => Rejection::ClientGone,
        }
    }

    fn of(error: &hyper::Error) -> Self {
        let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
        match cause.map(io::Error::kind) {
            Some(io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData) => Self::Malformed,
            _ => Self::ClientGone,
        }
    }
}

impl fmt::Display for BodyFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLarge => "the body of the request is too large",
            Self::Timeout => "the body of the request did not arrive in time",
            Self::Malformed => "the body of the request is malformed",
            Self::ClientGone => "the client disconnected within the body of its request",
        })
    }
}

impl Error for BodyFault {}

impl BodyProgress {
    /// Returns the number of bytes that were passed on.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether the server waits for the client.
    pub fn is_waiting(&self) -> bool {
        self.is_waiting.load(Ordering::Relaxed)
    }

    /// Whether all of it was passed on.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }

    /// Returns why the body did not arrive as a whole, if it did not.
    pub fn fault(&self) -> Option<BodyFault> {
        let position = usize::from(self.fault.load(Ordering::Relaxed)).checked_sub(1)?;
        BodyFault::ALL.get(position).copied()
    }

    fn fail(&self, fault: BodyFault) -> BodyFault {
        let position = BodyFault::ALL.iter().position(|known| *known == fault).unwrap_or_default();
        self.fault.store(u8::try_from(position + 1).unwrap_or(u8::MAX), Ordering::Relaxed);
        fault
    }
}

impl RequestBody {
    /// Streams the body of a client.
    pub fn streamed(body: Incoming, limits: BodyLimits, filter: TrailerFilter, progress: &Arc<BodyProgress>) -> Self {
        let progress = Arc::clone(progress);
        Self(Some(Box::new(StreamedBody { body, limits, filter, wait: None, is_wait_over: true, progress })))
    }

    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }
}

impl fmt::Debug for RequestBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RequestBody").field(&self.0.as_ref().map(|body| &body.progress)).finish()
    }
}

impl StreamedBody {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) else {
            self.progress.is_waiting.store(true, Ordering::Relaxed);
            return self.poll_wait(cx).map(|fault| Some(Err(self.progress.fail(fault))));
        };
        self.is_wait_over = true;
        self.progress.is_waiting.store(false, Ordering::Relaxed);
        let frame = match frame {
            None => {
                self.progress.has_ended.store(true, Ordering::Relaxed);
                return Poll::Ready(None);
            }
            Some(Err(error)) => return Poll::Ready(Some(Err(self.progress.fail(BodyFault::of(&error))))),
            Some(Ok(frame)) => frame,
        };
        if let Some(data) = frame.data_ref() {
            let bytes = self.progress.bytes().saturating_add(data.len().try_into().unwrap_or(u64::MAX));
            if self.limits.max_bytes.is_some_and(|max| bytes > max) {
                return Poll::Ready(Some(Err(self.progress.fail(BodyFault::TooLarge))));
            }
            self.progress.bytes.store(bytes, Ordering::Relaxed);
        }
        if frame.is_trailers() || self.body.is_end_stream() {
            self.progress.has_ended.store(true, Ordering::Relaxed);
        }
        Poll::Ready(match frame.into_trailers() {
            Ok(mut trailers) => {
                (self.filter)(&mut trailers);
                (!trailers.is_empty()).then(|| Ok(Frame::trailers(trailers)))
            }
            Err(data) => Some(Ok(data)),
        })
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<BodyFault> {
        let timeout = self.limits.timeout;
        let wait = self.wait.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if std::mem::take(&mut self.is_wait_over) {
            let now = Instant::from_std(crate::runtime::clock::now());
            wait.as_mut().reset(now.checked_add(timeout).unwrap_or(now));
        }
        wait.as_mut().poll(cx).map(|()| BodyFault::Timeout)
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyFault;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyFault>>> {
        self.0.as_mut().map_or(Poll::Ready(None), |body| body.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|body| body.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.0.as_ref().map_or(SizeHint::with_exact(0), |body| body.body.size_hint())
    }
}
