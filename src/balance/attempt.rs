//! One request that looks for a server: the servers that it has tried, its random numbers, and its pauses.

use std::time::Duration;

use super::hash::TextHash;

/// The longest pause before the first retry. It doubles with each further one.
const PAUSE_MAX: Duration = Duration::from_millis(25);
/// The longest pause of all.
const PAUSE_LIMIT: Duration = Duration::from_millis(250);

/// The servers that one request has tried, and the source of its choices.
#[derive(Debug)]
pub struct Attempt {
    pub(super) key: Option<TextHash>,
    /// The server that the client's cookie names.
    pub(super) preferred: Option<usize>,
    random: u64,
    /// The servers that the request has tried, by their index.
    pub(super) tried: Vec<usize>,
}

impl Attempt {
    /// Starts with no server tried. `key` is the hash of the request's value of
    /// [`Balance::Hash`](super::Balance::Hash); a request without one goes to the server with the fewest sessions.
    /// `random` is 64 random bits, which decide ties and draws.
    pub fn new(key: Option<TextHash>, random: u64) -> Self {
        Self { key, preferred: None, random, tried: Vec::new() }
    }

    /// Makes a server the first choice: the one with this index in the pool.
    #[must_use]
    pub fn preferring(self, server: Option<usize>) -> Self {
        Self { preferred: server, ..self }
    }

    /// Returns the index of the server that is the first choice.
    pub fn preferred(&self) -> Option<usize> {
        self.preferred
    }

    /// Returns the number of servers that the request has tried.
    pub fn tried(&self) -> usize {
        self.tried.len()
    }

    /// Returns the pause before the next server is tried: full jitter, so that requests that failed together come back
    /// apart. It is below 25 ms before the first retry, below 50 ms before the second one, and so on up to 250 ms.
    pub fn pause(&mut self) -> Duration {
        let doublings = u32::try_from(self.tried()).unwrap_or(u32::MAX).saturating_sub(1);
        let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
        let max = PAUSE_MAX.saturating_mul(factor).min(PAUSE_LIMIT);
        Duration::from_micros(self.below(u64::try_from(max.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Returns a number below `bound`, or 0 if that is 0: `SplitMix64` from the random bits.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).checked_rem(bound).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::super::Balance;
    use super::super::tests::{pool, weighted};
    use super::*;

    #[test]
    fn pauses_are_jittered_and_limited() {
        let pool = pool(Balance::LeastSessions, weighted(&[1; 12]));
        let mut longest = [Duration::ZERO; 8];
        for random in 0..500 {
            let mut attempt = Attempt::new(None, random);
            for longest in &mut longest {
                pool.choose(&mut attempt, 0).unwrap();
                *longest = attempt.pause().max(*longest);
            }
        }
        for (longest, max) in longest.iter().zip([25, 50, 100, 200, 250, 250, 250, 250]) {
            let max = Duration::from_millis(max);
            assert!(*longest < max && *longest > max * 9 / 10, "{longest:?} of {max:?}");
        }
    }
}
