//! Puts the parts together: binds, starts the workers, serves, and drains.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::mpsc;

use super::connection::Door;
use super::handshakes::Handshakes;
use super::lifecycle::Lifecycle;
use super::listener::{self, Listener};
use super::tls;
use super::upgrade::{Gateway, random};
use super::worker::{self, Crew, Worker};
use crate::config::{Certificate, Config, MaxSessions};
use crate::policy::admission::Policy;
use crate::policy::route::Routes;
use crate::telemetry::identity::Identities;
use crate::telemetry::refusals::Refusals;
use crate::telemetry::sessions::Sessions;
use crate::upstream::Pool;

/// Descriptors beside those of connections, listeners and workers: logs, key files, and some to spare.
const OTHER_DESCRIPTORS: usize = 64;
/// Of a listener: its socket, a clone while it is watched, another while it moves, and a connection that waits for a place.
const LISTENER_DESCRIPTORS: usize = 4;

/// How often the log says how many lines about refusals were left out.
const REPORT_INTERVAL: Duration = Duration::from_secs(10);

/// Why serving could not begin or go on.
#[derive(Debug)]
pub enum ServeError {
    /// An address could not be bound.
    Bind(SocketAddr, io::Error),
    /// The system lets the process have too few descriptors for the sessions that the configuration asks for.
    Descriptors {
        /// `max_sessions`.
        sessions: u32,
        /// What that needs.
        needed: u64,
        /// What there is, once raised as far as it goes.
        limit: u64,
    },
    /// TLS could not be set up.
    Tls(rustls::Error),
    /// The system gave no thread, event queue or descriptor.
    System(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address}: {error}"),
            Self::Descriptors { sessions, needed, limit } => write!(
                f,
                "max_sessions = {sessions} needs {needed} file descriptors, and the limit is {limit}: \
                 raise it (LimitNOFILE in systemd) or lower max_sessions"
            ),
            Self::Tls(error) => write!(f, "cannot set up TLS: {error}"),
            Self::System(error) => write!(f, "cannot start: {error}"),
        }
    }
}

impl std::error::Error for ServeError {}

impl ServeError {
    /// Whether the configuration has to change, or what the system allows: a second try would fail, too.
    pub fn is_of_configuration(&self) -> bool {
        matches!(self, Self::Descriptors { .. })
    }
}

/// Holds `max_sessions` against the descriptors that this process could have, as [`Server::bind`] does, and changes
/// nothing. The number of sessions that fit.
///
/// # Errors
/// If the number that the operator wrote does not fit.
pub fn check_descriptors(config: &Config) -> Result<NonZeroU32, ServeError> {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    fit(config.server.max_sessions, other_descriptors(config), limit)
}

