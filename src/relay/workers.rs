//! The command channels of all workers: the way by which other threads reach sessions.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

use super::adopted::AdoptedSession;
use super::description::SessionInfo;
use super::freezing::Freezing;
use super::recheck::{EndCondition, RecheckMode, RecheckReport};
use super::registry::{Command, ListedSession, NotDelivered};
use super::renewal_count::RenewalCount;
use super::replaced::ReplacedSessions;
use super::revoke::Sweep;
use crate::policy::admission::Policy;
use crate::policy::refresh::Renewal;
use crate::policy::session_slots::SessionId;
use crate::session::{CloseReason, Message};
use crate::telemetry::request::RequestId;

/// The pause before a session with too many pending commands gets a command again, and the number of attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
const RETRIES: usize = 100;
/// The maximum number of pending commands of one worker.
const COMMANDS_MAX: usize = 64;

/// The command channels of all workers.
#[derive(Debug)]
pub struct Workers {
    commands: Vec<mpsc::Sender<WorkerCommand>>,
    replaced: Vec<Arc<ReplacedSessions>>,
    /// The number of rounds in which sessions were asked to freeze.
    rounds: AtomicU32,
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
    /// Checks its sessions against the rules of a snapshot.
    Recheck(Arc<Policy>, RecheckMode, oneshot::Sender<RecheckReport>),
    /// Ends its session with this id if the condition holds, and replies whether it does.
    EndIf(RequestId, EndCondition, oneshot::Sender<bool>),
    /// Ends its sessions that these revocations concern, and replies with their number.
    Revoke(Sweep, oneshot::Sender<usize>),
    /// Asks up to this number of its sessions to freeze that were not asked in this round. They answer to the channel.
    Freeze(u32, usize, mpsc::Sender<Freezing>),
    /// Starts sessions of another process.
    Adopt(Vec<AdoptedSession>),
    /// Renews its sessions of a client with a fresh token.
    Renew(Arc<Renewal>, RenewalCount),
}

/// A command that many sessions receive.
#[derive(Debug, Clone)]
pub enum BulkCommand {
    /// Describes each session. The channel has a capacity for every session that is asked.
    Describe(mpsc::Sender<SessionInfo>),
    /// Sends a message to each client.
    Send(Message),
    /// Ends each session for this reason, even if it has too many pending commands.
    End(CloseReason),
}

impl Workers {
    /// Creates the channels of `workers` workers. Each worker executes the commands of its receiver.
    pub fn new(workers: usize) -> (Self, Vec<mpsc::Receiver<WorkerCommand>>) {
        let (commands, receivers) = (0..workers).map(|_| mpsc::channel(COMMANDS_MAX)).unzip();
        let replaced = (0..workers).map(|_| Arc::default()).collect();
        (Self { commands, replaced, rounds: AtomicU32::new(0) }, receivers)
    }

    /// Returns the list of replaced sessions that the worker with this number serves.
    pub fn replaced(&self, number: usize) -> Arc<ReplacedSessions> {
        self.replaced.get(number).cloned().unwrap_or_default()
    }

    /// Ends sessions whose slot another session has taken over. A session that is not registered yet is ended when it
    /// registers.
    pub fn replace(&self, ids: &[SessionId]) {
        for worker in self.replaced.iter().filter(|_| !ids.is_empty()) {
            worker.add(ids.iter().copied().map(RequestId));
        }
    }

