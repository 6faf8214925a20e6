//! Puts the parts together: binds, starts the workers, serves, and drains.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::accept;
use super::descriptors::{fit_descriptors, other_descriptors};
use super::error::ServeError;
use super::pool::WorkerPool;
use super::socket::{self, Listener};
use super::worker::Worker;
use crate::config::{Certificate, Config};
use crate::front::gateway::Gateway;
use crate::front::snapshot::{Snapshot, SnapshotContext};
use crate::relay::Process;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::PendingLimit;
use crate::telemetry::identity::Identities;
use crate::telemetry::metrics::Metrics;
use crate::telemetry::rejections::RejectionLog;
use crate::telemetry::sessions::Sessions;
use crate::tls;
use crate::upstream::Connector;

/// The interval at which the log reports how many lines about rejections were left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// A server that is bound and about to serve.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    listeners: Vec<Listener>,
    addresses: Vec<SocketAddr>,
    certificates: Vec<Certificate>,
    workers: usize,
}

impl Server {
    /// Binds every listener.
    ///
    /// # Errors
    /// If an address cannot be bound, the descriptor limit is too low for the configuration, or TLS cannot be set up.
    pub fn bind(config: Config) -> Result<Self, ServeError> {
        let max_sessions = fit_descriptors(config.server.max_sessions, other_descriptors(&config))?;
        let pending_limit = PendingLimit::new(config.server.max_handshakes, config.server.handshakes_per_address);
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for listener in &config.listeners {
            let bound = socket::bind(listener.address).map_err(|error| ServeError::Bind(listener.address, error))?;
            let address = bound.local_addr().map_err(ServeError::System)?;
            addresses.push(address);
            listeners.push(Listener { socket: bound, address, accepted: None });
        }
        let counters = Arc::default();
        let context = SnapshotContext { addresses: &addresses, max_sessions, counters: &counters, now: clock::now() };
        let snapshot = Snapshot::new(&config, context).map_err(ServeError::Tls)?;
        let identities = Identities::new(&config.log, random());
        let process = Arc::new(Process {
            lifecycle: Lifecycle::new(config.server.drain_timeout),
            sessions: Sessions::new(config.log.session_start, identities),
            metrics: Arc::new(Metrics::new(clock::unix().unwrap_or_default())),
        });
        let gateway = Arc::new(Gateway::new(snapshot, counters, Connector::new(clock::now), process, pending_limit));
        let certificates = config.listeners.into_iter().flat_map(|listener| listener.certificates).collect();
        Ok(Self { gateway, listeners, addresses, certificates, workers: config.server.workers.get() })
    }

    /// Returns the state that its connections share. It stays valid while the server runs.
    pub fn gateway(&self) -> &Arc<Gateway> {
        &self.gateway
    }

    /// Returns the addresses that it is bound to, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until the drain has ended. The first signal on `stop` starts the drain, and the second one aborts it.
    /// `draining` is called with the number of sessions when the drain starts.
    ///
    /// # Errors
    /// If the system does not provide a thread or an event queue.
    pub fn run(self, mut stop: mpsc::Receiver<()>, draining: impl FnOnce(usize)) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::System)?;
        let (pool, receivers) = WorkerPool::new(self.workers, self.listeners.len());
        let pool = Arc::new(pool);
        let workers = (0..)
            .zip(receivers)
            .map(|(number, receiver)| {
                Worker::start(number, receiver, Arc::clone(&pool), Arc::clone(&self.gateway), accept::run)
            })
            .collect::<io::Result<Vec<_>>>()
            .map_err(ServeError::System)?;
        for listener in self.listeners {
            // No worker ends before the drain.
            let _ = pool.least_loaded().map(|worker| worker.send(listener));
        }
        let serving = async {
            // A closed channel counts as a stop signal.
            stop.recv().await;
            // No session starts after the drain is announced.
            self.gateway.process.lifecycle.stop_admitting();
            draining(self.gateway.process.lifecycle.sessions());
            self.gateway.process.lifecycle.start_drain(clock::now());
            drain(&self.gateway.process.lifecycle, workers, &mut stop).await;
        };
        runtime.block_on(async {
            tokio::select! {
                () = serving => {}
                () = report_left_out(&self.gateway.rejections) => {}
                () = tls::config::watch_expiry(self.certificates) => {}
            }
        });
        self.gateway.rejections.report();
        Ok(())
    }
}

/// Reports at intervals how many lines about rejections were left out. Never returns.
async fn report_left_out(rejections: &RejectionLog) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        rejections.report();
    }
}

/// Waits for the connections of the workers to end, and aborts those that do not end in time.
async fn drain(lifecycle: &Lifecycle, workers: Vec<Worker>, stop: &mut mpsc::Receiver<()>) {
    let ending = async {
        for worker in workers {
            worker.end().await;
        }
    };
    let aborting = async {
        tokio::select! {
            () = tokio::time::sleep(lifecycle.drain_timeout()) => {}
            Some(()) = stop.recv() => {}
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
