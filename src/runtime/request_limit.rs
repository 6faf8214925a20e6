//! Limits the ordinary requests in progress, and the connections that are kept for them.

use std::net::IpAddr;
use std::num::NonZeroU32;

use super::pending_limit::{AddressLimit, AddressPermit, Exhausted};

/// One address may have this part of either, one in `SHARE`, but at least `SHARE_MIN`.
const SHARE: u32 = 16;
const SHARE_MIN: u32 = 16;

/// The limits of ordinary requests of all listeners together.
#[derive(Debug)]
pub struct RequestLimit {
    requests: AddressLimit,
    connections: AddressLimit,
}

impl RequestLimit {
    /// Returns how many descriptors requests may use: a connection to the client, one to a server, and a connection that
    /// is kept.
    pub fn descriptors(max: NonZeroU32) -> usize {
        (max.get() as usize).saturating_mul(3)
    }

    /// Creates limits of `max` requests, and of `max` connections that are kept. `has_shares`: one address may have only
    /// a part of each.
    pub fn new(max: NonZeroU32, has_shares: bool) -> Self {
        let share = NonZeroU32::new((max.get() / SHARE).max(SHARE_MIN)).filter(|_| has_shares);
        let limit = || AddressLimit::new(max.get(), share);
        Self { requests: limit(), connections: limit() }
    }

    /// Returns a permit for a request of this address.
    ///
    /// # Errors
    /// If none is free.
    pub fn request(&self, client: Option<IpAddr>) -> Result<AddressPermit, Exhausted> {
        self.requests.take(client)
    }

    /// Returns a permit to keep a connection of this address, if one is free.
    pub fn connection(&self, client: Option<IpAddr>) -> Option<AddressPermit> {
        self.connections.take(client).ok()
    }
}
