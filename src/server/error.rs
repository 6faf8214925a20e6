//! Why serving cannot begin.

use std::fmt;
use std::io;
use std::net::SocketAddr;

/// Why serving could not begin or go on.
#[derive(Debug)]
pub enum ServeError {
    /// An address could not be bound.
    Bind(SocketAddr, io::Error),
    /// The system lets the process have too few descriptors for the sessions that the configuration asks for.
    Descriptors {
        /// `max_sessions`.
        sessions: u32,
        /// What that needs.
        needed: u64,
        /// What there is, once raised as far as it goes.
        limit: u64,
    },
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// The system gave no thread, event queue or descriptor.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Descriptors { sessions, needed, limit } => write!(
                f,
                "max_sessions = {sessions} needs {needed} file descriptors, and the limit is {limit}: \
                 raise it (LimitNOFILE in systemd) or lower max_sessions"
            ),
            Self::Tls(error) => write!(f, "cannot set up TLS: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    /// Whether the configuration has to change, or what the system allows: a second try would fail, too.
    pub fn is_of_configuration(&self) -> bool {
        matches!(self, Self::Descriptors { .. })
    }
}
