//! The metrics of one worker, which only its own thread writes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;

use super::cells::{Cell, Histogram, SESSION_BOUNDS, UPGRADE_BOUNDS};
use super::labels::{self, ConnectionState, HandshakeOutcome};
use crate::policy::limits::{LimitAction, LimitKind, OnExcess};
use crate::session::{Outcome, SessionStats};

/// The metrics of one worker. The maps grow with the names of the configuration. Their locks are free except during a
/// scrape, and no frame takes one.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct WorkerMetrics {
    connections: Arc<ConnectionCells>,
    upgrades: Mutex<Outcomes>,
    refreshes: Mutex<Outcomes>,
    http_rejections: Mutex<Outcomes>,
    requests: Mutex<Statuses>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    routes: BTreeMap<Arc<str>, Arc<RouteCells>>,
    targets: BTreeMap<TargetKey, Arc<TargetCells>>,
}

/// The number of requests, by route and outcome.
pub type Outcomes = BTreeMap<Arc<str>, BTreeMap<&'static str, u64>>;

/// The number of ordinary requests, by route and by the status of their responses, as [`labels::status`] returns it.
pub type Statuses = BTreeMap<Arc<str>, BTreeMap<u16, u64>>;

/// The route, the upstream and the server of a session.
pub type TargetKey = [Arc<str>; 3];

/// The cells of a worker's connections. Like all cells they have an allocation of their own, and are aligned to two
/// cache lines, because processors fetch lines in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct ConnectionCells {
    /// Open connections, by [`labels::STATES`].
    pub states: [Cell; labels::STATES.len()],
    /// Handshakes, by [`labels::VERSIONS`], [`labels::RESUMED`] and [`labels::HANDSHAKE_OUTCOMES`].
    pub handshakes: Handshakes<Cell>,
}

/// The numbers of handshakes, of cells or of sums.
pub type Handshakes<T> = [[[T; labels::HANDSHAKE_OUTCOMES.len()]; labels::RESUMED.len()]; labels::VERSIONS.len()];

/// The cells of a worker's sessions at one route.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct RouteCells(pub RouteValues<Cell>);

/// The numbers of a route, of cells or of sums.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct RouteValues<T> {
    /// Forwarded messages, by [`labels::DIRECTIONS`].
    pub messages: [T; labels::DIRECTIONS.len()],
    /// Forwarded bytes, by [`labels::DIRECTIONS`].
    pub bytes: [T; labels::DIRECTIONS.len()],
    /// Messages that exceeded their quota, by [`labels::ACTIONS`].
    pub throttled: [T; labels::ACTIONS.len()],
    /// Acts of limits that are only reported, by [`LimitKind::ALL`] and [`LimitAction::ALL`].
    pub reported: [[T; LimitAction::ALL.len()]; LimitKind::ALL.len()],
    /// Messages of the upstream that were dropped for slow clients.
    pub dropped: [T; 1],
    /// Messages of operators that were not sent.
    pub send_failures: [T; 1],
    /// Ended sessions, by [`labels::CODES`] and [`labels::CLOSED_BY`].
    pub closes: [[T; labels::CLOSED_BY.len()]; labels::CODES.len()],
    /// The same, by [`labels::CAUSES`] and [`labels::CLOSED_BY`].
    pub close_causes: [[T; labels::CLOSED_BY.len()]; labels::CAUSES.len()],
    /// The time from the request head to the 101.
    pub upgrade_duration: Histogram<T>,
    /// The time from the 101 to the end of the session.
    pub session_duration: Histogram<T>,
    /// The time from the head of an ordinary request to the end of its response.
    pub request_duration: Histogram<T>,
}

/// The open sessions of one route with one server.
#[derive(Debug)]
#[repr(align(128))]
pub struct TargetCells {
    open: Cell,
    route: Arc<RouteCells>,
    connections: Arc<ConnectionCells>,
}

impl WorkerMetrics {
    /// Counts a connection until the guard is dropped, at first in the state of its handshake.
    pub fn connection(&self) -> ConnectionGuard {
        ConnectionGuard::new(&self.connections, ConnectionState::Handshake)
    }

    /// Counts a TLS handshake.
    pub fn count_handshake(&self, outcome: HandshakeOutcome) {
        let [version, resumed, outcome] = outcome.position();
        self.connections.handshakes[version][resumed][outcome].add(1);
    }

    /// Counts an upgrade by its outcome: [`ACCEPTED`], or the [`label`](crate::policy::rejection::Rejection::label) of
    /// its rejection. `route` is empty if no route matched.
    pub fn count_upgrade(&self, route: &str, outcome: &'static str) {
        count(&self.upgrades, route, outcome);
    }

    /// Counts the rejection of an ordinary request of a route by its
    /// [`label`](crate::policy::rejection::Rejection::label).
    pub fn count_http_rejection(&self, route: &str, outcome: &'static str) {
        count(&self.http_rejections, route, outcome);
    }

