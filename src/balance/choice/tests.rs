use std::collections::BTreeMap;
use std::num::NonZeroU32;

use super::super::config::{HashSource, ServerConfig};
use super::super::health::{EJECT_FOR, SKIP_FOR};
use super::super::standing::Failure;
use super::super::tests::{choose, order, pool, port, server, weighted};
use super::*;

const SKIP_MS: u64 = SKIP_FOR.as_millis() as u64;

fn hash() -> Balance {
    Balance::Hash(HashSource::Subject)
}

fn every_policy() -> [Balance; 3] {
    [Balance::LeastSessions, Balance::RoundRobin, hash()]
}

fn key(number: usize) -> Option<TextHash> {
    Some(TextHash::of(number.to_string().as_bytes()))
}

/// Returns how often each server is chosen when every session stays open.
fn shares(pool: &Pool, requests: usize) -> Vec<usize> {
    let mut sessions = Vec::new();
    for number in 0..requests {
        sessions.push(pool.choose(&mut Attempt::new(key(number), number as u64), 0).unwrap().session);
    }
    let mut counts = vec![0; pool.servers().count()];
    for session in sessions {
        counts[port(session.server()) - 1] += 1;
    }
    counts
}

#[test]
fn a_request_tries_every_server_once() {
    for balance in every_policy() {
        let pool = pool(balance.clone(), weighted(&[1, 2, 3]));
        for number in 0..20 {
            let mut tried = order(&pool, Attempt::new(key(number), number as u64), 0);
            tried.sort_unstable();
            assert_eq!(tried, [1, 2, 3], "{balance:?}");
        }
    }
}

#[test]
fn each_policy_respects_weights() {
    for balance in every_policy() {
        for (weights, expected) in [
            (&[1, 1][..], &[500, 500][..]),
            (&[3, 1], &[750, 250]),
            (&[1, 2, 5, 2], &[100, 200, 500, 200]),
            (&[1000, 1], &[999, 1]),
        ] {
            let found = shares(&pool(balance.clone(), weighted(weights)), 1000);
            // A hash is random; its standard deviation is below 16.
            let tolerance = if balance == hash() { 50 } else { 0 };
            let differs = found.iter().zip(expected).any(|(found, expected)| found.abs_diff(*expected) > tolerance);
            assert!(!differs, "{balance:?} {weights:?}: {found:?}");
        }
    }
}

/// Sessions of one server end, so all new ones go there until it has as many as the others.
#[test]
fn the_server_with_the_fewest_sessions_is_chosen() {
    let pool = pool(Balance::LeastSessions, weighted(&[1, 1, 1]));
    let mut sessions: Vec<_> = (0..30).map(|random| choose(&pool, random).unwrap()).collect();
    sessions.retain(|(port, _)| *port != 2);
    let refilled: Vec<_> = (0..10).map(|random| choose(&pool, random).unwrap()).collect();
    assert!(refilled.iter().all(|(port, _)| *port == 2), "{refilled:?}");
}

#[test]
fn ties_are_broken_at_random() {
    let mut first = BTreeMap::<usize, usize>::new();
    for random in 0..3000 {
        let pool = pool(Balance::LeastSessions, weighted(&[1, 1, 1]));
        *first.entry(choose(&pool, random).unwrap().0).or_default() += 1;
    }
    assert_eq!(first.len(), 3);
    assert!(first.values().all(|count| (850..1150).contains(count)), "{first:?}");
}

/// With many servers two are drawn, so the fullest server is not far above the mean, and heavier ones get their share.
#[test]
fn two_choices_among_many_servers_stay_close_to_the_mean() {
    let weights: Vec<u16> = (0..1000).map(|number| if number < 100 { 10 } else { 1 }).collect();
    let counts = shares(&pool(Balance::LeastSessions, weighted(&weights)), 19_000);
    let (heavy, light) = counts.split_at(100);
    assert!(heavy.iter().all(|count| (90..=115).contains(count)), "{heavy:?}");
    assert!(light.iter().all(|count| (4..=16).contains(count)), "{light:?}");
    assert_eq!(counts.iter().sum::<usize>(), 19_000);
}

/// If nearly all of many servers are full or draining, the others are still found.
#[test]
fn one_open_server_among_many_is_found() {
    let mut servers = weighted(&[1; 200]);
    for other in &mut servers {
        other.drain = other.address != server(77).address;
    }
    let pool = pool(Balance::LeastSessions, servers);
    assert!((0..100).all(|random| choose(&pool, random).unwrap().0 == 77));
}

#[test]
fn equal_keys_go_to_the_same_server_and_a_new_server_takes_only_its_share() {
    const KEYS: usize = 4000;
    for weights in [[1_u16; 10], [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]] {
        let before = pool(hash(), weighted(&weights));
        let after = pool(hash(), weighted(&[&weights[..], &[5]].concat()));
        let chosen = |pool: &Pool, number| order(pool, Attempt::new(key(number), 0), 0);
        let mut moved = 0;
        for number in 0..KEYS {
            let (old, new) = (chosen(&before, number), chosen(&after, number));
            assert_eq!(old, chosen(&before, number));
            moved += usize::from(new[0] == 11);
            // The order of the others is the same, so an overflow goes to the same server, too.
            assert_eq!(old, new.into_iter().filter(|port| *port != 11).collect::<Vec<_>>());
        }
        let share = KEYS * 5 / (usize::from(weights.iter().sum::<u16>()) + 5);
        assert!(moved.abs_diff(share) < share / 5, "{moved} of {share}");
    }
}

