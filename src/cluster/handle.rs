//! The parts of the cluster that a process holds.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::{Event, IDS_MAX, Operation};
use super::events::{Events, ShareError};
use super::keys::Keys;
use super::leases::LeaseExchange;
use super::link::{Link, Unavailable};
use super::nodes::{NodeFacts, Nodes};
use super::seal::{Seal, digest};
use super::slot_registry::SlotRegistry;
use super::slots::{Slots, Taken};
use crate::config::ClusterConfig;
use crate::policy::lease::share::Leases;
use crate::policy::revocation::Revocations;
use crate::policy::revocation::journal::Change;
use crate::policy::shared_slots::SlotAsks;
use crate::runtime::clock;
use crate::telemetry::request::RequestId;

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
    /// What nodes tell each other.
    pub events: Events,
    /// Seals tokens, if there is a secret.
    pub(super) seal: Option<Seal>,
    /// The digest of the secret, which other nodes may know; empty if there is none.
    pub secret_digest: String,
    /// The leases of quotas, if nodes share quotas.
    pub leases: Option<LeaseExchange>,
}

impl Cluster {
    /// Creates the parts. `leases` are those of the counters of the process, if nodes share quotas, and `slots` those of its
    /// sessions. Nothing is sent before [`Cluster::run`].
    pub fn new(config: &Arc<ClusterConfig>, leases: Option<&Arc<Leases>>, slots: &Arc<SlotRegistry>) -> Self {
        let keys = Keys::new(&config.prefix);
        let events = Events::new(Arc::clone(config), &keys);
        Self {
            config: Arc::clone(config),
            link: Link::new(Arc::clone(config)),
            nodes: Nodes::new(Arc::clone(config), keys.clone(), events.process()),
            slots: Slots::new(keys.clone(), Arc::clone(slots)),
            events,
            seal: config.secret.as_ref().and_then(|secret| Seal::new(secret)),
            secret_digest: config.secret.as_ref().and_then(|secret| digest(secret)).unwrap_or_default(),
            leases: leases.map(|leases| LeaseExchange::new(keys.clone(), Arc::clone(leases))),
            keys,
        }
    }

    /// Keeps the connection and the registration of this node, and reads the events of others. `facts` is what it says
    /// about itself, and `revocations` are its own. Never returns.
    pub async fn run(&self, facts: impl Fn() -> NodeFacts, revocations: &Revocations) {
        tokio::select! {
            () = self.link.run() => {}
            () = self.nodes.run(&self.link, facts) => {}
            () = self.slots.run(&self.link, &self.nodes), if self.config.share.slots => {}
            () = self.events.run(&self.link, revocations) => {}
            () = self.exchange_leases() => {}
        }
    }

    /// Whether the server can be asked for slots.
    pub fn can_take_slots(&self) -> bool {
        self.slots.can_ask(&self.link, &self.nodes)
    }

    /// Asks the server for slots, until the deadline at most.
    pub async fn take_slots(&self, asks: &SlotAsks, deadline: Instant) -> Taken {
        self.slots.take(&self.link, &self.nodes, asks, deadline).await
    }

    async fn exchange_leases(&self) {
        match &self.leases {
            Some(leases) => leases.run(&self.link, &self.nodes).await,
            None => std::future::pending().await,
        }
    }

    /// Whether operations of the API reach the sessions of all nodes.
    pub fn shares_sessions(&self) -> bool {
        self.config.share.sessions
    }

    /// Tells the other nodes of a change of the revocations that was made here. See [`Events::share_revocation`].
    pub async fn share_revocation(&self, change: Change, made: Duration, end: Duration) -> Option<bool> {
        self.events.share_revocation(&self.link, change, made, end).await
    }

    /// Tells the other nodes of an operation. Returns their number.
    ///
    /// # Errors
    /// As [`Events::share_operation`].
    pub async fn share_operation(&self, operation: Operation) -> Result<usize, ShareError> {
        self.events.share_operation(&self.link, operation).await?;
        Ok(self.nodes.live(clock::now()).map_or(0, |view| view.nodes.len().saturating_sub(1)))
    }

    /// Ends sessions of other nodes whose slots sessions of this one have taken over. Returns whether the server has
    /// told them.
    pub async fn close_sessions(&self, ids: &[RequestId]) -> bool {
        for ids in ids.chunks(IDS_MAX) {
            if self.events.publish(&self.link, Event::Replaced(ids.to_owned())).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Executes closes and fresh tokens once more. See [`Events::repeat_operations`].
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub async fn repeat_operations(&self, within: Duration) -> Result<(), Unavailable> {
        self.events.repeat_operations(&self.link, within).await
    }

    /// Ends the registration of this node, for `cluster.timeout` at most.
    pub async fn leave(&self) {
        self.nodes.leave(&self.link).await;
    }
}
