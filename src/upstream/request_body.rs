//! The body of a client's request on its way to a server: streamed, with limits on its size and on the waits for the
//! client.

use std::error::Error;
use std::fmt;
use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::HeaderMap;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::{Sleep, sleep_until};

use crate::policy::framing::FramingError;
use crate::policy::rejection::Rejection;
use crate::runtime::clock;

/// The rate at which a body must arrive on average once it was waited for longer than one pause may take, in bytes per
/// second. Otherwise a client that sends one byte in each pause would keep a place of a server for days. The default of
/// Apache's `mod_reqtimeout` is 500. What arrives faster earns one more pause at most.
pub const MIN_BYTES_PER_SECOND: u64 = 512;

/// The limits of a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// The maximum number of its bytes; `None`: unlimited.
    pub max_bytes: Option<u64>,
    /// How long the client may send nothing, and how long all waits may take beyond [`MIN_BYTES_PER_SECOND`]. What
    /// arrives faster allows for as much again, not for more.
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
    waits: Waits,
    /// The end of the present wait for the client.
    deadline: Option<Pin<Box<Sleep>>>,
    progress: Arc<BodyProgress>,
}

/// The waits for a client. The time in which the server takes nothing is none.
#[derive(Debug)]
struct Waits {
    timeout: Duration,
    /// The beginning of the present one.
    since: Option<Instant>,
    /// How long those that follow may take. Each wait takes from it, and each byte adds to it.
    left: Duration,
    /// The number of bytes that were added.
    bytes: u64,
}

/// The reason why a body did not arrive as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// It exceeds its limit.
    TooLarge,
    /// The client sent nothing for too long, or too little.
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
        if is_malformed(error) { Self::Malformed } else { Self::ClientGone }
    }
}

/// Whether a body is not delimited as its head says.
pub(super) fn is_malformed(error: &hyper::Error) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<io::Error>());
    cause.is_some_and(|error| matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
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
        let (progress, waits) = (Arc::clone(progress), Waits::new(limits.timeout));
        Self(Some(Box::new(StreamedBody { body, limits, filter, waits, deadline: None, progress })))
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
        self.waits.end(clock::now());
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
        if let Some(end) = self.waits.begin(clock::now(), self.progress.bytes()) {
            match &mut self.deadline {
                Some(deadline) => deadline.as_mut().reset(end.into()),
                None => self.deadline = Some(Box::pin(sleep_until(end.into()))),
            }
        }
        let Some(deadline) = &mut self.deadline else { return Poll::Pending };
        deadline.as_mut().poll(cx).map(|()| BodyFault::Timeout)
    }
}

impl Waits {
    fn new(timeout: Duration) -> Self {
        Self { timeout, since: None, left: timeout, bytes: 0 }
    }

    /// Begins a wait after this number of bytes, and returns its deadline. Returns `None` if it has begun before.
    fn begin(&mut self, now: Instant, bytes: u64) -> Option<Instant> {
        if self.since.is_some() {
            return None;
        }
        self.since = Some(now);
        let added = bytes.saturating_sub(self.bytes);
        self.bytes = bytes;
        let earned = Duration::from_nanos(added.saturating_mul(1_000_000_000 / MIN_BYTES_PER_SECOND));
        // Otherwise a burst at the beginning would pay for hours of single bytes.
        self.left = self.left.saturating_add(earned).min(self.timeout.saturating_mul(2));
        Some(clock::after(now, self.left.min(self.timeout)))
    }

    fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now.saturating_duration_since(since));
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns after how many milliseconds the client is given up that sends `first` bytes at once, and then this many at
    /// the end of each pause; `None` if it sends 1 MiB in that way.
    fn given_up_ms(timeout_ms: u64, first: u64, pause_ms: u64, bytes: u64) -> Option<u64> {
        let start = Instant::now();
        let (mut waits, mut now, mut sent) = (Waits::new(Duration::from_millis(timeout_ms)), start, first);
        while sent < first + (1 << 20) {
            let deadline = waits.begin(now, sent).unwrap();
            assert_eq!(waits.begin(deadline, sent), None, "the wait has begun");
            let next = now + Duration::from_millis(pause_ms);
            if next > deadline {
                return Some(u64::try_from(deadline.duration_since(start).as_millis()).unwrap());
            }
            waits.end(next);
            (now, sent) = (next, sent + bytes);
        }
        None
    }

    #[test]
    fn a_body_arrives_at_the_minimum_rate_once_the_timeout_has_passed() {
        // A pause that is too long.
        assert_eq!(given_up_ms(30_000, 0, 30_001, 1 << 19), Some(30_000));
        assert_eq!(given_up_ms(30_000, 0, 30_000, 1 << 19), None);
        // 1 byte each second earns 2 ms.
        assert_eq!(given_up_ms(30_000, 0, 1000, 1), Some(30_058));
        // 500 bytes each second are not enough, 512 are.
        assert_eq!(given_up_ms(30_000, 0, 1000, 500), Some(1_238_984));
        assert_eq!(given_up_ms(30_000, 0, 1000, 512), None);
        // A client that has sent much may pause for the timeout, and no longer.
        let (now, timeout) = (Instant::now(), Duration::from_secs(30));
        assert_eq!(Waits::new(timeout).begin(now, u64::MAX), Some(now + timeout));
    }

    #[test]
    fn a_burst_pays_for_one_more_timeout() {
        assert_eq!(given_up_ms(30_000, 1 << 20, 29_000, 1), Some(60_003));
        assert_eq!(given_up_ms(30_000, 1 << 40, 1000, 1), Some(60_117));
        assert_eq!(given_up_ms(30_000, 7680, 1000, 1), Some(45_087));
        // Bursts with pauses between them are no slow client.
        assert_eq!(given_up_ms(30_000, 1 << 20, 29_000, 29 * 512), None);
    }
}
