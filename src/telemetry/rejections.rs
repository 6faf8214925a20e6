//! Logs rejected requests, one line each, at a limited rate so that the log does not fill the disk.

use std::io;
use std::net::IpAddr;
use std::time::Instant;

use http::Method;
use tracing::Level;

use super::identity::Identities;
use super::line_quota::LineQuota;
use super::phases::{PhaseTimes, phase_event};
use super::request::{RequestId, RequestSummary, shown};
use crate::config::ListenAddress;
use crate::policy::logout::LogoutError;
use crate::policy::rejection::Rejection;
use crate::ws::handshake::OpeningError;

/// The log of rejections.
#[derive(Debug)]
pub struct RejectionLog {
    lines: LineQuota,
}

/// A request that was rejected.
#[derive(Debug)]
pub struct RejectionEvent<'a> {
    /// The reason.
    pub rejection: Rejection,
    /// The request id, which the upstream received as `X-Request-ID` if the request was sent to it.
    pub request_id: RequestId,
    /// The client's address.
    pub client: IpAddr,
    /// Its method, if its head was read.
    pub method: Option<&'a Method>,
    /// The trace, the target and the origin of the request.
    pub summary: RequestSummary<'a>,
    /// The route, if one was found.
    pub route: Option<&'a str>,
    /// The auth section that decided, if one did.
    pub auth: Option<&'a str>,
    /// The token's subject, if the token is valid.
    pub subject: Option<&'a str>,
    /// The name of the claim that fails the route's requirement, or that cannot be sent as a header.
    pub claim: Option<&'a str>,
    /// The upstream that the request waited for or that caused the rejection.
    pub upstream: Option<&'a str>,
    /// The upstream's server that was tried last or that responded.
    pub server: Option<&'a str>,
    /// Further text, such as an error of the upstream.
    pub detail: Option<&'a str>,
    /// The durations of its phases, if it is slow.
    pub times: PhaseTimes,
}

impl RejectionEvent<'_> {
    /// Creates an event without the optional fields.
    pub fn new(rejection: Rejection, request_id: RequestId, client: IpAddr) -> Self {
        Self {
            rejection,
            request_id,
            client,
            method: None,
            summary: RequestSummary::default(),
            route: None,
            auth: None,
            subject: None,
            claim: None,
            upstream: None,
            server: None,
            detail: None,
            times: PhaseTimes::default(),
        }
    }
}

impl RejectionLog {
    /// Creates a log whose quota is unused.
    pub fn new() -> Self {
        Self { lines: LineQuota::new() }
    }

    /// Logs a rejection, or counts it as left out if the quota is exceeded.
    pub fn log(&self, event: &RejectionEvent<'_>, identities: &Identities, now: Instant) {
        let level = level(event.rejection);
        // A line below the log level is not counted as left out.
        if tracing::level_filters::LevelFilter::current() < level || !self.lines.may_write(now) {
            return;
        }
        phase_event!(
            level,
            event.times,
            request_id = event.request_id.to_string(),
            trace_id = event.summary.trace_id().map(|id| id.to_string()),
            client = identities.address(event.client),
            status = event.rejection.response().status.as_u16(),
            cause = event.rejection.label(),
            rule = event.rejection.detail(),
            route = event.route,
            method = event.method.map(shown),
            host = event.summary.host(),
            path = event.summary.path(),
            origin = event.summary.origin(),
            auth = event.auth,
            subject = identities.subject(event.subject),
            claim = event.claim,
            upstream = event.upstream,
            server = event.server,
            detail = event.detail.map(super::truncate),
            left_out = self.lines.take_left_out(),
            "refused"
        );
    }

    /// Logs a connection that was closed before its handshake because too many connections, of its address or in total,
    /// are queued.
    pub fn log_connection_closed(&self, client: IpAddr, identities: &Identities, now: Instant) {
        if self.lines.may_write(now) {
            tracing::warn!(
                client = identities.address(client),
                "connection closed: too many connections wait for their handshake"
            );
        }
    }

    /// Logs a connection that was closed because a peer that must send a PROXY header did not send a valid one.
    /// `listener` is the one that the peer is connected to.
    pub fn log_no_proxy_header(
        &self,
        peer: IpAddr,
        listener: &ListenAddress,
        error: &io::Error,
        identities: &Identities,
        now: Instant,
    ) {
        if self.lines.may_write(now) {
            let client = identities.address(peer);
            tracing::warn!(client, %listener, %error, "connection closed: no valid PROXY header");
        }
    }

