//! The session's state of one side.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::outcome::CloseReason;
use crate::ws::inspector::Inspector;

/// The input that is still expected from a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Input {
    /// Frames.
    Open,
    /// None: the side sent its Close, after which all input is ignored (RFC 6455 section 5.5.1).
    Closed,
    /// None: the side broke a rule or exceeded a rate, and all later input is ignored.
    Broken,
    /// None: the side is disconnected, and nothing can be sent to it.
    Disconnected,
}

/// The state of one side.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub(super) struct Peer {
    /// The parser of its frames, which checks them against the rules.
    pub inspector: Inspector,
    /// The input that is still expected from it.
    pub input: Input,
    /// Whether the message that it is sending is dropped.
    pub discarding_message: bool,
    /// Whether a part of a frame that it is sending has been forwarded.
    pub mid_frame: bool,
    /// Whether it has been sent a Close, the other side's or ours.
    pub close_sent: bool,
    /// The reason for the Close of ours that it is to be sent. `Closed` uses the code of the session's outcome.
    pub pending_close: Option<CloseReason>,
    /// Whether it is to be pinged.
    pub ping_due: bool,
    /// When it was pinged, if nothing was received from it since.
    pub pinged: Option<Instant>,
    /// When something was last received from it.
    pub last_activity: Instant,
    /// Since when it accepts none of the bytes queued for it.
    pub blocked_since: Option<Instant>,
    /// Since when nothing can be sent to it. Bytes that it sent before may still arrive.
    pub write_closed_since: Option<Instant>,
}

impl Peer {
    pub fn new(inspector: Inspector, now: Instant) -> Self {
        Self {
            inspector,
            input: Input::Open,
            discarding_message: false,
            mid_frame: false,
            close_sent: false,
            pending_close: None,
            ping_due: false,
            pinged: None,
            last_activity: now,
            blocked_since: None,
            write_closed_since: None,
        }
    }

    /// Records that bytes were received. Any byte, not only a pong, shows that the side is alive.
    pub fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
        self.pinged = None;
    }

    /// Whether nothing can be sent to it.
    pub fn is_write_closed(&self) -> bool {
        self.write_closed_since.is_some() || self.input == Input::Disconnected
    }

    /// Whether nothing may be forwarded to it: it has been sent a Close, or nothing can be sent to it.
    pub fn output_closed(&self) -> bool {
        self.close_sent || self.is_write_closed()
    }

    /// Drops the Close and the ping that it was to be sent.
    pub fn drop_output(&mut self) {
        self.pending_close = None;
        self.ping_due = false;
        self.blocked_since = None;
    }
}
