//! The upstream of the demo: a server on loopback with a page and a WebSocket that echoes every message.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::runtime::tasks::{Tasks, start_thread};
use crate::ws::frame::{Header, Opcode, apply_mask};
use crate::ws::handshake::{self, Opening, OpeningError};

/// Maximum number of concurrent connections.
const CONNECTIONS_MAX: usize = 1024;
/// Maximum size of a frame's payload; the limit in the demo's configuration is smaller.
const FRAME_MAX_BYTES: usize = 1024 * 1024;

/// The policy of the page (CSP): it has its own styles and scripts, and opens WebSockets of this machine only.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
                           connect-src 'self' wss://localhost:*; frame-ancestors 'none'";

/// Starts the server on a thread that runs until the process ends. The kernel chooses the port. `page` is the HTML page
/// for a `GET` that is not an upgrade.
///
/// # Errors
/// If the system cannot provide a port, a thread or an event queue.
pub fn start(page: String) -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    start_thread("echo", runtime, accept(listener, page.into()))?;
    Ok(address)
}

async fn accept(listener: TcpListener, page: Bytes) {
    let (tasks, permits) = (Tasks::default(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let page = page.clone();
        tasks.start(async move {
            // An error concerns only its connection.
            let _ = serve(stream, page).await;
            drop(permit);
        });
    }
}

async fn serve(stream: TcpStream, page: Bytes) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request| {
        let page = page.clone();
        Box::pin(async move { Ok::<_, Infallible>(answer(&request, page)) })
    });
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(io::Error::other)?;
    let parts = connection.into_parts();
    echo(parts.io.into_inner(), parts.read_buf.to_vec()).await
}

fn answer(request: &Request<Incoming>, page: Bytes) -> Response<Full<Bytes>> {
    let opening = match Opening::parse(request.method(), request.uri(), request.version(), request.headers()) {
        Ok(opening) => opening,
        Err(OpeningError::NotUpgrade) if matches!(*request.method(), Method::GET | Method::HEAD) => {
            return page_response(page);
        }
        Err(_) => return status(StatusCode::BAD_REQUEST),
    };
    let Ok(accept) = HeaderValue::from_str(&handshake::accept(opening.key)) else {
        return status(StatusCode::BAD_REQUEST);
    };
    let mut response = status(StatusCode::SWITCHING_PROTOCOLS);
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

fn status(status: StatusCode) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}

fn page_response(page: Bytes) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(page));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

/// Sends every frame back unmasked, except that it answers a Ping with a Pong and drops a Pong. Returns after a Close.
async fn echo(mut stream: TcpStream, mut buffer: Vec<u8>) -> io::Result<()> {
    let broken = |_| io::Error::from(io::ErrorKind::InvalidData);
    loop {
        let Some(header) = Header::decode(&buffer).map_err(broken)? else {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
            continue;
        };
        let len = usize::try_from(header.payload_len).unwrap_or(usize::MAX);
        if len > FRAME_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        let whole = header.len + len;
        while buffer.len() < whole {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Ok(());
            }
        }
        let rest = buffer.split_off(whole);
        let mut payload = std::mem::replace(&mut buffer, rest).split_off(header.len);
        apply_mask(&mut payload, header.mask.unwrap_or_default(), 0);
        let opcode = if header.opcode == Opcode::Ping { Opcode::Pong } else { header.opcode };
        if opcode != Opcode::Pong || header.opcode == Opcode::Ping {
            let mut out = Vec::with_capacity(whole);
            Header { opcode, mask: None, ..header }.encode(&mut out);
            out.extend_from_slice(&payload);
            stream.write_all(&out).await?;
        }
        if opcode == Opcode::Close {
            return stream.shutdown().await;
        }
    }
}
