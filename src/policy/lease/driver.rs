//! Decides which keys ask the store for a lease, when, and for how much.
//!
//! Its caller calls [`LeaseDriver::tick`] every 100 ms, sends the asks that it returns, and passes each answer to
//! [`LeaseDriver::answered`], or calls [`LeaseDriver::failed`]. Each ask may be answered at any later time, or never.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::share::{LEASE_TICK_NANOS, LEASED_KEYS_MAX, Leases, Share, Use, WHOLE};
use super::store::{LeaseAsk, LeaseGrant};
use crate::policy::quota::{nanos, nanos_at};

/// The time between two calls of [`LeaseDriver::tick`].
pub const LEASE_TICK: Duration = Duration::from_nanos(LEASE_TICK_NANOS);
/// The maximum number of asks that one tick returns. When the store returns after an outage, the others follow later.
pub const ASKS_PER_TICK_MAX: usize = 2_000;
/// The shortest time between two asks for one key.
const ASK_PAUSE_NANOS: u64 = 250_000_000;
/// How long an answer may take. After it the key asks again.
const ANSWER_NANOS: u64 = 1_000_000_000;
/// How long a key is unused before its lease is returned. It is also the span over which the first use is measured.
const IDLE_NANOS: u64 = 1_000_000_000;
/// A first ask without a refusal wants this many times the share without a lease.
const FIRST_FACTOR: u32 = 4;

/// The leases of this node.
#[derive(Debug)]
pub struct LeaseDriver {
    leases: Arc<Leases>,
    keys: HashMap<Arc<str>, Held>,
    sequence: u64,
    nodes: u32,
    is_reachable: bool,
}

/// A key with a lease, or one that asks for it.
#[derive(Debug)]
struct Held {
    share: Arc<Share>,
    asked: Option<Asked>,
    /// When it asked last, or began to need a lease.
    last: u64,
    /// When it asks next, unless it needs more before.
    due: u64,
    is_first: bool,
    /// The use per time, in millionths of the quota's rate, with what was refused.
    demand: u64,
    /// What had been taken at the last tick, and since when it is the same.
    seen: (u64, u64),
    /// The number of other nodes that use the key.
    others: u32,
}

/// An ask without an answer.
#[derive(Debug, Clone, Copy)]
struct Asked {
    sequence: u64,
    at: u64,
    want: u32,
    /// The cost that it reported.
    reported: u64,
}

impl LeaseDriver {
    /// Creates the driver of a node that knows of no other and has not reached the store: its shares are whole.
    pub fn new(leases: Arc<Leases>) -> Self {
        let driver = Self { leases, keys: HashMap::new(), sequence: 0, nodes: 1, is_reachable: false };
        driver.leases.set_cluster(driver.nodes, driver.is_reachable);
        driver
    }

    /// Sets the number of live nodes, this one included.
    pub fn set_nodes(&mut self, nodes: u32) {
        self.nodes = nodes.max(1);
        self.leases.set_cluster(self.nodes, self.is_reachable);
    }

    /// Sets whether the store can be reached. While it cannot, there are no asks. Leases stay valid until they expire,
    /// and after it each node uses an equal share.
    pub fn set_reachable(&mut self, is_reachable: bool) {
        self.is_reachable = is_reachable;
        self.leases.set_cluster(self.nodes, is_reachable);
    }

    /// Returns the number of keys with a lease or an ask.
    pub fn keys(&self) -> usize {
        self.keys.len()
    }

    /// Returns the asks that are due, at most [`ASKS_PER_TICK_MAX`]. They have to be sent after this call.
    pub fn tick(&mut self, now: Instant) -> Vec<LeaseAsk> {
        let now = nanos_at(now);
        self.add_needing(now);
        self.keys.retain(|_, held| held.is_kept(now, self.is_reachable));
        if !self.is_reachable {
            return Vec::new();
        }
        let mut due: Vec<(u64, Arc<str>)> = Vec::new();
        for (key, held) in &self.keys {
            due.extend(held.due_at(now).map(|at| (at, Arc::clone(key))));
        }
        // Those that have waited longest come first.
        due.sort_unstable();
        due.truncate(ASKS_PER_TICK_MAX);
        let base = self.leases.base();
        let mut asks = Vec::with_capacity(due.len());
        for (_, key) in due {
            let Some(held) = self.keys.get_mut(&key) else { continue };
            self.sequence = self.sequence.saturating_add(1);
            asks.push(held.ask(key, self.sequence, base, now));
        }
        asks
    }

    /// Records the answer to an ask. One that comes too late has no effect.
    pub fn answered(&mut self, key: &str, sequence: u64, grant: &LeaseGrant, now: Instant) {
        let now = nanos_at(now);
        let Some(held) = self.keys.get_mut(key) else { return };
        let Some(asked) = held.asked.take_if(|asked| asked.sequence == sequence) else { return };
        held.others = grant.others;
        if asked.want > 0 {
            held.on_grant(asked, grant, now);
        } else if held.share.retire() {
            self.keys.remove(key);
        } else {
            (held.due, held.is_first) = (now, true);
        }
    }

    /// Records that an ask has no answer.
    pub fn failed(&mut self, key: &str, sequence: u64, now: Instant) {
        let Some(held) = self.keys.get_mut(key) else { return };
        if let Some(asked) = held.asked.take_if(|asked| asked.sequence == sequence) {
            held.on_failure(asked, nanos_at(now));
        }
    }

