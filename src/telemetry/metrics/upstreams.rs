//! The metrics of upstreams and of their servers.

use super::definition::Definition;
use super::text::Kind;

/// The open sessions of each server.
pub(super) const SESSIONS: Definition = Definition {
    name: "tollgate_upstream_sessions",
    kind: Kind::Gauge,
    labels: &["upstream", "server"],
    unit: None,
    help: "Open sessions of each server",
    collect: |scrape, samples| {
        let configured = scrape.gauges.servers.iter().map(|server| [&server.upstream, &server.server]);
        samples.with_configured(&scrape.merged.upstream_sessions, configured);
    },
};

/// Whether sessions may go to each server.
pub(super) const HEALTHY: Definition = Definition {
    name: "tollgate_upstream_healthy",
    kind: Kind::Gauge,
    labels: &["upstream", "server"],
    unit: None,
    help: "1 if sessions may go to the server, 0 after a failed connection or an ejection until a request to it \
           succeeds, and while it is down by its checks; a server that drains or is full counts as healthy",
    collect: |scrape, samples| {
        for server in &scrape.gauges.servers {
            samples.count([&server.upstream, &server.server], server.healthy.into());
        }
    },
};

/// The requests that wait for a server of each upstream.
pub(super) const QUEUED: Definition = Definition {
    name: "tollgate_upstream_queued",
    kind: Kind::Gauge,
    labels: &["upstream"],
    unit: None,
    help: "Requests that wait because every server is full, `admit_rate` is used up, or no server is up",
    collect: |scrape, samples| {
        for pool in &scrape.gauges.upstreams {
            samples.count([&pool.upstream], pool.queued);
        }
    },
};

/// The failed attempts to connect to each server.
pub(super) const CONNECT_FAILURES: Definition = Definition {
    name: "tollgate_upstream_connect_failures_total",
    kind: Kind::Counter,
    labels: &["upstream", "server"],
    unit: None,
    help: "Attempts to connect to a server that failed or timed out",
    collect: |scrape, samples| {
        for server in &scrape.gauges.servers {
            samples.count([&server.upstream, &server.server], server.connect_failures);
        }
    },
};

/// The checks of each server.
pub(super) const CHECKS: Definition = Definition {
    name: "tollgate_upstream_checks_total",
    kind: Kind::Counter,
    labels: &["upstream", "server", "outcome"],
    unit: None,
    help: "Checks of a server, by outcome: `passed` or `failed`",
    collect: |scrape, samples| {
        for server in &scrape.gauges.servers {
            for (outcome, count) in ["passed", "failed"].into_iter().zip(server.checks) {
                samples.count([&*server.upstream, &*server.server, outcome], count);
            }
        }
    },
};
