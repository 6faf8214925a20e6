//! Slots: limits on how many of something exist at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The number of slots in use for each key.
#[derive(Debug)]
pub struct Slots<K> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of the slots of a key. Dropping it releases it.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// Creates slots that are all free.
    pub fn new() -> Self {
        Self { taken: Arc::new(Mutex::new(HashMap::new())) }
    }

    /// Takes one of the `max` slots of a key, if one is free.
    pub fn take(&self, key: K, max: NonZeroU32) -> Option<Slot<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(key.clone()).or_insert(0);
        if *count >= max.get() {
            return None;
        }
        *count += 1;
        drop(taken);
        Some(Slot { taken: Arc::clone(&self.taken), key })
    }

    /// Returns the number of taken slots of a key.
    pub fn count(&self, key: &K) -> u32 {
        lock(&self.taken).get(key).copied().unwrap_or_default()
    }
}

impl<K: Hash + Eq + Clone> Default for Slots<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.key);
            }
        }
    }
}

/// Locks a map. It is consistent after every step, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
