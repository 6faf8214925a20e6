//! The counts of the processes before this one, which its counters and histograms continue.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::cells::{BUCKETS, Histogram, SESSION_BOUNDS, UPGRADE_BOUNDS};
use super::table::TABLE;
use super::text::{Family, Kind, Value};

/// The maximum number of series that are taken over; further ones start from 0.
pub const SERIES_MAX: usize = 20_000;
/// The maximum length of the value of a label; a series with a longer one starts from 0.
const LABEL_MAX_BYTES: usize = 512;

/// The counters and histograms of a process, for the one that follows it. The values of gauges and of the process itself
/// (`process_*`) are not moved. What the process counts after its last export, for sessions that drain, is lost.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MovedMetrics {
    series: Vec<MovedSeries>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct MovedSeries {
    metric: String,
    labels: Vec<String>,
    value: MovedValue,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum MovedValue {
    Count(u64),
    Seconds(f64),
    Histogram { buckets: Vec<u64>, sum_micros: u64 },
}

impl MovedMetrics {
    /// Takes the values of counters and histograms.
    pub(super) fn of(families: Vec<Family>) -> Self {
        let mut series = Vec::new();
        for family in families.into_iter().filter(|family| is_moved(family.name, family.kind)) {
            let moved = |(labels, value)| MovedSeries { metric: family.name.to_owned(), labels, value: moved(value) };
            series.extend(family.series.into_iter().map(moved));
        }
        series.truncate(SERIES_MAX);
        Self { series }
    }

    /// Drops the series that the table does not know, and those beyond the bounds. Returns how many.
    pub(super) fn check(&mut self) -> usize {
        let before = self.series.len();
        self.series.truncate(SERIES_MAX);
        self.series.retain(MovedSeries::is_known);
        before.saturating_sub(self.series.len())
    }

    /// Adds the values to a family that was collected. Series of the family that are not there yet are added, if the
    /// values of their labels are from fixed sets or routes of the configuration.
    pub(super) fn add_to(&self, family: &mut Family, routes: Option<&BTreeSet<Arc<str>>>) {
        let positions = |family: &Family| {
            let labels = family.series.iter().map(|(labels, _)| labels.clone());
            labels.zip(0..).collect::<HashMap<Vec<String>, usize>>()
        };
        let mut index = None;
        for moved in self.series.iter().filter(|moved| moved.metric == family.name) {
            let position = index.get_or_insert_with(|| positions(family)).get(&moved.labels);
            match position.and_then(|position| family.series.get_mut(*position)) {
                Some((_, value)) => moved.value.add_to(value),
                None if may_be_new(family.labels, &moved.labels, routes) => {
                    let value = moved.value.as_value(family.name);
                    family.series.extend(value.map(|value| (moved.labels.clone(), value)));
                }
                None => {}
            }
        }
    }
}

impl MovedSeries {
    fn is_known(&self) -> bool {
        let found = TABLE.iter().find(|definition| definition.name == self.metric);
        let is_value = |kind| match &self.value {
            MovedValue::Count(_) => kind == Kind::Counter,
            MovedValue::Seconds(seconds) => kind == Kind::Counter && seconds.is_finite() && *seconds >= 0.0,
            MovedValue::Histogram { buckets, .. } => kind == Kind::Histogram && buckets.len() == BUCKETS,
        };
        found.is_some_and(|definition| {
            is_moved(definition.name, definition.kind)
                && definition.labels.len() == self.labels.len()
                && is_value(definition.kind)
        }) && self.labels.iter().all(|label| label.len() <= LABEL_MAX_BYTES)
    }
}

impl MovedValue {
    fn add_to(&self, value: &mut Value) {
        match (self, value) {
            (Self::Count(moved), Value::Count(count)) => *count = count.saturating_add(*moved),
            (Self::Seconds(moved), Value::Seconds(seconds)) => *seconds += moved,
            (Self::Histogram { buckets, sum_micros }, Value::Histogram(histogram, _)) => {
                for (bucket, moved) in histogram.buckets.iter_mut().zip(buckets) {
                    *bucket = bucket.saturating_add(*moved);
                }
                histogram.sum_micros = histogram.sum_micros.saturating_add(*sum_micros);
            }
            _ => {}
        }
    }

    fn as_value(&self, metric: &str) -> Option<Value> {
        Some(match self {
            Self::Count(count) => Value::Count(*count),
            Self::Seconds(seconds) => Value::Seconds(*seconds),
            Self::Histogram { buckets, sum_micros } => {
                let is_upgrade = metric.contains("upgrade");
                let bounds = if is_upgrade { &UPGRADE_BOUNDS } else { &SESSION_BOUNDS };
                let buckets = buckets.as_slice().try_into().ok()?;
                Value::Histogram(Box::new(Histogram { buckets, sum_micros: *sum_micros }), bounds)
            }
        })
    }
}

fn is_moved(name: &str, kind: Kind) -> bool {
    kind != Kind::Gauge && !name.starts_with("process_")
}

fn moved(value: Value) -> MovedValue {
    match value {
        Value::Count(count) => MovedValue::Count(count),
        Value::Seconds(seconds) => MovedValue::Seconds(seconds),
        Value::Histogram(histogram, _) => {
            MovedValue::Histogram { buckets: histogram.buckets.to_vec(), sum_micros: histogram.sum_micros }
        }
    }
}

/// Whether a series may exist without a value in this process. Upstreams, servers and auth sections have a series while
/// the configuration names them, and routes once they are used.
fn may_be_new(names: &[&str], labels: &[String], routes: Option<&BTreeSet<Arc<str>>>) -> bool {
    names.iter().zip(labels).all(|(name, label)| match *name {
        "upstream" | "server" | "auth" => false,
        "route" => label.is_empty() || routes.is_none_or(|routes| routes.contains(label.as_str())),
        _ => true,
    })
}
