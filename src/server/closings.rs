//! The times at which a reload closes sessions that it does not admit, or whose route it has removed.

use std::collections::HashMap;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::policy::quota::Rate;
use crate::policy::route::OnRemoved;
use crate::relay::recheck::{EndCondition, RecheckReport};
use crate::relay::registry::Command;
use crate::relay::workers::Workers;
use crate::runtime::lifecycle::close_interval;
use crate::session::{AdmissionRule, CloseReason};
use crate::telemetry::request::RequestId;

/// A session that is closed, and the time at which it is.
pub(super) type Closing = (Instant, RequestId, CloseReason);

/// The cause of a session that is checked again before it is closed, which finds its rule.
pub(super) const NOT_ADMITTED: CloseReason = CloseReason::NotAdmitted(AdmissionRule::Token);

/// Returns the closings in the order of their times. A session with a time in `known` keeps it.
pub(super) fn schedule(
    report: &RecheckReport,
    known: &HashMap<RequestId, Instant>,
    now: Instant,
    rate: Rate,
    drain_timeout: Duration,
) -> Vec<Closing> {
    let (mut closings, mut rejected, mut drained) = (Vec::new(), Vec::new(), Vec::new());
    for (id, _) in &report.rejected {
        match known.get(id) {
            Some(at) => closings.push((*at, *id, NOT_ADMITTED)),
            None => rejected.push(*id),
        }
    }
    let interval = rate.period.checked_div(rate.count.get()).unwrap_or_default();
    // The rate holds for the sessions of several reloads together.
    let last = closings.iter().map(|(at, ..)| later(*at, interval)).max();
    closings.extend(paced(rejected, last.map_or(now, |last| last.max(now)), interval, NOT_ADMITTED));
    for (id, _, on_removed) in &report.removed {
        match (known.get(id), on_removed) {
            (Some(at), OnRemoved::Drain) => closings.push((*at, *id, CloseReason::Removed)),
            (None, OnRemoved::Drain) => drained.push(*id),
            (_, OnRemoved::Close) => closings.push((now, *id, CloseReason::Removed)),
        }
    }
    let interval = close_interval(drain_timeout, drained.len());
    closings.extend(paced(drained, now, interval, CloseReason::Removed));
    closings.sort_by_key(|(at, ..)| *at);
    closings
}

fn paced(ids: Vec<RequestId>, start: Instant, interval: Duration, cause: CloseReason) -> impl Iterator<Item = Closing> {
    (0..).zip(ids).map(move |(number, id)| (later(start, interval.saturating_mul(number)), id, cause))
}

/// Returns a later time. A time that no instant can represent is far in the future, when the sessions have ended.
fn later(at: Instant, time: Duration) -> Instant {
    at.checked_add(time).unwrap_or(at)
}

/// Closes each session at its time. One that is admitted then, because its client has renewed it, stays open.
pub(super) async fn close_all(workers: &Workers, closings: Vec<Closing>, not_admitted: &EndCondition) {
    for (at, id, cause) in closings {
        sleep_until(at).await;
        if cause == NOT_ADMITTED {
            workers.end_if(id, not_admitted).await;
        } else {
            workers.command_soon(id, Command::Revoke(cause)).await;
        }
    }
}
