//! The deadlines at which a session ends although both sides go on.

use std::time::Instant;

use crate::policy::expiry::Expiry;

/// The facts from which these deadlines follow. They are read only when a deadline is set or passes, so they have an
/// allocation of their own.
#[derive(Debug)]
pub(super) struct Lifetime {
    /// When the session ends because its token expires, and the code of its Close.
    pub expires: Option<Expiry>,
    /// The time of the 101, from which the age of the session is measured.
    pub opened_at: Instant,
    /// The random number by which the maximum age is shortened.
    pub age_jitter: u16,
    /// When the session ends because the process drains.
    pub drain_at: Option<Instant>,
}
