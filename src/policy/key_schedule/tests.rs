use http::HeaderValue;

use super::*;

const SECOND: Duration = Duration::from_secs(1);
/// The extremes and the middle of the random numbers.
const RANDOM: [u32; 3] = [0, u32::MAX / 2, u32::MAX];

/// A provider that answers some fetches, each of which takes this long, and the times at which they started.
struct Simulation {
    schedule: KeySchedule,
    start: Instant,
    now: Instant,
    fetches: Vec<Duration>,
}

impl Simulation {
    fn new() -> Self {
        let start = Instant::now();
        Self { schedule: KeySchedule::new(start), start, now: start, fetches: Vec::new() }
    }

    /// Runs one fetch that is due by now, and takes `time`.
    fn fetch(&mut self, time: Duration, result: Result<Option<Duration>, ()>, random: u32) {
        assert!(self.schedule.due() <= self.now);
        self.fetches.push(self.now - self.start);
        self.schedule.start();
        self.now += time;
        match result {
            Ok(lifetime) => self.schedule.succeed(self.now, lifetime, random),
            Err(()) => self.schedule.fail(self.now, random),
        }
    }

    /// Lets the time pass until a fetch is due, and returns how long that was.
    fn sleep(&mut self) -> Duration {
        let pause = self.schedule.due().saturating_duration_since(self.now);
        self.now += pause;
        pause
    }
}

#[test]
fn the_first_fetch_is_due_at_once() {
    let simulation = Simulation::new();
    assert!(simulation.schedule.is_pending(simulation.now));
    assert_eq!(simulation.schedule.retry_after_secs(simulation.now), 1);
}

#[test]
fn a_set_is_fetched_again_before_its_lifetime_ends() {
    let hour = 3600 * SECOND;
    for (lifetime, effective) in [
        (None, 300 * SECOND),
        (Some(Duration::ZERO), 60 * SECOND),
        (Some(SECOND), 60 * SECOND),
        (Some(100 * SECOND), 100 * SECOND),
        (Some(hour), hour),
        (Some(24 * hour), hour),
        (Some(Duration::MAX), hour),
    ] {
        for random in RANDOM {
            let mut simulation = Simulation::new();
            simulation.fetch(Duration::ZERO, Ok(lifetime), random);
            let pause = simulation.sleep();
            assert!(pause >= effective.mul_f64(0.749) && pause <= effective.mul_f64(0.901), "{lifetime:?}: {pause:?}");
        }
    }
}

#[test]
fn a_set_is_fetched_again_before_it_becomes_unusable() {
    for random in RANDOM {
        let mut simulation = Simulation::new();
        simulation.schedule.limit_lifetime(2 * SECOND);
        simulation.fetch(Duration::ZERO, Ok(Some(3600 * SECOND)), random);
        let pause = simulation.sleep();
        assert!(pause >= SECOND && pause < 2 * SECOND, "{pause:?}");
        // A new limit applies to the set in use, and a higher one only from the next fetch on.
        simulation.schedule.limit_lifetime(600 * SECOND);
        simulation.fetch(Duration::ZERO, Ok(Some(3600 * SECOND)), random);
        simulation.schedule.limit_lifetime(100 * SECOND);
        assert!(simulation.sleep() <= 75 * SECOND);
        simulation.fetch(Duration::ZERO, Ok(Some(3600 * SECOND)), random);
        simulation.schedule.limit_lifetime(Duration::MAX);
        assert!(simulation.sleep() < 100 * SECOND);
        // Pauses after failures are not shortened.
        simulation.fetch(Duration::ZERO, Err(()), u32::MAX);
        simulation.schedule.limit_lifetime(SECOND / 10);
        assert_eq!(simulation.sleep(), SECOND);
    }
}

#[test]
fn failures_are_retried_after_pauses_that_grow_to_30_seconds() {
    for random in RANDOM {
        let mut simulation = Simulation::new();
        for failure in 0..100 {
            simulation.fetch(Duration::ZERO, Err(()), random);
            let pause = simulation.sleep();
            let longest = SECOND.saturating_mul(1 << failure.min(5)).min(30 * SECOND);
            assert!(pause >= longest / 2 && pause <= longest, "{failure}: {pause:?}");
        }
        assert!(simulation.schedule.is_failing());
        // A success ends the pauses.
        simulation.fetch(Duration::ZERO, Ok(None), random);
        assert!(!simulation.schedule.is_failing() && simulation.sleep() >= 225 * SECOND);
        simulation.fetch(Duration::ZERO, Err(()), random);
        assert!(simulation.sleep() <= SECOND);
    }
}

