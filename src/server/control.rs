//! The handle by which the admin API and the signals operate the process.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::sleep;

use super::api_sockets::ApiSockets;
use super::permit::{PermitError, UpgradePermit};
use super::reload::{ReloadError, ReloadOptions, ReloadSummary};
use crate::front::gateway::Gateway;
use crate::relay::description::SessionInfo;
use crate::relay::registry::{Command, ListedSession};
use crate::relay::watcher::{self, Watch};
use crate::relay::workers::{BulkCommand, Workers};
use crate::runtime::tasks::Tasks;
use crate::session::Message;
use crate::telemetry::request::RequestId;
use crate::tls::TlsSummary;
use crate::ws::code::CloseCode;

/// The maximum number of requests that wait for the thread of the control loop.
const REQUESTS_MAX: usize = 16;

/// The handle by which the admin API and the signals operate the process.
#[derive(Debug, Clone)]
pub struct Control {
    gateway: Arc<Gateway>,
    requests: mpsc::Sender<ControlRequest>,
    facts: Arc<ProcessFacts>,
    api: Arc<ApiSockets>,
    closes: Arc<Semaphore>,
}

/// The maximum number of closes of many sessions that are in progress: each may take an hour.
pub const CLOSES_MAX: usize = 16;

/// [`CLOSES_MAX`] closes are in progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TooManyCloses;

/// The reason for which a session cannot be watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchError {
    /// There is no such session, or it is over.
    NoSession,
    /// The session is watched by as many operators as possible.
    TooMany,
}

/// The facts about the process that do not change.
#[derive(Debug)]
pub struct ProcessFacts {
    /// The file of the configuration, if there is one.
    pub file: Option<PathBuf>,
    /// The number of workers.
    pub workers: usize,
    /// The time at which the process bound its listeners.
    pub started: Instant,
    /// The same as time since the Unix epoch.
    pub started_unix: Duration,
    /// The handover by which it got its sessions; `None`: it was started on its own.
    pub handed_over: Option<Arc<HandedOver>>,
}

/// The handover by which this process got its sessions.
#[derive(Debug)]
pub struct HandedOver {
    /// The id of the process that had them before.
    pub pid: u32,
    /// The version of that process.
    pub version: String,
    /// The time at which this process took over the listeners, since the Unix epoch; `None`: the clock cannot be right.
    pub unix: Option<Duration>,
    sessions: AtomicUsize,
    is_complete: AtomicBool,
}

impl HandedOver {
    /// Creates the facts of a handover that begins.
    pub fn new(pid: u32, version: String, unix: Option<Duration>) -> Self {
        Self { pid, version, unix, sessions: AtomicUsize::new(0), is_complete: AtomicBool::new(false) }
    }

    /// Counts sessions that this process continues.
    pub fn add_sessions(&self, count: usize) {
        self.sessions.fetch_add(count, Ordering::Relaxed);
    }

    /// Returns the number of sessions that this process continues.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Notes that no further session follows.
    pub fn complete(&self) {
        self.is_complete.store(true, Ordering::Relaxed);
    }

    /// Whether no further session follows.
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Relaxed)
    }
}

/// A request that is executed by the control loop, one after another.
#[derive(Debug)]
pub enum ControlRequest {
    /// Reads the configuration again.
    Reload(ReloadOptions, oneshot::Sender<Result<ReloadSummary, ReloadError>>),
    /// Closes sessions over a time.
    Close(SpreadClose),
    /// Gives the permit to replace the process.
    Upgrade(oneshot::Sender<Result<UpgradePermit, PermitError>>),
    /// Makes this process remove the files of its Unix sockets at its end: the process before has left them.
    TakeFiles,
}

/// The closing of sessions over a time.
#[derive(Debug)]
pub struct SpreadClose {
    ids: Vec<RequestId>,
    code: CloseCode,
    reason: Arc<str>,
    spread: Duration,
    _permit: OwnedSemaphorePermit,
}

