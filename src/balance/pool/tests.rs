use super::super::tests::{choose, config, pool, server, weighted};
use super::super::{Balance, NoServer};
use super::*;

#[test]
fn pending_requests_are_limited_and_released() {
    let pool = pool(Balance::LeastSessions, weighted(&[1]));
    let first = pool.begin_request();
    let second = pool.begin_request();
    assert!(first.is_some() && second.is_some() && pool.begin_request().is_none());
    drop(first);
    assert!(pool.begin_request().is_some());
}

#[test]
fn a_replaced_pool_keeps_the_state_of_its_servers_and_its_pending_requests() {
    let before = pool(Balance::RoundRobin, weighted(&[1, 1]));
    before.servers[0].health().skip(0);
    let pending = before.begin_request();
    let (_, session) = choose(&before, 0).unwrap();
    let servers = weighted(&[1, 7, 1]);
    let after = before.replace(UpstreamConfig { max_pending_requests: 1, ..config(Balance::RoundRobin, servers) });
    let state = |server: &Server| (server.config().weight.get(), server.health().is_healthy(), server.sessions());
    assert_eq!(after.servers().map(state).collect::<Vec<_>>(), [(1, false, 0), (7, true, 1), (1, true, 0)]);
    assert!(after.begin_request().is_none());
    drop((pending, session));
    assert!(after.begin_request().is_some());
    assert_eq!(after.servers().map(Server::sessions).sum::<u32>(), 0);
}

/// A server that leaves the configuration and returns still has the sessions that it had all the time.
#[test]
fn a_server_that_returns_still_counts_its_sessions() {
    let first = pool(Balance::LeastSessions, vec![server(1), server(2)]);
    let sessions: Vec<_> = (0..4).map(|random| choose(&first, random).unwrap()).collect();
    let with = |pool: &Pool, ports: &[u16]| {
        pool.replace(config(Balance::LeastSessions, ports.iter().map(|port| server(*port)).collect()))
    };
    let second = with(&with(&first, &[1]), &[1]);
    assert_eq!(second.removed.len(), 1);
    let third = with(&second, &[2, 1]);
    assert_eq!(third.servers().map(Server::sessions).collect::<Vec<_>>(), [2, 2]);
    assert!(third.removed.is_empty());
    let fourth = with(&third, &[1]);
    drop((first, second, third, sessions));
    assert!(with(&fourth, &[1]).removed.is_empty(), "it has no sessions");
}

#[test]
fn an_upstream_that_is_down_is_reported_once() {
    let pool = pool(Balance::LeastSessions, weighted(&[1]));
    assert!(!pool.report_down(|| false));
    assert!(pool.report_down(|| true) && !pool.report_down(|| true));
    pool.servers().for_each(|server| pool.connected(server));
    assert!(pool.report_down(|| true));
}

#[test]
fn a_pool_without_servers_has_none_to_choose() {
    for balance in [Balance::LeastSessions, Balance::RoundRobin] {
        assert_eq!(choose(&pool(balance, Vec::new()), 0).unwrap_err(), NoServer::AllTried);
    }
}
