//! The handles of all workers: the choice of the least loaded one, and commands to their sessions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::socket::Listener;
use super::watchdog::Heartbeat;
use crate::front::snapshot::Snapshot;
use crate::relay::description::SessionInfo;
use crate::relay::recheck::{RecheckMode, RecheckReport};
use crate::relay::registry::{Command, ListedSession, NotDelivered};
use crate::session::Message;
use crate::telemetry::request::RequestId;

/// New connections go to the least loaded worker once this worker has more connections by over one in `MORE_SHARE` of
/// the other worker's, or by over `MORE_MAX`. Moving a connection has a cost, so the difference must be worth it.
const MORE_SHARE: usize = 8;
const MORE_MAX: usize = 16;
/// The maximum number of listeners of a configuration.
const LISTENERS_MAX: usize = 64;
/// The pause before a session with too many pending commands gets a command again, and the number of attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const RETRIES: usize = 100;
/// The maximum number of pending commands of one worker.
const COMMANDS_MAX: usize = 64;

/// The handles of all workers.
#[derive(Debug)]
pub struct WorkerPool(Vec<WorkerHandle>);

/// The part of a worker that other threads use: the channels for its listeners and commands, its number of connections,
/// and its heartbeat.
#[derive(Debug)]
pub struct WorkerHandle {
    listeners: mpsc::Sender<Listener>,
    commands: mpsc::Sender<WorkerCommand>,
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

/// A command to a worker.
#[derive(Debug)]
pub enum WorkerCommand {
    /// Delivers a command to one of its sessions.
    Session {
        /// The id of the session.
        id: RequestId,
        /// The command.
        command: Command,
        /// Receives whether it was delivered.
        reply: oneshot::Sender<Result<(), NotDelivered>>,
    },
    /// Lists its sessions.
    List(oneshot::Sender<Vec<ListedSession>>),
    /// Delivers a command to each of its sessions with these ids.
    Each(Arc<HashSet<RequestId>>, BulkCommand),
    /// Checks its sessions against a snapshot.
    Recheck(Arc<Snapshot>, RecheckMode, oneshot::Sender<RecheckReport>),
}

/// A command that many sessions receive.
#[derive(Debug, Clone)]
pub enum BulkCommand {
    /// Describes each session. The channel has a capacity for every session that is asked.
    Describe(mpsc::Sender<SessionInfo>),
    /// Sends a message to each client.
    Send(Message),
}

impl WorkerPool {
    /// Creates the handles of `workers` workers.
    pub fn new(workers: usize) -> (Self, Vec<WorkerReceiver>) {
        let workers = (0..workers).map(|_| {
            // One worker may receive all listeners, also those that are being closed, so the channel always has
            // capacity.
            let (listener_sender, listeners) = mpsc::channel(2 * LISTENERS_MAX);
            let (command_sender, commands) = mpsc::channel(COMMANDS_MAX);
            let (connections, heartbeat) = (Arc::<AtomicUsize>::default(), Arc::<Heartbeat>::default());
            let handle = WorkerHandle {
                listeners: listener_sender,
                commands: command_sender,
                connections: Arc::clone(&connections),
                heartbeat: Arc::clone(&heartbeat),
            };
            (handle, WorkerReceiver { listeners, commands, connections, heartbeat })
        });
        let (workers, receivers) = workers.unzip();
        (Self(workers), receivers)
    }

    /// Asks every worker for a heartbeat, and returns the number of earlier ones of each.
    pub fn heartbeats(&self) -> Vec<u32> {
        self.0.iter().map(|worker| worker.heartbeat.ask()).collect()
    }

    /// Sends a command to the session with this id, on any worker.
    ///
    /// # Errors
    /// If no worker has the session, or the session has too many pending commands. The error contains the command.
    pub async fn command(&self, id: RequestId, command: Command) -> Result<(), NotDelivered> {
        let mut command = command;
        for worker in &self.0 {
            let (reply, replied) = oneshot::channel();
            let Err(mpsc::error::SendError(unsent)) =
                worker.commands.send(WorkerCommand::Session { id, command, reply }).await
            else {
                match replied.await {
                    Ok(Err(NotDelivered::NoSession(back))) => command = back,
                    Ok(delivered) => return delivered,
                    Err(_) => return Err(NotDelivered::Lost),
                }
                continue;
            };
            let WorkerCommand::Session { command: back, .. } = unsent else { return Ok(()) };
            command = back;
        }
        Err(NotDelivered::NoSession(command))
    }

