//! Slots of the sessions of each key, in the order in which the sessions were opened, so that a new session can take
//! over the slot of the oldest one.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::quota::nanos_at;

/// The id of a session, by which its worker finds it.
pub type SessionId = u128;

/// The slots in use of each key. A slot takes about 120 bytes more than one of a plain counter.
#[derive(Debug)]
pub struct SessionSlots<K>(Arc<Mutex<Taken<K>>>);

#[derive(Debug)]
struct Taken<K> {
    by_key: HashMap<K, KeySlots>,
    /// The holders of all slots. Those of one key are adjacent, the oldest first.
    holders: BTreeMap<Position, SessionId>,
    /// The number of the last key or slot that was added.
    last_number: u64,
}

/// The slots of one key.
#[derive(Debug)]
struct KeySlots {
    /// A number that no other key has or had.
    number: u64,
    count: u32,
}

/// The number of a key, the time at which the session was opened, and a number that no other slot has or had.
type Position = (u64, u64, u64);

/// The slot of one session. Dropping it releases it, unless another session has taken it over.
#[derive(Debug)]
pub struct SessionSlot<K: Hash + Eq> {
    taken: Arc<Mutex<Taken<K>>>,
    key: K,
    position: Position,
}

/// A session that takes a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Holder {
    /// Its id.
    pub id: SessionId,
    /// When it was opened.
    pub opened: Instant,
}

/// The limit of the sessions of a key, where new sessions take over slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotLimit {
    /// The maximum number of them.
    pub max: NonZeroU32,
    /// The number of them from which on a new session takes over the slot of one: the share of a process that cannot ask
    /// the others. It may have had all `max` sessions before, so a new one never ends more than one for it.
    pub share: NonZeroU32,
}

impl SlotLimit {
    /// Returns the number of sessions whose slots a new one takes over if there are `count` of them.
    fn excess(self, count: u32) -> u32 {
        let beyond = count.saturating_add(1).saturating_sub(self.max.get());
        beyond.max(u32::from(count >= self.share.get()))
    }
}

impl From<NonZeroU32> for SlotLimit {
    fn from(max: NonZeroU32) -> Self {
        Self { max, share: max }
    }
}

impl<K: Hash + Eq + Clone> SessionSlots<K> {
    /// Creates slots that are all free.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Taken { by_key: HashMap::new(), holders: BTreeMap::new(), last_number: 0 })))
    }

    /// Takes one of the `max` slots of a key, if one is free.
    pub fn take(&self, key: K, holder: Holder, max: NonZeroU32) -> Option<SessionSlot<K>> {
        let mut taken = lock(&self.0);
        let is_free = taken.by_key.get(&key).is_none_or(|slots| slots.count < max.get());
        is_free.then(|| self.insert(&mut taken, key, holder))
    }

    /// Takes a slot of a key. If none is free, it takes over the slot of the oldest session, and of as many more as exceed
    /// a limit that was lowered. Returns the ids of these sessions, which hold no slot any more.
    pub fn take_over(&self, key: K, holder: Holder, limit: SlotLimit) -> (SessionSlot<K>, Vec<SessionId>) {
        let mut taken = lock(&self.0);
        let count = taken.by_key.get(&key).map_or(0, |slots| slots.count);
        let replaced = (0..limit.excess(count)).map_while(|_| taken.remove_oldest(&key)).collect();
        (self.insert(&mut taken, key, holder), replaced)
    }

    /// Returns the number of sessions of a key whose slots a new one would take over.
    pub fn excess(&self, key: &K, limit: SlotLimit) -> u32 {
        limit.excess(self.count(key))
    }

    /// Returns the ids of the sessions of a key, the oldest first.
    pub fn ids(&self, key: &K) -> Vec<SessionId> {
        let taken = lock(&self.0);
        taken.of_key(key).map(|(_, id)| *id).collect()
    }

    /// Releases the slot that a session has of a key. Returns whether it had one.
    pub fn release(&self, key: &K, id: SessionId) -> bool {
        let mut taken = lock(&self.0);
        let position = taken.of_key(key).find(|(_, holder)| **holder == id).map(|(position, _)| *position);
        position.is_some_and(|position| taken.remove(key, position).is_some())
    }

    /// Takes a slot of a key, even beyond the limit. Returns it with the number of slots that were taken before.
    pub fn add(&self, key: K, holder: Holder) -> (SessionSlot<K>, u32) {
        let mut taken = lock(&self.0);
        let before = taken.by_key.get(&key).map_or(0, |slots| slots.count);
        (self.insert(&mut taken, key, holder), before)
    }

    /// Returns the number of taken slots of a key.
    pub fn count(&self, key: &K) -> u32 {
        lock(&self.0).by_key.get(key).map_or(0, |slots| slots.count)
    }

    fn insert(&self, taken: &mut Taken<K>, key: K, holder: Holder) -> SessionSlot<K> {
        let position = taken.insert(&key, holder);
        SessionSlot { taken: Arc::clone(&self.0), key, position }
    }
}

impl<K: Hash + Eq + Clone> Default for SessionSlots<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq> Taken<K> {
    fn insert(&mut self, key: &K, holder: Holder) -> Position
    where
        K: Clone,
    {
        // The number of a slot is also that of its key, if it is the first of the key.
        self.last_number = self.last_number.wrapping_add(1);
        let slots = self.by_key.entry(key.clone()).or_insert(KeySlots { number: self.last_number, count: 0 });
        slots.count = slots.count.saturating_add(1);
        let position = (slots.number, nanos_at(holder.opened), self.last_number);
        self.holders.insert(position, holder.id);
        position
    }

    /// Returns the holders of the slots of a key, the oldest first.
    fn of_key(&self, key: &K) -> impl Iterator<Item = (&Position, &SessionId)> {
        let number = self.by_key.get(key).map(|slots| slots.number);
        number.into_iter().flat_map(|number| self.holders.range((number, 0, 0)..(number.saturating_add(1), 0, 0)))
    }

    fn remove_oldest(&mut self, key: &K) -> Option<SessionId> {
        let position = *self.of_key(key).next()?.0;
        self.remove(key, position)
    }

    /// Removes the holder of a slot, if it has not been removed. The slots of other holders stay.
    fn remove(&mut self, key: &K, position: Position) -> Option<SessionId> {
        let id = self.holders.remove(&position)?;
        if let Some(slots) = self.by_key.get_mut(key) {
            slots.count = slots.count.saturating_sub(1);
            if slots.count == 0 {
                self.by_key.remove(key);
            }
        }
        Some(id)
    }
}

impl<K: Hash + Eq> SessionSlot<K> {
    /// Whether the session still holds the slot: no other session has taken it over.
    pub fn is_held(&self) -> bool {
        lock(&self.taken).holders.contains_key(&self.position)
    }
}

impl<K: Hash + Eq> Drop for SessionSlot<K> {
    fn drop(&mut self) {
        lock(&self.taken).remove(&self.key, self.position);
    }
}

/// Locks a map. It is consistent after every step, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
