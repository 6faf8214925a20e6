//! The parts of the cluster that a process holds.

use std::sync::Arc;

use super::keys::Keys;
use super::leases::LeaseExchange;
use super::link::Link;
use super::nodes::{NodeFacts, Nodes};
use crate::config::ClusterConfig;
use crate::policy::lease::share::Leases;

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
    /// The leases of quotas, if nodes share quotas.
    pub leases: Option<LeaseExchange>,
}

impl Cluster {
    /// Creates the parts. `leases` are those of the counters of the process, if nodes share quotas. Nothing is sent before
    /// [`Cluster::run`].
    pub fn new(config: &Arc<ClusterConfig>, leases: Option<&Arc<Leases>>) -> Self {
        let keys = Keys::new(&config.prefix);
        Self {
            config: Arc::clone(config),
            link: Link::new(Arc::clone(config)),
            nodes: Nodes::new(Arc::clone(config), keys.clone()),
            leases: leases.map(|leases| LeaseExchange::new(keys.clone(), Arc::clone(leases))),
            keys,
        }
    }

    /// Keeps the connection and the registration of this node. `facts` is what it says about itself. Never returns.
    pub async fn run(&self, facts: impl Fn() -> NodeFacts) {
        tokio::select! {
            () = self.link.run() => {}
            () = self.nodes.run(&self.link, facts) => {}
            () = self.exchange_leases() => {}
        }
    }

    async fn exchange_leases(&self) {
        match &self.leases {
            Some(leases) => leases.run(&self.link, &self.nodes).await,
            None => std::future::pending().await,
        }
    }

    /// Ends the registration of this node, for `cluster.timeout` at most.
    pub async fn leave(&self) {
        self.nodes.leave(&self.link).await;
    }
}
