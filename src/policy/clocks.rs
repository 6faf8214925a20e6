//! One reading of the clocks, which the rules get as an argument.

use std::time::{Duration, Instant};

/// One reading of both clocks: the monotonic one for deadlines, and the wall clock for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Monotonic time.
    pub instant: Instant,
    /// Time since the Unix epoch.
    pub unix: Duration,
}
