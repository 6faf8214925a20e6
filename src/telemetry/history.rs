//! The figures of the last hour: samples of metrics at a fixed interval, kept in memory.
//!
//! Each series has a number of 8 bytes for each sample. An hour of as many series as possible takes 1.5 MiB; a process with a
//! few servers has about 50 series, which take 154 KiB (`tests/history_memory.rs`).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::metrics::{Family, Kind, Value};

/// The time between two samples. The time of a sample is a multiple of it.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// The number of samples: an hour.
pub const SAMPLES_MAX: usize = 360;
/// The number of series of servers; those of further servers are left out. The others have labels of fixed sets.
pub const SERVER_SERIES_MAX: usize = 320;

/// The metrics that are kept, with the labels by which they are kept: a value is the sum over all other labels.
const TRACKED: [(&str, &[&str]); 17] = [
    ("tollgate_sessions", &[]),
    ("tollgate_connections", &["state"]),
    ("tollgate_messages_total", &["direction"]),
    ("tollgate_bytes_total", &["direction"]),
    ("tollgate_upgrades_total", &["outcome"]),
    ("tollgate_http_rejections_total", &["outcome"]),
    ("tollgate_closes_total", &["code", "by"]),
    ("tollgate_close_causes_total", &["cause", "by"]),
    ("tollgate_throttled_total", &["action"]),
    ("tollgate_tls_handshakes_total", &["outcome"]),
    ("tollgate_config_generation", &[]),
    ("tollgate_reloads_total", &["outcome"]),
    ("tollgate_revocations", &[]),
    ("process_cpu_seconds_total", &[]),
    ("process_resident_memory_bytes", &[]),
    ("tollgate_upstream_sessions", &["upstream", "server"]),
    ("tollgate_upstream_connect_failures_total", &["upstream", "server"]),
];

/// Whether a metric is kept.
pub fn is_tracked(name: &str) -> bool {
    TRACKED.iter().any(|(tracked, _)| *tracked == name)
}

/// The samples of the last hour.
#[derive(Debug, Default)]
pub struct History {
    /// Seconds since the Unix epoch, in increasing order.
    times: VecDeque<f64>,
    series: BTreeMap<SeriesKey, Series>,
}

/// Identifies a series. The order is that of [`TRACKED`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct SeriesKey {
    metric: usize,
    /// The values of its labels.
    labels: Vec<String>,
}

impl SeriesKey {
    /// Whether the number of such series depends on the configuration.
    fn is_of_server(&self) -> bool {
        TRACKED.get(self.metric).is_some_and(|(_, labels)| labels.contains(&"server"))
    }

    /// Whether a new series of this key may be kept besides this number of series of servers, in which it then counts.
    fn has_room(&self, servers: &mut usize) -> bool {
        if !self.is_of_server() {
            return true;
        }
        let has_room = *servers < SERVER_SERIES_MAX;
        *servers = servers.saturating_add(usize::from(has_room));
        has_room
    }
}

#[derive(Debug)]
struct Series {
    kind: Kind,
    /// One for each time. NaN: the series did not exist.
    values: VecDeque<f64>,
}

/// The values of all series at one time.
#[derive(Debug, Default)]
pub struct Sample {
    unix_seconds: f64,
    values: BTreeMap<SeriesKey, (Kind, f64)>,
}

/// The values of a series at the times of [`Figures::times`].
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesFigures {
    /// The name of the metric.
    pub name: &'static str,
    /// Its labels.
    pub labels: BTreeMap<&'static str, String>,
    /// Whether it only grows, or goes up and down.
    pub kind: Kind,
    /// The values; `None` at a time at which the series did not exist.
    pub values: Vec<Option<f64>>,
}

/// The samples after a time, and a sample of this moment.
#[derive(Debug, Clone, PartialEq)]
pub struct Figures {
    /// Seconds since the Unix epoch, in increasing order.
    pub times: Vec<f64>,
    /// The series, in the order of the list of metrics.
    pub series: Vec<SeriesFigures>,
}

impl Sample {
    /// Sums the values of metrics at this time, in seconds since the Unix epoch.
    pub fn new(unix_seconds: f64, families: &[Family]) -> Self {
        let mut values = BTreeMap::new();
        for (metric, (name, kept)) in TRACKED.into_iter().enumerate() {
            let Some(family) = families.iter().find(|family| family.name == name) else { continue };
            for (labels, value) in &family.series {
                let named = family.labels.iter().zip(labels);
                let labels = kept.iter().filter_map(|kept| named.clone().find(|(name, _)| *name == kept));
                let labels = labels.map(|(_, value)| value.clone()).collect();
                let sum = values.entry(SeriesKey { metric, labels }).or_insert((family.kind, 0.0));
                sum.1 += number(value);
            }
        }
        Self { unix_seconds, values }
    }
}

