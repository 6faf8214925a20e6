//! Takes part in the cluster: keeps the connection to its server, and the registration of this node.

use rustix::system::uname;

use super::cluster_events;
use crate::cluster::nodes::NodeFacts;
use crate::config::digest;
use crate::front::gateway::Gateway;

/// Takes part in the cluster, if the process is one of its nodes. Never returns.
pub(super) async fn run(gateway: &Gateway) {
    match &gateway.cluster {
        Some(cluster) => tokio::select! {
            () = cluster.run(|| facts(gateway), gateway.counters.revocations()) => {}
            () = cluster_events::follow(gateway, cluster.events.notices()) => {}
        },
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
