//! TLS towards servers: the configuration of each, with the sessions that it can resume, and the handshake.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::crypto::aws_lc_rs::default_provider;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::stream::UpstreamStream;
use crate::balance::{Server, TlsMinVersion, UpstreamConfig, UpstreamTls};
use crate::client::roots;
use crate::runtime::socket::SocketStream;
use crate::runtime::tls_socket::{OUTPUT_MAX_BYTES, TlsSocket};

/// The maximum number of sessions that can be resumed at one server: TLS 1.3 tickets, each of which is used once. Of TLS
/// 1.2 the last session is kept.
const TICKETS_MAX: usize = 8;
/// The maximum number of servers of an upstream whose sessions are kept. Beyond it, all are dropped.
const SERVERS_MAX: usize = 1024;

/// The TLS configurations of all upstreams, by name.
#[derive(Default)]
pub(super) struct TlsConfigs(Mutex<HashMap<Arc<str>, Configured>>);

/// The configuration of an upstream.
struct Configured {
    settings: Arc<UpstreamTls>,
    base: ClientConfig,
    /// The same with a store of sessions for each server: a ticket is of use only to the server that issued it.
    servers: HashMap<Arc<str>, Arc<ClientConfig>>,
}

impl Configured {
    fn server(&mut self, name: &Arc<str>) -> Arc<ClientConfig> {
        if self.servers.len() >= SERVERS_MAX && !self.servers.contains_key(name) {
            self.servers.clear();
        }
        let new = || {
            let mut config = self.base.clone();
            config.resumption = Resumption::in_memory_sessions(TICKETS_MAX);
            Arc::new(config)
        };
        Arc::clone(self.servers.entry(Arc::clone(name)).or_insert_with(new))
    }
}

/// An error that is not caused by a server: the upstream has no usable TLS configuration.
#[derive(Debug)]
pub(super) struct SetUpError(String);

impl fmt::Display for SetUpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TLS cannot be set up: {}", self.0)
    }
}

impl std::error::Error for SetUpError {}

impl TlsConfigs {
    /// Drops the configurations of upstreams for which `keep` returns false.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.lock().retain(|upstream, _| keep(upstream));
    }

    /// Sends the PROXY header, unless it is empty, and does the handshake.
    ///
    /// # Errors
    /// If it fails or takes longer than `limit`; then the kind is `TimedOut`.
    pub(super) async fn connect(
        &self,
        (upstream, tls): (&UpstreamConfig, &Arc<UpstreamTls>),
        server: &Server,
        mut socket: SocketStream,
        proxy_header: &[u8],
        limit: Duration,
    ) -> io::Result<UpstreamStream> {
        let name = tls.server_name.clone().or_else(|| server.address().certificate_name());
        let name = name.ok_or_else(|| set_up_error("`server_name` is not set, and the address has no host"))?;
        let handshake = async {
            let config = self.get(&upstream.name, tls, server.name()).await.map_err(set_up_error)?;
            socket.write_all(proxy_header).await?;
            let connector = TlsConnector::from(config);
            let limit_output = |new: &mut rustls::ClientConnection| new.set_buffer_limit(Some(OUTPUT_MAX_BYTES));
            connector.connect_with(name, TlsSocket::new(socket), limit_output).await.map_err(|error| failed(&error))
        };
        let connected = timeout(limit, handshake).await.unwrap_or_else(|_| Err(no_handshake_in_time()))?;
        Ok(UpstreamStream::Tls(Box::new(connected)))
    }

    /// Returns the configuration for a server. The first connection with these settings builds it.
    async fn get(
        &self,
        upstream: &Arc<str>,
        tls: &Arc<UpstreamTls>,
        server: &Arc<str>,
    ) -> Result<Arc<ClientConfig>, String> {
        if let Some(known) = self.lock().get_mut(upstream).filter(|known| known.settings == *tls) {
            return Ok(known.server(server));
        }
        let built = Configured { settings: Arc::clone(tls), base: build(tls).await?, servers: HashMap::new() };
        let mut all = self.lock();
        // Requests that were admitted before a reload may still use the earlier settings.
        let known = all.remove(upstream).filter(|known| known.settings == *tls).unwrap_or(built);
        Ok(all.entry(Arc::clone(upstream)).or_insert(known).server(server))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Configured>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TlsConfigs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.lock().keys()).finish()
    }
}

/// Builds the configuration of an upstream: HTTP/1.1 only, and no early data, since an opening handshake must not be
/// replayable (RFC 8446 section 8).
async fn build(tls: &UpstreamTls) -> Result<ClientConfig, String> {
    let roots = roots::store(&tls.roots).await.map_err(|cause| format!("no root certificate can be used: {cause}"))?;
    let versions: &[_] = match tls.min_version {
        TlsMinVersion::Tls12 => &[&rustls::version::TLS13, &rustls::version::TLS12],
        TlsMinVersion::Tls13 => &[&rustls::version::TLS13],
    };
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = match &tls.certificate {
        None => config.with_no_client_auth(),
        Some(own) => config
            .with_client_auth_cert(own.chain.clone(), own.key.clone_key())
            .map_err(|error| format!("the client certificate cannot be used: {error}"))?,
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn set_up_error(cause: impl Into<String>) -> io::Error {
    io::Error::other(SetUpError(cause.into()))
}

/// Returns the error of a failed handshake, with the reason.
fn failed(error: &io::Error) -> io::Error {
    let kind = error.kind();
    io::Error::new(
        kind,
        match kind {
            io::ErrorKind::UnexpectedEof => "the server closed the connection in the TLS handshake".to_owned(),
            _ => format!("the TLS handshake failed: {error}"),
        },
    )
}

/// Returns the error of a server that does not complete the handshake.
fn no_handshake_in_time() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake timed out")
}
