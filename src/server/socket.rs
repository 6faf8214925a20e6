//! Listening sockets and the connections accepted from them.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::unix_socket::{self, MODE_GROUP, SocketFile, SocketOptions};
use crate::config::ListenAddress;
use crate::front::connection_config::ConnectionConfig;
use crate::policy::peer::Peer;
use crate::runtime::pending_limit::PendingSlot;
use crate::runtime::socket::{DetachedSocket, SocketStream};

/// The length of the kernel's accept queue. The kernel caps it at its own limit.
const BACKLOG: i32 = 4096;

/// A listening socket that is not registered with a runtime.
#[derive(Debug)]
pub enum ListenSocket {
    /// Of TCP.
    Tcp(TcpListener),
    /// A Unix socket.
    Unix(UnixListener),
}

/// A listening socket that is registered with the event loop of a worker.
#[derive(Debug)]
pub enum Accepting {
    /// Of TCP.
    Tcp(tokio::net::TcpListener),
    /// A Unix socket.
    Unix(tokio::net::UnixListener),
}

impl ListenSocket {
    /// Returns its address.
    ///
    /// # Errors
    /// If the system does not know it, or the Unix socket has no path.
    pub fn address(&self) -> io::Result<ListenAddress> {
        match self {
            Self::Tcp(socket) => socket.local_addr().map(ListenAddress::Tcp),
            Self::Unix(socket) => {
                let address = socket.local_addr()?;
                let without_path = || io::Error::new(io::ErrorKind::Unsupported, "the Unix socket has no path");
                address.as_pathname().map(|path| ListenAddress::Unix(path.to_owned())).ok_or_else(without_path)
            }
        }
    }

    /// Returns another descriptor of the socket.
    ///
    /// # Errors
    /// If the system does not provide one.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Tcp(socket) => socket.try_clone().map(Self::Tcp),
            Self::Unix(socket) => socket.try_clone().map(Self::Unix),
        }
    }

    /// Registers another descriptor of the socket with the event loop of this thread.
    ///
    /// # Errors
    /// If the system does not provide it.
    pub fn register(&self) -> io::Result<Accepting> {
        match self.try_clone()? {
            Self::Tcp(socket) => tokio::net::TcpListener::from_std(socket).map(Accepting::Tcp),
            Self::Unix(socket) => tokio::net::UnixListener::from_std(socket).map(Accepting::Unix),
        }
    }
}

impl From<ListenSocket> for OwnedFd {
    fn from(socket: ListenSocket) -> Self {
        match socket {
            ListenSocket::Tcp(socket) => socket.into(),
            ListenSocket::Unix(socket) => socket.into(),
        }
    }
}

/// Converts a descriptor that another process passed. The error is the reason for which it is not a listening socket.
impl TryFrom<OwnedFd> for ListenSocket {
    type Error = io::Error;

    fn try_from(descriptor: OwnedFd) -> io::Result<Self> {
        let socket = Socket::from(descriptor);
        if socket.r#type()? != Type::STREAM || !socket.is_listener()? {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a listening stream socket"));
        }
        socket.set_nonblocking(true)?;
        match socket.domain()? {
            Domain::UNIX => Ok(Self::Unix(OwnedFd::from(socket).into())),
            Domain::IPV4 | Domain::IPV6 => Ok(Self::Tcp(socket.into())),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is neither a TCP nor a Unix socket")),
        }
    }
}

impl Accepting {
    /// Accepts one connection.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub async fn accept(&self) -> io::Result<(SocketStream, Peer)> {
        match self {
            Self::Tcp(socket) => {
                let (stream, address) = socket.accept().await?;
                // An inherited socket may be one for IPv6 and IPv4, whose IPv4 clients have mapped addresses.
                Ok((stream.into(), Peer::of_address(address.ip())))
            }
            Self::Unix(socket) => socket.accept().await.map(|(stream, _)| (stream.into(), Peer::Unix)),
        }
    }
}

/// Binds a listening socket of TCP. One for IPv6 accepts only IPv6, so that `0.0.0.0` and `[::]` can be bound at the
/// same time.
///
/// # Errors
/// If the address is in use, not local, or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<ListenSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Frames are written whole, so Nagle's algorithm would only delay them. Accepted sockets inherit the option.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(ListenSocket::Tcp(socket.into()))
}

/// Binds a Unix socket, to which the group of the process or another group may connect.
///
/// # Errors
/// If another process serves it, the group does not exist, or the system does not permit it.
pub fn bind_unix(path: &Path, group: Option<&str>) -> io::Result<(ListenSocket, SocketFile)> {
    let options = SocketOptions { mode: MODE_GROUP, group, backlog: BACKLOG };
    unix_socket::bind(path, options).map(|(socket, file)| (ListenSocket::Unix(socket), file))
}

/// A bound listener, and the connection that moves to another worker with it.
#[derive(Debug)]
pub struct Listener {
    /// The socket, not registered with a runtime.
    pub socket: ListenSocket,
    /// The address that it is bound to, by which snapshots know it.
    pub address: Arc<ListenAddress>,
    /// Ends the accept loop when the configuration has the listener no more.
    pub stop: CancellationToken,
    /// Dropped with the socket.
    pub open: oneshot::Sender<()>,
    /// The connection accepted last, if the worker that the listener moves to is to serve it.
    pub accepted: Option<Accepted<DetachedSocket>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Its socket.
    pub stream: S,
    /// Its other end.
    pub peer: Peer,
    /// The settings of its listener.
    pub config: Arc<ConnectionConfig>,
    /// Its permit to be pending, or its position in the queue for one.
    pub slot: PendingSlot,
}

impl<S> Accepted<S> {
    /// Converts the socket.
    ///
    /// # Errors
    /// If `form` fails.
    pub fn try_map<T>(self, form: impl FnOnce(S) -> io::Result<T>) -> io::Result<Accepted<T>> {
        let Self { stream, peer, config, slot } = self;
        Ok(Accepted { stream: form(stream)?, peer, config, slot })
    }
}
