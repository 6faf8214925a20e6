//! Workers: one thread per core, each with its own runtime. A connection stays on one worker from accept to end.

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};

use super::pool::{WorkerHandle, WorkerPool, WorkerReceiver};
use super::socket::{Accepted, Listener};
use crate::front::gateway::Gateway;
use crate::front::identify::identify;
use crate::front::{adopt, connection};
use crate::relay::Process;
use crate::relay::adopted::AdoptedSession;
use crate::relay::recheck::{end_if, recheck_all};
use crate::relay::registry::{Command, NotDelivered, SessionContext};
use crate::relay::renewal::renew_all;
use crate::relay::revoke::revoke_all;
use crate::relay::session_task::RelayTask;
use crate::relay::workers::{BulkCommand, WorkerCommand};
use crate::runtime::clock;
use crate::runtime::cycle::{self, Cycles};
use crate::runtime::guard::{LoadGuard, PendingConnection};
use crate::runtime::handshake_pacing;
use crate::runtime::socket::SocketStream;
use crate::runtime::tasks::{Tasks, start_thread};
use crate::telemetry::request::RequestId;

/// The maximum number of concurrent look-ups of a worker, those of authentication services; further look-ups wait.
/// There is one look-up per name at a time. If the name server does not answer, a look-up occupies a resolver thread
/// for about ten seconds.
const LOOKUPS: usize = 32;
/// The descriptors of a worker besides those of its connections: its event queue and its waker, its cycles, its
/// look-ups, and a connection that gets no closing permit and closes in the same step.
pub const DESCRIPTORS: usize = 5 + cycle::DESCRIPTORS + LOOKUPS;
/// The number of tasks in a row after which the I/O driver is polled, even if more are ready. A task with more to do
/// than one poll waits for the next [`cycle`], so this matters only if more tasks than this are ready at once: with the
/// budget of a poll and one read each, it limits the time between two polls of the driver to about 10 ms. A lower value
/// costs more calls of `epoll_wait`.
const EVENT_INTERVAL: u32 = 32;
/// The number of commands that are delivered in a row before the worker's sessions run.
const COMMANDS_IN_A_ROW: usize = 64;

/// The thread of a worker.
#[derive(Debug)]
pub struct Worker(oneshot::Receiver<()>);

impl Worker {
    /// Starts the thread. `run` serves the listeners that the worker receives, and signals by its sender when the
    /// connections that were open at the start of the drain have ended.
    ///
    /// # Errors
    /// If the system cannot provide a thread or an event queue.
    pub fn start<F>(
        number: usize,
        receiver: WorkerReceiver,
        pool: Arc<WorkerPool>,
        gateway: Arc<Gateway>,
        run: impl FnOnce(WorkerContext, mpsc::Receiver<Listener>, oneshot::Sender<()>) -> F + Send + 'static,
    ) -> io::Result<Self>
    where
        F: Future<Output = ()> + Send,
    {
        // Besides its own thread, a runtime has threads for blocking work, here for look-ups. Their default limit of
        // 512 would be reached if the resolver does not answer.
        let runtime = Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(LOOKUPS)
            .event_interval(EVENT_INTERVAL)
            .build()?;
        let replaced = gateway.workers.replaced(number);
        let cycles = {
            let _entered = runtime.enter();
            Cycles::new()?
        };
        let (end, ended) = oneshot::channel();
        start_thread(&format!("worker-{number}"), runtime, async move {
            let WorkerReceiver { listeners, commands, connections, heartbeat } = receiver;
            let (sessions, tasks) = (SessionContext::new(gateway.process.metrics.worker()), Tasks::default());
            let context = WorkerContext { connections, pool, gateway, sessions, tasks, is_draining: false };
            tokio::select! {
                () = run(context.clone(), listeners, end) => {}
                () = context.sessions.timers().run(&context.gateway.process.lifecycle) => {}
                () = serve_commands(commands, &context) => {}
                () = replaced.serve(context.sessions.registry()) => {}
                () = handshake_pacing::run_pacer() => {}
                () = context.sessions.connections().run() => {}
                () = cycles.run() => {}
                () = heartbeat.answer() => {}
            }
        })?;
        Ok(Self(ended))
    }

    /// Waits until the connections that were open at the start of the drain have ended.
    pub async fn end(self) {
        // An error means that the thread has ended, and its connections with it.
        let _ = self.0.await;
    }
}

