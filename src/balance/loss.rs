//! Spreads the Closes of sessions that lost the same server, so that their clients do not reconnect all at once.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The slots for the Closes of the sessions that lost one server.
///
/// The first session gets a slot at once, so a session that is lost alone does not wait. The following ones get one
/// slot each, as many in the spread as the server had sessions when its loss began. The lock is held for a few
/// comparisons, without any wait.
#[derive(Debug, Default)]
pub(super) struct LossPacer(Mutex<Option<Slots>>);

/// Slots that are not given yet.
#[derive(Debug, Clone, Copy)]
struct Slots {
    next: Instant,
    interval: Duration,
}

impl LossPacer {
    /// Returns when to close a session that is lost now, at most `spread` later. `sessions` is the number of sessions
    /// of the server, this one included. `jitter` is a random number, by which a slot moves within its interval.
    pub(super) fn take(&self, sessions: u32, spread: Duration, jitter: u16, now: Instant) -> Instant {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Slots { next, interval }) = slots.filter(|slots| slots.next > now) else {
            let interval = spread / sessions.max(1);
            *slots = now.checked_add(interval).map(|next| Slots { next, interval });
            return now;
        };
        let wait = next.saturating_duration_since(now);
        let at = if wait < spread {
            *slots = next.checked_add(interval).map(|next| Slots { next, interval });
            wait.saturating_add(part(interval, jitter)).min(spread)
        } else {
            // More sessions are lost than the server had: those that began meanwhile.
            part(spread, jitter)
        };
        now.checked_add(at).unwrap_or(now)
    }
}

/// Returns the part of a span that a random number selects: less than the whole.
fn part(span: Duration, jitter: u16) -> Duration {
    span.saturating_mul(jitter.into()) / (u32::from(u16::MAX) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;

    const SPREAD: Duration = Duration::from_secs(10);

    fn waits(pacer: &LossPacer, sessions: u32, lost: u32, now: Instant) -> Vec<Duration> {
        let jitter = |n: u32| (n.wrapping_mul(40_503) % 65_536) as u16;
        (0..lost).map(|n| pacer.take(sessions, SPREAD, jitter(n), now).duration_since(now)).collect()
    }

    #[test]
    fn sessions_that_are_lost_together_are_spread_evenly() {
        let waits = waits(&LossPacer::default(), 10_000, 10_000, clock::now());
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits.is_sorted() && waits[9_999] < SPREAD, "{:?}", waits[9_999]);
        for second in 0..10 {
            let closed = waits.iter().filter(|wait| wait.as_secs() == second).count();
            assert!((990..=1_010).contains(&closed), "{closed} in second {second}");
        }
    }

    #[test]
    fn sessions_that_are_lost_alone_do_not_wait() {
        let (pacer, start) = (LossPacer::default(), clock::now());
        for n in 0..100 {
            // As many slots as sessions: 100 ms each.
            let now = start + Duration::from_millis(101 * n);
            assert_eq!(pacer.take(100, SPREAD, u16::MAX, now), now);
        }
    }

    #[test]
    fn without_a_spread_every_session_is_closed_at_once() {
        let (pacer, now) = (LossPacer::default(), clock::now());
        for _ in 0..10 {
            assert_eq!(pacer.take(5, Duration::ZERO, u16::MAX, now), now);
        }
    }

    #[test]
    fn no_session_waits_longer_than_the_spread() {
        let waits = waits(&LossPacer::default(), 10, 1_000, clock::now());
        assert!(waits.iter().all(|wait| *wait < SPREAD));
        // Those beyond the slots are spread, too.
        for second in 0..10 {
            let closed = waits.iter().filter(|wait| wait.as_secs() == second).count();
            assert!((50..=150).contains(&closed), "{closed} in second {second}");
        }
    }

    #[test]
    fn a_later_loss_begins_with_slots_of_its_own() {
        let (pacer, start) = (LossPacer::default(), clock::now());
        waits(&pacer, 1_000, 1_000, start);
        let later = start + SPREAD + Duration::from_millis(1);
        assert_eq!(pacer.take(2, SPREAD, 0, later), later);
        assert_eq!(pacer.take(1, SPREAD, 0, later), later + SPREAD / 2);
    }
}
