//! The parts of the cluster that a process holds.

use std::sync::Arc;

use super::keys::Keys;
use super::link::Link;
use super::nodes::{NodeFacts, Nodes};
use super::slots::{Slots, Taken};
use crate::config::ClusterConfig;
use crate::policy::shared_slots::SlotAsks;

/// The cluster, as this node takes part in it.
#[derive(Debug)]
pub struct Cluster {
    /// The section of the configuration.
    pub config: Arc<ClusterConfig>,
    /// The connection to the server.
    pub link: Link,
    /// The nodes.
    pub nodes: Nodes,
    /// The names of the keys at the server.
    pub keys: Keys,
    /// The slots that the nodes count together.
    pub slots: Slots,
}

impl Cluster {
    /// Creates the parts. Nothing is sent before [`Cluster::run`].
    pub fn new(config: &Arc<ClusterConfig>) -> Self {
        let keys = Keys::new(&config.prefix);
        Self {
            config: Arc::clone(config),
            link: Link::new(Arc::clone(config)),
            nodes: Nodes::new(Arc::clone(config), keys.clone()),
            slots: Slots::new(Arc::clone(config), keys.clone()),
            keys,
        }
    }

    /// Keeps the connection and the registration of this node. `facts` is what it says about itself. Never returns.
    pub async fn run(&self, facts: impl Fn() -> NodeFacts) {
        tokio::select! {
            () = self.link.run() => {}
            () = self.nodes.run(&self.link, facts) => {}
            () = self.slots.run(&self.link, &self.nodes), if self.config.share.slots => {}
        }
    }

    /// Whether the server can be asked for slots.
    pub fn can_take_slots(&self) -> bool {
        self.slots.can_ask(&self.link, &self.nodes)
    }

    /// Asks the server for slots, for `cluster.timeout` at most.
    pub async fn take_slots(&self, asks: &SlotAsks) -> Taken {
        self.slots.take(&self.link, &self.nodes, asks).await
    }

    /// Ends the registration of this node, for `cluster.timeout` at most.
    pub async fn leave(&self) {
        self.nodes.leave(&self.link).await;
    }
}
