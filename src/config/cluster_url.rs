//! Parses the URL of the servers of a cluster.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;

use super::common::unix_path;
use super::networks::is_private;
use super::server_address::is_host_name;

/// The ports of servers and sentinels whose address names none.
const PORT: u16 = 6379;
const SENTINEL_PORT: u16 = 26_379;
/// Maximum number of addresses in a URL.
const ADDRESSES_MAX: usize = 16;
/// Maximum length of the name of a master, in bytes.
const MASTER_MAX_BYTES: usize = 64;

/// Where the servers of a cluster are. `Display` shows them as a URL, which has no secret. A host is an IP address without
/// brackets, or a name in lower case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClusterServers {
    /// One server.
    Single {
        /// Its address.
        address: RedisAddress,
        /// Whether the connection uses TLS; never to a Unix socket.
        tls: bool,
        /// The number of the database.
        db: u32,
    },
    /// The server that Redis Sentinel names as the master.
    Sentinel {
        /// The hosts and ports of the sentinels: 1 to 16, each once.
        sentinels: Vec<(String, u16)>,
        /// The name of the master.
        master: String,
        /// Whether connections to the sentinels and to the master use TLS.
        tls: bool,
        /// The number of the database.
        db: u32,
    },
    /// The nodes of a Redis Cluster.
    Cluster {
        /// The hosts and ports of some of its nodes: 1 to 16, each once. They name the others.
        nodes: Vec<(String, u16)>,
        /// Whether connections use TLS.
        tls: bool,
    },
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RedisAddress {
    /// A host and a port.
    Tcp(String, u16),
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
}

/// Why a text is not the URL of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ClusterUrlError {
    /// It has no scheme, or an unknown one.
    Scheme,
    /// It has a user name or a password.
    UserInfo,
    /// It has a character that no part of it may have.
    Character,
    /// It has a query or a fragment, or an unknown parameter.
    Query,
    /// The path of a Unix socket is not valid. The error is the label at the caret and the help text.
    Socket(&'static str, String),
    /// An address is neither an IP address nor a host name.
    Host,
    /// An IPv6 address is not in brackets.
    Brackets,
    /// A port is not a number from 1 to 65535.
    Port,
    /// It has several addresses where one is expected.
    Several,
    /// It has more than 16 addresses.
    TooMany,
    /// It has an address twice.
    Twice,
    /// The name of the master is missing or not valid.
    Master,
    /// The database is not a number.
    Database,
    /// It names a database of a Redis Cluster.
    ClusterDatabase,
}

/// What the scheme says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Single,
    Sentinel,
    Cluster,
}

impl ClusterServers {
    /// Parses a URL.
    pub(super) fn parse(text: &str) -> Result<Self, ClusterUrlError> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return parse_unix(rest);
        }
        let (scheme, rest) = text.split_once("://").ok_or(ClusterUrlError::Scheme)?;
        let (form, tls) = parse_scheme(&scheme.to_ascii_lowercase()).ok_or(ClusterUrlError::Scheme)?;
        if rest.contains('@') {
            return Err(ClusterUrlError::UserInfo);
        }
        no_query(rest)?;
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let default_port = if form == Form::Sentinel { SENTINEL_PORT } else { PORT };
        let mut addresses = parse_addresses(authority, default_port)?;
        match form {
            Form::Single => {
                let (host, port) = addresses.pop().ok_or(ClusterUrlError::Host)?;
                if !addresses.is_empty() {
                    return Err(ClusterUrlError::Several);
                }
                Ok(Self::Single { address: RedisAddress::Tcp(host, port), tls, db: parse_db(path)? })
            }
            Form::Sentinel => {
                let (master, db) = path.split_once('/').unwrap_or((path, ""));
                let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
                if !(1..=MASTER_MAX_BYTES).contains(&master.len()) || !master.bytes().all(valid) {
                    return Err(ClusterUrlError::Master);
                }
                Ok(Self::Sentinel { sentinels: addresses, master: master.to_owned(), tls, db: parse_db(db)? })
            }
            Form::Cluster if path.is_empty() => Ok(Self::Cluster { nodes: addresses, tls }),
            Form::Cluster => Err(ClusterUrlError::ClusterDatabase),
        }
    }

    /// Whether connections use TLS.
    pub fn uses_tls(&self) -> bool {
        match self {
            Self::Single { tls, .. } | Self::Sentinel { tls, .. } | Self::Cluster { tls, .. } => *tls,
        }
    }

    /// Returns the first address to which a connection without TLS crosses a network that is not private. Those of names
    /// are not known.
    pub(super) fn exposed(&self) -> Option<IpAddr> {
        let public = |(host, _): &(String, u16)| host.parse().ok().filter(|ip| !is_private(*ip));
        match self {
            _ if self.uses_tls() => None,
            Self::Single { address: RedisAddress::Unix(_), .. } => None,
            Self::Single { address: RedisAddress::Tcp(host, port), .. } => public(&(host.clone(), *port)),
            Self::Sentinel { sentinels: all, .. } | Self::Cluster { nodes: all, .. } => all.iter().find_map(public),
        }
    }
}

