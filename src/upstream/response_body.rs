//! The body of a server's response on its way to the client. At its end, its connection can carry another request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::http_connection::HttpConnection;
use super::http_pool::HttpPool;
use super::open::OpenError;
use super::request_body::is_malformed;
use crate::balance::Pool;
use crate::client::http_client::causes;

/// The body of a response. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    connection: Option<HttpConnection>,
    home: Option<Home>,
    /// What was read by [`ResponseBody::begin`].
    first: Option<Frame<Bytes>>,
    has_ended: bool,
}

/// Where a connection is kept while it is unused.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) connections: Arc<HttpPool>,
    pub(super) pool: Arc<Pool>,
    pub(super) server: Arc<str>,
}

impl ResponseBody {
    /// `home` is `None` for a connection that carries one request only.
    pub(super) fn new(body: Incoming, connection: HttpConnection, home: Option<Home>) -> Self {
        Self { body, connection: Some(connection), home, first: None, has_ended: false }
    }

    /// Reads the beginning of a body in chunks, as far as it has arrived with the head.
    ///
    /// # Errors
    /// If it is malformed, or the server has disconnected within it. The client has got nothing of the response yet.
    pub(super) fn begin(&mut self) -> Result<(), OpenError> {
        // The length that a body of known length has left is that of its response.
        if self.body.size_hint().exact().is_some() {
            return Ok(());
        }
        match self.poll_body(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Some(Ok(frame))) => self.first = Some(frame),
            Poll::Ready(Some(Err(error))) => {
                let of_body = error.get_ref().and_then(|error| error.downcast_ref());
                let is_malformed = of_body.is_some_and(is_malformed);
                return Err(if is_malformed { OpenError::Malformed(causes(&error)) } else { OpenError::Broken(error) });
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        Ok(())
    }

    fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let mut polled = Pin::new(&mut self.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut self.connection
        {
            connection.poll(cx);
            polled = Pin::new(&mut self.body).poll_frame(cx);
            if polled.is_pending() && connection.has_ended() {
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
        }
        // hyper polls no further after the trailers.
        self.has_ended = match &polled {
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(None) => true,
            _ => false,
        };
        polled.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(first))),
            None => self.poll_body(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && (self.has_ended || self.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        if !self.is_end_stream() {
            return;
        }
        if let (Some(connection), Some(home)) = (self.connection.take(), &self.home) {
            home.connections.put(&home.pool, &home.server, connection);
        }
    }
}