/// What is needed beside two descriptors a session.
fn other_descriptors(config: &Config) -> u64 {
    // Each pending request counts as a session, so that there are never more of them.
    let extra: usize = config.upstreams.iter().map(Pool::extra_descriptors).fold(0, usize::saturating_add);
    let count = OTHER_DESCRIPTORS
        + Handshakes::descriptors(config.server.max_handshakes, config.server.handshakes_per_address)
        + LISTENER_DESCRIPTORS * config.listeners.len()
        + worker::DESCRIPTORS * config.server.workers.get()
        + extra.min(config.server.max_sessions.count as usize);
    count as u64
}

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
    /// Binds every listener. `page` is what a browser gets that asks for `/`.
    ///
    /// # Errors
    /// If an address cannot be bound, or the system's limits do not allow what the configuration asks for.
    pub fn bind(config: Config, page: Option<String>) -> Result<Self, ServeError> {
        let max_sessions = fit_descriptors(config.server.max_sessions, other_descriptors(&config))?;
        let handshakes = Handshakes::new(config.server.max_handshakes, config.server.handshakes_per_address);
        let handshakes = Arc::new(handshakes);
        let (mut listeners, mut addresses) = (Vec::new(), Vec::new());
        for entry in &config.listeners {
            let bound = listener::bind(entry.address).map_err(|error| ServeError::Bind(entry.address, error))?;
            addresses.push(bound.local_addr().map_err(ServeError::System)?);
            let door = Door {
                tls: tls::server_config(&entry.certificates, config.server.record_layer).map_err(ServeError::Tls)?,
                handshake_timeout: entry.handshake_timeout,
                head_max_bytes: entry.head_max_bytes,
                head_max_headers: entry.head_max_headers,
                handshakes: Arc::clone(&handshakes),
            };
            let handshakes = Arc::clone(&handshakes);
            listeners.push(Listener { socket: bound, door: Arc::new(door), handshakes, accepted: None });
        }
        let certificates = config.listeners.into_iter().flat_map(|listener| listener.certificates).collect();
        let identities = Identities::new(&config.log, random());
        let gateway = Gateway {
            policy: Policy::new(
                Routes::new(config.routes, config.server.host_fall_through),
                config.server.upgrade_quota,
                max_sessions,
            ),
            pools: config.upstreams.into_iter().map(|upstream| Pool::new(upstream, super::clock::now)).collect(),
            lifecycle: Lifecycle::new(config.server.drain_timeout),
            refusals: Refusals::new(super::clock::now()),
            sessions: Sessions::new(config.log.session_start, identities),
            page,
        };
        let workers = config.server.workers.get();
        Ok(Self { gateway: Arc::new(gateway), listeners, addresses, certificates, workers })
    }

    /// The addresses that it is bound to, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Serves until told to stop. The first word on `stop` starts the drain, the second cuts it short. `draining` is
    /// called when the drain starts, with the number of sessions.
    ///
    /// # Errors
    /// If the system gives no thread or event queue.
    pub fn run(self, mut stop: mpsc::Receiver<()>, draining: impl FnOnce(usize)) -> Result<(), ServeError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::System)?;
        let (crew, inboxes) = Crew::new(self.workers, self.listeners.len());
        let crew = Arc::new(crew);
        let workers = (0..)
            .zip(inboxes)
            .map(|(number, inbox)| Worker::start(number, inbox, Arc::clone(&crew), Arc::clone(&self.gateway)))
            .collect::<io::Result<Vec<_>>>()
            .map_err(ServeError::System)?;
        for listener in self.listeners {
            // No worker ends before the drain.
            let _ = crew.idlest().map(|desk| desk.send(listener));
        }
        let serving = async {
            // A sender that is gone will say nothing more, which is a word, too.
            stop.recv().await;
            // Who hears of the drain can rely on it that nobody comes in any more.
            self.gateway.policy.drain();
            draining(self.gateway.lifecycle.sessions());
            self.gateway.lifecycle.start_drain(super::clock::now());
            drain(&self.gateway.lifecycle, workers, &mut stop).await;
        };
        runtime.block_on(async {
            tokio::select! {
                () = serving => {}
                () = report_left_out(&self.gateway.refusals) => {}
                () = tls::watch_expiry(self.certificates) => {}
            }
        });
        self.gateway.refusals.report();
        Ok(())
    }
}

/// Says regularly how many lines about refusals were left out, whether or not another refusal follows. It never ends.
async fn report_left_out(refusals: &Refusals) {
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        refusals.report();
    }
}

/// Waits for the workers' connections to end, and cuts off those that do not.
async fn drain(lifecycle: &Lifecycle, workers: Vec<Worker>, stop: &mut mpsc::Receiver<()>) {
    let ending = async {
        for worker in workers {
            worker.end().await;
        }
    };
    let cutting = async {
        tokio::select! {
            () = tokio::time::sleep(lifecycle.drain_timeout()) => {}
            Some(()) = stop.recv() => {}
        }
        lifecycle.cut();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = ending => {}
        () = cutting => {}
    }
    // The workers go on for newcomers until now.
    lifecycle.cut();
}

/// Raises the limit of descriptors as far as it goes, and holds the number of sessions against it: each needs two, beside
/// these others.
fn fit_descriptors(max_sessions: MaxSessions, others: u64) -> Result<NonZeroU32, ServeError> {
    let mut limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, ..limit };
        // A sandbox may forbid it; then what there is has to do.
        match setrlimit(Resource::Nofile, raised) {
            Ok(()) => limit = raised,
            Err(error) => tracing::warn!(%error, "cannot raise the descriptor limit"),
        }
    }
    fit(max_sessions, others, limit.current.unwrap_or(u64::MAX))
}

fn fit(max_sessions: MaxSessions, others: u64, limit: u64) -> Result<NonZeroU32, ServeError> {
    let MaxSessions { count: sessions, explicit } = max_sessions;
    let needed = 2 * u64::from(sessions) + others;
    let too_few = ServeError::Descriptors { sessions, needed, limit };
    if needed <= limit {
        return NonZeroU32::new(sessions).ok_or(too_few);
    }
    let fitting = u32::try_from(limit.saturating_sub(others) / 2).unwrap_or(u32::MAX);
    match NonZeroU32::new(fitting) {
        Some(fitting) if !explicit => {
            tracing::warn!(max_sessions = fitting, needed, limit, "max_sessions lowered to the descriptor limit");
            Ok(fitting)
        }
        _ => Err(too_few),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_fit_the_descriptors() {
        let fit = |count, explicit, limit| fit(MaxSessions { count, explicit }, 328, limit).ok().map(NonZeroU32::get);
        assert_eq!(fit(1000, true, 2328), Some(1000));
        assert_eq!(fit(1000, true, 2327), None);
        assert_eq!(fit(1000, false, 2327), Some(999));
        assert_eq!(fit(1000, false, 300), None);
    }
}
