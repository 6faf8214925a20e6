//! The state of round robin: each server in turn, as often as its weight says, and as evenly as possible.

use std::sync::{Mutex, PoisonError};

/// The credits of the servers of a pool, in the order of its servers.
///
/// The lock is held for one pass over the servers, without any wait.
#[derive(Debug)]
pub struct Rotation(Mutex<Vec<i64>>);

impl Rotation {
    /// Creates the rotation of this number of servers.
    pub fn new(servers: usize) -> Self {
        Self(Mutex::new(vec![0; servers]))
    }

    /// Returns the next of the servers for which `weight` returns a number: smooth weighted round robin, as nginx has
    /// it. Each server gains its weight, and the one with the most credit pays what all of them gained.
    pub fn next(&self, weight: impl Fn(usize) -> Option<u32>) -> Option<usize> {
        let mut credits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut total = 0_i64;
        let mut best: Option<(usize, i64)> = None;
        for (server, credit) in credits.iter_mut().enumerate() {
            let Some(weight) = weight(server) else { continue };
            *credit = credit.saturating_add(weight.into());
            total = total.saturating_add(weight.into());
            if best.is_none_or(|(_, most)| *credit > most) {
                best = Some((server, *credit));
            }
        }
        let (server, _) = best?;
        if let Some(credit) = credits.get_mut(server) {
            *credit = credit.saturating_sub(total);
        }
        Some(server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(weights: &[Option<u32>], count: usize) -> Vec<usize> {
        let rotation = Rotation::new(weights.len());
        (0..count).map(|_| rotation.next(|server| weights[server]).unwrap()).collect()
    }

    #[test]
    fn turns_are_spread_evenly_by_weight() {
        assert_eq!(turns(&[Some(1), Some(1), Some(1)], 6), [0, 1, 2, 0, 1, 2]);
        assert_eq!(turns(&[Some(5), Some(1), Some(1)], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(turns(&[Some(1), None, Some(2)], 6), [2, 0, 2, 2, 0, 2]);
        assert_eq!(Rotation::new(2).next(|_| None), None);
    }

    #[test]
    fn a_server_that_returns_does_not_catch_up() {
        let rotation = Rotation::new(2);
        for _ in 0..100 {
            assert_eq!(rotation.next(|server| (server == 0).then_some(1)), Some(0));
        }
        let later: Vec<_> = (0..6).map(|_| rotation.next(|_| Some(1)).unwrap()).collect();
        assert_eq!(later.iter().filter(|server| **server == 1).count(), 3, "{later:?}");
    }
}
