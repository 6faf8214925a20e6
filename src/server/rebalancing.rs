//! The sessions that overloaded servers shed: planned for one period of `rebalance` at a time, and spread over it.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::shuffle::{number, shuffle};
use crate::balance::rebalance::{ServerLoad, is_above_share, plan};
use crate::balance::{Pool, Rebalance};
use crate::front::snapshot::Snapshot;
use crate::relay::registry::ListedSession;
use crate::runtime::clock;
use crate::telemetry::request::RequestId;

/// The longest time until the next plan after one that moves no session.
const PLAN_AGAIN: Duration = Duration::from_secs(10);
/// The number of servers that a log line names.
const NAMES_MAX: usize = 8;

/// One period of an upstream: at most its budget of sessions is closed within it.
#[derive(Debug)]
struct Period {
    rebalance: Rebalance,
    ends: Instant,
    /// How many sessions each server sheds, until they are chosen.
    planned: HashMap<Arc<str>, u64>,
    /// The chosen sessions, the next one last.
    moves: Vec<Move>,
    /// The number of closed sessions, by server.
    closed: BTreeMap<Arc<str>, usize>,
}

#[derive(Debug)]
struct Move {
    at: Instant,
    server: Arc<str>,
    id: RequestId,
}

/// The current period of each upstream with `rebalance`.
#[derive(Debug, Default)]
pub(super) struct Rebalancing(HashMap<Arc<str>, Period>);

impl Rebalancing {
    /// Begins the periods that are due, and ends those of upstreams that do not rebalance as before.
    pub(super) fn follow(&mut self, snapshot: &Snapshot, now: Instant) {
        self.0.retain(|upstream, period| {
            let is_over = period.ends <= now;
            let pool = snapshot.pool(upstream);
            let is_kept = !is_over && pool.is_some_and(|pool| pool.config().rebalance == Some(period.rebalance));
            if !is_kept {
                period.log(upstream);
            }
            is_kept
        });
        for pool in snapshot.pools() {
            if let Some(rebalance) = pool.config().rebalance {
                let upstream = Arc::clone(&pool.config().name);
                self.0.entry(upstream).or_insert_with(|| Period::begin(pool, rebalance, now));
            }
        }
    }

    /// Whether a plan waits for the sessions that it closes.
    pub(super) fn needs_sessions(&self) -> bool {
        self.0.values().any(|period| !period.planned.is_empty())
    }

    /// Chooses the sessions of the plans.
    pub(super) fn add_sessions(&mut self, listed: &[ListedSession], now: Instant) {
        let mut found: HashMap<(Arc<str>, Arc<str>), Vec<(Instant, RequestId)>> = HashMap::new();
        for (_, facts) in listed {
            let period = self.0.get(&facts.upstream);
            if period.is_some_and(|period| period.planned.contains_key(&facts.server)) {
                let key = (Arc::clone(&facts.upstream), Arc::clone(&facts.server));
                found.entry(key).or_default().push((facts.started, facts.request_id));
            }
        }
        for (upstream, period) in &mut self.0 {
            let mut chosen = Vec::new();
            for (server, count) in std::mem::take(&mut period.planned) {
                let mut sessions = found.remove(&(Arc::clone(upstream), Arc::clone(&server))).unwrap_or_default();
                // The oldest ones: with long-tailed lives they are those that would stay longest, and a session that was
                // moved is the last to be moved again.
                sessions.sort_unstable();
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                chosen.extend(sessions.into_iter().take(count).map(|(_, id)| (Arc::clone(&server), id)));
            }
            period.spread(chosen, now);
        }
    }

    /// Takes the sessions that are closed now. Those of servers that have no more than their share by now stay open.
    pub(super) fn due(&mut self, snapshot: &Snapshot, now: Instant) -> Vec<RequestId> {
        let mut due = Vec::new();
        for (upstream, period) in &mut self.0 {
            if period.moves.last().is_none_or(|next| next.at > now) {
                continue;
            }
            let overloaded = snapshot.pool(upstream).map(|pool| overloaded(pool, now)).unwrap_or_default();
            while let Some(next) = period.moves.pop_if(|next| next.at <= now) {
                if overloaded.contains(&next.server) {
                    *period.closed.entry(next.server).or_default() += 1;
                    due.push(next.id);
                }
            }
        }
        due
    }

    /// Returns the time of the next closing.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().filter_map(|period| Some(period.moves.last()?.at)).min()
    }
}

/// Returns the servers that have more sessions than their share.
fn overloaded(pool: &Pool, now: Instant) -> HashSet<Arc<str>> {
    let (servers, loads): (Vec<_>, Vec<ServerLoad>) = pool.loads(pool.millis_at(now)).into_iter().unzip();
    let names = servers.iter().zip(is_above_share(&loads)).filter(|(_, is_above)| *is_above);
    names.map(|(server, _)| Arc::clone(server.name())).collect()
}

impl Period {
    fn begin(pool: &Pool, rebalance: Rebalance, now: Instant) -> Self {
        let (servers, loads): (Vec<_>, Vec<ServerLoad>) = pool.loads(pool.millis_at(now)).into_iter().unzip();
        let sessions = loads.iter().map(|load| load.sessions).fold(0, u64::saturating_add);
        let counts = plan(&loads, rebalance.budget(sessions));
        let planned = servers.iter().zip(counts).filter(|(_, count)| *count > 0);
        let planned: HashMap<_, _> = planned.map(|(server, count)| (Arc::clone(server.name()), count)).collect();
        let time = if planned.is_empty() { rebalance.period.min(PLAN_AGAIN) } else { rebalance.period };
        let ends = clock::after(now, time);
        Self { rebalance, ends, planned, moves: Vec::new(), closed: BTreeMap::new() }
    }

    /// Spreads the closings over the period, each at a random time of its part.
    fn spread(&mut self, mut chosen: Vec<(Arc<str>, RequestId)>, now: Instant) {
        shuffle(&mut chosen);
        let Ok(count) = u32::try_from(chosen.len()) else { return };
        let part = self.rebalance.period.checked_div(count).unwrap_or_default();
        let jitter = || u32::try_from(number() % 1000).map_or(part, |random| part / 1000 * random);
        let moves = (0..).zip(chosen).map(|(index, (server, id))| {
            let at = clock::after(now, part.saturating_mul(index).saturating_add(jitter()));
            Move { at, server, id }
        });
        self.moves.extend(moves);
        self.moves.sort_unstable_by_key(|next| Reverse(next.at));
    }

    fn log(&self, upstream: &str) {
        let sessions: usize = self.closed.values().sum();
        if sessions == 0 {
            return;
        }
        let mut from = String::new();
        for (server, count) in self.closed.iter().take(NAMES_MAX) {
            // A string accepts everything.
            let _ = write!(from, "{}{server} {count}", if from.is_empty() { "" } else { ", " });
        }
        if self.closed.len() > NAMES_MAX {
            from.push_str(", ...");
        }
        tracing::info!(upstream, sessions, from, "rebalanced");
    }
}
