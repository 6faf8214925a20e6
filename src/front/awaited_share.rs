//! Waits for a greater share of a quota that the nodes of a cluster divide, before a request is rejected for its excess.

use std::net::IpAddr;
use std::time::Duration;

use tokio::time::sleep;

use super::gateway::Gateway;
use crate::policy::admission::{Authenticated, Policy};
use crate::policy::rejection::Rejection;
use crate::runtime::clock;

/// The longest wait. A lease that no other node holds arrives within a tenth of a second and a round trip.
const WAIT_MAX: Duration = Duration::from_millis(500);
/// The time between two attempts.
const PAUSE: Duration = Duration::from_millis(25);

/// Charges an address as [`Policy::charge`] does, for which it waits if only the share of this node is used up.
///
/// # Errors
/// If the address has used up its quota, or no more requests may wait.
pub(super) async fn charge(gateway: &Gateway, policy: &Policy, address: IpAddr) -> Result<(), Rejection> {
    let charged = policy.charge(address, clock::now());
    if charged.is_ok() || !policy.awaits_share(address, clock::now()) {
        return charged;
    }
    wait(gateway, address, || policy.awaits_share(address, clock::now())).await;
    policy.charge(address, clock::now())
}

/// Waits until the quota of ordinary requests of a client has a cell for this request, or has none for another reason than
/// the share of this node.
pub(super) async fn wait_for_request(gateway: &Gateway, address: IpAddr, client: &Authenticated<'_>) {
    if client.awaits_share(clock::now()) {
        wait(gateway, address, || client.awaits_share(clock::now())).await;
    }
}

/// Waits while a share is awaited, if another request may wait.
async fn wait(gateway: &Gateway, address: IpAddr, is_awaited: impl Fn() -> bool) {
    let Some(_waiting) = gateway.wait(address) else { return };
    let end = clock::after(clock::now(), WAIT_MAX);
    while is_awaited() && clock::now() < end {
        sleep(PAUSE).await;
    }
}
