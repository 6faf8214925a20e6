//! A session that another process has frozen, before a worker of this process starts it.

use std::sync::Arc;

use super::facts::SessionFacts;
use super::freezing::MovingParts;
use super::terms::RelayTerms;
use crate::policy::route::Route;
use crate::session::CloseReason;

/// A session of another process with its slots in this one. Its sockets are not registered with an event loop. Dropping
/// it ends neither connection in order.
#[derive(Debug)]
pub struct AdoptedSession {
    /// Its image and its sockets.
    pub parts: MovingParts,
    /// Its slots and limits.
    pub terms: RelayTerms,
    /// The facts that it was admitted with.
    pub facts: Arc<SessionFacts>,
    /// The route by whose rules it is open from now on.
    pub route: Arc<Route>,
    /// The generation of the snapshot that has this route.
    pub generation: u64,
    /// Why it is not admitted by the rules of this process, so that it closes at once.
    pub rejected: Option<CloseReason>,
}
