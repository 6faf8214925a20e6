//! One connection from its TLS handshake to its end: a request, a refusal or a session.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use super::request_stream::RequestStream;
use super::upgrade::{self, OpenedSession};
use crate::policy::rejection::Rejection;
use crate::relay::{Prefixed, Relay, SessionMeta};
use crate::runtime::clock;
use crate::runtime::cycle;
use crate::runtime::entropy;
use crate::runtime::guard::PendingConnection;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::{ClosingPermit, PendingPermit};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::RequestId;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// How long a client that was refused may take to read that, and how much it may still send meanwhile: closing a
/// socket with unread bytes would reset the connection and take the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX_BYTES: usize = 256 * 1024;
/// How long a client that has not asked yet may take to do so once the drain has started.
const DRAIN_GRACE: Duration = Duration::from_secs(1);
/// How often a client that waits for its place is looked at that sends urgent data.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a client may take to take its answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves a connection up to its refusal or its 101, or until the process is cut off. The wait for its place, its TLS
/// handshake and the request's head have until the deadline.
pub async fn serve(
    gateway: &Arc<Gateway>,
    config: &ConnectionConfig,
    stream: TcpStream,
    client: IpAddr,
    pending: PendingConnection,
    deadline: Instant,
) -> Option<Relay<ClientStream, UpstreamStream>> {
    let PendingConnection { slot, guard } = pending;
    let accepting = async {
        let permit = tokio::select! {
            permit = slot.acquire() => permit,
            // A client that left while it waited gives its place to wait back.
            () = peer_closed(&stream) => None,
        };
        let permit = permit.ok_or_else(|| io::Error::from(io::ErrorKind::NotConnected))?;
        Ok::<_, io::Error>((permit, ClientStream::accept(&config.tls, stream).await?))
    };
    let handshake = tokio::select! {
        () = gateway.process.lifecycle.aborted() => return None,
        () = after_drain(&gateway.process.lifecycle) => return None,
        handshake = tokio::time::timeout_at(deadline.into(), accepting) => handshake,
    };
    let (permit, stream) = match handshake {
        Ok(Ok(accepted)) => accepted,
        Ok(Err(error)) => {
            tracing::debug!(client = gateway.process.sessions.identities().address(client), %error, "TLS handshake failed");
            return None;
        }
        Err(_) => {
            tracing::debug!(
                client = gateway.process.sessions.identities().address(client),
                "TLS handshake took too long"
            );
            return None;
        }
    };
    let left = deadline.saturating_duration_since(clock::now());
    let (stream, read_ahead, outcome) = tokio::select! {
        () = gateway.process.lifecycle.aborted() => return None,
        request = take_request(gateway, config, stream, client, permit, left) => request,
    };
    let OpenedSession { admission, session, upstream, read_ahead: upstream_read_ahead, server, request_id, summary } =
        match outcome {
            RequestOutcome::Upgraded(opened) => *opened,
            RequestOutcome::Rejected(closing) => {
                linger(stream, closing).await;
                return None;
            }
        };
    // What was read early is copied out, since it keeps hyper's whole buffer alive.
    let client_side = Prefixed(stream, read_ahead.to_vec());
    let upstream_side = Prefixed(upstream, upstream_read_ahead.to_vec());
    let meta = SessionMeta { client, server, request_id, summary };
    let process = Arc::clone(&gateway.process);
    Some(Relay::new(admission.into_lease(), session, client_side, upstream_side, meta, process, guard))
}

/// Becomes ready when the client has closed its direction, whatever it sent before.
async fn peer_closed(stream: &TcpStream) {
    // Interest in urgent data is told of the end as well. Urgent data itself means nothing here.
    while stream.ready(Interest::PRIORITY).await.is_ok_and(|ready| !ready.is_read_closed()) {
        sleep(WATCH_INTERVAL).await;
    }
}

/// What became of a connection's request.
enum RequestOutcome {
    /// It got a session.
    Upgraded(Box<OpenedSession>),
    /// It got none; with its place among those that leave, if it has one.
    Rejected(Option<ClosingPermit>),
}

/// What the answer to a request leaves for the connection.
#[derive(Default)]
struct RequestProgress {
    /// The place up to the end of the request head.
    permit: Option<PendingPermit>,
    opened: Option<OpenedSession>,
    closing: Option<ClosingPermit>,
}

