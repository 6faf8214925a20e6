//! The stream to a server: a socket, or TLS over one.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_rustls::client::TlsStream;

use crate::runtime::socket::{DetachedSocket, SocketStream};
use crate::runtime::tls_socket::TlsSocket;

/// A connection to a server, after its TLS handshake if it has one.
#[derive(Debug)]
pub enum UpstreamStream {
    /// Without TLS.
    Plain(SocketStream),
    /// With TLS. In a box, so that plain sessions are not larger for it.
    Tls(Box<TlsStream<TlsSocket>>),
}

impl UpstreamStream {
    /// Whether it is protected by TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Self::Tls(_))
    }

    /// Removes the socket of a stream without TLS from the event loop.
    ///
    /// # Errors
    /// If the stream has TLS, whose state cannot be exported, or the event loop does not release the socket.
    pub fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Plain(stream) => stream.detach(),
            Self::Tls(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the number of bytes that the kernel has taken of a stream with TLS; 0 without TLS, where the kernel takes
    /// the bytes that are written.
    pub fn written(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Tls(stream) => stream.get_ref().0.written(),
        }
    }

    /// Whether the stream holds bytes that the kernel has not taken.
    pub fn holds_back(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.wants_write(),
        }
    }

    /// Returns the TLS version, as in `TLSv1_3`; `None` without TLS.
    pub fn tls_version(&self) -> Option<&'static str> {
        match self {
            Self::Plain(_) => None,
            Self::Tls(stream) => stream.get_ref().1.protocol_version()?.as_str(),
        }
    }

    /// Returns the underlying socket.
    pub fn socket(&self) -> &SocketStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
        }
    }
}

impl From<UnixStream> for UpstreamStream {
    fn from(stream: UnixStream) -> Self {
        Self::Plain(SocketStream::Unix(stream))
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => TlsSocket::poll_read_through(&mut **stream, |stream| stream.get_mut().0, cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    /// Closes the sending half, with TLS after a `close_notify`. The receiving half stays open.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
