//! The form of a metric: its definition, and the sources of the values that a scrape collects.

use std::time::Duration;

use super::gauges::Gauges;
use super::merged::Merged;
use super::process::ProcessFigures;
use super::samples::Samples;
use super::text::{Family, Kind};

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

impl Definition {
    /// Returns the metric with its values.
    pub(super) fn family(&self, scrape: &Scrape<'_>) -> Family {
        let Self { name, kind, labels, help, .. } = *self;
        let mut samples = Samples::default();
        (self.collect)(scrape, &mut samples);
        Family { name, help, kind, labels, series: samples.into_series() }
    }
}
