//! The state that all connections share for as long as the process lives.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Semaphore;

use super::logouts::Logouts;
use super::revoker::Revoker;
use super::snapshot::Snapshot;
use super::waiting::{Waiting, WaitingRequest};
use crate::client::KeySets;
use crate::client::acme::HeldSections;
use crate::cluster::handle::Cluster;
use crate::policy::counters::Counters;
use crate::relay::Process;
use crate::relay::workers::Workers;
use crate::runtime::clock;
use crate::runtime::pending_limit::PendingLimit;
use crate::runtime::request_limit::RequestLimit;
use crate::telemetry::rejections::{RejectionEvent, RejectionLog};
use crate::upstream::Connector;
use crate::upstream::discovery::Discoveries;

/// The maximum number of refreshes in progress.
pub const REFRESHES_MAX: usize = 64;

/// The state of the process: the snapshot in use, and the parts that outlive every snapshot.
#[derive(Debug)]
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// Held while a snapshot is built and installed.
    update: Mutex<()>,
    /// The quotas and slots that are in use.
    pub counters: Arc<Counters>,
    /// The key sets that are fetched.
    pub key_sets: KeySets,
    /// The certificates of `[acme.NAME]` sections.
    pub acme: Arc<HeldSections>,
    /// The connector to the servers of all upstreams.
    pub connector: Connector,
    /// The sources of the servers of pools that are not listed in the configuration.
    pub discoveries: Discoveries,
    /// The phase of the process, and the log of sessions.
    pub process: Arc<Process>,
    /// The limit of pending connections, and of those that linger after a rejection.
    pub pending_limit: PendingLimit,
    /// The limit of ordinary requests.
    pub request_limit: RequestLimit,
    /// The command channels of all workers.
    pub workers: Arc<Workers>,
    /// Makes revocations.
    pub revoker: Revoker,
    /// The logout tokens that were received, and those that are being received.
    pub logouts: Logouts,
    /// The requests that wait for keys or for a service.
    pub waiting: Waiting,
    /// Limits the refreshes in progress to [`REFRESHES_MAX`].
    pub refreshes: Semaphore,
    /// The log of rejections.
    pub rejections: RejectionLog,
    /// What several nodes share, if the process is one of them.
    pub cluster: Option<Arc<Cluster>>,
}

impl Gateway {
    /// Creates the state with its first snapshot, which has these counters, key sets and certificates.
    pub fn new(
        snapshot: Snapshot,
        (counters, key_sets, acme): (Arc<Counters>, KeySets, Arc<HeldSections>),
        connector: Connector,
        process: Arc<Process>,
        (pending_limit, request_limit): (PendingLimit, RequestLimit),
        workers: Workers,
    ) -> Self {
        let workers = Arc::new(workers);
        Self {
            revoker: Revoker::new(Arc::clone(&counters), Arc::clone(&workers)),
            snapshot: ArcSwap::from_pointee(snapshot),
            update: Mutex::new(()),
            counters,
            key_sets,
            acme,
            connector,
            discoveries: Discoveries::default(),
            process,
            pending_limit,
            request_limit,
            workers,
            logouts: Logouts::default(),
            waiting: Waiting::default(),
            refreshes: Semaphore::new(REFRESHES_MAX),
            rejections: RejectionLog::new(),
            cluster: None,
        }
    }

    /// Makes the process a node of a cluster.
    #[must_use]
    pub fn in_cluster(self, cluster: Option<Arc<Cluster>>) -> Self {
        if let Some(cluster) = &cluster {
            self.revoker.set_cluster(Arc::clone(cluster));
        }
        Self { cluster, ..self }
    }

    /// Returns the current snapshot. A request loads it once and uses it until its end.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Logs the rejection of a request, and keeps it for the operator.
    pub fn log_rejection(&self, event: &RejectionEvent<'_>) {
        let identities = self.process.sessions.identities();
        self.rejections.log(event, identities, clock::now());
        self.process.events.push_rejection(event, identities, clock::unix());
    }

    /// Counts a request that waits for keys or for a service; `None` if too many do.
    pub fn wait(&self, client: IpAddr) -> Option<WaitingRequest> {
        self.waiting.enter(client, self.snapshot.load().policy().max_sessions())
    }

    /// Replaces the snapshot for all further requests by the one that `build` returns, as [`Gateway::install`] does.
    /// Updates do not overlap.
    ///
    /// # Errors
    /// If `build` fails; then nothing changes.
    pub fn update<E>(&self, build: impl FnOnce(&Snapshot) -> Result<Snapshot, E>) -> Result<(), E> {
        let _update = self.update.lock().unwrap_or_else(PoisonError::into_inner);
        match build(&self.snapshot.load()) {
            Ok(next) => {
                self.install(Arc::new(next));
                Ok(())
            }
            Err(error) => {
                self.retain_used();
                Err(error)
            }
        }
    }

    /// Replaces the snapshot for all further requests, and drops the counters, key sets and addresses that the new one
    /// does not name. Only one caller at a time may build and install snapshots.
    pub fn install(&self, snapshot: Arc<Snapshot>) {
        self.process.events.set_generation(snapshot.generation());
        self.snapshot.store(snapshot);
        // Requests that wait see the servers of the new pools.
        for pool in self.snapshot.load().pools() {
            pool.begin_use();
            pool.install();
        }
        self.retain_used();
    }

    /// Drops the counters, key sets and addresses that the snapshot in use does not name. A snapshot that was built and
    /// not installed may have added some.
    pub fn retain_used(&self) {
        let snapshot = self.snapshot.load();
        self.process.metrics.retain(snapshot.policy().routes().iter().map(|route| Arc::clone(route.name())));
        self.key_sets.retain(|remote| snapshot.key_users(remote));
        self.acme.retain(&snapshot.acmes().iter().map(|section| &section.config));
        self.counters.retain(|route| snapshot.policy().routes().named(route).is_some());
        self.connector.servers().retain_tls(|upstream| {
            snapshot.pools().any(|pool| *pool.config().name == *upstream && pool.config().tls.is_some())
        });
        self.connector
            .servers()
            .retain(|server| snapshot.pools().any(|pool| pool.servers().any(|kept| **kept.name() == *server)));
    }
}
