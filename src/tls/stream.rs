//! The stream of a client: after its TLS handshake under our own record layer or under rustls, or without TLS.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ServerConfig;
use serde::{Deserialize, Serialize};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::accept::{self, Protected};
use super::sealed::SealedState;
#[cfg(test)]
use super::sealed::{Leftover, SealedStream};
use super::summary::TlsSummary;
#[cfg(test)]
use crate::record::{Opener, Sealer, TrafficSecret};
use crate::runtime::socket::{DetachedSocket, SocketStream};
use crate::runtime::socket_state::SocketState;
use crate::runtime::tls_socket::TlsSocket;

/// A client's connection, after its TLS handshake if it has one: a byte stream that hides how its bytes are protected.
#[derive(Debug)]
pub struct ClientStream(Protected);

/// The state of a client's connection without its socket, as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub enum ClientState {
    /// Under our own record layer. It contains both traffic secrets.
    Own(Box<SealedState>),
    /// Without TLS, with the number of bytes that the kernel has taken.
    Plain(u64),
}

impl ClientState {
    /// Continues the stream on its socket. Returns `None` if the state is not valid.
    pub fn into_stream(self, stream: SocketStream) -> Option<ClientStream> {
        Some(ClientStream(match self {
            Self::Own(state) => Protected::Own(state.into_stream(stream)?),
            Self::Plain(written) => Protected::Plain(TlsSocket::resume(stream, written)),
        }))
    }
}

impl ClientStream {
    /// Whether another process can continue the stream: not under rustls, which does not export its state.
    pub fn is_movable(&self) -> bool {
        !matches!(self.0, Protected::Rustls(_))
    }

    /// Removes the socket from the event loop, and returns it with the state with which the stream continues in this or
    /// in another process.
    ///
    /// # Errors
    /// If the stream is not movable, or the event loop does not release the socket.
    pub fn detach(self) -> io::Result<(DetachedSocket, ClientState)> {
        let (stream, state) = match self.0 {
            Protected::Own(stream) => {
                let (stream, state) = stream.into_parts();
                (stream, ClientState::Own(Box::new(state)))
            }
            Protected::Plain(stream) => {
                let written = stream.written();
                (stream.into_inner(), ClientState::Plain(written))
            }
            Protected::Rustls(_) => return Err(io::ErrorKind::Unsupported.into()),
        };
        Ok((stream.detach()?, state))
    }

    /// Runs the TLS handshake, and returns the stream with the parameters that were negotiated.
    ///
    /// # Errors
    /// If the client disconnects, or the handshake fails: with a
    /// [`ProxyHeaderError`](crate::policy::proxy_header::ProxyHeaderError) if the client sent a PROXY header.
    pub async fn accept(config: &Arc<ServerConfig>, stream: SocketStream) -> io::Result<(Self, TlsSummary)> {
        let (stream, summary) = accept::accept(config, stream).await?;
        Ok((Self(stream), summary))
    }

    /// Returns the stream of a connection without TLS.
    pub fn plain(stream: SocketStream) -> Self {
        Self(Protected::Plain(TlsSocket::new(stream)))
    }

    /// Returns the number of bytes that the kernel has taken since the handshake.
    pub fn written(&self) -> u64 {
        match &self.0 {
            Protected::Own(stream) => stream.written(),
            Protected::Rustls(stream) => stream.get_ref().0.written(),
            Protected::Plain(stream) => stream.written(),
        }
    }

    /// Whether the stream may hold bytes that the kernel has not taken. This is always true for rustls, where only a
    /// flush shows it.
    pub fn holds_back(&self) -> bool {
        match &self.0 {
            Protected::Own(stream) => stream.holds_back(),
            Protected::Rustls(_) => true,
            Protected::Plain(_) => false,
        }
    }

    /// Returns the number of key updates since the last call. It is 0 for rustls, which does not report them, and
    /// without TLS.
    pub fn take_key_updates(&mut self) -> u8 {
        match &mut self.0 {
            Protected::Own(stream) => stream.take_key_updates(),
            Protected::Rustls(_) | Protected::Plain(_) => 0,
        }
    }

    /// Whether the client has closed its direction or disconnected. A read reports this only after all bytes before it.
    pub fn is_peer_closed(&self) -> bool {
        SocketState::of(self.socket().socket()).peer_closed
    }

    /// Limits the bytes that the kernel holds for the client and has not sent; 0: the limit of the system. A socket without
    /// such a limit is left as it is.
    pub fn limit_unsent(&self, bytes: u32) {
        let _ = SockRef::from(&self.socket().socket()).set_tcp_notsent_lowat(bytes);
    }

    /// Returns the underlying socket.
    pub fn socket(&self) -> &SocketStream {
        match &self.0 {
            Protected::Own(stream) => stream.socket(),
            Protected::Rustls(stream) => stream.get_ref().0.get_ref(),
            Protected::Plain(stream) => stream.get_ref(),
        }
    }

    /// Drops the state that can be derived again, for an idle connection.
    pub fn hibernate(&mut self) {
        if let Protected::Own(stream) = &mut self.0 {
            stream.hibernate();
        }
    }
}

#[cfg(test)]
impl ClientStream {
    /// Returns a stream under our own record layer with these secrets, for tests.
    pub(crate) fn of_test(socket: SocketStream, read: TrafficSecret, write: TrafficSecret) -> Self {
        let (opener, sealer) = (Opener::new(read, 7), Sealer::new(write, 9));
        Self(Protected::Own(SealedStream::new(socket, opener, sealer, Leftover::default())))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_read(cx, buf),
            Protected::Rustls(stream) => {
                TlsSocket::poll_read_through(&mut **stream, |stream| stream.get_mut().0, cx, buf)
            }
            // One read is one `recv`, so it needs no budget.
            Protected::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_write(cx, bytes),
            Protected::Rustls(stream) => Pin::new(stream).poll_write(cx, bytes),
            Protected::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_flush(cx),
            Protected::Rustls(stream) => Pin::new(stream).poll_flush(cx),
            Protected::Plain(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            Protected::Own(stream) => Pin::new(stream).poll_shutdown(cx),
            Protected::Rustls(stream) => Pin::new(stream).poll_shutdown(cx),
            Protected::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
