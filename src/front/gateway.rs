//! The state that all connections share for as long as the process lives.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::snapshot::Snapshot;
use crate::policy::counters::Counters;
use crate::relay::Process;
use crate::telemetry::rejections::RejectionLog;
use crate::upstream::Connector;

/// The state of the process: the snapshot in use, and the parts that outlive every snapshot.
#[derive(Debug)]
pub struct Gateway {
    snapshot: ArcSwap<Snapshot>,
    /// The quotas and slots that are in use.
    pub counters: Arc<Counters>,
    /// The connector to the servers of all upstreams.
    pub connector: Connector,
    /// The phase of the process, and the log of sessions.
    pub process: Arc<Process>,
    /// The log of rejections.
    pub rejections: RejectionLog,
}

impl Gateway {
    /// Creates the state with its first snapshot, which was built with these counters.
    pub fn new(snapshot: Snapshot, counters: Arc<Counters>, connector: Connector, process: Arc<Process>) -> Self {
        let snapshot = ArcSwap::from_pointee(snapshot);
        Self { snapshot, counters, connector, process, rejections: RejectionLog::new() }
    }

    /// Returns the snapshot in use. A request loads it once and uses it until its end.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.load_full()
    }

    /// Replaces the snapshot for all further requests. Drops the counts of routes and the addresses of servers that the
    /// new snapshot lacks.
    pub fn replace(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        self.snapshot.store(Arc::clone(&snapshot));
        self.counters.retain(|route| snapshot.policy().routes().iter().any(|kept| **kept.name() == *route));
        self.connector.retain(|server| snapshot.pools().any(|pool| pool.servers().any(|kept| *kept.name == *server)));
    }
}
