//! The handles of all workers, and the choice of the least loaded one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::socket::Listener;
use super::watchdog::Heartbeat;
use crate::relay::workers::{WorkerCommand, Workers};

/// New connections go to the least loaded worker once this worker has more connections by over one in `MORE_SHARE` of
/// the other worker's, or by over `MORE_MAX`. Moving a connection has a cost, so the difference must be worth it.
const MORE_SHARE: usize = 8;
const MORE_MAX: usize = 16;
/// The maximum number of listeners of a configuration.
const LISTENERS_MAX: usize = 64;

/// The handles of all workers.
#[derive(Debug)]
pub struct WorkerPool(Vec<WorkerHandle>);

/// The part of a worker that other threads use: the channel for its listeners, its number of connections, and its
/// heartbeat.
#[derive(Debug)]
pub struct WorkerHandle {
    listeners: mpsc::Sender<Listener>,
    connections: Arc<AtomicUsize>,
    heartbeat: Arc<Heartbeat>,
}

/// The worker's own end of its handle.
#[derive(Debug)]
pub struct WorkerReceiver {
    /// Listeners that move here.
    pub listeners: mpsc::Receiver<Listener>,
    /// Commands to its sessions.
    pub commands: mpsc::Receiver<WorkerCommand>,
    /// The number of its connections.
    pub connections: Arc<AtomicUsize>,
    /// Its heartbeat, which it answers.
    pub heartbeat: Arc<Heartbeat>,
}

impl WorkerPool {
    /// Creates the handles of `workers` workers, and their command channels.
    pub fn new(workers: usize) -> (Self, Workers, Vec<WorkerReceiver>) {
        let (channels, commands) = Workers::new(workers);
        let workers = commands.into_iter().map(|commands| {
            // One worker may receive all listeners, also those that are being closed, so the channel always has
            // capacity.
            let (listener_sender, listeners) = mpsc::channel(2 * LISTENERS_MAX);
            let (connections, heartbeat) = (Arc::<AtomicUsize>::default(), Arc::<Heartbeat>::default());
            let handle = WorkerHandle {
                listeners: listener_sender,
                connections: Arc::clone(&connections),
                heartbeat: Arc::clone(&heartbeat),
            };
            (handle, WorkerReceiver { listeners, commands, connections, heartbeat })
        });
        let (workers, receivers) = workers.unzip();
        (Self(workers), channels, receivers)
    }

    /// Asks every worker for a heartbeat, and returns the number of earlier ones of each.
    pub fn heartbeats(&self) -> Vec<u32> {
        self.0.iter().map(|worker| worker.heartbeat.ask()).collect()
    }

    /// Returns the least loaded worker if it has sufficiently fewer connections than `own` for a listener to move
    /// there.
    pub fn less_loaded_peer(&self, own: usize) -> Option<&WorkerHandle> {
        self.least_loaded().filter(|worker| has_more(own, worker.connections.load(Ordering::Relaxed)))
    }

    /// Returns the worker with the fewest connections, of those that accept listeners.
    pub fn least_loaded(&self) -> Option<&WorkerHandle> {
        let accepting = self.0.iter().filter(|worker| !worker.listeners.is_closed());
        accepting.min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
    }
}

impl WorkerHandle {
    /// Moves a listener to the worker.
    ///
    /// # Errors
    /// Returns the listener if the worker accepts no more listeners.
    pub fn send(&self, listener: Listener) -> Result<(), Listener> {
        self.listeners.try_send(listener).map_err(mpsc::error::TrySendError::into_inner)
    }
}

fn has_more(own: usize, other: usize) -> bool {
    own > other + (other / MORE_SHARE).min(MORE_MAX)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;
    use crate::runtime::guard::LoadGuard;

    /// Simulates `total` connections of which `at_once` are open, and returns how often the listener moved. The loads
    /// never differ by more than allowed when a connection is accepted.
    fn moves(workers: usize, at_once: usize, total: usize) -> usize {
        let (pool, _, receivers) = WorkerPool::new(workers);
        let loads =
            || receivers.iter().map(|receiver| receiver.connections.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let mut order = VecDeque::new();
        let (mut here, mut moves, mut seed) = (0, 0, 1_u32);
        for _ in 0..total {
            if order.len() == at_once {
                // A connection of the older half ends.
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                drop(order.remove((seed >> 16) as usize % at_once.div_ceil(2)).unwrap());
            }
            if let Some(there) = number_of(&pool, pool.less_loaded_peer(loads()[here])) {
                (here, moves) = (there, moves + 1);
            }
            let (now, fewest) = (loads()[here], loads().into_iter().min().unwrap());
            assert!(now <= fewest + (fewest / MORE_SHARE).min(MORE_MAX), "{workers} workers: {:?}", loads());
            order.push_back(LoadGuard::new(&receivers[here].connections));
        }
        moves
    }

    fn number_of(pool: &WorkerPool, chosen: Option<&WorkerHandle>) -> Option<usize> {
        pool.0.iter().position(|worker| chosen.is_some_and(|chosen| std::ptr::eq(worker, chosen)))
    }

    #[test]
    fn a_listener_moves_to_the_worker_with_the_fewest_connections() {
        // The connections of each worker, the worker that has the listener, and the worker that it moves to.
        let table: &[(&[usize], usize, Option<usize>)] = &[
            (&[0], 0, None),
            (&[0, 0], 0, None),
            (&[1, 0], 0, Some(1)),
            (&[0, 1], 0, None),
            (&[9, 8], 0, None),
            (&[10, 8], 0, Some(1)),
            (&[176, 160], 0, None),
            (&[177, 160], 0, Some(1)),
            (&[1016, 1000], 0, None),
            (&[1017, 1000], 0, Some(1)),
            (&[5, 9, 3, 4], 1, Some(2)),
            (&[5, 9, 3, 4], 2, None),
        ];
        for &(counts, here, expected) in table {
            let (pool, _, mut receivers) = WorkerPool::new(counts.len());
            for (receiver, count) in receivers.iter().zip(counts) {
                receiver.connections.store(*count, Ordering::Relaxed);
            }
            assert_eq!(number_of(&pool, pool.less_loaded_peer(counts[here])), expected, "{counts:?} from {here}");
            // A worker that accepts no more listeners is skipped.
            let Some(there) = expected else { continue };
            receivers[there].listeners.close();
            let next = (0..counts.len()).filter(|worker| *worker != there).min_by_key(|worker| counts[*worker]);
            assert_eq!(number_of(&pool, pool.least_loaded()), next, "{counts:?} without {there}");
        }
        let (pool, _, receivers) = WorkerPool::new(2);
        drop(receivers);
        assert!(pool.least_loaded().is_none() && pool.less_loaded_peer(100).is_none());
    }

    #[test]
    fn connections_spread_while_listeners_rarely_move() {
        assert_eq!(moves(1, 100, 10_000), 0);
        for workers in [2, 3, 16] {
            // Connections that stay, connections that end, and few connections.
            for (at_once, moves_max) in [(20_000, 5_000), (1_000, 5_000), (2 * workers, 20_000)] {
                let moves = moves(workers, at_once, 20_000);
                assert!(moves < moves_max, "{workers} workers, {at_once} at once: {moves} moves");
            }
        }
    }
}
