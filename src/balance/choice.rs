//! The choice of a server for a request: by sessions, in turn, or by a hash, of the servers that may get it.

use super::attempt::Attempt;
use super::config::Balance;
use super::hash::{TextHash, weighted};
use super::pool::Pool;
use super::server::{Server, ServerSession};
use super::standing::Standing;

/// The number of servers from which on two at random are compared instead of all.
const TWO_CHOICES_FROM: usize = 32;
/// The number of draws for two servers that may get the request, before all servers are compared.
const DRAWS_MAX: usize = 16;

/// A chosen server. The request counts as one of its sessions.
#[derive(Debug)]
pub struct Picked<'a> {
    /// The server.
    pub server: &'a Server,
    /// The count of the session.
    pub session: ServerSession,
}

/// Why no server is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoServer {
    /// Every server that the request has not tried is full or draining.
    Full,
    /// The request has tried every server.
    AllTried,
}

impl Pool {
    /// Chooses the server that a request tries next, and counts the request as one of its sessions. A server that is
    /// draining, full or tried already is passed over, and so is one that failed recently or is down by its checks while
    /// another one is left.
    ///
    /// # Errors
    /// If no server is left.
    pub fn choose(&self, attempt: &mut Attempt, now_ms: u64) -> Result<Picked<'_>, NoServer> {
        for standing in Standing::BEST_FIRST {
            // Another request may take the last place of a server, or its only trial, at the same time.
            for _ in 0..=self.all().len() {
                let Some(index) = self.select(attempt, standing, now_ms) else { break };
                let Some(server) = self.all().get(index) else { break };
                if standing.needs_claim() && !server.health().claim(now_ms) {
                    continue;
                }
                let Some(session) = server.take_session() else { continue };
                attempt.tried.push(index);
                return Ok(Picked { server, session });
            }
        }
        let all_tried = attempt.tried.len() >= self.all().len();
        Err(if all_tried { NoServer::AllTried } else { NoServer::Full })
    }

    fn select(&self, attempt: &mut Attempt, standing: Standing, now_ms: u64) -> Option<usize> {
        match (&self.config().balance, attempt.key) {
            (Balance::Hash(_), Some(key)) => self.highest_score(key, attempt, standing, now_ms),
            (Balance::RoundRobin, _) => self.rotation().next(|index| self.weight(index, attempt, standing, now_ms)),
            (Balance::LeastSessions | Balance::Hash(_) | Balance::StickyCookie(_), _) => {
                let preferred = attempt.preferred.filter(|index| self.is_preferable(*index, attempt, now_ms));
                preferred.or_else(|| self.least_loaded(attempt, standing, now_ms))
            }
        }
    }

    /// Returns the weight of a server that may get the request, in thousandths, reduced by its slow start; `None` if it
    /// may not.
    #[inline]
    fn weight(&self, index: usize, attempt: &Attempt, standing: Standing, now_ms: u64) -> Option<u32> {
        let server = self.all().get(index)?;
        let settings = server.settings();
        let is_open = !settings.drains() && !server.is_full() && !attempt.tried.contains(&index);
        let may_get = is_open && server.health().standing(now_ms, self.patience()) <= standing;
        let share = || server.health().weight_share(now_ms, self.config().health.slow_start);
        may_get.then(|| share().saturating_mul(settings.weight()))
    }

    /// Whether the server of the client's cookie is in good standing and not full. Otherwise the client gets another one,
    /// and stays there. It is apart from the choices without a cookie, which it would slow down.
    #[cold]
    fn is_preferable(&self, index: usize, attempt: &Attempt, now_ms: u64) -> bool {
        self.weight(index, attempt, Standing::Good, now_ms).is_some()
    }

    fn least_loaded(&self, attempt: &mut Attempt, standing: Standing, now_ms: u64) -> Option<usize> {
        let count = self.all().len();
        if count >= TWO_CHOICES_FROM
            && let Some(index) = self.better_of_two(attempt, standing, now_ms)
        {
            return Some(index);
        }
        let mut best: Option<(usize, Load)> = None;
        let mut ties = 1;
        for index in 0..count {
            let Some(load) = self.load(index, attempt, standing, now_ms) else { continue };
            let is_better = match &best {
                Some((_, least)) if load.equals(least) => {
                    ties += 1;
                    attempt.below(ties) == 0
                }
                Some((_, least)) => {
                    let is_less = load.is_less(least);
                    ties = if is_less { 1 } else { ties };
                    is_less
                }
                None => true,
            };
            if is_better {
                best = Some((index, load));
            }
        }
        best.map(|(index, _)| index)
    }

    /// Draws two servers by weight, and returns the one with fewer sessions in proportion to its weight. `None` if the
    /// draws do not find two.
    fn better_of_two(&self, attempt: &mut Attempt, standing: Standing, now_ms: u64) -> Option<usize> {
        let mut first: Option<(usize, Load)> = None;
        for _ in 0..DRAWS_MAX {
            let drawn = attempt.below(self.total_weight());
            let index = self.server_at_weight(drawn);
            let Some(load) = self.load(index, attempt, standing, now_ms) else { continue };
            match &first {
                Some((other, _)) if *other == index => {}
                Some((other, least)) => return Some(if load.is_less(least) { index } else { *other }),
                None => first = Some((index, load)),
            }
        }
        None
    }

    /// Returns the load that a server would have with the request; `None` if it may not get it.
    fn load(&self, index: usize, attempt: &Attempt, standing: Standing, now_ms: u64) -> Option<Load> {
        let weight = self.weight(index, attempt, standing, now_ms)?;
        let sessions = u64::from(self.all().get(index)?.sessions()) + 1;
        Some(Load { sessions, weight: weight.into() })
    }

    fn highest_score(&self, key: TextHash, attempt: &Attempt, standing: Standing, now_ms: u64) -> Option<usize> {
        let may_get = |index| self.weight(index, attempt, standing, now_ms).is_some();
        let score = |server: &Server| key.score(server.state.hash);
        // Equal weights do not change the order of the scores.
        if self.has_equal_weights() {
            self.highest(score, may_get)
        } else {
            self.highest(|server| weighted(score(server), server.weight()), may_get)
        }
    }

    /// Returns the server with the highest score of those that may get the request. A score costs less than the question
    /// whether its server may get the request, which is asked only for a score that is higher than those before.
    fn highest<S: PartialOrd>(&self, score: impl Fn(&Server) -> S, may_get: impl Fn(usize) -> bool) -> Option<usize> {
        let mut best: Option<(usize, S)> = None;
        for (index, server) in self.all().iter().enumerate() {
            let score = score(server);
            if best.as_ref().is_none_or(|(_, highest)| score > *highest) && may_get(index) {
                best = Some((index, score));
            }
        }
        best.map(|(index, _)| index)
    }
}

/// Sessions in proportion to a weight.
#[derive(Debug, Clone, Copy)]
struct Load {
    sessions: u64,
    weight: u64,
}

impl Load {
    fn is_less(&self, other: &Self) -> bool {
        self.sessions.saturating_mul(other.weight) < other.sessions.saturating_mul(self.weight)
    }

    fn equals(&self, other: &Self) -> bool {
        !self.is_less(other) && !other.is_less(self)
    }
}

#[cfg(test)]
mod tests;
