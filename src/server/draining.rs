//! Closes the sessions of servers that drain, and those that overloaded servers shed, at the rates of their upstreams.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::time::sleep_until;

use super::rebalancing::Rebalancing;
use super::shuffle::{number, shuffle};
use crate::balance::pacing::Pacing;
use crate::balance::{ClosingRate, Server};
use crate::front::gateway::Gateway;
use crate::front::snapshot::Snapshot;
use crate::relay::registry::ListedSession;
use crate::relay::workers::BulkCommand;
use crate::runtime::clock;
use crate::session::CloseReason;
use crate::telemetry::request::RequestId;

/// The longest time until a change of the pools is noticed.
const NOTICE: Duration = Duration::from_millis(500);
/// The shortest time between two closings: each is a pass over all sessions.
const STEP: Duration = Duration::from_millis(50);
/// The time after which the sessions of a server are listed again that had none left to close.
const LIST_AGAIN: Duration = Duration::from_secs(1);
/// The time within which the sessions of a server close that an operator has put down, if the drain rate is not higher.
const DOWN_WITHIN: Duration = Duration::from_secs(10);

/// The names of an upstream and of its server.
type ServerKey = (Arc<str>, Arc<str>);

/// The reason for which a server drains.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Configuration,
    Operator,
    Down,
    Removed,
}

/// A server that drains now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Draining {
    cause: Cause,
    rate: ClosingRate,
    sessions: u32,
}

/// A drain in progress. Its lists have at most one entry for each session of the server.
#[derive(Debug)]
struct Drain {
    cause: Cause,
    rate: ClosingRate,
    began: Instant,
    pacing: Pacing,
    /// When its sessions were listed last.
    listed: Option<Instant>,
    /// The sessions to close, in the reverse order.
    pending: Vec<RequestId>,
    /// The sessions that were closed and may still wait for the end of their closing handshakes.
    closing: HashSet<RequestId>,
    closed: usize,
}

/// The drains in progress.
#[derive(Debug, Default)]
struct Drains(HashMap<ServerKey, Drain>);

/// Closes sessions by their servers until the drain of the process, which closes all of them. Never returns.
pub(super) async fn run(gateway: &Gateway) {
    tokio::select! {
        () = gateway.process.lifecycle.draining() => {}
        () = close_by_server(gateway) => {}
    }
    std::future::pending::<()>().await;
}

async fn close_by_server(gateway: &Gateway) {
    let (mut drains, mut rebalancing) = (Drains::default(), Rebalancing::default());
    loop {
        let (now, snapshot) = (clock::now(), gateway.snapshot());
        drains.follow(&snapshot, now);
        rebalancing.follow(&snapshot, now);
        if drains.need_sessions(now) || rebalancing.needs_sessions() {
            let listed = gateway.workers.list().await;
            drains.add_sessions(&listed, now);
            rebalancing.add_sessions(&listed, now);
        }
        end(gateway, drains.due(now), CloseReason::ServerDrain).await;
        end(gateway, rebalancing.due(&snapshot, now), CloseReason::Rebalance).await;
        let notice = clock::after(now, NOTICE);
        let next = drains.next().into_iter().chain(rebalancing.next()).fold(notice, Instant::min);
        sleep_until(next.max(clock::after(now, STEP)).into()).await;
    }
}

async fn end(gateway: &Gateway, ids: Vec<RequestId>, cause: CloseReason) {
    if !ids.is_empty() {
        gateway.workers.each(Arc::new(ids.into_iter().collect()), BulkCommand::End(cause)).await;
    }
}

impl Cause {
    fn of(server: &Server) -> Self {
        if server.is_down() {
            Self::Down
        } else if server.operator_state().is_some() {
            Self::Operator
        } else {
            Self::Configuration
        }
    }

    /// Returns its name in logs.
    fn label(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Operator => "operator",
            Self::Down => "down",
            Self::Removed => "removed",
        }
    }
}

/// Returns the rate at which the sessions of a server close that has this many.
pub fn closing_rate(drain_rate: ClosingRate, is_down: bool, sessions: u32) -> ClosingRate {
    let within = sessions.try_into().map(|count| ClosingRate { count, period: DOWN_WITHIN });
    let is_higher = |rate: &ClosingRate| is_down && rate.interval() < drain_rate.interval();
    within.ok().filter(is_higher).unwrap_or(drain_rate)
}

/// Returns the servers that drain now. Removed servers do if a reload checks open sessions.
fn draining(snapshot: &Snapshot) -> HashMap<ServerKey, Draining> {
    let mut all = HashMap::new();
    for pool in snapshot.pools() {
        let (upstream, rate) = (&pool.config().name, pool.config().drain_rate);
        for server in pool.servers().filter(|server| server.drains()) {
            let (cause, sessions) = (Cause::of(server), server.sessions());
            let rate = closing_rate(rate, server.is_down(), sessions);
            all.insert((Arc::clone(upstream), Arc::clone(server.name())), Draining { cause, rate, sessions });
        }
        for (name, sessions) in pool.removed().filter(|_| snapshot.rechecks_sessions()) {
            all.insert((Arc::clone(upstream), name), Draining { cause: Cause::Removed, rate, sessions });
        }
    }
    all
}

