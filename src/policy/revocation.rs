//! The revoked tokens: a bounded store with look-ups by token id, by identity and by the issuer's session.
//!
//! A revocation names tokens by a claim and holds until the tokens that it concerns have expired. Those of the API are
//! changed one by one; those of `revocations_file` are replaced together.

pub mod entry;
pub mod written;
pub mod journal;
pub mod state;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use self::entry::{Identity, Kind, Revocation, RevocationId, TokenIds};
use self::journal::Change;

/// The maximum number of revocations of the API, and of those of the file.
pub const ENTRIES_MAX: usize = 100_000;
/// The maximum memory of the revocations of the API, and of those of the file.
pub const MEMORY_MAX_BYTES: usize = 64 << 20;

/// The origin of a revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The API, or a logout at the issuer.
    Api,
    /// `revocations_file`.
    Listed,
}

/// The place of a revocation in the list: they are ordered by their ends.
pub type Place = (Duration, RevocationId, Origin);

/// The store has no capacity for another revocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// A revocation that was added.
#[derive(Debug, Clone)]
pub struct Added {
    /// The revocation, merged with an earlier one of the same target.
    pub revocation: Arc<Revocation>,
    /// Whether there was none of this target.
    pub is_new: bool,
}

/// A change that was made.
#[derive(Debug)]
pub enum Applied {
    /// A revocation was added.
    Added(Added),
    /// A revocation was removed, if there was one with this id.
    Removed(Option<Arc<Revocation>>),
}

/// The revocations of one origin.
#[derive(Debug, Default)]
struct Set {
    entries: HashMap<RevocationId, Arc<Revocation>>,
    by_end: BTreeSet<(Duration, RevocationId)>,
    bytes: usize,
}

/// The revocations of the process. A reader holds its lock for a few look-ups, and a writer for one insertion.
#[derive(Debug)]
pub struct Revocations {
    sets: RwLock<Sets>,
    /// The number of entries, so that an empty store costs a request one load.
    count: AtomicUsize,
    refused: AtomicU64,
    entries_max: usize,
}

#[derive(Debug, Default)]
struct Sets {
    api: Set,
    file: Set,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::with_capacity(ENTRIES_MAX)
    }
}

impl Revocations {
    fn with_capacity(entries_max: usize) -> Self {
        Self { sets: RwLock::default(), count: AtomicUsize::new(0), refused: AtomicU64::new(0), entries_max }
    }

    /// Whether a client is revoked at `now`, counted from the Unix epoch.
    pub fn is_revoked(&self, client: &Identity<'_>, now: Duration) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let ids = Self::ids_of(client);
        let issued = client.token.and_then(TokenIds::issued);
        let sets = self.read();
        let concerns = |revocation: &Arc<Revocation>| !revocation.has_ended(now) && revocation.concerns_time(issued);
        let revoked = |id| [&sets.api, &sets.file].into_iter().any(|set| set.entries.get(&id).is_some_and(concerns));
        ids.into_iter().flatten().any(revoked)
    }

    /// Returns the ids of all revocations that could concern a client.
    fn ids_of(client: &Identity<'_>) -> [Option<RevocationId>; 6] {
        let Identity { auth, subject, token } = *client;
        let (jti, sid) = (token.and_then(TokenIds::token_id), token.and_then(TokenIds::session_id));
        let id = |kind, auth, value: Option<&str>| value.map(|value| RevocationId::of(kind, auth, value));
        [
            id(Kind::Subject, Some(auth), subject),
            id(Kind::SubjectWithoutSession, Some(auth), subject.filter(|_| sid.is_none())),
            id(Kind::Session, Some(auth), sid),
            id(Kind::Session, None, sid),
            id(Kind::Token, Some(auth), jti),
            id(Kind::Token, None, jti),
        ]
    }

    /// Makes a change of the revocations of the API.
    ///
    /// # Errors
    /// If it adds a revocation for which there is no capacity.
    pub fn apply(&self, change: Change, now: Duration) -> Result<Applied, Full> {
        match change {
            Change::Add(revocation) => self.add(revocation, now).map(Applied::Added),
            Change::Remove(id) => Ok(Applied::Removed(self.remove(id))),
        }
    }

    /// Adds a revocation of the API. One of the same target is merged with it, so that neither gets weaker.
    ///
    /// # Errors
    /// If there are [`ENTRIES_MAX`] others, or their memory has reached [`MEMORY_MAX_BYTES`]. Nothing changes then.
    pub fn add(&self, revocation: Revocation, now: Duration) -> Result<Added, Full> {
        self.change(|sets| {
            sets.drop_ended(now);
            let added = sets.api.insert(revocation, self.entries_max);
            if added.is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            added
        })
    }

    /// Removes a revocation of the API.
    pub fn remove(&self, id: RevocationId) -> Option<Arc<Revocation>> {
        self.change(|sets| sets.api.remove(id))
    }

    /// Returns the revocation of the API with this id.
    pub fn of_id(&self, id: RevocationId) -> Option<Arc<Revocation>> {
        self.read().api.entries.get(&id).cloned()
    }

