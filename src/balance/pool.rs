//! The pool of an upstream: its servers, the state of its policy, and the limit on pending requests.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::config::{ServerConfig, UpstreamConfig};
use super::health::{Change, Failure, Patience, millis};
use super::retry::RetryBudget;
use super::rotation::Rotation;
use super::server::{Server, ServerCondition, ServerSession, ServerState};

/// The part of `connect_timeout` after which an attempt to connect that waits makes its server suspect.
const CONNECT_SUSPECT_AFTER: u32 = 8;
/// The part of `response_timeout` after which a request that waits for its answer makes its server suspect, unless another
/// one gets an answer meanwhile.
const ANSWER_SUSPECT_AFTER: u32 = 4;

/// An upstream with the state of its servers. A new snapshot keeps it if its configuration is unchanged.
#[derive(Debug)]
pub struct Pool {
    config: UpstreamConfig,
    servers: Vec<Server>,
    /// The state of removed servers that still have sessions, for the case that they return.
    removed: Vec<Weak<ServerState>>,
    /// The sum of the weights of the servers up to each one.
    weights: Vec<u64>,
    equal_weights: bool,
    patience: Patience,
    rotation: Rotation,
    /// Held while a failure is judged, so that servers that fail together do not exceed `eject_max`.
    judging: Mutex<()>,
    /// The budget of retries, also for those of the pools that this one replaced.
    retries: Arc<RetryBudget>,
    /// The number of pending requests, also those of the pools that this one replaced.
    pending: Arc<AtomicU32>,
    /// Whether the log reported that no server accepts a connection, and none has accepted one since.
    down: AtomicBool,
    started: Instant,
}

/// Counts a request as pending until it is dropped.
#[derive(Debug)]
pub struct PendingRequest<'a>(&'a AtomicU32);

impl Pool {
    /// Creates a pool whose servers have no sessions, and have neither failed nor accepted a connection.
    pub fn new(config: UpstreamConfig, now: Instant) -> Self {
        let servers = config.servers.iter().cloned().map(Server::new).collect();
        Self::with(config, servers, now)
    }

    /// Creates the pool that replaces this one after a change of its configuration. It keeps the state of the servers
    /// that both have, and the count of pending requests. A server that only the new one has starts slowly, and so does
    /// one that does not drain any more, unless this pool is empty.
    pub fn replace(&self, config: UpstreamConfig, now: Instant) -> Self {
        let now_ms = self.millis_at(now);
        let mut states: Vec<_> = self.servers.iter().map(|server| Arc::clone(&server.state)).collect();
        states.extend(self.removed.iter().filter_map(Weak::upgrade));
        let got_sessions = |config: &ServerConfig| {
            self.servers.iter().any(|server| *server.address() == config.address && !server.config().drain)
        };
        // The first servers share all sessions, so a slow start would not change their shares.
        let has_servers = !self.servers.is_empty();
        let mut take = |server: &ServerConfig| {
            let name = server.address.to_string();
            let found = states.iter().position(|state| **state.name() == *name);
            found.map(|index| states.swap_remove(index))
        };
        let server = |config: &ServerConfig| {
            let server = match take(config) {
                Some(state) => Server::with_state(config.clone(), state),
                None => Server::new(config.clone()),
            };
            if has_servers && !got_sessions(config) {
                server.health().start_slowly(now_ms);
            }
            server
        };
        let servers = config.servers.iter().map(server).collect();
        let removed = states.iter().filter(|state| state.has_sessions()).map(Arc::downgrade).collect();
        Self {
            removed,
            retries: Arc::clone(&self.retries),
            pending: Arc::clone(&self.pending),
            down: AtomicBool::new(self.down.load(Ordering::Relaxed)),
            ..Self::with(config, servers, self.started)
        }
    }

