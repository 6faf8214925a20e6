//! A cluster in virtual time: nodes, the store, and a network that delays and loses what they send.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::counters::{Counters, MessageKey};
use crate::policy::lease::driver::{LEASE_TICK, LeaseDriver};
use crate::policy::lease::share::Leases;
use crate::policy::lease::store::{LeaseAsk, LeaseGrant, LeaseStore, MemoryLeases};
use crate::policy::quota::{Limiter, Quota};

/// A generator of pseudo-random numbers (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }
}

/// What the clients of a node do.
#[derive(Clone, Copy)]
pub enum Demand {
    /// They send this many cells per 1,000 s, and those beyond the quota are dropped.
    Checked(u64),
    /// This many clients each send the next cell as soon as the last one has passed.
    Delayed(usize),
    /// One client sends this many cells per 1,000 s. One beyond the quota ends it, as `on_excess = "close"` does; one that
    /// waits for a greater share holds up the next ones.
    Closed(u64),
}

pub struct Node {
    id: String,
    pub driver: LeaseDriver,
    pub limiter: Limiter,
    demand: Demand,
    /// Thousandths of thousandths of a cell.
    owed: u64,
    /// When each client that is delayed goes on, and whether its cell is reserved.
    clients: Vec<(Instant, bool)>,
    next_tick: Instant,
    is_cut: bool,
    pub passed: u64,
    /// Cells of [`Demand::Closed`] that wait, until when the first one does, and when the client was ended.
    waiting: u64,
    until: Option<Instant>,
    retry: Option<Instant>,
    pub closed: Option<Instant>,
}

/// What travels: an ask to the store, or an answer to a node.
enum Packet {
    Ask(LeaseAsk),
    Answer(Arc<str>, u64, LeaseGrant),
}

pub struct Cluster {
    pub now: Instant,
    /// The zero of the store's clock, and the time of the last reset.
    epoch: Instant,
    start: Instant,
    pub quota: Quota,
    pub nodes: BTreeMap<usize, Node>,
    store: MemoryLeases,
    packets: BTreeMap<(Instant, u64), (String, Packet)>,
    /// When the last packet of each connection arrives: connections keep the order.
    arrivals: BTreeMap<(String, bool), Instant>,
    random: Random,
    number: u64,
    pub delay_max: Duration,
    /// Of a thousand asks, and of a thousand answers.
    pub lost: [u64; 2],
    pub is_store_up: bool,
    pub asks: u64,
    pub passed: u64,
    /// The cells beyond 1.2 times the rate, as a bucket that leaks at that rate holds them.
    level: f64,
    pub level_max: f64,
    /// The sum of the shares that the store keeps was never above the whole quota.
    pub kept_max: u64,
}

pub const STEP: Duration = Duration::from_millis(1);

impl Cluster {
    pub fn new(nodes: usize, quota: Quota, seed: u64) -> Self {
        let now = Instant::now();
        let mut cluster = Self {
            now,
            epoch: now,
            start: now,
            quota,
            nodes: BTreeMap::new(),
            store: MemoryLeases::default(),
            packets: BTreeMap::new(),
            arrivals: BTreeMap::new(),
            random: Random(seed),
            number: 0,
            delay_max: Duration::from_millis(25),
            lost: [0; 2],
            is_store_up: true,
            asks: 0,
            passed: 0,
            level: 0.0,
            level_max: 0.0,
            kept_max: 0,
        };
        (0..nodes).for_each(|index| cluster.start_node(index));
        cluster.set_live(nodes);
        cluster
    }

    /// Starts a node, also one that was ended before: then it has lost its counts and its lease.
    pub fn start_node(&mut self, index: usize) {
        self.number += 1;
        let leases = Arc::new(Leases::new());
        let counters = Counters::of_node(Arc::clone(&leases));
        let key = MessageKey::of_identity("users", "ann");
        let count = counters.route(&Arc::from("chat")).messages.get(&key, self.now);
        let offset = Duration::from_millis(self.random.below(100));
        let mut driver = LeaseDriver::new(leases);
        driver.set_reachable(self.is_store_up);
        let node = Node {
            id: format!("node-{}", self.number),
            driver,
            limiter: Limiter::over(count, self.quota),
            demand: Demand::Checked(0),
            owed: 0,
            clients: Vec::new(),
            next_tick: self.now + offset,
            is_cut: false,
            passed: 0,
            waiting: 0,
            until: None,
            retry: None,
            closed: None,
        };
        self.nodes.insert(index, node);
    }

    /// Tells every node how many are live.
    pub fn set_live(&mut self, live: usize) {
        self.nodes.values_mut().for_each(|node| node.driver.set_nodes(u32::try_from(live).unwrap()));
    }

    pub fn set_store_up(&mut self, is_up: bool) {
        self.is_store_up = is_up;
        self.nodes.values_mut().for_each(|node| node.driver.set_reachable(is_up));
    }

    /// Cuts one node off from the store, or connects it again.
    pub fn set_cut(&mut self, index: usize, is_cut: bool) {
        if let Some(node) = self.nodes.get_mut(&index) {
            node.is_cut = is_cut;
            node.driver.set_reachable(!is_cut);
        }
    }

    /// Lets the store forget everything.
    pub fn forget(&mut self) {
        self.store = MemoryLeases::default();
    }

