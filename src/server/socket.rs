//! Listening sockets, and the connections that were accepted from them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use socket2::{Domain, Protocol, Socket, Type};

use crate::front::connection_config::ConnectionConfig;
use crate::runtime::pending_limit::{PendingLimit, PendingSlot};

/// How many connections the kernel may hold ready; it cuts this to its own limit.
const BACKLOG: i32 = 4096;

/// Binds an address. An IPv6 address is for IPv6 alone, so that `0.0.0.0` and `[::]` can stand side by side.
///
/// # Errors
/// If the address is taken, not ours, or not allowed.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Frames are written whole, so there is nothing to wait for. What is accepted here inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A bound address, and what was accepted there for the worker that is to have it.
#[derive(Debug)]
pub struct Listener {
    /// The socket, which belongs to no runtime.
    pub socket: std::net::TcpListener,
    /// What the listener says of its connections.
    pub config: Arc<ConnectionConfig>,
    /// The room for those that are no sessions yet.
    pub pending_limit: Arc<PendingLimit>,
    /// What was accepted last, if it is for the worker that the listener moves to.
    pub accepted: Option<Accepted<std::net::TcpStream>>,
}

/// A connection that was accepted.
#[derive(Debug)]
pub struct Accepted<S> {
    /// Its socket.
    pub stream: S,
    /// Where it comes from.
    pub client: IpAddr,
    /// Its place among those that are no sessions yet, or its wait for one.
    pub slot: PendingSlot,
}

impl<S> Accepted<S> {
    /// The same with another form of its socket.
    ///
    /// # Errors
    /// If `form` fails.
    pub fn try_map<T>(self, form: impl FnOnce(S) -> io::Result<T>) -> io::Result<Accepted<T>> {
        Ok(Accepted { stream: form(self.stream)?, client: self.client, slot: self.slot })
    }
}
