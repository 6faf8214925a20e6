//! Logs ordinary requests: client, route, server, status, time and volume.

use std::time::Duration;

use http::{Method, StatusCode};

use super::event::event;
use super::sessions::{SessionSummary, Sessions, session_event};
use tracing::Level;

/// The longest method that the log shows as it is.
const METHOD_MAX_BYTES: usize = 32;

/// The end of an ordinary request.
#[derive(Debug, Clone, Copy)]
pub struct RequestEnd<'a> {
    /// Its method.
    pub method: &'a Method,
    /// The status of its response.
    pub status: StatusCode,
    /// The time from its head to the end of its response.
    pub duration: Duration,
    /// The number of bytes of its body.
    pub bytes_in: u64,
    /// The number of bytes of the response's body.
    pub bytes_out: u64,
    /// Why the response is not whole; `None` if it is.
    pub cause: Option<&'a str>,
}

impl Sessions {
    /// Logs a request that was forwarded and has ended.
    pub fn log_request(&self, session: &SessionSummary<'_>, end: &RequestEnd<'_>) {
        if tracing::level_filters::LevelFilter::current() < Level::INFO {
            return;
        }
        let method = end.method.as_str();
        session_event!(
            Level::INFO,
            self.identities(),
            session,
            method = method.get(..METHOD_MAX_BYTES).unwrap_or(method),
            status = end.status.as_u16(),
            duration_ms = u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX),
            bytes_in = end.bytes_in,
            bytes_out = end.bytes_out,
            cause = end.cause,
            "request"
        );
    }
}
