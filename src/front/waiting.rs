//! Limits the requests that wait for keys or for a service before they are admitted.
//!
//! Such a request holds no handshake permit and no session slot, but the descriptor of its connection and up to one
//! more, so the limit on descriptors includes these requests.

use std::net::IpAddr;
use std::num::NonZeroU32;

use crate::policy::address::AddressKey;
use crate::policy::slots::{Slot, Slots};

/// The largest limit, whatever `max_sessions` is.
const WAITING_MAX: u32 = 1024;
/// The smallest limit.
const WAITING_MIN: u32 = 64;
/// The limit is this part of `max_sessions`, one in `SESSIONS_SHARE`.
const SESSIONS_SHARE: u32 = 4;
/// One address may take this part of the limit, one in `ADDRESS_SHARE`, but at least [`ADDRESS_MIN`].
const ADDRESS_SHARE: u32 = 16;
/// See [`ADDRESS_SHARE`].
const ADDRESS_MIN: u32 = 16;

/// Returns the maximum number of requests that wait at once: a quarter of `max_sessions`, from 64 to 1,024.
pub fn waiting_max(max_sessions: u32) -> NonZeroU32 {
    let max = (max_sessions / SESSIONS_SHARE).clamp(WAITING_MIN, WAITING_MAX);
    NonZeroU32::new(max).unwrap_or(NonZeroU32::MIN)
}

/// The requests of the process that wait.
#[derive(Debug, Default)]
pub struct Waiting {
    all: Slots<()>,
    by_address: Slots<AddressKey>,
}

/// A request that waits. Dropping it ends the wait.
#[derive(Debug)]
pub struct WaitingRequest {
    _of_address: Slot<AddressKey>,
    _of_all: Slot<()>,
}

impl Waiting {
    /// Counts a request that waits; `None` if too many do, of all clients or of its address.
    pub fn enter(&self, client: IpAddr, max_sessions: NonZeroU32) -> Option<WaitingRequest> {
        let max = waiting_max(max_sessions.get());
        let share = NonZeroU32::new((max.get() / ADDRESS_SHARE).max(ADDRESS_MIN)).unwrap_or(max);
        let of_address = self.by_address.take(client.into(), share)?;
        let of_all = self.all.take((), max)?;
        Some(WaitingRequest { _of_address: of_address, _of_all: of_all })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u8) -> IpAddr {
        [192, 0, 2, number].into()
    }

    #[test]
    fn the_limit_follows_the_number_of_sessions() {
        let max = [1, 256, 300, 4096, 10_000_000].map(|sessions| waiting_max(sessions).get());
        assert_eq!(max, [64, 64, 75, 1024, 1024]);
    }

    #[test]
    fn one_address_leaves_room_for_others() {
        let (waiting, max_sessions) = (Waiting::default(), NonZeroU32::new(10_000).unwrap());
        let enter = |number| waiting.enter(address(number), max_sessions);
        let mut requests: Vec<_> = (0..64).map(|_| enter(1).unwrap()).collect();
        assert!(enter(1).is_none());
        requests.extend((2..=16).flat_map(|number| (0..64).map(move |_| number)).map(|number| enter(number).unwrap()));
        assert!(enter(17).is_none(), "1,024 requests wait");
        // A request that is dropped leaves its place to another address.
        requests.pop();
        requests.push(enter(17).unwrap());
        assert!(enter(18).is_none() && enter(16).is_none());
    }

    #[test]
    fn a_few_requests_of_one_address_always_fit() {
        let (waiting, one) = (Waiting::default(), NonZeroU32::MIN);
        let requests: Vec<_> = (0..16).map(|_| waiting.enter(address(1), one).unwrap()).collect();
        assert!(waiting.enter(address(1), one).is_none());
        drop(requests);
        assert!(waiting.enter(address(1), one).is_some());
    }
}
