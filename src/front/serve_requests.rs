//! The requests of a connection: reads each, and writes its response. Most connections carry one.

use std::convert::Infallible;
use std::future::{Future, pending, poll_fn};
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::Notify;
use tokio::time::sleep;

use super::accept::after_drain;
use super::answer::{Answered, answer};
use super::answer_body::AnswerBody;
use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use super::plain;
use super::request_connection::RequestConnection;
use super::request_deadlines::RequestDeadlines;
use super::request_progress::Phase;
use super::request_stream::RequestStream;
use super::upgrade::{self, OpenedSession};
use crate::policy::forwarded::Client;
use crate::policy::peer::Peer;
use crate::policy::rejection::Rejection;
use crate::runtime::clock;
use crate::runtime::entropy;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::{ClosingPermit, PendingPermit};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::RequestId;
use crate::tls::stream::ClientStream;

/// The time that a client has to read the last response.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The outcome of the requests of a connection.
pub(super) enum RequestOutcome {
    /// The client has its 101.
    Upgraded(Box<OpenedSession>),
    /// The connection closes, with a permit to linger if one is free.
    Closed(Option<ClosingPermit>),
}

/// The progress of the present request of a connection.
enum RequestState {
    /// The head of the first one is being read; the connection is pending.
    Reading { _permit: PendingPermit },
    /// It waits for its response.
    Processing,
    /// Its 101 is being written.
    Upgraded(Box<OpenedSession>),
    /// The response of an upstream is being written, or was, and the connection may carry another request.
    Forwarded,
    /// Another response is being written. Without a permit, no more is written than the kernel takes at once.
    Closed(Option<ClosingPermit>),
}

type ResponseFuture<'a> = Pin<Box<dyn Future<Output = Result<Response<AnswerBody>, Infallible>> + Send + 'a>>;

