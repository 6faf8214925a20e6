//! Guards of a connection: they count it for as long as they live.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::pending_limit::PendingSlot;
use super::timers::{Timer, Timers};

/// A connection's place among those that are no sessions yet, and its seat.
#[derive(Debug)]
pub struct PendingConnection {
    /// The place, up to the end of the request head.
    pub slot: PendingSlot,
    /// The seat, up to the end of the connection.
    pub guard: ConnectionGuard,
}

/// A connection's place among those of its worker, until dropped, and its timer there.
#[derive(Debug)]
pub struct ConnectionGuard {
    /// Wakes its session.
    pub timer: Timer,
    _load: LoadGuard,
}

impl ConnectionGuard {
    /// A seat at the worker that has these timers, and whose connections are counted here.
    pub fn new(timers: &Arc<Timers>, connections: &Arc<AtomicUsize>) -> Self {
        Self { timer: Timer::new(Arc::clone(timers)), _load: LoadGuard::new(connections) }
    }
}

/// Counts a connection of a worker until it is dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    /// Counts it here.
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
