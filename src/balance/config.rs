//! The configuration of an upstream: plain data that can be compared.

use std::fmt;
use std::net::IpAddr;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use http::HeaderName;
use rustls_pki_types::ServerName;

use super::health::HealthConfig;
use super::pacing::ClosingRate;
use super::rebalance::Rebalance;
use super::sticky::StickyCookie;
use super::tls::UpstreamTls;
use crate::ws::code::CloseCode;

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
    /// How requests and checks judge the health of its servers.
    pub health: HealthConfig,
    /// How connections to its servers are protected; `None`: they are plain.
    pub tls: Option<Arc<UpstreamTls>>,
    /// The prefix of the path of every request: empty, or with a leading and without a trailing slash.
    pub base_path: String,
    /// Timeout for the look-up of a name, and for each connection attempt.
    pub connect_timeout: Duration,
    /// Timeout for a server's response to an opening handshake.
    pub response_timeout: Duration,
    /// Timeout for the head of a server's response to an ordinary request.
    pub http_response_timeout: Duration,
    /// The number of further servers that a request tries.
    pub retries: u32,
    /// Maximum number of opening handshakes that wait for its servers, at least 1.
    pub max_pending_requests: u32,
    /// The rate at which the sessions of a server that drains are closed, of each server by itself.
    pub drain_rate: ClosingRate,
    /// How many sessions overloaded servers shed; `None` for none.
    pub rebalance: Option<Rebalance>,
    /// How the clients of its sessions are closed whose connection to a server was lost.
    pub loss: UpstreamLoss,
    /// How long a request waits while no server is up; `None` if it does not.
    pub hold_upgrades: Option<Duration>,
    /// The rate at which requests try its servers, of all clients together; `None` without a limit.
    pub admit_rate: Option<AdmitRate>,
    /// Maximum number of requests that wait for a server; none do if it is 0.
    pub queue_max: u32,
    /// How long a request waits while every server is full.
    pub queue_timeout: Duration,
    /// Whether each connection to its servers begins with a PROXY header.
    pub proxy_protocol: bool,
    /// Whether header names are sent to its servers in title case.
    pub title_case_headers: bool,
}

/// How the client of a session is closed whose connection to its server ended without a Close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpstreamLoss {
    /// The code of its Close.
    pub close_code: CloseCode,
    /// The time over which the sessions are closed that a server loses together; zero: all at once.
    pub reconnect_spread: Duration,
}

impl Default for UpstreamLoss {
    /// Returns the defaults of the configuration.
    fn default() -> Self {
        Self { close_code: CloseCode::BAD_GATEWAY, reconnect_spread: Duration::from_secs(10) }
    }
}

/// The rate at which requests try the servers of an upstream: `count` in each `period`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmitRate {
    /// The number of requests.
    pub count: NonZeroU32,
    /// The time for that number; never zero.
    pub period: Duration,
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
    /// The server that the client's cookie names, if it is up and not full; otherwise as [`Balance::LeastSessions`].
    StickyCookie(Box<StickyCookie>),
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
    /// Returns the host as the name that the server's certificate must have, without the dot at its end. `None` for a
    /// Unix socket, and for a host that no certificate can name.
    pub fn certificate_name(&self) -> Option<ServerName<'static>> {
        let Self::Tcp { host, .. } = self else { return None };
        let host = host.strip_suffix('.').unwrap_or(host);
        ServerName::try_from(host).ok().map(|name| name.to_owned())
    }

    /// Whether the address is a name, which the resolver may map to several IP addresses.
    pub fn has_name(&self) -> bool {
        matches!(self, Self::Tcp { host, .. } if host.parse::<IpAddr>().is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_an_address_is_the_name_of_the_certificate() {
        let name = |host: &str| ServerAddress::Tcp { host: host.to_owned(), port: 1 }.certificate_name();
        for (host, expected) in [
            ("backend.internal", "backend.internal"),
            ("backend.internal.", "backend.internal"),
            ("a_b", "a_b"),
            ("192.0.2.1", "192.0.2.1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(name(host), Some(expected.try_into().unwrap()), "{host}");
        }
        assert!(matches!(name("192.0.2.1"), Some(ServerName::IpAddress(_))));
        assert_eq!(ServerAddress::Unix("/run/app.sock".into()).certificate_name(), None);
    }
}
