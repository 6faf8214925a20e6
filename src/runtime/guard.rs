//! Guards that count a connection for as long as they exist.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pending_limit::PendingSlot;

/// The guards of a connection before its request.
#[derive(Debug)]
pub struct PendingConnection {
    /// Its slot among the pending connections, until its request head is read.
    pub slot: PendingSlot,
    /// Its share of the worker's load, until it ends.
    pub load: LoadGuard,
}

/// Counts a connection of a worker until it is dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    /// Counts a connection in `connections`.
    pub fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
