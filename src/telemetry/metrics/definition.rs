//! The form of a metric: its definition, and the sources of the values that a scrape collects.

use std::time::Duration;

use super::gauges::Gauges;
use super::merged::Merged;
use super::process::ProcessFigures;
use super::samples::Samples;
use super::text::{Family, Kind};
use crate::telemetry::handovers::HandoverTotals;

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
    pub handovers: Handovers,
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

/// The handovers of sessions to a new process. The counts are those of all processes that have followed each other.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Handovers {
    /// The number of upgrades that succeeded, and of those that failed.
    pub outcomes: [u64; 2],
    /// The number of sessions that moved, that drained in the process before, and that were lost.
    pub sessions: [u64; 3],
    /// The longest time for which a session was not served in the last handover.
    pub longest_pause: Duration,
}

impl Handovers {
    /// Counts a handover that has ended.
    pub(super) fn add(&mut self, totals: &HandoverTotals) {
        let [succeeded, _] = &mut self.outcomes;
        *succeeded = succeeded.saturating_add(1);
        for (count, more) in self.sessions.iter_mut().zip([totals.moved, totals.drained, totals.failed]) {
            *count = count.saturating_add(u64::try_from(more).unwrap_or(u64::MAX));
        }
        self.longest_pause = totals.longest_pause;
    }

    /// Counts an upgrade that failed, and the sessions that were lost.
    pub(super) fn add_failure(&mut self, lost: usize) {
        let ([_, failed], [_, _, sessions]) = (&mut self.outcomes, &mut self.sessions);
        *failed = failed.saturating_add(1);
        *sessions = sessions.saturating_add(u64::try_from(lost).unwrap_or(u64::MAX));
    }
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
