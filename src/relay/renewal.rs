//! Renews the sessions of one worker with a fresh token of their client.

use std::sync::Arc;

use super::registry::Registry;
use super::renewal_count::RenewalCount;
use crate::policy::refresh::Renewal;
use crate::runtime::cycle;

/// The number of sessions that are compared in a row before the worker's sessions run.
const IN_A_ROW: usize = 64;

/// Renews the sessions that the token is for, and lets the worker's sessions run in between. From now on a session is
/// checked by the fresh token; it counts itself when it has taken its new expiry.
pub async fn renew_all(registry: &Registry, renewal: &Renewal, count: &RenewalCount) {
    for keys in registry.keys().chunks(IN_A_ROW) {
        for key in keys {
            let Some((route, facts)) = registry.get(*key) else { continue };
            if renewal.renews(&facts.open_session(&route)) {
                facts.grant.token.replace(Arc::clone(renewal.token()));
                registry.set_expiry(*key, renewal.expires(), count.clone());
            }
        }
        cycle::next().await;
    }
}
