//! The deadlines at which a session ends although both sides go on.

use std::time::Instant;

use super::outcome::{CloseReason, ClosedBy};
use crate::balance::UpstreamLoss;
use crate::policy::expiry::Expiry;
use crate::ws::frame::ControlFrame;

/// The state of a session whose upstream is lost and whose client has not been closed yet.
#[derive(Debug)]
pub(super) struct Loss {
    pub by: ClosedBy,
    pub cause: CloseReason,
    /// When the client is closed.
    pub close_at: Instant,
    /// Whether the upstream was sent a last Close, if it is still connected.
    pub is_upstream_told: bool,
    /// Whether the owner was told, so that it could set that time.
    pub is_announced: bool,
    /// The answer to the last ping of the client.
    pub pong: Option<Box<ControlFrame>>,
}

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
    /// How the client is closed if the upstream is lost.
    pub on_loss: UpstreamLoss,
    /// The loss of the upstream, until the client is closed.
    pub loss: Option<Loss>,
    /// Since when data waits for the client, where that closes it.
    pub behind_since: Option<Instant>,
}

impl Lifetime {
    /// Creates the deadlines of a session that begins now.
    pub fn new(expires: Option<Expiry>, age_jitter: u16, on_loss: UpstreamLoss, now: Instant) -> Self {
        Self { expires, opened_at: now, age_jitter, drain_at: None, on_loss, loss: None, behind_since: None }
    }
}