    pub fn demand(&mut self, index: usize, demand: Demand) {
        let now = self.now;
        if let Some(node) = self.nodes.get_mut(&index) {
            node.demand = demand;
            node.clients.clear();
            if let Demand::Delayed(clients) = demand {
                node.clients = vec![(now, false); clients];
            }
        }
    }

    /// Forgets what was measured.
    pub fn reset(&mut self) {
        (self.start, self.passed, self.asks) = (self.now, 0, 0);
        self.nodes.values_mut().for_each(|node| node.passed = 0);
    }

    /// Returns what passed since the last reset, relative to the quota's rate.
    pub fn ratio(&self) -> f64 {
        self.passed as f64 / (self.rate() * (self.now - self.start).as_secs_f64())
    }

    pub fn rate(&self) -> f64 {
        f64::from(self.quota.rate.count.get()) / self.quota.rate.period.as_secs_f64()
    }

    /// Returns the number of asks per second since the last reset.
    pub fn asks_per_second(&self) -> f64 {
        self.asks as f64 / (self.now - self.start).as_secs_f64()
    }

    /// The cells beyond 1.2 times the rate that may pass: 1.2 times the burst, and one for each node.
    pub fn allowed(&self) -> f64 {
        1.2 * f64::from(self.quota.burst.get()) + self.nodes.len() as f64
    }

    pub fn run(&mut self, span: Duration) {
        let end = self.now + span;
        while self.now < end {
            self.now += STEP;
            self.deliver();
            let indexes: Vec<usize> = self.nodes.keys().copied().collect();
            let mut passed = 0;
            for index in indexes {
                passed += self.step(index);
            }
            self.passed += passed;
            self.level = (self.level - 1.2 * self.rate() * STEP.as_secs_f64()).max(0.0) + passed as f64;
            self.level_max = self.level_max.max(self.level);
        }
    }

    fn step(&mut self, index: usize) -> u64 {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(&index) else { return 0 };
        let passed = node.send(now);
        node.passed += passed;
        if node.next_tick <= now {
            node.next_tick = now + LEASE_TICK;
            let (id, asks) = (node.id.clone(), node.driver.tick(now));
            self.asks += asks.len() as u64;
            asks.into_iter().for_each(|ask| self.post(&id, Packet::Ask(ask)));
        }
        passed
    }

    fn post(&mut self, id: &str, packet: Packet) {
        let lost_of = self.lost[usize::from(matches!(packet, Packet::Answer(..)))];
        let is_cut = self.nodes.values().any(|node| node.id == id && node.is_cut);
        if self.random.below(1_000) < lost_of || !self.is_store_up || is_cut {
            return;
        }
        self.number += 1;
        let delay = Duration::from_micros(self.random.below(self.delay_max.as_micros() as u64));
        let connection = (id.to_owned(), matches!(packet, Packet::Ask(_)));
        let earliest = self.arrivals.get(&connection).copied().unwrap_or(self.now);
        let at = (self.now + delay).max(earliest);
        self.arrivals.insert(connection, at);
        self.packets.insert((at, self.number), (id.to_owned(), packet));
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.packets.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let (id, packet) = entry.remove();
            match packet {
                Packet::Ask(ask) => {
                    let micros = 1_700_000_000_000_000 + (self.now - self.epoch).as_micros() as u64;
                    let grant = self.store.ask(&id, &ask, micros);
                    self.kept_max = self.kept_max.max(self.store.kept(&ask.key, micros));
                    self.post(&id, Packet::Answer(ask.key, ask.sequence, grant));
                }
                Packet::Answer(key, sequence, grant) => {
                    let now = self.now;
                    let node = self.nodes.values_mut().find(|node| node.id == id);
                    if let Some(node) = node {
                        node.driver.answered(&key, sequence, &grant, now);
                    }
                }
            }
        }
    }
}

impl Node {
    /// Sends what the clients of the node have to send. Returns how many cells passed.
    fn send(&mut self, now: Instant) -> u64 {
        match self.demand {
            Demand::Checked(rate) => {
                self.owed += rate;
                let cells = self.owed / 1_000_000;
                self.owed %= 1_000_000;
                (0..cells).filter(|_| self.limiter.check(now).is_ok()).count() as u64
            }
            Demand::Closed(rate) => {
                self.owed += rate;
                self.waiting += self.owed / 1_000_000;
                self.owed %= 1_000_000;
                let mut passed = 0;
                if self.retry.is_some_and(|retry| now < retry) {
                    return 0;
                }
                while self.closed.is_none() && self.waiting > 0 && self.until.is_none_or(|until| until <= now) {
                    if self.until.take().is_some() || self.limiter.check(now).is_ok() {
                        (self.waiting, passed) = (self.waiting - 1, passed + 1);
                    } else if !self.limiter.is_pending(now) {
                        self.closed = Some(now);
                    } else {
                        match self.limiter.reserve(now) {
                            Ok(at) => self.until = Some(at),
                            Err(not) => {
                                self.retry = Some(not.until);
                                break;
                            }
                        }
                    }
                }
                passed
            }
            Demand::Delayed(_) => {
                let mut passed = 0;
                for (at, is_reserved) in &mut self.clients {
                    while *at <= now {
                        if std::mem::take(is_reserved) {
                            passed += 1;
                        }
                        match self.limiter.reserve(now) {
                            Ok(next) if next <= now => passed += 1,
                            Ok(next) => (*at, *is_reserved) = (next, true),
                            Err(not) => *at = not.until,
                        }
                    }
                }
                passed
            }
        }
    }
}
