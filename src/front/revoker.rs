//! Makes revocations: stores them, and ends the open sessions that they concern.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::{Notify, OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, mpsc, oneshot};
use tokio::time::timeout;

use crate::cluster::handle::Cluster;
use crate::policy::counters::Counters;
use crate::policy::revocation::entry::{Revocation, RevocationId};
use crate::policy::revocation::journal::Change;
use crate::policy::revocation::state::RevocationsState;
use crate::policy::revocation::{Added, Applied};
use crate::relay::revoke::Sweep;
use crate::relay::workers::Workers;
use crate::runtime::clock;

/// The maximum number of changes that wait for the journal.
pub const COMMITS_MAX: usize = 1024;
/// The longest wait for the journal: a disk that takes longer does not work.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A change that is to be made and stored, and whose sessions are to end. Once it is queued, this happens even if the
/// client that asked for it disconnects.
#[derive(Debug)]
pub struct Commit {
    /// The change.
    pub change: Change,
    /// Receives the result once the change is stored, and each session that it concerns has the command to end.
    pub reply: oneshot::Sender<Result<Committed, RevokeError>>,
    /// Held until then, so that an upgrade of the process waits for the change.
    pub admitted: OwnedRwLockReadGuard<()>,
}

/// A change that was made.
#[derive(Debug)]
pub struct Committed {
    /// The change.
    pub applied: Applied,
    /// The number of open sessions that it ends.
    pub ended: usize,
}

/// The queue of changes, and whether they are stored on disk.
#[derive(Debug)]
struct Queue {
    commits: mpsc::Sender<Commit>,
    is_durable: bool,
}

/// Makes revocations.
#[derive(Debug)]
pub struct Revoker {
    counters: Arc<Counters>,
    workers: Arc<Workers>,
    queue: OnceLock<Queue>,
    /// Read by changes in progress, and written while the process is replaced.
    pause: Arc<RwLock<()>>,
    changed: Notify,
    /// The other nodes that get changes, too.
    cluster: OnceLock<Arc<Cluster>>,
}

/// A revocation that was made.
#[derive(Debug)]
pub struct Revoked {
    /// The revocation, merged with an earlier one of the same target.
    pub revocation: Arc<Revocation>,
    /// Whether there was none of this target.
    pub is_new: bool,
    /// The number of open sessions that it ends.
    pub ended: usize,
    /// Whether it is on disk, and so outlives the process.
    pub is_durable: bool,
    /// Whether the cluster has it. If not, it gets it later. `None`: revocations are not shared.
    pub is_shared: Option<bool>,
}

/// Why a revocation was not made, or is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevokeError {
    /// The store is full. Nothing has changed.
    Full,
    /// Too many changes wait for the disk. Nothing has changed.
    Busy,
    /// The process is being replaced. Nothing has changed.
    Upgrading,
    /// The change is in effect, but could not be written to disk.
    NotStored,
    /// The disk did not store the change in time. It may be in effect.
    Late,
}

impl fmt::Display for RevokeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the store of revocations is full: nothing has changed",
            Self::Busy => "too many revocations wait for the disk: nothing has changed",
            Self::Upgrading => "an upgrade is in progress: nothing has changed",
            Self::NotStored => {
                "the change is in effect until the process ends, but it could not be written to state_dir"
            }
            Self::Late => "the disk of state_dir did not store the change in time; it may be in effect",
        })
    }
}

impl std::error::Error for RevokeError {}

impl Revoker {
    /// Creates a revoker that makes changes itself, and keeps revocations in memory.
    pub fn new(counters: Arc<Counters>, workers: Arc<Workers>) -> Self {
        Self {
            counters,
            workers,
            queue: OnceLock::new(),
            pause: Arc::default(),
            changed: Notify::new(),
            cluster: OnceLock::new(),
        }
    }

    /// Makes it queue all further changes here, for a thread that makes them and, if `is_durable` is set, stores them.
    pub fn set_queue(&self, commits: mpsc::Sender<Commit>, is_durable: bool) {
        // There is one thread.
        let _ = self.queue.set(Queue { commits, is_durable });
    }

    /// Makes it tell the other nodes of all further changes.
    pub fn set_cluster(&self, cluster: Arc<Cluster>) {
        // A process is in one cluster.
        let _ = self.cluster.set(cluster);
    }

    /// Rejects changes from now on, and waits until those in progress are made and stored. Changes are made again when
    /// the guard is dropped.
    pub async fn pause(&self) -> OwnedRwLockWriteGuard<()> {
        Arc::clone(&self.pause).write_owned().await
    }

    /// Whether revocations outlive the process.
    pub fn is_durable(&self) -> bool {
        self.queue.get().is_some_and(|queue| queue.is_durable)
    }