    /// Counts a request at the refresh path of a route by its outcome: [`RENEWED`], [`NO_SESSION`], or the
    /// [`label`](crate::policy::rejection::Rejection::label) of its rejection.
    pub fn count_refresh(&self, route: &str, outcome: &'static str) {
        count(&self.refreshes, route, outcome);
    }

    /// Counts an accepted upgrade that took `duration`, and its session and connection until the guard is dropped.
    /// `counts` are the messages and bytes of the session that are not to be counted, because they were forwarded
    /// before.
    pub fn open_session(
        &self,
        connection: ConnectionGuard,
        target: TargetKey,
        duration: Duration,
        counts: &SessionStats,
    ) -> SessionMetrics {
        self.count_upgrade(&target[0], ACCEPTED);
        let session = self.resume_session(target, counts);
        session.target.route.0.upgrade_duration.observe(duration, &UPGRADE_BOUNDS);
        drop(connection);
        session
    }

    /// Counts the session of an upgrade that was counted before, until the guard is dropped. `counts` are the messages
    /// and bytes that are not to be counted.
    pub fn resume_session(&self, target: TargetKey, counts: &SessionStats) -> SessionMetrics {
        // Cells are found and counted as in use under one lock, so that no scrape drops them in between.
        let mut sessions = lock(&self.sessions);
        let route = Arc::clone(sessions.routes.entry(Arc::clone(&target[0])).or_default());
        let connections = Arc::clone(&self.connections);
        let new = || Arc::new(TargetCells { open: Cell::default(), route, connections });
        let target = Arc::clone(sessions.targets.entry(target).or_insert_with(new));
        target.open.add(1);
        target.connections.states[ConnectionState::Session as usize].add(1);
        SessionMetrics { target, counted: Counted::of(counts), is_open: true }
    }

    /// Counts an ordinary request by the status of its response.
    pub fn count_request(&self, route: &Arc<str>, status: StatusCode) {
        let mut requests = lock(&self.requests);
        let statuses = match requests.get_mut(route) {
            Some(statuses) => statuses,
            None => requests.entry(Arc::clone(route)).or_default(),
        };
        *statuses.entry(labels::status(status)).or_default() += 1;
    }

    /// Counts the time of an ordinary request, up to the end of its response.
    pub fn observe_request(&self, route: &Arc<str>, duration: Duration) {
        let route = self.route(route);
        route.0.request_duration.observe(duration, &UPGRADE_BOUNDS);
    }

    /// Counts an act of a limit on an ordinary request that is only reported.
    pub fn count_reported_request(&self, route: &Arc<str>, limit: LimitKind) {
        self.route(route).0.reported[limit as usize][LimitAction::Refuse as usize].add(1);
    }

    fn route(&self, route: &Arc<str>) -> Arc<RouteCells> {
        let mut sessions = lock(&self.sessions);
        match sessions.routes.get(route) {
            Some(cells) => Arc::clone(cells),
            None => Arc::clone(sessions.routes.entry(Arc::clone(route)).or_default()),
        }
    }

    /// Counts a message of an operator that was not passed to a session of this route.
    pub fn count_send_failure(&self, route: &str) {
        if let Some(cells) = lock(&self.sessions).routes.get(route) {
            cells.0.send_failures[0].add(1);
        }
    }

    /// Drops the series of routes for which `keep` returns false and of servers, except those of open sessions.
    pub(super) fn retain(&self, keep: impl Fn(&str) -> bool) {
        let Sessions { routes, targets } = &mut *lock(&self.sessions);
        targets.retain(|_, cells| cells.open.get() > 0);
        let is_used = |route: &str| keep(route) || targets.keys().any(|[used, ..]| **used == *route);
        routes.retain(|route, _| is_used(route));
        lock(&self.upgrades).retain(|route, _| route.is_empty() || is_used(route));
        lock(&self.refreshes).retain(|route, _| is_used(route));
        lock(&self.http_rejections).retain(|route, _| is_used(route));
        lock(&self.requests).retain(|route, _| route.is_empty() || is_used(route));
    }

    /// Returns the cells of the connections.
    pub(super) fn connections(&self) -> &ConnectionCells {
        &self.connections
    }

    /// Returns the number of upgrades.
    pub(super) fn upgrades(&self) -> Outcomes {
        lock(&self.upgrades).clone()
    }

    /// Returns the number of refreshes.
    pub(super) fn refreshes(&self) -> Outcomes {
        lock(&self.refreshes).clone()
    }

    /// Returns the number of ordinary requests that were rejected.
    pub(super) fn http_rejections(&self) -> Outcomes {
        lock(&self.http_rejections).clone()
    }

    /// Returns the number of ordinary requests.
    pub(super) fn requests(&self) -> Statuses {
        lock(&self.requests).clone()
    }

    /// Returns the cells of the routes. They are read without the lock.
    pub(super) fn routes(&self) -> Vec<(Arc<str>, Arc<RouteCells>)> {
        lock(&self.sessions).routes.iter().map(|(route, cells)| (Arc::clone(route), Arc::clone(cells))).collect()
    }

