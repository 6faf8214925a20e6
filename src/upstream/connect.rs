//! Asks one of an upstream's servers, in turn, passing over those that take no connection.

use std::fmt::Display;
use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Request;
use http_body_util::Empty;
use hyper::body::Bytes;
use tokio::sync::Semaphore;

use super::open::{OpenError, UpstreamResponse, open};
use super::race::ATTEMPTS_AT_ONCE;
use super::server::{Server, is_local};
use super::stream::UpstreamStream;
use crate::config::UpstreamConfig;
use crate::policy::admission::Admission;
use crate::policy::quota::{Limiter, Quota, Rate};
use crate::policy::rejection::Rejection;

/// How often an upstream's servers may fail and recover in the log: at most 1 line a second in the long run, 10 at once.
const LINES: Quota = Quota {
    rate: Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) },
    burst: NonZeroU32::MIN.saturating_add(9),
};

/// An upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    upstream: UpstreamConfig,
    servers: Vec<Server>,
    next_server: AtomicUsize,
    /// `max_pending_requests` of them.
    pending: Semaphore,
    /// That no server takes a connection was logged, and none has taken one since.
    down: AtomicBool,
    lines: Limiter,
    clock: fn() -> Instant,
    started: Instant,
}

/// Why no server answered.
#[derive(Debug)]
pub struct AskError {
    /// What the client learns.
    pub rejection: Rejection,
    /// The last server that was tried, if one was.
    pub server: Option<Arc<str>>,
    /// What the log says: what that server did.
    pub detail: String,
}

impl Pool {
    /// It is the first server's turn, and nothing is known of any.
    pub fn new(upstream: UpstreamConfig, clock: fn() -> Instant) -> Self {
        let started = clock();
        Self {
            servers: upstream.servers.iter().cloned().map(Server::new).collect(),
            next_server: AtomicUsize::new(0),
            pending: Semaphore::new(upstream.max_pending_requests as usize),
            down: AtomicBool::new(false),
            lines: Limiter::new(LINES),
            upstream,
            clock,
            started,
        }
    }

    /// What the configuration says of it.
    pub fn upstream(&self) -> &UpstreamConfig {
        &self.upstream
    }

    /// How many descriptors its pending requests may have beside one each: a name with several addresses may be tried at
    /// two of them at once.
    pub fn extra_descriptors(upstream: &UpstreamConfig) -> usize {
        let races = upstream.servers.iter().any(Server::has_name);
        if races { (ATTEMPTS_AT_ONCE - 1).saturating_mul(upstream.max_pending_requests as usize) } else { 0 }
    }

    /// Asks the server whose turn it is, or the next one that takes a connection. What it answered, and its name. Only a
    /// request that was admitted can ask.
    ///
    /// # Errors
    /// If as many requests as may wait already do, no server takes the connection in its time, or the one that does gives no
    /// proper answer in its time.
    pub async fn ask(
        &self,
        admission: &Admission,
        request: Request<Empty<Bytes>>,
    ) -> Result<(UpstreamResponse, Arc<str>), AskError> {
        let Ok(_pending) = self.pending.try_acquire() else {
            return Err(AskError { rejection: Rejection::UpstreamBusy, server: None, detail: String::new() });
        };
        let (stream, server) = self.connect(admission).await?;
        let answered = open(stream, request, self.upstream.response_timeout, self.upstream.title_case_headers).await;
        let name = &server.name;
        let (rejection, error) = match answered {
            Ok(answered) => {
                if let Some(failures) = server.health.recover(|| self.may_log()) {
                    tracing::warn!(upstream = %self.upstream.name, server = %name, failures, "server recovered");
                }
                return Ok((answered, Arc::clone(name)));
            }
            Err(OpenError::Timeout) => (Rejection::UpstreamTimeout, "no answer in time".to_owned()),
            Err(OpenError::Malformed(error)) => (Rejection::UpstreamMalformed, error.to_string()),
            Err(OpenError::Broken(error)) => (Rejection::Unreachable, error.to_string()),
        };
        self.note_failure(server, &error);
        Err(AskError { rejection, server: Some(Arc::clone(name)), detail: error })
    }

    /// Connects to the server whose turn it is, or to the next one that takes the connection. Each is tried once, those
    /// that failed lately last.
    async fn connect(&self, _admission: &Admission) -> Result<(UpstreamStream, &Server), AskError> {
        let first = self.next_server.fetch_add(1, Ordering::Relaxed) % self.servers.len().max(1);
        let (before, after) = self.servers.split_at_checked(first).unwrap_or_default();
        let mut failed = AskError { rejection: Rejection::Unreachable, server: None, detail: String::new() };
        let mut skipped = Vec::new();
        for server in after.iter().chain(before) {
            if !server.health.is_due(self.now_ms()) {
                skipped.push(server);
                continue;
            }
            match self.try_server(server).await {
                Ok(stream) => return Ok((stream, server)),
                Err(error) => failed = error,
            }
        }
        for server in skipped {
            match self.try_server(server).await {
                Ok(stream) => return Ok((stream, server)),
                Err(error) => failed = error,
            }
        }
        if !self.down.load(Ordering::Relaxed) && self.may_log() && !self.down.swap(true, Ordering::Relaxed) {
            let upstream = &self.upstream.name;
            tracing::error!(%upstream, error = failed.detail, "no server of the upstream takes a connection");
        }
        Err(failed)
    }

    async fn try_server(&self, server: &Server) -> Result<UpstreamStream, AskError> {
        match server.connect(self.upstream.connect_timeout, self.clock).await {
            Ok(stream) => {
                server.health.connected();
                self.down.store(false, Ordering::Relaxed);
                Ok(stream)
            }
            Err(error) => {
                let timed_out = error.kind() == io::ErrorKind::TimedOut;
                let rejection = if timed_out { Rejection::UpstreamTimeout } else { Rejection::Unreachable };
                // Another request may well reach it.
                if !is_local(&error) {
                    server.health.skip(self.now_ms());
                }
                self.note_failure(server, &error);
                Err(AskError { rejection, server: Some(Arc::clone(&server.name)), detail: error.to_string() })
            }
        }
    }

    /// One warning when a server begins to fail; its further failures are counted in the line that says that it recovered.
    fn note_failure(&self, server: &Server, error: &dyn Display) {
        if server.health.fail(|| self.may_log()) {
            tracing::warn!(upstream = %self.upstream.name, server = %server.name, %error, "server failed");
        } else {
            tracing::debug!(upstream = %self.upstream.name, server = %server.name, %error, "server failed again");
        }
    }

    fn may_log(&self) -> bool {
        self.lines.check((self.clock)()).is_ok()
    }

    fn now_ms(&self) -> u64 {
        let since = (self.clock)().saturating_duration_since(self.started);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}
