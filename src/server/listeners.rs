//! The listeners of the process: which are open, and the changes that a new configuration needs.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::error::ServeError;
use super::inherited::{Inherited, InheritedError};
use super::passed::{PassedSocket, SocketDescription, SocketKind};
use super::pool::WorkerPool;
use super::socket::{self, ListenSocket, Listener};
use super::unix_socket::{FileOwner, SocketFile};
use crate::config::{ListenAddress, ListenerConfig};

/// The time in which workers close the sockets of listeners. A worker polls its listeners far more often, but a
/// connection that was accepted may have to wait for its permit first.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The time in which workers stop accepting before an upgrade.
const PAUSE_TIMEOUT: Duration = Duration::from_millis(500);

/// The open listeners.
#[derive(Debug, Default)]
pub struct Listeners {
    /// In the order of the configuration.
    open: Vec<ListenerHandle>,
    inherited: Inherited,
}

/// An open listener. A worker has its socket, unless it is paused.
#[derive(Debug)]
struct ListenerHandle {
    /// The address in the configuration, whose port may be 0.
    configured: ListenAddress,
    /// The address that it is bound to.
    address: ListenAddress,
    /// A clone of its socket, for an upgrade.
    socket: ListenSocket,
    /// The file of its Unix socket, which is removed with the handle.
    file: Option<SocketFile>,
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
    Kept { index: usize, address: ListenAddress },
    New(Box<(ListenerHandle, Listener)>),
}

impl Listeners {
    /// Creates the state of a process without open listeners.
    pub fn new(inherited: Inherited) -> Self {
        Self { open: Vec::new(), inherited }
    }

    /// Prepares the change to the listeners of a configuration, and binds those that it adds.
    ///
    /// # Errors
    /// If an address cannot be bound, or an inherited socket cannot be used. Then no listener changes.
    ///
    /// `passed` are the sockets that the process before passed, in the order of the configuration.
    pub fn prepare(
        &self,
        config: &[ListenerConfig],
        passed: Vec<Option<PassedSocket>>,
    ) -> Result<NextListeners, ServeError> {
        let mut passed = passed.into_iter();
        let mut kept = vec![false; self.open.len()];
        let mut next = NextListeners { next: Vec::with_capacity(config.len()) };
        for listener in config {
            let passed = passed.next().flatten();
            let is_free = |(index, handle): &(usize, &ListenerHandle)| {
                handle.configured == listener.address && kept.get(*index) == Some(&false)
            };
            let found = self.open.iter().enumerate().find(is_free);
            let listener = match found {
                Some((index, handle)) => {
                    check_inherited(listener, &handle.address, &next.addresses())?;
                    kept.iter_mut().skip(index).take(1).for_each(|kept| *kept = true);
                    NextListener::Kept { index, address: handle.address.clone() }
                }
                None => self.open(listener, passed, &next.addresses())?,
            };
            next.next.push(listener);
        }
        Ok(next)
    }

    /// Starts the new listeners, closes those that the new configuration lacks, and waits until their sockets are
    /// closed, so that their addresses can be bound again.
    pub async fn change(&mut self, next: NextListeners, pool: &WorkerPool) {
        let mut before: Vec<Option<ListenerHandle>> = std::mem::take(&mut self.open).into_iter().map(Some).collect();
        for listener in next.next {
            match listener {
                NextListener::Kept { index, .. } => self.open.extend(before.get_mut(index).and_then(Option::take)),
                NextListener::New(new) => {
                    let (handle, listener) = *new;
                    // No worker ends before the drain.
                    let _ = pool.least_loaded().map(|worker| worker.send(listener));
                    self.open.push(handle);
                }
            }
        }
        close(before.into_iter().flatten().collect()).await;
    }

    /// Stops accepting from the inherited sockets. Connections in their queues wait there for the next process.
    pub async fn close_inherited(&mut self) {
        let all = std::mem::take(&mut self.open).into_iter();
        let (inherited, bound) = all.partition(|handle| matches!(handle.configured, ListenAddress::Inherited(_)));
        self.open = bound;
        close(inherited).await;
    }

    /// Stops accepting, and keeps the sockets. Connections that were accepted go on.
    pub async fn pause(&mut self) {
        self.open.iter().for_each(|handle| handle.stop.cancel());
        let closed = async {
            for handle in &mut self.open {
                let _ = (&mut handle.closed).await;
            }
        };
        // A listener whose last connection waits for a permit accepts no other one afterwards.
        let _ = tokio::time::timeout(PAUSE_TIMEOUT, closed).await;
    }

    /// Accepts from the sockets again, if they are paused.
    ///
    /// # Errors
    /// If the system does not provide a descriptor. The listeners after this one stay paused.
    pub fn resume(&mut self, pool: &WorkerPool) -> io::Result<()> {
        for handle in self.open.iter_mut().filter(|handle| handle.stop.is_cancelled()) {
            let (socket, address) = (handle.socket.try_clone()?, Arc::new(handle.address.clone()));
            let (open, closed) = oneshot::channel();
            let stop = CancellationToken::new();
            (handle.stop, handle.closed) = (stop.clone(), closed);
            let listener = Listener { socket, address, stop, open, accepted: None };
            // No worker ends before the drain.
            let _ = pool.least_loaded().map(|worker| worker.send(listener));
        }
        Ok(())
    }

