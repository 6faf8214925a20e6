//! A server of a pool: its settings in one configuration, and its state, which outlives configurations.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::checks::Checks;
use super::config::{ServerAddress, ServerConfig};
use super::hash::TextHash;
use super::health::{Health, WHOLE};
use super::loss::LossPacer;
use super::overrides::{OperatorState, Overrides, ServerChange, Settings};
use super::queue::Queue;

/// A server of a pool.
#[derive(Debug)]
pub struct Server {
    config: ServerConfig,
    /// Its [`Settings`] in force: those of the configuration, or of an operator.
    settings: AtomicU32,
    pub(super) state: Arc<ServerState>,
}

/// The state of a server, which the pools before and after a reload share.
#[derive(Debug)]
pub(super) struct ServerState {
    name: Arc<str>,
    pub(super) hash: TextHash,
    sessions: AtomicU32,
    connect_failures: AtomicU64,
    health: Health,
    overrides: Overrides,
    checks: Checks,
    losses: LossPacer,
    /// The requests that wait for a server of its upstream.
    queue: Arc<Queue>,
}

/// Counts a session, or the request that it may become, as one of its server, until it is dropped.
#[derive(Debug)]
pub struct ServerSession(Arc<ServerState>);

/// Why a server gets sessions or not, for operators.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServerCondition {
    /// It gets sessions.
    Up,
    /// It was added or has recovered, and gets a part of the sessions that its weight says.
    SlowStart,
    /// A request to it failed, and none succeeded since.
    Failing,
    /// It is passed over after consecutive failures.
    Ejected,
    /// It is passed over because its checks fail, or an operator has its sessions closed at once.
    Down,
    /// It gets no new sessions, because the configuration or an operator says so.
    Draining,
    /// It has as many sessions as `max_sessions` permits.
    Full,
}

impl ServerCondition {
    /// Returns the name in the admin API, from a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::SlowStart => "slow start",
            Self::Ejected => "ejected",
            Self::Down => "down",
            Self::Failing => "failing",
            Self::Draining => "draining",
            Self::Full => "full",
        }
    }
}

impl Server {
    pub(super) fn new(config: ServerConfig, queue: &Arc<Queue>) -> Self {
        let state = Arc::new(ServerState::new(&config.address, queue));
        Self::with_state(config, state)
    }

    /// Creates the server with these settings and the state of an earlier configuration.
    pub(super) fn with_state(config: ServerConfig, state: Arc<ServerState>) -> Self {
        let settings = Settings::new(&config, &state.overrides).0.into();
        Self { config, settings, state }
    }

    /// Returns its address as the configuration file has it.
    pub fn name(&self) -> &Arc<str> {
        &self.state.name
    }

    /// Returns its address.
    pub fn address(&self) -> &ServerAddress {
        &self.config.address
    }

    /// Returns its settings.
    pub fn config(&self) -> &ServerConfig {
        &self.config
    }

    pub(super) fn settings(&self) -> Settings {
        Settings(self.settings.load(Ordering::Relaxed))
    }

    /// Whether it gets no new sessions.
    pub fn drains(&self) -> bool {
        self.settings().drains()
    }

    /// Whether it gets no new sessions, and its sessions are closed at once.
    pub fn is_down(&self) -> bool {
        self.settings().is_down()
    }

    /// Returns its weight.
    pub fn weight(&self) -> u32 {
        self.settings().weight()
    }

    /// Returns the state that an operator gave it.
    pub fn operator_state(&self) -> Option<OperatorState> {
        self.state.overrides.state()
    }

    /// Returns the state and the weight that an operator gave it.
    pub(super) fn overridden(&self) -> (Option<OperatorState>, Option<NonZeroU16>) {
        (self.state.overrides.state(), self.state.overrides.weight())
    }

    /// Changes the settings that an operator gave it.
    pub(super) fn change(&self, change: ServerChange) {
        self.state.overrides.change(change, &self.config);
        self.apply_settings();
    }

