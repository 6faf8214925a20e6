//! Opens a WebSocket to one of an upstream's servers, with failover to the next one.

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use rustix::io::Errno;
use tokio::net::UnixStream;
use tokio::time::{sleep, timeout};

use super::names::{LookUpTimeout, Names};
use super::open::{OpenError, UpstreamResponse, open};
use super::race::{self, ATTEMPTS_AT_ONCE};
use super::resolver::Resolver;
use crate::balance::{
    Attempt, Change, Failure, NoServer, Picked, Pool, Server, ServerAddress, ServerSession, UpstreamConfig,
};
use crate::policy::admission::Admission;
use crate::policy::counts::KeyedLimiter;
use crate::policy::hash_key::hash_key;
use crate::policy::quota::{Quota, Rate};
use crate::policy::rejection::Rejection;
use crate::policy::request::RequestFacts;
use crate::runtime::entropy::random;
use crate::runtime::socket::SocketStream;
use crate::ws::handshake::AnswerError;

/// Quota of the log lines about failures and recoveries of one upstream's servers: 1 per second in the long run, 10 at
/// once.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(9),
};
/// The time after which a client that leaves while it waits for a server counts as a failure of the server.
const ABANDONED_AFTER: Duration = Duration::from_millis(500);
/// The pause before another attempt to connect to a Unix socket whose queue is full.
const FULL_PAUSE: Duration = Duration::from_millis(10);

/// Connects to the servers of all upstreams. It lives as long as the process.
#[derive(Debug)]
pub struct Connector {
    names: Names,
    resolver: Resolver,
    /// The quotas of log lines, by upstream.
    lines: KeyedLimiter<Arc<str>>,
    clock: fn() -> Instant,
}

/// The response of a server.
#[derive(Debug)]
pub struct Asked {
    /// The response.
    pub response: UpstreamResponse,
    /// The request as a session of the server, to be kept while the session is open.
    pub session: ServerSession,
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
    let races = upstream.servers.iter().any(|server| server.address.has_name());
    if races { (ATTEMPTS_AT_ONCE - 1).saturating_mul(upstream.max_pending_requests as usize) } else { 0 }
}

impl Connector {
    /// Creates a connector that knows no addresses yet.
    pub fn new(clock: fn() -> Instant) -> Self {
        Self {
            names: Names::default(),
            resolver: Resolver::new(clock),
            lines: KeyedLimiter::over(Arc::default(), LINES),
            clock,
        }
    }

    /// Returns the resolver of the process.
    pub fn resolver(&self) -> &Resolver {
        &self.resolver
    }

