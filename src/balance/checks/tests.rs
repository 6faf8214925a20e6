use super::super::tests::{config, server};
use super::super::{Balance, Failure, Pool};
use super::*;
use crate::balance::health::{EJECT_FOR, SKIP_FOR};
use crate::balance::standing::Standing;
use std::time::Instant;

/// Returns a pool of servers with the ports from 1 on, which are down after 3 checks and up after 2.
fn pool(servers: u16) -> Pool {
    Pool::new(checked((1..=servers).map(server).collect()), Instant::now())
}

fn checked(servers: Vec<crate::balance::ServerConfig>) -> crate::balance::UpstreamConfig {
    let mut config = config(Balance::LeastSessions, servers);
    config.health.eject_max_percent = 100;
    config.health.checks = Some(CheckConfig {
        check: Check::Tcp,
        interval: Duration::from_secs(5),
        rise: 2.try_into().unwrap(),
        fall: 3.try_into().unwrap(),
    });
    config
}

/// Checks a server with each of these outcomes (`+` passes), one per second from `from_ms` on. Returns the changes.
fn check(pool: &Pool, index: usize, outcomes: &str, from_ms: u64) -> Vec<(usize, CheckChange)> {
    let checked = outcomes.bytes().enumerate().filter_map(|(number, outcome)| {
        let failure = (outcome != b'+').then_some("refused");
        let now_ms = from_ms + 1000 * number as u64;
        Some((number, pool.checked(&pool.all()[index], failure, now_ms)?))
    });
    checked.collect()
}

/// Records failed attempts to connect.
fn refuse(pool: &Pool, server: &super::super::Server, now_ms: u64, times: u32) {
    for _ in 0..times {
        let _ = pool.failed(server, Failure::Connect, now_ms, || true);
    }
}

fn standing(pool: &Pool, index: usize, now_ms: u64) -> Standing {
    pool.all()[index].health().standing(now_ms, pool.patience())
}

fn label(pool: &Pool, index: usize, now_ms: u64) -> &'static str {
    pool.condition(&pool.all()[index], now_ms).label()
}

#[test]
fn consecutive_checks_change_the_state() {
    let (down, up) = (CheckChange::Down { checks: 3 }, CheckChange::Up { checks: 2 });
    let tables: &[(&str, &[(usize, CheckChange)])] = &[
        ("++++++", &[]),
        ("--+--+--+", &[]),
        ("---", &[(2, down)]),
        ("-------", &[(2, down)]),
        ("---+-+-+--", &[(2, down)]),
        ("---++", &[(2, down), (4, up)]),
        ("---++--+---++++", &[(2, down), (4, up), (10, down), (12, up)]),
    ];
    for (outcomes, expected) in tables {
        assert_eq!(check(&pool(1), 0, outcomes, 0), *expected, "{outcomes}");
    }
}

#[test]
fn the_numbers_and_the_last_check_are_kept() {
    let pool = pool(1);
    let checks = pool.all()[0].checks();
    assert_eq!((checks.last(), checks.passed(), checks.failed()), (None, 0, 0));
    check(&pool, 0, "+--", 0);
    let last = LastCheck { at_ms: 2_000, failure: Some("refused".into()) };
    assert_eq!((checks.last(), checks.passed(), checks.failed()), (Some(last), 1, 2));
    pool.checked(&pool.all()[0], None, 3_000);
    assert_eq!(checks.last(), Some(LastCheck { at_ms: 3_000, failure: None }));
    pool.checked(&pool.all()[0], Some(&"ä".repeat(500)), 4_000);
    assert_eq!(checks.last().unwrap().failure.unwrap().len(), REASON_MAX_BYTES);
}

#[test]
fn a_server_that_is_down_is_tried_only_if_no_other_one_is_left() {
    let pool = pool(2);
    check(&pool, 0, "---", 0);
    assert_eq!((standing(&pool, 0, 2_000), label(&pool, 0, 2_000)), (Standing::DownGood, "down"));
    let mut attempt = crate::balance::Attempt::new(None, 7);
    let mut next = || pool.choose(&mut attempt, 2_000).map(|picked| picked.server.name().to_string()).ok();
    assert_eq!([next(), next(), next()], [Some("192.0.2.1:2".into()), Some("192.0.2.1:1".into()), None]);
}

/// While a server is down, requests do not make it up. Their failures order it among those that are down.
#[test]
fn requests_judge_a_server_that_is_down() {
    use Standing::{DownEjected, DownGood, DownSkipped};
    let pool = pool(2);
    let server = &pool.all()[0];
    check(&pool, 0, "---", 0);
    let is = |now_ms, expected| {
        assert_eq!((standing(&pool, 0, now_ms), label(&pool, 0, now_ms)), (expected, "down"), "{now_ms}");
        assert!(!server.health().is_healthy());
    };
    is(3_000, DownGood);
    refuse(&pool, server, 3_000, 1);
    let again = 3_000 + u64::try_from(SKIP_FOR.as_millis()).unwrap();
    is(again - 1, DownSkipped);
    is(again, DownGood);
    assert!(server.health().claim(again) && !server.health().claim(again));
    is(again, DownSkipped);
    refuse(&pool, server, again, 2);
    let last = again + u64::try_from(EJECT_FOR.as_millis()).unwrap();
    is(last - 1, DownEjected);
    is(last, DownGood);
    pool.connected(server, last - 1);
    is(last - 1, DownEjected);
    let _ = server.health().succeed(last - 1, || true);
    is(last - 1, DownGood);
    refuse(&pool, server, 30_000, 1);
    pool.connected(server, 30_000);
    is(30_000, DownGood);
}

