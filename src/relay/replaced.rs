//! Sessions whose slot another session has taken over, in a list for each worker, which ends its own ones.
//!
//! The list is not a channel: its sender is an upgrade, which must neither wait nor lose an entry if its client
//! disconnects. It has no limit of its own, since each session loses each of its slots at most once.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

use super::registry::Registry;
use crate::session::CloseReason;
use crate::telemetry::request::RequestId;

/// The sessions that one worker has to end, if it has them.
#[derive(Debug, Default)]
pub struct ReplacedSessions {
    ids: Mutex<Vec<RequestId>>,
    is_pending: Notify,
}

impl ReplacedSessions {
    /// Adds sessions. The worker ends them soon.
    pub fn add(&self, ids: impl IntoIterator<Item = RequestId>) {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        self.is_pending.notify_one();
    }

    /// Ends the sessions that are added, as far as they are in this registry. Never returns.
    pub async fn serve(&self, sessions: &Registry) {
        loop {
            self.is_pending.notified().await;
            let ids = std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner));
            for id in ids {
                sessions.revoke_limited(id, CloseReason::Replaced);
            }
        }
    }
}
