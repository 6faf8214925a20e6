//! Collects the values of metrics that other parts of the process own.

use std::sync::Arc;
use std::time::Duration;

use crate::balance::Pool;
use crate::cluster::handle::Cluster;
use crate::cluster::leases::LeaseExchange;
use crate::front::gateway::Gateway;
use crate::front::listeners::AcmeSection;
use crate::runtime::clock;
use crate::telemetry::log;
use crate::telemetry::metrics::gauges::{
    AcmeGauges, CertificateGauges, ClusterGauges, DiscoveryGauges, ForwardAuthGauges, Gauges, KeySetGauges,
    RouteGauges, ServerGauges, UpstreamGauges,
};
use crate::tls::expiry::Expiry;

fn certificate(expiry: Expiry) -> CertificateGauges {
    CertificateGauges { name: expiry.names.into_iter().next().unwrap_or_default(), expires: expiry.not_after }
}

/// Returns the values of an `[acme]` section at this time since the Unix epoch.
fn acme(section: &AcmeSection, now: Duration) -> AcmeGauges {
    let AcmeSection { config, held } = section;
    let is_valid = |name| held.certificate(name).is_some_and(|held| held.is_valid(now));
    let (issued, failed) = held.orders();
    let names = config.names.iter().map(|name| (Arc::clone(name), is_valid(name))).collect();
    AcmeGauges { acme: Arc::clone(&config.name), names, issued, failed }
}

fn cluster(cluster: &Cluster) -> ClusterGauges {
    let nodes = u64::try_from(cluster.nodes.count()).unwrap_or(u64::MAX);
    let leases = cluster.leases.as_ref().map_or(0, LeaseExchange::held);
    ClusterGauges {
        is_up: cluster.link.is_up(),
        nodes,
        requests: cluster.link.outcomes(),
        leases: u64::try_from(leases).unwrap_or(u64::MAX),
        events: cluster.events.counts(),
    }
}

/// Returns the values of an upstream whose servers are discovered.
fn discovery(gateway: &Gateway, pool: &Pool) -> Option<DiscoveryGauges> {
    let config = pool.config();
    let failures = gateway.discoveries.status(config.discover.as_ref()?).failures;
    let servers = u64::try_from(config.servers.len()).unwrap_or(u64::MAX);
    Some(DiscoveryGauges { upstream: Arc::clone(&config.name), servers, failures })
}

/// Returns the values that other parts of the process own.
pub fn gauges(gateway: &Gateway) -> Gauges {
    let snapshot = gateway.snapshot();
    let revocations = gateway.counters.revocations();
    Gauges {
        config_generation: snapshot.generation(),
        certificates: snapshot.expiries().into_iter().map(certificate).collect(),
        acmes: snapshot.acmes().iter().map(|section| acme(section, clock::both().unix)).collect(),
        cluster: gateway.cluster.as_deref().map(cluster),
        routes: snapshot.policy().routes().iter().map(|route| RouteGauges::of(route)).collect(),
        upstreams: snapshot.pools().map(|pool| UpstreamGauges::of(pool)).collect(),
        servers: snapshot.pools().flat_map(|pool| ServerGauges::of(pool)).collect(),
        discoveries: snapshot.pools().filter_map(|pool| discovery(gateway, pool)).collect(),
        revocations: u64::try_from(revocations.count(clock::both().unix)).unwrap_or(u64::MAX),
        revocations_refused: revocations.refused(),
        key_sets: snapshot.fetching().filter_map(|(auth, keys)| KeySetGauges::of(auth, keys, clock::now())).collect(),
        forward_auths: snapshot.forward_auths().map(|(auth, forward)| ForwardAuthGauges::of(auth, forward)).collect(),
        log_lines_dropped: log::dropped_lines(),
    }
}