    /// Returns the number of open sessions of each target.
    pub(super) fn targets(&self) -> Vec<(TargetKey, u64)> {
        lock(&self.sessions).targets.iter().map(|(target, cells)| (target.clone(), cells.open.get())).collect()
    }
}

/// The `outcome` of an accepted upgrade.
pub const ACCEPTED: &str = "accepted";
/// The `outcome` of a refresh that renewed at least one session.
pub const RENEWED: &str = "renewed";
/// The `outcome` of a refresh whose client has no session that it could renew.
pub const NO_SESSION: &str = "no_session";

fn count(requests: &Mutex<Outcomes>, route: &str, outcome: &'static str) {
    let mut requests = lock(requests);
    let outcomes = match requests.get_mut(route) {
        Some(outcomes) => outcomes,
        None => requests.entry(route.into()).or_default(),
    };
    *outcomes.entry(outcome).or_default() += 1;
}

/// Counts a connection in its state until it is dropped. Only the worker's thread may use it.
#[derive(Debug)]
pub struct ConnectionGuard {
    cells: Arc<ConnectionCells>,
    state: ConnectionState,
}

impl ConnectionGuard {
    fn new(cells: &Arc<ConnectionCells>, state: ConnectionState) -> Self {
        cells.states[state as usize].add(1);
        Self { cells: Arc::clone(cells), state }
    }

    /// Changes the state.
    pub fn enter(&mut self, state: ConnectionState) {
        *self = Self::new(&self.cells, state);
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.cells.states[self.state as usize].subtract(1);
    }
}

/// Counts a session, its connection and its traffic until it is dropped. Only the worker's thread may use it.
#[derive(Debug)]
pub struct SessionMetrics {
    target: Arc<TargetCells>,
    counted: Counted,
    /// Whether the session has not ended. Afterwards its connection is being closed.
    is_open: bool,
}

/// The lower halves of the numbers that were counted. Much less than 2^32 is added between two calls, so that the
/// differences are exact, and a session needs half the memory.
#[derive(Debug, PartialEq, Eq)]
struct Counted {
    messages: [u32; 2],
    bytes: [u32; 2],
    throttled: u32,
}

impl Counted {
    #[inline]
    fn of(counts: &SessionStats) -> Self {
        let SessionStats { client, upstream, throttled } = counts;
        Self {
            messages: [low(client.messages), low(upstream.messages)],
            bytes: [low(client.bytes), low(upstream.bytes)],
            throttled: low(*throttled),
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "only differences matter")]
#[inline]
fn low(number: u64) -> u32 {
    number as u32
}

impl SessionMetrics {
    /// Counts what the session has forwarded since the last call. `on_excess` is its present treatment of messages that
    /// exceed their quota.
    #[inline]
    pub fn count(&mut self, counts: &SessionStats, on_excess: OnExcess) {
        let now = Counted::of(counts);
        if now == self.counted {
            return;
        }
        let cells = &self.target.route.0;
        let add = |cell: &Cell, now: u32, before: u32| cell.add(u64::from(now.wrapping_sub(before)));
        for direction in 0..labels::DIRECTIONS.len() {
            add(&cells.messages[direction], now.messages[direction], self.counted.messages[direction]);
            add(&cells.bytes[direction], now.bytes[direction], self.counted.bytes[direction]);
        }
        add(&cells.throttled[labels::action(on_excess)], now.throttled, self.counted.throttled);
        self.counted = now;
    }

    /// Counts acts of a limit that is only reported.
    pub fn count_reported(&self, limit: LimitKind, action: LimitAction, count: u64) {
        self.target.route.0.reported[limit as usize][action as usize].add(count);
    }

    /// Counts messages of the upstream that were dropped for a slow client.
    pub fn count_dropped(&self, messages: u64) {
        self.target.route.0.dropped[0].add(messages);
    }

    /// Counts messages of operators that were not sent.
    pub fn count_send_failures(&self, messages: u32) {
        self.target.route.0.send_failures[0].add(messages.into());
    }

    /// Counts the end of the session. Its connection remains to be closed. Has no effect on a session that has ended.
    pub fn end(&mut self, outcome: &Outcome, age: Duration) {
        if !self.is_open {
            return;
        }
        let cells = &self.target.route.0;
        let by = labels::closed_by(outcome.by);
        cells.closes[labels::code(outcome)][by].add(1);
        if let Some(cause) = labels::cause(outcome.cause) {
            cells.close_causes[cause][by].add(1);
        }
        cells.session_duration.observe(age, &SESSION_BOUNDS);
        self.close();
        self.state(ConnectionState::Closing).add(1);
    }

    fn close(&mut self) {
        self.is_open = false;
        self.target.open.subtract(1);
        self.state(ConnectionState::Session).subtract(1);
    }

    fn state(&self, state: ConnectionState) -> &Cell {
        &self.target.connections.states[state as usize]
    }
}

impl Drop for SessionMetrics {
    fn drop(&mut self) {
        if self.is_open {
            self.close();
        } else {
            self.state(ConnectionState::Closing).subtract(1);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is consistent after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
