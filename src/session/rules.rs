//! The rules of a session: its limits, and what was negotiated at its start.

use super::side::Side;
use crate::policy::limits::{Limits, OnExcess};
use crate::ws::inspector::Rules;

/// Returns the limits of the frames and the messages of a side, in bytes.
pub(super) fn sizes(side: Side, limits: &Limits) -> (u64, u64) {
    match side {
        Side::Client => (limits.frame_max_bytes, limits.message_max_bytes),
        Side::Upstream => {
            let max_bytes = limits.upstream_message_max_bytes.unwrap_or(u64::MAX);
            (max_bytes, max_bytes)
        }
    }
}

/// Returns the rules for a side. Compression and the UTF-8 check are as negotiated, whatever the limits are now. Only the
/// text of a client is checked.
pub(super) fn rules(side: Side, limits: &Limits, compressed: bool, check_utf8: bool) -> Rules {
    let client = side == Side::Client;
    let (frame_max_bytes, message_max_bytes) = sizes(side, limits);
    Rules { masked: client, compressed, frame_max_bytes, message_max_bytes, check_utf8: check_utf8 && client }
}

/// Returns the treatment of messages that exceed the quota. Where messages may be compressed they are delayed and not
/// dropped: later messages are compressed with reference to earlier ones.
pub(super) fn on_excess(limits: &Limits, compressed: bool) -> OnExcess {
    match limits.messages.map(|messages| messages.on_excess) {
        Some(OnExcess::Drop) if compressed => OnExcess::Delay,
        Some(on_excess) => on_excess,
        None => OnExcess::Delay,
    }
}
