//! Binds the socket of the API, and accepts its connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use crate::config::{AdminAddress, ListenAddress};
use crate::server::api_sockets::ApiSockets;
use crate::server::passed::SocketKind;
use crate::server::socket::ListenSocket;
use crate::server::unix_socket::{self, MODE_GROUP, MODE_OWNER, SocketFile, SocketOptions};

/// The number of connections that the kernel queues.
const BACKLOG: i32 = 64;

/// A bound socket, or one that the process before passed.
#[derive(Debug)]
pub(super) enum Bound {
    /// A Unix socket. Its file is removed when this is dropped.
    Unix(UnixListener, Option<SocketFile>),
    /// A TCP socket.
    Tcp(TcpListener),
}

impl Bound {
    /// Binds the address of the admin API.
    ///
    /// # Errors
    /// If the group does not exist, the address is in use, or the system does not permit it.
    pub(super) fn new(address: &AdminAddress, group: Option<&str>) -> io::Result<Self> {
        match address {
            AdminAddress::Unix(path) => {
                let mode = if group.is_some() { MODE_GROUP } else { MODE_OWNER };
                let (listener, file) = unix_socket::bind(path, SocketOptions { mode, group, backlog: BACKLOG })?;
                Ok(Self::Unix(listener, Some(file)))
            }
            AdminAddress::Tcp(address) => Self::tcp(*address),
        }
    }

    /// Binds a TCP address.
    ///
    /// # Errors
    /// If the address is in use, or the system does not permit it.
    pub(super) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Returns the socket of this kind that the process before passed, or binds one.
    ///
    /// # Errors
    /// As those of `bind`.
    pub(super) fn passed_or(
        sockets: &ApiSockets,
        kind: SocketKind,
        configured: &ListenAddress,
        bind: impl FnOnce() -> io::Result<Self>,
    ) -> io::Result<Self> {
        let bound = match sockets.passed(kind, configured) {
            None => bind()?,
            Some(passed) => match (passed.file(), passed.socket) {
                (file, ListenSocket::Unix(listener)) => Self::Unix(listener, file),
                (_, ListenSocket::Tcp(listener)) => Self::Tcp(listener),
            },
        };
        let (socket, file) = match &bound {
            Self::Unix(listener, file) => (ListenSocket::Unix(listener.try_clone()?), file.as_ref()),
            Self::Tcp(listener) => (ListenSocket::Tcp(listener.try_clone()?), None),
        };
        sockets.add(kind, configured.clone(), socket, file.map(SocketFile::owner))?;
        Ok(bound)
    }

    /// Returns the address with the port that the kernel chose.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub(super) fn address(&self) -> io::Result<AdminAddress> {
        match self {
            Self::Unix(listener, _) => {
                let address = listener.local_addr()?;
                address
                    .as_pathname()
                    .map(|path| AdminAddress::Unix(path.to_owned()))
                    .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "the Unix socket has no path"))
            }
            Self::Tcp(listener) => Ok(AdminAddress::Tcp(listener.local_addr()?)),
        }
    }
}