fn parse_scheme(scheme: &str) -> Option<(Form, bool)> {
    let (base, form) = match scheme.split_once('+') {
        None => (scheme, Form::Single),
        Some((base, "sentinel")) => (base, Form::Sentinel),
        Some((base, "cluster")) => (base, Form::Cluster),
        Some(_) => return None,
    };
    match base {
        "redis" | "valkey" => Some((form, false)),
        "rediss" | "valkeys" => Some((form, true)),
        _ => None,
    }
}

/// Checks that there is no query and no fragment. One that seems to have a password is reported as such.
fn no_query(rest: &str) -> Result<(), ClusterUrlError> {
    match rest.split_once(['?', '#']) {
        None => Ok(()),
        Some((_, query)) => Err(query_error(query)),
    }
}

fn query_error(query: &str) -> ClusterUrlError {
    let query = query.to_ascii_lowercase();
    let is_secret = ["user", "pass", "pwd", "auth", "token"].iter().any(|word| query.contains(word));
    if is_secret { ClusterUrlError::UserInfo } else { ClusterUrlError::Query }
}

fn parse_unix(rest: &str) -> Result<ClusterServers, ClusterUrlError> {
    let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
    let db = match query.split_once('=') {
        Some(("db", db)) if !db.contains('&') => parse_db(db)?,
        None if query.is_empty() => 0,
        _ => return Err(query_error(query)),
    };
    let path = unix_path(path).map_err(|(label, help)| ClusterUrlError::Socket(label, help))?;
    Ok(ClusterServers::Single { address: RedisAddress::Unix(path), tls: false, db })
}

/// Parses the number of a database; an empty text is the first one.
fn parse_db(text: &str) -> Result<u32, ClusterUrlError> {
    if text.is_empty() {
        return Ok(0);
    }
    let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_number).ok_or(ClusterUrlError::Database)
}

fn parse_addresses(authority: &str, default_port: u16) -> Result<Vec<(String, u16)>, ClusterUrlError> {
    let mut addresses = Vec::new();
    let mut seen = BTreeSet::new();
    for text in authority.split(',') {
        if addresses.len() == ADDRESSES_MAX {
            return Err(ClusterUrlError::TooMany);
        }
        let address = parse_address(text, default_port)?;
        if !seen.insert(address.clone()) {
            return Err(ClusterUrlError::Twice);
        }
        addresses.push(address);
    }
    Ok(addresses)
}

