//! How many sessions overloaded servers shed, so that others get them: a bounded share of the pool in each period.

use std::time::Duration;

/// By how many percent the sessions of a server exceed its share before it sheds any. Fewer are the noise of clients
/// that connect and leave.
const TOLERANCE_PERCENT: u64 = 10;

/// The largest share of the sessions of a pool that is moved in each period.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rebalance {
    /// The share in percent, from 1 to 100.
    pub percent: u8,
    /// The period; never zero.
    pub period: Duration,
}

impl Rebalance {
    /// Returns the number of sessions that may be moved in one period, of a pool with this many: at least one.
    pub fn budget(self, sessions: u64) -> u64 {
        (sessions.saturating_mul(self.percent.into()) / 100).max(1)
    }
}

/// A server that may get sessions, as the plan sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLoad {
    /// The number of its sessions.
    pub sessions: u64,
    /// Its weight, in any unit.
    pub weight: u64,
    /// The limit of its sessions.
    pub max_sessions: Option<u64>,
}

/// Returns how many sessions each of these servers sheds, at most `budget` in total.
///
/// Only a server that exceeds its share by more than a tenth sheds sessions, and it keeps at least its share. No server
/// sheds more than those below their share can take, so a pool in which all are equally full sheds none.
pub fn plan(servers: &[ServerLoad], budget: u64) -> Vec<u64> {
    let shares = shares(servers);
    let loads = || servers.iter().zip(&shares);
    let excess: Vec<u64> = loads()
        .map(|(server, share)| {
            let is_over = server.sessions.saturating_mul(100) > share.saturating_mul(100 + TOLERANCE_PERCENT);
            if is_over { server.sessions.saturating_sub(*share) } else { 0 }
        })
        .collect();
    let capacity = loads().map(|(server, share)| share.saturating_sub(server.sessions)).fold(0, u64::saturating_add);
    let all = excess.iter().copied().fold(0, u64::saturating_add);
    let moved = all.min(capacity).min(budget);
    // Each in proportion to its excess; the fractions add up to whole sessions on the way.
    let mut before = 0;
    let mut planned = 0;
    let shed = |own: &u64| {
        before += own;
        let until = scaled(before, moved, all);
        let count = until - planned;
        planned = until;
        count
    };
    excess.iter().map(shed).collect()
}

/// Whether each server has more sessions than its share.
pub fn is_above_share(servers: &[ServerLoad]) -> Vec<bool> {
    servers.iter().zip(shares(servers)).map(|(server, share)| server.sessions > share).collect()
}

/// Returns the share of the sessions that each server has if all are equally full, rounded up. A server has no more than
/// its limit; the others have what is above it.
fn shares(servers: &[ServerLoad]) -> Vec<u64> {
    let limit = |server: &ServerLoad| server.max_sessions.unwrap_or(u64::MAX);
    let mut is_limited = vec![false; servers.len()];
    loop {
        let limited = || servers.iter().zip(&is_limited);
        let free_weight: u64 = limited().filter(|(_, is)| !**is).map(|(server, _)| server.weight).sum();
        let taken = limited().filter(|(_, is)| **is).map(|(server, _)| limit(server)).fold(0, u64::saturating_add);
        let total: u64 = servers.iter().map(|server| server.sessions).fold(0, u64::saturating_add);
        let left = total.saturating_sub(taken);
        let shares =
            limited().map(
                |(server, is_limited)| {
                    if *is_limited { limit(server) } else { scaled_up(left, server.weight, free_weight) }
                },
            );
        let shares: Vec<u64> = shares.collect();
        let next: Vec<bool> = servers
            .iter()
            .zip(&shares)
            .zip(&is_limited)
            .map(|((server, share), is)| *is || *share > limit(server))
            .collect();
        // Each further round has at least one more server at its limit.
        if next == is_limited {
            return shares;
        }
        is_limited = next;
    }
}

/// Returns `value * part / whole`, rounded down; 0 if `whole` is.
fn scaled(value: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(value) * u128::from(part);
    u64::try_from(product.checked_div(whole.into()).unwrap_or_default()).unwrap_or(u64::MAX)
}

fn scaled_up(value: u64, part: u64, whole: u64) -> u64 {
    let product = u128::from(value) * u128::from(part);
    let rounded = product.saturating_add(u128::from(whole).saturating_sub(1));
    u64::try_from(rounded.checked_div(whole.into()).unwrap_or_default()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
