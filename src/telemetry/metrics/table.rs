//! The table of all metrics: the text and the documentation come from it.

use super::acme;
use super::cells::{SESSION_BOUNDS, UPGRADE_BOUNDS};
use super::cluster;
use super::collect::{
    certificates, closes, handshakes, histograms, outcomes, per_route, reported, request_durations, requests,
};
pub use super::definition::{Definition, Unit};
use super::discovery;
use super::labels::{ACTIONS, CAUSES, CODES, DIRECTIONS, STATES};
use super::text::{Kind, Value};
use super::upstreams;

/// All metrics, in the order in which the text shows them.
pub static TABLE: &[Definition] = &[
    Definition {
        name: "tollgate_sessions",
        kind: Kind::Gauge,
        labels: &["route", "upstream"],
        unit: None,
        help: "Open sessions",
        collect: |scrape, samples| {
            let configured = scrape.gauges.routes.iter().map(|route| [&route.route, &route.upstream]);
            samples.with_configured(&scrape.merged.sessions, configured);
        },
    },
    Definition {
        name: "tollgate_upgrades_total",
        kind: Kind::Counter,
        labels: &["route", "outcome"],
        unit: None,
        help: "Upgrades, by outcome: `accepted`, or the cause of the rejection as in the log; and rejected requests that \
               are no upgrade, unless their route has `http = true`. The route is empty if none matched",
        collect: |scrape, samples| outcomes(&scrape.merged.upgrades, samples),
    },
    Definition {
        name: "tollgate_refreshes_total",
        kind: Kind::Counter,
        labels: &["route", "outcome"],
        unit: None,
        help: "Requests at a `refresh_path`, by outcome: `renewed` if at least one session was renewed, `no_session` if \
               there was none to renew, or the cause of the rejection as in the log",
        collect: |scrape, samples| outcomes(&scrape.merged.refreshes, samples),
    },
    Definition {
        name: "tollgate_upgrade_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: Some(Unit::Seconds),
        help: "Time from the request head to the 101, of accepted upgrades",
        collect: |scrape, samples| histograms(scrape, samples, &UPGRADE_BOUNDS, |values| &values.upgrade_duration),
    },
    Definition {
        name: "tollgate_messages_total",
        kind: Kind::Counter,
        labels: &["route", "direction"],
        unit: None,
        help: "Messages forwarded: `in` from clients, `out` to clients",
        collect: |scrape, samples| {
            per_route(scrape, |route, values| samples.counts(route, &DIRECTIONS, &values.messages));
        },
    },
    Definition {
        name: "tollgate_bytes_total",
        kind: Kind::Counter,
        labels: &["route", "direction"],
        unit: Some(Unit::Bytes),
        help: "Bytes of frames forwarded, with headers and control frames: `in` from clients, `out` to clients",
        collect: |scrape, samples| {
            per_route(scrape, |route, values| samples.counts(route, &DIRECTIONS, &values.bytes));
        },
    },
    Definition {
        name: "tollgate_closes_total",
        kind: Kind::Counter,
        labels: &["route", "code", "by"],
        unit: None,
        help: "Sessions that ended, by close code and by the side that ended them (`client`, `upstream`, `tollgate`). \
               `3xxx` and `4xxx` are the codes of applications, `none` is a Close without a code, \
               and `1006` a session that was cut off",
        collect: |scrape, samples| closes(scrape, samples, &CODES, |values| &values.closes),
    },
    Definition {
        name: "tollgate_close_causes_total",
        kind: Kind::Counter,
        labels: &["route", "cause", "by"],
        unit: None,
        help: "The same sessions, by the cause as in the log and by the side that ended them",
        collect: |scrape, samples| closes(scrape, samples, &CAUSES, |values| &values.close_causes),
    },
    Definition {
        name: "tollgate_throttled_total",
        kind: Kind::Counter,
        labels: &["route", "action"],
        unit: None,
        help: "Messages that exceeded `message_rate` and frames that exceeded `byte_rate`, by `on_excess`: `close`, \
               `delay` or `drop`",
        collect: |scrape, samples| {
            per_route(scrape, |route, values| samples.counts(route, &ACTIONS, &values.throttled));
        },
    },
    Definition {
        name: "tollgate_dropped_messages_total",
        kind: Kind::Counter,
        labels: &["route"],
        unit: None,
        help: "Messages of upstreams that were dropped by `on_slow_client = \"drop_oldest\"`; they count as forwarded, too",
        collect: |scrape, samples| per_route(scrape, |route, values| samples.count([route], values.dropped[0])),
    },
    Definition {
        name: "tollgate_reported_limits_total",
        kind: Kind::Counter,
        labels: &["route", "limit", "action"],
        unit: None,
        help: "How often limits with `mode = \"report\"` would have acted, by limit and action: `close`, `delay`, `drop`, \
               `refuse` or `close_oldest`",
        collect: reported,
    },
    Definition {
        name: "tollgate_session_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: Some(Unit::Seconds),
        help: "Time from the 101 to the end of the session",
        collect: |scrape, samples| histograms(scrape, samples, &SESSION_BOUNDS, |values| &values.session_duration),
    },
    Definition {
        name: "tollgate_http_requests_total",
        kind: Kind::Counter,
        labels: &["route", "status"],
        unit: None,
        help: "Ordinary requests at routes with `http = true`, by the status of their responses, Tollgate's own included; \
               a status that is not registered is its class, as `4xx`; with an empty route, those that `redirect` answers",
        collect: requests,
    },
    Definition {
        name: "tollgate_http_rejections_total",
        kind: Kind::Counter,
        labels: &["route", "outcome"],
        unit: None,
        help: "Ordinary requests at routes with `http = true` that Tollgate rejected, by the cause as in the log. They \
               count in `tollgate_http_requests_total`, too, unless the client disconnected before the response",
        collect: |scrape, samples| outcomes(&scrape.merged.http_rejections, samples),
    },
    Definition {
        name: "tollgate_http_request_duration_seconds",
        kind: Kind::Histogram,
        labels: &["route"],
        unit: Some(Unit::Seconds),
        help: "Time from the head of an ordinary request to the end of the upstream's response",
        collect: request_durations,
    },
    Definition {
        name: "tollgate_send_failures_total",
        kind: Kind::Counter,
        labels: &["route"],
        unit: None,
        help: "Messages of operators that were not sent, because the session was closing or its queue was full",
        collect: |scrape, samples| {
            per_route(scrape, |route, values| values.send_failures.iter().for_each(|n| samples.count([route], *n)));
        },
    },
    Definition {
        name: "tollgate_tls_handshakes_total",
        kind: Kind::Counter,
        labels: &["version", "resumed", "outcome"],
        unit: None,
        help: "TLS handshakes, by outcome: `ok`, `failed`, `disconnected` or `timeout`, also while the connection waits \
               for a permit. The version of those that did not succeed is `none`",
        collect: handshakes,
    },
    Definition {
        name: "tollgate_connections",
        kind: Kind::Gauge,
        labels: &["state"],
        unit: None,
        help: "Open connections of clients: `handshake` (also those that wait for a permit), `request`, `session`, \
               `closing`, or `http` with ordinary requests and between them",
        collect: |scrape, samples| {
            let states = STATES.iter().zip(scrape.merged.states);
            states.for_each(|(state, count)| samples.count([state], count));
        },
    },
    upstreams::SESSIONS,
    upstreams::HEALTHY,
    upstreams::QUEUED,
    upstreams::CONNECT_FAILURES,
    upstreams::CHECKS,
    discovery::SERVERS,
    discovery::FAILURES,
    Definition {
        name: "tollgate_reloads_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        unit: None,
        help: "Reloads of the configuration: `success` or `failure`",
        collect: |scrape, samples| {
            samples.count(["success"], scrape.reloads.succeeded);
            samples.count(["failure"], scrape.reloads.failed);
        },
    },
    Definition {
        name: "tollgate_handovers_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        unit: None,
        help: "Upgrades of the program that were tried, by outcome: `success`, or `failure` if this process continued",
        collect: |scrape, samples| {
            let outcomes = ["success", "failure"].into_iter().zip(scrape.handovers.outcomes);
            outcomes.for_each(|(outcome, count)| samples.count([outcome], count));
        },
    },
    Definition {
        name: "tollgate_handover_sessions_total",
        kind: Kind::Counter,
        labels: &["outcome"],
        unit: None,
        help: "Sessions that were open at a handover, by outcome: `moved`, `drained` in the process before, or `failed` if \
               they were lost",
        collect: |scrape, samples| {
            let outcomes = ["moved", "drained", "failed"].into_iter().zip(scrape.handovers.sessions);
            outcomes.for_each(|(outcome, count)| samples.count([outcome], count));
        },
    },
    Definition {
        name: "tollgate_handover_pause_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: Some(Unit::Seconds),
        help: "Longest time for which a session was not served in the last handover; 0 before the first one",
        collect: |scrape, samples| samples.add([], Value::Seconds(scrape.handovers.longest_pause.as_secs_f64())),
    },
    Definition {
        name: "tollgate_config_generation",
        kind: Kind::Gauge,
        labels: &[],
        unit: None,
        help: "The number of the configuration in use: 1 at the start, and one more after each successful reload",
        collect: |scrape, samples| samples.count([], scrape.gauges.config_generation),
    },
    Definition {
        name: "tollgate_config_last_reload_successful",
        kind: Kind::Gauge,
        labels: &[],
        unit: None,
        help: "1 if the last reload succeeded or there was none, else 0",
        collect: |scrape, samples| samples.count([], u64::from(scrape.reloads.last_succeeded)),
    },
    Definition {
        name: "tollgate_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: Some(Unit::Seconds),
        help: "Unix time of the last successful reload, or of the start if there was none",
        collect: |scrape, samples| samples.count([], scrape.reloads.last_success.as_secs()),
    },
    Definition {
        name: "tollgate_revocations",
        kind: Kind::Gauge,
        labels: &[],
        unit: None,
        help: "Revocations in effect, of the admin API, of logouts and of `revocations_file`",
        collect: |scrape, samples| samples.count([], scrape.gauges.revocations),
    },
    Definition {
        name: "tollgate_revocations_refused_total",
        kind: Kind::Counter,
        labels: &[],
        unit: None,
        help: "Revocations that were refused because the store was full",
        collect: |scrape, samples| samples.count([], scrape.gauges.revocations_refused),
    },
    Definition {
        name: "tollgate_key_set_age_seconds",
        kind: Kind::Gauge,
        labels: &["auth"],
        unit: Some(Unit::Seconds),
        help: "Time since the key set of an `[auth]` section was fetched; absent before the first fetch that succeeds",
        collect: |scrape, samples| {
            for set in &scrape.gauges.key_sets {
                set.age.iter().for_each(|age| samples.count([&set.auth], age.as_secs()));
            }
        },
    },
    Definition {
        name: "tollgate_key_set_usable",
        kind: Kind::Gauge,
        labels: &["auth"],
        unit: None,
        help: "1 if the key set of an `[auth]` section verifies tokens, 0 if it was not fetched yet or is older than `keys_stale_for`",
        collect: |scrape, samples| {
            for set in &scrape.gauges.key_sets {
                samples.count([&set.auth], u64::from(set.usable));
            }
        },
    },
    Definition {
        name: "tollgate_key_set_fetches_total",
        kind: Kind::Counter,
        labels: &["auth", "outcome"],
        unit: None,
        help: "Fetches of the key set of an `[auth]` section, by outcome: `success` or `failure`",
        collect: |scrape, samples| {
            for set in &scrape.gauges.key_sets {
                samples.count([&*set.auth, "success"], set.succeeded);
                samples.count([&*set.auth, "failure"], set.failed);
            }
        },
    },
    Definition {
        name: "tollgate_auth_requests_total",
        kind: Kind::Counter,
        labels: &["auth", "outcome"],
        unit: None,
        help: "Questions to the service of an `[auth]` section, also about open sessions, by outcome: `admitted`, \
               `rejected`, `unavailable` (no decision), or `reused` for an earlier answer that was used again",
        collect: |scrape, samples| {
            for section in &scrape.gauges.forward_auths {
                for (outcome, count) in section.outcomes {
                    samples.count([&*section.auth, outcome.label()], count);
                }
            }
        },
    },
    Definition {
        name: "tollgate_certificate_expiry_timestamp_seconds",
        kind: Kind::Gauge,
        labels: &["name"],
        unit: Some(Unit::Seconds),
        help: "Unix time at which the certificate with this first name expires, or the client certificate of the section `upstream.NAME.tls`; of several, the first that does",
        collect: certificates,
    },
    acme::VALID,
    acme::ORDERS,
    cluster::UP,
    cluster::NODES,
    cluster::REQUESTS,
    cluster::LEASES,
    cluster::EVENTS,
    Definition {
        name: "tollgate_log_lines_dropped_total",
        kind: Kind::Counter,
        labels: &[],
        unit: None,
        help: "Log lines that were lost because standard error is not read fast enough",
        collect: |scrape, samples| samples.count([], scrape.gauges.log_lines_dropped),
    },
    Definition {
        name: "tollgate_build_info",
        kind: Kind::Gauge,
        labels: &["version"],
        unit: None,
        help: "1, with the version of this process",
        collect: |_, samples| samples.count([env!("CARGO_PKG_VERSION")], 1),
    },
    Definition {
        name: "process_cpu_seconds_total",
        kind: Kind::Counter,
        labels: &[],
        unit: Some(Unit::Seconds),
        help: "CPU time of the process, user and system",
        collect: |scrape, samples| samples.process(scrape.process.cpu_seconds.map(Value::Seconds)),
    },
    Definition {
        name: "process_resident_memory_bytes",
        kind: Kind::Gauge,
        labels: &[],
        unit: Some(Unit::Bytes),
        help: "Resident memory of the process",
        collect: |scrape, samples| samples.process(scrape.process.resident_bytes.map(Value::Count)),
    },
    Definition {
        name: "process_open_fds",
        kind: Kind::Gauge,
        labels: &[],
        unit: None,
        help: "Open file descriptors of the process",
        collect: |scrape, samples| samples.process(scrape.process.open_fds.map(Value::Count)),
    },
    Definition {
        name: "process_max_fds",
        kind: Kind::Gauge,
        labels: &[],
        unit: None,
        help: "Limit on the open file descriptors of the process",
        collect: |scrape, samples| samples.process(scrape.process.max_fds.map(Value::Count)),
    },
    Definition {
        name: "process_start_time_seconds",
        kind: Kind::Gauge,
        labels: &[],
        unit: Some(Unit::Seconds),
        help: "Unix time at which the process started",
        collect: |scrape, samples| samples.add([], Value::Seconds(scrape.started.as_secs_f64())),
    },
];
