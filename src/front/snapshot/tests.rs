//! Tests of `snapshot`: the parts that a new snapshot keeps, and swaps while requests are admitted.

mod auths;
mod readmit;
mod recheck;
mod refresh;
mod session_limits;
mod shared_slots;

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderMap;

use super::*;
use crate::config::tests::InMemory;
use crate::front::gateway::Gateway;
use crate::policy::admission::{Admission, Clocks};
use crate::policy::forwarded::Scheme;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::request::{RequestFacts, RequestKind};
use crate::relay::Process;
use crate::relay::early_ends::EarlyEnds;
use crate::relay::workers::Workers;
use crate::runtime::clock;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::PendingLimit;
use crate::runtime::request_limit::RequestLimit;
use crate::telemetry::events::Events;
use crate::telemetry::identity::Identities;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::metrics::gauges::Gauges;
use crate::telemetry::sessions::Sessions;
use crate::upstream::Connector;

/// Returns the configuration of the tests with these replacements.
fn config(files: &InMemory, replacements: &[(&str, &str)]) -> Config {
    let mut text = r#"
        [server]
        upgrade_rate = "3/h"
        upgrade_burst = 3
        [[listener]]
        address = "127.0.0.1:443"
        certificates = [{ chain = "chain.pem", key = "key.pem" }]
        [auth.users]
        secret_file = "secret"
        algorithms = ["HS256"]
        [upstream.blue]
        servers = ["127.0.0.1:9001"]
        [upstream.green]
        servers = ["127.0.0.1:9002"]
        [[route]]
        name = "chat"
        path = "/chat"
        upstream = "blue"
        auth = "none"
        [route.limits]
        sessions_per_address = 2
        [[route]]
        name = "feed"
        path = "/feed"
        upstream = "green"
        auth = "users"
    "#
    .to_owned();
    for (from, to) in replacements {
        assert!(text.contains(from), "{from}");
        text = text.replacen(from, to, 1);
    }
    crate::config::parse(&text, Path::new("tollgate.toml"), Path::new(""), files)
        .unwrap_or_else(|report| panic!("{report}"))
}

/// Returns a gateway with the first snapshot of a configuration.
fn gateway(config: &Config) -> Gateway {
    let counters = Arc::default();
    let snapshot = build(None, config, &counters);
    let process = Process {
        lifecycle: Lifecycle::new(Duration::from_secs(1)),
        sessions: Sessions::new(&config.log, Identities::new(&config.log, [0; 32])),
        metrics: Arc::new(Metrics::new(Duration::ZERO)),
        events: Events::new(false),
        early_ends: EarlyEnds::default(),
    };
    let (workers, _) = Workers::new(0);
    let connector = Connector::new(clock::now);
    Gateway::new(
        snapshot,
        (counters, KeySets::new(clock::now), Arc::default()),
        connector,
        Arc::new(process),
        (PendingLimit::new(1, None), RequestLimit::new(NonZeroU32::MIN, false)),
        workers,
    )
}

fn build(before: Option<&Snapshot>, config: &Config, counters: &Arc<Counters>) -> Snapshot {
    let context = SnapshotContext {
        addresses: &[config.listeners[0].address.clone()],
        max_sessions: NonZeroU32::new(1_000).unwrap(),
        counters,
        key_sets: &KeySets::new(clock::now),
        acme: &Arc::default(),
        now: clock::now(),
    };
    match before {
        Some(before) => before.next(config, context).unwrap(),
        None => Snapshot::new(config, context).unwrap(),
    }
}

fn built(before: &Snapshot, config: &Config, counters: &Arc<Counters>) -> Result<Snapshot, rustls::Error> {
    Ok(build(Some(before), config, counters))
}

fn admit(snapshot: &Snapshot, path: &str, address: IpAddr) -> Result<Admission, Rejected> {
    let facts = RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "localhost",
        path,
        query: None,
        origin: None,
        headers: &HeaderMap::new(),
        protocols: &[],
        address,
        scheme: Scheme::Https,
        id: 1,
    };
    snapshot.policy().admit(&facts, Clocks { instant: clock::now(), unix: Duration::from_secs(1_800_000_000) })
}

const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

fn route<'a>(snapshot: &'a Snapshot, name: &str) -> &'a Arc<Route> {
    snapshot.policy().routes().iter().find(|route| **route.name() == *name).unwrap()
}

