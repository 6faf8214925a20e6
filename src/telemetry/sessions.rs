//! Logs slow upgrades, and the start and the end of each session: client, route, server, age, volume, and which side
//! closed it and why.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use tracing::Level;

use super::event::event;
use super::identity::Identities;
use super::line_quota::LineQuota;
use super::phases::{PhaseTimes, UpgradePhases, phase_event};
use super::request::{RequestId, RequestSummary};
use crate::config::LogConfig;
use crate::policy::limits::{LimitAction, LimitKind};
use crate::session::{Outcome, SessionStats};

/// The client and the upstream's server of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionSummary<'a> {
    /// The request id, which the upstream received as `X-Request-ID`.
    pub request_id: RequestId,
    /// The name of its route.
    pub route: &'a str,
    /// The auth section that admitted the client; `None`: the route is open.
    pub auth: Option<&'a str>,
    /// The token's subject.
    pub subject: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
    /// The upstream.
    pub upstream: &'a str,
    /// The upstream's server.
    pub server: &'a str,
    /// The trace, the target and the origin of its request.
    pub request: RequestSummary<'a>,
}

/// The end of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionEnd<'a> {
    /// The time since its 101.
    pub age: Duration,
    /// The side, the code and the cause.
    pub outcome: Outcome,
    /// The reason of its Close, if it is one of ours.
    pub reason: &'a str,
    /// Its traffic.
    pub counts: SessionStats,
    /// The messages of the upstream that were dropped because the client was too slow.
    pub dropped: u64,
    /// The limits that would have acted, and how often.
    pub reported: &'a [(LimitKind, u64)],
}

/// The log of sessions.
#[derive(Debug)]
pub struct Sessions {
    start_level: Level,
    slow_upgrade: Option<Duration>,
    identities: Identities,
    slow_upgrades: LineQuota,
    reports: LineQuota,
    drops: LineQuota,
    pub(super) redirects: LineQuota,
}

/// Writes a line about a session: the fields that describe it, and further ones.
macro_rules! session_event {
    ($level:expr, $identities:expr, $session:expr, $($arguments:tt)*) => {
        event!(
            $level,
            request_id = $session.request_id.to_string(),
            trace_id = $session.request.trace_id().map(|id| id.to_string()),
            route = $session.route,
            auth = $session.auth,
            subject = $identities.subject($session.subject),
            client = $identities.address($session.client),
            server = $session.server,
            host = $session.request.host(),
            path = $session.request.path(),
            origin = $session.request.origin(),
            $($arguments)*
        )
    };
}
pub(super) use session_event;

impl Sessions {
    /// Creates a log with the level of "session started" lines and the threshold of slow upgrades from the
    /// configuration.
    pub fn new(config: &LogConfig, identities: Identities) -> Self {
        Self {
            start_level: config.session_start,
            slow_upgrade: config.slow_upgrade,
            identities,
            slow_upgrades: LineQuota::new(),
            reports: LineQuota::new(),
            drops: LineQuota::new(),
            redirects: LineQuota::new(),
        }
    }

    /// Returns the form in which the log shows clients.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Returns the durations of the phases of an upgrade, if it is slow.
    pub fn slow_times(&self, phases: &UpgradePhases, now: Instant) -> PhaseTimes {
        phases.times(self.slow_upgrade, now)
    }

    /// Logs the phases of an upgrade whose 101 was written, if it was slow and the quota of such lines allows it.
    pub fn log_upgrade(&self, session: &SessionSummary<'_>, phases: &UpgradePhases, now: Instant) {
        let times = self.slow_times(phases, now);
        let is_shown = tracing::level_filters::LevelFilter::current() >= Level::WARN;
        if !times.is_slow() || !is_shown || !self.slow_upgrades.may_write(now) {
            return;
        }
        phase_event!(
            Level::WARN,
            times,
            request_id = session.request_id.to_string(),
            trace_id = session.request.trace_id().map(|id| id.to_string()),
            client = self.identities.address(session.client),
            route = session.route,
            server = session.server,
            left_out = self.slow_upgrades.take_left_out(),
            "slow upgrade"
        );
    }

