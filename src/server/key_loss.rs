//! Ends the sessions whose token was verified by a key that has left its set.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::front::gateway::Gateway;
use crate::policy::recheck::has_lost_key;
use crate::relay::recheck::EndCondition;
use crate::runtime::clock;
use crate::telemetry::request::RequestId;

/// The sessions that are to end, in their order.
#[derive(Debug, Default)]
struct Ending {
    ids: VecDeque<RequestId>,
    /// These sessions, and those whose turn was and that are closing.
    known: HashSet<RequestId>,
}

impl Ending {
    /// Adds a session, unless it is there. Returns whether it is new.
    fn add(&mut self, id: RequestId) -> bool {
        let is_new = self.known.insert(id);
        if is_new {
            self.ids.push_back(id);
        }
        is_new
    }

    fn next(&mut self) -> Option<RequestId> {
        self.ids.pop_front()
    }

    /// Forgets a session that stays open.
    fn forget(&mut self, id: RequestId) {
        self.known.remove(&id);
    }

    /// Forgets the sessions that are over.
    fn retain(&mut self, open: &HashSet<RequestId>) {
        self.known.retain(|id| open.contains(id));
    }
}

/// Waits for key sets that lose keys, and ends the sessions that these keys admitted, at `recheck_rate` for all sets
/// together. A session that was renewed until its turn, or whose key has come back, stays open. Never returns.
pub async fn watch(gateway: &Gateway) {
    let (mut ending, mut next) = (Ending::default(), Instant::from_std(clock::now()));
    loop {
        tokio::select! {
            () = gateway.key_sets.changed() => {
                if find(gateway, &mut ending).await {
                    next = next.max(Instant::from_std(clock::now()));
                }
            }
            () = sleep_until(next), if !ending.ids.is_empty() => {
                let Some(id) = ending.next() else { continue };
                if gateway.workers.end_if(id, &EndCondition::KeyLost).await {
                    next = next.checked_add(interval(gateway)).unwrap_or(next);
                } else {
                    ending.forget(id);
                }
            }
        }
    }
}

/// Adds the sessions that have lost their key. Returns whether some are new.
async fn find(gateway: &Gateway, ending: &mut Ending) -> bool {
    let (mut count, mut auths) = (0_usize, BTreeSet::new());
    let sessions = gateway.workers.list().await;
    ending.retain(&sessions.iter().map(|(_, facts)| facts.request_id).collect());
    for (route, facts) in sessions {
        if has_lost_key(&route, &facts.grant) && ending.add(facts.request_id) {
            count = count.saturating_add(1);
            auths.extend(facts.grant.auth.as_ref().map(Arc::clone));
        }
    }
    if count > 0 {
        let auth = auths.iter().map(|name| &**name).collect::<Vec<_>>().join(", ");
        tracing::warn!(auth, sessions = count, "sessions are ended because the key of their token has left its set");
    }
    count > 0
}

/// Returns the time between two sessions that end.
fn interval(gateway: &Gateway) -> Duration {
    let rate = gateway.snapshot().recheck_rate();
    rate.period.checked_div(rate.count.get()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_to_end_once_unless_it_stays_open() {
        let mut ending = Ending::default();
        let [a, b] = [1, 2].map(RequestId);
        assert!(ending.add(a) && ending.add(b) && !ending.add(a));
        assert_eq!((ending.next(), ending.next(), ending.next()), (Some(a), Some(b), None));
        ending.forget(a);
        assert!(ending.add(a) && !ending.add(b), "the second one is closing");
        ending.retain(&HashSet::from([a]));
        assert!(ending.known.len() == 1 && !ending.add(a));
    }
}
