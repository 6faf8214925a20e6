//! Holds the process still while it is replaced: the part of the control loop that serves an upgrade.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedRwLockWriteGuard, mpsc, oneshot};
use tokio::time::timeout;

use super::control::ControlRequest;
use super::passed::OutgoingDescriptors;
use super::permit::{PermitCommand, PermitError, UpgradePermit};
use super::reload::{ReloadError, Reloader};
use super::revocations;
use crate::front::gateway::{Gateway, REFRESHES_MAX};

/// The longest wait for changes that began before the upgrade: a disk that stores revocations, and sessions that take a
/// new expiry.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(10);

/// Receives the permit, or the reason for which there is none.
pub(super) type PermitReply = oneshot::Sender<Result<UpgradePermit, PermitError>>;

/// The process is replaced, and drains. No revocation is made or stored while this exists.
#[derive(Debug)]
pub(super) struct Replaced {
    _upgrading: Upgrading,
    _held: Held,
}

/// Rejects revocations while it exists. If it ends while another process may store revocations, because this process is
/// stopped meanwhile, they are rejected until the end.
#[derive(Debug)]
struct Held {
    revocations: Option<OwnedRwLockWriteGuard<()>>,
    /// Whether another process may store revocations.
    is_elsewhere: bool,
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_elsewhere {
            std::mem::forget(self.revocations.take());
        }
    }
}

/// Rejects changes by the API while it exists.
#[derive(Debug)]
struct Upgrading(Arc<Gateway>);

impl Upgrading {
    fn begin(gateway: &Arc<Gateway>) -> Self {
        gateway.process.lifecycle.set_upgrading(true);
        Self(Arc::clone(gateway))
    }
}

impl Drop for Upgrading {
    fn drop(&mut self) {
        self.0.process.lifecycle.set_upgrading(false);
    }
}

/// Gives the permit, and executes its commands until it is dropped. Returns the state of the replaced process if the new
/// one has taken over. Otherwise the process accepts connections and changes again.
pub(super) async fn serve(
    reply: PermitReply,
    requests: &mut mpsc::Receiver<ControlRequest>,
    reloader: &mut Reloader,
) -> Option<Replaced> {
    let gateway = Arc::clone(&reloader.gateway);
    if !gateway.process.lifecycle.is_ready() {
        drop(reply.send(Err(PermitError::Stopping)));
        return None;
    }
    let upgrading = Upgrading::begin(&gateway);
    let all_refreshes = u32::try_from(REFRESHES_MAX).unwrap_or(u32::MAX);
    let changes = async { (gateway.revoker.pause().await, gateway.refreshes.acquire_many(all_refreshes).await) };
    let Ok((revocations, refreshes)) = timeout(CHANGES_TIMEOUT, changes).await else {
        drop(reply.send(Err(PermitError::Busy)));
        return None;
    };
    let mut held = Held { revocations: Some(revocations), is_elsewhere: false };
    let files = reloader.files().collect();
    let (permit, mut commands) = UpgradePermit::new(files);
    // A caller that does not wait drops the permit.
    drop(reply.send(Ok(permit)));
    loop {
        let command = tokio::select! {
            biased;
            command = commands.recv() => command,
            Some(request) = requests.recv() => {
                refuse(request, reloader);
                continue;
            }
        };
        match command {
            Some(PermitCommand::Sockets(reply)) => drop(reply.send(clones(reloader))),
            Some(PermitCommand::Pause(reply)) => {
                held.is_elsewhere = true;
                reloader.api.pause();
                reloader.listeners.pause().await;
                drop(reply.send(Ok(())));
            }
            Some(PermitCommand::Resume(reply)) => drop(reply.send(resume(reloader))),
            Some(PermitCommand::Leave(reply)) => {
                reloader.api.close();
                reloader.listeners.leave();
                drop(reply.send(Ok(())));
                return Some(Replaced { _upgrading: upgrading, _held: held });
            }
            None => break,
        }
    }
    if held.is_elsewhere
        && let Err(error) = resume(reloader)
    {
        tracing::error!(%error, "cannot accept connections again");
    }
    held.is_elsewhere = false;
    drop((held, refreshes, upgrading));
    revocations::read_again(&gateway, &reloader.config, &reloader.tasks);
    None
}

/// Answers a request that would change the process.
fn refuse(request: ControlRequest, reloader: &Reloader) {
    match request {
        ControlRequest::Reload(_, reply) => drop(reply.send(Err(ReloadError::Upgrading))),
        ControlRequest::Upgrade(reply) => drop(reply.send(Err(PermitError::InProgress))),
        // The API admitted it before the upgrade.
        ControlRequest::Close(close) => close.start(&reloader.tasks, &reloader.gateway.workers),
        ControlRequest::TakeFiles => reloader.take_files(),
    }
}

fn clones(reloader: &Reloader) -> Result<OutgoingDescriptors, PermitError> {
    let clone = || {
        let mut sockets = reloader.listeners.clones()?;
        sockets.extend(reloader.api.clones()?);
        let journal_lock = reloader.journal_lock.as_ref().map(OwnedFd::try_clone).transpose()?;
        let sockets = sockets.into_iter().map(|(description, socket)| (description, socket.into())).collect();
        let timeouts = reloader.config.listeners.iter().map(|listener| listener.handshake_timeout);
        let handshake_timeout = timeouts.max().unwrap_or_default();
        Ok(OutgoingDescriptors { sockets, journal_lock, log_level: reloader.config.log.level, handshake_timeout })
    };
    clone().map_err(|error: std::io::Error| PermitError::System(error.to_string()))
}

fn resume(reloader: &mut Reloader) -> Result<(), PermitError> {
    reloader.api.resume();
    reloader.listeners.resume(&reloader.pool).map_err(|error| PermitError::System(error.to_string()))
}

#[cfg(test)]
mod tests;
