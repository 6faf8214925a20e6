//! The metrics of the cluster that the process is a node of.

use super::definition::Definition;
use super::text::Kind;

/// Whether the server answers.
pub(super) const UP: Definition = Definition {
    name: "tollgate_cluster_up",
    kind: Kind::Gauge,
    labels: &[],
    unit: None,
    help: "1 if the server of the `[cluster]` section answers, 0 if its `on_outage` applies",
    collect: |scrape, samples| {
        if let Some(cluster) = &scrape.gauges.cluster {
            samples.count([], u64::from(cluster.is_up));
        }
    },
};

/// The number of nodes.
pub(super) const NODES: Definition = Definition {
    name: "tollgate_cluster_nodes",
    kind: Kind::Gauge,
    labels: &[],
    unit: None,
    help: "Nodes of the cluster that are not dead, with this one, as far as this node knows",
    collect: |scrape, samples| {
        if let Some(cluster) = &scrape.gauges.cluster {
            samples.count([], cluster.nodes);
        }
    },
};

/// The requests to the server.
pub(super) const REQUESTS: Definition = Definition {
    name: "tollgate_cluster_requests_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    unit: None,
    help: "Requests of this node to the server of the cluster, by outcome: `answered`, `late`, `refused` with an error, or \
           `away` without a connection",
    collect: |scrape, samples| {
        for (outcome, count) in scrape.gauges.cluster.iter().flat_map(|cluster| cluster.requests) {
            samples.count([outcome], count);
        }
    },
};

/// The leases of quotas.
pub(super) const LEASES: Definition = Definition {
    name: "tollgate_cluster_leases",
    kind: Kind::Gauge,
    labels: &[],
    unit: None,
    help: "Quotas of which this node has a lease, or asks for one",
    collect: |scrape, samples| {
        if let Some(cluster) = &scrape.gauges.cluster {
            samples.count([], cluster.leases);
        }
    },
};

/// The events that nodes tell each other.
pub(super) const EVENTS: Definition = Definition {
    name: "tollgate_cluster_events_total",
    kind: Kind::Counter,
    labels: &["outcome"],
    unit: None,
    help: "Revocations, replaced sessions and operations of the API that nodes tell each other, by outcome: `sent` by this \
           node, `failed` as the server did not take it, `received` from other nodes, of these `expired` and skipped as \
           read too late, and `unknown` as not understood",
    collect: |scrape, samples| {
        for (outcome, count) in scrape.gauges.cluster.iter().flat_map(|cluster| cluster.events) {
            samples.count([outcome], count);
        }
    },
};
