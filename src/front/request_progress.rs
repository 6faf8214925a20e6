//! The progress of a connection's requests, shared by its stream, which sees the bytes, and its service, which answers.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use super::body_scanner::BodyScanner;
use crate::policy::framing::HeadShape;

/// The phase of a connection, which decides whether hyper gets the bytes that the client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// hyper reads the head of a request.
    Head,
    /// The request is processed: no byte behind it is passed to hyper.
    Processing,
    /// The same, and hyper reads the body of the request.
    Body,
}

/// The progress of a connection. All of it is used by the task of the connection only.
#[derive(Debug)]
pub(super) struct RequestProgress {
    phase: AtomicU8,
    shape: [AtomicU64; 2],
    body: Mutex<Option<BodyScanner>>,
    /// Whether the response to an ordinary request has ended. It is created by the first of them.
    has_answered: OnceLock<Arc<AtomicBool>>,
    /// How long the client may take none of the response, in milliseconds; 0: as long as the response may take.
    write_timeout_ms: AtomicU64,
}

impl RequestProgress {
    pub(super) fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Head as u8),
            shape: [const { AtomicU64::new(0) }; 2],
            body: Mutex::new(None),
            has_answered: OnceLock::new(),
            write_timeout_ms: AtomicU64::new(0),
        }
    }

    pub(super) fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Head,
            1 => Phase::Processing,
            _ => Phase::Body,
        }
    }

    pub(super) fn enter(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
    }

    /// Sets the shape of the head that was read last.
    pub(super) fn set_shape(&self, shape: HeadShape) {
        let HeadShape { request_line_len, lines, crs, lfs } = shape;
        let pairs = [(request_line_len, lines), (crs, lfs)];
        for (cell, (high, low)) in self.shape.iter().zip(pairs) {
            cell.store(u64::from(high) << 32 | u64::from(low), Ordering::Relaxed);
        }
    }

    /// Returns the shape of the head that was read last.
    #[expect(clippy::cast_possible_truncation, reason = "each half is a number of 32 bits")]
    pub(super) fn shape(&self) -> HeadShape {
        let [(request_line_len, lines), (crs, lfs)] = self.shape.each_ref().map(|cell| {
            let pair = cell.load(Ordering::Relaxed);
            ((pair >> 32) as u32, pair as u32)
        });
        HeadShape { request_line_len, lines, crs, lfs }
    }

    /// Passes the body of the request to hyper when it reads again.
    pub(super) fn take_body(&self, body: BodyScanner) {
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        self.enter(Phase::Body);
    }

    /// Returns the scanner of the body that hyper reads.
    pub(super) fn scanner(&self) -> Option<BodyScanner> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Begins the response to an ordinary request. Returns the flag to set at its end.
    pub(super) fn begin_answer(&self, write_timeout: Duration) -> Arc<AtomicBool> {
        let millis = u64::try_from(write_timeout.as_millis()).unwrap_or(u64::MAX);
        self.write_timeout_ms.store(millis, Ordering::Relaxed);
        let answered = self.has_answered.get_or_init(Arc::default);
        answered.store(false, Ordering::Relaxed);
        Arc::clone(answered)
    }

    /// Whether the connection carries the responses to ordinary requests.
    pub(super) fn carries_answers(&self) -> bool {
        self.has_answered.get().is_some()
    }

    /// Whether the response to an ordinary request was passed to hyper as a whole.
    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.get().is_some_and(|answered| answered.load(Ordering::Relaxed))
    }

    /// Begins the next request.
    pub(super) fn begin_head(&self) {
        if let Some(answered) = self.has_answered.get() {
            answered.store(false, Ordering::Relaxed);
        }
        self.enter(Phase::Head);
    }

    /// Returns how long the client may take none of the response, if that is limited.
    pub(super) fn write_timeout(&self) -> Option<Duration> {
        let millis = self.write_timeout_ms.load(Ordering::Relaxed);
        (millis > 0).then(|| Duration::from_millis(millis))
    }
}