    /// Logs a connection whose TLS or request is malformed because a peer that must not send a PROXY header sent one.
    pub fn log_proxy_header(&self, peer: IpAddr, listener: &ListenAddress, identities: &Identities, now: Instant) {
        if self.lines.may_write(now) {
            let client = identities.address(peer);
            tracing::warn!(
                client,
                %listener,
                "a PROXY header, but the peer is not in proxy_protocol_from, or it sent one before"
            );
        }
    }

    /// Logs how many lines were left out since this was last logged, if any. To be called every few seconds.
    pub fn report(&self) {
        if let Some(left_out) = self.lines.take_left_out() {
            tracing::warn!(left_out, "lines about refusals were left out");
        }
    }
}

impl Default for RejectionLog {
    fn default() -> Self {
        Self::new()
    }
}

/// Returns the level of a rejection. One caused by Tollgate or an upstream is a warning. A request that is not an
/// upgrade comes from a health check or a scanner and is not logged by default.
fn level(rejection: Rejection) -> Level {
    match rejection {
        Rejection::Opening(OpeningError::NotUpgrade) => Level::DEBUG,
        Rejection::Logout(LogoutError::Busy | LogoutError::NoKeys | LogoutError::NotStored)
        | Rejection::ClusterUnavailable
        | Rejection::Full
        | Rejection::RequestsFull
        | Rejection::Memory
        | Rejection::KeysUnavailable { .. }
        | Rejection::Unreachable
        | Rejection::AuthUnavailable
        | Rejection::AuthBusy
        | Rejection::UpstreamBusy { .. }
        | Rejection::UpstreamFull { .. }
        | Rejection::UpstreamRate { .. }
        | Rejection::UpstreamMalformed
        | Rejection::UpstreamTimeout
        | Rejection::Answer(_) => Level::WARN,
        Rejection::UpstreamStatus(status) if status.is_server_error() => Level::WARN,
        Rejection::Head { .. }
        | Rejection::Opening(_)
        | Rejection::Host
        | Rejection::Path(_)
        | Rejection::NoRoute
        | Rejection::Misdirected
        | Rejection::Method
        | Rejection::Address
        | Rejection::UpgradeRate { .. }
        | Rejection::RequestRate { .. }
        | Rejection::Unsupported
        | Rejection::Framing(_)
        | Rejection::BodyTooLarge
        | Rejection::BodyTimeout
        | Rejection::Origin
        | Rejection::NoToken
        | Rejection::Token(_)
        | Rejection::Revoked
        | Rejection::Logout(_)
        | Rejection::TokenAmbiguous
        | Rejection::AuthStatus(_)
        | Rejection::Claims
        | Rejection::AddressRequests
        | Rejection::AddressSessions
        | Rejection::SubjectSessions
        | Rejection::Draining
        | Rejection::ClientGone
        | Rejection::UpstreamStatus(_) => Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::Value;

    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::log::logged;
    use crate::telemetry::test_config;

    fn log_rejection(rejections: &RejectionLog, rejection: Rejection, now: Instant) {
        let event = RejectionEvent::new(rejection, RequestId(1), "192.0.2.7".parse().unwrap());
        rejections.log(&event, &Identities::new(&test_config(), [0; 32]), now);
    }

    fn events(work: impl Fn()) -> Vec<Value> {
        logged(LogFormat::Json, work).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns the number of "refused" lines and the values of `left_out`.
    fn counts(events: &[Value]) -> (usize, Vec<u64>) {
        let event = events.iter().filter(|event| event["message"] == "refused").count();
        (event, events.iter().filter_map(|event| event["left_out"].as_u64()).collect())
    }

    #[test]
    fn left_out_lines_are_reported_once_with_or_without_a_further_rejection() {
        let now = crate::runtime::clock::now();
        let found = events(|| {
            let rejections = RejectionLog::new();
            (0..600).for_each(|_| log_rejection(&rejections, Rejection::NoRoute, now));
            rejections.report();
            rejections.report();
        });
        assert_eq!(counts(&found), (500, vec![100]));
        let found = events(|| {
            let rejections = RejectionLog::new();
            (0..600).for_each(|_| log_rejection(&rejections, Rejection::NoRoute, now));
            log_rejection(&rejections, Rejection::NoRoute, now + Duration::from_secs(1));
            rejections.report();
        });
        assert_eq!(counts(&found), (501, vec![100]), "a further rejection reports the count as well");
    }

    #[test]
    fn a_line_below_the_log_level_does_not_use_the_quota() {
        let now = crate::runtime::clock::now();
        let found = events(|| {
            let rejections = RejectionLog::new();
            (0..10_000).for_each(|_| log_rejection(&rejections, Rejection::Opening(OpeningError::NotUpgrade), now));
            log_rejection(&rejections, Rejection::NoRoute, now);
            rejections.report();
        });
        assert_eq!(counts(&found), (1, vec![]));
    }
}
