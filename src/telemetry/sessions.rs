//! A line when a session starts, and one when it ends, which answers who, where, how long, how much, and who closed it and
//! why.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use tracing::Level;

use super::identity::Identities;
use super::refusals::event;
use crate::session::{Counts, Outcome};

/// Names one request in our log and, as a header, in the upstream's.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The target and the origin of a request, as the log shows them: each part cut. The query is left out, since it may hold a token.
#[derive(Debug, Clone, Copy, Default)]
pub struct Asked<'a> {
    host: Option<&'a str>,
    path: Option<&'a str>,
    origin: Option<&'a str>,
}

impl<'a> Asked<'a> {
    /// Of these parts.
    pub fn new(host: Option<&'a str>, path: Option<&'a str>, origin: Option<&'a str>) -> Self {
        Self { host: host.map(super::cut), path: path.map(super::cut), origin: origin.map(super::cut) }
    }

    /// The host.
    pub fn host(self) -> Option<&'a str> {
        self.host
    }

    /// The path.
    pub fn path(self) -> Option<&'a str> {
        self.path
    }

    /// The `Origin`.
    pub fn origin(self) -> Option<&'a str> {
        self.origin
    }

    /// The same, kept for as long as a session lasts.
    pub fn keep(self) -> KeptAsked {
        let text = |part: Option<&str>| part.map(Box::from);
        KeptAsked(Box::new([text(self.host), text(self.path), text(self.origin)]))
    }
}

/// The target and the origin of a session's request, kept up to its end.
#[derive(Debug)]
pub struct KeptAsked(Box<[Option<Box<str>>; 3]>);

impl KeptAsked {
    /// To be shown.
    pub fn asked(&self) -> Asked<'_> {
        let [host, path, origin] = self.0.each_ref().map(Option::as_deref);
        Asked { host, path, origin }
    }
}

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
