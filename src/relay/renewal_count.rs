//! Counts the sessions that a fresh token renews.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

/// Counts the sessions that a token renews. Each of them has a copy until it has taken its new expiry.
#[derive(Debug, Clone)]
pub struct RenewalCount {
    renewed: Arc<AtomicUsize>,
    _pending: mpsc::Sender<Infallible>,
}

/// The receiver of a count.
#[derive(Debug)]
pub struct Renewed {
    renewed: Arc<AtomicUsize>,
    pending: mpsc::Receiver<Infallible>,
}

impl RenewalCount {
    /// Creates a count, and its receiver.
    pub fn new() -> (Self, Renewed) {
        let (sender, pending) = mpsc::channel(1);
        let renewed = Arc::<AtomicUsize>::default();
        (Self { renewed: Arc::clone(&renewed), _pending: sender }, Renewed { renewed, pending })
    }

    /// Counts a session.
    pub fn add_one(&self) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
    }
}

impl Renewed {
    /// Waits until every copy of the count is dropped, and returns the number of sessions.
    pub async fn total(mut self) -> usize {
        // Nothing is sent: the channel ends with the last sender.
        let _ = self.pending.recv().await;
        self.renewed.load(Ordering::Relaxed)
    }
}
