//! Puts the parts together: binds, starts the workers, serves, reloads, and drains.

use std::future::Future;
use std::io;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::accept;
use super::acme;
use super::api_sockets::ApiSockets;
use super::checks;
use super::cluster;
use super::control::{Control, ControlRequest, HandedOver, ProcessFacts};
use super::descriptors::fit_descriptors;
use super::draining;
use super::error::ServeError;
use super::forward_recheck;
use super::inherited::Inherited;
use super::key_loss;
use super::listeners::{Listeners, NextListeners};
use super::memory;
use super::passed::{PassedState, SocketKind};
use super::permit::PermitError;
use super::pool::{WorkerPool, WorkerReceiver};
use super::reload::{ReloadError, ReloadSummary, Reloader};
use super::revocations;
use super::upgrading::{self, Replaced};
use super::watch::FileWatcher;
use super::watchdog;
use super::worker::Worker;
use crate::balance::moved::STARTED_BEFORE;
use crate::client::KeySets;
use crate::cluster::handle::Cluster;
use crate::cluster::slot_registry::SlotRegistry;
use crate::config::{Config, ListenAddress};
use crate::front::gateway::Gateway;
use crate::front::snapshot::{Snapshot, SnapshotContext};
use crate::policy::counters::Counters;
use crate::relay::Process;
use crate::relay::early_ends::{EarlyEnd, EarlyEnds};
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::PendingLimit;
use crate::runtime::request_limit::RequestLimit;
use crate::telemetry::events::Events;
use crate::telemetry::identity::Identities;
use crate::telemetry::metrics::{Metrics, ReloadOutcome};
use crate::telemetry::rejections::RejectionLog;
use crate::telemetry::sessions::Sessions;
use crate::tls::expiry::watch_expiry;
use crate::upstream::Connector;

/// The interval at which the log reports how many lines about rejections were left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A server that is bound and about to serve.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    pool: Arc<WorkerPool>,
    receivers: Vec<WorkerReceiver>,
    listeners: NextListeners,
    reloader: Reloader,
    control: Control,
    requests: mpsc::Receiver<ControlRequest>,
    early_ends: mpsc::Receiver<EarlyEnd>,
    watchdog: Option<Duration>,
}

/// A change of the process that its caller reports.
#[derive(Debug, Clone, Copy)]
pub enum ServerEvent<'a> {
    /// The stop signal was received. The drain starts after this time.
    Stopping(Duration),
    /// The drain starts, with this number of sessions.
    Draining(usize),
    /// Another process has replaced this one. The drain starts, with the sessions that stay here.
    Replaced(usize),
    /// The configuration is read again.
    Reloading,
    /// The result of that.
    Reloaded(&'a Result<ReloadSummary, ReloadError>),
    /// Every worker has run since the last event of this kind. See [`Server::report_alive`].
    Alive,
}

impl Server {
    /// Binds every listener. `file` is the file of the configuration, which a reload reads again.
    ///
    /// # Errors
    /// If an address cannot be bound, the descriptor limit is too low for the configuration, TLS cannot be set up, or
    /// the revocations in `state_dir` cannot be used.
    pub fn bind(config: Config, file: Option<PathBuf>) -> Result<Self, ServeError> {
        Self::bind_with(config, file, Inherited::default(), None)
    }