    /// Sends a command to the session with this id, on any worker.
    ///
    /// # Errors
    /// If no worker has the session, or the session has too many pending commands. The error contains the command.
    pub async fn command(&self, id: RequestId, command: Command) -> Result<(), NotDelivered> {
        let mut command = command;
        for worker in &self.commands {
            let (reply, replied) = oneshot::channel();
            let Err(mpsc::error::SendError(unsent)) = worker.send(WorkerCommand::Session { id, command, reply }).await
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

    /// Sends a command to the session with this id, again after a pause while it has too many pending commands. A
    /// session that ended meanwhile needs no command.
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
        for worker in &self.commands {
            // A worker that has ended has no sessions.
            let _ = worker.send(WorkerCommand::Each(Arc::clone(&ids), command.clone())).await;
        }
    }

    /// Checks all sessions against the rules of a snapshot.
    pub async fn recheck(&self, policy: &Arc<Policy>, mode: RecheckMode) -> RecheckReport {
        let reports = self.ask_all(|reply| WorkerCommand::Recheck(Arc::clone(policy), mode, reply)).await;
        let mut all = RecheckReport::default();
        for report in reports {
            all.merge(report);
        }
        all
    }

    /// Ends the session with this id, on any worker, if the condition holds. Returns whether it ends.
    pub async fn end_if(&self, id: RequestId, condition: &EndCondition) -> bool {
        self.ask_all(|reply| WorkerCommand::EndIf(id, condition.clone(), reply)).await.contains(&true)
    }

    /// Ends all sessions that these revocations concern. Returns their number.
    pub async fn revoke(&self, sweep: &Sweep) -> usize {
        let ended = self.ask_all(|reply| WorkerCommand::Revoke(sweep.clone(), reply)).await;
        ended.into_iter().fold(0, usize::saturating_add)
    }

    /// Renews the sessions of a client with its fresh token. Returns their number when each has taken its new expiry.
    pub async fn renew(&self, renewal: &Arc<Renewal>) -> usize {
        let (count, renewed) = RenewalCount::new();
        for worker in &self.commands {
            // A worker that has ended has no sessions.
            let _ = worker.send(WorkerCommand::Renew(Arc::clone(renewal), count.clone())).await;
        }
        drop(count);
        renewed.total().await
    }

    /// Begins a round of [`Workers::freeze`], and returns its number.
    pub fn begin_round(&self) -> u32 {
        // 0 is the round of sessions that were not asked.
        self.rounds.fetch_add(1, Ordering::Relaxed).wrapping_add(1).max(1)
    }

    /// Returns the number of workers.
    pub fn count(&self) -> usize {
        self.commands.len()
    }

    /// Freezes up to `max` sessions of a worker that were not asked to in this round, which is not 0. The answers are
    /// complete; there are none once all sessions were asked.
    pub async fn freeze(&self, worker: usize, round: u32, max: usize) -> Vec<Freezing> {
        let (reply, mut answered) = mpsc::channel(max.max(1));
        let mut answers = Vec::with_capacity(max);
        if let Some(worker) = self.commands.get(worker) {
            // A worker that has ended has no sessions.
            let _ = worker.send(WorkerCommand::Freeze(round, max, reply)).await;
        }
        // The channel ends when each session has answered or ended.
        while let Some(answer) = answered.recv().await {
            answers.push(answer);
        }
        answers
    }

    /// Starts sessions of another process on the worker with this number, modulo the number of workers.
    pub async fn adopt(&self, number: usize, sessions: Vec<AdoptedSession>) {
        let worker = number.checked_rem(self.commands.len()).and_then(|number| self.commands.get(number));
        if let Some(worker) = worker {
            // No worker ends before the drain.
            let _ = worker.send(WorkerCommand::Adopt(sessions)).await;
        }
    }

    /// Sends a command to every worker, and returns the replies. The workers execute it at the same time. A worker that
    /// has ended does not reply.
    async fn ask_all<T>(&self, command: impl Fn(oneshot::Sender<T>) -> WorkerCommand) -> Vec<T> {
        let mut pending = Vec::with_capacity(self.commands.len());
        for worker in &self.commands {
            let (reply, replied) = oneshot::channel();
            if worker.send(command(reply)).await.is_ok() {
                pending.push(replied);
            }
        }
        let mut replies = Vec::with_capacity(pending.len());
        for replied in pending {
            replies.extend(replied.await.ok());
        }
        replies
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a runtime on this thread until the future ends.
    fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
    }

    fn message() -> Command {
        Command::Send(Message::from(String::new()))
    }

    #[test]
    fn a_command_is_delivered_by_the_worker_that_has_the_session() {
        let (workers, receivers) = Workers::new(3);
        let ids = [1, 2, 3].map(RequestId);
        let tasks = receivers.into_iter().zip(ids).map(|(mut receiver, own)| async move {
            let (mut delivered, mut sent) = (0, 0);
            while let Some(command) = receiver.recv().await {
                match command {
                    WorkerCommand::List(reply) => reply.send(Vec::new()).unwrap(),
                    WorkerCommand::Each(..) => sent += 1,
                    WorkerCommand::Recheck(..)
                    | WorkerCommand::EndIf(..)
                    | WorkerCommand::Revoke(..)
                    | WorkerCommand::Freeze(..)
                    | WorkerCommand::Adopt(..)
                    | WorkerCommand::Renew(..) => {
                        panic!("none was sent")
                    }
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
        let [first, second, third] = <[_; 3]>::try_from(tasks.collect::<Vec<_>>()).ok().unwrap();
        let (delivered, ()) = block_on(async {
            tokio::join!(async { tokio::join!(first, second, third) }, async {
                assert!(workers.command(RequestId(2), message()).await.is_ok());
                let unknown = workers.command(RequestId(4), message()).await;
                assert!(matches!(unknown, Err(NotDelivered::NoSession(Command::Send(_)))));
                workers.each(Arc::default(), BulkCommand::Send(Message::from(String::new()))).await;
                drop(workers);
            })
        });
        assert_eq!(delivered, [(0, 1), (1, 1), (0, 1)].into());
    }

    #[test]
    fn a_worker_that_ended_has_no_sessions() {
        let (workers, receivers) = Workers::new(2);
        drop(receivers);
        block_on(async {
            assert!(workers.list().await.is_empty());
            let back = workers.command(RequestId(1), message()).await;
            assert!(matches!(back, Err(NotDelivered::NoSession(Command::Send(_)))));
        });
    }
}