fn parse_address(text: &str, default_port: u16) -> Result<(String, u16), ClusterUrlError> {
    if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ClusterUrlError::Character);
    }
    let (host, port) = match text.strip_prefix('[').map(|rest| rest.split_once(']')) {
        Some(None) => return Err(ClusterUrlError::Host),
        Some(Some((host, rest))) => {
            let host: Ipv6Addr = host.parse().map_err(|_| ClusterUrlError::Host)?;
            let port = if rest.is_empty() { None } else { Some(rest.strip_prefix(':').ok_or(ClusterUrlError::Host)?) };
            (host.to_string(), port)
        }
        None => {
            let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
            if port.is_some_and(|port| port.contains(':')) {
                return Err(ClusterUrlError::Brackets);
            }
            if !is_host_name(host) {
                return Err(ClusterUrlError::Host);
            }
            (host.to_ascii_lowercase(), port)
        }
    };
    let port = match port {
        None => default_port,
        Some(port) => {
            let is_number = port.bytes().all(|byte| byte.is_ascii_digit());
            port.parse().ok().filter(|port| is_number && *port > 0).ok_or(ClusterUrlError::Port)?
        }
    };
    Ok((host, port))
}

impl ClusterUrlError {
    /// Returns the text at the caret.
    pub(super) fn label(&self) -> &'static str {
        match self {
            Self::Scheme => {
                "expected `redis://`, `rediss://`, `unix:/path`, or a scheme with `+sentinel` or `+cluster`"
            }
            Self::UserInfo => "a URL is shown in logs",
            Self::Character => "an address has only visible ASCII characters",
            Self::Query => "a query is supported only as in \"unix:/run/redis.sock?db=1\"",
            Self::Socket(label, _) => label,
            Self::Host => "expected an IP address or a host name, and optionally a port",
            Self::Brackets => "an IPv6 address must be in brackets",
            Self::Port => "the port must be between 1 and 65535",
            Self::Several => "several addresses, without a scheme that says what they are",
            Self::TooMany => "at most 16 addresses are supported",
            Self::Twice => "it has an address twice",
            Self::Master => "the name of the master is missing or not valid: letters, digits, `.`, `-` and `_`",
            Self::Database => "the database must be a number",
            Self::ClusterDatabase => "a Redis Cluster has only one database",
        }
    }

    /// Returns the help text.
    pub(super) fn help(&self) -> String {
        let help = match self {
            Self::UserInfo => "use the keys `username` and `password_file`",
            Self::Several => "write \"redis+sentinel://...\" or \"redis+cluster://...\"",
            Self::Master => "write it as in \"redis+sentinel://10.0.0.1,10.0.0.2,10.0.0.3/MASTER\"",
            Self::ClusterDatabase => "leave out the path, and choose a `prefix`",
            Self::Socket(_, help) => help,
            _ => {
                "write it as in \"redis://127.0.0.1:6379\", \"rediss://redis.internal/1\", \"unix:/run/redis.sock?db=1\", \
                 \"redis+sentinel://10.0.0.1,10.0.0.2/MASTER\" or \"redis+cluster://[fd00::1]:6379,[fd00::2]:6379\""
            }
        };
        help.to_owned()
    }
}

/// Shows an address with its port, and an IPv6 address in brackets.
struct Address<'a>(&'a str, u16);

impl fmt::Display for Address<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

fn write_all(f: &mut fmt::Formatter<'_>, addresses: &[(String, u16)]) -> fmt::Result {
    for (index, (host, port)) in addresses.iter().enumerate() {
        write!(f, "{}{}", if index == 0 { "" } else { "," }, Address(host, *port))?;
    }
    Ok(())
}

impl fmt::Display for ClusterServers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = if self.uses_tls() { "rediss" } else { "redis" };
        let db = match self {
            Self::Single { address: RedisAddress::Unix(path), db, .. } => {
                write!(f, "unix:{}", path.display())?;
                return if *db == 0 { Ok(()) } else { write!(f, "?db={db}") };
            }
            Self::Single { address: RedisAddress::Tcp(host, port), db, .. } => {
                write!(f, "{base}://{}", Address(host, *port))?;
                *db
            }
            Self::Sentinel { sentinels, master, db, .. } => {
                write!(f, "{base}+sentinel://")?;
                write_all(f, sentinels)?;
                write!(f, "/{master}")?;
                *db
            }
            Self::Cluster { nodes, .. } => {
                write!(f, "{base}+cluster://")?;
                write_all(f, nodes)?;
                0
            }
        };
        if db == 0 { Ok(()) } else { write!(f, "/{db}") }
    }
}

#[cfg(test)]
mod tests;
