use std::collections::BTreeSet;

use proptest::prelude::*;

use super::cells::{Cell, Histogram, SESSION_BOUNDS, UPGRADE_BOUNDS};
use super::gauges::{
    AcmeGauges, CertificateGauges, ClusterGauges, DiscoveryGauges, ForwardAuthGauges, KeySetGauges, RouteGauges,
    ServerGauges, UpstreamGauges,
};
use super::labels::{self, CODES, ConnectionState, HandshakeOutcome, TlsVersion};
use super::worker::{RENEWED, SessionMetrics, WorkerMetrics};
use super::*;
use crate::policy::forward::AuthOutcome;
use crate::policy::limits::{LimitAction, LimitKind, OnExcess};
use crate::session::{AdmissionRule, CloseReason, ClosedBy, DirectionStats, Outcome, SessionStats, Side};
use crate::ws::code::CloseCode;
use crate::ws::violation::Violation;

/// Opens a session on the server `a:1` of the upstream `up`.
fn open(worker: &WorkerMetrics, route: &str) -> SessionMetrics {
    let target = [route, "up", "a:1"].map(Arc::from);
    let mut connection = worker.connection();
    connection.enter(ConnectionState::Session);
    worker.open_session(connection, target, Duration::from_millis(3), &SessionStats::default())
}

fn stats(messages: [u64; 2], bytes: [u64; 2], throttled: u64) -> SessionStats {
    let of = |direction: usize| DirectionStats { messages: messages[direction], bytes: bytes[direction] };
    SessionStats { client: of(0), upstream: of(1), throttled }
}

fn outcome(code: Option<u16>, by: ClosedBy, cause: CloseReason) -> Outcome {
    Outcome { by, code: code.map(CloseCode), cause }
}

/// Returns the text without the figures of the process, which change.
fn text(metrics: &Metrics, gauges: &Gauges) -> String {
    metrics.encode_with(gauges, ProcessFigures::default())
}

/// Returns the value of the series in a text, if it has the series.
fn value(text: &str, series: &str) -> Option<f64> {
    let mut found = text.lines().filter_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
    let value = found.next();
    assert!(found.next().is_none(), "{series} is there twice");
    value
}

/// Returns the sums without dropping any series.
fn merged(metrics: &Metrics) -> Merged {
    let mut merged = Merged::default();
    lock(&metrics.workers).iter().for_each(|worker| merged.add(worker));
    merged
}

