//! The room for connections that are no sessions yet: what bounds those that come and ask for nothing.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::policy::address::AddressKey;
use crate::policy::quota::{Slot, Slots};

/// The places of all listeners together. Sessions need none: the policy counts those.
#[derive(Debug)]
pub struct Handshakes {
    places: Arc<Semaphore>,
    of_address: Slots<AddressKey>,
    per_address: Option<NonZeroU32>,
}

/// One of the places; dropping it gives it back.
#[derive(Debug)]
pub struct Permit {
    _place: OwnedSemaphorePermit,
    _of_address: Option<Slot<AddressKey>>,
}

impl Handshakes {
    /// All `max` places are free, of which one client address may have `per_address`.
    pub fn new(max: u32, per_address: Option<NonZeroU32>) -> Self {
        Self { places: Arc::new(Semaphore::new(max as usize)), of_address: Slots::new(), per_address }
    }

    /// Waits for a place for a connection that was accepted; `None` at once if its address has as many as it may have,
    /// where one that waits counts, too.
    pub async fn enter(&self, client: IpAddr) -> Option<Permit> {
        let of_address = match self.per_address {
            Some(max) => Some(self.of_address.take(client.into(), max)?),
            None => None,
        };
        // The semaphore is never closed.
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        Some(Permit { _place: place, _of_address: of_address })
    }
}
