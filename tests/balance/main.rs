//! Simulates how each policy spreads long sessions over servers that are added, restarted or lost, in virtual time.
//!
//! `cargo test --test balance -- --nocapture` prints a table. With `TOLLGATE_PLOT=FILE` it also writes a plot. Every run
//! is determined by its seed, which `TOLLGATE_SEED` replaces.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

#[path = "../harness/mod.rs"]
mod harness;
mod plot;
mod world;

use harness::random::number_from_env;
use std::time::Duration;

use tollgate::balance::{Balance, HashSource, Rebalance};
use world::{Measured, Order, SAMPLE_MS, World};

const SESSIONS: u64 = 100_000;
const SERVERS: usize = 20;
const MINUTE_MS: u64 = 60_000;
/// The time within which clients connect again by themselves, and when the closes of their sessions are spread.
const SPREADS_MS: [usize; 2] = [1_000, 10_000];
const ORDERS: [Order; 3] = [Order::Oldest, Order::Random, Order::Youngest];
const POLICIES: [&str; 4] = ["least_sessions", "round_robin", "hash", "sticky_cookie"];

fn balance(policy: &str) -> Balance {
    match policy {
        "least_sessions" => Balance::LeastSessions,
        "round_robin" => Balance::RoundRobin,
        "sticky_cookie" => world::sticky_cookie(),
        // Each client has a value of its own.
        _ => Balance::Hash(HashSource::Subject),
    }
}

fn seed() -> u64 {
    number_from_env("TOLLGATE_SEED").unwrap_or(12)
}

fn is_default_seed() -> bool {
    number_from_env("TOLLGATE_SEED").is_none()
}

/// From 10 to 20 servers after a minute.
fn scale_out(policy: &str) -> Measured {
    let balance = balance(policy);
    let mut world = World::new(seed(), &balance, SERVERS / 2, SESSIONS);
    world.run_until(MINUTE_MS);
    world.scale_to(&balance, SERVERS);
    world.run_until(60 * MINUTE_MS);
    world.measured
}

/// The same, while overloaded servers shed 5 % of the sessions in a minute.
fn scale_out_and_shed(policy: &str, order: Order) -> Measured {
    let balance = balance(policy);
    let rebalance = Rebalance { percent: 5, period: Duration::from_millis(MINUTE_MS) };
    let mut world = World::new(seed(), &balance, SERVERS / 2, SESSIONS);
    world.run_until(MINUTE_MS);
    world.scale_to(&balance, SERVERS);
    for minute in 1..60 {
        world.rebalance(rebalance, order);
        world.run_until((minute + 1) * MINUTE_MS);
    }
    world.measured
}

/// From the first minute on, one server after the other is down for 10 s, one a minute.
fn rolling_restart(policy: &str, spread_ms: usize) -> Measured {
    let mut world = World::new(seed(), &balance(policy), SERVERS, SESSIONS);
    for server in 0..SERVERS {
        let at = (1 + server as u64) * MINUTE_MS;
        world.run_until(at);
        world.stop(server..server + 1, spread_ms);
        world.run_until(at + 10_000);
        world.start(server..server + 1);
    }
    world.run_until(40 * MINUTE_MS);
    world.measured
}

/// After a minute, 6 of 20 servers are down for five minutes.
fn outage(policy: &str, spread_ms: usize) -> Measured {
    let mut world = World::new(seed(), &balance(policy), SERVERS, SESSIONS);
    world.run_until(MINUTE_MS);
    world.stop(0..6, spread_ms);
    world.run_until(6 * MINUTE_MS);
    world.start(0..6);
    world.run_until(40 * MINUTE_MS);
    world.measured
}

/// Returns the number of samples until the fullest server stays below this multiple of the mean.
fn samples_until_below(measured: &Measured, bound: f64) -> Option<usize> {
    let values = &measured.max_over_mean;
    let last = values.iter().rposition(|value| *value >= bound).map_or(0, |last| last + 1);
    (last < values.len()).then_some(last)
}

/// Returns the same in minutes.
fn minutes_until_below(measured: &Measured, bound: f64) -> Option<u64> {
    samples_until_below(measured, bound).map(|samples| samples as u64 * SAMPLE_MS / MINUTE_MS)
}

fn peak(measured: &Measured) -> f64 {
    measured.max_over_mean.iter().copied().fold(0.0, f64::max)
}

fn last(measured: &Measured) -> f64 {
    *measured.max_over_mean.last().unwrap()
}

fn row(scenario: &str, policy: &str, measured: &Measured) {
    let below = minutes_until_below(measured, 1.1).map_or_else(|| "not".to_owned(), |minutes| format!("{minutes} min"));
    println!(
        "| {scenario} | `{policy}` | {:.2} | {below} | {:.2} | {} | {} | {} | {} |",
        peak(measured),
        last(measured),
        measured.moved,
        measured.peak_reconnects,
        measured.peak_at_one,
        measured.failed
    );
}