    /// Whether `revocations_file` has the revocation with this id.
    pub fn is_listed(&self, id: RevocationId) -> bool {
        self.read().file.entries.contains_key(&id)
    }

    /// Replaces the revocations of the file by those that have not ended. Returns those that were not in it before, or
    /// concern more tokens now.
    ///
    /// # Errors
    /// If they exceed the limits. Nothing changes then.
    pub fn replace_listed(&self, listed: &[Revocation], now: Duration) -> Result<Vec<Arc<Revocation>>, Full> {
        let mut file = Set::default();
        for revocation in listed.iter().filter(|revocation| !revocation.has_ended(now)) {
            file.insert(revocation.clone(), self.entries_max)?;
        }
        self.change(|sets| {
            let before = std::mem::replace(&mut sets.file, file);
            let is_covered = |id: &RevocationId, revocation: &Revocation| {
                before.entries.get(id).is_some_and(|before| before.issued_before == revocation.issued_before)
            };
            let entries = sets.file.entries.iter();
            Ok(entries.filter(|(id, revocation)| !is_covered(id, revocation)).map(|(_, new)| Arc::clone(new)).collect())
        })
    }

    /// Returns the first `limit` revocations after this place, in their order, and whether there are more.
    pub fn list(&self, after: Option<Place>, limit: usize, now: Duration) -> (Vec<(Place, Arc<Revocation>)>, bool) {
        self.drop_ended(now);
        let sets = self.read();
        let of = |set: &Set, origin: Origin| -> Vec<(Place, Arc<Revocation>)> {
            // The first place that may come next; a smaller origin at the same place comes before.
            let start = after.map_or((Duration::ZERO, RevocationId(0)), |(end, id, _)| (end, id));
            let places = set.by_end.range(start..).map(|(end, id)| (*end, *id, origin));
            let new = places.filter(|place| after.is_none_or(|after| *place > after)).take(limit.saturating_add(1));
            new.filter_map(|place| Some((place, Arc::clone(set.entries.get(&place.1)?)))).collect()
        };
        let mut all = of(&sets.api, Origin::Api);
        all.extend(of(&sets.file, Origin::Listed));
        drop(sets);
        all.sort_unstable_by_key(|(place, _)| *place);
        let has_more = all.len() > limit;
        all.truncate(limit);
        (all, has_more)
    }

    /// Returns all revocations of the API that have not ended.
    pub fn of_api(&self, now: Duration) -> Vec<Arc<Revocation>> {
        let is_valid = |revocation: &&Arc<Revocation>| !revocation.has_ended(now);
        self.read().api.entries.values().filter(is_valid).cloned().collect()
    }

    /// Returns the number of revocations that have not ended.
    pub fn count(&self, now: Duration) -> usize {
        self.drop_ended(now);
        self.count.load(Ordering::Relaxed)
    }

    /// Returns the number of revocations that were refused because the store was full.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Drops the revocations that have ended.
    fn drop_ended(&self, now: Duration) {
        let sets = self.read();
        let is_due = [&sets.api, &sets.file].into_iter().any(|set| set.first_ended(now).is_some());
        drop(sets);
        if is_due {
            self.change(|sets| sets.drop_ended(now));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Sets) -> T) -> T {
        // The sets are consistent after every step.
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        let result = change(&mut sets);
        let count = sets.api.entries.len().saturating_add(sets.file.entries.len());
        self.count.store(count, Ordering::Release);
        result
    }

    fn read(&self) -> RwLockReadGuard<'_, Sets> {
        self.sets.read().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Sets {
    fn drop_ended(&mut self, now: Duration) {
        for set in [&mut self.api, &mut self.file] {
            while let Some(id) = set.first_ended(now) {
                set.remove(id);
            }
        }
    }
}

impl Set {
    fn first_ended(&self, now: Duration) -> Option<RevocationId> {
        let (_, id) = self.by_end.first()?;
        self.entries.get(id).filter(|first| first.has_ended(now)).map(|_| *id)
    }

    fn insert(&mut self, revocation: Revocation, entries_max: usize) -> Result<Added, Full> {
        let id = revocation.target.id();
        let merged = match self.entries.get(&id) {
            Some(before) => {
                let mut merged = Revocation::clone(before);
                merged.merge(revocation);
                merged
            }
            None => revocation,
        };
        let before = self.entries.get(&id).map_or(0, |before| before.bytes());
        let bytes = self.bytes.saturating_sub(before).saturating_add(merged.bytes());
        if bytes > MEMORY_MAX_BYTES || (before == 0 && self.entries.len() >= entries_max) {
            return Err(Full);
        }
        self.remove(id);
        let revocation = Arc::new(merged);
        self.by_end.insert((revocation.expires, id));
        self.entries.insert(id, Arc::clone(&revocation));
        self.bytes = bytes;
        Ok(Added { revocation, is_new: before == 0 })
    }

    fn remove(&mut self, id: RevocationId) -> Option<Arc<Revocation>> {
        let revocation = self.entries.remove(&id)?;
        self.by_end.remove(&(revocation.expires, id));
        self.bytes = self.bytes.saturating_sub(revocation.bytes());
        Some(revocation)
    }
}

#[cfg(test)]
mod tests;