/// A session in a list: the facts that do not change while it is open.
#[derive(Debug, Clone)]
pub struct SessionEntry {
    /// The id of its request.
    pub id: RequestId,
    /// Its route.
    pub route: Arc<str>,
    /// The name of the `[auth]` section that admitted it.
    pub auth: Option<Arc<str>>,
    /// The subject of its token.
    pub subject: Option<Arc<str>>,
    /// The client's address.
    pub address: IpAddr,
    /// Its upstream.
    pub upstream: Arc<str>,
    /// The upstream's server.
    pub server: Arc<str>,
    /// The host of its request, truncated.
    pub host: Option<Box<str>>,
    /// The path of its request, truncated.
    pub path: Option<Box<str>>,
    /// The origin of its request, truncated.
    pub origin: Option<Box<str>>,
    /// The TLS version, as in `TLSv1_3`; `None` without TLS.
    pub tls_version: Option<&'static str>,
    /// The cipher suite; `None` without TLS.
    pub cipher: Option<&'static str>,
    /// The time of its 101.
    pub started: Instant,
}

impl From<ListedSession> for SessionEntry {
    fn from((_, facts): ListedSession) -> Self {
        let request = facts.summary.summary();
        Self {
            id: facts.request_id,
            route: Arc::clone(&facts.route),
            auth: facts.grant.auth.clone(),
            subject: facts.grant.subject.clone(),
            address: facts.grant.address,
            upstream: Arc::clone(&facts.upstream),
            server: Arc::clone(&facts.server),
            host: request.host().map(Box::from),
            path: request.path().map(Box::from),
            origin: request.origin().map(Box::from),
            tls_version: facts.tls.map(TlsSummary::version),
            cipher: facts.tls.map(TlsSummary::cipher_suite),
            started: facts.started,
        }
    }
}

