//! The metrics of the process: counted by each worker for itself, merged when they are scraped.

mod acme;
pub mod cells;
mod cluster;
mod definition;
mod discovery;
pub mod gauges;
pub mod labels;
mod merged;
mod moved;
mod process;
mod samples;
mod collect;
pub mod table;
mod text;
mod upstreams;
pub mod worker;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use definition::Handovers;
use definition::{Reloads, Scrape};
use gauges::Gauges;
pub use merged::Merged;
pub use moved::{MovedMetrics, SERIES_MAX};
use process::ProcessFigures;
use table::TABLE;
pub use text::{CONTENT_TYPE, Family, Kind, Value};
use worker::WorkerMetrics;

use super::handovers::HandoverTotals;

/// The metrics of the process. They outlive every snapshot.
#[derive(Debug)]
pub struct Metrics {
    /// The start of the process, since the Unix epoch.
    started: Duration,
    workers: Mutex<Vec<Arc<WorkerMetrics>>>,
    /// The routes of the configuration; `None` before the first call of [`Metrics::retain`].
    routes: Mutex<Option<BTreeSet<Arc<str>>>>,
    reloads: Mutex<Reloads>,
    handovers: Mutex<Handovers>,
    /// The counts of the processes before this one.
    moved: Mutex<MovedMetrics>,
}

/// The outcome of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new configuration is in use.
    Success,
    /// The new configuration was rejected, and the old one stays in use.
    Failure,
}

impl Metrics {
    /// Creates the metrics of a process that starts at this time, counted from the Unix epoch; 0 if the clock is wrong.
    pub fn new(now: Duration) -> Self {
        let reloads = Reloads { succeeded: 0, failed: 0, last_succeeded: true, last_success: now };
        Self {
            started: now,
            workers: Mutex::default(),
            routes: Mutex::default(),
            reloads: Mutex::new(reloads),
            handovers: Mutex::default(),
            moved: Mutex::default(),
        }
    }

    /// Returns the metrics of a further worker, whose thread alone may write them. They are kept until the process
    /// ends.
    pub fn worker(&self) -> Arc<WorkerMetrics> {
        let worker = Arc::default();
        lock(&self.workers).push(Arc::clone(&worker));
        worker
    }

    /// Counts a reload.
    pub fn count_reload(&self, outcome: ReloadOutcome, now: Duration) {
        let mut reloads = lock(&self.reloads);
        reloads.last_succeeded = outcome == ReloadOutcome::Success;
        match outcome {
            ReloadOutcome::Success => {
                reloads.succeeded += 1;
                reloads.last_success = now;
            }
            ReloadOutcome::Failure => reloads.failed += 1,
        }
    }

    /// Counts a handover that has ended. Only the new process counts it.
    pub fn count_handover(&self, totals: &HandoverTotals) {
        lock(&self.handovers).add(totals);
    }

    /// Counts an upgrade that failed, and the sessions that were lost with the new process.
    pub fn count_failed_handover(&self, lost: usize) {
        lock(&self.handovers).add_failure(lost);
    }

    /// Returns the counts of handovers, which the next process continues.
    pub fn handovers(&self) -> Handovers {
        *lock(&self.handovers)
    }

    /// Continues the counts of the process before.
    pub fn continue_handovers(&self, handovers: Handovers) {
        *lock(&self.handovers) = handovers;
    }

    /// Limits the series to these routes, those of the configuration. The series of another route are dropped once it
    /// has no sessions.
    pub fn retain(&self, routes: impl IntoIterator<Item = Arc<str>>) {
        *lock(&self.routes) = Some(routes.into_iter().collect());
        self.drop_old();
    }

    /// Returns the text of all metrics, of the type [`CONTENT_TYPE`]. It reads files of `/proc`, so it must not be
    /// called by a worker.
    pub fn encode(&self, gauges: &Gauges) -> String {
        let process = ProcessFigures::read();
        self.encode_with(gauges, process)
    }

    /// Returns the metrics of these names with their values. The figures of the process are those that cost little to
    /// read: its descriptors are not counted.
    pub fn families(&self, gauges: &Gauges, is_wanted: impl Fn(&str) -> bool) -> Vec<Family> {
        self.collect(gauges, ProcessFigures::read_without_descriptors(), is_wanted)
    }

    /// Returns the sums over all workers.
    pub fn merged(&self) -> Merged {
        self.drop_old();
        let mut merged = Merged::default();
        lock(&self.workers).iter().for_each(|worker| merged.add(worker));
        merged
    }

    /// Returns the number of connections that may still become sessions.
    pub fn pending_connections(&self) -> u64 {
        let [handshake, request, ..] = self.merged().states;
        handshake.saturating_add(request)
    }

    /// Returns the counts for the process that follows this one.
    pub fn export(&self, gauges: &Gauges) -> MovedMetrics {
        MovedMetrics::of(self.families(gauges, |_| true))
    }

    /// Continues the counts of the process before this one. Returns the number of series that were left out, because
    /// this version does not know them or there are more than [`SERIES_MAX`].
    pub fn import(&self, mut moved: MovedMetrics) -> usize {
        let left_out = moved.check();
        *lock(&self.moved) = moved;
        left_out
    }

    fn encode_with(&self, gauges: &Gauges, process: ProcessFigures) -> String {
        text::encode(self.collect(gauges, process, |_| true))
    }

    fn collect(&self, gauges: &Gauges, process: ProcessFigures, is_wanted: impl Fn(&str) -> bool) -> Vec<Family> {
        let merged = self.merged();
        let (started, reloads, handovers) = (self.started, *lock(&self.reloads), self.handovers());
        let scrape = Scrape { merged: &merged, gauges, reloads, handovers, process, started };
        let families = TABLE.iter().filter(|entry| is_wanted(entry.name)).map(|definition| definition.family(&scrape));
        let mut families: Vec<Family> = families.collect();
        let (moved, routes) = (lock(&self.moved), lock(&self.routes));
        for family in &mut families {
            moved.add_to(family, routes.as_ref());
        }
        families
    }

    /// Drops the series of routes that the configuration does not name, and those of servers without sessions. A
    /// request that began before a reload, or a session that was open then, may have left some behind.
    fn drop_old(&self) {
        let routes = lock(&self.routes);
        let keep = |route: &str| routes.as_ref().is_none_or(|routes| routes.contains(route));
        lock(&self.workers).iter().for_each(|worker| worker.retain(keep));
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is consistent after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
