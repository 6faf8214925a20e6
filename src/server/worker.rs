//! Workers: one thread a core, each with a runtime of its own, on which a connection lives from its accept to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::TcpStream;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::socket::{Accepted, Listener};
use crate::front::connection;
use crate::front::gateway::Gateway;
use crate::runtime::clock;
use crate::runtime::cycle::{self, Cycles};
use crate::runtime::guard::{ConnectionGuard, PendingConnection};
use crate::runtime::handshake_pacing;
use crate::runtime::tasks::{Tasks, start_thread};
use crate::runtime::timers::Timers;

/// How many names of servers a worker may look up at once; further ones wait. Each name is looked up once at a time, and a name
/// server that does not answer holds a thread of the resolver for some ten seconds.
const LOOKUPS: usize = 32;
/// Descriptors of a worker beside those of its connections: its event queue, what wakes it, its cycles, its look-ups, and a
/// connection that finds no place to leave and closes in the same step.
pub const DESCRIPTORS: usize = 5 + cycle::DESCRIPTORS + LOOKUPS;
/// After how many tasks in a row the I/O driver is polled, even if more are ready. Tasks with more to do than one poll wait
/// for the next [`cycle`], so this matters only where more tasks than this are ready at once: with polls of a session's
/// budget and one read each it bounds the time between two polls of the driver to some 10 ms. A lower value costs more calls
/// to `epoll_wait`.
const EVENT_INTERVAL: u32 = 32;
/// How many connections more than another a worker may have before what comes goes there: this share of what that has, and
/// never more than so many. What moves costs more, so it must be worth it.
const MORE_SHARE: usize = 8;
const MORE_MAX: usize = 16;

/// All workers, as each knows the others.
#[derive(Debug)]
pub struct WorkerPool(Vec<WorkerHandle>);

/// Where listeners that are for a worker go, and how many connections it carries.
#[derive(Debug)]
pub struct WorkerHandle {
    listeners: mpsc::Sender<Listener>,
    connections: Arc<AtomicUsize>,
}

/// The worker's own side of its desk.
#[derive(Debug)]
pub struct WorkerCommands {
    listeners: mpsc::Receiver<Listener>,
    connections: Arc<AtomicUsize>,
}

impl WorkerPool {
    /// So many workers for so many listeners.
    pub fn new(workers: usize, listeners: usize) -> (Self, Vec<WorkerCommands>) {
        let workers = (0..workers).map(|_| {
            // All of them may be for one worker, so there is always room.
            let (sender, receiver) = mpsc::channel(listeners.max(1));
            let connections = Arc::default();
            let worker = WorkerHandle { listeners: sender, connections: Arc::clone(&connections) };
            (worker, WorkerCommands { listeners: receiver, connections })
        });
        let (workers, commands) = workers.unzip();
        (Self(workers), commands)
    }

    /// The same, if a worker with so many connections of its own has enough more for a listener to move there.
    fn less_loaded_peer(&self, own: usize) -> Option<&WorkerHandle> {
        self.least_loaded().filter(|worker| has_more(own, worker.connections.load(Ordering::Relaxed)))
    }

    /// The one that has the fewest connections, of those that take listeners.
    pub fn least_loaded(&self) -> Option<&WorkerHandle> {
        let taking = self.0.iter().filter(|worker| !worker.listeners.is_closed());
        taking.min_by_key(|worker| worker.connections.load(Ordering::Relaxed))
    }
}

impl WorkerHandle {
    /// Lets the worker have a listener.
    ///
    /// # Errors
    /// Gives it back if the worker takes none any more.
    pub fn send(&self, listener: Listener) -> Result<(), Listener> {
        self.listeners.try_send(listener).map_err(mpsc::error::TrySendError::into_inner)
    }
}

/// A thread that carries connections.
#[derive(Debug)]
pub struct Worker(oneshot::Receiver<()>);

impl Worker {
    /// Starts the thread, on which `run` serves the listeners that come and tells by its sender when all connections have
    /// ended that there were when the drain started.
    ///
    /// # Errors
    /// If the system gives no thread or no event queue.
    pub fn start<F>(
        number: usize,
        commands: WorkerCommands,
        pool: Arc<WorkerPool>,
        gateway: Arc<Gateway>,
        run: impl FnOnce(WorkerContext, mpsc::Receiver<Listener>, oneshot::Sender<()>) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send,
    {
        // Beside its own thread a runtime has some that block, on which names of servers are looked up: by default up to
        // 512, which a resolver that does not answer would fill.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOKUPS)
            .event_interval(EVENT_INTERVAL)
            .build()?;
        let cycles = {
            let _entered = runtime.enter();
            Cycles::new()?
        };
        let (end, ended) = oneshot::channel();
        start_thread(&format!("worker-{number}"), runtime, async move {
            let WorkerCommands { listeners, connections } = commands;
            let timers = Arc::new(Timers::new());
            let context =
                WorkerContext { connections, pool, gateway, timers, tasks: Tasks::default(), is_draining: false };
            tokio::select! {
                () = run(context.clone(), listeners, end) => {}
                () = context.timers.run(&context.gateway.process.lifecycle) => {}
                () = handshake_pacing::run_pacer() => {}
                () = cycles.run() => {}
            }
        })?;
        Ok(Self(ended))
    }

    /// Waits until all connections have ended that it had when the drain started.
    pub async fn end(self) {
        // An error means that the thread is gone, which is what is waited for.
        let _ = self.0.await;
    }
}

/// A worker, as the listeners that are there know it.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    connections: Arc<AtomicUsize>,
    pool: Arc<WorkerPool>,
    gateway: Arc<Gateway>,
    timers: Arc<Timers>,
    tasks: Tasks,
    is_draining: bool,
}

