//! Clients with long sessions, and servers that come, go and fail, around a pool in virtual time.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use tollgate::balance::hash::TextHash;
use tollgate::balance::rebalance::{is_above_share, plan};
use tollgate::balance::{
    Attempt, Balance, ClosingRate, Failure, HealthConfig, Pool, Rebalance, SameSite, Server, ServerAddress,
    ServerConfig, ServerSession, StickyCookie, UpstreamConfig, UpstreamLoss,
};

use crate::harness::random::Random;

/// The mean life of a session, in seconds.
pub const LIFE_SECS: u64 = 1800;
/// The shortest and the longest life, in seconds: a bounded Pareto distribution of the shape 1.5 with that mean. Half of
/// the sessions live less than 18 minutes, and one in a thousand more than 18 hours.
const LIFE_MIN: f64 = 657.0;
const LIFE_MAX: f64 = 86_400.0;
const SHAPE: f64 = 1.5;
/// The number of servers that a request tries.
const TRIES: usize = 3;
/// The pause of a client whose upgrade failed, in milliseconds.
const PAUSE_MS: usize = 2_000;
/// The time between two samples, in milliseconds.
pub const SAMPLE_MS: u64 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A new client connects.
    Arrive,
    /// A client connects again after it lost its session.
    Reconnect {
        client: u64,
        ends_at: u64,
    },
    /// A session ends.
    End(u64),
    /// The rebalancing closes a session, if its server still has more than its share.
    Shed(u64),
    Sample,
}

struct Open {
    client: u64,
    server: usize,
    /// When it began; before the start of the run for those that are open then.
    began_at: i64,
    ends_at: u64,
    _session: ServerSession,
}

/// The sessions that a server sheds first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Youngest,
    Oldest,
    Random,
}

/// What a run has measured.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Measured {
    /// The number of sessions of the fullest server over the mean of those that run, by sample.
    pub max_over_mean: Vec<f64>,
    /// The clients that lost their sessions.
    pub moved: u64,
    /// The upgrades that found no server.
    pub failed: u64,
    /// The most clients that connected again in one second.
    pub peak_reconnects: u64,
    /// The most sessions that one server accepted in one second.
    pub peak_at_one: u64,
    /// The sessions that the rebalancing closed, by sample.
    pub shed: Vec<u64>,
    /// How long the sessions that it closed had been open, and how long they would have lived on, in milliseconds.
    pub shed_age_ms: u64,
    pub shed_left_ms: u64,
    /// How often it closed each client's session.
    pub shed_of: HashMap<u64, u64>,
}

/// A pool and everything around it.
pub struct World {
    pub now_ms: u64,
    pub measured: Measured,
    random: Random,
    start: Instant,
    pool: Pool,
    /// Whether each server runs.
    runs: Vec<bool>,
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    sessions: HashMap<u64, Open>,
    /// The server that the cookie of each client names, if the policy sets cookies.
    cookies: HashMap<u64, usize>,
    numbers: u64,
    /// The current second, its reconnects, and the sessions that each server accepted in it.
    second: (u64, u64, Vec<u64>),
    /// The time between two new clients, in microseconds.
    arrival_us: u64,
    arrived_us: u64,
}

pub fn sticky_cookie() -> Balance {
    Balance::StickyCookie(Box::new(StickyCookie {
        name: "tollgate".to_owned(),
        same_site: SameSite::Lax,
        secure: None,
        path: "/".to_owned(),
        domain: None,
        max_age: None,
        key: None,
    }))
}

fn config(balance: &Balance, servers: usize) -> UpstreamConfig {
    let server = |number: usize| -> ServerConfig {
        ServerAddress::Tcp { host: "192.0.2.1".to_owned(), port: 1 + number as u16 }.into()
    };
    UpstreamConfig {
        name: "chat".into(),
        servers: (0..servers).map(server).collect(),
        discover: None,
        balance: balance.clone(),
        tls: None,
        health: HealthConfig {
            checks: None,
            eject_after: 5.try_into().ok(),
            eject_max_percent: 50,
            slow_start: Duration::from_secs(30),
        },
        base_path: String::new(),
        connect_timeout: Duration::from_secs(2),
        response_timeout: Duration::from_secs(10),
        http_response_timeout: Duration::from_secs(10),
        retries: 2,
        max_pending_requests: 512,
        drain_rate: ClosingRate { count: NonZeroU32::MIN, period: Duration::from_secs(1) },
        rebalance: None,
        loss: UpstreamLoss::default(),
        hold_upgrades: None,
        admit_rate: None,
        queue_max: 0,
        queue_timeout: Duration::ZERO,
        proxy_protocol: false,
        title_case_headers: false,
    }
}

