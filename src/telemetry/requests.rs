//! Logs ordinary requests: client, route, server, status, time and volume. And those that are redirected.

use std::net::IpAddr;
use std::time::Duration;

use http::{Method, StatusCode};

use super::event::event;
use super::request::{RequestId, RequestSummary};
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

/// A request to which a plain listener answered with a redirect to `https`, or with a 421 if no route serves its host.
#[derive(Debug, Clone, Copy)]
pub struct Redirect<'a> {
    /// Its id.
    pub request_id: RequestId,
    /// Its target and origin.
    pub summary: RequestSummary<'a>,
    /// The address of its client.
    pub client: IpAddr,
    /// Its method.
    pub method: &'a Method,
    /// The status of the response.
    pub status: StatusCode,
}

impl Sessions {
    /// Logs a request that was forwarded and has ended.
    pub fn log_request(&self, session: &SessionSummary<'_>, end: &RequestEnd<'_>) {
        if tracing::level_filters::LevelFilter::current() < Level::INFO {
            return;
        }
        session_event!(
            Level::INFO,
            self.identities(),
            session,
            method = shown(end.method),
            status = end.status.as_u16(),
            duration_ms = u64::try_from(end.duration.as_millis()).unwrap_or(u64::MAX),
            bytes_in = end.bytes_in,
            bytes_out = end.bytes_out,
            cause = end.cause,
            "request"
        );
    }

    /// Logs a redirect, at the level of requests.
    pub fn log_redirect(&self, redirect: &Redirect<'_>) {
        tracing::info!(
            request_id = redirect.request_id.to_string(),
            trace_id = redirect.summary.trace_id().map(|id| id.to_string()),
            client = self.identities().address(redirect.client),
            host = redirect.summary.host(),
            path = redirect.summary.path(),
            method = shown(redirect.method),
            status = redirect.status.as_u16(),
            "redirect"
        );
    }
}

fn shown(method: &Method) -> &str {
    let method = method.as_str();
    method.get(..METHOD_MAX_BYTES).unwrap_or(method)
}