impl Drains {
    /// Begins the drains of servers that drain since the last call, and ends those of others.
    fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        let all = draining(snapshot);
        self.0.retain(|key, drain| {
            let found = all.get(key);
            if let Some(found) = found
                && found.sessions > 0
            {
                // A server that is down keeps the rate that its number of sessions had.
                if drain.cause != Cause::Down {
                    drain.rate = found.rate;
                }
                // It begins again below for another reason.
                return found.cause == drain.cause;
            }
            let (upstream, server) = key;
            // The pool does not list a removed server without sessions.
            let is_gone = drain.cause == Cause::Removed
                && snapshot.rechecks_sessions()
                && snapshot.pool(upstream).is_some_and(|_| !snapshot.has_server(upstream, server));
            let closed = drain.closed;
            if found.is_some() || is_gone {
                let seconds = now.saturating_duration_since(drain.began).as_secs_f64();
                tracing::info!(%upstream, %server, closed, seconds = (seconds * 10.0).round() / 10.0, "server drained");
            } else {
                tracing::info!(%upstream, %server, closed, "server drain stopped");
            }
            false
        });
        for (key, Draining { cause, rate, sessions }) in all.into_iter().filter(|(_, found)| found.sessions > 0) {
            self.0.entry(key).or_insert_with_key(|(upstream, server)| {
                tracing::info!(%upstream, %server, sessions, %rate, cause = cause.label(), "server drains");
                let pacing = Pacing::new(rate.interval(), now, number());
                let (pending, closing) = (Vec::new(), HashSet::new());
                Drain { cause, rate, began: now, pacing, listed: None, pending, closing, closed: 0 }
            });
        }
    }

    /// Whether a drain has no sessions to close, and did not list them a short while ago.
    fn need_sessions(&self, now: Instant) -> bool {
        self.0.values().any(|drain| drain.needs_sessions(now))
    }

    /// Adds the sessions of the servers whose drains need them, in a random order: it spreads the users over time.
    fn add_sessions(&mut self, listed: &[ListedSession], now: Instant) {
        let mut found: HashMap<ServerKey, Vec<RequestId>> = HashMap::new();
        for (_, facts) in listed {
            let key = (Arc::clone(&facts.upstream), Arc::clone(&facts.server));
            if self.0.get(&key).is_some_and(|drain| drain.needs_sessions(now)) {
                found.entry(key).or_default().push(facts.request_id);
            }
        }
        for (key, drain) in self.0.iter_mut().filter(|(_, drain)| drain.needs_sessions(now)) {
            let ids = found.remove(key).unwrap_or_default();
            let (closing, open): (Vec<_>, Vec<_>) = ids.into_iter().partition(|id| drain.closing.contains(id));
            drain.closing = closing.into_iter().collect();
            drain.pending = open;
            shuffle(&mut drain.pending);
            drain.listed = Some(now);
        }
    }

    /// Takes the sessions that are closed now.
    fn due(&mut self, now: Instant) -> Vec<RequestId> {
        let mut due = Vec::new();
        for drain in self.0.values_mut().filter(|drain| !drain.pending.is_empty()) {
            let count = drain.pacing.due(drain.rate.interval(), now, drain.pending.len(), number);
            let ids = drain.pending.split_off(drain.pending.len().saturating_sub(count));
            drain.closed = drain.closed.saturating_add(ids.len());
            drain.closing.extend(ids.iter().copied());
            due.extend(ids);
        }
        due
    }

    /// Returns the time of the next closing.
    fn next(&self) -> Option<Instant> {
        self.0.values().filter(|drain| !drain.pending.is_empty()).map(|drain| drain.pacing.next()).min()
    }
}

impl Drain {
    fn needs_sessions(&self, now: Instant) -> bool {
        let is_due = |listed: Instant| now.saturating_duration_since(listed) >= LIST_AGAIN;
        self.pending.is_empty() && self.listed.is_none_or(is_due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_down_closes_its_sessions_within_seconds() {
        let rate = |count: u32, seconds| ClosingRate {
            count: count.try_into().unwrap(),
            period: Duration::from_secs(seconds),
        };
        for (sessions, is_down, expected) in [
            (0, true, rate(20, 1)),
            (100, true, rate(20, 1)),
            (201, true, rate(201, 10)),
            (5000, true, rate(5000, 10)),
            (5000, false, rate(20, 1)),
        ] {
            assert_eq!(closing_rate(rate(20, 1), is_down, sessions), expected, "{sessions} {is_down}");
        }
    }
}
