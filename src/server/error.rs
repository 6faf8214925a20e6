//! The error of a server that cannot start.

use std::fmt;
use std::io;
use std::sync::Arc;

use super::inherited::InheritedError;
use crate::config::ListenAddress;

/// An error that prevents the server from starting.
#[derive(Debug)]
pub enum ServeError {
    /// An address could not be bound.
    Bind(ListenAddress, io::Error),
    /// The socket that systemd passes under this name cannot be used.
    Inherited(Arc<str>, InheritedError),
    /// The environment variables of inherited sockets are not valid.
    InheritedEnvironment(io::Error),
    /// The descriptor limit is too low for the configured number of sessions.
    Descriptors {
        /// `max_sessions`.
        sessions: u32,
        /// The number of descriptors that they need.
        needed: u64,
        /// The descriptor limit, once raised to its maximum.
        limit: u64,
    },
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// The system did not provide a thread, an event queue or a descriptor.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Inherited(name, error) => write!(f, "cannot listen on systemd:{name}: {error}"),
            Self::InheritedEnvironment(error) => write!(f, "cannot take the sockets that systemd passes: {error}"),
            Self::Descriptors { sessions, needed, limit } => write!(
                f,
                "max_sessions = {sessions} needs {needed} file descriptors, and the limit is {limit}: \
                 raise it (LimitNOFILE in systemd) or lower max_sessions or max_handshakes"
            ),
            Self::Tls(error) => write!(f, "cannot set up TLS: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    /// Whether the configuration or a limit of the system has to change. A retry would fail, too.
    pub fn is_of_configuration(&self) -> bool {
        matches!(self, Self::Descriptors { .. } | Self::Inherited(..))
    }
}