    fn with(config: UpstreamConfig, servers: Vec<Server>, started: Instant) -> Self {
        let mut total = 0_u64;
        let weights = servers.iter().map(|server| {
            total = total.saturating_add(server.config().weight.get().into());
            total
        });
        let mut own = servers.iter().map(|server| server.config().weight);
        let first = own.next();
        Self {
            equal_weights: own.all(|weight| Some(weight) == first),
            patience: Patience {
                connect_ms: millis(config.connect_timeout / CONNECT_SUSPECT_AFTER),
                answer_ms: millis(config.response_timeout / ANSWER_SUSPECT_AFTER),
            },
            weights: weights.collect(),
            rotation: Rotation::new(servers.len()),
            servers,
            removed: Vec::new(),
            judging: Mutex::new(()),
            retries: Arc::default(),
            pending: Arc::default(),
            down: AtomicBool::new(false),
            config,
            started,
        }
    }

    /// Returns its configuration.
    pub fn config(&self) -> &UpstreamConfig {
        &self.config
    }

    /// Returns its servers, in the order of the configuration.
    pub fn servers(&self) -> impl Iterator<Item = &Server> {
        self.servers.iter()
    }

    pub(super) fn all(&self) -> &[Server] {
        &self.servers
    }

    pub(super) fn rotation(&self) -> &Rotation {
        &self.rotation
    }

    pub(super) fn total_weight(&self) -> u64 {
        self.weights.last().copied().unwrap_or_default()
    }

    /// Returns the index of the server that has this part of the total weight.
    pub(super) fn server_at_weight(&self, part: u64) -> usize {
        self.weights.partition_point(|sum| *sum <= part)
    }

    pub(super) fn has_equal_weights(&self) -> bool {
        self.equal_weights
    }

    /// Counts a pending request, unless `max_pending_requests` are pending.
    pub fn begin_request(&self) -> Option<PendingRequest<'_>> {
        let below_max = |pending: u32| (pending < self.config.max_pending_requests).then_some(pending + 1);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below_max).ok()?;
        Some(PendingRequest(&self.pending))
    }

    /// Returns the budget of retries.
    pub fn retries(&self) -> &RetryBudget {
        &self.retries
    }

    /// Returns the number of pending requests.
    pub fn pending(&self) -> u32 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Converts a time to the scale of [`Pool::choose`] and of its servers: milliseconds since the first pool of the
    /// upstream was created.
    pub fn millis_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the server of a session of this pool.
    pub fn server_of(&self, session: &ServerSession) -> Option<&Server> {
        self.servers.iter().find(|server| session.is_of(server))
    }

    /// Returns why a server of this pool gets sessions or not.
    pub fn condition(&self, server: &Server, now_ms: u64) -> ServerCondition {
        server.condition(now_ms, self.config.health.slow_start)
    }

    /// Returns how long a request may wait before its server is suspect.
    pub(super) fn patience(&self) -> Patience {
        self.patience
    }

    /// Records that a server accepted a connection.
    pub fn connected(&self, server: &Server, now_ms: u64) {
        server.health().connected(now_ms);
        self.down.store(false, Ordering::Relaxed);
    }

    /// Records a failed request. Returns the change that is to be logged, if `may_log` allows a line.
    pub fn failed(
        &self,
        server: &Server,
        failure: Failure,
        now_ms: u64,
        may_log: impl FnOnce() -> bool,
    ) -> Option<Change> {
        let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        let may_eject = || {
            // A server that drains gets no requests anyway.
            let in_use = || self.servers.iter().filter(|server| !server.config().drain);
            let ejected = in_use().filter(|server| server.health().is_ejected()).count();
            let max = in_use().count().saturating_mul(self.config.health.eject_max_percent.into()) / 100;
            ejected < max
        };
        server.health().fail(failure, now_ms, &self.config.health, may_eject, may_log)
    }

    /// Records that no server accepts a connection. Returns true if the log has not reported it yet, and `may_log`
    /// allows a line.
    pub fn report_down(&self, may_log: impl FnOnce() -> bool) -> bool {
        !self.down.load(Ordering::Relaxed) && may_log() && !self.down.swap(true, Ordering::Relaxed)
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;
