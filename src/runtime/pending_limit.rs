//! Limits pending connections, whose request head is not read yet, and those that close after a rejection.
//!
//! A connection holds a permit until its request head is read and then releases it: an admitted request counts as a
//! session, and a rejected one takes a closing permit, if one is free. A trusted proxy, which carries many clients, has
//! no share: its address is `None` here.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::address::AddressKey;

/// One address may take this part of the queue, one in `QUEUED_SHARE`, so that others can still queue.
const QUEUED_SHARE: u32 = 4;
/// Connections whose PROXY header is not read yet may take this part of the permits, one in `HEADER_SHARE`. They have
/// no client address to be counted under, so slow ones could otherwise take all permits.
const HEADER_SHARE: u32 = 2;

/// The limits on pending, queued and closing connections of all listeners together.
#[derive(Debug)]
pub struct PendingLimit {
    permits: Arc<Semaphore>,
    /// For connections queued for the share of their address; as many as `permits`.
    queued: Arc<Semaphore>,
    /// For closing connections; as many as `permits`, with the same share per address.
    closing: AddressLimit,
    /// For connections whose PROXY header is not read yet.
    headers: Arc<Semaphore>,
    shares: Option<Arc<AddressShares>>,
    queued_shares: Option<Arc<AddressShares>>,
}

/// A limit of connections or requests that are rejected beyond it.
#[derive(Debug)]
pub struct AddressLimit {
    permits: Arc<Semaphore>,
    shares: Option<Arc<AddressShares>>,
}

/// Why an [`AddressLimit`] gives no permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exhausted {
    /// The address has its share.
    Share,
    /// All permits are taken.
    All,
}

/// A permit of an [`AddressLimit`]; released when dropped.
#[derive(Debug)]
pub struct AddressPermit {
    _permit: OwnedSemaphorePermit,
    _share: Option<Box<AddressShare>>,
}

/// A permit to be pending; released when dropped.
#[derive(Debug)]
pub struct PendingPermit {
    _permit: OwnedSemaphorePermit,
    _share: Option<Box<AddressShare>>,
}

/// The permit of an accepted connection, or its position in the queue for one.
#[derive(Debug)]
pub enum PendingSlot {
    /// The connection has its permit.
    Acquired(PendingPermit),
    /// The share of its address is exhausted, so the connection is queued.
    QueuedConnection(QueuedConnection),
    /// The connection has a permit. Its client is named by the PROXY header, which is not read yet.
    Unidentified(UnidentifiedConnection),
}

/// A connection that holds a permit while its PROXY header is read.
#[derive(Debug)]
pub struct UnidentifiedConnection {
    permit: OwnedSemaphorePermit,
    _header: OwnedSemaphorePermit,
}

/// A connection that waits for the share of its address; leaves the queue when dropped.
#[derive(Debug)]
pub struct QueuedConnection {
    share: Box<AddressShare>,
    permits: Arc<Semaphore>,
    _permit: OwnedSemaphorePermit,
    _queued_share: Option<Box<AddressShare>>,
}

/// A permit to stay open until the client has read its rejection; released when dropped.
pub type ClosingPermit = AddressPermit;

impl AddressLimit {
    /// Creates a limit of `max`. One client address may have `per_address` of them.
    pub fn new(max: u32, per_address: Option<NonZeroU32>) -> Self {
        let shares = per_address.map(|max| Arc::new(AddressShares { max, by_address: Mutex::default() }));
        Self { permits: Arc::new(Semaphore::new(max as usize)), shares }
    }

    /// Returns a permit for this address.
    ///
    /// # Errors
    /// If none is free.
    pub fn take(&self, client: Option<IpAddr>) -> Result<AddressPermit, Exhausted> {
        let share = take_share(self.shares.as_ref(), client).map_err(|NoShare| Exhausted::Share)?;
        let permit = Arc::clone(&self.permits).try_acquire_owned().map_err(|_| Exhausted::All)?;
        Ok(AddressPermit { _permit: permit, _share: share })
    }
}

