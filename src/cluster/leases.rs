//! Carries the asks for leases of quotas to the server, and its answers back.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use redis::Script;
use tokio::time::{MissedTickBehavior, interval};

use super::keys::Keys;
use super::link::{Link, Unavailable};
use super::nodes::Nodes;
use crate::policy::lease::driver::{LEASE_TICK, LeaseDriver};
use crate::policy::lease::share::Leases;
use crate::policy::lease::store::{LeaseAsk, LeaseGrant};
use crate::runtime::clock;

/// The asks to the server, one for each key at a time.
#[derive(Debug)]
pub struct LeaseExchange {
    keys: Keys,
    script: Script,
    driver: Mutex<LeaseDriver>,
}

impl LeaseExchange {
    /// Creates the exchange of a node that has asked for nothing.
    pub fn new(keys: Keys, leases: Arc<Leases>) -> Self {
        let driver = Mutex::new(LeaseDriver::new(leases));
        Self { keys, script: Script::new(include_str!("lease.lua")), driver }
    }

    /// Asks for leases and returns those that are not used. Never returns.
    pub async fn run(&self, link: &Link, nodes: &Nodes) {
        let mut ticks = interval(LEASE_TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut answers = FuturesUnordered::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    for ask in self.due(link, nodes) {
                        answers.push(self.ask(link, nodes, ask));
                    }
                }
                Some((ask, answer)) = answers.next() => self.note(&ask, answer.as_ref()),
            }
        }
    }

    /// Returns the asks that are due.
    fn due(&self, link: &Link, nodes: &Nodes) -> Vec<LeaseAsk> {
        let now = clock::now();
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        driver.set_nodes(u32::try_from(nodes.count()).unwrap_or(u32::MAX));
        driver.set_reachable(link.is_up() && nodes.live(now).is_some());
        driver.tick(now)
    }

    /// Sends an ask.
    async fn ask(&self, link: &Link, nodes: &Nodes, ask: LeaseAsk) -> (LeaseAsk, Option<LeaseGrant>) {
        let Some(view) = nodes.live(clock::now()) else { return (ask, None) };
        let mut call = self.script.key(self.keys.named(&ask.key));
        call.arg(&*view.id).arg(ask.sequence).arg(ask.held).arg(ask.want).arg(ask.used_micros).arg(ask.burst_micros);
        let answer: Result<[u64; 5], Unavailable> = link.script(&call).await;
        let grant = answer.ok().and_then(LeaseGrant::from_numbers);
        (ask, grant)
    }

    fn note(&self, ask: &LeaseAsk, grant: Option<&LeaseGrant>) {
        let mut driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner);
        match grant {
            Some(grant) => driver.answered(&ask.key, ask.sequence, grant, clock::now()),
            None => driver.failed(&ask.key, ask.sequence, clock::now()),
        }
    }

    /// Returns the number of keys with a lease or an ask.
    pub fn held(&self) -> usize {
        self.driver.lock().unwrap_or_else(PoisonError::into_inner).keys()
    }
}
