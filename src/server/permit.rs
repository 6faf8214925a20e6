//! The permit to replace the process: while it is held, the configuration and the revocations do not change.

use std::fmt;

use tokio::sync::{mpsc, oneshot};

use super::passed::OutgoingDescriptors;
use super::unix_socket::FileOwner;

/// The permit to replace the process. There is one at a time.
///
/// While it is held, reloads, changes of files and changes by the API are rejected or wait. If it is dropped without
/// [`UpgradePermit::leave`], the process accepts connections and changes again.
#[derive(Debug)]
pub struct UpgradePermit {
    commands: mpsc::Sender<PermitCommand>,
    /// The owners of the socket files.
    files: Vec<FileOwner>,
}

/// A step of an upgrade, which the control loop executes.
#[derive(Debug)]
pub(super) enum PermitCommand {
    /// Clones the descriptors.
    Sockets(oneshot::Sender<Result<OutgoingDescriptors, PermitError>>),
    /// Stops accepting.
    Pause(oneshot::Sender<Result<(), PermitError>>),
    /// Accepts again.
    Resume(oneshot::Sender<Result<(), PermitError>>),
    /// Leaves the sockets to the new process, and starts the drain.
    Leave(oneshot::Sender<Result<(), PermitError>>),
}

/// Why there is no permit, or a step was not executed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PermitError {
    /// Another upgrade is in progress.
    InProgress,
    /// The process is stopping.
    Stopping,
    /// Changes that began before do not end in time.
    Busy,
    /// The system did not provide a descriptor.
    System(String),
}

impl fmt::Display for PermitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InProgress => f.write_str("another upgrade is in progress"),
            Self::Stopping => f.write_str("the process is stopping"),
            Self::Busy => f.write_str("revocations or refreshes in progress do not end in time"),
            Self::System(error) => write!(f, "no descriptor: {error}"),
        }
    }
}

impl std::error::Error for PermitError {}

impl UpgradePermit {
    /// Creates the permit, and the receiver of its commands.
    pub(super) fn new(files: Vec<FileOwner>) -> (Self, mpsc::Receiver<PermitCommand>) {
        let (commands, received) = mpsc::channel(1);
        (Self { commands, files }, received)
    }

    /// Returns clones of all listening sockets, and of the lock in `state_dir`.
    ///
    /// # Errors
    /// If the process is stopping, or the system does not provide a descriptor.
    pub async fn sockets(&self) -> Result<OutgoingDescriptors, PermitError> {
        self.command(PermitCommand::Sockets).await
    }

    /// Stops accepting connections, of clients and of the admin API. New ones wait in the queues of the kernel, from
    /// which a process with clones of the sockets accepts them. Connections that were accepted go on.
    ///
    /// # Errors
    /// If the process is stopping.
    pub async fn pause_accepting(&self) -> Result<(), PermitError> {
        self.command(PermitCommand::Pause).await
    }

    /// Accepts connections again, after the new process has ended.
    ///
    /// # Errors
    /// If the process is stopping, or the system does not provide a descriptor. Then the drop of the permit tries it
    /// again.
    pub async fn resume_accepting(&self) -> Result<(), PermitError> {
        self.command(PermitCommand::Resume).await
    }

    /// Leaves the sockets and their files to the new process, and starts the drain without `shutdown_delay`.
    ///
    /// # Errors
    /// If the process is stopping: then it drains already. It does not remove the files in this case either.
    pub async fn leave(self) -> Result<(), PermitError> {
        self.files.iter().for_each(FileOwner::leave);
        self.command(PermitCommand::Leave).await
    }

    /// Waits until the process starts to drain, because it was stopped.
    pub async fn stopped(&self) {
        self.commands.closed().await;
    }

    async fn command<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, PermitError>>) -> PermitCommand,
    ) -> Result<T, PermitError> {
        let (reply, replied) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| PermitError::Stopping)?;
        replied.await.unwrap_or(Err(PermitError::Stopping))
    }
}