/// Returns the number of a server, from 0.
fn index(server: &Server) -> usize {
    server.name().rsplit(':').next().unwrap().parse::<usize>().unwrap() - 1
}

/// Returns a sample of a bounded Pareto distribution.
fn pareto(random: &mut Random, shape: f64) -> f64 {
    let unit = (random.next() >> 11) as f64 / (1_u64 << 53) as f64;
    let (low, high) = (LIFE_MIN.powf(shape), LIFE_MAX.powf(shape));
    (-(unit * high - unit * low - high) / (high * low)).powf(-1.0 / shape)
}

impl World {
    /// Creates a world with this number of servers and sessions, which are as old as they are after a long time.
    pub fn new(seed: u64, balance: &Balance, servers: usize, sessions: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            now_ms: 0,
            measured: Measured::default(),
            random: Random::new(seed),
            start,
            pool: Pool::new(config(balance, servers), start),
            runs: vec![true; servers],
            events: BinaryHeap::new(),
            sessions: HashMap::new(),
            cookies: HashMap::new(),
            numbers: 0,
            second: (0, 0, vec![0; servers]),
            arrival_us: LIFE_SECS * 1_000_000 / sessions,
            arrived_us: 0,
        };
        for _ in 0..sessions {
            // A session that is found open is longer than others, and any part of it has passed.
            let life = pareto(&mut world.random, SHAPE - 1.0) * 1000.0;
            let left = world.random.below(life as usize + 1) as u64;
            let client = world.random.next();
            world.connect(client, left);
            world.last_opened().began_at = left as i64 - life as i64;
        }
        world.measured = Measured::default();
        world.second.2.fill(0);
        world.push(0, Event::Arrive);
        world.push(0, Event::Sample);
        world
    }

    /// Changes the number of servers, as a reload does.
    pub fn scale_to(&mut self, balance: &Balance, servers: usize) {
        self.pool = self.pool.replace(config(balance, servers), self.start + Duration::from_millis(self.now_ms));
        self.runs.resize(servers, true);
        self.second.2.resize(servers, 0);
    }

    /// Stops servers: their clients connect again within `spread_ms`.
    pub fn stop(&mut self, servers: std::ops::Range<usize>, spread_ms: usize) {
        servers.clone().for_each(|server| self.runs[server] = false);
        // The order of a map is not that of the seed.
        let mut lost: Vec<u64> = self.sessions.keys().copied().collect();
        lost.retain(|number| servers.contains(&self.sessions[number].server));
        lost.sort_unstable();
        for number in lost {
            let open = self.sessions.remove(&number).unwrap();
            self.measured.moved += 1;
            let at = self.now_ms + self.random.below(spread_ms) as u64;
            self.push(at, Event::Reconnect { client: open.client, ends_at: open.ends_at });
        }
    }

    pub fn start(&mut self, servers: std::ops::Range<usize>) {
        servers.for_each(|server| self.runs[server] = true);
    }

    /// Plans a minute of rebalancing, as the process does, and spreads its closings over it.
    pub fn rebalance(&mut self, rebalance: Rebalance, order: Order) {
        let (servers, loads): (Vec<_>, Vec<_>) = self.pool.loads(self.now_ms).into_iter().unzip();
        let shed = plan(&loads, rebalance.budget(self.sessions.len() as u64));
        let shed: Vec<(usize, u64)> = servers.into_iter().map(index).zip(shed).collect();
        let mut all: Vec<(i64, u64, usize)> =
            self.sessions.iter().map(|(number, open)| (open.began_at, *number, open.server)).collect();
        all.sort_unstable();
        match order {
            Order::Oldest => {}
            Order::Youngest => all.reverse(),
            Order::Random => {
                for last in (1..all.len()).rev() {
                    let other = self.random.below(last + 1);
                    all.swap(last, other);
                }
            }
        }
        for (server, count) in shed {
            let own = all.iter().filter(|(_, _, own)| *own == server).take(count as usize);
            for (_, number, _) in own.copied().collect::<Vec<_>>() {
                let at = self.now_ms + self.random.below(rebalance.period.as_millis() as usize) as u64;
                self.push(at, Event::Shed(number));
            }
        }
    }

    fn shed(&mut self, number: u64) {
        let (servers, loads): (Vec<_>, Vec<_>) = self.pool.loads(self.now_ms).into_iter().unzip();
        let above = servers.into_iter().map(index).zip(is_above_share(&loads));
        let above: Vec<usize> = above.filter(|(_, is)| *is).map(|(server, _)| server).collect();
        if !self.sessions.get(&number).is_some_and(|open| above.contains(&open.server)) {
            return;
        }
        let open = self.sessions.remove(&number).unwrap();
        self.measured.moved += 1;
        self.measured.shed_age_ms += (self.now_ms as i64 - open.began_at) as u64;
        self.measured.shed_left_ms += open.ends_at - self.now_ms;
        *self.measured.shed_of.entry(open.client).or_default() += 1;
        let at = self.now_ms + self.random.below(1_000) as u64;
        self.push(at, Event::Reconnect { client: open.client, ends_at: open.ends_at });
    }

    /// Lets the time pass until then.
    pub fn run_until(&mut self, until_ms: u64) {
        while self.events.peek().is_some_and(|Reverse((at, ..))| *at < until_ms) {
            let Some(Reverse((at, _, event))) = self.events.pop() else { break };
            self.now_ms = at;
            if self.second.0 != at / 1000 {
                self.second.0 = at / 1000;
                self.second.1 = 0;
                self.second.2.fill(0);
            }
            match event {
                Event::Arrive => {
                    self.arrived_us += self.arrival_us;
                    self.push(self.arrived_us / 1000, Event::Arrive);
                    let (client, life) = (self.random.next(), pareto(&mut self.random, SHAPE) * 1000.0);
                    self.connect(client, at + life as u64);
                }
                Event::Reconnect { client, ends_at } => {
                    self.second.1 += 1;
                    self.measured.peak_reconnects = self.measured.peak_reconnects.max(self.second.1);
                    self.connect(client, ends_at);
                }
                Event::End(number) => drop(self.sessions.remove(&number)),
                Event::Shed(number) => self.shed(number),
                Event::Sample => {
                    self.sample();
                    self.push(at + SAMPLE_MS, Event::Sample);
                }
            }
        }
        self.now_ms = until_ms;
    }

    /// Opens a session as the connector does: it tries servers until one runs.
    fn connect(&mut self, client: u64, ends_at: u64) {
        let key = TextHash::of(&client.to_be_bytes());
        let preferred = self.cookies.get(&client).copied();
        let mut attempt = Attempt::new(Some(key), self.random.next()).preferring(preferred);
        while attempt.tried() < TRIES
            && let Ok(picked) = self.pool.choose(&mut attempt, self.now_ms)
        {
            let server = index(picked.server);
            if !self.runs[server] {
                self.pool.failed(picked.server, Failure::Connect, self.now_ms, || true);
                continue;
            }
            if let Balance::StickyCookie(_) = self.pool.config().balance {
                self.cookies.insert(client, server);
            }
            self.pool.connected(picked.server, self.now_ms);
            picked.server.health().succeed(self.now_ms, || true);
            self.second.2[server] += 1;
            self.measured.peak_at_one = self.measured.peak_at_one.max(self.second.2[server]);
            self.numbers += 1;
            let number = self.numbers;
            let began_at = self.now_ms as i64;
            self.sessions.insert(number, Open { client, server, began_at, ends_at, _session: picked.session });
            self.push(ends_at, Event::End(number));
            return;
        }
        self.measured.failed += 1;
        let at = self.now_ms + PAUSE_MS as u64 / 2 + self.random.below(PAUSE_MS) as u64;
        self.push(at, Event::Reconnect { client, ends_at });
    }

    fn last_opened(&mut self) -> &mut Open {
        // The event of its end took the number after it.
        let number = self.numbers - 1;
        self.sessions.get_mut(&number).unwrap()
    }

    fn sample(&mut self) {
        self.measured.shed.push(self.measured.shed_of.values().sum());
        let running = self.pool.servers().zip(&self.runs).filter(|(_, runs)| **runs);
        let counts: Vec<f64> = running.map(|(server, _)| f64::from(server.sessions())).collect();
        let mean = counts.iter().sum::<f64>() / counts.len() as f64;
        self.measured.max_over_mean.push(counts.iter().copied().fold(0.0, f64::max) / mean);
    }

    fn push(&mut self, at: u64, event: Event) {
        self.numbers += 1;
        self.events.push(Reverse((at, self.numbers, event)));
    }
}
