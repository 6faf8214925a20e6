//! The terms of a session that continues.

use std::sync::Arc;

use crate::policy::counters::SharedCounts;
use crate::policy::grant::Lease;
use crate::policy::limits::Limits;

/// The terms of a session that continues: its slots, its limits, and the counts that it shares with others.
#[derive(Debug)]
pub struct RelayTerms {
    /// Its slots.
    pub lease: Lease,
    /// Its limits.
    pub limits: Arc<Limits>,
    /// The counts of messages and bytes that it shares.
    pub shared: SharedCounts,
}
