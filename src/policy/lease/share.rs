//! The share of a quota that this node enforces, and what it has used of it since the store was last told.
//!
//! Times and costs are nanoseconds in the scale of counts. A cost is the time in which the whole quota replenishes what
//! was used.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::key::{LeaseClient, name};

/// A whole quota. Shares are in millionths of it.
pub const WHOLE: u32 = 1_000_000;
/// What all nodes together may use of a quota without a lease.
pub const STARTER_MILLIONTHS: u32 = 200_000;
/// The maximum number of keys of which this node asks for leases. Further ones use the share without a lease.
pub const LEASED_KEYS_MAX: usize = 16_384;
/// The time between two calls of [`LeaseDriver::tick`](super::driver::LeaseDriver::tick).
pub const LEASE_TICK_NANOS: u64 = 100_000_000;
/// The maximum time ahead for which cells of a share are reserved: the share may change.
const AHEAD_NANOS: u64 = 500_000_000;
/// The same while a lease is awaited.
const PENDING_AHEAD_NANOS: u64 = LEASE_TICK_NANOS;
/// The longest time for which the action of a limit is put off because the share is insufficient. The fair part of a
/// quota that another node holds is free within it.
const PENDING_NANOS: u64 = 10_000_000_000;
/// The same once this node has the whole quota: cells that have waited for it may be more than a burst.
const PENDING_WHOLE_NANOS: u64 = 3_000_000_000;
/// How long no cell has waited or was refused when a shortage is over: twice the longest time for which a cell waits.
const SUFFICIENT_NANOS: u64 = 2 * AHEAD_NANOS;
/// How long a key without a lease that could not ask is content with its share.
const REJECTED_NANOS: u64 = 1_000_000_000;
/// The highest cost, 73 years, so that sums do not overflow.
const COST_MAX: u64 = 1 << 61;

/// No lease, and none is needed.
const QUIET: u8 = 0;
/// A lease or a greater one is needed, and the store has not yet given what is due to this node.
const PENDING: u8 = 1;
/// The lease is what was asked for, and less than the whole quota.
const GRANTED: u8 = 2;
/// No greater lease is available.
const SETTLED: u8 = 3;

/// The leases of a process: the share without a lease, and the keys that need one.
#[derive(Debug)]
pub struct Leases {
    base: AtomicU32,
    is_reachable: AtomicBool,
    needing: Mutex<Vec<Arc<Share>>>,
}

impl Leases {
    /// Creates the leases of a node that knows of no other and has not reached the store.
    pub fn new() -> Self {
        Self { base: AtomicU32::new(WHOLE), is_reachable: AtomicBool::new(false), needing: Mutex::default() }
    }

    /// Sets the number of live nodes, and whether the store can be reached. Without the store each node uses an equal
    /// share.
    pub(super) fn set_cluster(&self, nodes: u32, is_reachable: bool) {
        let together = if is_reachable { STARTER_MILLIONTHS } else { WHOLE };
        self.base.store((together / nodes.max(1)).max(1), Ordering::Relaxed);
        self.is_reachable.store(is_reachable, Ordering::Relaxed);
    }

    /// Returns the share without a lease.
    pub(super) fn base(&self) -> u32 {
        self.base.load(Ordering::Relaxed)
    }

