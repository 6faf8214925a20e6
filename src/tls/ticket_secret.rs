//! The key of session tickets, with its name.

use std::fmt;

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::runtime::entropy::random;

/// The size of a name.
pub(super) const NAME_BYTES: usize = 16;

/// A key and its name, which tickets begin with. `Debug` omits both, and the memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSecret {
    pub(super) name: [u8; NAME_BYTES],
    pub(super) key: [u8; 32],
}

impl TicketSecret {
    /// Creates a secret. Every key needs another name; both must be unpredictable.
    pub fn new(name: [u8; NAME_BYTES], key: [u8; 32]) -> Self {
        Self { name, key }
    }

    pub(super) fn random() -> Self {
        Self::new(random(), random())
    }
}

impl Drop for TicketSecret {
    fn drop(&mut self) {
        self.name.zeroize();
        self.key.zeroize();
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSecret").finish_non_exhaustive()
    }
}
