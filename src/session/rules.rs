//! The rules of a session, from its limits and the features negotiated in its opening handshake.

use std::sync::Arc;

use super::side::Side;
use crate::policy::limits::{Limits, OnExcess};
use crate::policy::quota::{Count, Limiter};
use crate::ws::inspector::Rules;

/// Returns the frame limit and the message limit of a side, in bytes. Limits that are only reported do not limit.
pub(super) fn sizes(side: Side, limits: &Limits) -> (u64, u64) {
    match side {
        _ if limits.is_reporting() => (u64::MAX, u64::MAX),
        Side::Client => (limits.frame_max_bytes, limits.message_max_bytes),
        Side::Upstream => {
            let max_bytes = limits.upstream_message_max_bytes.unwrap_or(u64::MAX);
            (max_bytes, max_bytes)
        }
    }
}

/// Returns the rules for a side. Compression and the UTF-8 check are as negotiated, also after a change of the limits.
/// Only the text of a client is checked.
pub(super) fn rules(side: Side, limits: &Limits, compressed: bool, check_utf8: bool) -> Rules {
    let client = side == Side::Client;
    let (frame_max_bytes, message_max_bytes) = sizes(side, limits);
    Rules { masked: client, compressed, frame_max_bytes, message_max_bytes, check_utf8: check_utf8 && client }
}

/// Returns the treatment of messages that exceed the quota. Where messages may be compressed, they are delayed and
/// not dropped: later messages are compressed with reference to earlier ones.
pub(super) fn on_excess(limits: &Limits, compressed: bool) -> OnExcess {
    match limits.on_excess() {
        Some(OnExcess::Drop) if compressed => OnExcess::Delay,
        Some(on_excess) => on_excess,
        None => OnExcess::Delay,
    }
}

/// Returns the limiter of the client's messages over a count, or `None` if the limits set no message quota.
pub(super) fn message_limiter(limits: &Limits, count: Arc<Count>) -> Option<Arc<Limiter>> {
    Some(Arc::new(Limiter::over(count, limits.messages?.quota)))
}