/// Reads one request and answers it. What comes back is the stream, what the client sent behind its request, and the
/// session if it got one.
async fn take_request(
    gateway: &Gateway,
    config: &ConnectionConfig,
    stream: ClientStream,
    client: IpAddr,
    permit: PendingPermit,
    head_timeout: Duration,
) -> (ClientStream, Bytes, RequestOutcome) {
    let progress = Mutex::new(RequestProgress { permit: Some(permit), ..RequestProgress::default() });
    let (head_was_read, closes_at_once, response_ready) =
        (AtomicBool::new(false), AtomicBool::new(false), Notify::new());
    let service = service_fn(|request: Request<Incoming>| -> ResponseFuture<'_> {
        head_was_read.store(true, Ordering::Relaxed);
        // The head is read. A request that is admitted counts as a session in this same step, and one that is refused
        // takes a place to leave.
        lock(&progress).permit = None;
        let (progress, closes_at_once, response_ready) = (&progress, &closes_at_once, &response_ready);
        Box::pin(async move {
            let (response, opened) = upgrade::answer(gateway, client, &request).await;
            let closing = if opened.is_none() { config.pending_limit.closing(client) } else { None };
            closes_at_once.store(opened.is_none() && closing.is_none(), Ordering::Relaxed);
            *lock(progress) = RequestProgress { permit: None, opened, closing };
            response_ready.notify_one();
            Ok(response)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(config.head_max_bytes)
        .max_headers(config.head_max_headers)
        .serve_connection(
            TokioIo::new(RequestStream::new(stream, &head_was_read, ClientStream::is_peer_closed)),
            service,
        );
    let serving = poll_fn(|cx| match connection.poll_without_shutdown(cx) {
        Poll::Ready(served) => Poll::Ready(Some(served)),
        // Without a place to leave the client gets of its refusal what the kernel takes at once.
        Poll::Pending if closes_at_once.load(Ordering::Relaxed) => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
    });
    let completed = tokio::select! {
        served = serving => {
            if let Some(Err(error)) = served {
                reject_head(gateway, client, &error);
            }
            true
        }
        () = async {
            after_drain(&gateway.process.lifecycle).await;
            if head_was_read.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        } => false,
        () = async { response_ready.notified().await; sleep(ANSWER_TIMEOUT).await } => false,
    };
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let RequestProgress { permit, opened, closing } = progress.into_inner().unwrap_or_else(PoisonError::into_inner);
    drop(permit);
    let outcome = match opened {
        Some(opened) if completed => RequestOutcome::Upgraded(Box::new(opened)),
        Some(opened) => {
            upgrade::log_answer_not_taken(gateway, client, &opened);
            drop(opened);
            RequestOutcome::Rejected(config.pending_limit.closing(client))
        }
        None if closing.is_none() && !closes_at_once.load(Ordering::Relaxed) => {
            RequestOutcome::Rejected(config.pending_limit.closing(client))
        }
        None => RequestOutcome::Rejected(closing),
    };
    let (stream, read_ahead) = io.into_inner().into_parts(read_buf);
    (stream, read_ahead, outcome)
}

fn lock(progress: &Mutex<RequestProgress>) -> MutexGuard<'_, RequestProgress> {
    progress.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Some clients connect long before they ask, or never do. When the drain starts they get this long to ask, and to be told
/// that it is too late.
async fn after_drain(lifecycle: &Lifecycle) {
    lifecycle.draining().await;
    sleep(DRAIN_GRACE).await;
}

/// What is no request was answered by hyper, or not at all; here it is logged.
fn reject_head(gateway: &Gateway, client: IpAddr, error: &hyper::Error) {
    if !error.is_parse() {
        // A head that was begun is charged, whether or not its end comes.
        if error.is_incomplete_message() || error.is_timeout() {
            let _ = gateway.snapshot().policy().charge(client, clock::now());
        }
        let client = gateway.process.sessions.identities().address(client);
        return tracing::debug!(client, %error, "no request");
    }
    // It is too late for a 429 in its place, but it counts.
    let _ = gateway.snapshot().policy().charge(client, clock::now());
    let rejection = Rejection::Head { too_large: error.is_parse_too_large() };
    let detail = error.to_string();
    let request_id = RequestId(u128::from_be_bytes(entropy::random()));
    let event = RejectionEvent { detail: Some(&detail), ..RejectionEvent::new(rejection, request_id, client) };
    gateway.rejections.log(&event, gateway.process.sessions.identities(), clock::now());
}

type ResponseFuture<'a> = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'a>>;

/// Lets a client read its refusal before the connection closes. Without a place to leave the connection closes at once, and
/// the client may see a reset instead if it sent more than its request.
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
    // Whatever goes wrong now, the client has had its answer.
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