impl Control {
    /// Creates the handle, and the receiver of its requests.
    pub(super) fn new(
        gateway: Arc<Gateway>,
        facts: ProcessFacts,
        api: Arc<ApiSockets>,
    ) -> (Self, mpsc::Receiver<ControlRequest>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_MAX);
        let closes = Arc::new(Semaphore::new(CLOSES_MAX));
        (Self { gateway, requests, facts: Arc::new(facts), api, closes }, receiver)
    }

    /// Returns the state of the process.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Returns the facts about the process.
    pub fn facts(&self) -> &ProcessFacts {
        &self.facts
    }

    /// Returns the sockets of the admin API and of the metrics listener.
    pub fn api_sockets(&self) -> &ApiSockets {
        &self.api
    }

    /// Whether the process is being replaced, so that changes have to wait.
    pub fn is_upgrading(&self) -> bool {
        self.gateway.process.lifecycle.is_upgrading()
    }

    /// Returns the permit to replace the process, after a reload and changes in progress.
    ///
    /// # Errors
    /// If another upgrade is in progress, the process is stopping, or changes in progress do not end in time.
    pub async fn upgrade(&self) -> Result<UpgradePermit, PermitError> {
        let (reply, replied) = oneshot::channel();
        let sent = self.requests.send(ControlRequest::Upgrade(reply)).await;
        sent.map_err(|_| PermitError::Stopping)?;
        replied.await.unwrap_or(Err(PermitError::Stopping))
    }

    /// Begins the handover by which this process gets its sessions: changes by the API wait for its end, since they would
    /// miss the sessions that are on their way.
    pub fn begin_handover(&self) {
        self.gateway.process.lifecycle.set_upgrading(true);
    }

    /// Ends the handover by which this process got its sessions: no further one follows, and the process before does not
    /// serve the sockets any more. It must not be called by a task.
    pub fn complete_handover(&self) {
        let Some(before) = &self.facts.handed_over else { return };
        // It precedes a request for the next upgrade. A control loop that has ended has no sockets.
        let _ = self.requests.blocking_send(ControlRequest::TakeFiles);
        self.gateway.process.lifecycle.set_upgrading(false);
        before.complete();
    }

    /// Lists all sessions. No session is woken.
    pub async fn sessions(&self) -> Vec<SessionEntry> {
        self.gateway.workers.list().await.into_iter().map(SessionEntry::from).collect()
    }

    /// Describes the sessions with these ids, in any order. A session that has ended is left out.
    pub async fn describe(&self, ids: &[RequestId]) -> Vec<SessionInfo> {
        let (reply, mut described) = mpsc::channel(ids.len().max(1));
        self.gateway.workers.each(Arc::new(ids.iter().copied().collect()), BulkCommand::Describe(reply)).await;
        let mut all = Vec::with_capacity(ids.len());
        // The channel ends when every session has replied or ended.
        while let Some(info) = described.recv().await {
            all.push(info);
        }
        all
    }

    /// Closes the sessions with these ids. The closings are spread evenly over a time and continue after the return.
    ///
    /// # Errors
    /// If [`CLOSES_MAX`] closes are in progress.
    pub async fn close(
        &self,
        ids: Vec<RequestId>,
        code: CloseCode,
        reason: &str,
        spread: Duration,
    ) -> Result<(), TooManyCloses> {
        let permit = Arc::clone(&self.closes).try_acquire_owned().map_err(|_| TooManyCloses)?;
        let close = SpreadClose { ids, code, reason: reason.into(), spread, _permit: permit };
        // A control loop that has ended has no sessions to close.
        let _ = self.requests.send(ControlRequest::Close(close)).await;
        Ok(())
    }

    /// Sends a message to the clients of the sessions with these ids. A session that cannot send it within five seconds
    /// counts and logs that.
    pub async fn send(&self, ids: Vec<RequestId>, message: Message) {
        let ids: HashSet<RequestId> = ids.into_iter().collect();
        self.gateway.workers.each(Arc::new(ids), BulkCommand::Send(message)).await;
    }

    /// Watches the frames of a session. `payload` is whether events contain payloads.
    ///
    /// # Errors
    /// If there is no such session, or too many operators watch it.
    pub async fn watch(&self, id: RequestId, payload: bool) -> Result<Watch, WatchError> {
        let (watcher, watch) = watcher::watch(payload);
        let (reply, accepted) = oneshot::channel();
        let sent = self.gateway.workers.command(id, Command::Watch(Box::new(watcher), reply)).await;
        sent.map_err(|_| WatchError::NoSession)?;
        match accepted.await {
            Ok(true) => Ok(watch),
            Ok(false) => Err(WatchError::TooMany),
            Err(_) => Err(WatchError::NoSession),
        }
    }

    /// Reads the configuration again. Reloads do not overlap.
    ///
    /// # Errors
    /// If the configuration cannot be used, or too many sessions would end. Then nothing changes.
    pub async fn reload(&self, options: ReloadOptions) -> Result<ReloadSummary, ReloadError> {
        let (reply, replied) = oneshot::channel();
        let sent = self.requests.send(ControlRequest::Reload(options, reply)).await;
        sent.map_err(|_| ReloadError::Stopping)?;
        replied.await.unwrap_or(Err(ReloadError::Stopping))
    }
}

impl SpreadClose {
    /// Starts to close the sessions.
    pub(super) fn start(self, tasks: &Tasks, workers: &Arc<Workers>) {
        let workers = Arc::clone(workers);
        tasks.start(async move { self.run(&workers).await });
    }

    async fn run(self, workers: &Workers) {
        let count = u32::try_from(self.ids.len()).unwrap_or(u32::MAX);
        let pause = self.spread.checked_div(count).unwrap_or_default();
        for id in self.ids {
            workers.command_soon(id, Command::Close { code: self.code, reason: Arc::clone(&self.reason) }).await;
            sleep(pause).await;
        }
    }
}