    /// Returns the keys that need a lease since the last call.
    pub(super) fn take_needing(&self) -> Vec<Arc<Share>> {
        std::mem::take(&mut *self.needing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add_needing(&self, share: &Arc<Share>) -> bool {
        let mut needing = self.needing.lock().unwrap_or_else(PoisonError::into_inner);
        let has_room = needing.len() < LEASED_KEYS_MAX;
        if has_room {
            needing.push(Arc::clone(share));
        }
        has_room
    }
}

impl Default for Leases {
    fn default() -> Self {
        Self::new()
    }
}

/// The quotas of one kind that nodes share.
#[derive(Debug)]
pub struct LeaseScope {
    /// The leases of the process.
    pub leases: Arc<Leases>,
    /// The beginning of the names of these quotas, as [`prefix`](super::key::prefix) returns it.
    pub prefix: Box<str>,
}

/// What was used since the last report.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Use {
    /// The cost of the cells that were taken.
    pub taken: u64,
    /// The cost of those that were refused.
    pub refused: u64,
    /// Whether one was delayed. How much more its client would have sent is not known.
    pub is_delayed: bool,
}

/// The share of one quota, and its count.
#[derive(Debug)]
pub struct Share {
    scope: Arc<LeaseScope>,
    /// `None` for a count of several clients, which other nodes do not know.
    client: Option<LeaseClient>,
    /// The theoretical arrival time of the next cell of the share.
    arrival: AtomicU64,
    /// The theoretical arrival time of the next cell if this node had the whole quota.
    whole_arrival: AtomicU64,
    /// The cost of a burst of the whole quota.
    burst: AtomicU64,
    /// When the lease expires.
    expires: AtomicU64,
    taken: AtomicU64,
    refused: AtomicU64,
    /// Since when the share is insufficient; 0: it is not. See [`Share::on_taken`] for the end.
    short_since: AtomicU64,
    /// When it was insufficient last.
    short_last: AtomicU64,
    /// The share of the lease; 0: none.
    leased: AtomicU32,
    /// The share before the last change.
    earlier: AtomicU32,
    state: AtomicU8,
    is_delayed: AtomicBool,
}

impl Share {
    /// Creates the share of a quota that is not used.
    pub fn new(scope: Arc<LeaseScope>, client: Option<LeaseClient>) -> Self {
        Self {
            scope,
            client,
            arrival: AtomicU64::new(0),
            whole_arrival: AtomicU64::new(0),
            burst: AtomicU64::new(0),
            expires: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            short_since: AtomicU64::new(0),
            short_last: AtomicU64::new(0),
            leased: AtomicU32::new(0),
            earlier: AtomicU32::new(0),
            state: AtomicU8::new(QUIET),
            is_delayed: AtomicBool::new(false),
        }
    }

    /// Sets the cost of a burst of the whole quota.
    pub fn set_burst(&self, burst: u64) {
        if self.burst.load(Ordering::Relaxed) != burst {
            self.burst.store(burst, Ordering::Relaxed);
        }
    }

    /// Returns the theoretical arrival time.
    pub fn arrival(&self) -> &AtomicU64 {
        &self.arrival
    }

    /// Returns the share that applies at a time, in millionths.
    pub fn millionths(&self, at: u64) -> u32 {
        self.lease(at).max(self.scope.leases.base())
    }

    /// Returns the share of the lease that is valid at a time; 0: none.
    pub(super) fn lease(&self, at: u64) -> u32 {
        if at < self.expires.load(Ordering::Relaxed) { self.leased.load(Ordering::Relaxed) } else { 0 }
    }

    /// Returns the time in which the share replenishes a cost.
    pub fn scaled(&self, cost: u64, at: u64) -> u64 {
        scale(cost, self.millionths(at))
    }

    /// Returns the time that a refund of a cost gives back: at the greatest share since it was taken, so that a refund
    /// never exceeds what was taken.
    pub fn scaled_refund(&self, cost: u64) -> u64 {
        let leased = self.leased.load(Ordering::Relaxed).max(self.earlier.load(Ordering::Relaxed));
        scale(cost, leased.max(self.scope.leases.base()))
    }

    /// Returns the part of a number that this share is, at least 1.
    pub fn part(&self, number: u32, at: u64) -> u32 {
        let part = u64::from(number) * u64::from(self.millionths(at)) / u64::from(WHOLE);
        u32::try_from(part).unwrap_or(number).max(1)
    }

    /// Records that a cost was taken. `before` is the theoretical arrival time before it. A key that has used half of
    /// the burst of its share needs a lease soon.
    pub fn on_taken(self: &Arc<Self>, cost: u64, before: u64, now: u64) {
        self.taken.fetch_add(cost, Ordering::Relaxed);
        // The update is never rejected.
        let _ = self.whole_arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |arrival| {
            Some(arrival.max(now).saturating_add(cost).min(now.saturating_add(COST_MAX)))
        });
        let burst = self.burst.load(Ordering::Relaxed);
        let half = burst / 2;
        if self.short_since.load(Ordering::Relaxed) != 0 {
            // After a wait or a refusal several cells may be available at once, also for a client beyond the quota.
            let is_over = now.saturating_sub(self.short_last.load(Ordering::Relaxed)) >= SUFFICIENT_NANOS;
            if is_over && self.unreplenished(now) <= half.max(cost) {
                self.short_since.store(0, Ordering::Relaxed);
            }
        }
        if self.state.load(Ordering::Relaxed) == QUIET && before.saturating_sub(now) > half {
            self.need(now);
        }
    }

