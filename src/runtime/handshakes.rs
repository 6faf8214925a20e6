//! Limits connections that have not read their request head, and those that close after a refusal.
//!
//! A connection has a place up to the end of its request head, and then gives it back: an admitted request counts as a
//! session, and a refused one takes a place among those that leave, if one is free.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::address::AddressKey;

/// One address may have one in so many of the places to wait, so that it does not keep others from waiting either.
const WAITING_SHARE: u32 = 4;

/// The places of all listeners together.
#[derive(Debug)]
pub struct Handshakes {
    places: Arc<Semaphore>,
    /// As many may wait for the share of their address as there are places.
    waiting: Arc<Semaphore>,
    /// As many may read their refusal as there are places, and the same share of one address.
    leaving: Arc<Semaphore>,
    shares: Option<Arc<Shares>>,
    waiting_shares: Option<Arc<Shares>>,
    leaving_shares: Option<Arc<Shares>>,
}

/// One of the places; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
    _share: Option<Box<Share>>,
}

/// A connection that was accepted, with a place or on its way to one.
#[derive(Debug)]
pub enum Entry {
    /// It has its place.
    Entered(Permit),
    /// Its address has as many places as it may have.
    Waiting(Waiting),
}

/// A connection that waits for the share of its address; dropping it gives up.
#[derive(Debug)]
pub struct Waiting {
    share: Box<Share>,
    places: Arc<Semaphore>,
    _permit: OwnedSemaphorePermit,
    _waiting_share: Option<Box<Share>>,
}

/// A place among the connections that read their refusal; dropping it gives it back.
#[derive(Debug)]
pub struct Leaving {
    _place: OwnedSemaphorePermit,
    _share: Option<Box<Share>>,
}

impl Handshakes {
    /// How many descriptors its connections may have: those that have a place, leave, and wait.
    pub fn descriptors(max: u32, per_address: Option<NonZeroU32>) -> usize {
        let kinds = if per_address.is_some() { 3 } else { 2 };
        (max as usize).saturating_mul(kinds)
    }

    /// All `max` places are free, of which one client address may have `per_address`.
    pub fn new(max: u32, per_address: Option<NonZeroU32>) -> Self {
        let places = || Arc::new(Semaphore::new(max as usize));
        let shares = |max| Arc::new(Shares { max, by_address: Mutex::default() });
        let waiting = NonZeroU32::new(max / WAITING_SHARE).unwrap_or(NonZeroU32::MIN);
        Self {
            places: places(),
            waiting: places(),
            leaving: places(),
            shares: per_address.map(shares),
            waiting_shares: per_address.map(|_| shares(waiting)),
            leaving_shares: per_address.map(shares),
        }
    }

    /// Waits for a place for a connection that was accepted. If its address has as many as it may have, the connection
    /// waits by itself, so that it delays no other address; `None` if too many do.
    ///
    /// It waits, since the clients behind one NAT or load balancer come all at once after an outage: a reset would
    /// make them come again, and a wait costs one descriptor within a limit. `handshake_timeout` includes the wait.
    pub async fn enter(&self, client: IpAddr) -> Option<Entry> {
        let share = match &self.shares {
            Some(shares) => {
                let mut share = Box::new(Shares::join(shares, client.into()));
                if !share.try_take() {
                    let waiting_share = take_share(self.waiting_shares.as_ref(), client).ok()?;
                    let waiting = Arc::clone(&self.waiting).try_acquire_owned().ok()?;
                    let places = Arc::clone(&self.places);
                    let waiting = Waiting { share, places, _permit: waiting, _waiting_share: waiting_share };
                    return Some(Entry::Waiting(waiting));
                }
                Some(share)
            }
            None => None,
        };
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Entry::Entered(Permit { _place: place, _share: share }))
    }

    /// A place for a connection of this address that closes, if one is free.
    pub fn leave(&self, client: IpAddr) -> Option<Leaving> {
        let share = take_share(self.leaving_shares.as_ref(), client).ok()?;
        let place = Arc::clone(&self.leaving).try_acquire_owned().ok()?;
        Some(Leaving { _place: place, _share: share })
    }
}

/// As many of an address as may be are there already.
struct ShareTaken;

/// Takes one of the places of an address, if addresses have a share.
fn take_share(shares: Option<&Arc<Shares>>, client: IpAddr) -> Result<Option<Box<Share>>, ShareTaken> {
    let Some(shares) = shares else { return Ok(None) };
    let mut share = Box::new(Shares::join(shares, client.into()));
    if share.try_take() { Ok(Some(share)) } else { Err(ShareTaken) }
}

