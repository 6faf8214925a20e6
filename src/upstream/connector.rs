//! Opens a WebSocket to one of an upstream's servers, with failover to the next one.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::names::{LookUpTimeout, Names};
use super::open::{OpenError, UpstreamResponse, open};
use super::race::{self, ATTEMPTS_AT_ONCE};
use crate::balance::{Pool, Server, ServerAddress, UpstreamConfig};
use crate::policy::admission::Admission;
use crate::policy::counts::KeyedLimiter;
use crate::policy::quota::{Quota, Rate};
use crate::policy::rejection::Rejection;
use crate::runtime::socket::SocketStream;

/// Quota of the log lines about failures and recoveries of one upstream's servers: 1 per second in the long run, 10 at
/// once.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(9),
};
/// The pause before another attempt to connect to a Unix socket whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Connects to the servers of all upstreams. It lives as long as the process.
#[derive(Debug)]
pub struct Connector {
    names: Names,
    /// The quotas of log lines, by upstream.
    lines: KeyedLimiter<Arc<str>>,
    clock: fn() -> Instant,
}

/// The reason why no server sent a response.
#[derive(Debug)]
pub struct AskError {
    /// The rejection of the request.
    pub rejection: Rejection,
    /// The last server that was tried, if there was one.
    pub server: Option<Arc<str>>,
    /// The error of that server, for the log.
    pub detail: String,
}

/// Returns the number of descriptors that the pending requests of an upstream may use besides one each: two addresses
/// of a name may be tried at once.
pub fn extra_descriptors(upstream: &UpstreamConfig) -> usize {
    let races = upstream.servers.iter().any(ServerAddress::has_name);
    if races { (ATTEMPTS_AT_ONCE - 1).saturating_mul(upstream.max_pending_requests as usize) } else { 0 }
}

impl Connector {
    /// Creates a connector that knows no addresses yet.
    pub fn new(clock: fn() -> Instant) -> Self {
        Self { names: Names::default(), lines: KeyedLimiter::over(Arc::default(), LINES), clock }
    }

    /// Drops the addresses of servers for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.names.retain(keep);
    }

    /// Sends the request, after this PROXY header, to a server of the pool that it was admitted for: the next one in
    /// round-robin order, or the first after it that accepts the connection. Returns the response and the name of the
    /// server.
    ///
    /// # Errors
    /// If `max_pending_requests` requests are pending, no server accepts the connection in time, or the one that does
    /// sends no valid response in time.
    pub async fn ask(
        &self,
        admission: &Admission,
        proxy_header: &[u8],
        request: Request<Empty<Bytes>>,
    ) -> Result<(UpstreamResponse, Arc<str>), AskError> {
        let pool = admission.pool();
        let Some(_pending) = pool.begin_request() else {
            return Err(AskError { rejection: Rejection::UpstreamBusy, server: None, detail: String::new() });
        };
        let (stream, server) = self.connect(pool).await?;
        let config = pool.config();
        let response = open(stream, proxy_header, request, config.response_timeout, config.title_case_headers).await;
        let name = &server.name;
        let (rejection, error) = match response {
            Ok(response) => {
                if let Some(failures) = server.health.recover(|| self.may_log(pool)) {
                    tracing::warn!(upstream = %config.name, server = %name, failures, "server recovered");
                }
                return Ok((response, Arc::clone(name)));
            }
            Err(OpenError::Timeout) => (Rejection::UpstreamTimeout, "no response in time".to_owned()),
            Err(OpenError::Malformed(error)) => (Rejection::UpstreamMalformed, error.to_string()),
            Err(OpenError::Broken(error)) => (Rejection::Unreachable, error.to_string()),
        };
        self.note_failure(pool, server, &error);
        Err(AskError { rejection, server: Some(Arc::clone(name)), detail: error })
    }

    /// Connects to the next server in round-robin order, or to the first after it that accepts the connection. Each is
    /// tried once; those that failed recently are tried last.
    async fn connect<'a>(&self, pool: &'a Pool) -> Result<(SocketStream, &'a Server), AskError> {
        let mut failed = AskError { rejection: Rejection::Unreachable, server: None, detail: String::new() };
        let mut skipped = Vec::new();
        for server in pool.rotation() {
            if !server.health.is_due(pool.millis_at((self.clock)())) {
                skipped.push(server);
                continue;
            }
            match self.try_server(pool, server).await {
                Ok(stream) => return Ok((stream, server)),
                Err(error) => failed = error,
            }
        }
        for server in skipped {
            match self.try_server(pool, server).await {
                Ok(stream) => return Ok((stream, server)),
                Err(error) => failed = error,
            }
        }
        if pool.report_down(|| self.may_log(pool)) {
            let upstream = &pool.config().name;
            tracing::error!(%upstream, error = failed.detail, "no server of the upstream accepts a connection");
        }
        Err(failed)
    }

    async fn try_server(&self, pool: &Pool, server: &Server) -> Result<SocketStream, AskError> {
        match self.open_stream(server, pool.config().connect_timeout).await {
            Ok(stream) => {
                pool.connected(server);
                Ok(stream)
            }
            Err(error) => {
                server.connect_failures.fetch_add(1, Ordering::Relaxed);
                let timed_out = error.kind() == io::ErrorKind::TimedOut;
                let rejection = if timed_out { Rejection::UpstreamTimeout } else { Rejection::Unreachable };
                // A local error is not caused by the server, which another request may well reach.
                if !is_local(&error) {
                    server.health.skip(pool.millis_at((self.clock)()));
                }
                self.note_failure(pool, server, &error);
                Err(AskError { rejection, server: Some(Arc::clone(&server.name)), detail: error.to_string() })
            }
        }
    }

    async fn open_stream(&self, server: &Server, connect_timeout: Duration) -> io::Result<SocketStream> {
        let stream = match &server.address {
            ServerAddress::Unix(path) => {
                let connected = timeout(connect_timeout, connect_unix(path)).await;
                return connected.map_err(|_| race::no_connection_in_time())?.map(SocketStream::Unix);
            }
            ServerAddress::Tcp { host, port } => match host.parse::<IpAddr>() {
                Ok(ip) => race::connect(&[SocketAddr::new(ip, *port)], connect_timeout, self.clock).await?,
                Err(_) => self.names.get(&server.name).connect(host, *port, connect_timeout, self.clock).await?,
            },
        };
        // Frames are written whole, so a delay would gain nothing.
        stream.set_nodelay(true)?;
        Ok(SocketStream::Tcp(stream))
    }

    /// Logs a warning when a server begins to fail. The line that reports its recovery counts its further failures.
    fn note_failure(&self, pool: &Pool, server: &Server, error: &dyn Display) {
        let upstream = &pool.config().name;
        if server.health.fail(|| self.may_log(pool)) {
            tracing::warn!(%upstream, server = %server.name, %error, "server failed");
        } else {
            tracing::debug!(%upstream, server = %server.name, %error, "server failed again");
        }
    }

    fn may_log(&self, pool: &Pool) -> bool {
        self.lines.check(&pool.config().name, (self.clock)()).is_ok()
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
fn is_local(error: &io::Error) -> bool {
    let local = [Errno::MFILE, Errno::NFILE, Errno::NOBUFS, Errno::NOMEM, Errno::ADDRNOTAVAIL];
    error.raw_os_error().is_some_and(|code| local.iter().any(|errno| errno.raw_os_error() == code))
        || matches!(error.get_ref(), Some(inner) if inner.is::<LookUpTimeout>())
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
