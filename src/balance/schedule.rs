//! The times at which the servers of all upstreams are checked.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::health::millis;

/// The part of the interval by which a check may be early, so that the checks of many servers, and of several
/// processes, do not stay together. A check is not late, so that `fall` checks begin within as many intervals.
const JITTER: u64 = 5;

/// A server, by the names of its upstream and of itself.
pub type Target = (Arc<str>, Arc<str>);

/// A server that is to be checked at an interval.
#[derive(Debug, Clone)]
pub struct Planned {
    /// The server.
    pub target: Target,
    /// The interval.
    pub interval: Duration,
}

/// When each server is checked next. Times are in milliseconds since any fixed time; `random` returns random bits.
#[derive(Debug, Default)]
pub struct Schedule {
    entries: HashMap<Target, Entry>,
    /// The servers that are not being checked, by the time at which they are.
    queue: BTreeSet<(u64, Target)>,
}

#[derive(Debug)]
struct Entry {
    interval_ms: u64,
    /// When the next check is due or, while it runs, when it began.
    at_ms: u64,
    is_checking: bool,
}

impl Schedule {
    /// Replaces the servers. The first checks of the servers of a new upstream are spread over its interval; a server
    /// that is added to an upstream is checked at once; one that remains keeps its time, unless its interval is now
    /// shorter.
    pub fn follow(&mut self, planned: &[Planned], now_ms: u64, mut random: impl FnMut() -> u64) {
        let known: HashSet<Arc<str>> = self.entries.keys().map(|(upstream, _)| Arc::clone(upstream)).collect();
        let kept: HashSet<&Target> = planned.iter().map(|planned| &planned.target).collect();
        self.entries.retain(|target, _| kept.contains(target));
        self.queue.retain(|(_, target)| kept.contains(target));
        let mut counts: HashMap<&Arc<str>, (u64, u64)> = HashMap::new();
        for Planned { target, .. } in planned {
            counts.entry(&target.0).or_default().1 += 1;
        }
        for Planned { target, interval } in planned {
            let interval_ms = millis(*interval);
            let (position, count) = counts.entry(&target.0).or_default();
            let at_ms = match self.entries.get(target) {
                Some(entry) if entry.is_checking => entry.at_ms,
                Some(entry) => entry.at_ms.min(now_ms.saturating_add(interval_ms)),
                None if known.contains(&target.0) => now_ms,
                None => now_ms.saturating_add(share(interval_ms, *position, *count, random())),
            };
            *position += 1;
            self.plan(target, interval_ms, at_ms);
        }
    }

    fn plan(&mut self, target: &Target, interval_ms: u64, at_ms: u64) {
        let new = Entry { interval_ms, at_ms, is_checking: false };
        match self.entries.get_mut(target) {
            Some(entry) if entry.is_checking => entry.interval_ms = interval_ms,
            Some(entry) => {
                self.queue.remove(&(entry.at_ms, target.clone()));
                *entry = new;
                self.queue.insert((at_ms, target.clone()));
            }
            None => {
                self.entries.insert(target.clone(), new);
                self.queue.insert((at_ms, target.clone()));
            }
        }
    }

    /// Returns a server whose check is due, the one that waits longest first. It is not due again before
    /// [`Schedule::end`].
    pub fn begin(&mut self, now_ms: u64) -> Option<Target> {
        self.next_at().filter(|at_ms| *at_ms <= now_ms)?;
        let (_, target) = self.queue.pop_first()?;
        let entry = self.entries.get_mut(&target)?;
        entry.is_checking = true;
        entry.at_ms = now_ms;
        Some(target)
    }

    /// Records the end of a check. The interval counts from its begin, so that a check that takes as long as it may
    /// delays no other.
    pub fn end(&mut self, target: &Target, now_ms: u64, mut random: impl FnMut() -> u64) {
        let Some(entry) = self.entries.get_mut(target).filter(|entry| entry.is_checking) else { return };
        let early = random().checked_rem(entry.interval_ms / JITTER + 1).unwrap_or_default();
        let after_begin = entry.interval_ms.saturating_sub(early);
        entry.is_checking = false;
        entry.at_ms = entry.at_ms.saturating_add(after_begin).max(now_ms);
        self.queue.insert((entry.at_ms, target.clone()));
    }

    /// Returns the time at which the next check is due; `None` if none is planned.
    pub fn next_at(&self) -> Option<u64> {
        self.queue.first().map(|(at_ms, _)| *at_ms)
    }
}

/// Returns a random time within a part of the interval: the one at `position` of `count` equal parts.
fn share(interval_ms: u64, position: u64, count: u64, random: u64) -> u64 {
    let part = |position: u64| interval_ms.saturating_mul(position).checked_div(count).unwrap_or_default();
    let (start, end) = (part(position), part(position.saturating_add(1)));
    start.saturating_add(random.checked_rem(end.saturating_sub(start).max(1)).unwrap_or_default())
}

#[cfg(test)]
mod tests;
