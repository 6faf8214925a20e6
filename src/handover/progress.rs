//! The progress of the upgrade that this process makes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The new process, while this one and the new one overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Successor {
    /// Its id.
    pub pid: u32,
    /// Its version; `None` before it has sent it.
    pub version: Option<String>,
    /// The number of sessions that have moved to it.
    pub moved: usize,
}

/// The state of the upgrade that this process makes. Clones share it.
#[derive(Debug, Default, Clone)]
pub struct Progress(Arc<Mutex<Option<Successor>>>);

impl Progress {
    /// Notes the new process.
    pub fn start(&self, pid: u32) {
        *self.lock() = Some(Successor { pid, version: None, moved: 0 });
    }

    /// Notes the version of the new process.
    pub fn set_version(&self, version: String) {
        if let Some(successor) = self.lock().as_mut() {
            successor.version = Some(version);
        }
    }

    /// Counts sessions that have moved.
    pub fn add_moved(&self, count: usize) {
        if let Some(successor) = self.lock().as_mut() {
            successor.moved = successor.moved.saturating_add(count);
        }
    }

    /// Forgets the new process: the upgrade has ended.
    pub fn end(&self) {
        *self.lock() = None;
    }

    /// Returns the new process; `None` while there is none.
    pub fn successor(&self) -> Option<Successor> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Option<Successor>> {
        // The value is consistent after every step.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
