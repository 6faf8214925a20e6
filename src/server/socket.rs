//! Listening sockets and the connections accepted from them.

use std::io;
use std::net::{IpAddr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::runtime::pending_limit::PendingSlot;

/// The length of the kernel's accept queue. The kernel caps it at its own limit.
const BACKLOG: i32 = 4096;

/// Binds a listening socket. One for IPv6 accepts only IPv6, so that `0.0.0.0` and `[::]` can be bound at the same
/// time.
///
/// # Errors
/// If the address is in use, not local, or not permitted.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
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
    Ok(socket.into())
}

/// A bound listener, and the connection that moves to another worker with it.
#[derive(Debug)]
pub struct Listener {
    /// The socket, not registered with a runtime.
    pub socket: std::net::TcpListener,
    /// The address that it is bound to, by which snapshots know it.
    pub address: SocketAddr,
    /// Ends the accept loop when the configuration has the listener no more.
    pub stop: CancellationToken,
    /// Dropped with the socket.
    pub open: oneshot::Sender<()>,
    /// The connection accepted last, if the worker that the listener moves to is to serve it.
    pub accepted: Option<Accepted<std::net::TcpStream>>,
}

/// An accepted connection.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Its socket.
    pub stream: S,
    /// The client's address.
    pub client: IpAddr,
    /// Its permit to be pending, or its position in the queue for one.
    pub slot: PendingSlot,
}

impl<S> Accepted<S> {
    /// Converts the socket.
    ///
    /// # Errors
    /// If `form` fails.
    pub fn try_map<T>(self, form: impl FnOnce(S) -> io::Result<T>) -> io::Result<Accepted<T>> {
        Ok(Accepted { stream: form(self.stream)?, client: self.client, slot: self.slot })
    }
}
