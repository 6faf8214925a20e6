//! Adds the request id to hyper's response to a head that hyper rejects.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::headers::X_REQUEST_ID;
use crate::telemetry::request::RequestId;

/// A writer for the response to a head that hyper rejects. hyper has no means to add a header to this response.
#[derive(Debug)]
pub(super) struct HeadRejection {
    request_id: RequestId,
    /// The response with the id. Empty until hyper has written its own.
    response: Vec<u8>,
    /// The number of bytes of `response` that were written.
    written: usize,
}

impl HeadRejection {
    pub(super) fn new(request_id: RequestId) -> Self {
        Self { request_id, response: Vec::new(), written: 0 }
    }

    /// Writes the bytes of hyper's response with the id added. hyper passes its response as a whole, and again until
    /// all of it is written.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.response.is_empty() {
            self.response = with_id(bytes, self.request_id);
        }
        while let Some(rest @ [_, ..]) = self.response.get(self.written..) {
            match ready!(Pin::new(&mut *stream).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                n => self.written += n,
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
}

/// Returns a response with the id as its first header field.
fn with_id(response: &[u8], request_id: RequestId) -> Vec<u8> {
    const LINE_END: &[u8] = b"\r\n";
    let line_end = response.windows(LINE_END.len()).position(|bytes| bytes == LINE_END);
    let Some((status_line, fields)) = line_end.and_then(|at| response.split_at_checked(at + LINE_END.len())) else {
        return response.to_vec();
    };
    [status_line, format!("{X_REQUEST_ID}: {request_id}\r\n").as_bytes(), fields].concat()
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// Takes a byte in every second call.
    #[derive(Default)]
    struct Slow {
        taken: Vec<u8>,
        calls: usize,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.calls += 1;
            if self.calls.is_multiple_of(2) {
                return Poll::Pending;
            }
            self.taken.push(bytes[0]);
            Poll::Ready(Ok(1))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn the_id_is_written_once_over_any_number_of_partial_writes() {
        let response = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n";
        let (mut rejection, mut stream) = (HeadRejection::new(RequestId(10)), Slow::default());
        let mut cx = Context::from_waker(Waker::noop());
        let written = loop {
            if let Poll::Ready(written) = rejection.poll_write(&mut stream, &mut cx, response) {
                break written.unwrap();
            }
        };
        assert_eq!(written, response.len());
        let id = format!("x-request-id: {:032x}", 10);
        let expected = format!("HTTP/1.1 400 Bad Request\r\n{id}\r\nconnection: close\r\n\r\n");
        assert_eq!(String::from_utf8(stream.taken).unwrap(), expected);
    }

    #[test]
    fn bytes_without_a_status_line_are_not_changed() {
        assert_eq!(with_id(b"HTTP/1.1 400", RequestId(1)), b"HTTP/1.1 400");
    }
}