/// The whole text of a small process. `promtool check metrics` accepts it.
#[test]
fn the_text_of_a_process_is_exact() {
    let metrics = Metrics::new(Duration::from_millis(1_700_000_000_500));
    let worker = metrics.worker();
    worker.count_handshake(HandshakeOutcome::Completed { version: TlsVersion::Tls13, resumed: true });
    worker.count_handshake(HandshakeOutcome::TimedOut);
    worker.count_upgrade("", "no_route");
    worker.count_refresh("chat", RENEWED);
    worker.count_refresh("chat", "token");
    worker.count_http_rejection("chat", "body_too_large");
    let mut session = open(&worker, "chat");
    session.count(&stats([3, 1], [60, 20], 2), OnExcess::Drop);
    session.count_dropped(3);
    session.count_send_failures(1);
    session.count_reported(LimitKind::MessageRate, LimitAction::Drop, 4);
    session.count_reported(LimitKind::SessionsPerSubject, LimitAction::CloseOldest, 1);
    let mut ended = open(&worker, "chat");
    ended.end(&outcome(Some(4321), ClosedBy::Client, CloseReason::Closed), Duration::from_millis(1500));
    metrics.count_reload(ReloadOutcome::Failure, Duration::from_secs(1_700_000_060));
    metrics.count_failed_handover(0);
    let totals = HandoverTotals { moved: 40, drained: 2, failed: 1, ..HandoverTotals::default() };
    metrics.count_handover(&HandoverTotals { longest_pause: Duration::from_millis(12), ..totals });
    let server = |server: &str, connect_failures| ServerGauges {
        upstream: "up".into(),
        server: server.into(),
        connect_failures,
        healthy: connect_failures == 0,
        checks: [12, connect_failures],
    };
    let certificate =
        |expires| CertificateGauges { name: "chat.example.com".to_owned(), expires: Duration::from_secs(expires) };
    let keys = |auth: &str, age: Option<u64>| KeySetGauges {
        auth: auth.into(),
        age: age.map(Duration::from_secs),
        usable: age.is_some(),
        succeeded: age.map_or(0, |_| 12),
        failed: 3,
    };
    let gauges = Gauges {
        config_generation: 1,
        certificates: vec![certificate(1_800_000_000), certificate(1_790_000_000)],
        acmes: vec![AcmeGauges {
            acme: "ca".into(),
            names: vec![("a.example.com".into(), true), ("b.example.com".into(), false)],
            issued: 3,
            failed: 2,
        }],
        cluster: Some(ClusterGauges {
            is_up: true,
            nodes: 3,
            requests: [("answered", 40), ("late", 2), ("refused", 1), ("away", 3)],
            leases: 5,
            events: [("sent", 9), ("failed", 1), ("received", 20), ("expired", 2), ("unknown", 0)],
        }),
        routes: vec![RouteGauges { route: "idle".into(), upstream: "up".into() }],
        upstreams: vec![UpstreamGauges { upstream: "up".into(), queued: 3 }],
        servers: vec![server("a:1", 0), server("b:1", 7)],
        discoveries: vec![DiscoveryGauges { upstream: "up".into(), servers: 2, failures: 4 }],
        revocations: 3,
        revocations_refused: 2,
        key_sets: vec![keys("users", Some(90)), keys("visitors", None)],
        forward_auths: vec![ForwardAuthGauges {
            auth: "sso".into(),
            outcomes: [
                (AuthOutcome::Admitted, 20),
                (AuthOutcome::Rejected, 2),
                (AuthOutcome::Unavailable, 1),
                (AuthOutcome::Reused, 30),
            ],
        }],
        log_lines_dropped: 5,
    };
    let figures =
        ProcessFigures { cpu_seconds: Some(0.25), resident_bytes: Some(4096), open_fds: Some(9), max_fds: None };
    let text = metrics.encode_with(&gauges, figures);
    assert_eq!(text, include_str!("example.txt").replace("@VERSION@", env!("CARGO_PKG_VERSION")));
}

#[test]
fn every_series_has_a_value_for_each_label_and_every_name_its_unit() {
    let names: BTreeSet<_> = TABLE.iter().map(|definition| definition.name).collect();
    assert_eq!(names.len(), TABLE.len(), "a name is there twice");
    let metrics = Metrics::new(Duration::ZERO);
    let _session = open(&metrics.worker(), "chat");
    let (merged, gauges, reloads) = (merged(&metrics), Gauges::default(), *lock(&metrics.reloads));
    let handovers = metrics.handovers();
    let process = ProcessFigures::read();
    let scrape = Scrape { merged: &merged, gauges: &gauges, reloads, handovers, process, started: Duration::ZERO };
    for definition in TABLE {
        let name = definition.name;
        let family = definition.family(&scrape);
        assert!(family.series.iter().all(|(values, _)| values.len() == definition.labels.len()), "{name}");
        assert_eq!(name.ends_with("_total"), definition.kind == Kind::Counter, "{name}");
        assert!(definition.unit.is_none_or(|unit| name.contains(unit.label())), "{name}");
        assert!(name.starts_with("tollgate_") || name.starts_with("process_"), "{name}");
        assert!(!definition.help.contains('\n') && !definition.help.ends_with('.'), "{name}");
    }
}

#[test]
fn no_counter_doubles_its_suffix() {
    let metrics = Metrics::new(Duration::ZERO);
    let _session = open(&metrics.worker(), "chat");
    let text = text(&metrics, &Gauges::default());
    assert!(!text.contains("_total_total"), "{text}");
    assert_eq!(value(&text, "tollgate_messages_total{route=\"chat\",direction=\"in\"}"), Some(0.0));
}

#[test]
fn label_values_are_escaped() {
    let metrics = Metrics::new(Duration::ZERO);
    let _session = open(&metrics.worker(), "a\"b\\c\nd");
    let text = text(&metrics, &Gauges::default());
    assert_eq!(value(&text, "tollgate_sessions{route=\"a\\\"b\\\\c\\nd\",upstream=\"up\"}"), Some(1.0), "{text}");
}