#[test]
fn the_next_snapshot_keeps_exactly_what_is_unchanged() {
    let (files, counters) = (InMemory::new(), Arc::default());
    let first = build(None, &config(&files, &[]), &counters);
    let listener = &ListenAddress::Tcp("127.0.0.1:443".parse().unwrap());
    // The replacement, and whether both pools, the verifier, both routes and the listener are kept.
    let table: &[(&str, &str, [bool; 6])] = &[
        ("[server]", "[server]", [true; 6]),
        ("127.0.0.1:9001", "127.0.0.1:9003", [false, true, true, false, true, true]),
        ("\"secret\"", "\"other\"", [true, true, false, true, false, true]),
        ("sessions_per_address = 2", "sessions_per_address = 3", [true, true, true, false, true, true]),
        ("upstream = \"blue\"", "upstream = \"green\"", [true, true, true, false, true, true]),
        ("path = \"/feed\"", "path = \"/news\"", [true, true, true, true, false, true]),
        ("[[listener]]", "[[listener]]\nhandshake_timeout = \"5s\"", [true, true, true, true, true, false]),
        ("[server]", "[server]\nrecord_layer = \"rustls\"", [true, true, true, true, true, false]),
    ];
    for (from, to, expected) in table {
        let next = build(Some(&first), &config(&files, &[(from, to)]), &counters);
        let kept = [
            Arc::ptr_eq(&first.pools["blue"], &next.pools["blue"]),
            Arc::ptr_eq(&first.pools["green"], &next.pools["green"]),
            Arc::ptr_eq(&first.auths["users"], &next.auths["users"]),
            Arc::ptr_eq(route(&first, "chat"), route(&next, "chat")),
            Arc::ptr_eq(route(&first, "feed"), route(&next, "feed")),
            Arc::ptr_eq(first.connections(listener).unwrap(), next.connections(listener).unwrap()),
        ];
        assert_eq!(kept, *expected, "{from} -> {to}");
        assert_eq!((first.generation(), next.generation()), (1, 2));
    }
}

#[test]
fn equal_files_give_equal_configurations() {
    let files = InMemory::new();
    assert_eq!(config(&files, &[]), config(&files, &[]));
    assert_eq!(config(&files, &[]), config(&files, &[("[server]", "# a comment\n[server]")]));
    for (from, to) in [("\"secret\"", "\"other\""), ("/chat", "/talk"), ("3/h", "4/h"), ("9002", "9003")] {
        assert_ne!(config(&files, &[]), config(&files, &[(from, to)]), "{from}");
    }
    assert_ne!(config(&files, &[]), config(&InMemory::new(), &[]), "the certificate");
}

#[test]
fn counters_outlive_a_snapshot() {
    let (files, now) = (InMemory::new(), clock::now());
    let gateway = gateway(&config(&files, &[]));
    let before = gateway.snapshot();
    let held = admit(&before, "/chat", CLIENT).unwrap();
    for _ in 0..3 {
        before.policy().charge(CLIENT, now).unwrap();
    }
    // A larger burst grants only the difference: used cells are not returned.
    let larger = config(&files, &[("upgrade_burst = 3", "upgrade_burst = 5"), ("9001", "9003")]);
    gateway.update(|before| built(before, &larger, &gateway.counters)).unwrap();
    let after = gateway.snapshot();
    assert!(after.policy().charge(CLIENT, now).is_ok() && after.policy().charge(CLIENT, now).is_ok());
    assert!(matches!(after.policy().charge(CLIENT, now), Err(Rejection::UpgradeRate { .. })));
    // A session of the old snapshot counts towards the limit of the new one.
    let second = admit(&after, "/chat", CLIENT).unwrap();
    assert_eq!(admit(&after, "/chat", CLIENT).unwrap_err().rejection, Rejection::AddressSessions);
    assert_eq!(gateway.counters.sessions(), 2);
    drop(held);
    assert!(admit(&after, "/chat", CLIENT).is_ok());
    drop(second);
    assert_eq!(gateway.counters.sessions(), 0);
}

