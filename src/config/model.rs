//! The checked configuration: types that cannot hold an invalid value.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::acme::AcmeConfig;
use super::cluster::ClusterConfig;
use super::diagnostic::Report;
use super::networks::is_private;
pub use crate::balance::TlsMinVersion;
use crate::balance::UpstreamConfig;
use crate::policy::forward::ForwardConfig;
use crate::policy::logout::LogoutRules;
use crate::policy::peer::PeerSet;
use crate::policy::quota::{Quota, Rate};
use crate::policy::revocation::entry::Revocation;
use crate::policy::route::RouteConfig;
use crate::policy::token::VerifierConfig;

/// A complete, checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The settings of the process.
    pub server: ProcessConfig,
    /// The settings of the log.
    pub log: LogConfig,
    /// The admin API, if there is one.
    pub admin: Option<AdminConfig>,
    /// The address of the metrics listener, if there is one.
    pub metrics: Option<SocketAddr>,
    /// The servers over which several nodes share their state, if there are any.
    pub cluster: Option<Arc<ClusterConfig>>,
    /// The listeners: at least one, in the order of the file.
    pub listeners: Vec<ListenerConfig>,
    /// Its routes; at least one, in the order of the file. Their upstreams and `[auth]` sections are in the fields
    /// below.
    pub routes: Vec<RouteConfig>,
    /// The `[auth]` sections that routes use, by name.
    pub auths: BTreeMap<Arc<str>, AuthConfig>,
    /// The rules for logout tokens of the `[auth]` sections that routes use and that receive them, by their names.
    pub logouts: BTreeMap<Arc<str>, LogoutRules>,
    /// The `[acme.NAME]` sections that listeners use, in the order of the file.
    pub acmes: Vec<Arc<AcmeConfig>>,
    /// The upstreams, in the order of the file.
    pub upstreams: Vec<UpstreamConfig>,
    /// The revocations of `revocations_file`, which are applied without a new snapshot.
    pub revocations: Arc<[Revocation]>,
    /// The warnings; the report has no errors.
    pub warnings: Report,
    /// The text that it was read from.
    pub source: Source,
}

/// An `[auth.NAME]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthConfig {
    /// `kind = "jwt"`.
    Token(VerifierConfig),
    /// `kind = "forward"`.
    Forward(ForwardConfig),
}

/// The text of a configuration, and the files that it names.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// The name of the file in reports.
    pub file_name: PathBuf,
    /// The directory against which relative paths are resolved.
    pub base: PathBuf,
    /// The text.
    pub text: Arc<str>,
    /// The paths of the files that it names. Those of one section, such as a certificate and its key, are in one group.
    pub files: Vec<Vec<PathBuf>>,
}

/// Two configurations are equal if their snapshots have the same effect. The text of the file is not compared, so a
/// comment does not make them differ; neither are revocations.
impl PartialEq for Config {
    fn eq(&self, other: &Self) -> bool {
        let Self { server, log, admin, metrics, cluster, .. } = self;
        let Self { listeners, routes, auths, logouts, acmes, upstreams, .. } = self;
        *server == other.server
            && *log == other.log
            && *admin == other.admin
            && *metrics == other.metrics
            && *cluster == other.cluster
            && *listeners == other.listeners
            && *routes == other.routes
            && *auths == other.auths
            && *logouts == other.logouts
            && *acmes == other.acmes
            && *upstreams == other.upstreams
    }
}

impl Config {
    /// Whether clients of the process can make revocations.
    pub fn can_revoke(&self) -> bool {
        self.admin.is_some() || !self.logouts.is_empty()
    }
}

