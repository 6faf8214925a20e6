//! Does here what other nodes of the cluster did: makes their revocations, and ends sessions that theirs have replaced.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::cluster::events::Notice;
use crate::front::gateway::Gateway;
use crate::front::revoker::RevokeError;
use crate::policy::revocation::entry::RevocationId;
use crate::policy::revocation::journal::Change;

/// The number of changes that share one write to disk.
const BATCH_MAX: usize = 256;
/// The number of revocations that a log line names.
const IDS_LOGGED: usize = 10;
/// The pause before a change is tried again that could not be queued, and the number of attempts.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
const RETRIES: usize = 50;

/// Executes what other nodes say. Never returns.
pub(super) async fn follow(gateway: &Gateway, mut notices: mpsc::Receiver<Notice>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while notices.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let (mut changes, mut replaced, mut is_loaded) = (Vec::new(), Vec::new(), false);
        for notice in batch.drain(..) {
            match notice {
                Notice::Revocation(change) => changes.push(change),
                Notice::Replaced(ids) => replaced.extend(ids.into_iter().map(|id| id.0)),
                Notice::Loaded => is_loaded = true,
            }
        }
        if let Some(cluster) = &gateway.cluster {
            // A session that is not registered yet sees there that it was replaced.
            cluster.slots.registry().lose_all(&replaced);
        }
        gateway.workers.replace(&replaced);
        make(gateway, changes).await;
        if let Some(cluster) = gateway.cluster.as_ref().filter(|_| is_loaded) {
            cluster.events.note_loaded();
        }
    }
    std::future::pending::<()>().await;
}

/// Makes changes of the revocations in their order.
async fn make(gateway: &Gateway, changes: Vec<Change>) {
    let (mut made, mut ended, mut failed) = (0_usize, 0_usize, None);
    let ids: Vec<String> = changes.iter().take(IDS_LOGGED).map(|change| id_of(change).to_string()).collect();
    for result in join_all(changes.into_iter().map(|change| make_one(gateway, change))).await {
        match result {
            Ok(sessions) => (made, ended) = (made.saturating_add(1), ended.saturating_add(sessions)),
            Err(error) => failed = Some(error),
        }
    }
    if let Some(error) = failed {
        tracing::error!(%error, "a revocation of another node failed");
    }
    if made > 0 {
        tracing::info!(made, ended, ids = ids.join(" "), "revocations of other nodes");
    }
}

/// Returns the id of the revocation, which the answer of the API that made it has, too.
fn id_of(change: &Change) -> RevocationId {
    match change {
        Change::Add(revocation) => revocation.target.id(),
        Change::Remove(id) => *id,
    }
}

/// Makes a change, again after a pause while too many others wait for the disk. Returns the number of sessions that it
/// ends.
async fn make_one(gateway: &Gateway, change: Change) -> Result<usize, RevokeError> {
    for _ in 0..RETRIES {
        match gateway.revoker.follow(change.clone()).await {
            Err(RevokeError::Busy) => sleep(RETRY_PAUSE).await,
            result => return result.map(|committed| committed.ended),
        }
    }
    Err(RevokeError::Busy)
}
