//! Tests of `reload`: the times at which sessions are closed, and the limit on their number.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::closings::{Closing, NOT_ADMITTED};
use super::*;
use crate::policy::quota::Rate;
use crate::policy::recheck::Removed;
use crate::policy::rejection::Rejection;
use crate::policy::route::OnRemoved;
use crate::relay::recheck::Unserved;
use crate::session::CloseReason;

fn report(rejected: u128, drained: u128, closed: u128) -> RecheckReport {
    let removed = |on_removed| move |id| (RequestId(id), Removed::Route, on_removed);
    let drained = (1000..1000 + drained).map(removed(OnRemoved::Drain));
    RecheckReport {
        kept: 10,
        changed: 5,
        rejected: (0..rejected).map(|id| (RequestId(id), Rejection::Claims)).collect(),
        expired: Vec::new(),
        removed: drained.chain((2000..2000 + closed).map(removed(OnRemoved::Close))).collect(),
        unserved: Vec::new(),
    }
}

fn last(closings: &[Closing], start: Instant, cause: CloseReason, ids: std::ops::Range<u128>) -> Duration {
    let of = |(_, id, own): &&Closing| *own == cause && ids.contains(&id.0);
    closings.iter().filter(of).map(|(at, ..)| *at).max().unwrap() - start
}

const RATE: Rate = Rate { count: NonZeroU32::new(100).unwrap(), period: Duration::from_secs(1) };

#[test]
fn closings_are_paced_by_their_cause() {
    let now = Instant::from_std(clock::now());
    let closings = schedule(&report(201, 301, 50), &HashMap::new(), now, RATE, Duration::from_secs(4));
    assert_eq!(closings.len(), 552);
    assert!(closings.is_sorted_by_key(|(at, ..)| *at));
    let last = |cause, ids| last(&closings, now, cause, ids);
    assert_eq!(last(NOT_ADMITTED, 0..1000), Duration::from_secs(2));
    // Three quarters of the drain timeout.
    let drained = last(CloseReason::Removed, 1000..2000);
    assert!((Duration::from_millis(2900)..=Duration::from_secs(3)).contains(&drained), "{drained:?}");
    assert_eq!(last(CloseReason::Removed, 2000..3000), Duration::ZERO);
}

/// A further reload neither postpones the end of a session nor raises the rate.
#[test]
fn sessions_that_are_ending_keep_their_time() {
    let start = Instant::from_std(clock::now());
    let first = schedule(&report(101, 11, 0), &HashMap::new(), start, RATE, Duration::from_secs(10));
    let known = first.iter().map(|(at, id, _)| (*id, *at)).collect();
    let later = start + Duration::from_millis(500);
    let second = schedule(&report(151, 21, 0), &known, later, RATE, Duration::from_secs(10));
    for (at, id, cause) in &first {
        assert!(second.contains(&(*at, *id, *cause)), "{id}");
    }
    assert_eq!(last(&second, start, NOT_ADMITTED, 0..101), Duration::from_secs(1));
    assert_eq!(last(&second, start, NOT_ADMITTED, 101..151), Duration::from_millis(1500));
}

#[test]
fn the_share_of_ended_sessions_is_limited() {
    let summary = |ended| ReloadSummary {
        generation: 1,
        applied: false,
        kept: 70,
        changed: 10,
        ended: vec![("claims", ended)],
        exceeds_percent: None,
        listeners_added: Vec::new(),
        listeners_removed: Vec::new(),
        warnings: Vec::new(),
    };
    assert!(!is_over(&summary(20), 20) && is_over(&summary(21), 20));
    assert!(!is_over(&summary(0), 0) && is_over(&summary(1), 0));
    assert!(!is_over(&summary(1000), 100));
    let error = ReloadError::TooMany { summary: summary(21), max_percent: 20 };
    assert_eq!(error.to_string(), "21 of 101 sessions would end, and recheck_max is 20%: --force permits it");
}

#[test]
fn causes_are_counted() {
    let unserved = |id| Unserved { id: RequestId(id), upstream: "chat".into(), server: "a:1".into() };
    let report = RecheckReport { unserved: (0..4).map(unserved).collect(), ..report(2, 1, 2) };
    assert_eq!(report.by_cause(), [("claims", 2), ("route_removed", 3), ("server_removed", 4)]);
}
