//! Opens a connection to a server: names, addresses, Unix sockets, and TLS.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::names::{LookUpTimeout, Names};
use super::race;
use super::resolver::Resolver;
use super::stream::UpstreamStream;
use super::tls::{SetUpError, TlsConfigs};
use crate::balance::{Server, ServerAddress, UpstreamConfig};
use crate::runtime::socket::SocketStream;

/// The part of `connect_timeout` that a TLS handshake has at least, if the attempts to connect took nearly all of it.
const HANDSHAKE_PART: u32 = 4;
/// The pause before another attempt to connect to a Unix socket whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Opens connections to the servers of all upstreams. It lives as long as the process.
#[derive(Debug)]
pub struct ServerConnector {
    names: Names,
    resolver: Resolver,
    tls: TlsConfigs,
    clock: fn() -> Instant,
}

impl ServerConnector {
    /// Creates a connector that knows no addresses yet.
    pub fn new(clock: fn() -> Instant) -> Self {
        Self { names: Names::default(), resolver: Resolver::new(clock), tls: TlsConfigs::default(), clock }
    }

    /// Returns the resolver of the process.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Drops the addresses of servers for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.names.retain(keep);
    }

    /// Drops the TLS configurations of upstreams for which `keep` returns false.
    pub fn retain_tls(&self, keep: impl Fn(&str) -> bool) {
        self.tls.retain(keep);
    }

    /// Connects to a server of an upstream and, if the upstream has `tls`, sends this PROXY header, unless it is empty,
    /// and does the TLS handshake. Without TLS the caller sends the header. Both together have this limit, and the
    /// handshake has a quarter of it at least.
    ///
    /// # Errors
    /// If the server does not accept the connection, or the handshake fails. The kind is `TimedOut` if either takes too
    /// long.
    pub async fn connect(
        &self,
        upstream: &UpstreamConfig,
        server: &Server,
        proxy_header: &[u8],
        limit: Duration,
    ) -> io::Result<UpstreamStream> {
        let started = (self.clock)();
        let socket = self.open_socket(server, limit).await?;
        let Some(tls) = &upstream.tls else { return Ok(UpstreamStream::Plain(socket)) };
        let passed = (self.clock)().saturating_duration_since(started);
        let rest = limit.saturating_sub(passed).max(limit / HANDSHAKE_PART);
        // In a box: its state is large, and most upstreams are plain.
        Box::pin(self.tls.connect((upstream, tls), server, socket, proxy_header, rest)).await
    }

    /// Opens a connection to a server, without TLS.
    pub(super) async fn open_socket(&self, server: &Server, connect_timeout: Duration) -> io::Result<SocketStream> {
        let stream = match server.address() {
            ServerAddress::Unix(path) => {
                let connected = timeout(connect_timeout, connect_unix(path)).await;
                return connected.map_err(|_| race::no_connection_in_time())?.map(SocketStream::Unix);
            }
            ServerAddress::Tcp { host, port } => {
                if let Ok(ip) = host.parse::<IpAddr>() {
                    race::connect(&[SocketAddr::new(ip, *port)], connect_timeout, self.clock).await?
                } else {
                    let name = self.names.get(server.name());
                    name.connect(&self.resolver, (host, *port), connect_timeout, self.clock).await?
                }
            }
        };
        // Frames are written whole, so a delay would gain nothing.
        stream.set_nodelay(true)?;
        Ok(SocketStream::Tcp(stream))
    }
}

/// Connects to a Unix socket. If its queue is full, the kernel returns an error at once, and the call is repeated.
async fn connect_unix(path: &Path) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(FULL_PAUSE).await,
            connected => return connected,
        }
    }
}

/// Whether an error of connecting is caused by this machine and not by the server.
pub(super) fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
        || matches!(error.get_ref(), Some(inner) if inner.is::<LookUpTimeout>() || inner.is::<SetUpError>())
}

#[cfg(test)]
mod tests {
    use super::super::names::look_up_timeout;
    use super::*;

    #[test]
    fn local_errors_do_not_count_against_the_server() {
        for local in [Errno::MFILE, Errno::ADDRNOTAVAIL] {
            assert!(is_local(&io::Error::from(local)), "{local}");
        }
        assert!(is_local(&look_up_timeout()));
        for remote in [Errno::CONNREFUSED, Errno::HOSTUNREACH] {
            assert!(!is_local(&io::Error::from(remote)), "{remote}");
        }
        assert!(!is_local(&race::no_connection_in_time()));
    }
}