    /// As [`Server::bind`], with the sockets that systemd passed, or with the descriptors of the process that this one
    /// replaces. Listeners of that process are not bound, and nothing is accepted from them before [`Server::run`].
    ///
    /// # Errors
    /// As [`Server::bind`], and if a socket that the configuration names was not passed or is not a listening TCP
    /// or Unix stream socket.
    pub fn bind_with(
        mut config: Config,
        file: Option<PathBuf>,
        inherited: Inherited,
        passed: Option<PassedState>,
    ) -> Result<Self, ServeError> {
        let max_sessions = fit_descriptors(&config)?;
        let per_address = config.server.handshakes_per_address;
        let pending_limit = PendingLimit::new(config.server.max_handshakes, per_address);
        let limits = (pending_limit, RequestLimit::new(config.server.max_http_requests, per_address.is_some()));
        let (inherited, passed, api, journal_lock, before) = match passed {
            None => (inherited, Vec::new(), ApiSockets::default(), None, None),
            Some(PassedState { mut sockets, journal_lock, moved, origin }) => {
                let wanted: Vec<_> = config.listeners.iter().map(|listener| listener.address.clone()).collect();
                let passed = sockets.take_all(SocketKind::Listener, &wanted);
                let inherited = Inherited::of_predecessor(sockets.take_systemd());
                (inherited, passed, ApiSockets::of_successor(sockets), journal_lock, Some((moved, origin)))
            }
        };
        for name in inherited.unused(&config.listeners) {
            tracing::warn!(name, "no listener uses the socket that systemd passes under this name");
        }
        if let Some((moved, _)) = &before {
            moved.adopt_found(&mut config);
        }
        let open = Listeners::new(inherited);
        let listeners = open.prepare(&config.listeners, passed)?;
        let slots = Arc::<SlotRegistry>::default();
        let (counters, addresses, now) = (counters(&config, &slots), listeners.addresses(), clock::both());
        let (key_sets, acme) = (KeySets::new(clock::now), Arc::default());
        // The servers of the process before have had their slow start.
        let earlier = before.as_ref().and_then(|_| now.instant.checked_sub(STARTED_BEFORE));
        let context = SnapshotContext {
            addresses: &addresses,
            max_sessions,
            counters: &counters,
            key_sets: &key_sets,
            acme: &acme,
            now: earlier.unwrap_or(now.instant),
        };
        let mut snapshot = Snapshot::new(&config, context).map_err(ServeError::Tls)?;
        let (moved, origin) = before.unzip();
        if let Some(generation) = moved.as_ref().and_then(|moved| moved.generation) {
            snapshot = snapshot.following(generation);
        }
        let lifecycle = Lifecycle::new(config.server.drain_timeout);
        lifecycle.set_shutdown_delay(config.server.shutdown_delay);
        let secret = moved.as_ref().and_then(|moved| moved.identities.as_ref()).map(|secret| *secret.bytes());
        let identities = Identities::new(&config.log, secret.unwrap_or_else(random));
        let (early_ends, ended_early) = EarlyEnds::channel();
        let process = Arc::new(Process {
            lifecycle,
            sessions: Sessions::new(&config.log, identities),
            metrics: Arc::new(Metrics::new(now.unix)),
            events: Events::new(config.admin.is_some()),
            early_ends,
        });
        let workers = config.server.workers.get();
        let (pool, channels, receivers) = WorkerPool::new(workers);
        let (pool, connector) = (Arc::new(pool), Connector::new(clock::now));
        let cluster = |config| Arc::new(Cluster::new(config, counters.leases(), &slots));
        let cluster = config.cluster.as_ref().map(cluster);
        let gateway = Gateway::new(snapshot, (counters, key_sets, acme), connector, process, limits, channels);
        let gateway = Arc::new(gateway.in_cluster(cluster));
        let journal_lock = revocations::start(&gateway, &config, journal_lock).map_err(ServeError::Revocations)?;
        if let Some(moved) = moved {
            moved.import(&gateway);
        }
        let handed_over = origin.map(|(pid, version)| Arc::new(HandedOver::new(pid, version, clock::unix())));
        let facts = ProcessFacts { file, workers, started: now.instant, started_unix: now.unix, handed_over };
        let api = Arc::new(api);
        let (control, requests) = Control::new(Arc::clone(&gateway), facts, Arc::clone(&api));
        let mut reloader = Reloader::new(Arc::clone(&gateway), Arc::clone(&pool), config);
        (reloader.listeners, reloader.api, reloader.journal_lock) = (open, api, journal_lock);
        reloader.file.clone_from(&control.facts().file);
        let early_ends = ended_early;
        Ok(Self { gateway, pool, receivers, listeners, reloader, control, requests, early_ends, watchdog: None })
    }

    /// Returns the state that its connections share. It stays valid while the server runs.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Returns the handle by which the server is operated while it runs.
    pub fn control(&self) -> &Control {
        &self.control
    }

