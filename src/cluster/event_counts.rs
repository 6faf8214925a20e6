//! The numbers of events that this node has published and read.

use std::sync::atomic::{AtomicU64, Ordering};

/// The numbers since the start of the process.
#[derive(Debug, Default)]
pub(super) struct EventCounts {
    sent: AtomicU64,
    failed: AtomicU64,
    received: AtomicU64,
    expired: AtomicU64,
    unknown: AtomicU64,
}

impl EventCounts {
    /// Returns the numbers with their names in metrics.
    pub(super) fn all(&self) -> [(&'static str, u64); 5] {
        let Self { sent, failed, received, expired, unknown } = self;
        [("sent", sent), ("failed", failed), ("received", received), ("expired", expired), ("unknown", unknown)]
            .map(|(name, count)| (name, count.load(Ordering::Relaxed)))
    }

    /// Notes an attempt to publish an event.
    pub(super) fn note_published<T, E>(&self, published: &Result<T, E>) {
        add(if published.is_ok() { &self.sent } else { &self.failed });
    }

    /// Notes an event of another node.
    pub(super) fn note_received(&self) {
        add(&self.received);
    }

    /// Notes an operation of another node that was read too late, and is skipped.
    pub(super) fn note_expired(&self) {
        add(&self.expired);
    }

    /// Notes an entry that is not understood.
    pub(super) fn note_unknown(&self) {
        add(&self.unknown);
    }
}

fn add(count: &AtomicU64) {
    count.fetch_add(1, Ordering::Relaxed);
}
