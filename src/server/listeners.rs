//! The listeners of the process: which are open, and the changes that a new configuration needs.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::error::ServeError;
use super::pool::WorkerPool;
use super::socket::{self, Listener};
use crate::config::ListenerConfig;

/// The time in which a worker closes the socket of a removed listener. A worker polls its listeners far more often.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The open listeners, in the order of the configuration.
#[derive(Debug, Default)]
pub struct Listeners(Vec<ListenerHandle>);

/// An open listener. A worker has its socket.
#[derive(Debug)]
struct ListenerHandle {
    /// The address in the configuration, whose port may be 0.
    configured: SocketAddr,
    /// The address that it is bound to.
    address: SocketAddr,
    stop: CancellationToken,
    /// Completes once the socket is closed.
    closed: oneshot::Receiver<()>,
}

/// The listeners of a new configuration. Those that it adds are bound, and do not accept yet.
#[derive(Debug)]
pub struct NextListeners {
    /// In the order of the configuration: an index into the open listeners, or the new one.
    next: Vec<NextListener>,
}

#[derive(Debug)]
enum NextListener {
    Kept { index: usize, address: SocketAddr },
    New(ListenerHandle, Listener),
}

impl Listeners {
    /// Prepares the change to the listeners of a configuration, and binds those that it adds.
    ///
    /// # Errors
    /// If an address cannot be bound. Then no listener changes.
    pub fn prepare(&self, config: &[ListenerConfig]) -> Result<NextListeners, ServeError> {
        let mut kept = vec![false; self.0.len()];
        let mut next = Vec::with_capacity(config.len());
        for listener in config {
            let is_free = |(index, handle): &(usize, &ListenerHandle)| {
                handle.configured == listener.address && kept.get(*index) == Some(&false)
            };
            let found = self.0.iter().enumerate().find(is_free);
            next.push(match found {
                Some((index, handle)) => {
                    kept.iter_mut().skip(index).take(1).for_each(|kept| *kept = true);
                    NextListener::Kept { index, address: handle.address }
                }
                None => bind(listener.address)?,
            });
        }
        Ok(NextListeners { next })
    }

    /// Starts the new listeners, closes those that the new configuration lacks, and waits until their sockets are closed, so
    /// that their addresses can be bound again.
    pub async fn change(&mut self, next: NextListeners, pool: &WorkerPool) {
        let mut before: Vec<Option<ListenerHandle>> = std::mem::take(&mut self.0).into_iter().map(Some).collect();
        for listener in next.next {
            match listener {
                NextListener::Kept { index, .. } => self.0.extend(before.get_mut(index).and_then(Option::take)),
                NextListener::New(handle, listener) => {
                    // No worker ends before the drain.
                    let _ = pool.least_loaded().map(|worker| worker.send(listener));
                    self.0.push(handle);
                }
            }
        }
        for removed in before.into_iter().flatten() {
            removed.stop.cancel();
            // The sender is dropped with the socket.
            let _ = tokio::time::timeout(CLOSE_TIMEOUT, removed.closed).await;
        }
    }

    /// Returns the bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.0.iter().map(|handle| handle.address).collect()
    }
}

impl NextListeners {
    /// Returns the bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let address = |next: &NextListener| match next {
            NextListener::Kept { address, .. } => *address,
            NextListener::New(handle, _) => handle.address,
        };
        self.next.iter().map(address).collect()
    }
}

fn bind(configured: SocketAddr) -> Result<NextListener, ServeError> {
    let socket = socket::bind(configured).map_err(|error| ServeError::Bind(configured, error))?;
    let address = socket.local_addr().map_err(ServeError::System)?;
    let (open, closed) = oneshot::channel();
    let stop = CancellationToken::new();
    let listener = Listener { socket, address, stop: stop.clone(), open, accepted: None };
    Ok(NextListener::New(ListenerHandle { configured, address, stop, closed }, listener))
}