    /// Closes the sockets, which another process has taken over.
    pub fn leave(&mut self) {
        self.inherited = Inherited::default();
        self.open.drain(..).for_each(|handle| handle.stop.cancel());
    }

    /// Returns the owners of the socket files.
    pub fn files(&self) -> impl Iterator<Item = FileOwner> {
        self.open.iter().filter_map(|handle| handle.file.as_ref().map(|file| file.owner().clone()))
    }

    /// Returns clones of the sockets, for another process.
    ///
    /// # Errors
    /// If the system does not provide a descriptor.
    pub fn clones(&self) -> io::Result<Vec<(SocketDescription, ListenSocket)>> {
        let bound = self.open.iter().filter(|handle| !matches!(handle.configured, ListenAddress::Inherited(_)));
        let bound = bound.map(|handle| {
            let description = SocketDescription {
                kind: SocketKind::Listener,
                configured: handle.configured.clone(),
                bound: handle.address.clone(),
                file: handle.file.as_ref().map(|file| file.owner().identity()),
            };
            Ok((description, handle.socket.try_clone()?))
        });
        let inherited = self.inherited.usable().map(|(name, socket)| {
            let (configured, bound) = (ListenAddress::Inherited(name.into()), socket.address()?);
            let description = SocketDescription { kind: SocketKind::Systemd, configured, bound, file: None };
            Ok((description, socket.try_clone()?))
        });
        bound.chain(inherited).collect()
    }

    /// Returns the bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        self.open.iter().map(|handle| handle.address.clone()).collect()
    }

    /// Opens the socket of a new listener. `addresses` are those of the listeners before it.
    fn open(
        &self,
        config: &ListenerConfig,
        passed: Option<PassedSocket>,
        addresses: &[ListenAddress],
    ) -> Result<NextListener, ServeError> {
        let configured = &config.address;
        let bind_error = |error| ServeError::Bind(configured.clone(), error);
        let (socket, file) = match (configured, passed) {
            (ListenAddress::Tcp(_) | ListenAddress::Unix(_), Some(passed)) => {
                let file = passed.file();
                (passed.socket, file)
            }
            (ListenAddress::Tcp(address), None) => (socket::bind(*address).map_err(bind_error)?, None),
            (ListenAddress::Unix(path), None) => {
                let bound = socket::bind_unix(path, config.socket_group.as_deref());
                bound.map(|(socket, file)| (socket, Some(file))).map_err(bind_error)?
            }
            (ListenAddress::Inherited(name), _) => {
                let error = |error| ServeError::Inherited(Arc::clone(name), error);
                let socket = self.inherited.get(name).map_err(ServeError::System)?.map_err(error)?;
                let address = socket.address().map_err(|found| error(InheritedError::WrongType(found.to_string())))?;
                check_inherited(config, &address, addresses)?;
                (socket, None)
            }
        };
        let address = socket.address().map_err(ServeError::System)?;
        let (open, closed) = oneshot::channel();
        let stop = CancellationToken::new();
        let known_as = Arc::new(address.clone());
        let kept = socket.try_clone().map_err(ServeError::System)?;
        let listener = Listener { socket, address: known_as, stop: stop.clone(), open, accepted: None };
        let handle = ListenerHandle { configured: configured.clone(), address, socket: kept, file, stop, closed };
        Ok(NextListener::New(Box::new((handle, listener))))
    }
}

impl NextListeners {
    /// Returns the bound addresses, in the order of the configuration.
    pub fn addresses(&self) -> Vec<ListenAddress> {
        let address = |next: &NextListener| match next {
            NextListener::Kept { address, .. } => address.clone(),
            NextListener::New(new) => new.0.address.clone(),
        };
        self.next.iter().map(address).collect()
    }
}

/// Checks the rules of a listener that need the address of its inherited socket, whether it is new or kept. `addresses`
/// are those of the listeners before it. Nothing is checked for an address that the configuration contains.
fn check_inherited(
    config: &ListenerConfig,
    address: &ListenAddress,
    addresses: &[ListenAddress],
) -> Result<(), ServeError> {
    let ListenAddress::Inherited(name) = &config.address else { return Ok(()) };
    let error = |error| Err(ServeError::Inherited(Arc::clone(name), error));
    // Listeners are known by their address. Two descriptors may refer to one socket.
    if addresses.contains(address) {
        return error(InheritedError::SameAddress(address.clone()));
    }
    if config.tls.is_none() && !config.insecure && address.is_private() == Some(false) {
        return error(InheritedError::NotPrivate(address.clone()));
    }
    Ok(())
}

/// Closes listeners, and waits until their sockets are closed.
async fn close(listeners: Vec<ListenerHandle>) {
    let closing: Vec<_> = listeners
        .into_iter()
        .map(|ListenerHandle { socket, file, stop, closed, .. }| {
            stop.cancel();
            drop(socket);
            (closed, file)
        })
        .collect();
    let closed = async {
        for (closed, _file) in closing {
            // The sender is dropped with the socket.
            let _ = closed.await;
        }
    };
    let _ = tokio::time::timeout(CLOSE_TIMEOUT, closed).await;
}