/// Returns the value as a number. Integers are exact up to 2^53: after 9 PB.
#[expect(clippy::cast_precision_loss, reason = "the figures are shown to people")]
fn number(value: &Value) -> f64 {
    match value {
        Value::Count(count) => *count as f64,
        Value::Seconds(seconds) => *seconds,
        Value::Histogram(histogram, _) => histogram.buckets.iter().sum::<u64>() as f64,
    }
}

impl History {
    /// Adds a sample. If the clock was set back, the earlier samples are dropped.
    pub fn push(&mut self, sample: &Sample) {
        if self.times.back().is_some_and(|last| *last >= sample.unix_seconds) {
            *self = Self::default();
        }
        let before = self.times.len();
        let mut servers = self.series.keys().filter(|key| key.is_of_server()).count();
        for (key, (kind, _)) in &sample.values {
            if !self.series.contains_key(key) && key.has_room(&mut servers) {
                // Nothing is allocated twice, or for more than an hour.
                let mut values = VecDeque::with_capacity(SAMPLES_MAX + 1);
                values.extend(std::iter::repeat_n(absent(*kind), before));
                self.series.insert(key.clone(), Series { kind: *kind, values });
            }
        }
        self.times.push_back(sample.unix_seconds);
        let is_full = self.times.len() > SAMPLES_MAX;
        if is_full {
            self.times.pop_front();
        }
        for (key, series) in &mut self.series {
            let value = sample.values.get(key).map_or(absent(series.kind), |(_, value)| *value);
            series.values.push_back(value);
            if is_full {
                series.values.pop_front();
            }
        }
        self.series.retain(|_, series| series.values.iter().any(|value| !is_absent(series.kind, *value)));
    }

    /// Returns the samples after this time, in seconds since the Unix epoch, followed by a sample of this moment.
    pub fn figures(&self, after: Option<f64>, now: &Sample) -> Figures {
        // A clock that was set back gives a time that is not after the last sample: the sample is then left out.
        let has_now = self.times.back().is_none_or(|last| *last < now.unix_seconds);
        let first = after.map_or(0, |after| self.times.partition_point(|time| *time <= after));
        let times = self.times.iter().skip(first).copied().chain(has_now.then_some(now.unix_seconds));
        let mut servers = self.series.keys().filter(|key| key.is_of_server()).count();
        let new = now.values.iter().filter(|(key, _)| !self.series.contains_key(key) && key.has_room(&mut servers));
        let keys = self.series.iter().map(|(key, series)| (key, series.kind, Some(series)));
        let mut keys: Vec<_> = keys.chain(new.map(|(key, (kind, _))| (key, *kind, None))).collect();
        keys.sort_unstable_by_key(|(key, ..)| *key);
        let series = keys.into_iter().filter_map(|(key, kind, series)| {
            let absent = absent(kind);
            let current = now.values.get(key).map_or(absent, |(_, value)| *value);
            let sampled = (first..self.times.len())
                .map(|at| series.and_then(|series| series.values.get(at)).copied().unwrap_or(absent));
            let values = sampled.chain(has_now.then_some(current)).map(|value| (!value.is_nan()).then_some(value));
            let (name, labels) = TRACKED.get(key.metric).copied()?;
            let labels = labels.iter().copied().zip(key.labels.iter().cloned()).collect();
            Some(SeriesFigures { name, labels, kind, values: values.collect() })
        });
        let series = series.collect();
        Figures { times: times.collect(), series }
    }
}

/// Returns the value of a series that does not exist: a counter that has counted nothing has no series.
fn absent(kind: Kind) -> f64 {
    match kind {
        Kind::Counter | Kind::Histogram => 0.0,
        Kind::Gauge => f64::NAN,
    }
}

