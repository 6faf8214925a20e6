//! A connected stream socket, over TCP or a Unix socket.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll};

use rustix::net::{AddressFamily, RecvFlags, SocketType, recv, sockopt};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf, Ready};
use tokio::net::{TcpStream, UnixStream};

/// A connected stream socket that is registered with the event loop.
#[derive(Debug)]
pub enum SocketStream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

/// The same socket while it is not registered.
#[derive(Debug)]
pub enum DetachedSocket {
    /// Over TCP.
    Tcp(std::net::TcpStream),
    /// Over a Unix socket.
    Unix(std::os::unix::net::UnixStream),
}

impl From<DetachedSocket> for OwnedFd {
    fn from(socket: DetachedSocket) -> Self {
        match socket {
            DetachedSocket::Tcp(stream) => stream.into(),
            DetachedSocket::Unix(stream) => stream.into(),
        }
    }
}

impl AsFd for DetachedSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}

impl DetachedSocket {
    /// Returns the connected stream socket behind a descriptor of another process.
    ///
    /// # Errors
    /// If it is not a stream socket over TCP or a Unix socket.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let is_stream = sockopt::socket_type(&descriptor)? == SocketType::STREAM;
        match sockopt::socket_domain(&descriptor)? {
            AddressFamily::INET | AddressFamily::INET6 if is_stream => Ok(Self::Tcp(descriptor.into())),
            AddressFamily::UNIX if is_stream => Ok(Self::Unix(descriptor.into())),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a stream socket")),
        }
    }

    /// Registers the socket with the event loop of this thread.
    ///
    /// # Errors
    /// If the event loop cannot take it.
    pub fn attach(self) -> io::Result<SocketStream> {
        match self {
            Self::Tcp(stream) => TcpStream::from_std(stream).map(SocketStream::Tcp),
            Self::Unix(stream) => UnixStream::from_std(stream).map(SocketStream::Unix),
        }
    }
}

/// Calls a method on the TCP or Unix stream.
macro_rules! delegate {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self {
            Self::Tcp($stream) => $call,
            Self::Unix($stream) => $call,
        }
    };
}

impl SocketStream {
    /// Whether it is a Unix socket.
    pub fn is_unix(&self) -> bool {
        matches!(self, Self::Unix(_))
    }

    /// Returns the addresses of the peer and of this end. `None` for a Unix socket, and if the peer has disconnected.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self {
            Self::Tcp(stream) => Some((stream.peer_addr().ok()?, stream.local_addr().ok()?)),
            Self::Unix(_) => None,
        }
    }

    /// Returns the socket, for queries that only the kernel can answer.
    pub fn socket(&self) -> BorrowedFd<'_> {
        delegate!(self, stream => stream.as_fd())
    }

    /// Removes the socket from the event loop.
    ///
    /// # Errors
    /// If the event loop does not release it.
    pub fn detach(self) -> io::Result<DetachedSocket> {
        match self {
            Self::Tcp(stream) => stream.into_std().map(DetachedSocket::Tcp),
            Self::Unix(stream) => stream.into_std().map(DetachedSocket::Unix),
        }
    }

    /// Becomes ready when the socket may be readable. The end of the stream counts as readable.
    ///
    /// # Errors
    /// If the runtime has shut down.
    pub fn poll_read_ready(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => stream.poll_read_ready(cx))
    }

    /// Waits for one of these states.
    ///
    /// # Errors
    /// If the runtime has shut down.
    pub async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        delegate!(self, stream => stream.ready(interest).await)
    }

    /// Writes what the kernel takes at once.
    ///
    /// # Errors
    /// Returns the error of the kernel, `WouldBlock` if it takes nothing.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        delegate!(self, stream => stream.try_write(bytes))
    }

    /// Waits for received bytes, and copies them without reading them: a later read returns them again. The length is 0
    /// at the end of the stream. While received bytes are unread this returns at once, so a caller that needs more
    /// bytes discards these first.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub async fn peek(&self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(buffer, RecvFlags::PEEK).await
    }

    /// Reads bytes that a peek has seen.
    ///
    /// # Errors
    /// Returns the error of the kernel.
    pub async fn discard(&self, seen: &mut [u8]) -> io::Result<()> {
        let mut rest = seen;
        while !rest.is_empty() {
            match self.receive(rest, RecvFlags::empty()).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => rest = rest.get_mut(n..).unwrap_or_default(),
            }
        }
        Ok(())
    }

    async fn receive(&self, buffer: &mut [u8], flags: RecvFlags) -> io::Result<usize> {
        loop {
            self.ready(Interest::READABLE).await?;
            let mut receive = || Ok(recv(self.socket(), &mut *buffer, flags).map(|(n, _)| n)?);
            let received = delegate!(self, stream => stream.try_io(Interest::READABLE, &mut receive));
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }
}

impl From<TcpStream> for SocketStream {
    fn from(stream: TcpStream) -> Self {
        Self::Tcp(stream)
    }
}

impl From<UnixStream> for SocketStream {
    fn from(stream: UnixStream) -> Self {
        Self::Unix(stream)
    }
}

impl AsyncRead for SocketStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for SocketStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_write_vectored(cx, bufs))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self.get_mut(), stream => Pin::new(stream).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn a_peek_leaves_the_bytes_and_a_discard_takes_no_more_than_was_seen() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (near, mut far) = UnixStream::pair().unwrap();
            let mut near = SocketStream::from(near);
            far.write_all(b"header").await.unwrap();
            let mut seen = [0; 64];
            assert_eq!(near.peek(&mut seen).await.unwrap(), 6);
            assert_eq!(near.peek(&mut seen).await.unwrap(), 6);
            near.discard(&mut seen[..6]).await.unwrap();
            // The next peek waits for further bytes.
            let (peeked, ()) = tokio::join!(near.peek(&mut seen), async { far.write_all(b"more").await.unwrap() });
            assert_eq!(&seen[..peeked.unwrap()], b"more");
            near.discard(&mut seen[..1]).await.unwrap();
            drop(far);
            let mut rest = String::new();
            near.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "ore");
            assert_eq!(near.peek(&mut seen).await.unwrap(), 0);
        });
    }
}
