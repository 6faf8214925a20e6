//! A line when a session starts, and one when it ends, which answers who, where, how long, how much, and who closed it and
//! why.

use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

use super::event::event;
use super::identity::Identities;
use super::request::{Asked, RequestId};
use crate::session::{Counts, Outcome};

/// The client and the upstream's server of a session.
#[derive(Debug, Clone, Copy)]
pub struct Parties<'a> {
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
    pub asked: Asked<'a>,
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
    pub fn log_start(&self, parties: &Parties<'_>) {
        if tracing::level_filters::LevelFilter::current() < self.start_level {
            return;
        }
        event!(
            self.start_level,
            request_id = parties.request_id.to_string(),
            route = parties.route,
            subject = self.identities.subject(parties.subject),
            client = self.identities.address(parties.client),
            server = parties.server,
            host = parties.asked.host(),
            path = parties.asked.path(),
            origin = parties.asked.origin(),
            "session started"
        );
    }

    /// Writes the line at the end.
    pub fn log_end(&self, parties: &Parties<'_>, age: Duration, outcome: Outcome, counts: &Counts) {
        let Outcome { by, code, cause } = outcome;
        let Counts { client, upstream, throttled } = counts;
        tracing::info!(
            request_id = parties.request_id.to_string(),
            route = parties.route,
            subject = self.identities.subject(parties.subject),
            client = self.identities.address(parties.client),
            server = parties.server,
            host = parties.asked.host(),
            path = parties.asked.path(),
            origin = parties.asked.origin(),
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
