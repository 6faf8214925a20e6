//! Tests that the figures of an hour and the last events stay within their limits in allocated bytes.
//!
//! The allocator counts for the whole process, so this binary contains only one test. `--nocapture` shows the sizes.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::alloc::System;
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tollgate::config::{LogConfig, LogFormat, Shown};
use tollgate::policy::rejection::Rejection;
use tollgate::telemetry::events::{EVENTS_MAX, Events};
use tollgate::telemetry::history::{History, SAMPLES_MAX, SERVER_SERIES_MAX, Sample};
use tollgate::telemetry::identity::Identities;
use tollgate::telemetry::metrics::{Family, Kind, Value};
use tollgate::telemetry::rejections::RejectionEvent;
use tollgate::telemetry::request::{RequestId, RequestSummary};
use tollgate::telemetry::trace_context::TraceContext;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KIB: usize = 1024;

/// Returns what `make` returns, and the number of bytes that it keeps allocated.
fn measured<T>(make: impl FnOnce() -> T) -> (T, usize) {
    let allocated = || {
        let stats = ALLOCATOR.stats();
        stats.bytes_allocated - stats.bytes_deallocated
    };
    let before = allocated();
    let made = make();
    (made, allocated() - before)
}

/// An hour of samples of a process with this number of servers, which has two series for each.
fn hour(servers: usize) -> History {
    let family = |name, kind, sample: u64| Family {
        name,
        help: "",
        kind,
        labels: &["upstream", "server"],
        series: (0..servers)
            .map(|server| {
                (vec!["chat".to_owned(), format!("10.0.{}.{}:9001", server / 256, server % 256)], Value::Count(sample))
            })
            .collect(),
    };
    let mut history = History::default();
    for sample in 1..=2 * SAMPLES_MAX as u64 {
        let families = [
            family("tollgate_upstream_sessions", Kind::Gauge, sample),
            family("tollgate_upstream_connect_failures_total", Kind::Counter, sample),
        ];
        history.push(&Sample::new(sample as f64 * 10.0, &families));
    }
    history
}

/// The events of `rejected` requests, whose texts have this length or are cut.
fn events(rejected: usize, length: usize) -> Events {
    let log = LogConfig {
        format: LogFormat::Json,
        level: tracing::Level::INFO,
        session_start: tracing::Level::DEBUG,
        subject: Shown::Plain,
        address: Shown::Plain,
        slow_upgrade: None,
    };
    let (events, identities, text) = (Events::new(true), Identities::new(&log, [0; 32]), "x".repeat(length));
    let trace = TraceContext::of_request(&http::HeaderMap::new(), || [1; 16]).trace_id();
    for id in 0..rejected as u128 {
        let event = RejectionEvent {
            summary: RequestSummary::new(trace, Some(&text), Some(&text), Some(&text)),
            route: Some(&text),
            auth: Some(&text),
            subject: Some(&text),
            claim: Some(&text),
            upstream: Some(&text),
            server: Some(&text),
            detail: Some(&text),
            ..RejectionEvent::new(Rejection::Origin, RequestId(id), "192.0.2.7".parse().unwrap())
        };
        events.push_rejection(&event, &identities, Some(Duration::from_secs(1_800_000_000)));
    }
    events
}

#[test]
fn the_memory_of_the_history_and_of_the_events_is_bounded() {
    let (_history, usual) = measured(|| hour(25));
    let (_history, most) = measured(|| hour(2 * SERVER_SERIES_MAX));
    println!("an hour of 50 series: {} KiB, of as many as possible: {} KiB", usual / KIB, most / KIB);
    assert!(usual < 200 * KIB, "{usual}");
    assert!(most < 1650 * KIB, "{most}");

    let (_events, usual) = measured(|| events(EVENTS_MAX, 16));
    let (_events, most) = measured(|| events(3 * EVENTS_MAX, 5000));
    println!("{EVENTS_MAX} events of 16 bytes each: {} KiB, of texts that are cut: {} KiB", usual / KIB, most / KIB);
    assert!(usual < 700 * KIB, "{usual}");
    assert!(most < 3300 * KIB, "{most}");
}
