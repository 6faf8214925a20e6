//! The values that other parts of the process own, which the caller of a scrape passes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::balance::Pool;
use crate::policy::forward::{AuthOutcome, ForwardAuth};
use crate::policy::route::Route;
use crate::policy::token::Verifier;

/// The values of a scrape that are kept elsewhere.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Gauges {
    /// The generation of the snapshot in use.
    pub config_generation: u64,
    /// The certificates in use. Of several with one name, the text shows the one that expires first.
    pub certificates: Vec<CertificateGauges>,
    /// The `[acme]` sections that listeners use.
    pub acmes: Vec<AcmeGauges>,
    /// Whether the server of the cluster answers, and the number of nodes; `None`: the process is in no cluster.
    pub cluster: Option<ClusterGauges>,
    /// The snapshot's routes.
    pub routes: Vec<RouteGauges>,
    /// The snapshot's pools.
    pub upstreams: Vec<UpstreamGauges>,
    /// The servers of the snapshot's pools.
    pub servers: Vec<ServerGauges>,
    /// The upstreams whose servers are discovered.
    pub discoveries: Vec<DiscoveryGauges>,
    /// The revocations in effect.
    pub revocations: u64,
    /// The revocations that were refused because the store was full.
    pub revocations_refused: u64,
    /// The key sets that are fetched.
    pub key_sets: Vec<KeySetGauges>,
    /// The forward authentication sections.
    pub forward_auths: Vec<ForwardAuthGauges>,
    /// The log lines that were lost because the log is not read fast enough:
    /// [`log::dropped_lines`](crate::telemetry::log::dropped_lines).
    pub log_lines_dropped: u64,
}

/// The values of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateGauges {
    /// Its first name, or the section of a client certificate.
    pub name: String,
    /// The end of its validity, since the Unix epoch.
    pub expires: Duration,
}

/// The values of an `[acme]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeGauges {
    /// The name of the section.
    pub acme: Arc<str>,
    /// Its names, and whether each has a certificate that is valid now.
    pub names: Vec<(Arc<str>, bool)>,
    /// The number of orders that gave a certificate.
    pub issued: u64,
    /// The number of orders that failed.
    pub failed: u64,
}

/// The values of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterGauges {
    /// Whether its server answers.
    pub is_up: bool,
    /// The number of nodes that are not dead.
    pub nodes: u64,
    /// The numbers of requests to the server, by outcome.
    pub requests: [(&'static str, u64); 4],
    /// The number of quotas of which this node has a lease, or asks for one.
    pub leases: u64,
    /// The numbers of events, by outcome.
    pub events: [(&'static str, u64); 5],
}

/// A route. It has no values of its own, but series even without sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteGauges {
    /// Its name.
    pub route: Arc<str>,
    /// The name of its upstream.
    pub upstream: Arc<str>,
}

/// The values of the key set of an `[auth]` section. Sections that share a set have the same values, except `usable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeySetGauges {
    /// The name of the section.
    pub auth: Arc<str>,
    /// The time since the last successful fetch; `None` before the first one.
    pub age: Option<Duration>,
    /// Whether it verifies tokens: it was fetched, and is not older than `keys_stale_for`.
    pub usable: bool,
    /// The number of fetches that succeeded.
    pub succeeded: u64,
    /// The number of fetches that failed.
    pub failed: u64,
}

/// The values of a forward authentication section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardAuthGauges {
    /// The name of the section.
    pub auth: Arc<str>,
    /// The number of questions with each outcome.
    pub outcomes: [(AuthOutcome, u64); AuthOutcome::ALL.len()],
}

/// The values of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamGauges {
    /// Its name.
    pub upstream: Arc<str>,
    /// The number of requests that wait for a server.
    pub queued: u64,
}

/// The values of a server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerGauges {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// The server, as the configuration names it.
    pub server: Arc<str>,
    /// The number of attempts to connect that failed.
    pub connect_failures: u64,
    /// Whether it answers, as far as requests and checks have shown.
    pub healthy: bool,
    /// The number of its checks that passed, and of those that failed.
    pub checks: [u64; 2],
}

/// The values of an upstream whose servers are discovered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscoveryGauges {
    /// The name of the upstream.
    pub upstream: Arc<str>,
    /// The number of its servers.
    pub servers: u64,
    /// The number of look-ups that failed, or of files that could not be used.
    pub failures: u64,
}

impl KeySetGauges {
    /// Returns the values of the key set of a section; `None` if its keys are not fetched.
    pub fn of(auth: &Arc<str>, verifier: &Verifier, now: Instant) -> Option<Self> {
        let keys = verifier.live_keys()?;
        let ((succeeded, failed), usable) = (keys.fetches(), verifier.check_keys(now).is_ok());
        Some(Self { auth: Arc::clone(auth), age: keys.age(now), usable, succeeded, failed })
    }
}

impl ForwardAuthGauges {
    /// Returns the values of a section.
    pub fn of(auth: &Arc<str>, forward: &ForwardAuth) -> Self {
        let outcomes = AuthOutcome::ALL.map(|outcome| (outcome, forward.outcomes(outcome)));
        Self { auth: Arc::clone(auth), outcomes }
    }
}

impl RouteGauges {
    /// Returns the names of a route.
    pub fn of(route: &Route) -> Self {
        Self { route: Arc::clone(route.name()), upstream: Arc::clone(&route.config.upstream) }
    }
}

impl UpstreamGauges {
    /// Returns the values of a pool.
    pub fn of(pool: &Pool) -> Self {
        let queued = u64::try_from(pool.queue().waiting()).unwrap_or(u64::MAX);
        Self { upstream: Arc::clone(&pool.config().name), queued }
    }
}

impl ServerGauges {
    /// Returns the values of the servers of a pool.
    pub fn of(pool: &Pool) -> impl Iterator<Item = Self> {
        pool.servers().map(|server| Self {
            upstream: Arc::clone(&pool.config().name),
            server: Arc::clone(server.name()),
            connect_failures: server.connect_failures(),
            healthy: server.drains() || server.health().is_healthy(),
            checks: [server.checks().passed(), server.checks().failed()],
        })
    }
}