    /// Takes the keys that need a lease since the last call.
    fn add_needing(&mut self, now: u64) {
        for share in self.leases.take_needing() {
            let Some(key) = share.name() else { continue };
            if self.keys.len() >= LEASED_KEYS_MAX || self.keys.contains_key(&key) {
                // A route that was removed and added again has new counts; the lease of the old ones expires.
                share.reject(now);
                continue;
            }
            let held =
                Held { share, asked: None, last: now, due: now, is_first: true, demand: 0, seen: (0, now), others: 0 };
            self.keys.insert(key, held);
        }
    }
}

impl Held {
    /// Records what has been taken.
    fn look(&mut self, now: u64) {
        let (taken, is_limited) = self.share.new_use();
        if taken != self.seen.0 || is_limited {
            self.seen = (taken, now);
        }
    }

    fn is_idle(&self, now: u64) -> bool {
        now.saturating_sub(self.seen.1) >= IDLE_NANOS
    }

    /// Gives up an ask without an answer, and a lease that expired and is not needed. Returns whether the key is kept.
    fn is_kept(&mut self, now: u64, is_reachable: bool) -> bool {
        self.look(now);
        if let Some(asked) = self.asked.take_if(|asked| now.saturating_sub(asked.at) >= ANSWER_NANOS) {
            self.on_failure(asked, now);
        }
        let is_gone = !is_reachable && self.asked.is_none() && self.share.lease(now) == 0;
        !(is_gone && self.share.retire())
    }

    /// Returns since when this key is due to ask, if it is.
    fn due_at(&self, now: u64) -> Option<u64> {
        let pause = if self.is_first { 0 } else { ASK_PAUSE_NANOS };
        let early = self.last.saturating_add(pause);
        let is_early = self.share.needs() || self.is_idle(now);
        let due = if is_early { early.min(self.due) } else { self.due };
        (self.asked.is_none() && due <= now).then_some(due)
    }

    fn ask(&mut self, key: Arc<str>, sequence: u64, base: u32, now: u64) -> LeaseAsk {
        let Use { taken, refused, is_delayed } = self.share.take_use();
        // What was taken long before the share was insufficient is replenished.
        let taken = if self.is_first { taken.min(self.share.unreplenished(now)) } else { taken };
        let is_idle = self.is_idle(now);
        let span = now.saturating_sub(self.last);
        let want = if is_idle { 0 } else { self.want(taken, refused, is_delayed, (base, self.share.lease(now)), span) };
        (self.last, self.is_first) = (now, false);
        if want < self.share.lease(now) {
            // The store may lease the difference as soon as it has this ask.
            self.share.lower(want, now);
        }
        let used_micros = taken / 1_000;
        self.share.put_back(taken % 1_000);
        self.seen.0 = taken % 1_000;
        self.asked = Some(Asked { sequence, at: now, want, reported: used_micros * 1_000 });
        let burst_micros = self.share.burst().div_ceil(1_000);
        LeaseAsk { key, sequence, held: self.share.lease(now), want, used_micros, burst_micros }
    }

    /// Returns the share that the use since the last ask needs.
    fn want(&mut self, taken: u64, refused: u64, is_delayed: bool, (base, leased): (u32, u32), span: u64) -> u32 {
        let whole = u64::from(WHOLE);
        let used = u128::from(taken.saturating_add(refused)) * u128::from(WHOLE);
        let span = if self.is_first { span.max(IDLE_NANOS) } else { span.max(ASK_PAUSE_NANOS) };
        let current = u64::try_from(used / u128::from(span)).unwrap_or(u64::MAX).min(whole);
        self.demand = current.max(current.midpoint(self.demand));
        let is_limited = is_delayed || refused > 0;
        let base_share = u64::from(base);
        let needed = self.demand + self.demand / 4;
        let want = match () {
            () if is_limited && self.others == 0 => whole,
            // How much more the clients would send is not known. Too large a want takes from what other nodes use.
            () if is_delayed => (self.demand.max(leased.into()) * 2).max(base_share * u64::from(FIRST_FACTOR)),
            () if is_limited => needed,
            () if self.is_first => needed.max(base_share * u64::from(FIRST_FACTOR)),
            () if needed <= base_share * 3 / 4 => return 0,
            () => needed,
        };
        u32::try_from(want.max(base_share + base_share / 2).min(whole)).unwrap_or(WHOLE)
    }

    fn on_grant(&mut self, asked: Asked, grant: &LeaseGrant, now: u64) {
        let valid = nanos(grant.valid_for);
        let share = grant.share.min(WHOLE);
        self.share.set_lease(share, asked.at.saturating_add(valid), nanos(grant.backlog), now);
        self.due = asked.at.saturating_add((valid / 2).max(ASK_PAUSE_NANOS));
        if share >= asked.want && share < WHOLE {
            self.share.set_granted();
        } else if grant.is_final {
            self.share.set_settled();
        }
    }

    fn on_failure(&mut self, asked: Asked, now: u64) {
        // The store may have counted it already: then nodes get less for a burst.
        self.share.put_back(asked.reported);
        self.due = now.saturating_add(ASK_PAUSE_NANOS);
        self.last = now;
    }
}