    /// Records that a cost was given back.
    pub fn on_refunded(&self, cost: u64) {
        for number in [&self.taken, &self.whole_arrival] {
            // The update is never rejected.
            let less = |number: u64| Some(number.saturating_sub(cost));
            let _ = number.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
        }
    }

    /// Records that a cost was refused.
    pub fn on_refused(self: &Arc<Self>, cost: u64, now: u64) {
        // So that the sum of a million refusals does not overflow. A report takes it.
        self.refused.fetch_add(cost.min(COST_MAX >> 20), Ordering::Relaxed);
        self.note_short(now);
        self.need(now);
    }

    /// Records that a cell is delayed.
    pub fn on_delayed(self: &Arc<Self>, now: u64) {
        self.is_delayed.store(true, Ordering::Relaxed);
        self.note_short(now);
        self.need(now);
    }

    fn note_short(&self, now: u64) {
        self.short_last.store(now, Ordering::Relaxed);
        if self.short_since.load(Ordering::Relaxed) == 0 {
            self.short_since.store(now, Ordering::Relaxed);
        }
    }

    /// Asks for a lease, or for a greater one.
    fn need(self: &Arc<Self>, now: u64) {
        let state = self.state.load(Ordering::Relaxed);
        let was_rejected = state == SETTLED && self.leased.load(Ordering::Relaxed) == 0;
        let starts = match state {
            QUIET | GRANTED => true,
            SETTLED => was_rejected && now >= self.expires.load(Ordering::Relaxed) && !self.is_held(),
            _ => false,
        };
        if !starts || self.client.is_none() {
            return;
        }
        let changed = self.state.compare_exchange(state, PENDING, Ordering::Relaxed, Ordering::Relaxed);
        // The driver looks at the keys with a lease by itself.
        if changed.is_ok() && state != GRANTED && !self.scope.leases.add_needing(self) {
            self.state.store(state, Ordering::Relaxed);
        }
    }

