//! Renews the sessions of this node with a fresh token that another node of the cluster got.

use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use tokio::time::timeout;

use super::gateway::Gateway;
use super::keys::wait_for_keys;
use super::refresh::PATIENCE;
use crate::cluster::renewal::SharedToken;
use crate::policy::refresh::{RefreshToken, Renewal};
use crate::runtime::clock;

/// The client of which such a token counts as one that waits for keys.
const CLIENT: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

/// Renews the sessions that the token is for, if it meets the rules of this node. Returns their number; `None` if it does
/// not, or too many refreshes are in progress.
pub async fn renew(gateway: &Gateway, shared: &SharedToken) -> Option<usize> {
    let snapshot = gateway.snapshot();
    let route = snapshot.policy().routes().named(&shared.route)?;
    let token = RefreshToken::of_node(route, &shared.auth, &shared.token)?;
    wait_for_keys(gateway, CLIENT, &token.verifier, &token.token).await.ok()?;
    let renewal = Arc::new(Renewal::of_token(route, &token, clock::both()).ok()?.of_other_node());
    if renewal.is_revoked(gateway.counters.revocations(), clock::both().unix) {
        return None;
    }
    // An upgrade of the process takes all permits.
    let _permit = gateway.refreshes.try_acquire().ok()?;
    timeout(PATIENCE, gateway.workers.renew(&renewal)).await.ok()
}
