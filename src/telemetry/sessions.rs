//! A line when a session starts, and one when it ends, which answers who, where, how long, how much, and who closed it and
//! why.

use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

use super::event::event;
use super::identity::Identities;
use super::request::{RequestId, RequestSummary};
use crate::session::{Outcome, SessionStats};

/// The client and the upstream's server of a session.
#[derive(Debug, Clone, Copy)]
pub struct SessionSummary<'a> {
    /// The id of its request, which the upstream was told.
    pub request_id: RequestId,
    /// Its route.
    pub route: &'a str,
    /// The token's subject.
    pub subject: Option<&'a str>,
    /// The client's address.
    pub client: IpAddr,
    /// The upstream's server.
    pub server: &'a str,
    /// What its request asked for.
    pub summary: RequestSummary<'a>,
}

/// The log of sessions.
#[derive(Debug)]
pub struct Sessions {
    start_level: Level,
    identities: Identities,
}

impl Sessions {
    /// A log whose lines at the start of sessions have this level.
    pub fn new(start_level: Level, identities: Identities) -> Self {
        Self { start_level, identities }
    }

    /// How it shows clients.
    pub fn identities(&self) -> &Identities {
        &self.identities
    }

    /// Writes the line at the start.
    pub fn log_start(&self, summary_of: &SessionSummary<'_>) {
        if tracing::level_filters::LevelFilter::current() < self.start_level {
            return;
        }
        event!(
            self.start_level,
            request_id = summary_of.request_id.to_string(),
            route = summary_of.route,
            subject = self.identities.subject(summary_of.subject),
            client = self.identities.address(summary_of.client),
            server = summary_of.server,
            host = summary_of.summary.host(),
            path = summary_of.summary.path(),
            origin = summary_of.summary.origin(),
            "session started"
        );
    }

    /// Writes the line at the end.
    pub fn log_end(&self, summary_of: &SessionSummary<'_>, age: Duration, outcome: Outcome, counts: &SessionStats) {
        let Outcome { by, code, cause } = outcome;
        let SessionStats { client, upstream, throttled } = counts;
        tracing::info!(
            request_id = summary_of.request_id.to_string(),
            route = summary_of.route,
            subject = self.identities.subject(summary_of.subject),
            client = self.identities.address(summary_of.client),
            server = summary_of.server,
            host = summary_of.summary.host(),
            path = summary_of.summary.path(),
            origin = summary_of.summary.origin(),
            age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            messages_in = client.messages,
            bytes_in = client.bytes,
            messages_out = upstream.messages,
            bytes_out = upstream.bytes,
            throttled,
            by = by.label(),
            code = code.map(|code| code.0),
            cause = cause.label(),
            reason = cause.reason(),
            "session ended"
        );
    }
}
