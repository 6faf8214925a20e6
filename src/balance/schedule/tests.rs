use proptest::prelude::*;

use super::*;

const INTERVAL_MS: u64 = 5_000;

fn target(upstream: &str, server: usize) -> Target {
    (upstream.into(), format!("192.0.2.1:{server}").into())
}

fn planned(upstream: &str, servers: std::ops::Range<usize>, interval_ms: u64) -> Vec<Planned> {
    let interval = Duration::from_millis(interval_ms);
    servers.map(|server| Planned { target: target(upstream, server), interval }).collect()
}

/// Returns random bits, of which each value is determined by those before.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 16
    }
}

/// Runs the schedule up to a time, with checks that take `check_ms`. Returns the begin of each check.
fn run(schedule: &mut Schedule, until_ms: u64, check_ms: u64, random: &mut impl FnMut() -> u64) -> Vec<(u64, Target)> {
    let mut begun = Vec::new();
    let mut ends: BTreeSet<(u64, Target)> = BTreeSet::new();
    loop {
        let at_ms = [ends.first().map(|(at, _)| *at), schedule.next_at()].into_iter().flatten().min();
        let Some(now_ms) = at_ms.filter(|at| *at < until_ms) else { return begun };
        while ends.first().is_some_and(|(at, _)| *at <= now_ms)
            && let Some((_, target)) = ends.pop_first()
        {
            schedule.end(&target, now_ms, &mut *random);
        }
        while let Some(target) = schedule.begin(now_ms) {
            begun.push((now_ms, target.clone()));
            ends.insert((now_ms + check_ms, target));
        }
    }
}

#[test]
fn the_first_checks_of_an_upstream_are_spread_over_the_interval() {
    let (mut schedule, mut random) = (Schedule::default(), random(1));
    schedule.follow(&planned("chat", 0..10, INTERVAL_MS), 100, &mut random);
    let begun = run(&mut schedule, 100 + INTERVAL_MS / 2, 1, &mut random);
    assert_eq!(begun.len(), 5);
    let mut parts: Vec<_> = begun.iter().map(|(at, _)| (at - 100) / (INTERVAL_MS / 10)).collect();
    parts.dedup();
    assert_eq!(parts, [0, 1, 2, 3, 4]);
}

#[test]
fn a_server_that_is_added_is_checked_at_once_and_others_keep_their_times() {
    let (mut schedule, mut random) = (Schedule::default(), random(2));
    schedule.follow(&planned("chat", 0..2, INTERVAL_MS), 0, &mut random);
    let before: Vec<_> = schedule.queue.iter().cloned().collect();
    let both = [planned("chat", 0..3, INTERVAL_MS), planned("feed", 0..1, INTERVAL_MS)].concat();
    schedule.follow(&both, 10, &mut random);
    assert_eq!((schedule.begin(10), schedule.begin(10)), (Some(target("chat", 2)), None));
    assert!(before.iter().all(|entry| schedule.queue.contains(entry)));
    // Its check ends after the server was removed, or another one of its name was added.
    schedule.follow(&planned("chat", 0..2, INTERVAL_MS), 20, &mut random);
    schedule.end(&target("chat", 2), 30, &mut random);
    assert_eq!(schedule.queue.len(), 2);
}

#[test]
fn a_shorter_interval_holds_at_once() {
    let (mut schedule, mut random) = (Schedule::default(), random(3));
    schedule.follow(&planned("chat", 0..20, 3_600_000), 0, &mut random);
    schedule.follow(&planned("chat", 0..20, 1_000), 5_000, &mut random);
    assert!(schedule.queue.iter().all(|(at, _)| *at <= 6_000));
    let begun = run(&mut schedule, 8_000, 1, &mut random);
    assert!(begun.len() >= 40, "{}", begun.len());
}

#[test]
fn a_check_that_takes_its_whole_interval_does_not_delay_the_next_one() {
    let (mut schedule, mut random) = (Schedule::default(), random(4));
    schedule.follow(&planned("chat", 0..1, 1_000), 0, &mut random);
    let begun = run(&mut schedule, 10_000, 1_000, &mut random);
    assert!(begun.windows(2).all(|pair| pair[1].0 - pair[0].0 == 1_000), "{begun:?}");
    assert!(begun.len() >= 9);
}

proptest! {
    /// `fall` checks begin within as many intervals, for every server, and no server is checked more often than the
    /// jitter permits.
    #[test]
    fn checks_keep_their_interval(seed: u64, servers in 1_usize..40, interval_ms in 100_u64..10_000) {
        let (mut schedule, mut random) = (Schedule::default(), random(seed));
        schedule.follow(&planned("chat", 0..servers, interval_ms), 0, &mut random);
        let begun = run(&mut schedule, 20 * interval_ms, interval_ms / 10, &mut random);
        for server in 0..servers {
            let of_server = target("chat", server);
            let times: Vec<_> = begun.iter().filter(|(_, target)| *target == of_server).map(|(at, _)| *at).collect();
            prop_assert!(times[0] < interval_ms && times[times.len() - 1] >= 19 * interval_ms - 1);
            for pair in times.windows(2) {
                let gap = pair[1] - pair[0];
                prop_assert!(gap <= interval_ms && gap >= interval_ms * 4 / 5, "{} of {}", gap, interval_ms);
            }
        }
    }

    /// Whatever the schedule follows, a server has one entry, and it is in the queue unless it is being checked.
    #[test]
    fn the_queue_and_the_servers_agree(
        seed: u64,
        steps in prop::collection::vec((0_usize..6, 0_usize..6, any::<bool>()), 0..30),
    ) {
        let (mut schedule, mut random) = (Schedule::default(), random(seed));
        let mut running = Vec::new();
        for (number, (first, last, ends)) in steps.into_iter().enumerate() {
            let now_ms = 700 * number as u64;
            schedule.follow(&planned("chat", first..last.max(first), INTERVAL_MS), now_ms, &mut random);
            running.extend(schedule.begin(now_ms));
            if ends && let Some(target) = running.pop() {
                schedule.end(&target, now_ms, &mut random);
            }
            let waiting = schedule.entries.iter().filter(|(_, entry)| !entry.is_checking);
            let waiting: BTreeSet<_> = waiting.map(|(target, entry)| (entry.at_ms, target.clone())).collect();
            prop_assert_eq!(&waiting, &schedule.queue);
        }
    }
}
