//! Serves the API and the metrics listener on a thread of their own.

use std::fmt;
use std::future::pending;
use std::io;
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper::service::{Service as _, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;

use super::access::{Access, Peer};
use super::listener::Bound;
use super::shared::cluster;
use super::state::{LastReload, State};
use super::{api, history, remote};
use crate::config::{AdminAddress, AdminConfig, ListenAddress};
use crate::handover::upgrader::Upgrader;
use crate::runtime::clock;
use crate::runtime::tasks::{Tasks, start_thread};
use crate::server::api_sockets::Acceptance;
use crate::server::control::Control;
use crate::server::descriptors::ADMIN_CONNECTIONS_MAX;
use crate::server::passed::SocketKind;
use crate::server::reload::{ReloadError, ReloadSummary};
use crate::server::unix_socket::SocketFile;

/// How long a connection may be idle, or a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// The largest request head, and its largest number of headers.
const HEAD_MAX_BYTES: usize = 16 * 1024;
const HEAD_MAX_HEADERS: usize = 64;
/// How long a client may accept no bytes of an answer.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How long requests may take to end once the process stops.
const GRACE: Duration = Duration::from_millis(500);
/// The pause after an error of the system, such as a lack of descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// The running admin API and metrics listener, which end when this is dropped.
#[derive(Debug)]
pub struct Admin {
    stop: CancellationToken,
    ended: Receiver<()>,
    address: Option<AdminAddress>,
    metrics_address: Option<SocketAddr>,
    last_reload: Arc<Mutex<Option<LastReload>>>,
    _file: Option<SocketFile>,
}

/// An error that prevents the API from starting.
#[derive(Debug)]
pub enum AdminError {
    /// The address of the admin API could not be bound.
    Bind(AdminAddress, io::Error),
    /// The address of the metrics listener could not be bound.
    BindMetrics(SocketAddr, io::Error),
    /// The system did not provide a thread or an event queue.
    System(io::Error),
}

impl fmt::Display for AdminError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(address, error) => write!(f, "cannot listen on {address} for the admin API: {error}"),
            Self::BindMetrics(address, error) => write!(f, "cannot listen on {address} for metrics: {error}"),
            Self::System(error) => write!(f, "cannot start the admin API: {error}"),
        }
    }
}

impl std::error::Error for AdminError {}

/// A listener that is registered with the event loop.
enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Admin {
    /// Binds the sockets and starts to serve. Without an address and a cluster there is nothing to do. Sockets that the process before
    /// passed are taken over instead, and nothing is accepted before the server runs. Without an upgrader the process
    /// cannot be replaced.
    ///
    /// # Errors
    /// If an address cannot be bound, or the system does not provide a thread or an event queue.
    pub fn start(
        config: Option<&AdminConfig>,
        metrics: Option<SocketAddr>,
        control: &Control,
        upgrader: Option<&Upgrader>,
    ) -> Result<Self, AdminError> {
        let (stop, mut served, mut file) = (CancellationToken::new(), Vec::new(), None);
        let (mut address, mut metrics_address) = (None, None);
        let sockets = control.api_sockets();
        let last_reload = Arc::<Mutex<_>>::default();
        let history = Arc::<Mutex<_>>::default();
        let state = |payload| State {
            upgrader: upgrader.cloned(),
            last_reload: Arc::clone(&last_reload),
            history: Arc::clone(&history),
            ..State::new(control.clone(), payload, stop.clone())
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(AdminError::System)?;
        let entered = runtime.enter();
        if let Some(config) = config {
            let fail = |error| AdminError::Bind(config.address.clone(), error);
            let configured = match &config.address {
                AdminAddress::Unix(path) => ListenAddress::Unix(path.clone()),
                AdminAddress::Tcp(address) => ListenAddress::Tcp(*address),
            };
            let bind = || Bound::new(&config.address, config.socket_group.as_deref());
            let bound = Bound::passed_or(sockets, SocketKind::Admin, &configured, bind).map_err(fail)?;
            address = Some(bound.address().map_err(fail)?);
            let router = api::admin(state(config.payload), Access::new(config));
            let (listener, socket_file) = Listener::register(bound).map_err(fail)?;
            file = socket_file;
            served.push((listener, router));
        }
        if let Some(wanted) = metrics {
            let fail = |error| AdminError::BindMetrics(wanted, error);
            let (kind, configured) = (SocketKind::Metrics, ListenAddress::Tcp(wanted));
            let bound = Bound::passed_or(sockets, kind, &configured, || Bound::tcp(wanted)).map_err(fail)?;
            let (listener, _) = Listener::register(bound).map_err(fail)?;
            metrics_address = Some(listener.tcp_address().map_err(fail)?);
            served.push((listener, api::metrics_only(state(false))));
        }
        drop(entered);
        let (end, ended) = sync_channel(1);
        if !served.is_empty() || cluster(control).is_some() {
            let (stopped, control, has_api) = (stop.clone(), control.clone(), address.is_some());
            let accepting = sockets.accepting();
            let serving = async move {
                let keeping = async {
                    // Without the API nobody can ask for the history.
                    if has_api { history::keep(&control, &history).await } else { pending().await }
                };
                let executing = async {
                    if let Some(cluster) = cluster(&control) {
                        remote::serve(&control, cluster).await;
                    }
                    pending::<()>().await;
                };
                tokio::select! {
                    () = serve(served, accepting, stopped) => {}
                    () = keeping => {}
                    () = executing => {}
                }
                // Nothing waits for the end if the process has ended.
                let _ = end.send(());
            };
            start_thread("admin", runtime, serving).map_err(AdminError::System)?;
        }
        Ok(Self { stop, ended, address, metrics_address, last_reload, _file: file })
    }

    /// Notes the result of a reload for `/v1/info`.
    pub fn note_reload(&self, result: &Result<ReloadSummary, ReloadError>) {
        let error = result.as_ref().err().map(|error| {
            let text = error.to_string();
            let mut lines = text.lines();
            // The first line of an invalid configuration says so, and the next one has the first error.
            let shown = if matches!(error, ReloadError::Invalid(_)) { 2 } else { 1 };
            lines.by_ref().take(shown).collect::<Vec<_>>().join(": ")
        });
        let noted = LastReload { unix: clock::unix(), error };
        *self.last_reload.lock().unwrap_or_else(PoisonError::into_inner) = Some(noted);
    }

    /// Logs the addresses.
    pub fn log_addresses(&self) {
        if let Some(address) = &self.address {
            tracing::info!(%address, "admin API");
        }
        if let Some(address) = &self.metrics_address {
            tracing::info!(%address, "metrics");
        }
    }

    /// Returns the address of the admin API, with the port that the kernel chose.
    pub fn address(&self) -> Option<&AdminAddress> {
        self.address.as_ref()
    }

    /// Returns the address of the metrics listener, with the port that the kernel chose.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.cancel();
        // The process ends even if the thread does not.
        let _ = self.ended.recv_timeout(2 * GRACE);
    }
}

