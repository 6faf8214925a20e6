//! Binds the socket of the API, and accepts its connections.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;

use crate::config::AdminAddress;
use crate::server::unix_socket::{self, MODE_GROUP, MODE_OWNER, SocketFile, SocketOptions};

/// The number of connections that the kernel queues.
const BACKLOG: i32 = 64;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Bound {
    /// A Unix socket. Its file is removed when this is dropped.
    Unix(UnixListener, SocketFile),
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
                Ok(Self::Unix(listener, file))
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

    /// Returns the address with the port that the kernel chose.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub(super) fn address(&self) -> io::Result<AdminAddress> {
        match self {
            Self::Unix(_, file) => Ok(AdminAddress::Unix(file.path().to_owned())),
            Self::Tcp(listener) => Ok(AdminAddress::Tcp(listener.local_addr()?)),
        }
    }
}
