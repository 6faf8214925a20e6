//! The sockets of the admin API and of the metrics listener, as an upgrade of the process needs them.

use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::passed::{PassedSocket, PassedSockets, SocketDescription, SocketKind};
use super::socket::ListenSocket;
use super::unix_socket::FileOwner;
use crate::config::ListenAddress;

/// Whether connections are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acceptance {
    /// They are.
    Open,
    /// They wait in the queue of the kernel.
    Paused,
    /// Another process accepts them: the socket is to be closed.
    Closed,
}

/// The sockets of the admin API and of the metrics listener, which are above this module.
#[derive(Debug)]
pub struct ApiSockets {
    sockets: Mutex<Vec<ApiSocket>>,
    /// The sockets that the process before passed and nothing uses yet.
    passed: Mutex<PassedSockets>,
    accepting: watch::Sender<Acceptance>,
}

#[derive(Debug)]
struct ApiSocket {
    description: SocketDescription,
    socket: ListenSocket,
    file: Option<FileOwner>,
}

impl Default for ApiSockets {
    fn default() -> Self {
        Self { sockets: Mutex::default(), passed: Mutex::default(), accepting: watch::Sender::new(Acceptance::Open) }
    }
}

impl ApiSockets {
    /// Creates the state of a process that takes these sockets over. They are not accepted from before
    /// [`ApiSockets::take_over`].
    pub(super) fn of_successor(passed: PassedSockets) -> Self {
        let accepting = watch::Sender::new(Acceptance::Paused);
        Self { passed: Mutex::new(passed), accepting, ..Self::default() }
    }

    /// Returns the socket that the process before passed for this address of the configuration.
    pub fn passed(&self, kind: SocketKind, configured: &ListenAddress) -> Option<PassedSocket> {
        lock(&self.passed).take(kind, configured)
    }

    /// Adds a clone of a socket that is served from now on. `file` is the owner of its file.
    ///
    /// # Errors
    /// If the system does not know the address of the socket.
    pub fn add(
        &self,
        kind: SocketKind,
        configured: ListenAddress,
        socket: ListenSocket,
        file: Option<&FileOwner>,
    ) -> io::Result<()> {
        let identity = file.map(FileOwner::identity);
        let description = SocketDescription { kind, configured, bound: socket.address()?, file: identity };
        lock(&self.sockets).push(ApiSocket { description, socket, file: file.cloned() });
        Ok(())
    }

    /// Returns whether connections are accepted, and the changes of that.
    pub fn accepting(&self) -> watch::Receiver<Acceptance> {
        self.accepting.subscribe()
    }

    /// Accepts from the sockets that the process before passed, and closes those that nothing uses.
    pub(super) fn take_over(&self) {
        std::mem::take(&mut *lock(&self.passed)).close();
        self.accepting.send_replace(Acceptance::Open);
    }

    /// Stops accepting. Connections in progress go on.
    pub(super) fn pause(&self) {
        self.accepting.send_replace(Acceptance::Paused);
    }

    /// Accepts again.
    pub(super) fn resume(&self) {
        self.accepting.send_replace(Acceptance::Open);
    }

    /// Closes the sockets, which another process has taken over.
    pub(super) fn close(&self) {
        self.accepting.send_replace(Acceptance::Closed);
        lock(&self.sockets).clear();
    }

    /// Returns the owners of the socket files.
    pub(super) fn files(&self) -> Vec<FileOwner> {
        lock(&self.sockets).iter().filter_map(|socket| socket.file.clone()).collect()
    }

    /// Returns clones of the sockets.
    ///
    /// # Errors
    /// If the system does not provide a descriptor.
    pub(super) fn clones(&self) -> io::Result<Vec<(SocketDescription, ListenSocket)>> {
        let clone = |api: &ApiSocket| Ok((api.description.clone(), api.socket.try_clone()?));
        lock(&self.sockets).iter().map(clone).collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