/// The order of the servers in the file does not matter, and these choices are the same in every version.
#[test]
fn a_hash_chooses_the_same_server_in_every_process() {
    let chosen = |servers: Vec<ServerConfig>| -> Vec<usize> {
        let pool = pool(hash(), servers);
        (0..12).map(|number| order(&pool, Attempt::new(key(number), 0), 0)[0]).collect()
    };
    let first = chosen(vec![server(1), server(2), server(3)]);
    assert_eq!(first, chosen(vec![server(3), server(1), server(2)]));
    // As computed by another implementation of what `TextHash` documents.
    assert_eq!(first, [1, 2, 2, 2, 1, 2, 1, 3, 3, 2, 3, 1]);
}

#[test]
fn a_request_without_a_key_goes_to_the_fewest_sessions() {
    let pool = pool(hash(), weighted(&[1, 1]));
    let mut sessions: Vec<_> = (0..10).map(|random| choose(&pool, random).unwrap()).collect();
    assert_eq!(sessions.iter().filter(|(port, _)| *port == 1).count(), 5);
    sessions.clear();
}

/// A server at its `max_sessions` or draining gets nothing, and the next one of the policy does.
#[test]
fn full_and_draining_servers_are_passed_over() {
    for balance in every_policy() {
        let mut servers = weighted(&[1, 1, 1]);
        servers[0].max_sessions = NonZeroU32::new(2);
        servers[1].drain = true;
        servers[2].max_sessions = NonZeroU32::new(3);
        let pool = pool(balance.clone(), servers);
        let take = |number| pool.choose(&mut Attempt::new(key(number), number as u64), 0).map(|picked| picked.session);
        let mut sessions: Vec<_> = (0..5).map(|number| take(number).unwrap()).collect();
        assert_eq!(pool.servers().map(Server::sessions).collect::<Vec<_>>(), [2, 0, 3], "{balance:?}");
        assert_eq!(take(5).unwrap_err(), NoServer::Full);
        let labels: Vec<_> = pool.servers().map(|server| pool.condition(server, 0).label()).collect();
        assert_eq!(labels, ["full", "draining", "full"]);
        let freed = port(sessions.pop().unwrap().server());
        assert_eq!(port(take(6).unwrap().server()), freed);
    }
}

/// Requests of several threads never exceed `max_sessions`.
#[test]
fn max_sessions_holds_among_threads() {
    let mut servers = weighted(&[1, 1]);
    for server in &mut servers {
        server.max_sessions = NonZeroU32::new(100);
    }
    let pool = pool(Balance::LeastSessions, servers);
    let sessions: usize = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let pool = &pool;
                scope.spawn(move || (0..100).filter_map(|random| choose(pool, thread << 32 | random).ok()).collect())
            })
            .collect();
        let taken: Vec<Vec<_>> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
        assert_eq!(pool.servers().map(Server::sessions).collect::<Vec<_>>(), [100, 100]);
        taken.iter().map(Vec::len).sum()
    });
    assert_eq!(sessions, 200);
}

#[test]
fn a_server_that_failed_is_tried_last_and_once_again_after_a_while() {
    for balance in every_policy() {
        let pool = pool(balance, weighted(&[1, 1]));
        pool.failed(pool.servers().next().unwrap(), Failure::Connect, 1_000, || true);
        let first = |number: usize, now_ms| order(&pool, Attempt::new(key(number), number as u64), now_ms);
        for number in 0..20 {
            assert_eq!(first(number, 1_000 + SKIP_MS - 1), [2, 1]);
        }
        let again = (0..20).filter(|number| first(*number, 1_000 + SKIP_MS)[0] == 1).count();
        assert!(again <= 1, "{again}");
    }
}

/// An ejected server gets a request only if all others are tried or full.
#[test]
fn an_ejected_server_is_tried_last_of_all() {
    for balance in every_policy() {
        let pool = pool(balance, weighted(&[1, 1, 1]));
        let [first, second, _] = pool.all() else { panic!() };
        for _ in 0..3 {
            pool.failed(first, Failure::Answer, 0, || true);
        }
        pool.failed(second, Failure::Connect, 0, || true);
        for number in 0..20 {
            assert_eq!(order(&pool, Attempt::new(key(number), number as u64), 1), [3, 2, 1]);
        }
        let due = EJECT_FOR.as_millis() as u64;
        let again = (0..30).filter(|number| order(&pool, Attempt::new(key(*number), 0), due)[0] == 1).count();
        assert!(again <= 1, "{again}");
    }
}

/// While an attempt to connect waits, new requests go to other servers long before its timeout.
#[test]
fn a_server_that_lets_a_connection_wait_is_passed_over() {
    for balance in every_policy() {
        // An eighth of a connect_timeout of one second.
        let (pool, suspect_ms) = (pool(balance, weighted(&[1, 1])), 125);
        let waiting = pool.all()[0].health().connecting(1_000);
        let first = |number: usize, now_ms| order(&pool, Attempt::new(key(number), number as u64), now_ms)[0];
        let at_first = |now_ms| (0..40).filter(|number| first(*number, now_ms) == 1).count();
        assert!(at_first(1_000 + suspect_ms - 1) > 10);
        assert_eq!(at_first(1_000 + suspect_ms), 0);
        drop(waiting);
        assert!(at_first(1_000 + suspect_ms) > 10);
    }
}