    /// Drops the addresses of servers for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.names.retain(keep);
    }

    /// Sends the request, after this PROXY header, to a server of the pool that it was admitted for: the one that
    /// [`Pool::choose`] returns. If that does not accept the connection, or breaks it before its response, up to
    /// `retries` further servers are tried: an opening handshake has no effect before its response (RFC 9110 section
    /// 9.2.2). The request counts as a session of the server from before the connection on, so that requests that arrive
    /// together are spread.
    ///
    /// # Errors
    /// If `max_pending_requests` requests are pending, every server is full, no server that is tried accepts the
    /// connection in time, or the one that does sends no valid response in time.
    pub async fn ask(
        &self,
        admission: &Admission,
        facts: &RequestFacts<'_>,
        proxy_header: &[u8],
        request: Request<Empty<Bytes>>,
    ) -> Result<Asked, AskError> {
        let pool = admission.pool();
        let Some(_pending) = pool.begin_request() else {
            return Err(AskError { rejection: Rejection::UpstreamBusy, server: None, detail: String::new() });
        };
        let started = (self.clock)();
        pool.retries().count_request(pool.millis_at(started));
        let key = hash_key(&pool.config().balance, facts, admission.grant());
        let mut attempt = Attempt::new(key, u64::from_be_bytes(random()));
        let mut failed = None;
        loop {
            if let Some(failed) = failed.take_if(|_| !self.has_time(pool, &attempt, started)) {
                return Err(self.give_up(pool, failed));
            }
            // The budget is asked first: a server that is chosen for a trial is tried.
            let is_retry = failed.is_some();
            if let Some(failed) = failed.take_if(|_| !pool.retries().take(self.now_ms(pool))) {
                return Err(self.give_up(pool, failed));
            }
            if is_retry {
                sleep(attempt.pause()).await;
            }
            let Picked { server, session } = match pool.choose(&mut attempt, self.now_ms(pool)) {
                Ok(picked) => picked,
                Err(none) => return Err(self.no_server(pool, none, failed)),
            };
            let error = match self.try_server(pool, server).await {
                Ok(stream) => match self.ask_server(pool, server, stream, (proxy_header, request.clone())).await {
                    Ok(response) => return Ok(Asked { response, session }),
                    Err(error) if error.rejection != Rejection::Unreachable => return Err(error),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            failed = Some(error);
        }
    }

    /// Whether a request that failed may look for another server: there is one, it has tried fewer than `retries` further
    /// ones, and less than `response_timeout` has passed since it began.
    fn has_time(&self, pool: &Pool, attempt: &Attempt, started: Instant) -> bool {
        let config = pool.config();
        let passed = (self.clock)().saturating_duration_since(started);
        let retries = u32::try_from(attempt.tried()).unwrap_or(u32::MAX).saturating_sub(1);
        let is_left = attempt.tried() < config.servers.len();
        is_left && retries < config.retries && passed < config.response_timeout
    }

    /// Sends the request over a connection, and records a failure of the server.
    async fn ask_server(
        &self,
        pool: &Pool,
        server: &Server,
        stream: SocketStream,
        (proxy_header, request): (&[u8], Request<Empty<Bytes>>),
    ) -> Result<UpstreamResponse, AskError> {
        let config = pool.config();
        let (mut wait, answering) =
            (self.wait(pool, server, Failure::Answer), server.health().answering(self.now_ms(pool)));
        let opening = open(stream, proxy_header, request, config.response_timeout, config.title_case_headers);
        let opened = opening.await;
        wait.is_over = true;
        drop(answering);
        let (rejection, error) = match opened {
            Ok(response) => {
                if let UpstreamResponse::NotSwitched(response) = &response {
                    self.note_status(pool, server, response.status());
                }
                return Ok(response);
            }
            Err(OpenError::Timeout) => (Rejection::UpstreamTimeout, "no response in time".to_owned()),
            Err(OpenError::Malformed(error)) => (Rejection::UpstreamMalformed, error.to_string()),
            Err(OpenError::Broken(error)) => (Rejection::Unreachable, error.to_string()),
        };
        self.note_failure(pool, server, Failure::Answer, &error);
        Err(AskError { rejection, server: Some(Arc::clone(server.name())), detail: error })
    }

    /// Records whether the 101 of a session's server completes the opening handshake. A subprotocol or an extension that
    /// does not fit the offer depends on the client, and does not count.
    pub fn note_answer(&self, pool: &Pool, session: &ServerSession, error: Option<&AnswerError>) {
        let Some(server) = pool.server_of(session) else { return };
        match error {
            None => self.note_success(pool, server),
            Some(AnswerError::Protocol | AnswerError::Extension) => {}
            Some(error) => self.note_failure(pool, server, Failure::Answer, &format!("a bad 101: {}", error.label())),
        }
    }

    /// A status from 500 on counts as a failure: a server that answers all requests so would have the fewest sessions,
    /// and get every request. Any other status is a decision about the client.
    fn note_status(&self, pool: &Pool, server: &Server, status: StatusCode) {
        if status.is_server_error() {
            self.note_failure(pool, server, Failure::Answer, &format!("status {}", status.as_u16()));
        } else {
            self.note_success(pool, server);
        }
    }

    /// Returns the error of the last server that was tried. If none was, every server is full.
    fn no_server(&self, pool: &Pool, none: NoServer, failed: Option<AskError>) -> AskError {
        let no_server = if pool.config().servers.is_empty() { "the upstream has no server" } else { "" };
        let reject = |rejection| AskError { rejection, server: None, detail: no_server.to_owned() };
        match (failed, none) {
            (Some(failed), _) => self.give_up(pool, failed),
            (None, NoServer::Full) => reject(Rejection::UpstreamFull),
            (None, NoServer::AllTried) => reject(Rejection::Unreachable),
        }
    }

    /// Logs an error if every server has failed, for the first request that finds it so.
    fn give_up(&self, pool: &Pool, failed: AskError) -> AskError {
        let is_down = pool.servers().all(|server| !server.health().is_healthy());
        if is_down && pool.report_down(|| self.may_log(pool)) {
            let upstream = &pool.config().name;
            tracing::error!(%upstream, error = failed.detail, "no server of the upstream accepts a connection");
        }
        failed
    }

    async fn try_server(&self, pool: &Pool, server: &Server) -> Result<SocketStream, AskError> {
        let (mut wait, connecting) =
            (self.wait(pool, server, Failure::Connect), server.health().connecting(self.now_ms(pool)));
        let connected = self.open_stream(server, pool.config().connect_timeout).await;
        wait.is_over = true;
        drop(connecting);
        let error = match connected {
            Ok(stream) => {
                pool.connected(server, self.now_ms(pool));
                return Ok(stream);
            }
            Err(error) => error,
        };
        server.count_connect_failure();
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        let rejection = if timed_out { Rejection::UpstreamTimeout } else { Rejection::Unreachable };
        if is_local(&error) {
            // It is not caused by the server, which another request may well reach.
            let upstream = &pool.config().name;
            tracing::debug!(%upstream, server = %server.name(), %error, "no connection, because of this machine");
        } else {
            self.note_failure(pool, server, Failure::Connect, &error);
        }
        Err(AskError { rejection, server: Some(Arc::clone(server.name())), detail: error.to_string() })
    }

    async fn open_stream(&self, server: &Server, connect_timeout: Duration) -> io::Result<SocketStream> {
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

    /// Records a failed request, and logs a warning when the server begins to fail or is ejected. The line that reports
    /// its recovery counts its further failures.
    fn note_failure(&self, pool: &Pool, server: &Server, failure: Failure, error: &dyn Display) {
        let (upstream, name) = (&pool.config().name, server.name());
        match pool.failed(server, failure, self.now_ms(pool), || self.may_log(pool)) {
            Some(Change::Ejected { failures, time }) if self.may_log(pool) => {
                tracing::warn!(%upstream, server = %name, failures, seconds = time.as_secs(), %error, "server ejected");
            }
            Some(Change::Failed) => tracing::warn!(%upstream, server = %name, %error, "server failed"),
            _ => tracing::debug!(%upstream, server = %name, %error, "server failed again"),
        }
    }

    fn note_success(&self, pool: &Pool, server: &Server) {
        let change = server.health().succeed(self.now_ms(pool), || self.may_log(pool));
        if let Some(Change::Recovered { failures }) = change {
            tracing::warn!(upstream = %pool.config().name, server = %server.name(), failures, "server recovered");
        }
    }

    fn wait<'a>(&'a self, pool: &'a Pool, server: &'a Server, failure: Failure) -> Wait<'a> {
        Wait { connector: self, pool, server, failure, since: (self.clock)(), is_over: false }
    }

    fn now_ms(&self, pool: &Pool) -> u64 {
        pool.millis_at((self.clock)())
    }

    fn may_log(&self, pool: &Pool) -> bool {
        self.lines.check(&pool.config().name, (self.clock)()).is_ok()
    }
}

/// A request that waits for a server. If its client leaves after [`ABANDONED_AFTER`], that is a failure of the server:
/// otherwise a server that never answers would fail no request of clients that wait less long than its timeout.
struct Wait<'a> {
    connector: &'a Connector,
    pool: &'a Pool,
    server: &'a Server,
    failure: Failure,
    since: Instant,
    is_over: bool,
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        let waited = (self.connector.clock)().saturating_duration_since(self.since);
        if !self.is_over && waited >= ABANDONED_AFTER {
            self.connector.note_failure(self.pool, self.server, self.failure, &"the client left while it waited");
        }
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
