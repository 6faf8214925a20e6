//! Makes a request wait for the keys that its token needs.

use super::gateway::Gateway;
use crate::client::Waited;
use crate::policy::admission::Candidate;
use crate::policy::evidence::Evidence;
use crate::policy::live_keys::KeyNeed;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::route::AuthKind;
use crate::policy::token::Verifier;
use crate::runtime::clock;

/// The `Retry-After` of a request whose fetch has not ended in time, in seconds.
const RETRY_AFTER_SECS: u64 = 5;

/// Waits until the token of a request can be decided.
///
/// # Errors
/// If a fetch that may bring the key of the token does not end in time, or too many requests wait for it.
pub async fn wait_for_keys(
    gateway: &Gateway,
    candidate: &Candidate<'_>,
    evidence: &Evidence<'_>,
) -> Result<(), Rejected> {
    let Evidence::Token(method, token) = evidence else { return Ok(()) };
    let AuthKind::Token(verifier) = &method.kind else { return Ok(()) };
    if has_keys_for(gateway, verifier, token).await {
        return Ok(());
    }
    Err(candidate.reject(Rejection::KeysUnavailable { retry_after_secs: RETRY_AFTER_SECS }))
}

/// Waits until a token can be decided: at once for known keys, and otherwise for a fetch that is in progress or is
/// allowed now. Returns false if a fetch that may bring its key does not end in time, or too many requests wait for it.
pub(super) async fn has_keys_for(gateway: &Gateway, verifier: &Verifier, token: &str) -> bool {
    let Some(live) = verifier.live_keys() else { return true };
    let need = || verifier.key_need(token, clock::now());
    if need() == KeyNeed::Nothing {
        return true;
    }
    // Without a fetcher, a reload has removed the set meanwhile.
    let Some(fetcher) = gateway.key_sets.fetcher(live.remote()) else { return true };
    matches!(fetcher.wait(need).await, Waited::Current)
}
