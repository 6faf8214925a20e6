//! Writes metrics in the Prometheus text format.

use std::fmt;
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet, prometheus_text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;

use super::cells::{Bounds, Histogram};

/// The media type of the text.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// A metric with the values of all its series.
#[derive(Debug)]
pub struct Family {
    /// The name as the text shows it, with `_total` for a counter.
    pub name: &'static str,
    /// The meaning.
    pub help: &'static str,
    /// The kind.
    pub kind: Kind,
    /// The names of the labels.
    pub labels: &'static [&'static str],
    /// The series: the values of the labels, and the value.
    pub series: Vec<(Vec<String>, Value)>,
}

/// The kind of a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A number that only grows, and starts from 0 with the process or the series.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// The distribution of a number.
    Histogram,
}

impl Kind {
    /// Returns its name in the text format.
    pub fn label(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The value of a series.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// A count.
    Count(u64),
    /// A number of seconds.
    Seconds(f64),
    /// A distribution, with its bounds.
    Histogram(Box<Histogram<u64>>, &'static Bounds),
}

/// Returns the text of the metrics.
pub fn encode(families: Vec<Family>) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Families(families)));
    let mut text = String::new();
    // Writing to a string does not fail.
    let _ = prometheus_text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Families(Vec<Family>);

impl Collector for Families {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|family| encode_family(family, &mut encoder))
    }
}

fn encode_family(family: &Family, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let (name, kind) = match family.kind {
        // The encoder appends the suffix itself.
        Kind::Counter => (family.name.strip_suffix("_total").unwrap_or(family.name), MetricType::Counter),
        Kind::Gauge => (family.name, MetricType::Gauge),
        Kind::Histogram => (family.name, MetricType::Histogram),
    };
    let mut encoder = encoder.encode_descriptor(name, family.help, None, kind)?;
    family.series.iter().try_for_each(|(values, value)| {
        let labels: Vec<(&str, &str)> = family.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
        encode_value(family.kind, value, encoder.encode_family(&labels)?)
    })
}

fn encode_value(kind: Kind, value: &Value, mut encoder: MetricEncoder<'_>) -> fmt::Result {
    match (kind, value) {
        (Kind::Counter, Value::Count(count)) => encoder.encode_counter::<NoLabelSet, _, f64>(count, None),
        (Kind::Counter, Value::Seconds(seconds)) => encoder.encode_counter::<NoLabelSet, _, f64>(seconds, None),
        (Kind::Gauge, Value::Count(count)) => encoder.encode_gauge(count),
        (Kind::Gauge, Value::Seconds(seconds)) => encoder.encode_gauge(seconds),
        (_, Value::Histogram(histogram, bounds)) => {
            let bounds = bounds.iter().map(Duration::as_secs_f64).chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(histogram.buckets).collect();
            let sum = Duration::from_micros(histogram.sum_micros).as_secs_f64();
            encoder.encode_histogram::<NoLabelSet>(sum, histogram.buckets.iter().sum(), &buckets, None)
        }
        (Kind::Histogram, _) => Err(fmt::Error),
    }
}