#[test]
fn every_cause_of_an_end_has_a_label_of_its_own() {
    let labels: BTreeSet<_> = labels::CAUSES.into_iter().collect();
    assert_eq!(labels.len(), labels::CAUSES.len());
    let of_side = |side| {
        let violation = CloseReason::Violation(side, Violation::TextNotUtf8);
        let [rate, pong] = [CloseReason::ByteRate(side), CloseReason::NoPong(side)];
        [violation, rate, pong, CloseReason::Disconnected(side), CloseReason::WriteStall(side)]
    };
    let others = [
        CloseReason::Closed,
        CloseReason::MessageRate,
        CloseReason::OverheadRate,
        CloseReason::TokenExpired,
        CloseReason::MaxAge,
        CloseReason::IdleTimeout,
        CloseReason::Drain,
        CloseReason::SlowClient,
        CloseReason::Command,
        CloseReason::Revoked,
        CloseReason::Replaced,
        CloseReason::NotAdmitted(AdmissionRule::Origin),
        CloseReason::Removed,
        CloseReason::ServerDrain,
        CloseReason::Rebalance,
        CloseReason::Aborted,
    ];
    let all = [Side::Client, Side::Upstream].into_iter().flat_map(of_side).chain(others);
    let found: BTreeSet<_> = all.map(|reason| labels::CAUSES[labels::cause(reason).unwrap()]).collect();
    assert_eq!(found, labels, "this list or the labels lack a cause");
}

/// A client may choose any code from 3000 to 4999. Codes that it must not send never get here, but would have one
/// value, too.
#[test]
fn the_codes_of_clients_have_a_bounded_set_of_values() {
    let label = |code, cause| CODES[labels::code(&outcome(code, ClosedBy::Client, cause))];
    let labels: BTreeSet<_> = (0..=u16::MAX).map(|code| label(Some(code), CloseReason::Closed)).collect();
    assert!(labels.len() <= CODES.len(), "{labels:?}");
    for (code, expected) in
        [(1000, "1000"), (1014, "1014"), (2999, "none"), (3000, "3xxx"), (3999, "3xxx"), (4000, "4xxx"), (4999, "4xxx")]
    {
        assert_eq!(label(Some(code), CloseReason::Closed), expected);
    }
    assert_eq!(label(None, CloseReason::Closed), "none");
    assert_eq!(label(None, CloseReason::Aborted), "1006");
    for code in (0..=u16::MAX).map(CloseCode).filter(|code| code.may_be_sent() && code.0 < 3000) {
        assert_eq!(label(Some(code.0), CloseReason::Closed), code.to_string());
    }
}

#[test]
fn series_of_routes_that_are_not_configured_are_dropped_once_they_have_no_sessions() {
    let metrics = Metrics::new(Duration::ZERO);
    let worker = metrics.worker();
    let (mut old, kept) = (open(&worker, "old"), open(&worker, "kept"));
    drop(open(&worker, "unused"));
    worker.count_upgrade("", "no_route");
    metrics.retain([Arc::from("kept")]);
    let names = |metrics: &Metrics| {
        let text = text(metrics, &Gauges::default());
        ["", "old", "kept", "unused"].map(|route| text.contains(&format!("route=\"{route}\"")))
    };
    assert_eq!(names(&metrics), [true, true, true, false]);
    // The messages of an open session are still counted.
    old.count(&stats([1, 0], [6, 0], 0), OnExcess::Close);
    let bytes = "tollgate_bytes_total{route=\"old\",direction=\"in\"}";
    assert_eq!(value(&text(&metrics, &Gauges::default()), bytes), Some(6.0));
    drop(old);
    assert_eq!(names(&metrics), [true, false, true, false]);
    // A request that loaded its snapshot before the reload adds a series again, for one scrape at most.
    worker.count_upgrade("old", "origin");
    assert_eq!(names(&metrics), [true, false, true, false]);
    drop(kept);
    assert_eq!(names(&metrics), [true, false, true, false], "a configured route keeps its series");
}

