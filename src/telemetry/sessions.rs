//! One line when a session ends, which answers who, where, how long, how much, and who closed it and why.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::session::{Counts, Outcome};

/// Names one request in our log and, as a header, in the upstream's.
#[derive(Debug, Clone, Copy)]
pub struct RequestId(pub u128);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// A session that ended.
#[derive(Debug)]
pub struct Ended<'a> {
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
    /// From its 101 to its end.
    pub age: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// What passed.
    pub counts: Counts,
}

/// Writes the line.
pub fn log(ended: &Ended<'_>) {
    let Outcome { by, code, cause } = ended.outcome;
    let Counts { client, upstream, throttled } = ended.counts;
    tracing::info!(
        request_id = ended.request_id.to_string(),
        route = ended.route,
        subject = ended.subject,
        client = %ended.client,
        server = ended.server,
        age_ms = u64::try_from(ended.age.as_millis()).unwrap_or(u64::MAX),
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
