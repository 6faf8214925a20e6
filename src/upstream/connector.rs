//! Opens a WebSocket to one of an upstream's servers, with failover to the next one.

use std::fmt::Display;
use std::future::Future;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, StatusCode};
use http_body_util::Empty;
use hyper::body::Bytes;
use tokio::time::sleep;
use zeroize::Zeroizing;

use super::cookies::Cookies;
use super::open::{OpenError, UpstreamResponse, open};
use super::race::ATTEMPTS_AT_ONCE;
use super::rates::AdmitRates;
use super::server_connector::{ServerConnector, is_local};
use super::stream::UpstreamStream;
use super::waiting::{Blocked, Found, Seeker};
use crate::balance::{Attempt, Change, Failure, PendingRequest, Pool, Server, ServerSession, UpstreamConfig};
use crate::client::http_client::causes;
use crate::policy::admission::Admission;
use crate::policy::counts::KeyedLimiter;
use crate::policy::forwarded::Scheme;
use crate::policy::grant::Grant;
use crate::policy::hash_key::hash_key;
use crate::policy::quota::{Quota, Rate};
use crate::policy::rejection::Rejection;
use crate::policy::request::RequestFacts;
use crate::runtime::entropy::random;
use crate::ws::handshake::AnswerError;

/// Quota of the log lines about failures and recoveries of one upstream's servers: 1 per second in the long run, 10 at
/// once.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(9),
};
/// The time after which a client that leaves while it waits for a server counts as a failure of the server.
const ABANDONED_AFTER: Duration = Duration::from_millis(500);

/// Connects to the servers of all upstreams. It lives as long as the process.
#[derive(Debug)]
pub struct Connector {
    servers: ServerConnector,
    /// The quotas of log lines, by upstream.
    lines: KeyedLimiter<Arc<str>>,
    rates: AdmitRates,
    cookies: Cookies,
    clock: fn() -> Instant,
}

/// What a server is asked.
pub(super) trait Exchange {
    /// The response.
    type Response;
    /// Whether `admit_rate` applies.
    const IS_PACED: bool;

    /// Connects to the server, sends the request, and returns the response. `pending` counts the request as one that is
    /// pending.
    fn attempt(
        &mut self,
        connector: &Connector,
        pool: &Arc<Pool>,
        server: &Server,
        pending: PendingRequest,
    ) -> impl Future<Output = Result<Self::Response, Failed>> + Send;
}

/// The reason why a server sent no response.
pub(super) enum Failed {
    /// Another server may be tried.
    AtThisServer(AskError),
    /// The request may have had an effect, or would fail at every server.
    Finally(AskError),
}

/// An opening handshake, with the PROXY header before it.
struct OpeningHandshake<'a> {
    proxy_header: &'a [u8],
    request: Request<Empty<Bytes>>,
}

impl Exchange for OpeningHandshake<'_> {
    type Response = UpstreamResponse;
    const IS_PACED: bool = true;

    async fn attempt(
        &mut self,
        connector: &Connector,
        pool: &Arc<Pool>,
        server: &Server,
        _pending: PendingRequest,
    ) -> Result<UpstreamResponse, Failed> {
        let stream = connector.try_server(pool, server, self.proxy_header).await.map_err(Failed::AtThisServer)?;
        let asked = connector.ask_server(pool, server, stream, (self.proxy_header, self.request.clone())).await;
        asked.map_err(|error| match error.rejection {
            Rejection::Unreachable => Failed::AtThisServer(error),
            _ => Failed::Finally(error),
        })
    }
}

/// The response of a server.
#[derive(Debug)]
pub struct Asked<R = UpstreamResponse> {
    /// The response.
    pub response: R,
    /// The pool of the server.
    pub pool: Arc<Pool>,
    /// The request as a session of the server, to be kept while the session is open.
    pub session: ServerSession,
    /// The value of `Set-Cookie` that keeps the client on the server, if the client needs it.
    pub cookie: Option<HeaderValue>,
    /// How long the request waited for a server.
    pub waited: Duration,
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
    /// How long the request waited for a server.
    pub waited: Duration,
}