/// Servers may change with each reload.
#[test]
fn servers_without_sessions_have_series_only_while_they_are_configured() {
    let metrics = Metrics::new(Duration::ZERO);
    let worker = metrics.worker();
    drop(open(&worker, "chat"));
    let count = |gauges: &Gauges| {
        let text = text(&metrics, gauges);
        text.lines().filter(|line| line.starts_with("tollgate_upstream_sessions{")).count()
    };
    assert_eq!(count(&Gauges::default()), 0);
    let server = ServerGauges {
        upstream: "up".into(),
        server: "a:1".into(),
        connect_failures: 0,
        healthy: true,
        checks: [0, 0],
    };
    let gauges = Gauges { servers: vec![server], ..Gauges::default() };
    assert_eq!(count(&gauges), 1);
    let _session = open(&worker, "chat");
    assert_eq!((count(&gauges), count(&Gauges::default())), (1, 1));
}

#[test]
fn a_connection_is_in_one_state_at_a_time() {
    let metrics = Metrics::new(Duration::ZERO);
    let (worker, other) = (metrics.worker(), metrics.worker());
    let mut connection = worker.connection();
    let _other = other.connection();
    assert_eq!(merged(&metrics).states, [2, 0, 0, 0, 0]);
    connection.enter(ConnectionState::Request);
    assert_eq!(merged(&metrics).states, [1, 1, 0, 0, 0]);
    connection.enter(ConnectionState::Session);
    let mut session =
        worker.open_session(connection, ["r", "u", "s"].map(Arc::from), Duration::ZERO, &SessionStats::default());
    assert_eq!(merged(&metrics).states, [1, 0, 1, 0, 0]);
    session.end(&outcome(None, ClosedBy::Tollgate, CloseReason::Aborted), Duration::ZERO);
    assert_eq!(merged(&metrics).states, [1, 0, 0, 1, 0]);
    assert_eq!(merged(&metrics).sessions.values().sum::<u64>(), 0);
    drop(session);
    assert_eq!(merged(&metrics).states, [1, 0, 0, 0, 0]);
}

/// The worker of a session that is dropped without an end, as by a process that is aborted, no longer counts it.
#[test]
fn a_dropped_session_is_not_open() {
    let metrics = Metrics::new(Duration::ZERO);
    drop(open(&metrics.worker(), "chat"));
    let merged = merged(&metrics);
    assert_eq!((merged.states, merged.sessions.values().sum::<u64>()), ([0; 5], 0));
    assert!(merged.routes.values().flat_map(|route| route.closes.as_flattened()).all(|count| *count == 0));
}

#[test]
fn the_traffic_of_a_session_from_before_is_not_counted() {
    let metrics = Metrics::new(Duration::ZERO);
    let worker = metrics.worker();
    let before = stats([u64::from(u32::MAX), 5], [u64::MAX - 1, 10], 1);
    let target = ["chat", "up", "a:1"].map(Arc::from);
    let mut session = worker.open_session(worker.connection(), target, Duration::ZERO, &before);
    let now = stats([u64::from(u32::MAX) + 2, 5], [u64::MAX, 30], 1);
    session.count(&now, OnExcess::Close);
    session.count(&now, OnExcess::Close);
    let merged = merged(&metrics);
    let values = &merged.routes["chat"];
    assert_eq!((values.messages, values.bytes, values.throttled), ([2, 0], [1, 20], [0; 3]));
}

