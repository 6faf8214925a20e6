//! `GET /v1/history`: the figures of the last hour, and the task that samples them.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State as Extract;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::{IntoParams, ToSchema};

use super::extract::Query;
use super::problem::{Problem, Result};
use super::state::Shared;
use crate::runtime::clock;
use crate::server::control::Control;
use crate::server::gauges::gauges;
use crate::telemetry::history::{Figures, History, INTERVAL, Sample, SeriesFigures, is_tracked};

/// The parameters of a request.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct HistoryQuery {
    /// Only samples after this time, in seconds since the Unix epoch.
    #[param(minimum = 0)]
    since: Option<f64>,
}

/// The samples of the last hour, and one of this moment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HistoryAnswer {
    /// Seconds between two samples. The time of a sample is a multiple of it.
    interval_seconds: u64,
    /// The times of the samples, in seconds since the Unix epoch; the last one is this moment.
    times: Vec<f64>,
    /// The series. A metric is summed over the labels that are not given here.
    series: Vec<SeriesAnswer>,
}

/// The values of a metric.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct SeriesAnswer {
    /// The name of the metric, as in `/metrics`.
    name: &'static str,
    /// Its labels.
    labels: BTreeMap<&'static str, String>,
    /// `counter`, a total since the start of the process, or `gauge`.
    #[schema(pattern = "^(counter|gauge)$")]
    kind: &'static str,
    /// A value for each time; null at times at which the gauge did not exist.
    #[schema(value_type = Vec<Option<f64>>)]
    values: Vec<Value>,
}

/// A value, which is written without a fraction if it is an integer.
#[derive(Debug, Clone, Copy)]
struct Value(Option<f64>);

impl Serialize for Value {
    #[expect(clippy::cast_possible_truncation, reason = "such an integer has an exact form in both types")]
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        /// The largest integer up to which all are exact.
        const EXACT_MAX: f64 = 9_007_199_254_740_992.0;
        match self.0 {
            None => serializer.serialize_none(),
            Some(value) if value.fract() == 0.0 && value.abs() <= EXACT_MAX => serializer.serialize_i64(value as i64),
            Some(value) => serializer.serialize_f64(value),
        }
    }
}

impl From<SeriesFigures> for SeriesAnswer {
    fn from(SeriesFigures { name, labels, kind, values }: SeriesFigures) -> Self {
        Self { name, labels, kind: kind.label(), values: values.into_iter().map(Value).collect() }
    }
}

/// Returns the figures of the last hour, sampled every 10 s, and those of this moment.
#[utoipa::path(
    get,
    path = "/v1/history",
    tag = "history",
    params(HistoryQuery),
    responses((status = 200, description = "The figures", body = HistoryAnswer))
)]
pub(super) async fn history(
    Extract(state): Shared,
    Query(HistoryQuery { since }): Query<HistoryQuery>,
) -> Result<axum::Json<HistoryAnswer>> {
    if since.is_some_and(|since| !since.is_finite() || since < 0.0) {
        return Err(Problem::bad_request("`since` is a number of seconds since the Unix epoch"));
    }
    let now = sample(&state.control, clock::both().unix);
    let Figures { times, series } = lock(&state.history).figures(since, &now);
    let series = series.into_iter().map(SeriesAnswer::from).collect();
    Ok(axum::Json(HistoryAnswer { interval_seconds: INTERVAL.as_secs(), times, series }))
}

/// Takes a sample now, for the multiple of the interval before, and at each further one. Never returns.
pub(super) async fn keep(control: &Control, history: &Mutex<History>) {
    // Without it, the rates of the first interval would be unknown.
    if let Some(now) = clock::unix() {
        let first = sample(control, next_time(now).saturating_sub(INTERVAL));
        lock(history).push(&first);
    }
    loop {
        // A clock that cannot be right gives no time for a sample.
        let Some(now) = clock::unix() else {
            tokio::time::sleep(INTERVAL).await;
            continue;
        };
        let due = next_time(now);
        tokio::time::sleep(due.saturating_sub(now)).await;
        let taken = sample(control, due);
        lock(history).push(&taken);
    }
}

/// Returns the next multiple of the interval.
fn next_time(now: Duration) -> Duration {
    let intervals = now.as_secs() / INTERVAL.as_secs();
    Duration::from_secs(intervals.saturating_add(1).saturating_mul(INTERVAL.as_secs()))
}

fn sample(control: &Control, unix: Duration) -> Sample {
    let families = control.gateway().process.metrics.families(&gauges(control.gateway()), is_tracked);
    Sample::new(unix.as_secs_f64(), &families)
}

fn lock(history: &Mutex<History>) -> MutexGuard<'_, History> {
    // The history is consistent after every step.
    history.lock().unwrap_or_else(PoisonError::into_inner)
}
