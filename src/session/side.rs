//! The two sides of a session.

use serde::{Deserialize, Serialize};

/// One of the two sides of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Side {
    /// The side that connected to the proxy.
    Client,
    /// The side that the proxy connected to.
    Upstream,
}

impl Side {
    /// Both sides.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// Returns the opposite side.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}