impl From<Rejection> for AskError {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, server: None, detail: String::new(), waited: Duration::ZERO }
    }
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
            servers: ServerConnector::new(clock),
            lines: KeyedLimiter::over(Arc::default(), LINES),
            rates: AdmitRates::default(),
            cookies: Cookies::default(),
            clock,
        }
    }

    /// Returns the secret of the cookies of upstreams without one of their own, for the process that follows this one.
    pub fn export_cookie_secret(&self) -> Zeroizing<[u8; 32]> {
        self.cookies.export()
    }

    /// Uses the secret of the process before this one. It must precede the first request.
    pub fn import_cookie_secret(&self, secret: Zeroizing<[u8; 32]>) {
        self.cookies.import(secret);
    }

    /// Returns the part that opens connections.
    pub fn servers(&self) -> &ServerConnector {
        &self.servers
    }

    /// Sends the request, after this PROXY header, to a server of the pool that it was admitted for: the one that
    /// [`Pool::choose`] returns. If that does not accept the connection, or breaks it before its response, up to
    /// `retries` further servers are tried: an opening handshake has no effect before its response (RFC 9110 section
    /// 9.2.2). The request counts as a session of the server from before the connection on, so that requests that arrive
    /// together are spread. While every server is full, it waits; and with `hold_upgrades` also while none is up. A request
    /// that waits chooses among the servers of the configuration in use, which may be newer than its snapshot.
    ///
    /// # Errors
    /// If `max_pending_requests` requests are pending, no server becomes available in time, no server that is tried
    /// accepts the connection in time, or the one that does sends no valid response in time.
    pub async fn ask(
        &self,
        admission: &Admission,
        facts: &RequestFacts<'_>,
        proxy_header: &[u8],
        request: Request<Empty<Bytes>>,
    ) -> Result<Asked, AskError> {
        self.ask_one_of(admission.pool(), (facts, admission.grant()), OpeningHandshake { proxy_header, request }).await
    }

    /// Makes an exchange with a server of the pool: the one that [`Pool::choose`] returns, or another one as
    /// [`Connector::ask`] describes.
    pub(super) async fn ask_one_of<E: Exchange>(
        &self,
        pool: &Arc<Pool>,
        (facts, grant): (&RequestFacts<'_>, &Grant),
        mut exchange: E,
    ) -> Result<Asked<E::Response>, AskError> {
        let random = u64::from_be_bytes(random());
        let attempt_at = |pool: &Pool| {
            let key = hash_key(&pool.config().balance, facts, grant);
            Attempt::new(key, random).preferring(self.cookies.server(pool, facts.headers))
        };
        let mut seeker = Seeker::new(pool, attempt_at, (&self.rates, E::IS_PACED), self.clock);
        let asked = self.ask_servers(&mut seeker, &mut exchange).await;
        let waited = seeker.waited;
        match asked {
            Ok((pool, session, response)) => {
                let sent = seeker.attempt().preferred();
                let cookie = self.cookies.set(&pool, &session, sent, facts.scheme == Scheme::Https);
                Ok(Asked { response, pool, session, cookie, waited })
            }
            Err(error) => Err(AskError { waited, ..error }),
        }
    }

    async fn ask_servers<F: Fn(&Pool) -> Attempt, E: Exchange>(
        &self,
        seeker: &mut Seeker<'_, F>,
        exchange: &mut E,
    ) -> Result<(Arc<Pool>, ServerSession, E::Response), AskError> {
        let started = (self.clock)();
        seeker.pool().retries().count_request(seeker.pool().millis_at(started));
        let mut failed: Option<AskError> = None;
        let mut retries = 0;
        loop {
            // The budget is asked first: a server that is chosen for a trial is tried.
            let is_retry = failed.is_some() && !seeker.is_held() && self.may_retry(seeker, retries, started);
            if is_retry {
                retries += 1;
                sleep(seeker.attempt().pause()).await;
            } else if failed.is_some() && seeker.is_held() {
                seeker.pause_held().await;
            } else if let Some(error) = failed.take() {
                self.report_if_down(seeker.pool(), &error.detail);
                if !seeker.hold() {
                    return Err(self.no_server(seeker.pool(), seeker.final_reason(), Some(error)));
                }
                failed = Some(error);
            }
            let found = match seeker.next(is_retry).await {
                Ok(found) => found,
                Err(blocked) => return Err(self.no_server(seeker.pool(), blocked, failed)),
            };
            let Found { pool, session, pending } = found;
            // The session was chosen in this pool.
            let Some(server) = pool.server_of(&session) else { continue };
            match exchange.attempt(self, &pool, server, pending).await {
                Ok(response) => return Ok((pool, session, response)),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::AtThisServer(error)) => failed = Some(error),
            }
            seeker.note_failed();
        }
    }

    /// Whether a request that failed may look for another server after this number of retries: there is one, `retries`
    /// permits it, less than `response_timeout` has passed since it began, and the budget is not used up.
    fn may_retry<F: Fn(&Pool) -> Attempt>(&self, seeker: &mut Seeker<'_, F>, retries: u32, started: Instant) -> bool {
        let tried = seeker.attempt().tried();
        let (pool, config) = (seeker.pool(), seeker.pool().config());
        let passed = (self.clock)().saturating_duration_since(started);
        let is_left = tried < config.servers.len();
        is_left
            && retries < config.retries
            && passed < config.response_timeout
            && pool.retries().take(self.now_ms(pool))
    }

    /// Sends the request over a connection, and records a failure of the server.
    async fn ask_server(
        &self,
        pool: &Pool,
        server: &Server,
        stream: UpstreamStream,
        (proxy_header, request): (&[u8], Request<Empty<Bytes>>),
    ) -> Result<UpstreamResponse, AskError> {
        let config = pool.config();
        let since_ms = self.now_ms(pool);
        let late = Failure::Late { since_ms };
        let (mut wait, answering) = (self.wait(pool, server, late), server.health().answering(since_ms));
        // With TLS the header was sent before the handshake.
        let proxy_header = if stream.is_tls() { &[] } else { proxy_header };
        let opening = open(stream, proxy_header, request, config.response_timeout, config.title_case_headers);
        let opened = opening.await;
        wait.is_over = true;
        drop(answering);
        let (failure, rejection, error) = match opened {
            Ok(response) => {
                if let UpstreamResponse::NotSwitched(response) = &response {
                    self.note_status(pool, server, response.status());
                }
                return Ok(response);
            }
            Err(OpenError::Timeout) => (late, Rejection::UpstreamTimeout, "no response in time".to_owned()),
            Err(OpenError::Malformed(error)) => (Failure::Answer, Rejection::UpstreamMalformed, error),
            Err(OpenError::Broken(error)) => (Failure::Answer, Rejection::Unreachable, causes(&error)),
        };
        self.note_failure(pool, server, failure, &error);
        Err(AskError { server: Some(Arc::clone(server.name())), detail: error, ..AskError::from(rejection) })
    }

    /// Records whether the 101 of a session's server completes the opening handshake. A subprotocol or an extension that
    /// does not fit the offer depends on the client, and does not count.
    pub fn note_answer(&self, pool: &Pool, session: &ServerSession, error: Option<&AnswerError>) {
        let Some(server) = pool.server_of(session) else { return };
        match error {
            None => {
                server.health().opened(self.now_ms(pool));
                self.note_success(pool, server);
            }
            Some(AnswerError::Protocol | AnswerError::Extension) => {}
            Some(error) => self.note_failure(pool, server, Failure::Answer, &format!("a bad 101: {}", error.label())),
        }
    }

    /// A status from 500 on counts as a failure: a server that answers all requests so would have the fewest sessions,
    /// and get every request. Any other status is a decision about the client.
    pub(super) fn note_status(&self, pool: &Pool, server: &Server, status: StatusCode) {
        if status.is_server_error() {
            self.note_failure(pool, server, Failure::Answer, &format!("status {}", status.as_u16()));
        } else {
            self.note_success(pool, server);
        }
    }

    /// Returns the error of a request that finds no server. If one failed it, the log gets that server and its error.
    /// The client gets the rejection of that error, unless another server may well be available later.
    fn no_server(&self, pool: &Pool, blocked: Blocked, failed: Option<AskError>) -> AskError {
        let (rejection, detail) = blocked.rejection(pool);
        let Some(failed) = failed else {
            return AskError { detail: detail.to_owned(), ..AskError::from(rejection) };
        };
        self.report_if_down(pool, &failed.detail);
        match blocked {
            Blocked::Full | Blocked::Rate | Blocked::Busy => AskError { rejection, ..failed },
            Blocked::AllTried | Blocked::Down => failed,
        }
    }

    /// Logs an error if every server has failed, for the first request that finds it so.
    fn report_if_down(&self, pool: &Pool, error: &str) {
        let is_down = pool.servers().all(|server| !server.health().is_healthy());
        if is_down && pool.report_down(|| self.may_log(pool)) {
            let upstream = &pool.config().name;
            tracing::error!(%upstream, error, "no server of the upstream accepts a connection");
        }
    }

    /// Connects to a server, and records a failure.
    pub(super) async fn try_server(
        &self,
        pool: &Pool,
        server: &Server,
        proxy_header: &[u8],
    ) -> Result<UpstreamStream, AskError> {
        let (mut wait, connecting) =
            (self.wait(pool, server, Failure::Connect), server.health().connecting(self.now_ms(pool)));
        let connected = self.servers.connect(pool.config(), server, proxy_header, pool.config().connect_timeout).await;
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
        let detail = error.to_string();
        Err(AskError { server: Some(Arc::clone(server.name())), detail, ..AskError::from(rejection) })
    }

    /// Records a failed request, and logs a warning when the server begins to fail or is ejected. The line that reports
    /// its recovery counts its further failures.
    pub(super) fn note_failure(&self, pool: &Pool, server: &Server, failure: Failure, error: &dyn Display) {
        self.log_failure(pool, server, pool.failed(server, failure, self.now_ms(pool), || self.may_log(pool)), error);
    }

    /// Records that a session of a server ended soon after its 101, because the server disconnected.
    pub fn note_early_end(&self, pool: &Pool, server: &Server, opened: Instant, ended: Instant) {
        let change = pool.ended_early(server, pool.millis_at(opened), pool.millis_at(ended));
        self.log_failure(pool, server, change, &"disconnects without a Close within a second of its 101");
    }

    fn log_failure(&self, pool: &Pool, server: &Server, change: Option<Change>, error: &dyn Display) {
        let (upstream, name) = (&pool.config().name, server.name());
        match change {
            Some(Change::Ejected { failures, time }) if self.may_log(pool) => {
                tracing::warn!(%upstream, server = %name, failures, seconds = time.as_secs(), %error, "server ejected");
            }
            Some(Change::Failed) => tracing::warn!(%upstream, server = %name, %error, "server failed"),
            _ => tracing::debug!(%upstream, server = %name, %error, "server failed again"),
        }
    }

    pub(super) fn note_success(&self, pool: &Pool, server: &Server) {
        let change = server.health().succeed(self.now_ms(pool), || self.may_log(pool));
        pool.queue().wake_first();
        if let Some(Change::Recovered { failures }) = change {
            tracing::warn!(upstream = %pool.config().name, server = %server.name(), failures, "server recovered");
        }
    }

    fn wait<'a>(&'a self, pool: &'a Pool, server: &'a Server, failure: Failure) -> Wait<'a> {
        Wait { connector: self, pool, server, failure, since: (self.clock)(), is_over: false }
    }

    pub(super) fn now_ms(&self, pool: &Pool) -> u64 {
        pool.millis_at((self.clock)())
    }

    pub(super) fn may_log(&self, pool: &Pool) -> bool {
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
