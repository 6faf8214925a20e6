//! The pool of an upstream: its servers, the state of its policy, and the limit on pending requests.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::Instant;

use super::checks::CheckChange;
use super::config::{Balance, ServerConfig, UpstreamConfig};
use super::health::{Patience, millis};
use super::overrides::ServerChange;
use super::queue::Queue;
use super::rebalance::ServerLoad;
use super::retry::RetryBudget;
use super::rotation::Rotation;
use super::server::{Server, ServerCondition, ServerSession, ServerState};
use super::standing::{Change, Failure};
use super::sticky::{StickyKey, Tags};

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
    weights: Vec<AtomicU64>,
    equal_weights: AtomicBool,
    patience: Patience,
    rotation: Rotation,
    /// Held while a failure is judged, so that servers that fail together do not exceed `eject_max`.
    judging: Mutex<()>,
    /// The budget of retries, also for those of the pools that this one replaced.
    retries: Arc<RetryBudget>,
    /// The number of pending requests, also those of the pools that this one replaced.
    pending: Arc<AtomicU32>,
    /// The requests that wait for a server, also those of the pools that this one replaced.
    queue: Arc<Queue>,
    /// The pool of the upstream that is in use: this one, or one that replaced it.
    newest: Arc<Mutex<Weak<Pool>>>,
    /// The values of the cookie of [`Balance::StickyCookie`].
    tags: OnceLock<Tags>,
    /// Whether the log reported that no server accepts a connection, and none has accepted one since.
    down: AtomicBool,
    started: Instant,
}

/// Counts a request as pending until it is dropped.
#[derive(Debug)]
pub struct PendingRequest {
    pending: Arc<AtomicU32>,
    queue: Arc<Queue>,
}

impl Pool {
    /// Creates a pool whose servers have no sessions, and have neither failed nor accepted a connection.
    pub fn new(config: UpstreamConfig, now: Instant) -> Self {
        let queue = Arc::default();
        let servers = config.servers.iter().map(|server| Server::new(server.clone(), &queue)).collect();
        Self::with(config, servers, queue, now)
    }

