//! The store of leases: what a node asks, what it is granted, and the reference of how a quota is divided.
//!
//! `src/cluster/lease.lua` has the same arithmetic. Times are microseconds of the store's clock, shares millionths. All
//! numbers are below 2^53, which Lua can represent.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::share::WHOLE;

/// How long a lease is valid.
pub const LEASE_MICROS: u64 = 2_000_000;
/// The same while nodes want more than the whole quota: shares then change sooner.
pub const CONTENDED_LEASE_MICROS: u64 = 500_000;
/// The longest time for which the store keeps a key that no node uses.
pub const KEPT_MAX_MICROS: u64 = 24 * 3_600 * 1_000_000;
/// The most by which the use of a quota is remembered beyond its burst. Nodes report their use afterwards, so that it may
/// exceed a short burst.
pub const OVERUSE_MAX_MICROS: u64 = 1_000_000;
/// The highest number of microseconds in an ask: 73 years.
pub const ASKED_MAX_MICROS: u64 = 1 << 51;

/// A request for a share of one quota.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseAsk {
    /// The name of the quota, as [`name`](super::key::name) returns it.
    pub key: Arc<str>,
    /// The number of this ask: asks of a node increase.
    pub sequence: u64,
    /// The share that the node holds and may use until the answer arrives.
    pub held: u32,
    /// The share that the node wants; 0: it returns its lease.
    pub want: u32,
    /// What the node has used since its last ask: the time in which the whole quota replenishes it.
    pub used_micros: u64,
    /// The time in which the whole quota replenishes a burst.
    pub burst_micros: u64,
}

/// The answer to an ask.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeaseGrant {
    /// The share; 0: none.
    pub share: u32,
    /// Whether this is what is due to the node; if not, another node still holds some of it.
    pub is_final: bool,
    /// How long the share is valid, from the time at which the ask was sent.
    pub valid_for: Duration,
    /// What all nodes have used of the quota and is not replenished.
    pub backlog: Duration,
    /// The number of other nodes that use the quota.
    pub others: u32,
}

impl LeaseGrant {
    /// Returns the answer in the form of the script: the share, 1 if it is final, how long it is valid and the backlog in
    /// microseconds, and the number of other nodes. `None` if a number is too large.
    pub fn from_numbers([share, is_final, valid, backlog, others]: [u64; 5]) -> Option<Self> {
        let backlog = Some(backlog).filter(|backlog| *backlog <= 2 * ASKED_MAX_MICROS)?;
        Some(Self {
            share: u32::try_from(share).ok().filter(|share| *share <= WHOLE)?,
            is_final: is_final == 1,
            valid_for: Duration::from_micros(valid.min(LEASE_MICROS)),
            backlog: Duration::from_micros(backlog),
            others: u32::try_from(others).ok()?,
        })
    }
}

/// A store that divides quotas between nodes.
pub trait LeaseStore {
    /// Answers a node at this time of the store's clock.
    fn ask(&mut self, node: &str, ask: &LeaseAsk, now_micros: u64) -> LeaseGrant;
}

/// A store in memory: the reference of the algorithm.
#[derive(Debug, Default)]
pub struct MemoryLeases {
    quotas: HashMap<Arc<str>, SharedQuota>,
}

/// What nodes have used of a quota, and their leases.
#[derive(Debug, Default)]
struct SharedQuota {
    /// The theoretical arrival time of the next cell.
    arrival: u64,
    nodes: BTreeMap<String, NodeLease>,
}

/// The lease of one node.
#[derive(Debug, Clone, Copy)]
struct NodeLease {
    /// The share that is kept for the node. The node may not have received its last answer, so this is the greater of
    /// its last two shares.
    kept: u32,
    expires: u64,
    want: u32,
    sequence: u64,
}

impl LeaseStore for MemoryLeases {
    fn ask(&mut self, node: &str, ask: &LeaseAsk, now: u64) -> LeaseGrant {
        let quota = self.quotas.entry(Arc::clone(&ask.key)).or_default();
        let grant = quota.ask(node, ask, now);
        if quota.nodes.is_empty() && quota.arrival <= now {
            self.quotas.remove(&ask.key);
        }
        grant
    }
}