impl PendingLimit {
    /// Returns how many descriptors pending, closing and queued connections may use.
    pub fn descriptors(max: u32, per_address: Option<NonZeroU32>) -> usize {
        let kinds = if per_address.is_some() { 3 } else { 2 };
        (max as usize).saturating_mul(kinds)
    }

    /// Creates limits of `max` connections each. One client address may have `per_address` of those pending or closing.
    pub fn new(max: u32, per_address: Option<NonZeroU32>) -> Self {
        let permits = || Arc::new(Semaphore::new(max as usize));
        let shares = |max| Arc::new(AddressShares { max, by_address: Mutex::default() });
        let queued = NonZeroU32::new(max / QUEUED_SHARE).unwrap_or(NonZeroU32::MIN);
        Self {
            permits: permits(),
            queued: permits(),
            closing: AddressLimit::new(max, per_address),
            headers: Arc::new(Semaphore::new((max / HEADER_SHARE).max(1) as usize)),
            shares: per_address.map(shares),
            queued_shares: per_address.map(|_| shares(queued)),
        }
    }

    /// Waits for the permit of an accepted connection. If the share of its address is exhausted, returns its position
    /// in the queue at once, so that it delays no other address; `None` if the queue is full.
    ///
    /// Connections are queued because all clients behind one NAT or load balancer reconnect at once after an outage: a
    /// reset would make them retry, and waiting costs one descriptor within a limit. `handshake_timeout` includes the
    /// wait.
    pub async fn acquire(&self, client: Option<IpAddr>) -> Option<PendingSlot> {
        match self.take_share_or_queue(client)? {
            Ok(share) => {
                // The semaphore is never closed.
                let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
                Some(PendingSlot::Acquired(PendingPermit { _permit: permit, _share: share }))
            }
            Err(queued) => Some(PendingSlot::QueuedConnection(queued)),
        }
    }

    /// Waits for the permit of a connection whose PROXY header is not read yet. Returns `None` at once if too many such
    /// connections are open, so that they delay no other.
    pub async fn acquire_unidentified(&self) -> Option<PendingSlot> {
        let header = Arc::clone(&self.headers).try_acquire_owned().ok()?;
        let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
        Some(PendingSlot::Unidentified(UnidentifiedConnection { permit, _header: header }))
    }

    /// Counts a connection under its client once its PROXY header is read. If the share of the client is exhausted, the
    /// permit is released, and the connection is queued; `None` if the queue is full.
    pub fn identify(&self, connection: UnidentifiedConnection, client: Option<IpAddr>) -> Option<PendingSlot> {
        Some(match self.take_share_or_queue(client)? {
            Ok(share) => PendingSlot::Acquired(PendingPermit { _permit: connection.permit, _share: share }),
            Err(queued) => PendingSlot::QueuedConnection(queued),
        })
    }

    /// Takes one unit of the address's share, or a position in the queue for one. `None` if the queue is full.
    fn take_share_or_queue(
        &self,
        client: Option<IpAddr>,
    ) -> Option<Result<Option<Box<AddressShare>>, QueuedConnection>> {
        let Some((shares, client)) = self.shares.as_ref().zip(client) else { return Some(Ok(None)) };
        let mut share = Box::new(AddressShares::join(shares, client.into()));
        if share.try_take() {
            return Some(Ok(Some(share)));
        }
        let queued_share = take_share(self.queued_shares.as_ref(), Some(client)).ok()?;
        let queued = Arc::clone(&self.queued).try_acquire_owned().ok()?;
        let permits = Arc::clone(&self.permits);
        Some(Err(QueuedConnection { share, permits, _permit: queued, _queued_share: queued_share }))
    }

    /// Returns a permit for a closing connection of this address, if one is free.
    pub fn closing(&self, client: Option<IpAddr>) -> Option<ClosingPermit> {
        self.closing.take(client).ok()
    }
}

/// The share of an address is exhausted.
struct NoShare;

/// Takes one unit of an address's share. Returns `Ok(None)` if the address has no share.
fn take_share(
    shares: Option<&Arc<AddressShares>>,
    client: Option<IpAddr>,
) -> Result<Option<Box<AddressShare>>, NoShare> {
    let Some((shares, client)) = shares.zip(client) else { return Ok(None) };
    let mut share = Box::new(AddressShares::join(shares, client.into()));
    if share.try_take() { Ok(Some(share)) } else { Err(NoShare) }
}

