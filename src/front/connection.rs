//! One connection: the TLS handshake, one request, and its response. An upgraded connection continues as a session.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::accept::{AcceptedConnection, accept, after_drain};
use super::admitted::check_registered;
use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use super::plain;
use super::request_stream::RequestStream;
use super::upgrade::{self, OpenedSession};
use crate::policy::endpoints::Endpoints;
use crate::policy::forwarded::Client;
use crate::policy::peer::Peer;
use crate::policy::rejection::Rejection;
use crate::relay::facts::SessionFacts;
use crate::relay::registry::SessionContext;
use crate::relay::{Prefixed, Relay, RelayGuards};
use crate::runtime::clock;
use crate::runtime::cycle;
use crate::runtime::entropy;
use crate::runtime::guard::{LoadGuard, PendingConnection};
use crate::runtime::pending_limit::{ClosingPermit, PendingPermit};
use crate::runtime::socket::SocketStream;
use crate::telemetry::metrics::labels::ConnectionState;
use crate::telemetry::metrics::worker::{ConnectionGuard, SessionMetrics, WorkerMetrics};
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::RequestId;
use crate::tls::TlsSummary;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// The time for which a connection stays open after a rejection, and the number of bytes that the client may still send
/// meanwhile. Closing a socket with unread bytes resets the connection, which may discard the response.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX_BYTES: usize = 256 * 1024;
/// The time that a client has to read its response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection of a peer, with these ends, until it is upgraded or closed, or the process aborts. The wait for
/// a pending permit, the TLS handshake and the request head share the deadline.
pub async fn serve(
    gateway: &Arc<Gateway>,
    sessions: &SessionContext,
    config: &ConnectionConfig,
    stream: SocketStream,
    (peer, endpoints): (Peer, Option<Endpoints>),
    (pending, mut connection): (PendingConnection, ConnectionGuard),
    deadline: Instant,
) -> Option<Relay<ClientStream, UpstreamStream>> {
    let PendingConnection { slot, load } = pending;
    let metrics = sessions.metrics();
    // The connection was accepted this long before its deadline.
    let mut phases = UpgradePhases::start(deadline.checked_sub(config.handshake_timeout).unwrap_or_else(clock::now));
    let lifecycle = &gateway.process.lifecycle;
    let accepted = tokio::select! {
        () = lifecycle.aborted() => return None,
        () = after_drain(lifecycle) => return None,
        accepted = accept(gateway, metrics, config, (stream, peer), slot, deadline, &mut phases) => accepted?,
    };
    let AcceptedConnection { permit, stream, tls } = accepted;
    connection.enter(ConnectionState::Request);
    let now = clock::now();
    phases.enter(UpgradePhase::Head, now);
    let head_timeout = deadline.saturating_duration_since(now);
    let (stream, read_ahead, outcome) = tokio::select! {
        () = lifecycle.aborted() => return None,
        served = serve_request(
            gateway, sessions, config, (stream, permit), (peer, endpoints), head_timeout, phases,
        ) => served,
    };
    let opened = match outcome {
        RequestOutcome::Upgraded(opened) => *opened,
        RequestOutcome::Rejected(closing) => {
            connection.enter(ConnectionState::Closing);
            linger(stream, closing).await;
            return None;
        }
    };
    upgrade::log_if_slow(gateway, &opened);
    let metrics = count_session(metrics, connection, &opened);
    Some(relay(gateway, sessions, opened, tls, (stream, read_ahead), (load, metrics)))
}

