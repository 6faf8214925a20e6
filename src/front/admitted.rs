//! Checks a session that was registered just now against all that changed since it was admitted.

use super::gateway::Gateway;
use crate::policy::grant::Lease;
use crate::relay::facts::SessionFacts;
use crate::relay::recheck::{end_if_key_lost, recheck_late};
use crate::relay::registry::{Command, SessionContext};
use crate::relay::revoke::revoke_late;
use crate::session::CloseReason;

/// Ends the session with this key, which was admitted by the snapshot of this generation, if another session has taken over its slot, or if it is not admitted any more. No
/// worker found it when that happened.
pub(super) fn check_registered(
    gateway: &Gateway,
    sessions: &SessionContext,
    key: usize,
    generation: u64,
    lease: &Lease,
    facts: &SessionFacts,
) {
    let registry = sessions.registry();
    if lease.is_limited() {
        registry.note_limited(key);
    }
    if lease.is_replaced() {
        let _ = registry.deliver_to(key, Command::Revoke(CloseReason::Replaced));
    }
    // A snapshot that was installed since the admission has checked the sessions that were registered by then.
    let snapshot = gateway.snapshot();
    if generation < snapshot.rechecked_generation() {
        recheck_late(registry, key, snapshot.policy());
    }
    revoke_late(registry, key, &facts.grant, &gateway.counters);
    end_if_key_lost(registry, key);
}