/// Executes commands. Never returns, even if the channel is closed.
async fn serve_commands(mut commands: mpsc::Receiver<WorkerCommand>, worker: &WorkerContext) {
    let (context, gateway) = (&worker.sessions, &*worker.gateway);
    let sessions = context.registry();
    while let Some(command) = commands.recv().await {
        // If the sender no longer waits, the reply is dropped.
        match command {
            WorkerCommand::Session { id, command, reply } => drop(reply.send(sessions.deliver(id, command))),
            WorkerCommand::List(reply) => drop(reply.send(sessions.list())),
            WorkerCommand::Each(ids, command) => deliver_each(&ids, &command, context, &gateway.process).await,
            WorkerCommand::Recheck(policy, mode, reply) => {
                let report = recheck_all(sessions, &policy, mode).await;
                drop(reply.send(report));
            }
            WorkerCommand::EndIf(id, condition, reply) => drop(reply.send(end_if(sessions, id, &condition))),
            WorkerCommand::Revoke(sweep, reply) => drop(reply.send(revoke_all(sessions, &sweep).await)),
            WorkerCommand::Adopt(adopted) => worker.adopt(adopted),
            WorkerCommand::Freeze(round, max, reply) => sessions.freeze(round, max, &reply),
            WorkerCommand::Renew(renewal, count) => renew_all(sessions, &renewal, &count, &gateway.counters).await,
        }
    }
    std::future::pending::<()>().await;
}

/// Delivers a command to each session with one of these ids, and lets the worker's sessions run in between.
async fn deliver_each(ids: &HashSet<RequestId>, command: &BulkCommand, context: &SessionContext, process: &Process) {
    let sessions = context.registry();
    for keys in sessions.keys().chunks(COMMANDS_IN_A_ROW) {
        for key in keys {
            let Some((_, facts)) = sessions.get(*key).filter(|(_, facts)| ids.contains(&facts.request_id)) else {
                continue;
            };
            let command = match command {
                BulkCommand::Describe(reply) => Command::Describe(reply.clone()),
                BulkCommand::Send(message) => Command::Send(message.clone()),
                BulkCommand::End(cause) => {
                    sessions.end(*key, *cause);
                    continue;
                }
            };
            if let Err(NotDelivered::Busy(Command::Send(_))) = sessions.deliver_to(*key, command) {
                context.metrics().count_send_failure(&facts.route);
                process.sessions.log_undelivered(&facts.log_summary(), 1);
            }
        }
        cycle::next().await;
    }
}

/// The view of a worker that its own listeners use.
#[derive(Debug, Clone)]
pub struct WorkerContext {
    connections: Arc<AtomicUsize>,
    pool: Arc<WorkerPool>,
    gateway: Arc<Gateway>,
    sessions: SessionContext,
    tasks: Tasks,
    is_draining: bool,
}

impl WorkerContext {
    /// Whether the drain waits for the connections that are spawned here.
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Returns the same worker for connections that are accepted during the drain: they get a 503, and the drain does
    /// not wait for them.
    pub fn draining(&self) -> Self {
        Self { tasks: Tasks::default(), is_draining: true, ..self.clone() }
    }

    /// Returns the tasks of the worker's connections.
    pub fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// Returns the timers and the registry of the worker's sessions.
    pub fn sessions(&self) -> &SessionContext {
        &self.sessions
    }

    /// Returns the state that all connections share.
    pub fn gateway(&self) -> &Gateway {
        &self.gateway
    }

    /// Returns the least loaded worker if it has sufficiently fewer connections than this one.
    pub fn less_loaded_peer(&self) -> Option<&WorkerHandle> {
        self.pool.less_loaded_peer(self.connections.load(Ordering::Relaxed))
    }

    /// Starts sessions of another process.
    fn adopt(&self, adopted: Vec<AdoptedSession>) {
        for session in adopted {
            let load = LoadGuard::new(&self.connections);
            if let Some(task) = adopt::start(&self.gateway, &self.sessions, session, load) {
                self.tasks.start(task);
            }
        }
    }

    /// Spawns the task of a connection that was accepted.
    pub fn spawn_connection(&self, accepted: Accepted<SocketStream>) {
        let Accepted { stream, peer, config, slot } = accepted;
        let load = LoadGuard::new(&self.connections);
        let (gateway, sessions, tasks) = (Arc::clone(&self.gateway), self.sessions.clone(), self.tasks.clone());
        let deadline = clock::after(clock::now(), config.handshake_timeout);
        // An upgrade of the process waits for the session that each counted connection may become.
        let counted = sessions.metrics().connection();
        self.tasks.start(async move {
            let identified = identify(&gateway, &config, &stream, peer, slot, deadline).await;
            let Some((peer, endpoints, slot)) = identified else { return };
            let pending = (PendingConnection { slot, load }, counted);
            // A session gets a task of its own: this one would keep the memory that its handshakes needed.
            let steps =
                Box::pin(connection::serve(&gateway, &sessions, &config, stream, (peer, endpoints), pending, deadline));
            if let Some(relay) = handshake_pacing::paced(steps).await {
                tasks.start(RelayTask::from(relay));
            }
        });
    }
}