#[test]
fn an_outage_of_a_minute_costs_few_fetches_and_is_over_within_half_a_minute() {
    let mut simulation = Simulation::new();
    simulation.fetch(Duration::ZERO, Ok(Some(60 * SECOND)), u32::MAX / 2);
    simulation.sleep();
    let (begin, before) = (simulation.now, simulation.fetches.len());
    while simulation.now < begin + 60 * SECOND {
        simulation.fetch(Duration::ZERO, Err(()), u32::MAX / 2);
        simulation.sleep();
    }
    assert!(simulation.fetches.len() - before < 12, "{:?}", simulation.fetches);
    assert!(simulation.now < begin + 90 * SECOND);
}

#[test]
fn two_demands_in_a_row_are_granted_and_further_ones_wait_for_half_a_minute() {
    let mut simulation = Simulation::new();
    // The fetch at the start serves those that arrive during it.
    assert_eq!(simulation.schedule.demand(simulation.now), Demand::Pending);
    simulation.schedule.start();
    assert_eq!(simulation.schedule.demand(simulation.now), Demand::Pending);
    simulation.schedule.succeed(simulation.now, None, 0);
    for _ in 0..2 {
        simulation.now += SECOND;
        assert_eq!(simulation.schedule.demand(simulation.now), Demand::Granted);
        // One fetch serves all that ask for it.
        assert_eq!(simulation.schedule.demand(simulation.now), Demand::Pending);
        simulation.fetch(Duration::ZERO, Ok(None), 0);
    }
    simulation.now += SECOND;
    assert_eq!(simulation.schedule.demand(simulation.now), Demand::Refused);
    // The first of the two was granted at 1 s.
    simulation.now = simulation.start + Duration::from_millis(30_999);
    assert_eq!(simulation.schedule.demand(simulation.now), Demand::Refused);
    simulation.now = simulation.start + 31 * SECOND;
    assert_eq!(simulation.schedule.demand(simulation.now), Demand::Granted);
}

#[test]
fn made_up_keys_cause_two_fetches_in_any_half_minute() {
    for (time, result) in [(SECOND / 10, Ok(None)), (10 * SECOND, Ok(None)), (SECOND / 10, Err(()))] {
        let mut simulation = Simulation::new();
        let mut granted: Vec<Instant> = Vec::new();
        simulation.fetch(time, result, 7);
        while simulation.now < simulation.start + 300 * SECOND {
            // A thousand unknown keys a second.
            if simulation.schedule.demand(simulation.now) == Demand::Granted {
                granted.push(simulation.now);
            }
            if simulation.schedule.due() <= simulation.now {
                simulation.fetch(time, result, 7);
            }
            simulation.now += SECOND / 1000;
        }
        for (at, fetch) in granted.iter().enumerate() {
            let within = granted[at..].iter().filter(|other| **other < *fetch + DEMANDS_PERIOD).count();
            assert!(within <= DEMANDS_MAX, "{granted:?}");
        }
        assert!((15..=22).contains(&granted.len()) || result.is_err(), "{}", granted.len());
        // Refreshes and retries are the only other fetches.
        assert!(simulation.fetches.len() <= granted.len() + 30, "{:?}", simulation.fetches);
    }
}

#[test]
fn clients_are_told_when_the_next_fetch_starts() {
    let mut simulation = Simulation::new();
    for _ in 0..6 {
        simulation.fetch(Duration::ZERO, Err(()), u32::MAX);
        simulation.sleep();
    }
    simulation.fetch(Duration::ZERO, Err(()), u32::MAX);
    assert_eq!(simulation.schedule.retry_after_secs(simulation.now), 31);
    simulation.now += SECOND * 29;
    assert_eq!(simulation.schedule.retry_after_secs(simulation.now), 2);
    simulation.sleep();
    simulation.schedule.start();
    assert_eq!(simulation.schedule.retry_after_secs(simulation.now), 1);
}

#[test]
fn the_lifetime_follows_cache_control_and_age() {
    for (cache_control, age, expected) in [
        (&["max-age=600"][..], None, Some(600)),
        (&["public, MAX-AGE = 600 , must-revalidate"], None, Some(600)),
        (&["public", "max-age=\"600\""], None, Some(600)),
        (&["max-age=600"], Some("100"), Some(500)),
        (&["max-age=600"], Some("700"), Some(0)),
        (&["max-age=600"], Some("x"), Some(600)),
        (&["max-age=600, no-store"], None, Some(0)),
        (&["no-cache"], None, Some(0)),
        (&["s-maxage=10, max-age=600"], None, Some(600)),
        (&["max-age=-1"], None, None),
        (&["max-age"], None, None),
        (&["public"], Some("100"), None),
        (&[], None, None),
        (&["max-age=99999999999999999999"], None, None),
    ] {
        let mut headers = HeaderMap::new();
        for value in cache_control {
            headers.append(CACHE_CONTROL, HeaderValue::from_static(value));
        }
        if let Some(age) = age {
            headers.insert(AGE, HeaderValue::from_static(age));
        }
        assert_eq!(lifetime(&headers), expected.map(Duration::from_secs), "{cache_control:?} {age:?}");
    }
}
