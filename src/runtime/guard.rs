//! Guards of a connection: they count it for as long as they live.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::handshakes::Entry;
use super::timers::{Timer, Timers};

/// A connection's place among those that are no sessions yet, and its seat.
#[derive(Debug)]
pub struct Place {
    /// The place, up to the end of the request head.
    pub entry: Entry,
    /// The seat, up to the end of the connection.
    pub seat: Seat,
}

/// A connection's place among those of its worker, until dropped, and its timer there.
#[derive(Debug)]
pub struct Seat {
    /// Wakes its session.
    pub timer: Timer,
    _counted: Counted,
}

impl Seat {
    /// A seat at the worker that has these timers, and whose connections are counted here.
    pub fn new(timers: &Arc<Timers>, connections: &Arc<AtomicUsize>) -> Self {
        Self { timer: Timer::new(Arc::clone(timers)), _counted: Counted::new(connections) }
    }
}

/// Counts a connection of a worker until it is dropped.
#[derive(Debug)]
pub struct Counted(Arc<AtomicUsize>);

impl Counted {
    /// Counts it here.
    pub fn new(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