    /// Logs the start of a session.
    pub fn log_start(&self, session: &SessionSummary<'_>) {
        if tracing::level_filters::LevelFilter::current() < self.start_level {
            return;
        }
        session_event!(self.start_level, self.identities, session, "session started");
    }

    /// Logs that messages of an operator could not be sent to a session in time.
    pub fn log_undelivered(&self, session: &SessionSummary<'_>, messages: u32) {
        session_event!(Level::WARN, self.identities, session, messages, "messages of an operator were not sent");
    }

    /// Logs that a limit that is only reported would have acted on a session, if the quota of such lines allows it.
    pub fn log_reported(&self, session: &SessionSummary<'_>, limit: LimitKind, action: LimitAction, now: Instant) {
        if tracing::level_filters::LevelFilter::current() < Level::INFO || !self.reports.may_write(now) {
            return;
        }
        session_event!(
            Level::INFO,
            self.identities,
            session,
            limit = limit.label(),
            action = action.label(),
            left_out = self.reports.take_left_out(),
            "limit exceeded, and only reported"
        );
    }

    /// Logs that messages of the upstream are dropped because the client is too slow, if the quota of such lines allows
    /// it.
    pub fn log_dropping(&self, session: &SessionSummary<'_>, now: Instant) {
        if tracing::level_filters::LevelFilter::current() < Level::INFO || !self.drops.may_write(now) {
            return;
        }
        let left_out = self.drops.take_left_out();
        session_event!(Level::INFO, self.identities, session, left_out, "messages dropped for a slow client");
    }

    /// Logs the end of a session.
    pub fn log_end(&self, session: &SessionSummary<'_>, end: &SessionEnd<'_>) {
        let SessionEnd { age, outcome: Outcome { by, code, cause }, reason, counts, dropped, reported } = *end;
        let reported: Vec<_> = reported.iter().map(|(limit, count)| format!("{} {count}", limit.label())).collect();
        let SessionStats { client, upstream, throttled } = counts;
        session_event!(
            Level::INFO,
            self.identities,
            session,
            age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            messages_in = client.messages,
            bytes_in = client.bytes,
            messages_out = upstream.messages,
            bytes_out = upstream.bytes,
            throttled,
            dropped = (dropped > 0).then_some(dropped),
            reported = (!reported.is_empty()).then(|| reported.join(", ")),
            by = by.label(),
            code = code.map(|code| code.0),
            cause = cause.label(),
            rule = cause.rule(),
            reason,
            "session ended"
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::config::LogFormat;
    use crate::telemetry::log::logged;
    use crate::telemetry::test_config;

    #[test]
    fn lines_about_slow_upgrades_are_limited_and_those_left_out_counted() {
        const MS: Duration = Duration::from_millis(1);
        let start = crate::runtime::clock::now();
        let config = LogConfig { slow_upgrade: Some(MS), ..test_config() };
        let session = SessionSummary {
            request_id: RequestId(1),
            route: "chat",
            auth: None,
            subject: None,
            client: "192.0.2.7".parse().unwrap(),
            upstream: "main",
            server: "192.0.2.8:80",
            request: RequestSummary::default(),
        };
        let lines = logged(LogFormat::Json, || {
            let sessions = Sessions::new(&config, Identities::new(&config, [0; 32]));
            let phases = UpgradePhases::start(start);
            sessions.log_upgrade(&session, &phases, start + MS);
            (0..600).for_each(|_| sessions.log_upgrade(&session, &phases, start + 2 * MS));
            sessions.log_upgrade(&session, &phases, start + Duration::from_secs(1));
        });
        let lines: Vec<Value> = lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert!(lines.iter().all(|line| line["message"] == "slow upgrade" && line["server"] == "192.0.2.8:80"));
        let left_out: Vec<u64> = lines.iter().filter_map(|line| line["left_out"].as_u64()).collect();
        assert_eq!((lines.len(), left_out), (501, vec![100]));
    }
}