    /// Ends the settings of an operator that the configuration has changed since.
    pub(super) fn end_outdated_settings(&self) {
        self.state.overrides.end_outdated(&self.config);
        self.apply_settings();
    }

    fn apply_settings(&self) {
        self.settings.store(Settings::new(&self.config, &self.state.overrides).0, Ordering::Relaxed);
    }

    /// Returns its health, as requests and checks found it.
    pub fn health(&self) -> &Health {
        &self.state.health
    }

    /// Returns the outcomes of its checks.
    pub fn checks(&self) -> &Checks {
        &self.state.checks
    }

    /// Returns the number of its sessions, and of the requests that wait for it.
    pub fn sessions(&self) -> u32 {
        self.state.sessions.load(Ordering::Relaxed)
    }

    /// Returns the number of attempts to connect that failed.
    pub fn connect_failures(&self) -> u64 {
        self.state.connect_failures.load(Ordering::Relaxed)
    }

    /// Counts a failed attempt to connect.
    pub fn count_connect_failure(&self) {
        self.state.connect_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns why it gets sessions or not.
    pub(super) fn condition(&self, now_ms: u64, slow_start: Duration) -> ServerCondition {
        if self.is_down() {
            ServerCondition::Down
        } else if self.drains() {
            ServerCondition::Draining
        } else if self.health().is_down() {
            ServerCondition::Down
        } else if self.health().is_ejected() {
            ServerCondition::Ejected
        } else if self.health().has_failed() {
            ServerCondition::Failing
        } else if self.is_full() {
            ServerCondition::Full
        } else if self.health().weight_share(now_ms, slow_start) < WHOLE {
            ServerCondition::SlowStart
        } else {
            ServerCondition::Up
        }
    }

    /// Whether it has as many sessions as it may have.
    pub(super) fn is_full(&self) -> bool {
        self.config.max_sessions.is_some_and(|max| self.sessions() >= max.get())
    }

    /// Counts a session, unless it has as many as it may have.
    #[inline]
    pub(super) fn take_session(&self) -> Option<ServerSession> {
        let max = self.config.max_sessions.map_or(u32::MAX, Into::into);
        let below_max = |count: u32| (count < max).then_some(count + 1);
        self.state.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, below_max).ok()?;
        Some(ServerSession(Arc::clone(&self.state)))
    }
}

impl ServerState {
    fn new(address: &ServerAddress, queue: &Arc<Queue>) -> Self {
        let name: Arc<str> = address.to_string().into();
        Self {
            hash: TextHash::of(name.as_bytes()),
            name,
            sessions: AtomicU32::new(0),
            connect_failures: AtomicU64::new(0),
            health: Health::default(),
            overrides: Overrides::default(),
            checks: Checks::default(),
            losses: LossPacer::default(),
            queue: Arc::clone(queue),
        }
    }

    pub(super) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(super) fn sessions(&self) -> u32 {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Ends the settings of an operator.
    pub(super) fn end_overrides(&self) {
        self.overrides.end();
    }
}

impl Server {
    /// Counts a session that another process has opened, even beyond the limit of the server.
    pub(super) fn adopt_session(&self) -> ServerSession {
        self.state.sessions.fetch_add(1, Ordering::Relaxed);
        ServerSession(Arc::clone(&self.state))
    }
}

impl ServerSession {
    /// Whether it is a session of this server.
    pub fn is_of(&self, server: &Server) -> bool {
        Arc::ptr_eq(&self.0, &server.state)
    }

    /// Ends the count of a session whose connection to the server was lost. Returns when to close its client: the
    /// sessions that a server loses together are closed over `spread`. `jitter` is a random number.
    pub fn lose(self, spread: Duration, jitter: u16, now: Instant) -> Instant {
        self.0.losses.take(self.0.sessions.load(Ordering::Relaxed), spread, jitter, now)
    }

    /// Returns the server's address as the configuration file has it.
    pub fn server(&self) -> &Arc<str> {
        &self.0.name
    }
}

impl Drop for ServerSession {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::SeqCst);
        self.0.queue.wake_first();
    }
}
