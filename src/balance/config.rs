//! The configuration of an upstream: plain data that can be compared.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// A group of equivalent servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Its name in logs.
    pub name: Arc<str>,
    /// Its servers: at least one, without duplicates.
    pub servers: Vec<ServerAddress>,
    /// The prefix of the path of every request: empty, or with a leading and without a trailing slash.
    pub base_path: String,
    /// Timeout for the look-up of a name, and for each connection attempt.
    pub connect_timeout: Duration,
    /// Timeout for a server's response to an opening handshake.
    pub response_timeout: Duration,
    /// Maximum number of opening handshakes that wait for its servers, at least 1.
    pub max_pending_requests: u32,
    /// Whether each connection to its servers begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Whether header names are sent to its servers in title case.
    pub title_case_headers: bool,
}

/// The address of a server. `Display` writes the form used in the configuration file, which is also its name in logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// A TCP address.
    Tcp {
        /// An IP address, IPv6 without brackets, or a host name in lower case.
        host: String,
        /// The port, at least 1.
        port: u16,
    },
    /// The absolute path of a Unix socket, short enough for a socket address.
    Unix(PathBuf),
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl ServerAddress {
    /// Whether the address is a name, which the resolver may map to several IP addresses.
    pub fn has_name(&self) -> bool {
        matches!(self, Self::Tcp { host, .. } if host.parse::<IpAddr>().is_err())
    }
}
