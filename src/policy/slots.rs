//! Slots: how many of something there are at once.

use std::collections::HashMap;
use std::hash::Hash;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts how many of each key there are at once.
#[derive(Debug)]
pub struct Slots<K> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
}

/// One of a key's slots; dropping it gives it back.
#[derive(Debug)]
pub struct Slot<K: Hash + Eq> {
    taken: Arc<Mutex<HashMap<K, u32>>>,
    key: K,
}

impl<K: Hash + Eq + Clone> Slots<K> {
    /// All free.
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

    /// The number of taken slots of a key.
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

/// The maps are whole after every step, so a panic of another holder leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