    /// Adds a revocation, and ends the open sessions that it concerns. Returns when it is stored, and each such session
    /// has the command to end.
    ///
    /// # Errors
    /// If it was not made, or is not stored.
    pub async fn revoke(&self, revocation: Revocation) -> Result<Revoked, RevokeError> {
        let copy = self.cluster.get().map(|_| revocation.clone());
        let committed = match self.commit(Change::Add(revocation)).await {
            Ok(committed) => committed,
            Err(error) => {
                tracing::error!(%error, "a revocation failed");
                // It may be in effect here, and so it has to be in effect everywhere.
                if let (RevokeError::NotStored | RevokeError::Late, Some(copy)) = (error, copy) {
                    self.share(copy).await;
                }
                return Err(error);
            }
        };
        let Applied::Added(Added { revocation, is_new }) = committed.applied else {
            return Err(RevokeError::NotStored);
        };
        let is_shared = if copy.is_some() { self.share(Revocation::clone(&revocation)).await } else { None };
        Ok(Revoked { revocation, is_new, ended: committed.ended, is_durable: self.is_durable(), is_shared })
    }

    /// Removes a revocation. Returns whether there was one.
    ///
    /// # Errors
    /// If the removal is not stored.
    pub async fn remove(&self, id: RevocationId) -> Result<bool, RevokeError> {
        let committed = self.commit(Change::Remove(id)).await?;
        let Applied::Removed(Some(removed)) = committed.applied else { return Ok(false) };
        if let Some(cluster) = self.cluster.get() {
            cluster.share_revocation(Change::Remove(id), clock::both().unix, removed.expires).await;
        }
        Ok(true)
    }

    /// Makes a change that another node has made. Nobody else is told. While changes are rejected it waits.
    ///
    /// # Errors
    /// If it was not made, or is not stored.
    pub async fn follow(&self, change: Change) -> Result<Committed, RevokeError> {
        let admitted = timeout(TIMEOUT, Arc::clone(&self.pause).read_owned()).await;
        self.make(change, admitted.map_err(|_| RevokeError::Upgrading)?).await
    }

    /// Tells the other nodes of a revocation.
    async fn share(&self, revocation: Revocation) -> Option<bool> {
        let (made, end) = (revocation.created, revocation.expires);
        self.cluster.get()?.share_revocation(Change::Add(revocation), made, end).await
    }

    /// Replaces the revocations of `revocations_file`, and ends the open sessions that new ones concern. Returns their
    /// number.
    ///
    /// # Errors
    /// If they exceed the limits of the store. Nothing changes then.
    pub async fn replace_listed(&self, listed: &[Revocation]) -> Result<usize, RevokeError> {
        let added = self.counters.revocations().replace_listed(listed, clock::both().unix);
        let added = added.map_err(|_| RevokeError::Full)?;
        self.changed.notify_one();
        if added.is_empty() { Ok(0) } else { Ok(self.workers.revoke(&Sweep::new(added, &self.counters)).await) }
    }

    async fn commit(&self, change: Change) -> Result<Committed, RevokeError> {
        // This fails also while the upgrade waits for changes in progress.
        let admitted = Arc::clone(&self.pause).try_read_owned().map_err(|_| RevokeError::Upgrading)?;
        self.make(change, admitted).await
    }

    async fn make(&self, change: Change, admitted: OwnedRwLockReadGuard<()>) -> Result<Committed, RevokeError> {
        let Some(Queue { commits, .. }) = self.queue.get() else {
            let applied = self.counters.revocations().apply(change, clock::both().unix);
            let applied = applied.map_err(|_| RevokeError::Full)?;
            let ended = self.end_sessions(&applied).await;
            return Ok(Committed { applied, ended });
        };
        let (reply, replied) = oneshot::channel();
        commits.try_send(Commit { change, reply, admitted }).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => RevokeError::Busy,
            mpsc::error::TrySendError::Closed(_) => RevokeError::NotStored,
        })?;
        match timeout(TIMEOUT, replied).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(RevokeError::NotStored),
            Err(_) => Err(RevokeError::Late),
        }
    }

    /// Ends the open sessions that an added revocation concerns. Returns their number.
    pub async fn end_sessions(&self, applied: &Applied) -> usize {
        let Applied::Added(added) = applied else { return 0 };
        self.changed.notify_one();
        self.workers.revoke(&Sweep::new(vec![Arc::clone(&added.revocation)], &self.counters)).await
    }

    /// Adds revocations of the process that follows this one, and ends the open sessions that they concern, also while
    /// changes are rejected. They are not stored here. Returns the number of sessions.
    pub async fn take(&self, state: RevocationsState) -> usize {
        let left_out = self.counters.revocations().import(state, clock::both().unix);
        if left_out > 0 {
            tracing::error!(left_out, "revocations of the next process are not in effect for sessions that drain here");
        }
        self.changed.notify_one();
        self.workers.revoke(&Sweep::All(Arc::clone(&self.counters))).await
    }

    /// Waits until revocations were added since the last call. There is one caller.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