impl MemoryLeases {
    /// Returns the number of quotas.
    pub fn len(&self) -> usize {
        self.quotas.len()
    }

    /// Whether there is no quota.
    pub fn is_empty(&self) -> bool {
        self.quotas.is_empty()
    }

    /// Returns the sum of the shares of a quota that are kept for nodes at this time.
    pub fn kept(&self, key: &str, now: u64) -> u64 {
        let leases = self.quotas.get(key).into_iter().flat_map(|quota| quota.nodes.values());
        leases.filter(|lease| lease.expires > now).map(|lease| u64::from(lease.kept)).sum()
    }
}

impl SharedQuota {
    fn ask(&mut self, node: &str, ask: &LeaseAsk, now: u64) -> LeaseGrant {
        // One that ends later than any lease of now is from before the clock was set back. Its node may have another id now.
        self.nodes.values_mut().for_each(|lease| lease.expires = lease.expires.min(now + LEASE_MICROS));
        self.nodes.retain(|_, lease| lease.expires > now);
        let last = self.nodes.get(node).copied();
        if last.is_some_and(|lease| lease.sequence >= ask.sequence) {
            // A later ask was answered already.
            return LeaseGrant::default();
        }
        let (used, burst) = (ask.used_micros.min(ASKED_MAX_MICROS), ask.burst_micros.min(ASKED_MAX_MICROS));
        self.arrival = (self.arrival.max(now) + used).min(now + burst + OVERUSE_MAX_MICROS);
        let (held, want) = (ask.held.min(WHOLE), ask.want.min(WHOLE));
        self.nodes.remove(node);
        let others = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        let backlog = Duration::from_micros(self.arrival - now);
        if want == 0 {
            return LeaseGrant { is_final: true, backlog, others, ..LeaseGrant::default() };
        }
        let mut wants: Vec<u32> = self.nodes.values().map(|lease| lease.want).collect();
        wants.push(want);
        let wanted: u64 = wants.iter().copied().map(u64::from).sum();
        let kept: u64 = self.nodes.values().map(|lease| u64::from(lease.kept)).sum();
        let due = due(want, &wants);
        let free = u32::try_from(u64::from(WHOLE).saturating_sub(kept)).unwrap_or_default();
        let share = due.min(free);
        let valid = if wanted > u64::from(WHOLE) { CONTENDED_LEASE_MICROS } else { LEASE_MICROS };
        // If the node does not receive this answer, it uses what it holds for as long as the last one permits.
        let expires = last.map_or(0, |last| last.expires).max(now + valid);
        let lease = NodeLease { kept: share.max(held), expires, want, sequence: ask.sequence };
        self.nodes.insert(node.to_owned(), lease);
        LeaseGrant { share, is_final: share == due, valid_for: Duration::from_micros(valid), backlog, others }
    }
}

/// Returns the share that is due to a node with this want. Four fifths of a want are its need, the rest is a margin:
/// margins share what is left when all nodes have what they need.
fn due(want: u32, wants: &[u32]) -> u32 {
    let (need, needs) = (need(want), wants.iter().copied().map(need).collect::<Vec<_>>());
    let needed: u64 = needs.iter().copied().map(u64::from).sum();
    let left = u32::try_from(u64::from(WHOLE).saturating_sub(needed)).unwrap_or_default();
    if left == 0 {
        return need.min(fair_level(needs, WHOLE));
    }
    let margins = wants.iter().zip(&needs).map(|(want, need)| want - need).collect();
    need + (want - need).min(fair_level(margins, left))
}

fn need(want: u32) -> u32 {
    want - want / 5
}

/// Returns the most that any node is due of a share by max-min fairness: those that want less get what they want.
fn fair_level(mut wants: Vec<u32>, whole: u32) -> u32 {
    wants.sort_unstable();
    let (mut left, mut nodes) = (whole, u32::try_from(wants.len()).unwrap_or(u32::MAX));
    for want in wants {
        let level = left / nodes.max(1);
        if want > level {
            return level;
        }
        left -= want;
        nodes = nodes.saturating_sub(1);
    }
    whole
}