    /// Whether the driver holds this share.
    fn is_held(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) > 1
    }

    /// Whether a cost that the share refuses waits, since the whole quota would allow what this node has used: it needs a
    /// greater share, for a few seconds at most, or the store cannot be reached. So a division that does not fit the use
    /// delays clients within their quota, as an outage does, and ends no session.
    pub fn is_pending(&self, cost: u64, now: u64) -> bool {
        let is_awaited = || {
            let waited = now.saturating_sub(self.short_since.load(Ordering::Relaxed));
            let can_grow = match self.state.load(Ordering::Relaxed) {
                QUIET => false,
                SETTLED => self.leased.load(Ordering::Relaxed) > 0,
                _ => true,
            };
            let waits_max = if self.lease(now) < WHOLE { PENDING_NANOS } else { PENDING_WHOLE_NANOS };
            can_grow && waited < waits_max
        };
        let is_reachable = self.scope.leases.is_reachable.load(Ordering::Relaxed);
        let used = self.unreplenished(now);
        (!is_reachable || is_awaited()) && used.saturating_add(cost) <= self.burst.load(Ordering::Relaxed)
    }

    /// Returns for how long cells may be reserved: while this share is certain.
    pub fn ahead(&self, now: u64) -> u64 {
        if self.state.load(Ordering::Relaxed) == PENDING {
            return PENDING_AHEAD_NANOS;
        }
        match self.lease(now) {
            0 => AHEAD_NANOS,
            _ => self.expires.load(Ordering::Relaxed).saturating_sub(now).min(AHEAD_NANOS),
        }
    }

    /// Returns the cost of what this node has taken and the whole quota would not have replenished yet.
    pub(super) fn unreplenished(&self, now: u64) -> u64 {
        self.whole_arrival.load(Ordering::Relaxed).saturating_sub(now)
    }

    /// Returns the cost that was taken since the last report, and whether any was refused or delayed.
    pub(super) fn new_use(&self) -> (u64, bool) {
        let is_limited = self.refused.load(Ordering::Relaxed) > 0 || self.is_delayed.load(Ordering::Relaxed);
        (self.taken.load(Ordering::Relaxed), is_limited)
    }

    /// Returns the name in the store.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        Some(name(&self.scope.prefix, self.client.as_ref()?).into())
    }

    /// Returns the cost of a burst of the whole quota.
    pub(super) fn burst(&self) -> u64 {
        self.burst.load(Ordering::Relaxed)
    }

    /// Whether a lease or a greater one is needed.
    pub(super) fn needs(&self) -> bool {
        self.state.load(Ordering::Relaxed) == PENDING
    }

    /// Returns what was used since the last call.
    pub(super) fn take_use(&self) -> Use {
        Use {
            taken: self.taken.swap(0, Ordering::Relaxed),
            refused: self.refused.swap(0, Ordering::Relaxed),
            is_delayed: self.is_delayed.swap(false, Ordering::Relaxed),
        }
    }

    /// Records again what could not be reported.
    pub(super) fn put_back(&self, taken: u64) {
        self.taken.fetch_add(taken, Ordering::Relaxed);
    }

    /// Sets the lease. A greater share starts with what is used of the smaller one, and for the difference with what
    /// all nodes have used. So a share that moves between nodes is no second burst. A share without a
    /// lease replenishes slowly: what the whole quota would have replenished since counts as the use of all nodes does.
    pub(super) fn set_lease(&self, millionths: u32, expires: u64, backlog: u64, now: u64) {
        let (before, base) = (self.millionths(now), self.scope.leases.base());
        let after = millionths.max(base);
        if after > before {
            let more = part(backlog, after.saturating_sub(before));
            let own_max = match self.lease(now) {
                0 => self.unreplenished(now).max(part(backlog, before)),
                _ => u64::MAX,
            };
            let grown = |arrival: u64| {
                let own = part(arrival.saturating_sub(now), before).min(own_max);
                Some(now.saturating_add(scale(own.saturating_add(more), after)))
            };
            // The update is never rejected.
            let _ = self.arrival.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        }
        self.earlier.store(before, Ordering::Relaxed);
        self.leased.store(millionths, Ordering::Relaxed);
        self.expires.store(expires, Ordering::Relaxed);
    }

    /// Reduces the lease to a share.
    pub(super) fn lower(&self, millionths: u32, now: u64) {
        self.earlier.store(self.millionths(now), Ordering::Relaxed);
        self.leased.fetch_min(millionths, Ordering::Relaxed);
    }

    /// Records that the lease is what was asked for.
    pub(super) fn set_granted(&self) {
        self.state.store(GRANTED, Ordering::Relaxed);
    }

    /// Records that no greater lease is available.
    pub(super) fn set_settled(&self) {
        self.state.store(SETTLED, Ordering::Relaxed);
    }

    /// Records that this key cannot ask for a lease for now.
    pub(super) fn reject(&self, now: u64) {
        self.leased.store(0, Ordering::Relaxed);
        self.expires.store(now.saturating_add(REJECTED_NANOS), Ordering::Relaxed);
        self.set_settled();
    }

    /// Ends the lease, unless one is needed again. Returns whether it has ended.
    pub(super) fn retire(&self) -> bool {
        let quiet = |state| (state != PENDING).then_some(QUIET);
        let is_retired = self.state.fetch_update(Ordering::Relaxed, Ordering::Relaxed, quiet).is_ok();
        if is_retired {
            self.leased.store(0, Ordering::Relaxed);
        }
        is_retired
    }
}

/// Returns the time in which a share replenishes a cost.
fn scale(cost: u64, millionths: u32) -> u64 {
    if millionths >= WHOLE {
        return cost;
    }
    let share = u64::from(millionths.max(1));
    let scaled = match cost.checked_mul(WHOLE.into()) {
        Some(product) => product / share,
        None => (cost / share).saturating_mul(WHOLE.into()),
    };
    scaled.min(COST_MAX)
}

/// Returns the part of a time that a share is.
fn part(time: u64, millionths: u32) -> u64 {
    let part = u128::from(time) * u128::from(millionths.min(WHOLE)) / u128::from(WHOLE);
    u64::try_from(part).unwrap_or(time)
}
