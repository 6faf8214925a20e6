//! Opens connections to a server, to the master that sentinels name, or to a Redis Cluster.

use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo as _, Pipeline,
    ProtocolVersion, RedisConnectionInfo, RedisError, RedisFuture, RedisResult, TlsCertificates, TlsMode, Value,
};

use crate::config::{ClusterConfig, ClusterServers, RedisAddress};
use crate::policy::remote::Roots;

/// The shortest time for an attempt to connect, which takes several round trips with TLS, a login and sentinels.
pub const CONNECT_MIN: Duration = Duration::from_secs(1);
/// The number of bytes in a line of PEM (RFC 7468 section 2), before the encoding.
const PEM_LINE_BYTES: usize = 48;

/// Opens connections to the servers of a configuration.
pub struct Connector(Kind);

enum Kind {
    Single(Box<Client>),
    /// The second one has another login at the sentinels, if there is one: many sentinels want none, although their master
    /// does.
    Sentinel(Box<SentinelClient>, Option<Box<SentinelClient>>),
    Cluster(Box<ClusterClient>),
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.0 {
            Kind::Single(_) => "Single",
            Kind::Sentinel(..) => "Sentinel",
            Kind::Cluster(_) => "Cluster",
        };
        f.debug_tuple("Connector").field(&kind).finish()
    }
}

/// A connection, which many callers may use at once.
#[derive(Clone)]
pub enum Connection {
    /// To one server.
    Single(MultiplexedConnection),
    /// To all servers of a Redis Cluster.
    Cluster(ClusterConnection),
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connector {
    /// Creates a connector.
    ///
    /// # Errors
    /// If the library refuses the settings, such as certificates that it cannot read.
    pub fn new(config: &ClusterConfig) -> RedisResult<Self> {
        let certificates = certificates(&config.roots);
        Ok(Self(match &config.servers {
            ClusterServers::Single { address, tls, db } => {
                let info = address_of(address, *tls).into_connection_info()?;
                let info = info.set_redis_settings(login(config).set_db((*db).into()));
                let client = if *tls { Client::build_with_tls(info, certificates)? } else { Client::open(info)? };
                Kind::Single(Box::new(client))
            }
            ClusterServers::Sentinel { sentinels, master, tls, db } => {
                let client = |has_login| {
                    sentinel(config, sentinels, master, (*tls, *db), (certificates.clone(), has_login)).map(Box::new)
                };
                let other = config.password.is_some().then(|| client(false)).transpose()?;
                Kind::Sentinel(client(true)?, other)
            }
            ClusterServers::Cluster { nodes, tls } => {
                let infos = nodes.iter().map(|(host, port)| {
                    let address = address_of(&RedisAddress::Tcp(host.clone(), *port), *tls);
                    Ok(address.into_connection_info()?.set_redis_settings(login(config)))
                });
                let infos = infos.collect::<RedisResult<Vec<ConnectionInfo>>>()?;
                let builder = ClusterClientBuilder::new(infos)
                    .use_protocol(ProtocolVersion::RESP3)
                    .connection_timeout(config.timeout)
                    .response_timeout(config.timeout)
                    // It would end a read that waits for entries, whatever response timeout its connection has.
                    .overall_response_timeout(None)
                    .retries(1);
                let builder = if *tls { builder.tls(TlsMode::Secure).certs(certificates) } else { builder };
                Kind::Cluster(Box::new(builder.build()?))
            }
        }))
    }

    /// Opens a connection. A command on it fails if its answer takes longer than `response_timeout`.
    ///
    /// # Errors
    /// If no server can be reached within the time, or it refuses the login.
    pub async fn connect(&mut self, within: Duration, response_timeout: Option<Duration>) -> RedisResult<Connection> {
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(within)).set_response_timeout(response_timeout);
        Ok(match &mut self.0 {
            Kind::Single(client) => {
                Connection::Single(client.get_multiplexed_async_connection_with_config(&config).await?)
            }
            Kind::Sentinel(client, other) => match (client.get_async_connection_with_config(&config).await, other) {
                (Err(error), Some(other)) if is_of_login(&error) => {
                    let connection = other.get_async_connection_with_config(&config).await;
                    let connection = connection.map_err(|other| if is_of_login(&other) { error } else { other })?;
                    // The next connection begins with this login.
                    std::mem::swap(client, other);
                    Connection::Single(connection)
                }
                (connection, _) => Connection::Single(connection?),
            },
            Kind::Cluster(client) => {
                let config = redis::cluster::ClusterConfig::new().set_connection_timeout(within);
                let config = match response_timeout {
                    Some(timeout) => config.set_response_timeout(timeout),
                    None => config,
                };
                Connection::Cluster(client.get_async_connection_with_config(config).await?)
            }
        })
    }
}