    /// Returns the addresses that it is bound to, in the order of the configuration.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.listeners.addresses()
    }

    /// Reports [`ServerEvent::Alive`] at half of this interval while every worker runs, also during the drain. The
    /// event stays away while a task blocks the thread of a worker.
    pub fn report_alive(&mut self, interval: Duration) {
        self.watchdog = Some(interval);
    }

    /// Serves until the drain has ended. The first signal on `stop` starts the drain after the shutdown delay, another
    /// one ends this delay, and the next one aborts the drain.
    /// `observe` is called with each change of the process.
    ///
    /// # Errors
    /// If the system does not provide a thread or an event queue.
    pub fn run(self, mut stop: mpsc::Receiver<()>, observe: impl Fn(ServerEvent<'_>)) -> Result<(), ServeError> {
        let Self { gateway, pool, receivers, listeners, mut reloader, control, mut requests, early_ends, watchdog } =
            self;
        // The process before has moved its revocations here.
        let is_successor = control.facts().handed_over.is_some();
        drop(control);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::System)?;
        gateway.connector.servers().resolver().run_on(runtime.handle().clone());
        let workers = (0..)
            .zip(receivers)
            .map(|(number, receiver)| {
                Worker::start(number, receiver, Arc::clone(&pool), Arc::clone(&gateway), accept::run)
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(ServeError::System)?;
        let lifecycle = &gateway.process.lifecycle;
        let watched = Arc::clone(&pool);
        let watching = watchdog::watch(watchdog, || watched.heartbeats(), || observe(ServerEvent::Alive));
        let serving = async {
            reloader.start_fetching();
            reloader.api.take_over();
            if !is_successor {
                cluster::wait_for_revocations(&gateway).await;
            }
            reloader.listeners.change(listeners, &pool).await;
            let executing = serve_requests(&mut requests, &mut reloader, &observe);
            let replaced = serve_until_drain(lifecycle, executing, &mut stop, &observe).await;
            // Their new connections wait for the next process, while those of other listeners get a 503.
            reloader.listeners.close_inherited().await;
            // No session starts after the drain is announced.
            lifecycle.stop_admitting();
            let sessions = lifecycle.sessions();
            observe(match &replaced {
                Some(_) => ServerEvent::Replaced(sessions),
                None => ServerEvent::Draining(sessions),
            });
            lifecycle.start_drain(clock::now());
            tokio::select! {
                () = drain(lifecycle, workers, &mut stop, replaced.is_some()) => {}
                () = serve_closes(&mut requests, &reloader) => {}
            }
        };
        runtime.block_on(async {
            tokio::select! {
                () = serving => {}
                () = watching => {}
                () = memory::watch(&gateway) => {}
                () = forward_recheck::run(&gateway) => {}
                () = checks::run(&gateway, early_ends) => {}
                () = key_loss::watch(&gateway) => {}
                () = acme::run(&gateway) => {}
                () = cluster::run(&gateway) => {}
                () = draining::run(&gateway) => {}
                () = report_left_out(&gateway.rejections) => {}
                () = watch_expiry(|| gateway.snapshot().expiries()) => {}
            }
        });
        if let Some(cluster) = &gateway.cluster {
            runtime.block_on(cluster.leave());
        }
        gateway.rejections.report();
        Ok(())
    }
}

/// Returns the counters of a process. Its quotas and slots are shared if it is a node of a cluster that shares them.
fn counters(config: &Config, slots: &Arc<SlotRegistry>) -> Arc<Counters> {
    let Some(share) = config.cluster.as_ref().map(|cluster| cluster.share) else { return Arc::default() };
    let counters = if share.quotas { Counters::of_node(Arc::default()) } else { Counters::default() };
    Arc::new(if share.slots { counters.with_slots(Arc::<SlotRegistry>::clone(slots)) } else { counters })
}

/// Serves until the drain is to start: until the stop signal, and then until the shutdown delay has passed or another
/// signal arrives. `requests` executes requests, and returns when another process has replaced this one. It continues
/// during the delay: a reload that the stop signal interrupted half-way would affect the clients that are still admitted.
async fn serve_until_drain(
    lifecycle: &Lifecycle,
    requests: impl Future<Output = Replaced>,
    stop: &mut mpsc::Receiver<()>,
    observe: &impl Fn(ServerEvent<'_>),
) -> Option<Replaced> {
    let mut requests = pin!(requests);
    tokio::select! {
        // A closed channel counts as a stop signal.
        _ = stop.recv() => {}
        replaced = &mut requests => {
            // The new process is ready instead.
            lifecycle.end_readiness();
            return Some(replaced);
        }
    }
    lifecycle.end_readiness();
    let delay = lifecycle.shutdown_delay();
    if delay.is_zero() {
        return None;
    }
    observe(ServerEvent::Stopping(delay));
    tokio::select! {
        () = tokio::time::sleep(delay) => None,
        Some(()) = stop.recv() => None,
        replaced = requests => Some(replaced),
    }
}

/// Executes the requests of the admin API and of signals, one after another, and reads files that change. Returns when
/// another process has replaced this one, but not if the channel is closed.
async fn serve_requests(
    requests: &mut mpsc::Receiver<ControlRequest>,
    reloader: &mut Reloader,
    observe: &impl Fn(ServerEvent<'_>),
) -> Replaced {
    let mut watcher = FileWatcher::new();
    loop {
        watcher.watch(reloader.config.source.files.iter().flatten());
        let request = tokio::select! {
            Some(request) = requests.recv() => request,
            () = watcher.changed() => {
                reloader.refresh_files().await;
                continue;
            }
            () = reloader.gateway.discoveries.changed() => {
                reloader.install_found().await;
                continue;
            }
        };
        match request {
            ControlRequest::Reload(options, reply) => {
                if !options.dry_run {
                    observe(ServerEvent::Reloading);
                }
                let result = reloader.reload(options).await;
                if !options.dry_run {
                    let outcome = if result.is_ok() { ReloadOutcome::Success } else { ReloadOutcome::Failure };
                    reloader.gateway.process.metrics.count_reload(outcome, clock::both().unix);
                    observe(ServerEvent::Reloaded(&result));
                }
                // If the caller no longer waits, the result was reported.
                drop(reply.send(result));
            }
            ControlRequest::Close(close) => close.start(&reloader.tasks, &reloader.gateway.workers),
            ControlRequest::TakeFiles => reloader.take_files(),
            ControlRequest::Upgrade(reply) => {
                if let Some(replaced) = upgrading::serve(reply, requests, reloader).await {
                    return replaced;
                }
            }
        }
    }
}

/// Executes the requests during the drain: sessions can be closed earlier, and the configuration does not change. Never
/// returns, even if the channel is closed.
async fn serve_closes(requests: &mut mpsc::Receiver<ControlRequest>, reloader: &Reloader) {
    while let Some(request) = requests.recv().await {
        match request {
            ControlRequest::Reload(_, reply) => drop(reply.send(Err(ReloadError::Stopping))),
            ControlRequest::Upgrade(reply) => drop(reply.send(Err(PermitError::Stopping))),
            ControlRequest::Close(close) => close.start(&reloader.tasks, &reloader.gateway.workers),
            ControlRequest::TakeFiles => reloader.take_files(),
        }
    }
    std::future::pending::<()>().await;
}

/// Reports at intervals how many lines about rejections were left out. Never returns.
async fn report_left_out(rejections: &RejectionLog) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        rejections.report();
    }
}

/// Waits for the connections of the workers to end, and aborts those that do not end in time, or at a further stop signal.
/// The first one of a process that was replaced is for the service, and its drain has begun already.
async fn drain(lifecycle: &Lifecycle, workers: Vec<Worker>, stop: &mut mpsc::Receiver<()>, is_replaced: bool) {
    let ending = async {
        for worker in workers {
            worker.end().await;
        }
    };
    let aborting = async {
        tokio::select! {
            () = tokio::time::sleep(lifecycle.drain_timeout()) => {}
            Some(()) = async {
                if is_replaced {
                    stop.recv().await?;
                }
                stop.recv().await
            } => {}
        }
        lifecycle.abort();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ending => {}
        () = aborting => {}
    }
    // Until now the workers have answered new connections with 503.
    lifecycle.abort();
}
