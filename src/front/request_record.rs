//! The record of an ordinary request: its log line and its metrics, when its response has ended.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use http::{Method, StatusCode};

use super::gateway::Gateway;
use crate::policy::limits::LimitKind;
use crate::relay::registry::SessionContext;
use crate::runtime::clock;
use crate::runtime::lifecycle::Phase;
use crate::telemetry::request::{OwnedRequestSummary, RequestId};
use crate::telemetry::requests::RequestEnd;
use crate::telemetry::sessions::SessionSummary;
use crate::upstream::request_body::{BodyFault, BodyProgress};

/// How a response ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ResponseEnd {
    /// All of it was passed on.
    Whole,
    /// The client disconnected, or took nothing for too long.
    ClientGone,
    /// The process ended.
    CutOff,
    /// The server disconnected within the response, or Tollgate from the server because of the request's body.
    UpstreamGone,
    /// The server sent nothing for `idle_timeout`.
    Idle,
}

impl ResponseEnd {
    /// Returns the cause of a response that is not whole, for the log.
    fn cause(self) -> Option<&'static str> {
        match self {
            Self::Whole => None,
            Self::ClientGone => Some("client_gone"),
            Self::CutOff => Some("draining"),
            Self::UpstreamGone => Some("upstream_gone"),
            Self::Idle => Some("idle_timeout"),
        }
    }
}

/// A request that was forwarded.
pub(super) struct RequestRecord {
    pub(super) gateway: Arc<Gateway>,
    pub(super) worker: SessionContext,
    pub(super) request_id: RequestId,
    pub(super) summary: OwnedRequestSummary,
    pub(super) route: Arc<str>,
    pub(super) auth: Option<Arc<str>>,
    pub(super) subject: Option<Arc<str>>,
    pub(super) client: IpAddr,
    pub(super) upstream: Arc<str>,
    pub(super) server: Arc<str>,
    pub(super) method: Method,
    pub(super) status: StatusCode,
    pub(super) started: Instant,
    pub(super) progress: Arc<BodyProgress>,
    pub(super) bytes_out: u64,
    /// The size of the request's body above which it is only reported.
    pub(super) report_above: Option<u64>,
}

impl RequestRecord {
    /// Counts bytes of the body of the response.
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes_out = self.bytes_out.saturating_add(bytes.try_into().unwrap_or(u64::MAX));
    }

    /// Logs and counts the request.
    pub(super) fn end(&self, end: ResponseEnd) {
        let is_cut_off = end == ResponseEnd::ClientGone && self.gateway.process.lifecycle.phase() == Phase::Aborted;
        let end = if is_cut_off { ResponseEnd::CutOff } else { end };
        if self.report_above.is_some_and(|max| self.progress.bytes() > max) {
            self.worker.metrics().count_reported_request(&self.route, LimitKind::RequestMaxSize);
        }
        let duration = clock::now().saturating_duration_since(self.started);
        self.worker.metrics().count_request(&self.route, self.status);
        self.worker.metrics().observe_request(&self.route, duration);
        let session = SessionSummary {
            request_id: self.request_id,
            route: &self.route,
            auth: self.auth.as_deref(),
            subject: self.subject.as_deref(),
            client: self.client,
            upstream: &self.upstream,
            server: &self.server,
            request: self.summary.summary(),
        };
        let event = RequestEnd {
            method: &self.method,
            status: self.status,
            duration,
            bytes_in: self.progress.bytes(),
            bytes_out: self.bytes_out,
            cause: cause(end, self.progress.fault()),
        };
        self.gateway.process.sessions.log_request(&session, &event);
    }
}

/// Returns the cause of a response that is not whole, or whose request is not. A fault of the request's body precedes the
/// disconnects that it brings about.
fn cause(end: ResponseEnd, fault: Option<BodyFault>) -> Option<&'static str> {
    let fault = fault.map(|fault| fault.rejection().label());
    match end {
        ResponseEnd::Whole | ResponseEnd::ClientGone | ResponseEnd::UpstreamGone => fault.or(end.cause()),
        ResponseEnd::CutOff | ResponseEnd::Idle => end.cause(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_of_the_body_is_the_cause_of_the_disconnects_after_it() {
        for (end, fault, expected) in [
            (ResponseEnd::Whole, None, None),
            (ResponseEnd::Whole, Some(BodyFault::ClientGone), Some("client_gone")),
            (ResponseEnd::UpstreamGone, None, Some("upstream_gone")),
            (ResponseEnd::UpstreamGone, Some(BodyFault::Timeout), Some("body_timeout")),
            (ResponseEnd::UpstreamGone, Some(BodyFault::TooLarge), Some("body_too_large")),
            (ResponseEnd::UpstreamGone, Some(BodyFault::Malformed), Some("framing")),
            (ResponseEnd::UpstreamGone, Some(BodyFault::ClientGone), Some("client_gone")),
            (ResponseEnd::ClientGone, Some(BodyFault::Timeout), Some("body_timeout")),
            (ResponseEnd::CutOff, Some(BodyFault::ClientGone), Some("draining")),
            (ResponseEnd::Idle, None, Some("idle_timeout")),
        ] {
            assert_eq!(cause(end, fault), expected, "{end:?} {fault:?}");
        }
    }
}
