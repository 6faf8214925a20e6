//! One connection from its TLS handshake to its end: a request, a refusal or a session.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::relay::{self, Report, Streams};
use super::tls::ClientStream;
use super::upgrade::{self, Gateway, Opened};
use super::{clock, lifecycle::Lifecycle};
use crate::telemetry::sessions::{self, Ended};

/// How long a client that was refused may take to read that, and how much it may still send meanwhile: closing a
/// socket with unread bytes would reset the connection and take the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_MAX_BYTES: usize = 256 * 1024;

/// What a listener says of its connections.
#[derive(Debug)]
pub struct Door {
    /// TLS's settings.
    pub tls: Arc<ServerConfig>,
    /// How long the TLS handshake and the request head may take together.
    pub handshake_timeout: Duration,
    /// The largest request head.
    pub head_max_bytes: usize,
    /// The most header fields in it.
    pub head_max_headers: usize,
}

/// Serves a connection until its end, or until the process is cut off.
pub async fn serve(gateway: &Gateway, door: &Door, stream: TcpStream, client: IpAddr) {
    let deadline = tokio::time::Instant::now() + door.handshake_timeout;
    let handshake = tokio::select! {
        () = gateway.lifecycle.cut_off() => return,
        handshake = tokio::time::timeout_at(deadline, ClientStream::accept(&door.tls, stream)) => handshake,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%client, %error, "TLS handshake failed"),
        Err(_) => return tracing::debug!(%client, "TLS handshake took too long"),
    };
    let left = deadline.saturating_duration_since(tokio::time::Instant::now());
    let (stream, early, opened) = tokio::select! {
        () = gateway.lifecycle.cut_off() => return,
        request = take_request(gateway, door, stream, client, left) => request,
    };
    match opened {
        Some(opened) => relay_session(&gateway.lifecycle, stream, &early, opened, client).await,
        None => linger(stream).await,
    }
}

/// Reads one request and answers it. What comes back is the stream, what the client sent behind its request, and the
/// session if it got one.
async fn take_request(
    gateway: &Gateway,
    door: &Door,
    stream: ClientStream,
    client: IpAddr,
    head_timeout: Duration,
) -> (ClientStream, Bytes, Option<Opened>) {
    let opened = Mutex::new(None);
    let service = service_fn(|request: Request<Incoming>| -> Answering<'_> {
        let opened = &opened;
        Box::pin(async move {
            let (response, session) = upgrade::answer(gateway, client, &request).await;
            *opened.lock().unwrap_or_else(PoisonError::into_inner) = session;
            Ok(response)
        })
    });
    let mut connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(door.head_max_bytes)
        .max_headers(door.head_max_headers)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = poll_fn(|cx| connection.poll_without_shutdown(cx)).await {
        tracing::debug!(%client, %error, "no request");
    }
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let opened = opened.into_inner().unwrap_or_else(PoisonError::into_inner);
    (io.into_inner(), read_buf, opened)
}

type Answering<'a> = Pin<Box<dyn Future<Output = Result<Response<Full<Bytes>>, Infallible>> + Send + 'a>>;

async fn relay_session(lifecycle: &Lifecycle, client: ClientStream, early: &Bytes, opened: Opened, address: IpAddr) {
    let started = clock::now();
    let route = Arc::clone(opened.admission.route());
    let subject = opened.admission.subject().map(str::to_owned);
    let streams = Streams { client: (client, early.to_vec()), upstream: (opened.upstream, opened.early.to_vec()) };
    let Report { outcome, counts } = relay::run(opened.admission, opened.session, streams, lifecycle).await;
    sessions::log(&Ended {
        request_id: &opened.request_id,
        route: &route.name,
        subject: subject.as_deref(),
        client: address,
        server: &opened.server,
        age: clock::now().saturating_duration_since(started),
        outcome,
        counts,
    });
}

/// Lets a client read its refusal before the connection closes.
async fn linger(mut stream: ClientStream) {
    let reading = async {
        stream.shutdown().await?;
        let (mut ignored, mut total) = ([0; 1024], 0);
        while total < LINGER_MAX_BYTES {
            match stream.read(&mut ignored).await? {
                0 => break,
                n => total += n,
            }
        }
        io::Result::Ok(())
    };
    // Whatever goes wrong now, the client has had its answer.
    let _ = timeout(LINGER, reading).await;
}
