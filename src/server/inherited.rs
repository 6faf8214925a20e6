//! The listening sockets that systemd passes to the process, by the name in their socket unit.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use listenfd::ListenFd;
use rustix::net::sockopt::{set_tcp_nodelay, socket_acceptconn};

use super::socket::ListenSocket;
use crate::config::{ListenAddress, ListenerConfig};

/// The sockets that the process inherited. They stay open until it ends: a listener has a clone.
#[derive(Debug, Default)]
pub struct Inherited(Vec<InheritedSocket>);

#[derive(Debug)]
struct InheritedSocket {
    name: String,
    /// The error is the reason for which it cannot be a listener.
    socket: Result<ListenSocket, String>,
}

/// Why an inherited socket cannot be a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InheritedError {
    /// No socket has this name. Contains the names of those that were passed.
    Missing(Vec<String>),
    /// Several sockets have this name.
    Several(usize),
    /// The descriptor is not a listening TCP or Unix stream socket.
    WrongType(String),
    /// Another listener has the same address.
    SameAddress(ListenAddress),
    /// The listener is plain, and others than this machine and private networks reach the address.
    NotPrivate(ListenAddress),
}

impl fmt::Display for InheritedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(passed) if passed.is_empty() => {
                f.write_str("systemd passed no socket: is the socket unit started?")
            }
            Self::Missing(passed) => write!(f, "systemd passed no socket of this name, only {}", passed.join(", ")),
            Self::Several(count) => write!(
                f,
                "systemd passed {count} sockets of this name: each listener needs a socket unit with one ListenStream= \
                 and a FileDescriptorName= of its own"
            ),
            Self::WrongType(reason) => write!(f, "it is not a listening TCP or Unix stream socket: {reason}"),
            Self::SameAddress(address) => write!(f, "another listener has its address {address}, too"),
            Self::NotPrivate(address) => {
                write!(f, "its address {address} is not private, and a listener with tls = false needs insecure = true")
            }
        }
    }
}

impl std::error::Error for InheritedError {}

impl Inherited {
    /// Takes the sockets from the environment: `LISTEN_PID`, `LISTEN_FDS` and `LISTEN_FDNAMES`, as `sd_listen_fds(3)`
    /// defines them. Removes the first two. Must be called before the process has other threads that read the
    /// environment. A second call returns no sockets.
    ///
    /// # Errors
    /// If the variables contradict each other or the open descriptors.
    pub fn from_env() -> io::Result<Self> {
        let passed = sd_notify::listen_fds_with_names()?;
        if passed.len() == 0 {
            return Ok(Self::default());
        }
        let mut owned = ListenFd::from_env();
        let sockets =
            passed.enumerate().map(|(index, (_, name))| InheritedSocket { name, socket: take(&mut owned, index) });
        Ok(Self(sockets.collect()))
    }

    /// Creates the sockets that the process before inherited and passed.
    pub fn of_predecessor(passed: Vec<(Arc<str>, ListenSocket)>) -> Self {
        let inherited = |(name, socket): (Arc<str>, _)| InheritedSocket { name: name.to_string(), socket: Ok(socket) };
        Self(passed.into_iter().map(inherited).collect())
    }

    /// Returns the sockets that can be listeners, with their names.
    pub fn usable(&self) -> impl Iterator<Item = (&str, &ListenSocket)> {
        self.0.iter().filter_map(|socket| Some((socket.name.as_str(), socket.socket.as_ref().ok()?)))
    }

    /// Returns a clone of the socket with this name, which is in non-blocking mode.
    ///
    /// # Errors
    /// If there is not exactly one listening socket of this name. The outer error is of the system, which did not
    /// provide a descriptor.
    pub fn get(&self, name: &str) -> io::Result<Result<ListenSocket, InheritedError>> {
        let mut named = self.0.iter().filter(|socket| socket.name == name);
        let Some(first) = named.next() else {
            return Ok(Err(InheritedError::Missing(self.0.iter().map(|socket| socket.name.clone()).collect())));
        };
        let more = named.count();
        if more > 0 {
            return Ok(Err(InheritedError::Several(more + 1)));
        }
        match &first.socket {
            Ok(socket) => socket.try_clone().map(Ok),
            Err(reason) => Ok(Err(InheritedError::WrongType(reason.clone()))),
        }
    }

    /// Returns the names of the sockets that no listener uses.
    pub fn unused<'a>(&'a self, listeners: &'a [ListenerConfig]) -> impl Iterator<Item = &'a str> {
        let is_used = |name: &str| {
            listeners.iter().any(|used| matches!(&used.address, ListenAddress::Inherited(used) if **used == *name))
        };
        self.0.iter().map(|socket| socket.name.as_str()).filter(move |name| !is_used(name))
    }
}

/// Takes a descriptor as a socket of TCP or as a Unix socket. If it is neither, the error is that of TCP.
fn take(owned: &mut ListenFd, index: usize) -> Result<ListenSocket, String> {
    let socket = match owned.take_tcp_listener(index) {
        Ok(socket) => socket.map(ListenSocket::Tcp),
        Err(error) => {
            let socket = owned.take_unix_listener(index).map_err(|_| error.to_string())?;
            socket.map(ListenSocket::Unix)
        }
    };
    listening(socket.ok_or("it was taken before")?)
}

/// Checks that the socket listens, and prepares it like those that the process binds itself.
fn listening(socket: ListenSocket) -> Result<ListenSocket, String> {
    let prepare = || match &socket {
        ListenSocket::Tcp(tcp) => {
            tcp.set_nonblocking(true)?;
            // Accepted sockets inherit the option.
            set_tcp_nodelay(tcp, true)?;
            Ok::<_, io::Error>(socket_acceptconn(tcp.as_fd())?)
        }
        ListenSocket::Unix(unix) => {
            unix.set_nonblocking(true)?;
            Ok(socket_acceptconn(unix.as_fd())?)
        }
    };
    match prepare() {
        Ok(true) => Ok(socket),
        Ok(false) => Err("it does not listen".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn inherited(names: &[&str]) -> Inherited {
        let socket = |name: &&str| InheritedSocket {
            name: (*name).to_owned(),
            socket: TcpListener::bind("127.0.0.1:0")
                .map_err(|error| error.to_string())
                .and_then(|socket| listening(ListenSocket::Tcp(socket))),
        };
        Inherited(names.iter().map(socket).collect())
    }

    #[test]
    fn exactly_one_listening_socket_of_the_name_is_found() {
        let sockets = inherited(&["public", "twice", "twice"]);
        let address = sockets.get("public").unwrap().unwrap().address().unwrap();
        assert_eq!(sockets.get("public").unwrap().unwrap().address().unwrap(), address, "a second time");
        assert_eq!(sockets.get("twice").unwrap().unwrap_err(), InheritedError::Several(2));
        let missing = sockets.get("other").unwrap().unwrap_err();
        assert_eq!(missing.to_string(), "systemd passed no socket of this name, only public, twice, twice");
        let none = Inherited::default().get("public").unwrap().unwrap_err();
        assert_eq!(none.to_string(), "systemd passed no socket: is the socket unit started?");
        let reason = "it does not listen".to_owned();
        let wrong = Inherited(vec![InheritedSocket { name: "public".to_owned(), socket: Err(reason.clone()) }]);
        assert_eq!(wrong.get("public").unwrap().unwrap_err(), InheritedError::WrongType(reason));
    }
}
