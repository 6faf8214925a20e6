//! Accepts connections and hands each to the worker with the fewest.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;
use tokio::time::sleep;

use super::connection::Door;
use super::handshakes::Handshakes;
use super::lifecycle::Lifecycle;
use super::worker::{Arrival, Worker};

/// How many connections the kernel may hold ready; it cuts this to its own limit.
const BACKLOG: i32 = 4096;
/// The first and the longest pause when the system has no room for another connection.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Binds an address. An IPv6 address is for IPv6 alone, so that `0.0.0.0` and `[::]` can stand side by side.
///
/// # Errors
/// If the address is taken, not ours, or not allowed.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    // Frames are written whole, so there is nothing to wait for. What is accepted here inherits it.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until the drain starts. While every place is taken only one more is accepted, which waits for the first that
/// gets free: the others wait in the kernel's queue. So listeners that nobody comes to keep no place from the others.
pub async fn accept(
    listener: TcpListener,
    door: Arc<Door>,
    handshakes: &Handshakes,
    workers: Arc<Vec<Worker>>,
    lifecycle: &Lifecycle,
) {
    let accepting = async {
        let mut pause = PAUSE_MIN;
        loop {
            match accept_one(&listener).await {
                Ok((stream, address)) => {
                    pause = PAUSE_MIN;
                    let client = address.ip();
                    let Some(permit) = handshakes.enter(client).await else {
                        tracing::debug!(%client, "too many unfinished handshakes of this address");
                        continue;
                    };
                    let Some(worker) = workers.iter().min_by_key(|worker| worker.connections()) else { return };
                    worker.take(Arrival { stream, client, door: Arc::clone(&door), permit }).await;
                }
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => {
                    tracing::error!(%error, pause_ms = pause.as_millis(), "cannot accept");
                    sleep(pause).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
            }
        }
    };
    tokio::select! {
        () = lifecycle.draining() => {}
        () = accepting => {}
    }
}

async fn accept_one(listener: &TcpListener) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let (stream, address) = listener.accept().await?;
    Ok((stream.into_std()?, address))
}

/// A client that left before it was accepted says nothing about the next one.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{
        ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted, InvalidInput, NotConnected,
    };
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted | InvalidInput | NotConnected
    )
}
