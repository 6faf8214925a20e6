//! The keys of slots from which members of dead nodes were removed, or are to be.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::nodes::View;
use crate::policy::slot_store::SlotKey;

/// The maximum number of keys of each kind.
const KEYS_MAX: usize = 4_096;

/// The keys that have no members of dead nodes, and those that may have some.
#[derive(Debug, Default)]
pub(super) struct Purges {
    purged: Mutex<Purged>,
    due: Mutex<HashSet<SlotKey>>,
}

/// The keys that have no members of nodes that were dead at the heartbeat of this time of the server.
#[derive(Debug, Default)]
struct Purged {
    server_millis: u64,
    keys: HashSet<SlotKey>,
}

impl Purges {
    /// Whether the key has no members of nodes that are dead as of this view.
    pub(super) fn is_purged(&self, key: &SlotKey, view: &View) -> bool {
        let purged = lock(&self.purged);
        purged.server_millis == view.server_millis && purged.keys.contains(key)
    }

    /// Notes that the members of dead nodes were removed from the key.
    pub(super) fn note_purged(&self, key: &SlotKey, view: &View) {
        let mut purged = lock(&self.purged);
        if purged.server_millis != view.server_millis {
            *purged = Purged { server_millis: view.server_millis, keys: HashSet::new() };
        }
        if purged.keys.len() < KEYS_MAX {
            purged.keys.insert(key.clone());
        }
    }

    /// Notes that members of dead nodes are to be removed from the key. Returns whether this is new.
    pub(super) fn note_due(&self, key: &SlotKey) -> bool {
        let mut due = lock(&self.due);
        due.len() < KEYS_MAX && due.insert(key.clone())
    }

    /// Removes and returns the keys from which members of dead nodes are to be removed.
    pub(super) fn take_due(&self) -> HashSet<SlotKey> {
        std::mem::take(&mut lock(&self.due))
    }
}

/// Locks keys. They are consistent after every step, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_key_is_purged_until_the_next_heartbeat() {
        let (purges, key) = (Purges::default(), SlotKey::FIRST);
        let view =
            |server_millis| View { id: Arc::from("1-a"), server_millis, sent: Instant::now(), nodes: Vec::new() };
        assert!(!purges.is_purged(&key, &view(7)));
        purges.note_purged(&key, &view(7));
        assert_eq!([7, 8].map(|millis| purges.is_purged(&key, &view(millis))), [true, false]);
        assert_eq!([purges.note_due(&key), purges.note_due(&key)], [true, false]);
        assert_eq!([purges.take_due().len(), purges.take_due().len()], [1, 0]);
    }
}
