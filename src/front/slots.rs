//! Asks the cluster for the slots of an upgrade, once: at its admission, or when its upstream has accepted it.

use std::num::NonZeroU32;
use std::time::Instant;

use tokio::time::timeout_at;

use super::gateway::Gateway;
use crate::cluster::handle::Cluster;
use crate::cluster::slots::Taken;
use crate::config::OnOutage;
use crate::policy::admission::{Admission, Authenticated};
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::session_slots::SessionId;
use crate::policy::shared_slots::{SharedSlots, SlotAsks};
use crate::runtime::clock;
use crate::telemetry::request::RequestId;

/// Asks for the slots that a session beyond the limit would not get.
pub(super) async fn at_admission(gateway: &Gateway, client: &Authenticated<'_>) -> Result<SharedSlots, Rejected> {
    let Some(cluster) = &gateway.cluster else { return Ok(SharedSlots::default()) };
    let asks = client.slot_asks()?;
    let refuses = cluster.config.on_outage == OnOutage::Refuse;
    if refuses && client.asks_at_opening() && !cluster.can_take_slots() {
        // It would be refused when its upstream has accepted it.
        return Err(client.reject_slots(Rejection::ClusterUnavailable));
    }
    take(cluster, &asks).await.map_err(|rejection| client.reject_slots(rejection))
}

/// Asks for the slots of a session that may take over those of the oldest ones.
pub(super) async fn at_opening(
    gateway: &Gateway,
    admission: &Admission,
    id: SessionId,
) -> Result<SharedSlots, Rejection> {
    let Some(cluster) = &gateway.cluster else { return Ok(SharedSlots::default()) };
    take(cluster, &admission.slot_asks(id, &gateway.counters)).await
}

/// Asks for slots, and ends the sessions whose slots are taken over, for `cluster.timeout` in total.
async fn take(cluster: &Cluster, asks: &SlotAsks) -> Result<SharedSlots, Rejection> {
    if asks.slots.is_empty() {
        return Ok(SharedSlots::default());
    }
    let deadline = clock::after(clock::now(), cluster.config.timeout);
    match cluster.take_slots(asks, deadline).await {
        Taken::Held { claims, replaced, elsewhere } => {
            if !elsewhere.is_empty() {
                close_elsewhere(cluster, &elsewhere, deadline).await;
            }
            Ok(SharedSlots { claims, replaced, divided: None })
        }
        Taken::Full(key) => Err(key.rejection()),
        Taken::Unavailable(claims) if cluster.config.on_outage == OnOutage::Local => {
            let nodes = u32::try_from(cluster.nodes.count()).unwrap_or(u32::MAX);
            Ok(SharedSlots { claims, replaced: Vec::new(), divided: NonZeroU32::new(nodes) })
        }
        // Limits are exact as long as the server is not away, even if it is slow.
        Taken::Unavailable(_) | Taken::Late => Err(Rejection::ClusterUnavailable),
    }
}

/// Ends sessions of other nodes whose slots were taken over here. They stay open if the server goes away just now.
async fn close_elsewhere(cluster: &Cluster, ids: &[SessionId], deadline: Instant) {
    let ids: Vec<_> = ids.iter().copied().map(RequestId).collect();
    // What was sent before the deadline is not taken back.
    match timeout_at(deadline.into(), cluster.close_sessions(&ids)).await {
        Ok(true) => {}
        Ok(false) => {
            tracing::warn!(sessions = ids.len(), "sessions of other nodes cannot be told that they were replaced");
        }
        Err(_) => {
            tracing::debug!(sessions = ids.len(), "sessions of other nodes may not know yet that they were replaced");
        }
    }
}
