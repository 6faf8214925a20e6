//! Takes part in the cluster: keeps the connection to its server, and the registration of this node.

use std::sync::Arc;

use rustix::system::uname;

use crate::cluster::handle::Cluster;
use crate::cluster::nodes::NodeFacts;
use crate::cluster::slot_registry::SlotRegistry;
use crate::config::digest;
use crate::front::gateway::Gateway;
use crate::policy::counters::Counters;

/// Returns counters whose slots the nodes of the cluster count together, if they do.
pub(super) fn counters_over(cluster: &Cluster) -> Option<Counters> {
    cluster.config.share.slots.then(|| Counters::with_slots(Arc::<SlotRegistry>::clone(cluster.slots.registry())))
}

/// Takes part in the cluster, if the process is one of its nodes. Never returns.
pub(super) async fn run(gateway: &Gateway) {
    match &gateway.cluster {
        Some(cluster) => cluster.run(|| facts(gateway)).await,
        None => std::future::pending().await,
    }
}

/// Returns what this node says about itself.
fn facts(gateway: &Gateway) -> NodeFacts {
    let snapshot = gateway.snapshot();
    NodeFacts {
        name: uname().nodename().to_string_lossy().into_owned(),
        address: snapshot.addresses().next().map(ToString::to_string).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: digest(snapshot.text()),
        generation: snapshot.generation(),
        sessions: u64::try_from(gateway.process.lifecycle.sessions()).unwrap_or(u64::MAX),
    }
}
