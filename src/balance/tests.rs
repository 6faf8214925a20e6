//! Pools for tests.

use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use super::{
    Attempt, Balance, ClosingRate, HealthConfig, NoServer, Pool, ServerAddress, ServerConfig, ServerSession,
    UpstreamConfig, UpstreamLoss,
};

/// Returns the server `192.0.2.1` with this port.
pub(crate) fn server(port: u16) -> ServerConfig {
    ServerAddress::Tcp { host: "192.0.2.1".to_owned(), port }.into()
}

/// Returns servers with the ports from 1 on, each with one of these weights.
pub(crate) fn weighted(weights: &[u16]) -> Vec<ServerConfig> {
    let weight = |(port, weight): (u16, &u16)| ServerConfig { weight: (*weight).try_into().unwrap(), ..server(port) };
    (1..).zip(weights).map(weight).collect()
}

pub(crate) fn config(balance: Balance, servers: Vec<ServerConfig>) -> UpstreamConfig {
    UpstreamConfig {
        name: "chat".into(),
        servers,
        discover: None,
        balance,
        tls: None,
        health: HealthConfig {
            checks: None,
            eject_after: NonZeroU32::new(3),
            eject_max_percent: 50,
            slow_start: Duration::from_secs(30),
        },
        base_path: String::new(),
        connect_timeout: Duration::from_secs(1),
        response_timeout: Duration::from_secs(1),
        http_response_timeout: Duration::from_secs(1),
        retries: 2,
        max_pending_requests: 2,
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

pub(crate) fn pool(balance: Balance, servers: Vec<ServerConfig>) -> Pool {
    Pool::new(config(balance, servers), Instant::now())
}

/// Returns the port of a server.
pub(crate) fn port(name: &str) -> usize {
    name.rsplit(':').next().unwrap().parse().unwrap()
}

/// Chooses a server for a new request, and returns its port with the session.
pub(crate) fn choose(pool: &Pool, random: u64) -> Result<(usize, ServerSession), NoServer> {
    choose_at(pool, random, 0)
}

/// Chooses a server at this time.
pub(crate) fn choose_at(pool: &Pool, random: u64, now_ms: u64) -> Result<(usize, ServerSession), NoServer> {
    let picked = pool.choose(&mut Attempt::new(None, random), now_ms)?;
    Ok((port(picked.server.name()), picked.session))
}

/// Returns the ports of the servers in the order in which one request tries them.
pub(crate) fn order(pool: &Pool, mut attempt: Attempt, now_ms: u64) -> Vec<usize> {
    std::iter::from_fn(|| pool.choose(&mut attempt, now_ms).ok()).map(|picked| port(picked.server.name())).collect()
}
