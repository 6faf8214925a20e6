//! The state of a pool's servers as another process takes it over: settings of operators and health.

use std::num::NonZeroU16;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::health::state::HealthState;
use super::overrides::{OperatorState, ServerChange};
use super::pool::Pool;
use super::server::Server;

/// The maximum number of servers of one upstream whose state is taken over.
const SERVERS_MAX: usize = 4096;

/// A process that takes over the state of pools creates them as if they had started this long ago, so that times before
/// its own start can be represented.
pub const STARTED_BEFORE: Duration = Duration::from_hours(1);

/// The state of the servers of one upstream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolState {
    /// The name of the upstream.
    pub upstream: String,
    servers: Vec<ServerState>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ServerState {
    name: String,
    state: Option<OperatorState>,
    weight: Option<NonZeroU16>,
    /// The settings of the configuration that the operator overrode: `drain` and the weight.
    base: (bool, NonZeroU16),
    health: HealthState,
}

impl Pool {
    /// Returns the state of its servers for another process.
    pub fn export(&self, now: Instant) -> PoolState {
        let now_ms = self.millis_at(now);
        let state = |server: &Server| {
            let (state, weight) = server.overridden();
            let base = (server.config().drain, server.config().weight);
            ServerState { name: server.name().to_string(), state, weight, base, health: server.health().export(now_ms) }
        };
        let servers = self.servers().take(SERVERS_MAX).map(state).collect();
        PoolState { upstream: self.config().name.to_string(), servers }
    }

    /// Takes over the state of the servers that this pool has under the same name. As after a reload, the setting of an
    /// operator ends if the configuration has changed it since.
    pub fn import(&self, moved: &PoolState, now: Instant) {
        let (now_ms, is_checked) = (self.millis_at(now), self.config().health.checks.is_some());
        for state in moved.servers.iter().take(SERVERS_MAX) {
            let Some(server) = self.servers().find(|server| **server.name() == *state.name) else { continue };
            server.health().import(&state.health, now_ms, is_checked);
            let (drain, weight) = state.base;
            let change = ServerChange {
                state: state.state.filter(|_| drain == server.config().drain),
                weight: state.weight.filter(|_| weight == server.config().weight),
            };
            if change != ServerChange::default() {
                self.apply_moved(server, change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::super::tests::{config, weighted};
    use super::super::{Balance, Failure};
    use super::*;

    fn pool(now: Instant, weights: &[u16]) -> Pool {
        Pool::new(config(Balance::RoundRobin, weighted(weights)), now.checked_sub(STARTED_BEFORE).unwrap())
    }

    fn labels(pool: &Pool, now: Instant) -> Vec<&'static str> {
        pool.servers().map(|server| pool.condition(server, pool.millis_at(now)).label()).collect()
    }

    fn moved(pool: &Pool, now: Instant) -> PoolState {
        postcard::from_bytes(&postcard::to_allocvec(&pool.export(now)).unwrap()).unwrap()
    }

    #[test]
    fn ejections_and_settings_of_operators_continue_in_another_process() {
        let start = crate::runtime::clock::now();
        let old = pool(start, &[1, 1, 1, 1]);
        let servers: Vec<_> = old.servers().collect();
        for _ in 0..3 {
            old.failed(servers[0], Failure::Connect, old.millis_at(start), || true);
        }
        let change = |state, weight| ServerChange { state, weight };
        old.change_server(servers[1], change(Some(OperatorState::Drain), None), start);
        old.change_server(servers[2], change(Some(OperatorState::Down), NonZeroU16::new(7)), start);
        servers[3].health().start_slowly(old.millis_at(start));
        let later = start + Duration::from_secs(4);
        let expected = ["ejected", "draining", "down", "slow start"];
        assert_eq!(labels(&old, later), expected);
        // The other process has another clock.
        let now = later + Duration::from_hours(5);
        let new = pool(now, &[1, 1, 1, 1]);
        new.import(&moved(&old, later), now);
        assert_eq!(labels(&new, now), expected);
        let weights: Vec<_> = new.servers().map(Server::weight).collect();
        assert_eq!(weights, [1, 1, 7, 1]);
        new.begin_use();
        assert_eq!(labels(&new, now), expected);
        // The slow start ends when it would have.
        let last = now + Duration::from_secs(26);
        assert_eq!(labels(&new, last)[3], "up");
        // The rest of the ejection, of 10 s in all, is kept.
        let patience = new.patience();
        let standing = |after| {
            let health = new.servers().next().unwrap().health();
            health.standing(new.millis_at(now + Duration::from_secs_f64(after)), patience)
        };
        assert_eq!(standing(5.9), crate::balance::standing::Standing::Ejected);
        assert_eq!(standing(6.1), crate::balance::standing::Standing::Good);
    }

    #[test]
    fn what_the_new_configuration_decides_wins() {
        let now = crate::runtime::clock::now();
        let old = pool(now, &[1, 1]);
        let first = old.servers().next().unwrap();
        let change = ServerChange { state: Some(OperatorState::Drain), weight: NonZeroU16::new(9) };
        old.change_server(first, change, now);
        first.health().set_down();
        // The weight of the server is another one, it is not checked, and the second server is gone.
        let new = pool(now, &[3]);
        new.import(&moved(&old, now), now);
        let server = new.servers().next().unwrap();
        assert_eq!((server.weight(), server.operator_state()), (3, Some(OperatorState::Drain)));
        assert!(!server.health().is_down());
        assert_eq!(NonZeroU32::new(3), new.config().health.eject_after);
    }
}