impl Entry {
    /// Waits for the place, in the order in which the connections of the address came.
    pub async fn enter(self) -> Option<Permit> {
        match self {
            Self::Entered(permit) => Some(permit),
            Self::Waiting(Waiting { mut share, places, _permit, _waiting_share }) => {
                share.take().await;
                let place = places.acquire_owned().await.ok()?;
                Some(Permit { _place: place, _share: Some(share) })
            }
        }
    }
}

/// The places of each client address.
#[derive(Debug)]
struct Shares {
    max: NonZeroU32,
    /// Addresses that have connections, with how many: those that have a place, or wait.
    by_address: Mutex<HashMap<AddressKey, (Arc<Semaphore>, usize)>>,
}

/// A connection's membership of its address, with or without one of the places of that.
#[derive(Debug)]
struct Share {
    shares: Arc<Shares>,
    key: AddressKey,
    of_address: Arc<Semaphore>,
    taken: Option<OwnedSemaphorePermit>,
}

impl Shares {
    fn join(shares: &Arc<Self>, key: AddressKey) -> Share {
        let mut by_address = shares.lock();
        let free = || (Arc::new(Semaphore::new(shares.max.get() as usize)), 0);
        let (of_address, members) = by_address.entry(key).or_insert_with(free);
        *members += 1;
        let of_address = Arc::clone(of_address);
        drop(by_address);
        Share { shares: Arc::clone(shares), key, of_address, taken: None }
    }

    /// The map is whole after every step, so a panic of another holder leaves nothing half done.
    fn lock(&self) -> MutexGuard<'_, HashMap<AddressKey, (Arc<Semaphore>, usize)>> {
        self.by_address.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Share {
    /// Those that wait come first: a free permit is theirs already.
    fn try_take(&mut self) -> bool {
        self.taken = Arc::clone(&self.of_address).try_acquire_owned().ok();
        self.taken.is_some()
    }

    async fn take(&mut self) {
        self.taken = Arc::clone(&self.of_address).acquire_owned().await.ok();
    }
}

impl Drop for Share {
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

    fn entry(handshakes: &Handshakes, client: IpAddr) -> Option<Entry> {
        match poll(pin!(handshakes.enter(client))) {
            Poll::Ready(entry) => entry,
            Poll::Pending => panic!("it waits in the way of others"),
        }
    }

    fn entered(handshakes: &Handshakes, client: IpAddr) -> Permit {
        match entry(handshakes, client) {
            Some(Entry::Entered(permit)) => permit,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_address_waits_beyond_its_share_and_delays_no_other() {
        let handshakes = Handshakes::new(16, NonZeroU32::new(2));
        let mut held: Vec<Permit> = (0..2).map(|_| entered(&handshakes, A)).collect();
        let mut waiting: Vec<_> = (0..4)
            .map(|_| match entry(&handshakes, A) {
                Some(Entry::Waiting(waiting)) => Box::pin(Entry::Waiting(waiting).enter()),
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(entry(&handshakes, A).is_none(), "as many wait as may");
        assert!(waiting.iter_mut().all(|waiting| poll(waiting.as_mut()).is_pending()));
        // Another address has its own share at once, and room to wait.
        let of_b: Vec<Permit> = (0..2).map(|_| entered(&handshakes, B)).collect();
        assert!(matches!(entry(&handshakes, B), Some(Entry::Waiting(_))));
        // The first in line gets what becomes free, and nobody who comes later.
        held.pop();
        assert!(entry(&handshakes, A).is_none(), "the line is still full");
        let Poll::Ready(Some(first)) = poll(waiting[0].as_mut()) else { panic!("it is its turn") };
        assert!(poll(waiting[1].as_mut()).is_pending());
        drop(waiting.remove(0));
        // One that gives up gives its place in the line back.
        waiting.pop();
        let Some(Entry::Waiting(_)) = entry(&handshakes, A) else { panic!("there is room to wait again") };
        drop((held, waiting, of_b, first));
        assert!(handshakes.shares.as_ref().unwrap().lock().is_empty());
    }

    #[test]
    fn those_that_leave_are_limited_without_a_wait() {
        let handshakes = Handshakes::new(3, NonZeroU32::new(2));
        let of_a = [handshakes.leave(A), handshakes.leave(A)];
        assert!(of_a.iter().all(Option::is_some));
        assert!(handshakes.leave(A).is_none(), "the share of one address");
        let of_b = handshakes.leave(B);
        assert!(of_b.is_some());
        assert!(handshakes.leave(B).is_none(), "the places of all");
        drop(of_a);
        assert!(handshakes.leave(A).is_some() && handshakes.leave(B).is_some());
        drop(of_b);
        assert!(handshakes.leaving_shares.as_ref().unwrap().lock().is_empty());
    }
}