impl Connection {
    /// Runs commands in one round trip, each of which uses one key: the keys may be on several servers.
    ///
    /// # Errors
    /// The first error. If it is an answer, all commands were answered.
    pub async fn each(self, commands: &[Cmd]) -> RedisResult<()> {
        match self {
            Self::Single(mut connection) => {
                let mut pipeline = Pipeline::with_capacity(commands.len());
                for command in commands {
                    pipeline.add_command(command.clone());
                }
                let answers: Vec<Value> = pipeline.ignore_errors().query_async(&mut connection).await?;
                answers.into_iter().try_for_each(|answer| answer.extract_error().map(drop))
            }
            Self::Cluster(connection) => {
                let run = async |command: &Cmd| command.query_async::<()>(&mut connection.clone()).await;
                join_all(commands.iter().map(run)).await.into_iter().collect()
            }
        }
    }
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Single(connection) => connection.req_packed_command(cmd),
            Self::Cluster(connection) => connection.req_packed_command(cmd),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        cmd: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Single(connection) => connection.req_packed_commands(cmd, offset, count),
            Self::Cluster(connection) => connection.req_packed_commands(cmd, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Single(connection) => connection.get_db(),
            Self::Cluster(connection) => connection.get_db(),
        }
    }
}

/// Whether a server refuses a login, or wants one.
fn is_of_login(error: &RedisError) -> bool {
    error.kind() == ErrorKind::AuthenticationFailed || error.code() == Some("NOAUTH")
}

fn sentinel(
    config: &ClusterConfig,
    sentinels: &[(String, u16)],
    master: &str,
    (tls, db): (bool, u32),
    (certificates, has_login): (TlsCertificates, bool),
) -> RedisResult<SentinelClient> {
    let addresses = sentinels.iter().map(|(host, port)| address_of(&RedisAddress::Tcp(host.clone(), *port), tls));
    let mut builder = SentinelClientBuilder::new(addresses, master, SentinelServerType::Master)?
        .set_client_to_redis_db(db.into())
        .set_client_to_redis_protocol(ProtocolVersion::RESP3);
    if let Some(username) = &config.username {
        builder = builder.set_client_to_redis_username(username);
    }
    if let Some(password) = &config.password {
        builder = builder.set_client_to_redis_password(password.as_str());
    }
    if let Some(username) = config.username.as_ref().filter(|_| has_login) {
        builder = builder.set_client_to_sentinel_username(username);
    }
    if let Some(password) = config.password.as_ref().filter(|_| has_login) {
        builder = builder.set_client_to_sentinel_password(password.as_str());
    }
    if tls {
        builder = builder
            .set_client_to_redis_tls_mode(TlsMode::Secure)
            .set_client_to_redis_certificates(certificates.clone())
            .set_client_to_sentinel_tls_mode(TlsMode::Secure)
            .set_client_to_sentinel_certificates(certificates);
    }
    builder.build()
}

fn login(config: &ClusterConfig) -> RedisConnectionInfo {
    let mut login = RedisConnectionInfo::default()
        .set_protocol(ProtocolVersion::RESP3)
        .set_lib_name(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));
    if let Some(username) = &config.username {
        login = login.set_username(username);
    }
    if let Some(password) = &config.password {
        login = login.set_password(password.as_str());
    }
    login
}

fn address_of(address: &RedisAddress, tls: bool) -> ConnectionAddr {
    match address {
        RedisAddress::Unix(path) => ConnectionAddr::Unix(path.clone()),
        RedisAddress::Tcp(host, port) if tls => {
            ConnectionAddr::TcpTls { host: host.clone(), port: *port, insecure: false, tls_params: None }
        }
        RedisAddress::Tcp(host, port) => ConnectionAddr::Tcp(host.clone(), *port),
    }
}

/// Returns the roots in PEM, which is the form that the library takes. Without roots it trusts those of the system.
fn certificates(roots: &Roots) -> TlsCertificates {
    let Roots::Certificates(roots) = roots else { return TlsCertificates { client_tls: None, root_cert: None } };
    let mut pem = String::new();
    for root in roots.iter() {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in root.chunks(PEM_LINE_BYTES) {
            STANDARD.encode_string(line, &mut pem);
            pem.push('\n');
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    TlsCertificates { client_tls: None, root_cert: Some(pem.into_bytes()) }
}
