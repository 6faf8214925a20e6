//! The choice of a server for a request that waits: servers that fail are tried by one request at a time, at intervals.

use std::time::Duration;

use super::attempt::Attempt;
use super::choice::{NoServer, Picked};
use super::pool::Pool;
use super::server::Server;
use super::standing::Standing;

/// The shortest time between two attempts of held requests at one server, in milliseconds, and the range of the jitter
/// that is added.
const PROBE_MS: (u64, u64) = (200, 100);

impl Attempt {
    /// Returns the pause of a held request after a failure, so that a request that a server always fails does not try
    /// again and again while others succeed.
    pub fn held_pause(&mut self) -> Duration {
        let (min, jitter) = PROBE_MS;
        Duration::from_millis(min + self.below(jitter))
    }
}

impl Pool {
    /// Chooses a server for a request that is held while no server is up: one that does not fail or, if none is left, one
    /// that fails and that no other request is trying. Each server that fails is tried every 200 to 300 ms, so that a
    /// server that starts is noticed soon, and the number of held requests does not matter to it.
    ///
    /// # Errors
    /// If no server is to be tried now.
    pub fn choose_paced(&self, attempt: &mut Attempt, now_ms: u64) -> Result<Picked<'_>, NoServer> {
        let failing = self.all().iter().enumerate().filter(|(_, server)| server.health().is_failing());
        let failing: Vec<usize> = failing.map(|(index, _)| index).collect();
        attempt.tried.clone_from(&failing);
        self.choose(attempt, now_ms).or_else(|_| self.probe(&failing, attempt, now_ms).ok_or(NoServer::Full))
    }

    /// Chooses one of these servers that is to be tried now.
    fn probe(&self, failing: &[usize], attempt: &mut Attempt, now_ms: u64) -> Option<Picked<'_>> {
        let start = attempt.below(failing.len().try_into().unwrap_or(u64::MAX));
        let start = usize::try_from(start).unwrap_or_default();
        for index in failing.iter().cycle().skip(start).take(failing.len()) {
            let Some(server) = self.all().get(*index).filter(|server| !server.drains()) else { continue };
            let (min, jitter) = PROBE_MS;
            if !server.is_full()
                && server.health().claim_probe(now_ms, min + attempt.below(jitter))
                && let Some(session) = server.take_session()
            {
                return Some(Picked { server, session });
            }
        }
        None
    }

    /// Whether no server is up: the pool has none yet, or every one that does not drain fails.
    pub fn is_down(&self) -> bool {
        if self.all().is_empty() {
            return true;
        }
        let mut in_use = self.all().iter().filter(|server| !server.drains()).peekable();
        in_use.peek().is_some() && in_use.all(|server| server.health().is_failing())
    }

    /// Whether a server that does not drain has fewer sessions than it may have.
    pub fn has_capacity(&self) -> bool {
        self.all().iter().any(|server| !server.drains() && !server.is_full())
    }

    /// Whether the servers that the request has not tried, and that do not drain, are full, and there is one.
    pub fn rest_is_full(&self, attempt: &Attempt) -> bool {
        let rest = self.all().iter().enumerate().filter(|(index, _)| !attempt.tried.contains(index));
        let mut rest = rest.map(|(_, server)| server).filter(|server| !server.drains()).peekable();
        rest.peek().is_some() && rest.all(Server::is_full)
    }

    /// Notes the server that has just failed the request, if it is not in good standing: see
    /// [`Pool::forget_recovered`]. The note is apart from the attempt, so that a choice costs no more.
    pub fn note_left(&self, attempt: &Attempt, may_recover: &mut Vec<usize>, now_ms: u64) {
        let Some(last) = attempt.tried.last().copied() else { return };
        if !self.is_good(last, now_ms) && !may_recover.contains(&last) {
            may_recover.push(last);
        }
    }

    /// Lets a request that waits try a server again that was not in good standing when the request left it, and is by
    /// now. A server that stays in good standing although it fails the request may fail it because of the request.
    pub fn forget_recovered(&self, attempt: &mut Attempt, may_recover: &mut Vec<usize>, now_ms: u64) {
        let tried = &mut attempt.tried;
        tried.retain(|index| !may_recover.contains(index) || !self.is_good(*index, now_ms));
        may_recover.retain(|index| tried.contains(index));
    }

    fn is_good(&self, index: usize, now_ms: u64) -> bool {
        let standing = |server: &Server| server.health().standing(now_ms, self.patience());
        self.all().get(index).map(standing) == Some(Standing::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{config, pool, port, weighted};
    use super::super::{Balance, Failure, ServerConfig};
    use super::*;

    fn fail(pool: &Pool, index: usize, now_ms: u64) {
        pool.failed(pool.servers().nth(index).unwrap(), Failure::Connect, now_ms, || true);
    }

    fn choose(pool: &Pool, now_ms: u64) -> Option<usize> {
        let picked = pool.choose_paced(&mut Attempt::new(None, now_ms), now_ms);
        picked.ok().map(|picked| port(picked.server.name()))
    }

    #[test]
    fn each_server_that_fails_is_tried_at_intervals_by_one_request_at_a_time() {
        let pool = pool(Balance::LeastSessions, weighted(&[1, 1]));
        fail(&pool, 0, 1_000);
        assert!(!pool.is_down());
        // The other one is up, and gets every request.
        assert!((1_000..1_100).all(|now_ms| choose(&pool, now_ms) == Some(2)));
        fail(&pool, 1, 1_100);
        assert!(pool.is_down());
        let mut tries = [Vec::new(), Vec::new()];
        for now_ms in 2_000..4_000 {
            if let Some(port) = choose(&pool, now_ms) {
                tries[port - 1].push(now_ms);
            }
        }
        for tries in tries {
            assert!((6..=11).contains(&tries.len()), "{tries:?}");
            assert!(tries.windows(2).all(|pair| (200..302).contains(&(pair[1] - pair[0]))), "{tries:?}");
        }
        // While an attempt lasts, no other request tries the server.
        let first = pool.servers().next().unwrap();
        let connecting = first.health().connecting(4_000);
        assert!((4_400..5_000).filter_map(|now_ms| choose(&pool, now_ms)).all(|port| port == 2));
        drop(connecting);
        assert!((5_000..5_400).any(|now_ms| choose(&pool, now_ms) == Some(1)));
        // A server that is up again gets all of them.
        first.health().succeed(6_000, || true);
        assert!((6_000..6_100).all(|now_ms| choose(&pool, now_ms) == Some(1)));
        assert!(!pool.is_down());
    }

    #[test]
    fn full_and_draining_servers_are_not_tried() {
        let mut servers = weighted(&[1, 1]);
        servers[0].max_sessions = 1.try_into().ok();
        servers[1] = ServerConfig { drain: true, ..servers[1].clone() };
        let pool = Pool::new(config(Balance::LeastSessions, servers), std::time::Instant::now());
        assert!(pool.has_capacity() && !pool.is_down());
        let held = pool.choose_paced(&mut Attempt::new(None, 1), 0).unwrap();
        fail(&pool, 0, 0);
        assert!(pool.is_down() && !pool.has_capacity());
        assert_eq!(choose(&pool, 10_000), None);
        drop(held);
        assert_eq!(choose(&pool, 20_000), Some(1));
        // No server is in use.
        let all_drain = weighted(&[1]).into_iter().map(|server| ServerConfig { drain: true, ..server }).collect();
        let pool = Pool::new(config(Balance::LeastSessions, all_drain), std::time::Instant::now());
        assert!(!pool.is_down() && !pool.has_capacity() && choose(&pool, 0).is_none());
    }

    #[test]
    fn a_server_that_recovers_may_be_tried_again() {
        let pool = pool(Balance::LeastSessions, weighted(&[1]));
        let (mut attempt, mut may_recover) = (Attempt::new(None, 1), Vec::new());
        drop(pool.choose(&mut attempt, 0).unwrap());
        fail(&pool, 0, 0);
        pool.note_left(&attempt, &mut may_recover, 0);
        for (now_ms, tried) in [(0, 1), (4_999, 1), (5_000, 0)] {
            pool.forget_recovered(&mut attempt, &mut may_recover, now_ms);
            assert_eq!(attempt.tried(), tried, "{now_ms}");
        }
    }

    #[test]
    fn a_server_in_good_standing_that_fails_a_request_does_not_get_it_again() {
        let pool = pool(Balance::LeastSessions, weighted(&[1]));
        let (mut attempt, mut may_recover) = (Attempt::new(None, 1), Vec::new());
        drop(pool.choose(&mut attempt, 0).unwrap());
        pool.failed(pool.servers().next().unwrap(), Failure::Answer, 0, || true);
        pool.note_left(&attempt, &mut may_recover, 0);
        for now_ms in [0, 5_000, 60_000] {
            pool.forget_recovered(&mut attempt, &mut may_recover, now_ms);
            assert_eq!(attempt.tried(), 1, "{now_ms}");
        }
    }

    #[test]
    fn the_rest_is_full_if_each_server_that_was_not_tried_is() {
        let mut servers = weighted(&[1, 1, 1]);
        servers[1].max_sessions = 1.try_into().ok();
        servers[2] = ServerConfig { drain: true, ..servers[2].clone() };
        let pool = Pool::new(config(Balance::LeastSessions, servers), std::time::Instant::now());
        let mut attempt = Attempt::new(None, 1);
        attempt.tried.push(0);
        assert!(!pool.rest_is_full(&attempt));
        let other = pool.choose(&mut attempt, 0).unwrap();
        attempt.tried.pop();
        assert!(pool.rest_is_full(&attempt));
        assert!(!pool.rest_is_full(&Attempt::new(None, 1)), "the first one is not");
        drop(other);
        attempt.tried.push(1);
        assert!(!pool.rest_is_full(&attempt), "there is no rest");
    }
}