    /// Sends a command to the session with this id, again after a pause while it has too many pending commands. A session
    /// that ended meanwhile needs no command.
    pub async fn command_soon(&self, id: RequestId, command: Command) {
        let mut command = command;
        for _ in 0..RETRIES {
            match self.command(id, command).await {
                Err(NotDelivered::Busy(back)) => command = back,
                _ => return,
            }
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    /// Lists all sessions.
    pub async fn list(&self) -> Vec<ListedSession> {
        self.ask_all(WorkerCommand::List).await.into_iter().flatten().collect()
    }

    /// Delivers a command to each session with one of these ids.
    pub async fn each(&self, ids: Arc<HashSet<RequestId>>, command: BulkCommand) {
        for worker in &self.0 {
            // A worker that has ended has no sessions.
            let _ = worker.commands.send(WorkerCommand::Each(Arc::clone(&ids), command.clone())).await;
        }
    }

    /// Checks all sessions against a snapshot.
    pub async fn recheck(&self, snapshot: &Arc<Snapshot>, mode: RecheckMode) -> RecheckReport {
        let reports = self.ask_all(|reply| WorkerCommand::Recheck(Arc::clone(snapshot), mode, reply)).await;
        let mut all = RecheckReport::default();
        for report in reports {
            all.merge(report);
        }
        all
    }

    /// Sends a command to every worker, and returns the replies. The workers execute it at the same time. A worker that
    /// has ended does not reply.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> WorkerCommand) -> Vec<T> {
        let mut pending = Vec::with_capacity(self.0.len());
        for worker in &self.0 {
            let (reply, replied) = oneshot::channel();
            if worker.commands.send(command(reply)).await.is_ok() {
                pending.push(replied);
            }
        }
        let mut replies = Vec::with_capacity(pending.len());
        for replied in pending {
            replies.extend(replied.await.ok());
        }
        replies
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
        let (pool, receivers) = WorkerPool::new(workers);
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
            let (pool, mut receivers) = WorkerPool::new(counts.len());
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
        let (pool, receivers) = WorkerPool::new(2);
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

    /// Runs a runtime on this thread until the future ends.
    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn message() -> Command {
        Command::Send(Message::from(String::new()))
    }

    #[test]
    fn a_command_is_delivered_by_the_worker_that_has_the_session() {
        let (pool, receivers) = WorkerPool::new(3);
        let ids = [1, 2, 3].map(RequestId);
        let workers = receivers.into_iter().zip(ids).map(|(mut receiver, own)| async move {
            let (mut delivered, mut sent) = (0, 0);
            while let Some(command) = receiver.commands.recv().await {
                match command {
                    WorkerCommand::List(reply) => reply.send(Vec::new()).unwrap(),
                    WorkerCommand::Each(..) => sent += 1,
                    WorkerCommand::Recheck(..) => panic!("no snapshot was sent"),
                    WorkerCommand::Session { id, reply, .. } if id == own => {
                        delivered += 1;
                        reply.send(Ok(())).unwrap();
                    }
                    WorkerCommand::Session { command, reply, .. } => {
                        reply.send(Err(NotDelivered::NoSession(command))).unwrap();
                    }
                }
            }
            (delivered, sent)
        });
        let [first, second, third] = <[_; 3]>::try_from(workers.collect::<Vec<_>>()).ok().unwrap();
        let (delivered, ()) = block_on(async {
            tokio::join!(async { tokio::join!(first, second, third) }, async {
                assert!(pool.command(RequestId(2), message()).await.is_ok());
                let unknown = pool.command(RequestId(4), message()).await;
                assert!(matches!(unknown, Err(NotDelivered::NoSession(Command::Send(_)))));
                pool.each(Arc::default(), BulkCommand::Send(Message::from(String::new()))).await;
                drop(pool);
            })
        });
        assert_eq!(delivered, [(0, 1), (1, 1), (0, 1)].into());
    }

    #[test]
    fn a_worker_that_ended_has_no_sessions() {
        let (pool, receivers) = WorkerPool::new(2);
        drop(receivers);
        block_on(async {
            assert!(pool.list().await.is_empty());
            let back = pool.command(RequestId(1), message()).await;
            assert!(matches!(back, Err(NotDelivered::NoSession(Command::Send(_)))));
        });
    }
}
