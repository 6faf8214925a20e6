//! One line for each refusal, but no more lines than a disk can bear.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tracing::Level;

use super::event::event;
use super::identity::Identities;
use super::request::{RequestId, RequestSummary};
use crate::policy::quota::{Bucket, Quota, Rate};
use crate::policy::rejection::Rejection;
use crate::ws::handshake::OpeningError;

/// At most 50 lines a second in the long run, 500 at once: some 20 KB a second under attack.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN.saturating_add(49), period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(499),
};

/// The log of refusals.
#[derive(Debug)]
pub struct RejectionLog {
    lines: Bucket,
    left_out: AtomicU64,
}

/// A request that got no session.
#[derive(Debug)]
pub struct RejectionEvent<'a> {
    /// Why.
    pub rejection: Rejection,
    /// Its id, which the upstream was told if it was asked.
    pub request_id: RequestId,
    /// Where it came from.
    pub client: IpAddr,
    /// Its target and its origin.
    pub summary: RequestSummary<'a>,
    /// Its route, if it came so far.
    pub route: Option<&'a str>,
    /// The token's subject, if the token holds.
    pub subject: Option<&'a str>,
    /// The name of the claim that is not as the route requires, or that no header can carry.
    pub claim: Option<&'a str>,
    /// The upstream, if it was one that was asked.
    pub upstream: Option<&'a str>,
    /// The upstream's server, if it answered or should have.
    pub server: Option<&'a str>,
    /// Further text, such as an error of the upstream.
    pub detail: Option<&'a str>,
}

impl RejectionEvent<'_> {
    /// A refusal of which nothing else is known.
    pub fn new(rejection: Rejection, request_id: RequestId, client: IpAddr) -> Self {
        Self {
            rejection,
            request_id,
            client,
            summary: RequestSummary::default(),
            route: None,
            subject: None,
            claim: None,
            upstream: None,
            server: None,
            detail: None,
        }
    }
}

impl RejectionLog {
    /// Nothing logged yet.
    pub fn new(now: Instant) -> Self {
        Self { lines: Bucket::new(LINES, now), left_out: AtomicU64::new(0) }
    }

    /// Logs a refusal, or counts it if there were too many.
    pub fn log(&self, refused: &RejectionEvent<'_>, identities: &Identities, now: Instant) {
        let level = level(refused.rejection);
        // A line that is not written anyway is not one that is left out.
        if tracing::level_filters::LevelFilter::current() < level || !self.may_write(now) {
            return;
        }
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        event!(
            level,
            request_id = refused.request_id.to_string(),
            client = identities.address(refused.client),
            status = refused.rejection.response().status.as_u16(),
            cause = refused.rejection.label(),
            rule = refused.rejection.detail(),
            route = refused.route,
            host = refused.summary.host(),
            path = refused.summary.path(),
            origin = refused.summary.origin(),
            subject = identities.subject(refused.subject),
            claim = refused.claim,
            upstream = refused.upstream,
            server = refused.server,
            detail = refused.detail.map(super::truncate),
            left_out = (left_out > 0).then_some(left_out),
            "refused"
        );
    }

    /// Logs a connection that was closed unheard, since too many others of its address, or of all, wait for a place.
    pub fn log_connection_closed(&self, client: IpAddr, identities: &Identities, now: Instant) {
        if self.may_write(now) {
            tracing::warn!(
                client = identities.address(client),
                "connection closed: too many connections wait for their handshake"
            );
        }
    }

    /// Whether there is room for one more line; else it is counted.
    fn may_write(&self, now: Instant) -> bool {
        let may = self.lines.take(now).is_ok();
        self.left_out.fetch_add(u64::from(!may), Ordering::Relaxed);
        may
    }

    /// Logs how many lines were left out, if any were and no line has said so. To be called every few seconds.
    pub fn report(&self) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            tracing::warn!(left_out, "lines about refusals were left out");
        }
    }
}

/// A refusal that Tollgate or an upstream is to blame for is a warning. One that a health check or a scanner gets for a
/// request that is no upgrade is of no interest by default.
fn level(rejection: Rejection) -> Level {
    match rejection {
        Rejection::Opening(OpeningError::NotUpgrade) => Level::DEBUG,
        Rejection::Full
        | Rejection::Unreachable
        | Rejection::UpstreamBusy
        | Rejection::UpstreamMalformed
        | Rejection::UpstreamTimeout
        | Rejection::Answer(_) => Level::WARN,
        Rejection::UpstreamStatus(status) if status.is_server_error() => Level::WARN,
        Rejection::Head { .. }
        | Rejection::Opening(_)
        | Rejection::Host
        | Rejection::Path(_)
        | Rejection::NoRoute
        | Rejection::Address
        | Rejection::UpgradeRate { .. }
        | Rejection::Origin
        | Rejection::NoToken
        | Rejection::Token(_)
        | Rejection::TokenAmbiguous
        | Rejection::Claims
        | Rejection::AddressSessions
        | Rejection::SubjectSessions
        | Rejection::Draining
        | Rejection::ClientGone
        | Rejection::UpstreamStatus(_) => Level::INFO,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::log::logged;
    use crate::telemetry::test_config;

    fn refuse(rejections: &RejectionLog, rejection: Rejection, now: Instant) {
        let refused = RejectionEvent::new(rejection, RequestId(1), "192.0.2.7".parse().unwrap());
        rejections.log(&refused, &Identities::new(&test_config(), [0; 32]), now);
    }

    fn events(work: impl Fn()) -> Vec<Value> {
        logged(LogFormat::Json, work).iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How many lines each of these has.
    fn counts(events: &[Value]) -> (usize, Vec<u64>) {
        let refused = events.iter().filter(|event| event["message"] == "refused").count();
        (refused, events.iter().filter_map(|event| event["left_out"].as_u64()).collect())
    }

    #[test]
    fn what_is_left_out_is_reported_without_a_further_refusal() {
        let now = crate::runtime::clock::now();
        let found = events(|| {
            let rejections = RejectionLog::new(now);
            (0..600).for_each(|_| refuse(&rejections, Rejection::NoRoute, now));
            rejections.report();
            rejections.report();
        });
        assert_eq!(counts(&found), (500, vec![100]));
        let found = events(|| {
            let rejections = RejectionLog::new(now);
            (0..600).for_each(|_| refuse(&rejections, Rejection::NoRoute, now));
            refuse(&rejections, Rejection::NoRoute, now + Duration::from_secs(1));
            rejections.report();
        });
        assert_eq!(counts(&found), (501, vec![100]), "a further refusal says it as well");
    }

    #[test]
    fn a_line_below_the_level_takes_no_room() {
        let now = crate::runtime::clock::now();
        let found = events(|| {
            let rejections = RejectionLog::new(now);
            (0..10_000).for_each(|_| refuse(&rejections, Rejection::Opening(OpeningError::NotUpgrade), now));
            refuse(&rejections, Rejection::NoRoute, now);
            rejections.report();
        });
        assert_eq!(counts(&found), (1, vec![]));
    }
}
