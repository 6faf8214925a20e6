//! A checked configuration: plain types that cannot hold a bad value.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::sign::CertifiedKey;

use super::diagnostic::Report;
use crate::policy::quota::Quota;
use crate::policy::route::Route;

/// A whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// What holds for the process.
    pub server: ProcessConfig,
    /// How it logs.
    pub log: LogConfig,
    /// Where it listens; at least one, in the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// What it serves; at least one, in the order of the file. Their upstreams are places in `upstreams`.
    pub routes: Vec<Route>,
    /// Where sessions go, in the order of the file.
    pub upstreams: Vec<UpstreamConfig>,
    /// What is allowed but likely not meant.
    pub warnings: Report,
}

/// What holds for the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Threads that carry sessions.
    pub workers: NonZeroUsize,
    /// Sessions at once.
    pub max_sessions: MaxSessions,
    /// Connections at once that are no sessions yet.
    pub max_handshakes: u32,
    /// The same of one client address; `None`: all of them.
    pub handshakes_per_address: Option<NonZeroU32>,
    /// Requests that one client address may make; `None`: as many as it likes.
    pub upgrade_quota: Option<Quota>,
    /// How long open sessions may go on after the signal to stop.
    pub drain_timeout: Duration,
    /// Whether a request that matches no route of its host is matched against the routes of wider hosts.
    pub host_fall_through: bool,
    /// What protects TLS 1.3 connections after their handshake.
    pub record_layer: RecordLayer,
}

/// What protects a TLS 1.3 connection after its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordLayer {
    /// [`crate::record`].
    Own,
    /// rustls, which did the handshake.
    Rustls,
}

/// How many sessions there may be at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxSessions {
    /// The number, at least 1.
    pub count: u32,
    /// Whether the operator wrote it: too few file descriptors are then an error, and else lower the number.
    pub explicit: bool,
}

/// How the process logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// How a line is written.
    pub format: LogFormat,
    /// The least important lines that are written.
    pub level: tracing::Level,
    /// The level of the line "session started".
    pub session_start: tracing::Level,
    /// How subjects of tokens are shown.
    pub subject: Shown,
    /// How addresses of clients are shown.
    pub address: Shown,
}

/// How the log shows what identifies a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// As it is.
    Plain,
    /// As a hash under a key of this process.
    Hash,
    /// Not at all.
    Omit,
}

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// For people.
    Text,
}

/// One address to listen on.
#[derive(Debug, Clone)]
pub struct ListenerConfig {
    /// The address. No other listener has it; port 0 lets the system choose.
    pub address: SocketAddr,
    /// At least one. The first serves clients that name no host, or one that no certificate has.
    pub certificates: Vec<Certificate>,
    /// How long the TLS handshake and the request head may take together.
    pub handshake_timeout: Duration,
    /// The largest request head: 8 KiB to 64 KiB.
    pub head_max_bytes: usize,
    /// The most header fields in a request head: 8 to 256.
    pub head_max_headers: usize,
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// The DNS names that it is for, in lower case; `*.example.com` for any one label. Empty if it is for IP addresses
    /// only.
    pub names: Vec<String>,
    /// The chain, the certificate itself first, and the private key, which belong together.
    pub key: Arc<CertifiedKey>,
    /// The first moment at which it is valid.
    pub not_before: SystemTime,
    /// The last moment at which it is valid.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Whether it is valid at this time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// A group of servers that do the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamConfig {
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// At least one, each once.
    pub servers: Vec<ServerAddress>,
    /// What is put before the path of every request: empty, or with a slash at the start and none at the end.
    pub base_path: String,
    /// How long the look-up of a name and the attempt to connect to an address may each take.
    pub connect_timeout: Duration,
    /// How long a server may take to answer an upgrade.
    pub response_timeout: Duration,
    /// Upgrades that wait for its servers at once, at least 1.
    pub max_pending_requests: u32,
    /// Whether its servers get header names in title case.
    pub title_case_headers: bool,
}

/// Where a server is. `Display` is its name in logs and metrics, the same as in the file.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServerAddress {
    /// By TCP.
    Tcp {
        /// An IP address, IPv6 without brackets, or a host name in lower case.
        host: String,
        /// At least 1.
        port: u16,
    },
    /// By a Unix socket, with an absolute path that fits an address.
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