/// Threads admit requests while the route moves from one upstream to the other and back. Each admission carries the
/// pool of the snapshot that admitted it, and no slot is lost.
#[test]
fn a_swap_under_load_sends_no_request_to_another_upstream_and_loses_no_count() {
    const THREADS: u8 = 4;
    const SWAPS: usize = 300;
    let files = InMemory::new();
    let configs = [config(&files, &[]), config(&files, &[("upstream = \"blue\"", "upstream = \"green\"")])];
    let gateway = gateway(&configs[0]);
    let (is_over, admitted) = (AtomicBool::new(false), [const { AtomicUsize::new(0) }; 2]);
    let generations = std::sync::Mutex::new(std::collections::BTreeSet::new());
    std::thread::scope(|scope| {
        for thread in 1..=THREADS {
            let (gateway, is_over, admitted, generations) = (&gateway, &is_over, &admitted, &generations);
            scope.spawn(move || {
                let client = IpAddr::from([192, 0, 2, thread]);
                let mut held: Vec<Admission> = Vec::new();
                while !is_over.load(Ordering::Relaxed) {
                    let snapshot = gateway.snapshot();
                    // Odd generations have the first configuration.
                    let upstream = usize::from(snapshot.generation() % 2 == 0);
                    // Another snapshot may replace this one now.
                    std::thread::yield_now();
                    match admit(&snapshot, "/chat", client) {
                        Ok(admission) => {
                            assert_eq!(&*admission.pool().config().name, ["blue", "green"][upstream]);
                            admitted[upstream].fetch_add(1, Ordering::Relaxed);
                            generations.lock().unwrap().insert(snapshot.generation());
                            held.push(admission);
                            assert!(held.len() <= 2, "the limit holds over all snapshots");
                        }
                        Err(rejected) => {
                            assert_eq!(rejected.rejection, Rejection::AddressSessions);
                            assert_eq!(held.len(), 2);
                            held.remove(0);
                        }
                    }
                }
            });
        }
        for swap in 1..=SWAPS {
            gateway.update(|before| built(before, &configs[swap % 2], &gateway.counters)).unwrap();
            // Wait until the snapshot has admitted a request, so that every swap happens under load.
            let until = clock::now() + Duration::from_secs(60);
            while !generations.lock().unwrap().contains(&(swap as u64 + 1)) {
                if clock::now() > until {
                    is_over.store(true, Ordering::Relaxed);
                    panic!("no request was admitted by snapshot {swap}");
                }
                std::thread::yield_now();
            }
        }
        is_over.store(true, Ordering::Relaxed);
    });
    assert!(admitted.iter().all(|admitted| admitted.load(Ordering::Relaxed) >= SWAPS / 2));
    assert_eq!(gateway.counters.sessions(), 0);
    assert_eq!(gateway.snapshot().generation(), SWAPS as u64 + 1);
    assert!((1..=THREADS).all(|thread| {
        let client = IpAddr::from([192, 0, 2, thread]);
        let two = [0, 1].map(|_| admit(&gateway.snapshot(), "/chat", client).unwrap());
        two.len() == 2
    }));
}

/// A client can choose `Origin`, so a session keeps a bounded part of it.
#[test]
fn a_session_keeps_a_bounded_part_of_the_request() {
    let room = config(&InMemory::new(), &[("path = \"/chat\"", "path = \"/{room}\"")]);
    let snapshot = build(None, &room, &Arc::default());
    let origin = vec![b'x'; 60_000];
    let facts = RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "LOCALHOST:443",
        path: "/blue",
        query: Some("token=secret"),
        origin: Some(&origin),
        headers: &HeaderMap::new(),
        protocols: &[],
        address: CLIENT,
        scheme: Scheme::Https,
        id: 1,
    };
    let clocks = Clocks { instant: clock::now(), unix: Duration::from_secs(1_800_000_000) };
    let admission = snapshot.policy().admit(&facts, clocks).unwrap();
    let grant = admission.grant();
    assert_eq!((&*grant.host, grant.params.get("room"), grant.address), ("localhost", Some("blue"), CLIENT));
    assert_eq!(grant.origin.as_ref().map(|origin| origin.len()), Some(512));
}

#[test]
fn an_update_drops_the_metrics_of_routes_that_are_gone() {
    let files = InMemory::new();
    let config = config(&files, &[]);
    let gateway = gateway(&config);
    let worker = gateway.process.metrics.worker();
    for route in ["chat", "feed"] {
        worker.count_upgrade(route, "origin");
    }
    let renamed = self::config(&files, &[("name = \"feed\"", "name = \"news\"")]);
    gateway.update(|before| built(before, &renamed, &gateway.counters)).unwrap();
    let text = gateway.process.metrics.encode(&Gauges::default());
    assert_eq!(["chat", "feed"].map(|route| text.contains(&format!("route=\"{route}\""))), [true, false], "{text}");
}

#[test]
fn no_session_is_admitted_while_memory_is_short() {
    let files = InMemory::new();
    let gateway = gateway(&config(&files, &[]));
    let admit = || admit(&gateway.snapshot(), "/chat", Ipv4Addr::LOCALHOST.into());
    let held = admit().unwrap();
    gateway.counters.set_short_of_memory(true);
    assert_eq!(admit().unwrap_err().rejection, Rejection::Memory);
    assert_eq!(gateway.counters.sessions(), 1);
    gateway.counters.set_short_of_memory(false);
    assert!(admit().is_ok());
    drop(held);
}
