//! The metrics of upstreams whose servers are discovered.

use super::definition::Definition;
use super::text::Kind;

/// The number of servers.
pub(super) const SERVERS: Definition = Definition {
    name: "tollgate_discovery_servers",
    kind: Kind::Gauge,
    labels: &["upstream"],
    unit: None,
    help: "Servers of each upstream with `discover`",
    collect: |scrape, samples| {
        for discovery in &scrape.gauges.discoveries {
            samples.count([&discovery.upstream], discovery.servers);
        }
    },
};

/// The look-ups that failed.
pub(super) const FAILURES: Definition = Definition {
    name: "tollgate_discovery_failures_total",
    kind: Kind::Counter,
    labels: &["upstream"],
    unit: None,
    help: "Look-ups of the servers of an upstream that failed, or contents of its file that could not be used; the \
           servers before stay",
    collect: |scrape, samples| {
        for discovery in &scrape.gauges.discoveries {
            samples.count([&discovery.upstream], discovery.failures);
        }
    },
};
