//! Makes a request wait for the keys that its token needs.

use std::net::IpAddr;

use super::gateway::Gateway;
use crate::client::Waited;
use crate::policy::live_keys::KeyNeed;
use crate::policy::rejection::Rejection;
use crate::policy::token::Verifier;
use crate::runtime::clock;

/// The `Retry-After` of a request whose fetch has not ended in time, in seconds.
const RETRY_AFTER_SECS: u64 = 5;

/// Waits until the token of a request of this client can be decided.
///
/// # Errors
/// If a fetch that may bring the key of the token fails or does not end in time, or too many requests wait for it. A
/// client that gets a 401 instead would throw a good token away.
pub async fn wait_for_keys(
    gateway: &Gateway,
    client: IpAddr,
    verifier: &Verifier,
    token: &str,
) -> Result<(), Rejection> {
    let Some(live) = verifier.live_keys() else { return Ok(()) };
    let need = || verifier.key_need(token, clock::now());
    if need() == KeyNeed::Nothing {
        return Ok(());
    }
    // Without a fetcher, a reload has removed the set meanwhile.
    let Some(fetcher) = gateway.key_sets.fetcher(live.remote()) else { return Ok(()) };
    let busy = Rejection::KeysUnavailable { retry_after_secs: RETRY_AFTER_SECS };
    let _waiting = gateway.wait(client).ok_or(busy)?;
    match fetcher.wait(need).await {
        Waited::Current => Ok(()),
        Waited::Failed { retry_after_secs } => Err(Rejection::KeysUnavailable { retry_after_secs }),
        Waited::Unknown => Err(busy),
    }
}
