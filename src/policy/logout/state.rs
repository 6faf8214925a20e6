//! The logout tokens that were received as plain data, so that another process rejects them, too.

use std::sync::PoisonError;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{RECENT_MAX, RecentLogouts};
use crate::policy::revocation::entry::RevocationId;

/// The ends of the logout tokens that were received, since the Unix epoch, and the hashes by which they are remembered.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecentLogoutsState(Vec<(Duration, u128)>);

impl RecentLogouts {
    /// Returns the tokens that have not expired, as plain data.
    pub fn export(&self, now: Duration) -> RecentLogoutsState {
        let recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let valid = recent.by_end.iter().filter(|(end, _)| *end > now);
        RecentLogoutsState(valid.map(|(end, id)| (*end, id.0)).collect())
    }

    /// Adds the tokens that another process exported. If there are too many, those that expire first are forgotten.
    pub fn import(&self, state: RecentLogoutsState, now: Duration) {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (end, id) in state.0.into_iter().filter(|(end, _)| *end > now) {
            let id = RevocationId(id);
            // A token that is known already has its end.
            if recent.known.insert(id) {
                recent.by_end.insert((end, id));
            }
            if recent.by_end.len() > RECENT_MAX
                && let Some((_, first)) = recent.by_end.pop_first()
            {
                recent.known.remove(&first);
            }
        }
    }
}
