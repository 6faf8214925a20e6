//! The sums of the metrics of all workers.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::cells::{Cell, merge};
use super::labels::STATES;
use super::worker::{Handshakes, Outcomes, RouteValues, Statuses, WorkerMetrics};

/// The sums over all workers.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Merged {
    /// Open connections, by state.
    pub states: [u64; STATES.len()],
    /// TLS handshakes, by version, resumption and outcome.
    pub handshakes: Handshakes<u64>,
    /// Upgrades, by route and outcome.
    pub upgrades: Outcomes,
    /// Refreshes, by route and outcome.
    pub refreshes: Outcomes,
    /// Rejections of ordinary requests, by route and outcome.
    pub http_rejections: Outcomes,
    /// The number of ordinary requests.
    pub requests: Statuses,
    /// The values of each route.
    pub routes: BTreeMap<Arc<str>, RouteValues<u64>>,
    /// Open sessions, by route and upstream.
    pub sessions: BTreeMap<[Arc<str>; 2], u64>,
    /// Open sessions, by upstream and server.
    pub upstream_sessions: BTreeMap<[Arc<str>; 2], u64>,
}

impl Merged {
    /// Adds the values of a worker.
    pub fn add(&mut self, worker: &WorkerMetrics) {
        let connections = worker.connections();
        merge(&mut self.states, &connections.states);
        for (sums, cells) in self.handshakes.iter_mut().flatten().zip(connections.handshakes.iter().flatten()) {
            merge(sums, cells);
        }
        add_outcomes(&mut self.upgrades, worker.upgrades());
        add_outcomes(&mut self.refreshes, worker.refreshes());
        add_outcomes(&mut self.http_rejections, worker.http_rejections());
        for (route, statuses) in worker.requests() {
            let sums = self.requests.entry(route).or_default();
            for (status, count) in statuses {
                *sums.entry(status).or_default() += count;
            }
        }
        for (route, cells) in worker.routes() {
            self.routes.entry(route).or_default().merge(&cells.0);
        }
        for ([route, upstream, server], open) in worker.targets() {
            *self.sessions.entry([route, Arc::clone(&upstream)]).or_default() += open;
            *self.upstream_sessions.entry([upstream, server]).or_default() += open;
        }
    }
}

fn add_outcomes(sums: &mut Outcomes, counts: Outcomes) {
    for (route, outcomes) in counts {
        let sums = sums.entry(route).or_default();
        for (outcome, count) in outcomes {
            *sums.entry(outcome).or_default() += count;
        }
    }
}

impl RouteValues<u64> {
    fn merge(&mut self, cells: &RouteValues<Cell>) {
        merge(&mut self.messages, &cells.messages);
        merge(&mut self.bytes, &cells.bytes);
        merge(&mut self.throttled, &cells.throttled);
        merge(&mut self.dropped, &cells.dropped);
        merge(&mut self.send_failures, &cells.send_failures);
        for (sums, cells) in self.reported.iter_mut().zip(&cells.reported) {
            merge(sums, cells);
        }
        for (sums, cells) in self.closes.iter_mut().zip(&cells.closes) {
            merge(sums, cells);
        }
        for (sums, cells) in self.close_causes.iter_mut().zip(&cells.close_causes) {
            merge(sums, cells);
        }
        self.upgrade_duration.merge(&cells.upgrade_duration);
        self.session_duration.merge(&cells.session_duration);
        self.request_duration.merge(&cells.request_duration);
    }
}