/// All servers are down. One of them is back before its checks say so, and gets the sessions.
#[test]
fn the_best_of_the_servers_that_are_down_gets_the_sessions() {
    let pool = pool(2);
    check(&pool, 0, "---", 0);
    check(&pool, 1, "---", 0);
    let mut tries = [0, 0];
    for now_ms in (3_000..10_000).step_by(10) {
        let picked = pool.choose(&mut crate::balance::Attempt::new(None, now_ms), now_ms).unwrap();
        let first = picked.server.name().ends_with(":1");
        tries[usize::from(first)] += 1;
        if first {
            refuse(&pool, picked.server, now_ms, 1);
        } else {
            pool.connected(picked.server, now_ms);
            let _ = picked.server.health().succeed(now_ms, || true);
        }
    }
    assert!(tries[1] <= 2 && tries[0] >= 698, "{tries:?}");
}

/// A 101 of a server that is down ends the hold of the others, until a request fails again.
#[test]
fn a_success_while_the_server_is_down_ends_the_hold() {
    let pool = pool(1);
    let server = &pool.all()[0];
    check(&pool, 0, "---", 0);
    let held = |now_ms| pool.choose_paced(&mut crate::balance::Attempt::new(None, now_ms), now_ms).is_ok();
    assert!(pool.is_down() && held(3_000) && !held(3_001));
    assert_eq!(server.health().succeed(3_010, || true), None);
    assert!(!pool.is_down() && (3_011..3_100).all(held));
    check(&pool, 0, "-", 3_100);
    assert!(!pool.is_down());
    refuse(&pool, server, 3_200, 1);
    assert!(pool.is_down());
    // Checks alone end it, too.
    check(&pool, 0, "++", 4_000);
    assert!(!pool.is_down() && held(5_000) && held(5_001));
}

#[test]
fn a_server_that_is_up_again_starts_slowly_and_is_not_ejected_any_more() {
    let pool = pool(2);
    let server = &pool.all()[0];
    refuse(&pool, server, 0, 3);
    assert_eq!(label(&pool, 0, 0), "ejected");
    check(&pool, 0, "---++", 0);
    assert_eq!((standing(&pool, 0, 4_000), label(&pool, 0, 4_000)), (Standing::Good, "slow start"));
    assert!(server.health().claim(4_000) && server.health().claim(4_000));
    // Its earlier failures do not count, and its next ejection is as long as if there had been no check.
    assert_eq!(pool.failed(server, Failure::Connect, 5_000, || true), Some(crate::balance::Change::Failed));
    refuse(&pool, server, 5_000, 2);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap();
    assert_eq!(standing(&pool, 0, 5_000 + 2 * ms(EJECT_FOR) - 1), Standing::Ejected);
    assert_eq!(standing(&pool, 0, 5_000 + 2 * ms(EJECT_FOR)), Standing::Good);
}

#[test]
fn passing_checks_do_not_end_an_ejection() {
    let pool = pool(2);
    let server = &pool.all()[0];
    let first = pool.failed(server, Failure::Connect, 0, || true);
    assert_eq!(first, Some(crate::balance::Change::Failed));
    check(&pool, 0, "++", 0);
    let again = u64::try_from(SKIP_FOR.as_millis()).unwrap();
    assert_eq!(standing(&pool, 0, again - 1), Standing::Skipped);
    // The check is the trial, so that no request has to be.
    assert!(!server.health().is_healthy());
    check(&pool, 0, "+", again);
    assert!(server.health().is_healthy() && server.health().has_failed());
    refuse(&pool, server, 6_000, 2);
    check(&pool, 0, "--++++", 6_000);
    assert_eq!((standing(&pool, 0, 12_000), label(&pool, 0, 12_000)), (Standing::Ejected, "ejected"));
    // Not even when its time has ended: a request has to try it.
    check(&pool, 0, "+", 60_000);
    assert_eq!((server.health().is_healthy(), label(&pool, 0, 60_000)), (false, "ejected"));
}

/// `eject_max` limits what requests can do, and not checks.
#[test]
fn servers_that_are_down_do_not_count_towards_eject_max() {
    let servers = (1..=4).map(server).collect();
    let mut config = checked(servers);
    config.health.eject_max_percent = 25;
    let pool = Pool::new(config, Instant::now());
    let eject = |index: usize| {
        refuse(&pool, &pool.all()[index], 10_000, 3);
        pool.all()[index].health().is_ejected()
    };
    check(&pool, 0, "---", 0);
    check(&pool, 1, "---", 0);
    assert!(eject(2) && !eject(3));
    check(&pool, 2, "---", 11_000);
    check(&pool, 3, "---", 11_000);
    let all_down = (0..4).all(|index| label(&pool, index, 14_000) == "down");
    assert!(all_down);
}

#[test]
fn a_changed_configuration_keeps_the_state_and_one_without_checks_ends_it() {
    let pool = pool(2);
    check(&pool, 0, "---+", 0);
    let servers = [1, 2, 3].map(server).to_vec();
    let next = pool.replace(checked(servers.clone()), Instant::now());
    next.forget_checks(5_000);
    assert_eq!(label(&next, 0, 5_000), "down");
    assert_eq!(check(&next, 0, "+", 5_000), [(0, CheckChange::Up { checks: 2 })]);

    check(&next, 1, "---", 6_000);
    let without = next.replace(config(Balance::LeastSessions, servers), Instant::now());
    assert_eq!(label(&without, 1, 9_000), "down");
    without.forget_checks(9_000);
    assert_eq!((standing(&without, 1, 9_000), label(&without, 1, 9_000)), (Standing::Good, "slow start"));
    assert_eq!(without.all()[1].checks().last(), None);
    assert_eq!(without.checked(&without.all()[1], Some("a check that began before"), 9_000), None);
}