/// The settings of the process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessConfig {
    /// Number of worker threads.
    pub workers: NonZeroUsize,
    /// Maximum number of concurrent sessions.
    pub max_sessions: MaxSessions,
    /// Maximum number of connections whose request head has not been read.
    pub max_handshakes: u32,
    /// The same limit for one client address; `None`: only `max_handshakes` applies.
    pub handshakes_per_address: Option<NonZeroU32>,
    /// Maximum number of ordinary requests in progress, and of the connections that are kept for them.
    pub max_http_requests: NonZeroU32,
    /// The resident memory above which new sessions are rejected; `None`: unlimited.
    pub memory_max_bytes: Option<u64>,
    /// Quota for the requests of one client address; `None`: unlimited.
    pub upgrade_quota: Option<Quota>,
    /// How long requests are still admitted after the stop signal, while the process is not ready any more.
    pub shutdown_delay: Duration,
    /// Maximum duration of the drain after the stop signal.
    pub drain_timeout: Duration,
    /// The directory for state that outlives the process; `None`: there is no such state.
    pub state_dir: Option<PathBuf>,
    /// How long a revocation holds that does not say when it ends.
    pub revocation_retention: Duration,
    /// The treatment of open sessions by a reload.
    pub on_reload: OnReload,
    /// Maximum share of the open sessions that a reload may end without force, in percent; `None`: all.
    pub recheck_max_percent: Option<u8>,
    /// The rate at which sessions that a reload no longer admits are closed.
    pub recheck_rate: Rate,
    /// Whether a request that matches no route of its host is matched against the routes of less specific hosts.
    pub host_fall_through: bool,
    /// Whether SIGHUP replaces the process if its program on disk has changed.
    pub upgrade_on_reload: bool,
    /// The name servers for the names of upstream servers; empty: those of the system.
    pub resolver: Vec<SocketAddr>,
    /// The record layer of TLS 1.3 connections after their handshake.
    pub record_layer: RecordLayer,
}

/// The treatment of open sessions by a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnReload {
    /// Each session is checked against the new configuration.
    Recheck,
    /// No session changes.
    Keep,
}

/// The record layer of a TLS 1.3 connection after its handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordLayer {
    /// [`crate::record`].
    Own,
    /// rustls, which also performs the handshake.
    Rustls,
}

/// The limit of concurrent sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaxSessions {
    /// Maximum number of sessions, at least 1.
    pub count: u32,
    /// Whether the file sets it. If it does, too few file descriptors are an error; otherwise they lower the limit.
    pub explicit: bool,
}

/// The settings of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// The format of a line.
    pub format: LogFormat,
    /// The least severe level that is logged.
    pub level: tracing::Level,
    /// The level of the line "session started".
    pub session_start: tracing::Level,
    /// How token subjects are logged.
    pub subject: Shown,
    /// How client addresses are logged.
    pub address: Shown,
    /// An upgrade that takes longer is logged with the time of each phase; `None`: none is.
    pub slow_upgrade: Option<Duration>,
}

/// How a value that identifies a client is logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// In plain text.
    Plain,
    /// As a hash under a random key of the process.
    Hash,
    /// Not at all.
    Omit,
}

/// The format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object per line.
    Json,
    /// Text for human readers.
    Text,
}

/// The settings of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminConfig {
    /// Its address.
    pub address: AdminAddress,
    /// The group of its Unix socket.
    pub socket_group: Option<String>,
    /// The token with all rights; present if the address is a TCP address.
    pub token: Option<AdminToken>,
    /// The token that may only read.
    pub read_token: Option<AdminToken>,
    /// Whether a tap may show payloads.
    pub payload: bool,
}

/// The settings that a client of the admin API needs.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminClientConfig {
    /// The address of the API.
    pub address: AdminAddress,
    /// The token, if the address is a TCP address.
    pub token: Option<Zeroizing<Vec<u8>>>,
}

impl fmt::Debug for AdminClientConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminClientConfig").field("address", &self.address).finish_non_exhaustive()
    }
}

/// The address of the admin API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// A loopback address.
    Tcp(SocketAddr),
}

/// `Display` writes the form used in the configuration file.
impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

/// A bearer token of the admin API, as its SHA-256. `Debug` does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken([u8; SHA256_OUTPUT_LEN]);

impl AdminToken {
    /// Hashes a token.
    pub fn new(token: &[u8]) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, token).as_ref());
        Self(hash)
    }

    /// Whether this is the token. The comparison of hashes reveals nothing about the token by its time.
    pub fn matches(&self, token: &[u8]) -> bool {
        *self == Self::new(token)
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken")
    }
}

