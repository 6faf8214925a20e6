//! Ends the sessions of one worker that a revocation concerns.

use std::sync::Arc;
use std::time::Duration;

use super::registry::Registry;
use crate::policy::counters::Counters;
use crate::policy::grant::Grant;
use crate::policy::revocation::entry::Revocation;
use crate::runtime::{clock, cycle};
use crate::session::CloseReason;

/// The number of sessions that are checked in a row before the worker's sessions run.
const IN_A_ROW: usize = 256;
/// The number of revocations from which on a session is looked up in the store of all of them.
const LOOKED_UP: usize = 8;

/// The revocations that sessions are checked against.
#[derive(Debug, Clone)]
pub enum Sweep {
    /// A few, each of which is compared.
    These(Arc<[Arc<Revocation>]>),
    /// All in the store.
    All(Arc<Counters>),
}

impl Sweep {
    /// Creates the sweep of revocations that were added to the store.
    pub fn new(added: Vec<Arc<Revocation>>, store: &Arc<Counters>) -> Self {
        if added.len() < LOOKED_UP { Self::These(added.into()) } else { Self::All(Arc::clone(store)) }
    }

    fn ends(&self, grant: &Grant, now: Duration) -> bool {
        grant.is_revoked(|client| match self {
            Self::These(revocations) => revocations.iter().any(|revocation| revocation.concerns(client)),
            Self::All(store) => store.revocations().is_revoked(client, now),
        })
    }
}

/// Ends all sessions that a revocation concerns, and lets the worker's sessions run in between. Returns their number.
pub async fn revoke_all(registry: &Registry, sweep: &Sweep) -> usize {
    let (mut ended, now) = (0_usize, clock::both().unix);
    for keys in registry.keys().chunks(IN_A_ROW) {
        for key in keys {
            let is_concerned = registry.get(*key).is_some_and(|(_, facts)| sweep.ends(&facts.grant, now));
            if is_concerned && registry.end(*key, CloseReason::Revoked) {
                ended = ended.saturating_add(1);
            }
        }
        cycle::next().await;
    }
    ended
}

/// Ends a session that was revoked between its admission and its registration, or while it got a fresh token: a sweep
/// did not find it then.
pub fn revoke_late(registry: &Registry, key: usize, grant: &Grant, store: &Counters) {
    if grant.is_revoked(|client| store.revocations().is_revoked(client, clock::both().unix)) {
        registry.end(key, CloseReason::Revoked);
    }
}
