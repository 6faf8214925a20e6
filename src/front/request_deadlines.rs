//! The deadlines of a connection that carries requests: for a head, for the pause before the next one, and for a client
//! that does not take its response.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Sleep, sleep_until};

use crate::runtime::clock;

/// The deadlines of a connection.
#[derive(Debug)]
pub(super) struct RequestDeadlines {
    /// When the first head must have been received.
    first: Instant,
    /// How long the client may pause between two requests, and how long a later head may take.
    pause: Duration,
    head: Duration,
    kind: Option<Kind>,
    has_read_one: bool,
    is_late: bool,
    /// The end of the wait for a head.
    reading: Option<Pin<Box<Sleep>>>,
    /// The end of the wait for the client to take bytes.
    writing: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    First,
    Pause,
    Head,
}

impl RequestDeadlines {
    pub(super) fn new(first: Instant, pause: Duration, head: Duration) -> Self {
        Self { first, pause, head, kind: None, has_read_one: false, is_late: false, reading: None, writing: None }
    }

    /// Whether a head was not received in time.
    pub(super) fn is_late(&self) -> bool {
        self.is_late
    }

    /// Ends the wait for a head that was received.
    pub(super) fn end(&mut self) {
        (self.kind, self.has_read_one) = (None, true);
    }

    /// Waits for the end of the time in which a head must be received. `is_blank`: nothing of it was.
    pub(super) fn poll(&mut self, is_blank: bool, cx: &mut Context<'_>) -> Poll<io::Error> {
        let kind = match (self.has_read_one, is_blank) {
            (false, _) => Kind::First,
            (true, true) => Kind::Pause,
            (true, false) => Kind::Head,
        };
        if self.kind != Some(kind) {
            self.kind = Some(kind);
            let now = clock::now();
            let deadline = match kind {
                Kind::First => self.first,
                Kind::Pause => clock::after(now, self.pause),
                Kind::Head => clock::after(now, self.head),
            };
            set(&mut self.reading, deadline);
        }
        let Some(reading) = &mut self.reading else { return Poll::Pending };
        reading.as_mut().poll(cx).map(|()| {
            self.is_late = kind != Kind::Pause;
            io::ErrorKind::TimedOut.into()
        })
    }

    /// Limits how long a write or a flush may be pending.
    pub(super) fn note_write<T>(
        &mut self,
        written: Poll<io::Result<T>>,
        timeout: Option<Duration>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        let (Poll::Pending, Some(timeout)) = (&written, timeout) else {
            self.writing = None;
            return written;
        };
        if self.writing.is_none() {
            set(&mut self.writing, clock::after(clock::now(), timeout));
        }
        let Some(writing) = &mut self.writing else { return Poll::Pending };
        writing.as_mut().poll(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

fn set(timer: &mut Option<Pin<Box<Sleep>>>, deadline: Instant) {
    match timer {
        Some(timer) => timer.as_mut().reset(deadline.into()),
        None => *timer = Some(Box::pin(sleep_until(deadline.into()))),
    }
}