#[test]
fn reloads_set_the_time_of_the_last_success() {
    let metrics = Metrics::new(Duration::from_secs(100));
    let read = |metrics: &Metrics| {
        let text = text(metrics, &Gauges::default());
        ["reloads_total{outcome=\"success\"}", "reloads_total{outcome=\"failure\"}", "config_last_reload_successful"]
            .into_iter()
            .chain(["config_last_reload_success_timestamp_seconds"])
            .map(|name| value(&text, &format!("tollgate_{name}")).unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!(read(&metrics), [0.0, 0.0, 1.0, 100.0]);
    metrics.count_reload(ReloadOutcome::Success, Duration::from_secs(200));
    assert_eq!(read(&metrics), [1.0, 0.0, 1.0, 200.0]);
    metrics.count_reload(ReloadOutcome::Failure, Duration::from_secs(300));
    assert_eq!(read(&metrics), [1.0, 1.0, 0.0, 200.0]);
}

#[test]
fn the_counts_of_handovers_continue_in_the_next_process() {
    let (before, after) = (Metrics::new(Duration::ZERO), Metrics::new(Duration::ZERO));
    let totals = |moved, pause| HandoverTotals {
        moved,
        longest_pause: Duration::from_millis(pause),
        ..HandoverTotals::default()
    };
    before.count_handover(&totals(3, 90));
    before.count_failed_handover(0);
    after.continue_handovers(before.handovers());
    after.count_handover(&totals(4, 20));
    let text = text(&after, &Gauges::default());
    for (series, expected) in [
        ("handovers_total{outcome=\"success\"}", 2.0),
        ("handovers_total{outcome=\"failure\"}", 1.0),
        ("handover_sessions_total{outcome=\"moved\"}", 7.0),
        ("handover_pause_seconds", 0.02),
    ] {
        assert_eq!(value(&text, &format!("tollgate_{series}")), Some(expected), "{series}");
    }
}

#[test]
fn a_value_is_in_the_first_bucket_whose_bound_is_not_below_it() {
    for bounds in [&UPGRADE_BOUNDS, &SESSION_BOUNDS] {
        assert!(bounds.is_sorted_by(|a, b| a < b));
        for (bucket, bound) in bounds.iter().enumerate() {
            let histogram = Histogram::<Cell>::default();
            histogram.observe(*bound, bounds);
            histogram.observe(*bound + Duration::from_nanos(1), bounds);
            let filled: Vec<_> = (0..).zip(&histogram.buckets).filter(|(_, cell)| cell.get() == 1).collect();
            assert_eq!(filled.iter().map(|(at, _)| *at).collect::<Vec<_>>(), [bucket, bucket + 1]);
        }
    }
}

#[test]
fn errors_of_handshakes_have_an_outcome() {
    use std::io::{Error, ErrorKind};
    for (kind, expected) in [
        (ErrorKind::InvalidData, HandshakeOutcome::Failed),
        (ErrorKind::Other, HandshakeOutcome::Failed),
        (ErrorKind::UnexpectedEof, HandshakeOutcome::Disconnected),
        (ErrorKind::ConnectionReset, HandshakeOutcome::Disconnected),
    ] {
        assert_eq!(HandshakeOutcome::from(&Error::from(kind)), expected, "{kind}");
    }
}

/// The counts of one worker.
#[derive(Debug, Clone)]
enum Event {
    Traffic { messages: [u64; 2], bytes: [u64; 2], throttled: u64 },
    End { code: u16, millis: u64 },
    Reject,
}

fn event() -> impl Strategy<Value = Event> {
    let pair = |max: u64| [0..max, 0..max];
    prop_oneof![
        (pair(1000), pair(1 << 31), 0..3_u64).prop_map(|(messages, bytes, throttled)| Event::Traffic {
            messages,
            bytes,
            throttled
        }),
        (1000..5000_u16, 0..400_000_000_u64).prop_map(|(code, millis)| Event::End { code, millis }),
        Just(Event::Reject),
    ]
}

proptest! {
    /// The sums do not depend on the worker that counts an event.
    #[test]
    fn merged_values_are_those_of_one_worker(events in proptest::collection::vec((0..3_usize, 0..2_usize, event()), 0..60)) {
        let (many, one) = (Metrics::new(Duration::ZERO), Metrics::new(Duration::ZERO));
        let workers: Vec<_> = (0..3).map(|_| many.worker()).collect();
        let single = one.worker();
        let (mut messages, mut rejected, mut ended) = (0, 0, 0);
        for (worker, route, event) in events {
            let route = ["chat", "feed"][route];
            for worker in [&workers[worker], &single] {
                match &event {
                    Event::Traffic { messages, bytes, throttled } => {
                        let total = stats(*messages, *bytes, *throttled);
                        let mut session = open(worker, route);
                        session.count(&stats(messages.map(|n| n / 2), bytes.map(|n| n / 3), 0), OnExcess::Delay);
                        session.count(&total, OnExcess::Delay);
                    }
                    Event::End { code, millis } => {
                        let cause = CloseReason::Disconnected(Side::Client);
                        let ended = outcome(Some(*code), ClosedBy::Upstream, cause);
                        open(worker, route).end(&ended, Duration::from_millis(*millis));
                    }
                    Event::Reject => worker.count_upgrade(route, "origin"),
                }
            }
            match event {
                Event::Traffic { messages: added, .. } => messages += added.iter().sum::<u64>(),
                Event::End { .. } => ended += 1,
                Event::Reject => rejected += 1,
            }
        }
        let sums = merged(&many);
        prop_assert_eq!(&sums, &merged(&one));
        let routes = || sums.routes.values();
        prop_assert_eq!(routes().flat_map(|route| route.messages).sum::<u64>(), messages);
        prop_assert_eq!(routes().flat_map(|route| route.closes).flatten().sum::<u64>(), ended);
        prop_assert_eq!(routes().flat_map(|route| route.session_duration.buckets).sum::<u64>(), ended);
        prop_assert_eq!(sums.upgrades.values().filter_map(|outcomes| outcomes.get("origin")).sum::<u64>(), rejected);
        prop_assert_eq!(text(&many, &Gauges::default()), text(&one, &Gauges::default()));
    }
}

/// Returns the lines of a text that start with this.
fn lines<'a>(text: &'a str, start: &str) -> Vec<&'a str> {
    text.lines().filter(|line| line.starts_with(start)).collect()
}

