//! The times at which the sessions of one server are closed: at a rate, and apart by random times.

use std::fmt;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

/// The longest time for which closings are made up after a delay, so that few sessions close at once.
const LATE_MAX: Duration = Duration::from_millis(100);

/// The number of sessions that are closed in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClosingRate {
    /// The number.
    pub count: NonZeroU32,
    /// The time; never zero.
    pub period: Duration,
}

impl ClosingRate {
    /// Returns the mean time between two closings.
    pub fn interval(self) -> Duration {
        self.period / self.count.get()
    }
}

impl fmt::Display for ClosingRate {
    /// Writes the form used in the configuration file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.period.as_secs() {
            1 => write!(f, "{}/s", self.count),
            60 => write!(f, "{}/m", self.count),
            3600 => write!(f, "{}/h", self.count),
            _ => write!(f, "{} in {:?}", self.count, self.period),
        }
    }
}

/// The times of the closings of one server. Two of them are apart by between a half and one and a half of the mean time,
/// at random, so that servers which drain together do not close their sessions at the same times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pacing {
    interval: Duration,
    next: Instant,
}

impl Pacing {
    /// Begins: the first closing is after between a half and the whole of `interval`, at random.
    pub fn new(interval: Duration, now: Instant, random: u64) -> Self {
        let half = interval / 2;
        Self { interval, next: later(later(now, half), part(half, random)) }
    }

    /// Returns the time of the next closing.
    pub fn next(&self) -> Instant {
        self.next
    }

    /// Returns the number of closings that are due, at most `max`, and plans the one after them. `interval` is the mean
    /// time between two, which may have changed.
    pub fn due(&mut self, interval: Duration, now: Instant, max: usize, mut random: impl FnMut() -> u64) -> usize {
        if interval != self.interval {
            *self = Self::new(interval, now, random());
        }
        if let Some(earliest) = now.checked_sub(LATE_MAX) {
            self.next = self.next.max(earliest);
        }
        let mut count = 0;
        while self.next <= now && count < max {
            count += 1;
            self.next = later(self.next, interval / 2).max(self.next);
            self.next = later(self.next, part(interval, random()));
        }
        count
    }
}

/// Returns a random part of a time.
fn part(time: Duration, random: u64) -> Duration {
    // 16 of the bits, so that the product fits for every time that a rate has.
    u32::try_from(random % (1 << 16)).map_or(time, |random| time / (1 << 16) * random)
}

fn later(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(count: u32, seconds: u64) -> ClosingRate {
        ClosingRate { count: count.try_into().unwrap(), period: Duration::from_secs(seconds) }
    }

    #[test]
    fn rates_are_shown_as_in_the_file() {
        for (count, seconds, expected) in [(20, 1, "20/s"), (5, 60, "5/m"), (1, 3600, "1/h"), (2, 10, "2 in 10s")] {
            assert_eq!(rate(count, seconds).to_string(), expected);
        }
        assert_eq!(rate(20, 1).interval(), Duration::from_millis(50));
    }

    fn numbers() -> impl FnMut() -> u64 {
        let mut number = 7_u64;
        move || {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            number >> 33
        }
    }

    /// Returns the numbers of closings in each of these many steps of `step`.
    fn steps(rate: ClosingRate, step: Duration, count: u32) -> Vec<usize> {
        let (start, mut random) = (Instant::now(), numbers());
        let mut pacing = Pacing::new(rate.interval(), start, random());
        let mut due = |now| pacing.due(rate.interval(), now, usize::MAX, &mut random);
        (1..=count).map(|number| due(start + step * number)).collect()
    }

    #[test]
    fn closings_keep_their_rate_and_are_jittered() {
        let each = steps(rate(20, 1), Duration::from_millis(10), 6000);
        let total: usize = each.iter().sum();
        assert!((1150..=1250).contains(&total), "{total} in 60 s");
        assert!(each.iter().all(|count| *count <= 1), "two are apart by at least 25 ms");
        let in_seconds: Vec<usize> = each.chunks(100).map(|second| second.iter().sum()).collect();
        assert!(in_seconds.iter().all(|count| (14..=27).contains(count)), "{in_seconds:?}");
        assert!(in_seconds.iter().any(|count| *count != in_seconds[0]), "{in_seconds:?}");
        let slow: usize = steps(rate(6, 60), Duration::from_secs(1), 600).iter().sum();
        assert!((54..=66).contains(&slow), "{slow} in 10 min");
    }

    #[test]
    fn a_delay_makes_few_sessions_close_at_once() {
        let each = steps(rate(100, 1), Duration::from_secs(10), 5);
        assert!(each.iter().all(|count| (5..=20).contains(count)), "{each:?}");
    }

    #[test]
    fn a_changed_rate_takes_effect_at_once() {
        let start = Instant::now();
        let mut random = numbers();
        let mut pacing = Pacing::new(Duration::from_secs(3600), start, random());
        let second = Duration::from_secs(1);
        assert_eq!(pacing.due(Duration::from_secs(3600), start, 9, &mut random), 0);
        assert_eq!(pacing.due(second / 1000, start, 9, &mut random), 0);
        assert_eq!(pacing.due(second / 1000, start + second, 9, &mut random), 9, "at most as many as there are");
        assert!(pacing.next() <= start + second);
    }
}
