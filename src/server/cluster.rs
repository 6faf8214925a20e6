//! Takes part in the cluster: keeps the connection to its server, and the registration of this node.

use std::time::Duration;

use rustix::system::uname;
use tokio::time::timeout;

use super::cluster_events;
use crate::cluster::nodes::NodeFacts;
use crate::config::digest;
use crate::front::gateway::Gateway;

/// The longest time that a start waits for the revocations of the cluster.
const LOAD_MAX: Duration = Duration::from_secs(1);

/// Takes part in the cluster, if the process is one of its nodes. Never returns.
pub(super) async fn run(gateway: &Gateway) {
    match &gateway.cluster {
        Some(cluster) => tokio::select! {
            () = cluster.run(|| facts(gateway, &cluster.secret_digest), gateway.counters.revocations()) => {}
            () = cluster_events::follow(gateway, cluster.events.notices()) => {}
        },
        None => std::future::pending().await,
    }
}

/// Waits until this node knows the revocations of the cluster, for [`LOAD_MAX`] at most: so no client whose token another
/// node has revoked is admitted after a start, unless the server is away.
pub(super) async fn wait_for_revocations(gateway: &Gateway) {
    let Some(cluster) = &gateway.cluster else { return };
    if timeout(LOAD_MAX, cluster.events.loaded()).await.is_err() {
        tracing::warn!("the revocations of the cluster are not known yet: its server does not answer in time");
    }
}

/// Returns what this node says about itself.
fn facts(gateway: &Gateway, secret: &str) -> NodeFacts {
    let snapshot = gateway.snapshot();
    NodeFacts {
        name: uname().nodename().to_string_lossy().into_owned(),
        address: snapshot.addresses().next().map(ToString::to_string).unwrap_or_default(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        config: digest(snapshot.text()),
        secret: Some(secret.to_owned()),
        generation: snapshot.generation(),
        sessions: u64::try_from(gateway.process.lifecycle.sessions()).unwrap_or(u64::MAX),
    }
}
