//! The opening handshake with a server: sends the request, reads the answer's head, and takes the connection back.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;

use http::{HeaderName, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::stream::UpstreamStream;

/// How much of an answer's head is read.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// How many header fields an answer may have.
const HEAD_MAX_HEADERS: usize = 128;
/// How much of a refusal's body is passed on; of a longer one nothing is.
const BODY_MAX_BYTES: usize = 64 * 1024;

type Connection = http1::Connection<TokioIo<UpstreamStream>, Empty<Bytes>>;

/// What a server answered.
#[derive(Debug)]
pub enum Answered {
    /// 101: from here on the connection carries what both ends agreed on.
    Switched {
        /// The head of the answer.
        head: Response<()>,
        /// The connection.
        stream: UpstreamStream,
        /// What the server sent behind the head.
        early: Bytes,
    },
    /// Any other status.
    Refused(Response<Bytes>),
}

/// Asks a server to switch protocols.
///
/// # Errors
/// If the connection breaks, or what comes is not HTTP or too large.
pub async fn open(stream: UpstreamStream, request: Request<Empty<Bytes>>) -> io::Result<Answered> {
    let (mut sender, mut connection) = http1::Builder::new()
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEAD_MAX_HEADERS)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    let response = drive(&mut connection, sender.send_request(request)).await?.map_err(io::Error::other)?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return refused(&mut connection, response).await.map(Answered::Refused);
    }
    // hyper is done with the connection as soon as it has nothing more to read or write for the head.
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.map_err(io::Error::other)?;
    let parts = connection.into_parts();
    Ok(Answered::Switched { head: response.map(drop), stream: parts.io.into_inner(), early: parts.read_buf })
}

async fn refused(connection: &mut Connection, response: Response<Incoming>) -> io::Result<Response<Bytes>> {
    let (mut head, body) = response.into_parts();
    let body = if let Ok(body) = drive(connection, Limited::new(body, BODY_MAX_BYTES).collect()).await? {
        body.to_bytes()
    } else {
        // What the head says of the body that is left out would be wrong of an empty one.
        let is_about_body = |name: &&HeaderName| name.as_str().starts_with("content-");
        let about_body: Vec<HeaderName> = head.headers.keys().filter(is_about_body).cloned().collect();
        for name in about_body {
            head.headers.remove(name);
        }
        Bytes::new()
    };
    Ok(Response::from_parts(head, body))
}

/// Runs the connection until `future` is ready. The connection's own end is no error: what it read before may be just
/// what `future` waits for.
async fn drive<F: Future>(connection: &mut Connection, future: F) -> io::Result<F::Output> {
    let mut future = pin!(future);
    let mut ended = false;
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if !ended {
            ended = connection.poll_without_shutdown(cx).is_ready();
        }
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending if ended => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}