/// Returns the relay of a session whose client has its 101.
fn relay(
    gateway: &Gateway,
    sessions: &SessionContext,
    opened: OpenedSession,
    tls: Option<TlsSummary>,
    (stream, read_ahead): (ClientStream, Bytes),
    (connection, metrics): (LoadGuard, SessionMetrics),
) -> Relay<ClientStream, UpstreamStream> {
    let OpenedSession {
        admission, mut session, upstream, read_ahead: upstream_read_ahead, server, server_session, ..
    } = opened;
    // The bytes are copied, since a slice would keep hyper's whole buffer alive.
    let client_side = Prefixed(stream, read_ahead.to_vec());
    let upstream_side = Prefixed(upstream, upstream_read_ahead.to_vec());
    let route = Arc::clone(admission.route());
    let facts = Arc::new(SessionFacts {
        request_id: opened.request_id,
        route: Arc::clone(route.name()),
        grant: Arc::clone(admission.grant()),
        upstream: Arc::clone(&admission.pool().config().name),
        server,
        summary: opened.summary,
        tls,
        started: clock::now(),
    });
    let session_guard = sessions.register(Arc::clone(&facts), Arc::clone(&route));
    session.report_upgrade(admission.exceeded());
    let mut lease = admission.into_lease();
    lease.hold_server(server_session);
    check_registered(gateway, sessions, session_guard.key(), opened.generation, &lease, &facts);
    let guards = RelayGuards { session: session_guard, connection, metrics };
    Relay::new(lease, session, client_side, upstream_side, facts, Arc::clone(&gateway.process), guards)
}

fn count_session(metrics: &WorkerMetrics, connection: ConnectionGuard, opened: &OpenedSession) -> SessionMetrics {
    let OpenedSession { admission, session, server, started, .. } = opened;
    let target = [admission.route().name(), &admission.pool().config().name, server].map(Arc::clone);
    let duration = clock::now().saturating_duration_since(*started);
    metrics.open_session(connection, target, duration, &session.counts())
}

/// The outcome of the request of a connection.
enum RequestOutcome {
    /// The client has its 101.
    Upgraded(Box<OpenedSession>),
    /// The connection closes, with a permit to linger if one is free.
    Rejected(Option<ClosingPermit>),
}

/// The progress of the request of a connection.
enum RequestState {
    /// Its head is being read; the connection is pending.
    Reading { _permit: PendingPermit },
    /// It waits for its response.
    Processing,
    /// Its 101 is being written.
    Upgraded(Box<OpenedSession>),
    /// Another response is being written. Without a permit, no more is written than the kernel takes at once.
    Rejected(Option<ClosingPermit>),
}

type ResponseFuture<'a> = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'a>>;

/// Reads one request and answers it. Returns the stream, the bytes that the client sent after its request, and the
/// outcome.
async fn serve_request(
    gateway: &Gateway,
    worker: &SessionContext,
    config: &ConnectionConfig,
    (stream, permit): (ClientStream, PendingPermit),
    (peer, endpoints): (Peer, Option<Endpoints>),
    head_timeout: Duration,
    phases: UpgradePhases,
) -> (ClientStream, Bytes, RequestOutcome) {
    let request_id = RequestId(u128::from_be_bytes(entropy::random()));
    let state = Mutex::new(RequestState::Reading { _permit: permit });
    let (head_was_read, takes_body) = (AtomicBool::new(false), AtomicBool::new(false));
    let response_ready = Notify::new();
    let service = service_fn(|request: Request<Incoming>| -> ResponseFuture<'_> {
        head_was_read.store(true, Ordering::Relaxed);
        // A POST is answered without an upstream, and may be a logout, whose token is in the body.
        takes_body.store(request.method() == Method::POST, Ordering::Relaxed);
        // An admitted request counts as a session from this step on, and a rejected one takes a closing permit.
        *lock(&state) = RequestState::Processing;
        let mut phases = phases;
        phases.enter(UpgradePhase::Admission, clock::now());
        let (state, response_ready) = (&state, &response_ready);
        let (head, body) = request.into_parts();
        Box::pin(async move {
            let peer = (peer, endpoints);
            let client = Client::of_request(&head.headers, peer, &config.trusted_proxies, config.scheme());
            let request = Request::from_parts(head, ());
            let plain = config.plain.as_ref().and_then(|config| {
                plain::answer(config, gateway.snapshot().policy(), client.address, request_id, &request)
            });
            let (response, opened) = match plain {
                Some(response) => (response, None),
                None => upgrade::answer(gateway, worker, client, request_id, phases, &request, body).await,
            };
            *lock(state) = match opened {
                Some(opened) => RequestState::Upgraded(Box::new(opened)),
                None => RequestState::Rejected(gateway.pending_limit.closing(config.counted(Peer::Ip(client.address)))),
            };
            response_ready.notify_one();
            Ok(response)
        })
    });
    let stream = RequestStream::new(stream, &head_was_read, request_id, ClientStream::is_peer_closed);
    let stream = stream.with_body(&takes_body);
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(config.head_max_bytes)
        .max_headers(config.head_max_headers)
        .serve_connection(TokioIo::new(stream), service);
    let serving = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(served) => Poll::Ready(Some(served)),
        Poll::Pending if matches!(*lock(&state), RequestState::Rejected(None)) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let (was_written, error) = tokio::select! {
        served = serving => (true, served.and_then(Result::err)),
        () = async {
            after_drain(&gateway.process.lifecycle).await;
            if head_was_read.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
        } => (false, None),
        () = async { response_ready.notified().await; sleep(ANSWER_TIMEOUT).await } => (false, None),
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    if let Some(error) = error {
        reject_head(gateway, worker.metrics(), config, (peer, request_id), &phases, &error);
        if error.is_parse() && config.tls.is_none() && io.inner().is_proxy_header() {
            let (identities, now) = (gateway.process.sessions.identities(), clock::now());
            gateway.rejections.log_proxy_header(peer.address(), &config.listener, identities, now);
        }
    }
    let outcome = match state.into_inner().unwrap_or_else(PoisonError::into_inner) {
        RequestState::Upgraded(opened) if was_written => RequestOutcome::Upgraded(opened),
        RequestState::Rejected(closing) => RequestOutcome::Rejected(closing),
        unfinished => {
            if let RequestState::Upgraded(opened) = &unfinished {
                upgrade::log_answer_not_taken(gateway, worker.metrics(), opened);
            }
            // Its permit or session ends before the closing permit is taken.
            drop(unfinished);
            RequestOutcome::Rejected(gateway.pending_limit.closing(config.counted(peer)))
        }
    };
    let (stream, read_ahead) = io.into_inner().into_parts(read_buf);
    (stream, read_ahead, outcome)
}

