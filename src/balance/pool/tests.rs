use super::super::hash::TextHash;
use super::super::tests::{choose, choose_at, config, pool, port, server, weighted};
use super::super::{Attempt, Balance, NoServer, OperatorState};
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
    before.failed(&before.servers[0], Failure::Connect, 0, || true);
    let pending = before.begin_request();
    let (_, session) = choose(&before, 0).unwrap();
    let servers = weighted(&[1, 7, 1]);
    let config = UpstreamConfig { max_pending_requests: 1, ..config(Balance::RoundRobin, servers) };
    let after = before.replace(config, before.started);
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
        pool.replace(config(Balance::LeastSessions, ports.iter().map(|port| server(*port)).collect()), pool.started)
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
    pool.connected(&pool.servers[0], 0);
    assert!(pool.report_down(|| true));
}

/// A server that a reload adds or that drains no more starts slowly; the servers at the start of the process do not.
#[test]
fn new_servers_start_slowly() {
    let draining = |port| ServerConfig { drain: true, ..server(port) };
    let before = pool(Balance::LeastSessions, vec![server(1), draining(2), draining(3)]);
    let after = before.replace(
        config(Balance::LeastSessions, vec![server(1), server(2), draining(3), server(4)]),
        before.started + std::time::Duration::from_secs(60),
    );
    assert_eq!(labels(&before, 60_000), ["up", "draining", "draining"]);
    assert_eq!(labels(&after, 60_000), ["up", "slow start", "draining", "slow start"]);
    assert_eq!(labels(&after, 90_000), ["up", "up", "draining", "up"]);
    // They get a tenth of their weight at first.
    let sessions: Vec<_> = (0..24).map(|random| choose_at(&after, random, 60_000).unwrap()).collect();
    assert_eq!(after.servers().map(Server::sessions).collect::<Vec<_>>(), [20, 2, 0, 2]);
    drop(sessions);
}

/// However many servers fail, half of them stay.
#[test]
fn a_share_of_the_servers_is_never_ejected() {
    for (count, expected) in [(1, 0), (2, 1), (3, 1), (4, 2), (5, 2)] {
        let pool = pool(Balance::LeastSessions, weighted(&vec![1; count]));
        for _ in 0..20 {
            pool.servers().for_each(|server| {
                pool.failed(server, Failure::Answer, 0, || true);
            });
        }
        let count = |label| pool.servers().filter(|server| pool.condition(server, 0).label() == label).count();
        assert_eq!((count("ejected"), count("failing")), (expected, pool.servers().count() - expected));
        let first = pool.servers().next().unwrap();
        first.health().succeed(0, || true);
        assert_eq!(count("ejected"), expected.saturating_sub(1));
    }
}

#[test]
fn a_pool_without_servers_has_none_to_choose() {
    for balance in [Balance::LeastSessions, Balance::RoundRobin] {
        assert_eq!(choose(&pool(balance, Vec::new()), 0).unwrap_err(), NoServer::AllTried);
    }
}

/// A server that drains gets no requests, so its ejection keeps no other server from being ejected.
#[test]
fn servers_that_drain_do_not_count_in_eject_max() {
    let before = pool(Balance::LeastSessions, weighted(&[1, 1, 1]));
    let fail = |pool: &Pool, index: usize| {
        let changes = (0..3).map(|_| pool.failed(&pool.servers[index], Failure::Connect, 0, || true));
        changes.filter(|change| matches!(change, Some(Change::Ejected { .. }))).count() == 1
    };
    assert!(fail(&before, 0));
    assert!(!fail(&before, 1), "of three servers one is ejected");
    let mut servers = weighted(&[1, 1, 1]);
    servers[0].drain = true;
    let after = before.replace(config(Balance::LeastSessions, servers), before.started);
    assert!(fail(&after, 1));
    assert!(!fail(&after, 2), "of two servers that do not drain one is ejected");
}

fn labels(pool: &Pool, now_ms: u64) -> Vec<&'static str> {
    pool.servers().map(|server| pool.condition(server, now_ms).label()).collect()
}