/// Runs every policy, one thread for each, and prints a row for each.
fn every_policy(scenario: &str, run: impl Fn(&str) -> Measured + Sync) -> Vec<Measured> {
    let found: Vec<Measured> = std::thread::scope(|scope| {
        let threads = POLICIES.map(|policy| scope.spawn(|| run(policy)));
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    POLICIES.iter().zip(&found).for_each(|(policy, measured)| row(scenario, policy, measured));
    found
}

#[test]
fn each_policy_spreads_long_sessions_as_documented() {
    println!(
        "\n| | policy | fullest over mean, peak | below 1.1 after | at the end | clients that lost sessions | reconnects \
         per second, peak | sessions per second at one server, peak | failed upgrades |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let scaled = every_policy("from 10 to 20 servers", scale_out);
    let [fast, slow] = SPREADS_MS;
    let restarted = every_policy("rolling restart", |policy| rolling_restart(policy, fast));
    let paced = every_policy("rolling restart, spread over 10 s", |policy| rolling_restart(policy, slow));
    let lost = every_policy("6 of 20 servers down for 5 min", |policy| outage(policy, fast));
    let spread = every_policy("the same, spread over 10 s", |policy| outage(policy, slow));

    if let Ok(path) = std::env::var("TOLLGATE_PLOT") {
        let lines = |found: &'static str, all: &[Measured]| (found, all.to_vec());
        let panels = [
            (lines("From 10 to 20 servers", &scaled), 2.2, 60.0),
            (lines("Rolling restart", &restarted), 2.2, 40.0),
            (lines("6 of 20 servers down for 5 minutes", &lost), 1.8, 40.0),
        ];
        let panels: Vec<_> = panels
            .iter()
            .map(|((title, all), top, minutes)| plot::Panel {
                title,
                top: *top,
                minutes: *minutes,
                lines: POLICIES.iter().zip(all).map(|(name, one)| (*name, &*one.max_over_mean)).collect(),
            })
            .collect();
        let caption = "Sessions of the fullest server over the mean, 100,000 sessions";
        std::fs::write(path, plot::svg(caption, &panels)).unwrap();
    }
    if is_default_seed() {
        check(&scaled, [&restarted, &paced], [&lost, &spread]);
    }
}

#[test]
fn rebalancing_by_the_oldest_sessions_interrupts_the_fewest_clients() {
    println!(
        "\n| policy | shed first | below 1.1 after | closed until then | closed in an hour | clients closed more than \
         once | the most often | had lived, mean | would have lived on, mean |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let runs = POLICIES[..2].iter().flat_map(|policy| ORDERS.map(|order| (*policy, order)));
    let found: Vec<Measured> = std::thread::scope(|scope| {
        let threads: Vec<_> =
            runs.clone().map(|(policy, order)| scope.spawn(move || scale_out_and_shed(policy, order))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for ((policy, order), measured) in runs.zip(&found) {
        let samples = samples_until_below(measured, 1.1);
        let (after, until) = samples.map_or(("not".to_owned(), measured.moved), |samples| {
            (format!("{} s", (samples as u64 * SAMPLE_MS - MINUTE_MS) / 1000), measured.shed[samples])
        });
        let more = measured.shed_of.values().filter(|times| **times > 1).count();
        let most = measured.shed_of.values().max().unwrap();
        let mean = |sum: u64| sum / measured.moved / MINUTE_MS;
        println!(
            "| `{policy}` | {} | {after} | {until} | {} | {more} | {most} | {} min | {} min |",
            format!("{order:?}").to_lowercase(),
            measured.moved,
            mean(measured.shed_age_ms),
            mean(measured.shed_left_ms)
        );
    }
    if is_default_seed() {
        let [least, turns] = [&found[..3], &found[3..]];
        let moved_again = |measured: &Measured| measured.shed_of.values().any(|times| *times > 1);
        // The order makes no difference if the clients return to the new servers.
        assert!(least.iter().all(|one| !moved_again(one) && one.moved.abs_diff(least[0].moved) < SESSIONS / 50));
        assert!(least.iter().all(|one| minutes_until_below(one, 1.1).is_some_and(|minutes| minutes <= 8)));
        // If some return to the old ones, those are the youngest there.
        let [oldest, random, youngest] = turns else { panic!("{}", turns.len()) };
        assert!(!moved_again(oldest) && moved_again(random) && moved_again(youngest));
        assert!(oldest.moved < random.moved && random.moved < youngest.moved);
        assert!(minutes_until_below(oldest, 1.1).is_some() && minutes_until_below(youngest, 1.1).is_none());
    }
}

/// The bounds are those of what the documentation says, and leave a margin for another seed or version.
fn check(scaled: &[Measured], restarted: [&[Measured]; 2], lost: [&[Measured]; 2]) {
    let [fast, slow] = restarted;
    for (policies, minutes) in [(scaled, 20), (fast, 3), (slow, 3), (lost[0], 20), (lost[1], 20)] {
        let [least, turns, hash, sticky] = policies else { panic!("{}", policies.len()) };
        for even in [least, sticky] {
            assert!(minutes_until_below(even, 1.1).is_some_and(|found| found <= minutes));
            assert!(last(even) < 1.02, "{}", last(even));
        }
        for other in [turns, hash] {
            assert_eq!(minutes_until_below(other, 1.1), None, "long sessions stay where they are");
            assert!((1.1..1.5).contains(&last(other)), "{}", last(other));
        }
    }
    assert!(scaled.iter().all(|one| (1.9..2.1).contains(&peak(one)) && one.moved + one.failed == 0));
    // The sessions of each server are lost once, with an even load; otherwise those that moved to it are lost again.
    assert!([&fast[0], &fast[3]].iter().all(|one| one.moved.abs_diff(SESSIONS) < SESSIONS / 20 && peak(one) < 1.1));
    assert!(fast[1..3].iter().all(|one| one.moved > SESSIONS * 5 / 4 && peak(one) > 1.5));
    for (fast, slow) in fast.iter().zip(slow).chain(lost[0].iter().zip(lost[1])) {
        assert!(slow.peak_reconnects < fast.peak_reconnects / 7 && slow.peak_at_one < fast.peak_at_one / 3);
        assert!(fast.failed + slow.failed < 100, "{} and {}", fast.failed, slow.failed);
    }
    assert!(lost.iter().all(|all| all.iter().all(|one| one.moved.abs_diff(SESSIONS * 3 / 10) < SESSIONS / 100)));
}