fn lock(state: &Mutex<RequestState>) -> MutexGuard<'_, RequestState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Logs and charges a head that hyper rejected, with a response of its own or without one. That of a trusted proxy is
/// not charged, since its client is not known.
fn reject_head(
    gateway: &Gateway,
    metrics: &WorkerMetrics,
    config: &ConnectionConfig,
    (peer, request_id): (Peer, RequestId),
    phases: &UpgradePhases,
    error: &hyper::Error,
) {
    let (identities, client) = (gateway.process.sessions.identities(), peer.address());
    // An incomplete head is charged, too. A 429 would come too late here.
    let charge = || {
        let Some(client) = config.counted(peer) else { return };
        let _ = gateway.snapshot().policy().charge(client, clock::now());
    };
    if !error.is_parse() {
        if error.is_incomplete_message() || error.is_timeout() {
            charge();
        }
        return tracing::debug!(client = identities.address(client), %error, "no request");
    }
    charge();
    let rejection = Rejection::Head { too_large: error.is_parse_too_large() };
    let detail = error.to_string();
    let times = gateway.process.sessions.slow_times(phases, clock::now());
    let event = RejectionEvent { detail: Some(&detail), times, ..RejectionEvent::new(rejection, request_id, client) };
    metrics.count_upgrade("", rejection.label());
    gateway.log_rejection(&event);
}

/// Lets a client read its response before the connection closes. Without a permit the connection closes at once, and a
/// client that sent more than its request may see a reset instead.
async fn linger(mut stream: ClientStream, closing: Option<ClosingPermit>) {
    let has_permit = closing.is_some();
    let mut reading = pin!(async {
        stream.shutdown().await?;
        let (mut ignored, mut total) = ([0; 1024], 0);
        while total < LINGER_MAX_BYTES {
            match stream.read(&mut ignored).await? {
                0 => break,
                // A read of a single byte may have cost several key updates.
                n => total += n.max(ignored.len()),
            }
            cycle::next().await;
        }
        io::Result::Ok(())
    });
    // An error has no consequence: the response was written.
    if has_permit {
        let _ = timeout(LINGER, reading).await;
    } else {
        poll_fn(|cx| {
            let _ = reading.as_mut().poll(cx);
            Poll::Ready(())
        })
        .await;
    }
}
