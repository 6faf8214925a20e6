//! The listening sockets and the lock that a new process takes over from the running one.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::moved::MovedState;
use super::socket::ListenSocket;
use super::unix_socket::{FileIdentity, SocketFile};
use crate::config::ListenAddress;

/// The purpose of a listening socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SocketKind {
    /// Of a listener that the process bound itself.
    Listener,
    /// A socket of systemd, whether a listener uses it or not.
    Systemd,
    /// Of the admin API.
    Admin,
    /// Of the metrics listener.
    Metrics,
}

/// A listening socket, as the process that passes it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketDescription {
    /// Its purpose.
    pub kind: SocketKind,
    /// Its address in the configuration: the port may be 0, and that of a socket of systemd is its name.
    pub configured: ListenAddress,
    /// The address that it is bound to.
    pub bound: ListenAddress,
    /// The device and the inode of its file, if the process that passes it created one.
    pub file: Option<FileIdentity>,
}

/// The descriptors that the running process passes to a new one. They are clones: this process keeps its own.
#[derive(Debug)]
pub struct OutgoingDescriptors {
    /// The listening sockets.
    pub sockets: Vec<(SocketDescription, OwnedFd)>,
    /// The locked file in `state_dir`, if there is one. Its lock belongs to both processes.
    pub journal_lock: Option<OwnedFd>,
    /// The level of the log in the configuration.
    pub log_level: Level,
    /// The time that a connection has for its handshake and its request.
    pub handshake_timeout: Duration,
}

/// The descriptors and the state that a new process takes over.
#[derive(Debug, Default)]
pub struct PassedState {
    /// The listening sockets.
    pub sockets: PassedSockets,
    /// The locked file in `state_dir`, if there is one.
    pub journal_lock: Option<OwnedFd>,
    /// The state of the process before.
    pub moved: MovedState,
    /// The id and the version of that process.
    pub origin: (u32, String),
}

/// A descriptor from the running process is not the socket that it is said to be.
#[derive(Debug)]
pub struct PassedError {
    description: SocketDescription,
    error: io::Error,
}

impl fmt::Display for PassedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { description: SocketDescription { kind, bound, .. }, error } = self;
        write!(f, "cannot take over the socket of {bound} ({kind}): {error}")
    }
}

impl std::error::Error for PassedError {}

impl fmt::Display for SocketKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listener => "listener",
            Self::Systemd => "systemd",
            Self::Admin => "admin",
            Self::Metrics => "metrics",
        })
    }
}

/// The listening sockets of the running process that are not in use yet.
#[derive(Debug, Default)]
pub struct PassedSockets(Vec<PassedSocket>);

/// A socket, and the address that it is bound to.
#[derive(Debug)]
pub struct PassedSocket {
    /// The socket.
    pub socket: ListenSocket,
    description: SocketDescription,
}

impl PassedSockets {
    /// Checks that each descriptor is a listening socket with the address of its description.
    ///
    /// # Errors
    /// If one is not.
    pub fn new(received: Vec<(SocketDescription, OwnedFd)>) -> Result<Self, PassedError> {
        let check = |(description, descriptor): (SocketDescription, OwnedFd)| {
            let checked = ListenSocket::try_from(descriptor).and_then(|socket| {
                let is_same = socket.address()? == description.bound;
                is_same.then_some(socket).ok_or_else(|| io::Error::other("it is bound to another address"))
            });
            match checked {
                Ok(socket) => Ok(PassedSocket { socket, description }),
                Err(error) => Err(PassedError { description, error }),
            }
        };
        received.into_iter().map(check).collect::<Result<_, _>>().map(Self)
    }

    /// Takes the sockets of these addresses of the configuration, in their order. A socket belongs to the address that
    /// it was configured with, or else to the one that it is bound to: its port was chosen by the kernel.
    pub fn take_all(&mut self, kind: SocketKind, wanted: &[ListenAddress]) -> Vec<Option<PassedSocket>> {
        let configured: Vec<_> =
            wanted.iter().map(|wanted| self.take_first(kind, |socket| socket.configured == *wanted)).collect();
        let bound = |(found, wanted): (Option<PassedSocket>, &ListenAddress)| {
            found.or_else(|| self.take_first(kind, |socket| socket.bound == *wanted))
        };
        configured.into_iter().zip(wanted).map(bound).collect()
    }

    /// Takes the socket of an address of the configuration.
    pub fn take(&mut self, kind: SocketKind, wanted: &ListenAddress) -> Option<PassedSocket> {
        self.take_all(kind, std::slice::from_ref(wanted)).into_iter().next().flatten()
    }

    /// Takes the sockets of systemd, with their names.
    pub fn take_systemd(&mut self) -> Vec<(Arc<str>, ListenSocket)> {
        let mut taken = Vec::new();
        while let Some(passed) = self.take_first(SocketKind::Systemd, |_| true) {
            if let ListenAddress::Inherited(name) = passed.description.configured {
                taken.push((name, passed.socket));
            }
        }
        taken
    }

    /// Closes the sockets that the configuration lacks, and removes their files. The process that passed them must
    /// serve them no more.
    pub fn close(self) {
        for passed in self.0 {
            let SocketDescription { kind, bound, .. } = &passed.description;
            tracing::info!(address = %bound, %kind, "the socket of the process before is closed");
            if let Some(file) = passed.file() {
                file.owner().take();
            }
        }
    }

    fn take_first(&mut self, kind: SocketKind, is: impl Fn(&SocketDescription) -> bool) -> Option<PassedSocket> {
        let found = self.0.iter().position(|passed| passed.description.kind == kind && is(&passed.description))?;
        Some(self.0.remove(found))
    }
}

impl PassedSocket {
    /// Returns the file of the Unix socket, if the process that passed it created one. It belongs to that process
    /// until its owner is changed.
    pub fn file(&self) -> Option<SocketFile> {
        match (&self.description.bound, self.description.file) {
            (ListenAddress::Unix(path), Some(identity)) => Some(SocketFile::of_other_process(path.clone(), identity)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
