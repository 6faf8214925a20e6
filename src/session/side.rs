//! The two ends of a session.

/// One of the two ends of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Who connected to us.
    Client,
    /// Whom we connected to.
    Upstream,
}

impl Side {
    /// The two sides.
    pub const BOTH: [Self; 2] = [Self::Client, Self::Upstream];

    /// The side that this side talks to.
    pub fn other(self) -> Self {
        match self {
            Self::Client => Self::Upstream,
            Self::Upstream => Self::Client,
        }
    }
}
