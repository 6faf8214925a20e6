//! Ends the sessions whose token was verified by a key that has left its set.

use crate::front::gateway::Gateway;
use crate::policy::recheck::has_lost_key;
use crate::relay::registry::Command;
use crate::runtime::clock;
use crate::session::CloseReason;

use tokio::time::{Instant, sleep_until};

/// Waits for key sets that lose keys, and ends the sessions that these keys admitted, at `recheck_rate`. Never returns.
pub async fn watch(gateway: &Gateway) {
    loop {
        gateway.key_sets.changed().await;
        let sessions = gateway.workers.list().await;
        let lost = sessions.into_iter().filter(|(route, facts)| has_lost_key(route, &facts.grant));
        let ids: Vec<_> = lost.map(|(_, facts)| facts.request_id).collect();
        if ids.is_empty() {
            continue;
        }
        tracing::warn!(sessions = ids.len(), "sessions are ended because the key of their token has left its set");
        let rate = gateway.snapshot().recheck_rate();
        let interval = rate.period.checked_div(rate.count.get()).unwrap_or_default();
        let mut next = Instant::from_std(clock::now());
        for id in ids {
            sleep_until(next).await;
            gateway.workers.command_soon(id, Command::Revoke(CloseReason::NotAdmitted)).await;
            next = next.checked_add(interval).unwrap_or(next);
        }
    }
}