/// The settings of one listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerConfig {
    /// The address to listen on, unique among the listeners unless its port is 0, which lets the kernel choose a port.
    pub address: ListenAddress,
    /// The group of its Unix socket.
    pub socket_group: Option<String>,
    /// TLS; `None`: a plain listener.
    pub tls: Option<ListenerTls>,
    /// Whether a plain listener may have an address that other machines reach over a public network.
    pub insecure: bool,
    /// The peers that must send a PROXY header.
    pub proxy_protocol_from: PeerSet,
    /// The peers whose `X-Forwarded-For`, `X-Forwarded-Proto` and `Forwarded` are believed.
    pub trusted_proxies: PeerSet,
    /// Timeout for the PROXY header, the TLS handshake and the request head together.
    pub handshake_timeout: Duration,
    /// Maximum size of a request head: 8 KiB to 64 KiB.
    pub head_max_bytes: usize,
    /// Maximum number of header fields in a request head: 8 to 256.
    pub head_max_headers: usize,
    /// How long a connection stays open between two ordinary requests.
    pub keep_alive_timeout: Duration,
    /// How long a client may send nothing of the body of an ordinary request.
    pub body_timeout: Duration,
    /// The number of ordinary requests after which a connection closes.
    pub requests_per_connection: NonZeroU32,
    /// Where a plain listener redirects its requests.
    pub redirect: Redirect,
}

/// Where a plain listener redirects its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redirect {
    /// It serves them itself.
    Off,
    /// To the same target with the scheme `https`.
    Https,
}

impl ListenerConfig {
    /// Returns its certificates; empty for a plain listener.
    pub fn certificates(&self) -> &[Certificate] {
        self.tls.as_ref().map_or(&[], |tls| &tls.certificates)
    }
}

/// The TLS settings of a listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// At least one, unless `acme` is set. The first valid one serves clients without SNI, or with a host name that no
    /// certificate has.
    pub certificates: Vec<Certificate>,
    /// The `[acme.NAME]` section that gets the certificates instead.
    pub acme: Option<Arc<str>>,
    /// The lowest version.
    pub min_version: TlsMinVersion,
}

/// The address of a listener. That of a bound socket is never `Inherited`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum ListenAddress {
    /// The address that the process binds.
    Tcp(SocketAddr),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// The name of the socket that systemd passes: the `FileDescriptorName=` of its socket unit.
    Inherited(Arc<str>),
}

impl ListenAddress {
    /// Returns the address if it is one of TCP.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) => Some(*address),
            Self::Unix(_) | Self::Inherited(_) => None,
        }
    }

    /// Whether only this machine or private networks reach the address, so that a plain listener exposes no secret: a
    /// Unix socket, a loopback, private or link-local address. `None` for an inherited socket, whose address is not
    /// known yet.
    pub fn is_private(&self) -> Option<bool> {
        match self {
            Self::Unix(_) => Some(true),
            Self::Inherited(_) => None,
            Self::Tcp(address) => Some(is_private(address.ip())),
        }
    }
}

/// `Display` writes the form used in the configuration file.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Inherited(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// A certificate chain and its key.
#[derive(Debug, Clone)]
pub struct Certificate {
    /// Its DNS names, in lower case. The `*` in `*.example.com` matches one label. Empty if the certificate has only IP
    /// addresses.
    pub names: Vec<String>,
    /// The chain, leaf first, and the private key that matches it.
    pub key: Arc<CertifiedKey>,
    /// The start of its validity, inclusive.
    pub not_before: SystemTime,
    /// The end of its validity, inclusive.
    pub not_after: SystemTime,
}

impl Certificate {
    /// Whether the certificate is valid at this time.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        (self.not_before..=self.not_after).contains(&now)
    }
}

/// Two certificates are equal if their chains are. The key belongs to the chain, so it is the same, too.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }
}

impl Eq for Certificate {}