impl PendingSlot {
    /// Waits for the permit. The connections of an address get theirs first in, first out. `None` for a connection that
    /// is not identified.
    pub async fn acquire(self) -> Option<PendingPermit> {
        match self {
            Self::Unidentified(_) => None,
            Self::Acquired(permit) => Some(permit),
            Self::QueuedConnection(QueuedConnection { mut share, permits, _permit, _queued_share }) => {
                share.take().await;
                let permit = permits.acquire_owned().await.ok()?;
                Some(PendingPermit { _permit: permit, _share: Some(share) })
            }
        }
    }
}

/// The share of each client address.
#[derive(Debug)]
struct AddressShares {
    max: NonZeroU32,
    /// For each address with connections: its free units, and how many connections hold one or wait for one.
    by_address: Mutex<HashMap<AddressKey, (Arc<Semaphore>, usize)>>,
}

/// A connection counted under its address, with or without a unit of the address's share.
#[derive(Debug)]
struct AddressShare {
    shares: Arc<AddressShares>,
    key: AddressKey,
    of_address: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl AddressShares {
    fn join(shares: &Arc<Self>, key: AddressKey) -> AddressShare {
        let mut by_address = shares.lock();
        let free = || (Arc::new(Semaphore::new(shares.max.get() as usize)), 0);
        let (of_address, members) = by_address.entry(key).or_insert_with(free);
        *members += 1;
        let of_address = Arc::clone(of_address);
        drop(by_address);
        AddressShare { shares: Arc::clone(shares), key, of_address, taken: None }
    }

    /// Every change leaves the map consistent, so a panic of another holder does no harm.
    fn lock(&self) -> MutexGuard<'_, HashMap<AddressKey, (Arc<Semaphore>, usize)>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AddressShare {
    /// Takes a unit if one is free. A released unit goes to a waiting connection first.
    fn try_take(&mut self) -> bool {
        self.taken = Arc::clone(&self.of_address).try_acquire_owned().ok();
        self.taken.is_some()
    }

    async fn take(&mut self) {
        self.taken = Arc::clone(&self.of_address).acquire_owned().await.ok();
    }
}

impl Drop for AddressShare {
    fn drop(&mut self) {
        let mut by_address = self.shares.lock();
        if let Some((_, members)) = by_address.get_mut(&self.key) {
            *members -= 1;
            if *members == 0 {
                by_address.remove(&self.key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::{Pin, pin};
    use std::task::{Context, Poll, Waker};

    use super::*;

    const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const B: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(Waker::noop()))
    }

    fn slot(pending_limit: &PendingLimit, client: IpAddr) -> Option<PendingSlot> {
        match poll(pin!(pending_limit.acquire(Some(client)))) {
            Poll::Ready(slot) => slot,
            Poll::Pending => panic!("it delays other addresses"),
        }
    }

    fn entered(pending_limit: &PendingLimit, client: IpAddr) -> PendingPermit {
        match slot(pending_limit, client) {
            Some(PendingSlot::Acquired(permit)) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_beyond_its_share_is_queued_and_delays_no_other() {
        let pending_limit = PendingLimit::new(16, NonZeroU32::new(2));
        let mut held: Vec<PendingPermit> = (0..2).map(|_| entered(&pending_limit, A)).collect();
        let mut queued: Vec<_> = (0..4)
            .map(|_| match slot(&pending_limit, A) {
                Some(PendingSlot::QueuedConnection(queued)) => {
                    Box::pin(PendingSlot::QueuedConnection(queued).acquire())
                }
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(slot(&pending_limit, A).is_none(), "the queue share of the address is full");
        assert!(queued.iter_mut().all(|queued| poll(queued.as_mut()).is_pending()));
        // Another address has its own share, and its own share of the queue.
        let of_b: Vec<PendingPermit> = (0..2).map(|_| entered(&pending_limit, B)).collect();
        assert!(matches!(slot(&pending_limit, B), Some(PendingSlot::QueuedConnection(_))));
        // A released unit goes to the first in the queue, not to a new connection.
        held.pop();
        assert!(slot(&pending_limit, A).is_none(), "the queue is still full");
        let Poll::Ready(Some(first)) = poll(queued[0].as_mut()) else { panic!("it is the first in the queue") };
        assert!(poll(queued[1].as_mut()).is_pending());
        drop(queued.remove(0));
        // A dropped waiter frees its position in the queue.
        queued.pop();
        let Some(PendingSlot::QueuedConnection(_)) = slot(&pending_limit, A) else {
            panic!("the queue has a free position again")
        };
        drop((held, queued, of_b, first));
        assert!(pending_limit.shares.as_ref().unwrap().lock().is_empty());
    }

    fn unidentified(pending_limit: &PendingLimit) -> Option<UnidentifiedConnection> {
        match poll(pin!(pending_limit.acquire_unidentified())) {
            Poll::Ready(Some(PendingSlot::Unidentified(connection))) => Some(connection),
            Poll::Ready(None) => None,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn connections_without_a_proxy_header_take_half_of_the_permits_and_then_the_share_of_their_client() {
        let pending_limit = PendingLimit::new(4, NonZeroU32::new(1));
        let [first, second] = [unidentified(&pending_limit), unidentified(&pending_limit)].map(Option::unwrap);
        assert!(unidentified(&pending_limit).is_none(), "further ones are closed at once");
        let of_b = entered(&pending_limit, B);
        let Some(PendingSlot::Acquired(of_a)) = pending_limit.identify(first, Some(A)) else {
            panic!("A has no other")
        };
        let Some(PendingSlot::QueuedConnection(queued)) = pending_limit.identify(second, Some(A)) else {
            panic!("the share of A is exhausted")
        };
        // Its permit is free again, and another connection may wait for its header.
        assert_eq!(pending_limit.permits.available_permits(), 2);
        let [third, fourth] = [unidentified(&pending_limit), unidentified(&pending_limit)].map(Option::unwrap);
        assert!(pending_limit.identify(third, Some(A)).is_none(), "the queue share of A is full");
        drop((of_a, fourth));
        assert!(poll(pin!(PendingSlot::QueuedConnection(queued).acquire())).is_ready());
        drop(of_b);
        assert!(pending_limit.shares.as_ref().unwrap().lock().is_empty());
    }

    #[test]
    fn a_trusted_proxy_has_no_share() {
        let pending_limit = PendingLimit::new(4, NonZeroU32::new(1));
        let acquire = || match poll(pin!(pending_limit.acquire(None))) {
            Poll::Ready(Some(PendingSlot::Acquired(permit))) => Some(permit),
            Poll::Ready(other) => panic!("{other:?}"),
            Poll::Pending => None,
        };
        let held: Vec<_> = (0..4).map(|_| acquire().unwrap()).collect();
        assert!(acquire().is_none(), "it waits for a permit");
        let closing: Vec<_> = (0..4).map(|_| pending_limit.closing(None).unwrap()).collect();
        assert!(pending_limit.closing(None).is_none());
        drop((held, closing));
        let connection = unidentified(&pending_limit).unwrap();
        assert!(matches!(pending_limit.identify(connection, None), Some(PendingSlot::Acquired(_))));
    }

    #[test]
    fn closing_connections_are_limited_without_a_queue() {
        let pending_limit = PendingLimit::new(3, NonZeroU32::new(2));
        let of_a = [pending_limit.closing(Some(A)), pending_limit.closing(Some(A))];
        assert!(of_a.iter().all(Option::is_some));
        assert!(pending_limit.closing(Some(A)).is_none(), "the share of one address");
        let of_b = pending_limit.closing(Some(B));
        assert!(of_b.is_some());
        assert!(pending_limit.closing(Some(B)).is_none(), "the limit for all addresses");
        drop(of_a);
        assert!(pending_limit.closing(Some(A)).is_some() && pending_limit.closing(Some(B)).is_some());
        drop(of_b);
        assert!(pending_limit.closing.shares.as_ref().unwrap().lock().is_empty());
    }
}
