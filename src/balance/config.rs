//! The configuration of an upstream: plain data that can be compared.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::health::HealthConfig;

/// A group of equivalent servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Its name in logs.
    pub name: Arc<str>,
    /// Its servers, without duplicates: at least one, or as many as were discovered.
    pub servers: Vec<ServerConfig>,
    /// Where its servers are listed, if the configuration does not list them.
    pub discover: Option<Discover>,
    /// How a server is chosen for a request.
    pub balance: Balance,
    /// How requests judge the health of its servers.
    pub health: HealthConfig,
    /// The prefix of the path of every request: empty, or with a leading and without a trailing slash.
    pub base_path: String,
    /// Timeout for the look-up of a name, and for each connection attempt.
    pub connect_timeout: Duration,
    /// Timeout for a server's response to an opening handshake.
    pub response_timeout: Duration,
    /// The number of further servers that a request tries.
    pub retries: u32,
    /// Maximum number of opening handshakes that wait for its servers, at least 1.
    pub max_pending_requests: u32,
    /// Whether each connection to its servers begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Whether header names are sent to its servers in title case.
    pub title_case_headers: bool,
}

/// Where the servers of an upstream are listed. `Display` writes the form used in the configuration file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Discover {
    /// A JSON file.
    InFile(PathBuf),
    /// The A and AAAA records of a name: each address is a server with this port.
    Addresses {
        /// The name, in lower case.
        host: String,
        /// The port of each server.
        port: u16,
    },
    /// The SRV records of a name.
    Services(String),
}

impl fmt::Display for Discover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InFile(path) => write!(f, "file:{}", path.display()),
            Self::Addresses { host, port } => write!(f, "dns:{host}:{port}"),
            Self::Services(name) => write!(f, "srv:{name}"),
        }
    }
}

impl Discover {
    /// Whether the servers are looked up. Those of a file are part of the configuration as it is read.
    pub fn is_looked_up(&self) -> bool {
        !matches!(self, Self::InFile(_))
    }
}

/// A server of an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Its address.
    pub address: ServerAddress,
    /// Its share of the sessions, relative to the other servers.
    pub weight: NonZeroU16,
    /// Maximum number of its sessions, including requests that wait for it; `None` without a limit.
    pub max_sessions: Option<NonZeroU32>,
    /// Whether it gets no new sessions.
    pub drain: bool,
}

impl From<ServerAddress> for ServerConfig {
    /// Returns the server with this address and the default of every other setting.
    fn from(address: ServerAddress) -> Self {
        Self { address, weight: NonZeroU16::MIN, max_sessions: None, drain: false }
    }
}

/// How the server of a request is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Balance {
    /// The server with the fewest sessions in proportion to its weight.
    #[default]
    LeastSessions,
    /// Each server in turn, as often as its weight says.
    RoundRobin,
    /// The server with the highest score for a part of the request: equal values go to the same server.
    Hash(HashSource),
}

/// The part of a request that selects a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashSource {
    /// The auth section and the subject of the client.
    Subject,
    /// The address of the client; of IPv6 its /64.
    Address,
    /// The first cookie of this name.
    Cookie(String),
    /// The first query parameter of this name.
    Query(String),
    /// The first header of this name.
    Header(HeaderName),
    /// The placeholder of this name in the path of the route.
    Path(String),
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