fn is_absent(kind: Kind, value: f64) -> bool {
    value.is_nan() || (kind != Kind::Gauge && value == 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLOSES: &[&str] = &["route", "code", "by"];

    fn family(name: &'static str, kind: Kind, labels: &'static [&'static str], series: &[(&[&str], u64)]) -> Family {
        let series = series
            .iter()
            .map(|(labels, count)| (labels.iter().map(|label| (*label).to_owned()).collect(), Value::Count(*count)));
        Family { name, help: "", kind, labels, series: series.collect() }
    }

    fn sessions(time: f64, series: &[(&[&str], u64)]) -> Sample {
        Sample::new(time, &[family("tollgate_sessions", Kind::Gauge, &["route", "upstream"], series)])
    }

    fn servers(time: f64, names: &[&str]) -> Sample {
        let series: Vec<_> = names.iter().map(|name| (["up", name], 0)).collect();
        let series: Vec<_> = series.iter().map(|(labels, count)| (labels.as_slice(), *count)).collect();
        let family = family("tollgate_upstream_sessions", Kind::Gauge, &["upstream", "server"], &series);
        Sample::new(time, &[family])
    }

    #[test]
    fn every_tracked_metric_and_label_exists() {
        for (name, labels) in TRACKED {
            let definition = super::super::metrics::table::TABLE.iter().find(|definition| definition.name == name);
            let known = definition.unwrap_or_else(|| panic!("{name}")).labels;
            assert!(labels.iter().all(|label| known.contains(label)), "{name}: {labels:?}");
        }
        assert!(is_tracked("tollgate_sessions") && !is_tracked("tollgate_build_info"));
    }

    #[test]
    fn values_are_summed_over_the_labels_that_are_not_kept() {
        let families = [
            family("tollgate_sessions", Kind::Gauge, &["route", "upstream"], &[(&["a", "up"], 3), (&["b", "up"], 4)]),
            family(
                "tollgate_closes_total",
                Kind::Counter,
                CLOSES,
                &[(&["a", "1000", "client"], 1), (&["b", "1000", "client"], 2), (&["a", "1001", "tollgate"], 5)],
            ),
            family("tollgate_build_info", Kind::Gauge, &["version"], &[(&["1"], 1)]),
        ];
        let figures = History::default().figures(None, &Sample::new(5.0, &families));
        assert_eq!(figures.times, [5.0]);
        let shown: Vec<_> = figures
            .series
            .iter()
            .map(|series| {
                (series.name, series.labels.values().map(String::as_str).collect::<Vec<_>>(), series.values[0])
            })
            .collect();
        let expected = [
            ("tollgate_sessions", vec![], Some(7.0)),
            ("tollgate_closes_total", vec!["client", "1000"], Some(3.0)),
            ("tollgate_closes_total", vec!["tollgate", "1001"], Some(5.0)),
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_hour_is_kept_and_older_samples_are_dropped() {
        let mut history = History::default();
        for at in 0..1000_u32 {
            history.push(&sessions(f64::from(at) * 10.0, &[(&["a", "up"], at.into())]));
        }
        let figures = history.figures(None, &sessions(9_995.5, &[(&["a", "up"], 7)]));
        assert_eq!((figures.times.len(), figures.times[0]), (SAMPLES_MAX + 1, 6400.0));
        let values = &figures.series[0].values;
        assert_eq!((values.len(), values[0], values[359], values[360]), (361, Some(640.0), Some(999.0), Some(7.0)));
        let recent = history.figures(Some(9970.0), &sessions(9_995.5, &[]));
        assert_eq!(recent.times, [9980.0, 9990.0, 9995.5]);
        assert_eq!(recent.series[0].values, [Some(998.0), Some(999.0), None]);
    }

    #[test]
    fn a_counter_starts_from_zero_and_a_gauge_from_nothing() {
        let mut history = History::default();
        let counter = |time, count| {
            let family = family("tollgate_closes_total", Kind::Counter, CLOSES, &[(&["a", "1008", "tollgate"], count)]);
            Sample::new(time, &[family])
        };
        history.push(&servers(10.0, &["a:1"]));
        history.push(&counter(20.0, 4));
        let figures = history.figures(None, &servers(25.0, &["b:1"]));
        let values: Vec<_> = figures.series.iter().map(|series| series.values.clone()).collect();
        let expected =
            [vec![Some(0.0), Some(4.0), Some(0.0)], vec![Some(0.0), None, None], vec![None, None, Some(0.0)]];
        assert_eq!(values, expected);
    }

    #[test]
    fn series_of_servers_that_are_gone_are_dropped_with_their_last_value() {
        let mut history = History::default();
        history.push(&servers(0.0, &["a:1"]));
        for at in 1..360_u32 {
            history.push(&servers(f64::from(at), &["b:1"]));
        }
        assert_eq!(history.series.len(), 2);
        history.push(&servers(360.0, &["b:1"]));
        assert_eq!(history.series.len(), 1);
    }

    #[test]
    fn only_the_series_of_servers_are_limited() {
        let mut history = History::default();
        let names: Vec<_> = (0..2 * SERVER_SERIES_MAX).map(|number| format!("{number:04}:1")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        history.push(&servers(0.0, &names));
        history.push(&sessions(10.0, &[(&["a", "up"], 1)]));
        assert_eq!(history.series.len(), SERVER_SERIES_MAX + 1);
        assert_eq!(history.figures(None, &servers(11.0, &names)).series.len(), SERVER_SERIES_MAX + 1);
        assert_eq!(History::default().figures(None, &servers(11.0, &names)).series.len(), SERVER_SERIES_MAX);
    }

    #[test]
    fn a_clock_that_was_set_back_starts_a_new_hour() {
        let mut history = History::default();
        history.push(&servers(100.0, &["a:1"]));
        assert_eq!(history.figures(None, &servers(50.0, &["a:1"])).times, [100.0]);
        history.push(&servers(50.0, &["a:1"]));
        assert_eq!(history.times, [50.0]);
    }
}
