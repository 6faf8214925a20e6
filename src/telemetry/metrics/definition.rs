//! The form of a metric: its definition, and the values that a scrape collects.

use std::time::Duration;

use super::gauges::Gauges;
use super::merged::Merged;
use super::process::ProcessFigures;
use super::text::{Family, Kind, Value};

/// A metric.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    /// Its name. That of a counter ends in `_total`.
    pub name: &'static str,
    /// Its kind.
    pub kind: Kind,
    /// The names of its labels. The values are names of the configuration, or of a fixed set.
    pub labels: &'static [&'static str],
    /// Its unit, which its name contains; `None` for a number of things.
    pub unit: Option<Unit>,
    /// Its meaning, without a full stop.
    pub help: &'static str,
    pub(super) collect: fn(&Scrape<'_>, &mut Samples),
}

/// A base unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// Returns its name in the names of metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Seconds => "seconds",
            Self::Bytes => "bytes",
        }
    }
}

/// The sources of the values of a scrape.
#[derive(Debug)]
pub(super) struct Scrape<'a> {
    pub merged: &'a Merged,
    pub gauges: &'a Gauges,
    pub reloads: Reloads,
    pub process: ProcessFigures,
    pub started: Duration,
}

/// The reloads of the configuration. The load at the start counts as a success, and not as a reload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reloads {
    pub succeeded: u64,
    pub failed: u64,
    pub last_succeeded: bool,
    /// Since the Unix epoch.
    pub last_success: Duration,
}

/// The series of one metric.
#[derive(Debug, Default)]
pub(super) struct Samples(Vec<(Vec<String>, Value)>);

impl Samples {
    pub(super) fn add<const N: usize>(&mut self, labels: [&str; N], value: Value) {
        self.0.push((labels.map(str::to_owned).to_vec(), value));
    }

    pub(super) fn count<const N: usize>(&mut self, labels: [&str; N], count: u64) {
        self.add(labels, Value::Count(count));
    }

    pub(super) fn counts<const N: usize>(&mut self, route: &str, names: &[&str; N], counts: &[u64; N]) {
        for (name, count) in names.iter().zip(counts) {
            self.count([route, name], *count);
        }
    }

    /// Adds a number of the process that the kernel may not provide.
    pub(super) fn process(&mut self, value: Option<Value>) {
        if let Some(value) = value {
            self.add([], value);
        }
    }
}

impl Definition {
    /// Returns the metric with its values.
    pub(super) fn family(&self, scrape: &Scrape<'_>) -> Family {
        let Self { name, kind, labels, help, .. } = *self;
        let mut samples = Samples::default();
        (self.collect)(scrape, &mut samples);
        Family { name, help, kind, labels, series: samples.0 }
    }
}