    /// Creates the pool that replaces this one after a change of its configuration. It keeps the state of the servers
    /// that both have, and the count of pending requests. A server that only the new one has starts slowly, and so does
    /// one that does not drain any more, unless this pool is empty.
    pub fn replace(&self, config: UpstreamConfig, now: Instant) -> Self {
        let now_ms = self.millis_at(now);
        let mut states: Vec<_> = self.servers.iter().map(|server| Arc::clone(&server.state)).collect();
        states.extend(self.removed.iter().filter_map(Weak::upgrade));
        let got_sessions = |config: &ServerConfig| {
            self.servers.iter().any(|server| *server.address() == config.address && !server.drains())
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
                None => Server::new(config.clone(), &self.queue),
            };
            if has_servers && !got_sessions(config) {
                server.health().start_slowly(now_ms);
            }
            server
        };
        let servers = config.servers.iter().map(server).collect();
        let removed = states.iter().filter(|state| state.sessions() > 0).map(Arc::downgrade).collect();
        Self {
            removed,
            retries: Arc::clone(&self.retries),
            pending: Arc::clone(&self.pending),
            newest: Arc::clone(&self.newest),
            down: AtomicBool::new(self.down.load(Ordering::Relaxed)),
            ..Self::with(config, servers, Arc::clone(&self.queue), self.started)
        }
    }

    fn with(config: UpstreamConfig, servers: Vec<Server>, queue: Arc<Queue>, started: Instant) -> Self {
        let pool = Self {
            weights: servers.iter().map(|_| AtomicU64::default()).collect(),
            equal_weights: AtomicBool::default(),
            patience: Patience {
                connect_ms: millis(config.connect_timeout / CONNECT_SUSPECT_AFTER),
                answer_ms: millis(config.response_timeout / ANSWER_SUSPECT_AFTER),
            },
            rotation: Rotation::new(servers.len()),
            servers,
            removed: Vec::new(),
            judging: Mutex::new(()),
            retries: Arc::default(),
            pending: Arc::default(),
            queue,
            newest: Arc::default(),
            tags: OnceLock::new(),
            down: AtomicBool::new(false),
            config,
            started,
        };
        pool.add_weights();
        pool
    }

    /// Adds up the weights in force. A choice at the same time may draw by some of the earlier ones.
    fn add_weights(&self) {
        let mut total = 0_u64;
        for (server, sum) in self.servers.iter().zip(&self.weights) {
            total = total.saturating_add(server.weight().into());
            sum.store(total, Ordering::Relaxed);
        }
        let mut own = self.servers.iter().map(Server::weight);
        let first = own.next();
        self.equal_weights.store(own.all(|weight| Some(weight) == first), Ordering::Relaxed);
    }

    /// Changes the settings of a server of this pool by the request of an operator. One that got no new sessions before
    /// starts slowly.
    pub fn change_server(&self, server: &Server, change: ServerChange, now: Instant) {
        let drained = server.drains();
        server.change(change);
        if drained && !server.drains() {
            server.health().start_slowly(self.millis_at(now));
        }
        self.add_weights();
        self.queue.wake_first();
    }

    /// Restores the settings that an operator gave a server. Unlike a new change it begins no slow start.
    pub(super) fn apply_moved(&self, server: &Server, change: ServerChange) {
        server.change(change);
        self.add_weights();
    }

    /// Puts the pool into use: ends the settings of an operator that the configuration has changed since, and those of
    /// servers that it has removed.
    pub fn begin_use(&self) {
        self.servers.iter().for_each(Server::end_outdated_settings);
        self.removed.iter().filter_map(Weak::upgrade).for_each(|state| state.end_overrides());
        self.add_weights();
    }

    /// Returns the names of removed servers that still have sessions, with their number.
    pub fn removed(&self) -> impl Iterator<Item = (Arc<str>, u32)> {
        let states = self.removed.iter().filter_map(Weak::upgrade);
        states.map(|state| (Arc::clone(state.name()), state.sessions())).filter(|(_, sessions)| *sessions > 0)
    }

    /// Returns the servers that may get sessions, with their load for [`plan`](super::rebalance::plan).
    pub fn loads(&self, now_ms: u64) -> Vec<(&Server, ServerLoad)> {
        let slow_start = self.config.health.slow_start;
        let may_get = |server: &&Server| !server.drains() && server.health().is_healthy();
        let load = |server: &Server| ServerLoad {
            sessions: server.sessions().into(),
            weight: u64::from(server.weight()).saturating_mul(server.health().weight_share(now_ms, slow_start).into()),
            max_sessions: server.config().max_sessions.map(|max| u64::from(max.get())),
        };
        self.servers.iter().filter(may_get).map(|server| (server, load(server))).collect()
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
        self.weights.last().map_or(0, |sum| sum.load(Ordering::Relaxed))
    }

    /// Returns the index of the server that has this part of the total weight.
    pub(super) fn server_at_weight(&self, part: u64) -> usize {
        self.weights.partition_point(|sum| sum.load(Ordering::Relaxed) <= part)
    }

    pub(super) fn has_equal_weights(&self) -> bool {
        self.equal_weights.load(Ordering::Relaxed)
    }

    /// Counts a pending request, unless `max_pending_requests` are pending.
    pub fn begin_request(&self) -> Option<PendingRequest> {
        let below_max = |pending: u32| (pending < self.config.max_pending_requests).then_some(pending + 1);
        self.pending.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below_max).ok()?;
        Some(PendingRequest { pending: Arc::clone(&self.pending), queue: Arc::clone(&self.queue) })
    }

    /// Returns the requests that wait for a server.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Puts this pool into use: requests that wait choose among its servers from now on.
    pub fn install(self: &Arc<Self>) {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(self);
        self.queue.wake_first();
    }

    /// Returns the pool of the upstream that is in use, if this one was replaced.
    pub fn replacement(&self) -> Option<Arc<Self>> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner).upgrade();
        newest.filter(|newest| !std::ptr::eq(Arc::as_ptr(newest), self))
    }

    /// Returns the values of the cookie of [`Balance::StickyCookie`]. `key` is used if the configuration has none.
    pub fn tags(&self, key: &StickyKey) -> Option<&Tags> {
        let Balance::StickyCookie(cookie) = &self.config.balance else { return None };
        let names = || self.servers.iter().map(|server| &**server.name());
        let key = cookie.key.as_ref().unwrap_or(key);
        Some(self.tags.get_or_init(|| Tags::new(key, &self.config.name, names())))
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

    /// Counts a session that another process has opened to the server of this name. `None` if the pool does not have it.
    pub fn adopt_session(&self, server: &str) -> Option<ServerSession> {
        self.servers.iter().find(|candidate| **candidate.name() == *server).map(Server::adopt_session)
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
        self.queue.wake_first();
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
        let settings = (&self.config.health, self.patience);
        server.health().fail(failure, now_ms, settings, || self.may_eject(), may_log)
    }

    /// Records that a session ended within [`EARLY`](super::early::EARLY) of its begin, since the server disconnected.
    /// Returns the ejection of the server, if it causes one.
    pub fn ended_early(&self, server: &Server, opened_ms: u64, now_ms: u64) -> Option<Change> {
        let _judging = self.judging.lock().unwrap_or_else(PoisonError::into_inner);
        server.health().ended_early(opened_ms, now_ms, &self.config.health, || self.may_eject())
    }

    fn may_eject(&self) -> bool {
        // A server that drains gets no requests anyway, and one that is down none while another one is left.
        let in_use = || self.servers.iter().filter(|server| !server.drains());
        let ejected = in_use().filter(|server| server.health().is_ejected() && !server.health().is_down()).count();
        let max = in_use().count().saturating_mul(self.config.health.eject_max_percent.into()) / 100;
        ejected < max
    }

    /// Records a check of a server that passed, or why it failed. Returns the change that is to be logged.
    pub fn checked(&self, server: &Server, failure: Option<&str>, now_ms: u64) -> Option<CheckChange> {
        let (health, config) = (server.health(), self.config.health.checks.as_ref()?);
        let change = server.checks().record(failure, now_ms, health.is_down(), config);
        match change {
            Some(CheckChange::Down { .. }) => health.set_down(),
            Some(CheckChange::Up { .. }) => {
                health.set_up(now_ms);
                self.down.store(false, Ordering::Relaxed);
                self.queue.wake_first();
            }
            None if failure.is_none() => health.passed(now_ms),
            None => {}
        }
        change
    }

    /// Forgets the checks of its servers, if they are not checked any more: those that were down are up.
    pub fn forget_checks(&self, now_ms: u64) {
        if self.config.health.checks.is_none() {
            for server in &self.servers {
                server.checks().forget();
                server.health().set_up(now_ms);
            }
        }
    }

    /// Records that no server accepts a connection. Returns true if the log has not reported it yet, and `may_log`
    /// allows a line.
    pub fn report_down(&self, may_log: impl FnOnce() -> bool) -> bool {
        !self.down.load(Ordering::Relaxed) && may_log() && !self.down.swap(true, Ordering::Relaxed)
    }
}

impl Drop for PendingRequest {
    fn drop(&mut self) {
        self.pending.fetch_sub(1, Ordering::SeqCst);
        self.queue.wake_first();
    }
}

#[cfg(test)]
mod tests;
