//! The upstream of the demo: a WebSocket server on loopback that echoes every message.

use std::convert::Infallible;
use std::future::poll_fn;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use http::header::{CONNECTION, HeaderValue, SEC_WEBSOCKET_ACCEPT, UPGRADE};
use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::runtime::tasks::{Tasks, start_thread};
use crate::ws::frame::{Header, Opcode, apply_mask};
use crate::ws::handshake::{self, Opening};

/// Maximum number of concurrent connections.
const CONNECTIONS_MAX: usize = 1024;
/// Maximum size of a frame's payload; the limit in the demo's configuration is smaller.
const FRAME_MAX_BYTES: usize = 1024 * 1024;

/// Starts the server on a thread that runs until the process ends. The kernel chooses the port.
///
/// # Errors
/// If the system cannot provide a port, a thread or an event queue.
pub fn start() -> io::Result<SocketAddr> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))?;
    let address = listener.local_addr()?;
    start_thread("echo", runtime, accept(listener))?;
    Ok(address)
}

async fn accept(listener: TcpListener) {
    let (tasks, permits) = (Tasks::default(), Arc::new(Semaphore::new(CONNECTIONS_MAX)));
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else { continue };
        tasks.start(async move {
            // An error concerns only its connection.
            let _ = serve(stream).await;
            drop(permit);
        });
    }
}

async fn serve(stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let service = service_fn(|request| Box::pin(async move { Ok::<_, Infallible>(answer(&request)) }));
    let mut connection = http1::Builder::new()
        .keep_alive(false)
        .timer(hyper_util::rt::TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service);
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(io::Error::other)?;
    let parts = connection.into_parts();
    echo(parts.io.into_inner(), parts.read_buf.to_vec()).await
}

fn answer(request: &Request<Incoming>) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    let opening = Opening::parse(request.method(), request.uri(), request.version(), request.headers());
    let accept = opening.ok().and_then(|opening| HeaderValue::from_str(&handshake::accept(opening.key)).ok());
    let Some(accept) = accept else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("websocket"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(SEC_WEBSOCKET_ACCEPT, accept);
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