impl WorkerContext {
    /// Whether what begins here is not waited for.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// The same worker for connections that come during the drain: they get a 503, and nobody waits for them.
    pub fn draining(&self) -> Self {
        Self { tasks: Tasks::default(), is_draining: true, ..self.clone() }
    }

    /// The tasks of the worker's connections.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// What all connections share.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// The worker that has the fewest connections, if this one has more.
    pub fn less_loaded_peer(&self) -> Option<&WorkerHandle> {
        self.pool.less_loaded_peer(self.connections.load(Ordering::Relaxed))
    }

    /// Begins to carry a connection.
    pub fn spawn_connection(&self, accepted: Accepted<TcpStream>, listener: SocketAddr) {
        let Accepted { stream, client, slot } = accepted;
        // A connection that was accepted before its listener was removed closes.
        let Some(config) = self.gateway.snapshot().connections(listener).cloned() else { return };
        let guard = ConnectionGuard::new(&self.timers, &self.connections);
        let (gateway, sessions) = (Arc::clone(&self.gateway), self.tasks.clone());
        let deadline = clock::after(clock::now(), config.handshake_timeout);
        self.tasks.start(async move {
            let pending = PendingConnection { slot, guard };
            // A session is a task of its own: in this one it would keep the memory that its handshakes needed.
            let steps = Box::pin(connection::serve(&gateway, &config, stream, client, pending, deadline));
            if let Some(relay) = handshake_pacing::paced(steps).await {
                sessions.start(relay);
            }
        });
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

    /// So many connections come, and each but the last ones ends at some time; how often listeners move, and that the
    /// workers are never further apart than they may be when a connection comes.
    fn moves(workers: usize, at_once: usize, total: usize) -> usize {
        let (pool, commands) = WorkerPool::new(workers, 1);
        let carried =
            || commands.iter().map(|commands| commands.connections.load(Ordering::Relaxed)).collect::<Vec<_>>();
        let mut order = VecDeque::new();
        let (mut here, mut moves, mut seed) = (0, 0, 1_u32);
        for _ in 0..total {
            if order.len() == at_once {
                // One of the older half ends.
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                drop(order.remove((seed >> 16) as usize % at_once.div_ceil(2)).unwrap());
            }
            if let Some(there) = number_of(&pool, pool.less_loaded_peer(carried()[here])) {
                (here, moves) = (there, moves + 1);
            }
            let (now, fewest) = (carried()[here], carried().into_iter().min().unwrap());
            assert!(now <= fewest + (fewest / MORE_SHARE).min(MORE_MAX), "{workers} workers: {:?}", carried());
            order.push_back(LoadGuard::new(&commands[here].connections));
        }
        moves
    }

    fn number_of(pool: &WorkerPool, chosen: Option<&WorkerHandle>) -> Option<usize> {
        pool.0.iter().position(|worker| chosen.is_some_and(|chosen| std::ptr::eq(worker, chosen)))
    }

    #[test]
    fn a_listener_moves_to_the_worker_with_the_fewest_connections() {
        // How many connections each worker has, at which of them the listener is, and where it goes.
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
            let (pool, mut commands) = WorkerPool::new(counts.len(), 1);
            for (commands, count) in commands.iter().zip(counts) {
                commands.connections.store(*count, Ordering::Relaxed);
            }
            assert_eq!(number_of(&pool, pool.less_loaded_peer(counts[here])), expected, "{counts:?} from {here}");
            // One that takes no listeners any more is passed over.
            let Some(there) = expected else { continue };
            commands[there].listeners.close();
            let next = (0..counts.len()).filter(|worker| *worker != there).min_by_key(|worker| counts[*worker]);
            assert_eq!(number_of(&pool, pool.least_loaded()), next, "{counts:?} without {there}");
        }
        let (pool, commands) = WorkerPool::new(2, 1);
        drop(commands);
        assert!(pool.least_loaded().is_none() && pool.less_loaded_peer(100).is_none());
    }

    #[test]
    fn connections_spread_and_listeners_seldom_move() {
        assert_eq!(moves(1, 100, 10_000), 0);
        for workers in [2, 3, 16] {
            // That come and stay, that come and go, and where there are few.
            for (at_once, moves_max) in [(20_000, 5_000), (1_000, 5_000), (2 * workers, 20_000)] {
                let moves = moves(workers, at_once, 20_000);
                assert!(moves < moves_max, "{workers} workers, {at_once} at once: {moves} moves");
            }
        }
    }
}
