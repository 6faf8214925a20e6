//! The choice of a server by each policy, with few and with many servers, as cases.

use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

use tollgate::balance::hash::TextHash;
use tollgate::balance::{
    Attempt, Balance, ClosingRate, HashSource, HealthConfig, Pool, ServerAddress, ServerSession, UpstreamConfig,
    UpstreamLoss,
};

use super::cases::Run;

/// The cases: the name in `ceilings.toml`, the policy, and the number of servers.
pub const CHOICES: [(&str, Balance, usize); 6] = [
    ("least_sessions_3", Balance::LeastSessions, 3),
    ("least_sessions_1000", Balance::LeastSessions, 1000),
    ("round_robin_3", Balance::RoundRobin, 3),
    ("round_robin_1000", Balance::RoundRobin, 1000),
    ("hash_3", Balance::Hash(HashSource::Subject), 3),
    ("hash_1000", Balance::Hash(HashSource::Subject), 1000),
];

/// Prepares a choice among servers that have five sessions each on average, and the end of the chosen session.
pub fn prepare(balance: &Balance, servers: usize) -> Run {
    let server = |number: usize| ServerAddress::Tcp { host: "192.0.2.1".to_owned(), port: 9001 + number as u16 }.into();
    let config = UpstreamConfig {
        name: "chat".into(),
        servers: (0..servers).map(server).collect(),
        discover: None,
        balance: balance.clone(),
        health: HealthConfig {
            checks: None,
            eject_after: 5.try_into().ok(),
            eject_max_percent: 50,
            slow_start: Duration::ZERO,
        },
        tls: None,
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
    };
    let pool = Pool::new(config, tollgate::runtime::clock::now());
    let key = |number: u64| Some(TextHash::of(&number.to_be_bytes()));
    let choose = move |key, random| -> ServerSession {
        pool.choose(black_box(&mut Attempt::new(key, random)), 1).expect("a server").session
    };
    let sessions: Vec<ServerSession> = (0..5 * servers as u64).map(|number| choose(key(number), number)).collect();
    let (mut number, one_key) = (0, key(7));
    Box::new(move || {
        number += 1;
        drop(black_box(choose(one_key, number)));
        black_box(&sessions);
    })
}