/// Reads requests and answers them, until one is upgraded or the connection is to close. The first head must be read by
/// the deadline. Returns the stream, the bytes that the client sent after its last request, and the outcome.
pub(super) async fn serve_requests(
    requests: &RequestConnection<'_>,
    (stream, permit): (ClientStream, PendingPermit),
    deadline: Instant,
    phases: UpgradePhases,
) -> (ClientStream, Bytes, RequestOutcome) {
    let RequestConnection { gateway, worker, config, peer: (peer, endpoints), progress, .. } = requests;
    let lifecycle = &gateway.process.lifecycle;
    let request_id = new_id();
    let state = Mutex::new(RequestState::Reading { _permit: permit });
    let response_ready = Notify::new();
    let service = service_fn(|request: Request<Incoming>| -> ResponseFuture<'_> {
        // No byte behind the request is passed on from this step on.
        progress.enter(Phase::Processing);
        // An admitted request counts as a session from this step on, and a rejected one takes a closing permit.
        *lock(&state) = RequestState::Processing;
        let is_first = requests.count_request();
        let (id, mut phases) =
            if is_first { (request_id, phases) } else { (new_id(), UpgradePhases::start(clock::now())) };
        phases.enter(UpgradePhase::Admission, clock::now());
        let (state, response_ready) = (&state, &response_ready);
        let (head, body) = request.into_parts();
        Box::pin(async move {
            let peer = (*peer, *endpoints);
            let client = Client::of_request(&head.headers, peer, &config.trusted_proxies, config.scheme());
            let request = Request::from_parts(head, ());
            let plain = config.plain.as_ref();
            let plain = plain.and_then(|plain| plain::answer(plain, requests, client.address, id, &request));
            let (response, answered) = match plain {
                Some(response) => (response.map(AnswerBody::Own), Answered::Closed(None)),
                None => answer(requests, client, (id, is_first), phases, &request, body).await,
            };
            let next = match answered {
                Answered::Upgraded(opened) => RequestState::Upgraded(opened),
                Answered::Forwarded(_) => RequestState::Forwarded,
                Answered::Closed(_) => {
                    RequestState::Closed(gateway.pending_limit.closing(config.counted(Peer::Ip(client.address))))
                }
            };
            if !matches!(next, RequestState::Forwarded) {
                response_ready.notify_one();
            }
            *lock(state) = next;
            Ok(response)
        })
    });
    let deadlines = RequestDeadlines::new(deadline, config.keep_alive_timeout, config.handshake_timeout);
    let stream = RequestStream::new(
        stream,
        progress,
        deadlines,
        request_id,
        (ClientStream::is_peer_closed, ClientStream::limit_unsent),
    );
    let mut connection = http1::Builder::new()
        .max_buf_size(config.head_max_bytes)
        .max_headers(config.head_max_headers)
        .serve_connection(TokioIo::new(stream), service);
    let mut drain = Drain::default();
    let serving = poll_fn(|cx| {
        loop {
            if let Poll::Ready(served) = connection.poll_without_shutdown(cx) {
                return Poll::Ready(Some(served));
            }
            match &*lock(&state) {
                RequestState::Closed(None) => return Poll::Ready(None),
                RequestState::Forwarded if drain.begins(lifecycle, cx) => {}
                _ => return Poll::Pending,
            }
            // The connection closes after the response in progress, or at once if there is none.
            Pin::new(&mut connection).graceful_shutdown();
        }
    });
    let (was_written, error) = tokio::select! {
        served = serving => (true, served.and_then(Result::err)),
        () = async {
            after_drain(lifecycle).await;
            if requests.requests() > 0 {
                pending::<()>().await;
            }
        } => (false, None),
        () = async { response_ready.notified().await; sleep(ANSWER_TIMEOUT).await } => (false, None),
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    if let Some(error) = error {
        let is_late = io.inner().is_late();
        reject_head(gateway, worker.metrics(), config, (*peer, request_id), &phases, (&error, is_late));
        if error.is_parse() && config.tls.is_none() && io.inner().is_proxy_header() {
            let (identities, now) = (gateway.process.sessions.identities(), clock::now());
            gateway.rejections.log_proxy_header(peer.address(), &config.listener, identities, now);
        }
    }
    let outcome = match state.into_inner().unwrap_or_else(PoisonError::into_inner) {
        RequestState::Upgraded(opened) if was_written => RequestOutcome::Upgraded(opened),
        RequestState::Closed(closing) => RequestOutcome::Closed(closing),
        unfinished => {
            if let RequestState::Upgraded(opened) = &unfinished {
                upgrade::log_answer_not_taken(gateway, worker.metrics(), opened);
            }
            // Its permit or session ends before the closing permit is taken.
            drop(unfinished);
            RequestOutcome::Closed(gateway.pending_limit.closing(config.counted(*peer)))
        }
    };
    let (stream, read_ahead) = io.into_inner().into_parts(read_buf);
    (stream, read_ahead, outcome)
}

/// The wait of a connection with ordinary requests for the drain.
#[derive(Default)]
struct Drain<'a> {
    waiting: Option<Pin<Box<dyn Future<Output = ()> + Send + 'a>>>,
    has_begun: bool,
}

impl<'a> Drain<'a> {
    /// Whether the drain begins now. It does so once.
    fn begins(&mut self, lifecycle: &'a Lifecycle, cx: &mut Context<'_>) -> bool {
        if self.has_begun {
            return false;
        }
        let waiting = self.waiting.get_or_insert_with(|| Box::pin(lifecycle.draining()));
        self.has_begun = waiting.as_mut().poll(cx).is_ready();
        self.has_begun
    }
}

fn new_id() -> RequestId {
    RequestId(u128::from_be_bytes(entropy::random()))
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
    (error, is_late): (&hyper::Error, bool),
) {
    let (identities, client) = (gateway.process.sessions.identities(), peer.address());
    // An incomplete head is charged, too. A 429 would come too late here.
    let charge = || {
        let Some(client) = config.counted(peer) else { return };
        let _ = gateway.snapshot().policy().charge(client, clock::now());
    };
    if !error.is_parse() {
        if error.is_incomplete_message() || is_late {
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
