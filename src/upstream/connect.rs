//! Opens a connection to one of an upstream's servers, in turn, passing over those that refuse.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

use super::stream::UpstreamStream;
use crate::config::{ServerAddress, Upstream};
use crate::policy::admission::Admission;
use crate::policy::rejection::Rejection;
use crate::proxy::clock;

/// An upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    upstream: Upstream,
    turn: AtomicUsize,
}

/// A connection to a server.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: UpstreamStream,
    /// The server's address, as the configuration has it.
    pub server: Arc<str>,
}

/// Why there is no connection.
#[derive(Debug)]
pub struct ConnectError {
    /// What the client learns.
    pub rejection: Rejection,
    /// What the log says: the last server that was tried, and what it did.
    pub detail: String,
}

impl Pool {
    /// It is the first server's turn.
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream, turn: AtomicUsize::new(0) }
    }

    /// What the configuration says of it.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Connects to the server whose turn it is, or to the next one that takes the connection, all within one
    /// `connect_timeout`. Only who was admitted can ask for it.
    ///
    /// # Errors
    /// If no server takes the connection, or none does in time.
    pub async fn connect(&self, _admission: &Admission) -> Result<Connected, ConnectError> {
        let deadline = (clock::now() + self.upstream.connect_timeout).into();
        let servers = &self.upstream.servers;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut refused = None;
        for offset in 0..servers.len() {
            let Some(server) = servers.get(first.wrapping_add(offset) % servers.len()) else { continue };
            match timeout_at(deadline, open(server)).await {
                Ok(Ok(stream)) => return Ok(Connected { stream, server: server.to_string().into() }),
                Ok(Err(error)) => refused = Some((server, error)),
                Err(_) => {
                    let detail = format!("{server} took no connection in time");
                    return Err(ConnectError { rejection: Rejection::UpstreamTimeout, detail });
                }
            }
        }
        let detail = refused.map_or_else(String::new, |(server, error)| format!("{server}: {error}"));
        Err(ConnectError { rejection: Rejection::Unreachable, detail })
    }
}

async fn open(server: &ServerAddress) -> io::Result<UpstreamStream> {
    match server {
        ServerAddress::Tcp { host, port } => {
            let stream = TcpStream::connect((host.as_str(), *port)).await?;
            // Frames are written whole, so there is nothing to wait for.
            stream.set_nodelay(true)?;
            Ok(UpstreamStream::Tcp(stream))
        }
        ServerAddress::Unix(path) => UnixStream::connect(path).await.map(UpstreamStream::Unix),
    }
}
