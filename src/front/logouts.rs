//! The logouts of the process: the tokens that were received, and those in progress.

use std::num::NonZeroU32;

use tokio::sync::Semaphore;

use crate::policy::address::AddressKey;
use crate::policy::logout::RecentLogouts;
use crate::policy::slots::Slots;

/// The maximum number of logouts in progress: each may have a body that is being received, or wait for a disk.
pub const LOGOUTS_MAX: usize = 256;
/// The maximum number of bodies of one client address that are being received, so that a slow client leaves permits to
/// the issuer.
pub(super) const RECEIVING_MAX: NonZeroU32 = NonZeroU32::MIN.saturating_add(15);

/// The logouts of the process.
#[derive(Debug)]
pub struct Logouts {
    /// The tokens that were received.
    pub recent: RecentLogouts,
    /// One permit for each logout in progress.
    pub permits: Semaphore,
    /// The bodies that are being received, by client address.
    pub receiving: Slots<AddressKey>,
}

impl Default for Logouts {
    fn default() -> Self {
        let permits = Semaphore::new(LOGOUTS_MAX);
        Self { recent: RecentLogouts::default(), permits, receiving: Slots::default() }
    }
}
