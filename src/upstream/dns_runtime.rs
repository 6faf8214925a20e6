//! The runtime of the DNS client: sockets, timers and tasks. The library's own form requires a runtime with
//! several threads, whose sockets are larger.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_trait::async_trait;
use futures_io::{AsyncRead, AsyncWrite};
use hickory_resolver::net::runtime::{DnsTcpStream, DnsUdpSocket, RuntimeProvider, Spawn, Time};
use tokio::io::ReadBuf;
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::{sleep, timeout};

use crate::runtime::tasks::Tasks;

/// Timeout for a TCP connection to a name server.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The runtime of the caller.
#[derive(Clone, Default)]
pub(super) struct DnsRuntime(Tasks);

/// A connected future, in the form that the library demands.
type Opening<T> = Pin<Box<dyn Send + Future<Output = io::Result<T>>>>;

impl RuntimeProvider for DnsRuntime {
    type Handle = Self;
    type Timer = Timer;
    type Udp = Udp;
    type Tcp = Tcp;

    fn create_handle(&self) -> Self {
        self.clone()
    }

    fn connect_tcp(&self, server: SocketAddr, own: Option<SocketAddr>, wait: Option<Duration>) -> Opening<Tcp> {
        Box::pin(async move {
            let socket = if server.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
            if let Some(own) = own {
                socket.bind(own)?;
            }
            socket.set_nodelay(true)?;
            timeout(wait.unwrap_or(CONNECT_TIMEOUT), socket.connect(server)).await?.map(Tcp)
        })
    }

    fn bind_udp(&self, own: SocketAddr, _: SocketAddr) -> Opening<Udp> {
        Box::pin(async move { UdpSocket::bind(own).await.map(Udp) })
    }
}

impl Spawn for DnsRuntime {
    fn spawn_bg(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.start(task);
    }
}

/// The timers of the runtime.
pub(super) struct Timer;

#[async_trait]
impl Time for Timer {
    async fn delay_for(time: Duration) {
        sleep(time).await;
    }

    async fn timeout<F: 'static + Future + Send>(time: Duration, future: F) -> io::Result<F::Output> {
        Ok(timeout(time, future).await?)
    }
}

/// A UDP socket.
pub(super) struct Udp(UdpSocket);

impl DnsUdpSocket for Udp {
    type Time = Timer;

    fn poll_recv_from(&self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        let mut into = ReadBuf::new(into);
        let from = ready!(self.0.poll_recv_from(cx, &mut into))?;
        Poll::Ready(Ok((into.filled().len(), from)))
    }

    fn poll_send_to(&self, cx: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        self.0.poll_send_to(cx, bytes, to)
    }
}

/// A TCP connection.
pub(super) struct Tcp(TcpStream);

impl DnsTcpStream for Tcp {
    type Time = Timer;
}

impl AsyncRead for Tcp {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut into = ReadBuf::new(into);
        ready!(tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut into))?;
        Poll::Ready(Ok(into.filled().len()))
    }
}

impl AsyncWrite for Tcp {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
    }
}