#[test]
fn an_operator_drains_a_server_which_then_starts_slowly() {
    let pool = pool(Balance::LeastSessions, weighted(&[1, 1, 1]));
    let at = |seconds| pool.started + std::time::Duration::from_secs(seconds);
    let set = |index: usize, state, seconds| {
        let change = ServerChange { state: Some(state), weight: None };
        pool.change_server(&pool.servers[index], change, at(seconds));
    };
    set(0, OperatorState::Drain, 1);
    set(1, OperatorState::Down, 1);
    assert_eq!(labels(&pool, 1000), ["draining", "down", "up"]);
    let sessions: Vec<_> = (0..3).map(|random| choose_at(&pool, random, 1000).unwrap().0).collect();
    assert_eq!(sessions, [3, 3, 3]);
    assert_eq!(pool.loads(1000).iter().map(|(server, _)| port(server.name())).collect::<Vec<_>>(), [3]);
    set(0, OperatorState::Ready, 2);
    set(1, OperatorState::Ready, 2);
    set(2, OperatorState::Ready, 2);
    assert_eq!(labels(&pool, 2000), ["slow start", "slow start", "up"]);
    assert_eq!(labels(&pool, 32_000), ["up", "up", "up"]);
}

/// The state that an operator gave a server survives reloads, until one changes this setting or removes the server.
#[test]
fn an_override_lasts_until_the_configuration_changes() {
    let first = pool(Balance::LeastSessions, weighted(&[1, 1]));
    let both = ServerChange { state: Some(OperatorState::Drain), weight: 9.try_into().ok() };
    let (_, session) = choose(&first, 0).unwrap();
    let index = first.servers.iter().position(|server| session.is_of(server)).unwrap();
    first.change_server(&first.servers[index], both, first.started);
    let next = |pool: &Pool, servers: Vec<ServerConfig>| {
        let next = pool.replace(config(Balance::LeastSessions, servers), pool.started);
        next.begin_use();
        next
    };
    let shown = |pool: &Pool| (pool.servers[index].drains(), pool.servers[index].weight());
    let second = next(&first, weighted(&[1, 1, 1]));
    assert_eq!(shown(&second), (true, 9));
    let mut changed = weighted(&[1, 1, 1]);
    changed[index].weight = 2.try_into().unwrap();
    let third = next(&second, changed.clone());
    assert_eq!(shown(&third), (true, 2));
    // A pool that was built and is not used, as in a dry run, ends nothing.
    let unused = third.replace(config(Balance::LeastSessions, weighted(&[7, 7])), third.started);
    drop(unused);
    assert_eq!(shown(&next(&third, changed.clone())), (true, 2));
    let without: Vec<_> = changed.iter().filter(|server| server.address != changed[index].address).cloned().collect();
    let fourth = next(&third, without);
    assert_eq!(fourth.removed().map(|(name, sessions)| (port(&name), sessions)).collect::<Vec<_>>(), [(index + 1, 1)]);
    let fifth = next(&fourth, changed);
    assert_eq!((shown(&fifth), fifth.servers[index].sessions()), ((false, 2), 1));
    drop(session);
    assert_eq!(fourth.removed().count(), 0);
}

/// All choices follow the weight of an operator, also the draw of two from many servers.
#[test]
fn the_weight_of_an_operator_changes_each_choice() {
    let heavy = ServerChange { state: None, weight: 500.try_into().ok() };
    for (balance, count) in [(Balance::LeastSessions, 3), (Balance::LeastSessions, 40), (Balance::RoundRobin, 3)] {
        let pool = pool(balance, weighted(&vec![1; count]));
        pool.change_server(&pool.servers[1], heavy, pool.started);
        let sessions: Vec<_> = (0..100).map(|random| choose(&pool, random).unwrap()).collect();
        let own = sessions.iter().filter(|(port, _)| *port == 2).count();
        assert!(own > 80, "{own} of 100 with {count} servers");
    }
    let balance = Balance::Hash(super::super::HashSource::Subject);
    let pool = pool(balance, weighted(&[1, 1, 1]));
    let of_second = || {
        let keys = (0..300_u32).map(|number| TextHash::of(&number.to_be_bytes()));
        keys.filter(|key| {
            let mut attempt = Attempt::new(Some(*key), 0);
            port(pool.choose(&mut attempt, 0).unwrap().server.name()) == 2
        })
        .count()
    };
    assert!((70..130).contains(&of_second()), "a third");
    pool.change_server(&pool.servers[1], heavy, pool.started);
    assert!(of_second() > 280);
}
