//! The opening handshake with a server: sends the request, reads the head of the response, and returns the connection.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;
use tokio::time::timeout;

use super::stream::UpstreamStream;
use crate::client::short_body;

/// The maximum size of the head of a response.
const HEAD_MAX_BYTES: usize = 32 * 1024;
/// The maximum number of header fields in a response.
const HEAD_MAX_HEADERS: usize = 128;

type Connection = http1::Connection<TokioIo<UpstreamStream>, Empty<Bytes>>;

/// The response of a server.
#[derive(Debug)]
pub enum UpstreamResponse {
    /// 101: the connection now carries the new protocol.
    Switched {
        /// The head of the response.
        head: Response<()>,
        /// The connection.
        stream: UpstreamStream,
        /// The bytes that the server sent after the head.
        read_ahead: Bytes,
    },
    /// Any other status.
    NotSwitched(Response<Bytes>),
}

/// The reason why a server that accepted the connection returned no response.
#[derive(Debug)]
pub enum OpenError {
    /// The head was not received in time.
    Timeout,
    /// The response is not HTTP, its head is too large, or other parties may delimit its body differently.
    Malformed(String),
    /// The connection broke before the head was received.
    Broken(io::Error),
}

impl From<hyper::Error> for OpenError {
    fn from(error: hyper::Error) -> Self {
        if error.is_parse() { Self::Malformed(error.to_string()) } else { Self::Broken(io::Error::other(error)) }
    }
}

/// Sends a PROXY header, unless it is empty, and a request to switch protocols. The head of the response must be
/// received within `response_timeout`.
///
/// # Errors
/// If the head is not received in time, the connection breaks, or the response is not HTTP or has too large a head.
pub async fn open(
    mut stream: UpstreamStream,
    proxy_header: &[u8],
    request: Request<Empty<Bytes>>,
    response_timeout: Duration,
    title_case_headers: bool,
) -> Result<UpstreamResponse, OpenError> {
    let asking = async {
        stream.write_all(proxy_header).await.map_err(OpenError::Broken)?;
        ask(stream, request, title_case_headers).await
    };
    let (response, mut connection) = timeout(response_timeout, asking).await.map_err(|_| OpenError::Timeout)??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        let body_timeout = response_timeout.min(short_body::BODY_TIMEOUT);
        return Ok(UpstreamResponse::NotSwitched(not_switched(&mut connection, response, body_timeout).await));
    }
    let parts = connection.into_parts();
    Ok(UpstreamResponse::Switched {
        head: response.map(drop),
        stream: parts.io.into_inner(),
        read_ahead: parts.read_buf,
    })
}

/// Returns the settings of a connection.
pub(super) fn builder(title_case_headers: bool) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEAD_MAX_HEADERS)
        .title_case_headers(title_case_headers)
        // A proxy removes white space before a colon of a response (RFC 9112 section 5.1), and replaces line folding
        // with spaces (section 5.2); hyper does both. Any other malformed line makes the whole response malformed.
        .allow_spaces_after_header_name_in_responses(true)
        .allow_obsolete_multiline_headers_in_responses(true);
    builder
}

/// Sends the request and reads the head of the final response. After a 101, hyper is done with the connection.
async fn ask(
    stream: UpstreamStream,
    request: Request<Empty<Bytes>>,
    title_case_headers: bool,
) -> Result<(Response<Incoming>, Connection), OpenError> {
    let (mut sender, mut connection) = builder(title_case_headers).handshake(TokioIo::new(stream)).await?;
    let sent = drive(&mut connection, sender.send_request(request)).await.map_err(OpenError::Broken)?;
    let response = sent?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        poll_fn(|cx| connection.poll_without_shutdown(cx)).await?;
    }
    Ok((response, connection))
}

/// Returns a response other than 101. Its body is dropped if it is too long, takes too long or is incomplete: the
/// status was received.
async fn not_switched(
    connection: &mut Connection,
    response: Response<Incoming>,
    body_timeout: Duration,
) -> Response<Bytes> {
    let (head, body) = response.into_parts();
    let reading = async { drive(connection, short_body::read(body)).await.ok().flatten() };
    short_body::attach(head, reading, body_timeout).await
}

/// Runs the connection until `future` is ready. The end of the connection alone is not an error: `future` may complete
/// with what was read before.
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
