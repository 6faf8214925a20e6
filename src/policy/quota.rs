//! Quotas: how many of something in how much time.

use std::num::NonZeroU32;
use std::time::Duration;

/// A rate: at most `count` in each `period`, evenly spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many.
    pub count: NonZeroU32,
    /// In how much time; never zero.
    pub period: Duration,
}

/// A rate, and how many may come at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// How many in the long run.
    pub rate: Rate,
    /// How many at once.
    pub burst: NonZeroU32,
}
