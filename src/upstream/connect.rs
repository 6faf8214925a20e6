//! Opens a connection to one of an upstream's servers, in turn, passing over those that take none.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::stream::UpstreamStream;
use crate::config::{ServerAddress, Upstream};
use crate::policy::admission::Admission;
use crate::policy::rejection::Rejection;

/// An upstream, and whose turn it is.
#[derive(Debug)]
pub struct Pool {
    upstream: Upstream,
    /// The servers as the log names them; all sessions share these.
    names: Vec<Arc<str>>,
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
        let names = upstream.servers.iter().map(|server| server.to_string().into()).collect();
        Self { upstream, names, turn: AtomicUsize::new(0) }
    }

    /// What the configuration says of it.
    pub fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    /// Connects to the server whose turn it is, or to the next one that takes the connection. Each is tried once and has
    /// one `connect_timeout`, so that one that swallows what it gets keeps nobody from the others. Only who was admitted
    /// can ask for it.
    ///
    /// # Errors
    /// If no server takes the connection in its time.
    pub async fn connect(&self, _admission: &Admission) -> Result<Connected, ConnectError> {
        let servers = &self.upstream.servers;
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        let mut failed = ConnectError { rejection: Rejection::Unreachable, detail: String::new() };
        for offset in 0..servers.len() {
            let at = first.wrapping_add(offset) % servers.len();
            let (Some(server), Some(name)) = (servers.get(at), self.names.get(at)) else { continue };
            failed = match timeout(self.upstream.connect_timeout, open(server)).await {
                Ok(Ok(stream)) => return Ok(Connected { stream, server: Arc::clone(name) }),
                Ok(Err(error)) => {
                    ConnectError { rejection: Rejection::Unreachable, detail: format!("{server}: {error}") }
                }
                Err(_) => ConnectError {
                    rejection: Rejection::UpstreamTimeout,
                    detail: format!("{server} took no connection in time"),
                },
            };
        }
        Err(failed)
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