async fn serve(served: Vec<(Listener, Router)>, accepting: watch::Receiver<Acceptance>, stop: CancellationToken) {
    let tasks = Tasks::default();
    for (listener, router) in served {
        tasks.start(accept(listener, router, tasks.clone(), accepting.clone(), stop.clone()));
    }
    stop.cancelled().await;
    // Requests that take longer are cut off.
    let _ = tokio::time::timeout(GRACE, tasks.end()).await;
}

/// Accepts connections, unless an upgrade of the process pauses that. Returns when the new process accepts them.
async fn accept(
    listener: Listener,
    router: Router,
    tasks: Tasks,
    mut state: watch::Receiver<Acceptance>,
    stop: CancellationToken,
) {
    // The kernel queues further connections.
    let permits = Arc::new(Semaphore::new(ADMIN_CONNECTIONS_MAX));
    loop {
        let is_open = tokio::select! {
            () = stop.cancelled() => return,
            state = state.wait_for(|state| *state != Acceptance::Paused) => {
                state.is_ok_and(|state| *state == Acceptance::Open)
            }
        };
        if !is_open {
            return;
        }
        let accepting = async {
            let permit = Arc::clone(&permits).acquire_owned().await.map_err(io::Error::other)?;
            Ok::<_, io::Error>((permit, listener.accept().await?))
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            _ = state.wait_for(|state| *state != Acceptance::Open) => continue,
            accepted = accepting => accepted,
        };
        match accepted {
            Ok((permit, (stream, peer))) => {
                let (router, stop, state) = (router.clone().layer(Extension(peer)), stop.clone(), state.clone());
                tasks.start(async move {
                    serve_connection(stream, router, stop, state).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin API cannot accept a connection");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// A connection of either kind of socket.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Serves a connection until its client, the process or the acceptance ends it: the next request of a client is for the
/// process that accepts then.
async fn serve_connection(
    stream: Box<dyn Stream>,
    router: Router,
    stop: CancellationToken,
    mut state: watch::Receiver<Acceptance>,
) {
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_TIMEOUT));
    // A connection that was accepted gets its first answer: hyper would close it without one.
    let has_request = CancellationToken::new();
    let router = TowerToHyperService::new(router);
    let service = service_fn(|request| {
        has_request.cancel();
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEAD_MAX_HEADERS)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut connection = std::pin::pin!(connection);
    // An error concerns only this connection: its client has disconnected, or is too slow.
    let ending = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = async {
                let _ = state.wait_for(|state| *state != Acceptance::Open).await;
                has_request.cancelled().await;
            } => {}
        }
    };
    tokio::select! {
        _ = &mut connection => {}
        () = ending => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

impl Listener {
    fn register(bound: Bound) -> io::Result<(Self, Option<SocketFile>)> {
        match bound {
            Bound::Unix(listener, file) => Ok((Self::Unix(UnixListener::from_std(listener)?), file)),
            Bound::Tcp(listener) => Ok((Self::Tcp(TcpListener::from_std(listener)?), None)),
        }
    }

    fn tcp_address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Unix(_) => Err(io::ErrorKind::Unsupported.into()),
            Self::Tcp(listener) => listener.local_addr(),
        }
    }

    async fn accept(&self) -> io::Result<(Box<dyn Stream>, Peer)> {
        match self {
            Self::Unix(listener) => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|peer| peer.uid());
                Ok((Box::new(stream), Peer::Unix(uid)))
            }
            Self::Tcp(listener) => {
                let (stream, client) = listener.accept().await?;
                stream.set_nodelay(true)?;
                let local = stream.local_addr()?;
                Ok((Box::new(stream), Peer::Tcp { client, local }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
