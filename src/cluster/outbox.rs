//! Changes of revocations that the server may not have: those that it did not confirm, and the last ones, which a server
//! that takes over from another one may lack.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::revocation_set::SharedChange;
use crate::policy::revocation::entry::RevocationId;

/// The largest number of changes. Beyond it the whole store is compared with the server.
const CHANGES_MAX: usize = 10_000;
/// How long a confirmed change is kept. A replica is at most this far behind.
const KEPT: Duration = Duration::from_mins(1);

/// The changes by the ids of their revocations, each with the time at which it was confirmed.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    changes: HashMap<RevocationId, (SharedChange, Option<Instant>)>,
    is_overfull: bool,
}

impl Outbox {
    /// Adds a change, which replaces another one of its revocation.
    pub(super) fn add(&mut self, change: SharedChange, now: Instant) {
        let id = change.id();
        if self.changes.len() >= CHANGES_MAX && !self.changes.contains_key(&id) {
            self.drop_old(now);
        }
        if self.changes.len() < CHANGES_MAX || self.changes.contains_key(&id) {
            self.changes.insert(id, (change, None));
        } else {
            self.is_overfull = true;
        }
    }

    /// Notes that the server has a change.
    pub(super) fn confirm(&mut self, change: &SharedChange, now: Instant) {
        if let Some((_, confirmed)) = self.changes.get_mut(&change.id()).filter(|(known, _)| known == change) {
            confirmed.get_or_insert(now);
        }
    }

    /// Returns the changes that the server may lack; those that it confirmed only if `is_reconnected`.
    pub(super) fn unsent(&mut self, is_reconnected: bool, now: Instant) -> Vec<SharedChange> {
        self.drop_old(now);
        let unsent = self.changes.values().filter(|(_, confirmed)| is_reconnected || confirmed.is_none());
        unsent.map(|(change, _)| change.clone()).collect()
    }

    /// Whether changes were left out since the last call.
    pub(super) fn take_overfull(&mut self) -> bool {
        std::mem::take(&mut self.is_overfull)
    }

    fn drop_old(&mut self, now: Instant) {
        let is_old = |confirmed: Instant| now.saturating_duration_since(confirmed) > KEPT;
        self.changes.retain(|_, (_, confirmed)| !confirmed.is_some_and(is_old));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::revocation::journal::Change;

    fn change(id: u128, end: u64) -> SharedChange {
        let (made, end) = (Duration::ZERO, Duration::from_secs(end));
        SharedChange { change: Change::Remove(RevocationId(id)), made, end, is_event: true }
    }

    #[test]
    fn a_change_is_kept_until_it_was_confirmed_for_a_while() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.add(change(1, 1), now);
        assert_eq!(outbox.unsent(false, now), [change(1, 1)]);
        outbox.confirm(&change(1, 1), now);
        assert_eq!((outbox.unsent(false, now), outbox.unsent(true, now + KEPT)), (vec![], vec![change(1, 1)]));
        assert_eq!(outbox.unsent(true, now + 2 * KEPT), []);
    }

    #[test]
    fn a_later_change_of_a_revocation_is_not_confirmed_by_an_earlier_one() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        outbox.add(change(1, 1), now);
        outbox.add(change(1, 2), now);
        outbox.confirm(&change(1, 1), now);
        assert_eq!(outbox.unsent(false, now), [change(1, 2)]);
    }

    #[test]
    fn the_number_of_changes_is_bounded() {
        let (mut outbox, now) = (Outbox::default(), Instant::now());
        for id in 0..CHANGES_MAX as u128 {
            outbox.add(change(id, 1), now);
        }
        assert!(!outbox.take_overfull());
        outbox.add(change(0, 2), now);
        outbox.add(change(u128::MAX, 1), now);
        assert_eq!(
            (outbox.unsent(false, now).len(), outbox.take_overfull(), outbox.take_overfull()),
            (CHANGES_MAX, true, false)
        );
        outbox.confirm(&change(0, 2), now);
        outbox.add(change(u128::MAX, 1), now + 2 * KEPT);
        assert_eq!((outbox.unsent(false, now).len(), outbox.take_overfull()), (CHANGES_MAX, false));
    }
}