#[test]
fn counters_continue_in_the_process_that_follows_and_gauges_do_not() {
    let moved = |metrics: &Metrics| {
        let bytes = postcard::to_allocvec(&metrics.export(&Gauges::default())).unwrap();
        postcard::from_bytes::<MovedMetrics>(&bytes).unwrap()
    };
    let old = Metrics::new(Duration::ZERO);
    let worker = old.worker();
    let session = open(&worker, "chat");
    worker.count_upgrade("chat", "no_token");
    worker.count_upgrade("gone", "no_token");
    let new = Metrics::new(Duration::ZERO);
    new.retain(["chat".into()]);
    assert_eq!(new.import(moved(&old)), 0);
    let show = |metrics: &Metrics| text(metrics, &Gauges::default());
    let upgrades = |metrics: &Metrics| lines(&show(metrics), "tollgate_upgrades_total{").join("\n");
    assert!(lines(&show(&old), "tollgate_upgrades_total{").len() == 3, "{}", upgrades(&old));
    // The configuration has no route `gone` any more.
    assert_eq!(lines(&show(&new), "tollgate_upgrades_total{").len(), 2, "{}", upgrades(&new));
    let counts = |metrics: &Metrics| lines(&show(metrics), "tollgate_upgrade_duration_seconds_count{").join("\n");
    assert_eq!(counts(&new), counts(&old));
    assert!(lines(&show(&new), "tollgate_sessions{").is_empty());
    // The counts of this process are added, and all of them pass on.
    let (again, third) = (open(&new.worker(), "chat"), Metrics::new(Duration::ZERO));
    third.import(moved(&new));
    assert!(counts(&third).ends_with(" 2"), "{}", counts(&third));
    assert!(upgrades(&third).contains("outcome=\"accepted\"} 2"), "{}", upgrades(&third));
    drop((session, again));
}

#[test]
fn series_that_the_table_does_not_know_are_not_continued() {
    // The form of `MovedSeries`: the metric, the labels, and the kind of its value (0: a count).
    let import = |metric: &str, labels: &[&str], count: u64| {
        let bytes = postcard::to_allocvec(&vec![(metric, labels, (0_u8, count))]).unwrap();
        let metrics = Metrics::new(Duration::ZERO);
        (metrics.import(postcard::from_bytes(&bytes).unwrap()), text(&metrics, &Gauges::default()))
    };
    let (left_out, text) = import("tollgate_upgrades_total", &["chat", "accepted"], 3);
    assert!(left_out == 0 && text.contains("outcome=\"accepted\"} 3"), "{text}");
    let long = "a".repeat(600);
    for (metric, labels) in [
        ("tollgate_upgrades_total", &["chat"][..]),
        ("tollgate_upgrades_total", &["chat", &long]),
        ("tollgate_sessions", &["chat", "up"]),
        ("tollgate_upgrade_duration_seconds", &["chat"]),
        ("process_cpu_seconds_total", &[]),
        ("tollgate_other_total", &[]),
    ] {
        assert_eq!(import(metric, labels, 3).0, 1, "{metric}");
    }
}
