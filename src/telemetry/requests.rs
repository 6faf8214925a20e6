//! Logs ordinary requests: client, route, server, status, time and volume. And those that are redirected.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};

use super::event::event;
use super::request::{RequestId, RequestSummary, shown};
use super::sessions::{SessionSummary, Sessions, session_event};
use tracing::Level;

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

/// A request to which a plain listener answered with a redirect to `https`.
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

    /// Logs a redirect at the level of requests, or counts it as left out if the quota is exceeded: a client needs no
    /// upstream for it, and not even TLS.
    pub fn log_redirect(&self, redirect: &Redirect<'_>, now: Instant) {
        if tracing::level_filters::LevelFilter::current() < Level::INFO || !self.redirects.may_write(now) {
            return;
        }
        tracing::info!(
            request_id = redirect.request_id.to_string(),
            trace_id = redirect.summary.trace_id().map(|id| id.to_string()),
            client = self.identities().address(redirect.client),
            host = redirect.summary.host(),
            path = redirect.summary.path(),
            method = shown(redirect.method),
            status = redirect.status.as_u16(),
            left_out = self.redirects.take_left_out(),
            "redirect"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::identity::Identities;
    use crate::telemetry::log::logged;
    use crate::telemetry::test_config;

    #[test]
    fn lines_about_redirects_are_limited_and_those_left_out_counted() {
        let now = crate::runtime::clock::now();
        let lines = logged(LogFormat::Json, || {
            let config = test_config();
            let sessions = Sessions::new(&config, Identities::new(&config, [0; 32]));
            let redirect = Redirect {
                request_id: RequestId(1),
                summary: RequestSummary::default(),
                client: "192.0.2.7".parse().unwrap(),
                method: &Method::GET,
                status: StatusCode::MOVED_PERMANENTLY,
            };
            (0..600).for_each(|_| sessions.log_redirect(&redirect, now));
            sessions.log_redirect(&redirect, now + Duration::from_secs(1));
        });
        assert_eq!(lines.len(), 501);
        let last: serde_json::Value = serde_json::from_str(&lines[500]).unwrap();
        assert_eq!((last["message"].as_str(), last["left_out"].as_u64()), (Some("redirect"), Some(100)));
    }
}
