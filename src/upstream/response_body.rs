//! The body of a server's response on its way to the client. At its end, its connection can carry another request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::http_connection::HttpConnection;
use super::http_pool::HttpPool;
use crate::balance::Pool;

/// The body of a response. Dropping it before its end closes the connection.
#[derive(Debug)]
pub struct ResponseBody {
    body: Incoming,
    connection: Option<HttpConnection>,
    home: Option<Home>,
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
        Self { body, connection: Some(connection), home, has_ended: false }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let mut polled = Pin::new(&mut this.body).poll_frame(cx);
        if polled.is_pending()
            && let Some(connection) = &mut this.connection
        {
            connection.poll(cx);
            polled = Pin::new(&mut this.body).poll_frame(cx);
            if polled.is_pending() && connection.has_ended() {
                return Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())));
            }
        }
        // hyper polls no further after the trailers.
        this.has_ended = this.has_ended
            || match &polled {
                Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
                Poll::Ready(None) => true,
                _ => false,
            };
        polled.map(|frame| frame.map(|frame| frame.map_err(io::Error::other)))
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended || self.body.is_end_stream()
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
