//! Checks the servers of all upstreams at their intervals, and records sessions that their servers end early.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use http::HeaderValue;
use tokio::sync::mpsc;
use tokio::time::sleep_until;

use crate::balance::Pool;
use crate::balance::schedule::{Planned, Schedule, Target};
use crate::front::gateway::Gateway;
use crate::front::snapshot::Snapshot;
use crate::policy::host::HostPattern;
use crate::policy::route::Route;
use crate::relay::early_ends::EarlyEnd;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::upstream::checks::CheckError;

/// The maximum number of checks at once. A check that is due while as many run waits for the end of one.
pub(super) const CHECKS_AT_ONCE: usize = 64;
/// The longest time until a changed configuration is noticed.
const NOTICE: Duration = Duration::from_millis(250);

/// The checks of all servers, by the snapshot in use.
struct Checking {
    started: Instant,
    snapshot: Arc<Snapshot>,
    schedule: Schedule,
}

impl Checking {
    fn new(snapshot: Arc<Snapshot>, started: Instant) -> Self {
        let mut checking = Self { started, snapshot, schedule: Schedule::default() };
        checking.plan(started);
        checking
    }

    fn follow(&mut self, snapshot: Arc<Snapshot>, now: Instant) {
        if !Arc::ptr_eq(&snapshot, &self.snapshot) {
            self.snapshot = snapshot;
            self.snapshot.pools().for_each(|pool| pool.forget_checks(pool.millis_at(now)));
            self.plan(now);
        }
    }

    fn plan(&mut self, now: Instant) {
        let servers = self.snapshot.pools().flat_map(|pool| {
            let checks = pool.config().health.checks.iter();
            checks.flat_map(move |checks| pool.servers().map(move |server| (pool, server, checks.interval)))
        });
        let planned: Vec<_> = servers
            .map(|(pool, server, interval)| Planned {
                target: (Arc::clone(&pool.config().name), Arc::clone(server.name())),
                interval,
            })
            .collect();
        let now_ms = self.millis_at(now);
        self.schedule.follow(&planned, now_ms, bits);
    }

    fn millis_at(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.started).as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns when the next check is due, or a changed configuration is to be noticed.
    fn wakes(&self, is_busy: bool, now: Instant) -> Instant {
        let next = self.schedule.next_at().filter(|_| !is_busy);
        let next = next.map(|at_ms| clock::after(self.started, Duration::from_millis(at_ms)));
        next.into_iter().fold(clock::after(now, NOTICE), Instant::min)
    }

    fn pool(&self, upstream: &str) -> Option<&Arc<Pool>> {
        self.snapshot.pools().find(|pool| *pool.config().name == *upstream)
    }

    /// Returns the pool of a server, and the `Host` of its check.
    fn server(&self, (upstream, server): &Target) -> Option<(Arc<Pool>, HeaderValue)> {
        let pool = self.pool(upstream)?;
        Some((Arc::clone(pool), host(&self.snapshot, pool, server)))
    }

    /// Records a check, unless the server is not checked any more.
    fn note(&self, gateway: &Gateway, (upstream, name): &Target, checked: Option<Result<(), CheckError>>) {
        if let Some(checked) = checked
            && let Some(pool) = self.pool(upstream)
            && let Some(server) = pool.servers().find(|server| server.name() == name)
        {
            gateway.connector.note_check(pool, server, &checked);
        }
    }
}

/// Checks the servers until the drain starts. Never returns.
pub(super) async fn run(gateway: &Gateway, mut early_ends: mpsc::Receiver<EarlyEnd>) {
    let checking = async {
        let mut checking = Checking::new(gateway.snapshot(), clock::now());
        let mut checks = FuturesUnordered::new();
        loop {
            let now = clock::now();
            checking.follow(gateway.snapshot(), now);
            let now_ms = checking.millis_at(now);
            while checks.len() < CHECKS_AT_ONCE
                && let Some(target) = checking.schedule.begin(now_ms)
            {
                checks.push(check(gateway, checking.server(&target), target));
            }
            tokio::select! {
                () = sleep_until(checking.wakes(checks.len() >= CHECKS_AT_ONCE, now).into()) => {}
                Some((target, checked)) = checks.next() => {
                    let now = clock::now();
                    checking.follow(gateway.snapshot(), now);
                    checking.schedule.end(&target, checking.millis_at(now), bits);
                    checking.note(gateway, &target, checked);
                }
                Some(ended) = early_ends.recv() => note_early_end(gateway, &checking, &ended),
            }
        }
    };
    tokio::select! {
        () = checking => {}
        () = gateway.process.lifecycle.draining() => {}
    }
    std::future::pending::<()>().await;
}

/// Checks a server of a pool. The configuration may change meanwhile, so the caller records the outcome.
async fn check(
    gateway: &Gateway,
    pool: Option<(Arc<Pool>, HeaderValue)>,
    target: Target,
) -> (Target, Option<Result<(), CheckError>>) {
    let Some((pool, host)) = pool else { return (target, None) };
    let server = pool.servers().find(|server| *server.name() == target.1);
    let checked = match server.zip(pool.config().health.checks.as_ref()) {
        Some((server, config)) => Some(gateway.connector.check(&pool, server, config, host).await),
        None => None,
    };
    (target, checked)
}

/// Returns the `Host` of a check: what sessions of the first route have that uses the upstream, or the address of the
/// server if they have any host.
fn host(snapshot: &Snapshot, pool: &Arc<Pool>, server: &str) -> HeaderValue {
    let uses = |route: &&Arc<Route>| Arc::ptr_eq(&route.pool, pool);
    let of_route = |route: &Arc<Route>| match (&route.config.upstream_host, &route.config.host) {
        (Some(host), _) => Some(host.clone()),
        (None, HostPattern::Exact(host)) => HeaderValue::from_str(host).ok(),
        (None, _) => None,
    };
    let of_server = || if server.starts_with("unix:") { "localhost" } else { server };
    let host = snapshot.policy().routes().iter().filter(uses).find_map(of_route);
    host.or_else(|| HeaderValue::from_str(of_server()).ok()).unwrap_or(HeaderValue::from_static("localhost"))
}

fn note_early_end(gateway: &Gateway, checking: &Checking, ended: &EarlyEnd) {
    let EarlyEnd { upstream, server, opened, ended } = ended;
    let Some(pool) = checking.pool(upstream) else { return };
    if let Some(server) = pool.servers().find(|known| known.name() == server) {
        gateway.connector.note_early_end(pool, server, *opened, *ended);
    }
}

fn bits() -> u64 {
    u64::from_be_bytes(random())
}
