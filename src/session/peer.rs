//! What a session knows of one of its two sides.

use std::time::Instant;

use super::outcome::CloseReason;
use crate::ws::inspector::Inspector;

/// What is still expected from a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Input {
    /// Frames.
    Open,
    /// Nothing: it sent its Close, after which nothing counts (RFC 6455 section 5.5.1).
    Closed,
    /// Nothing that could be understood: it broke a rule.
    Broken,
    /// Nothing at all, and nothing can be sent to it.
    Disconnected,
}

/// One side.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own, in any combination with the others")]
pub(super) struct Peer {
    /// The rules of what it sends.
    pub inspector: Inspector,
    /// What it may still send.
    pub input: Input,
    /// The message that it is sending is passed on to nobody.
    pub discarding_message: bool,
    /// A frame that it sends has been passed on in part.
    pub mid_frame: bool,
    /// It has been sent a Close, its peer's or ours.
    pub close_sent: bool,
    /// The Close that it is to get from us: why, or as the other side closed.
    pub pending_close: Option<CloseReason>,
    /// It is to be pinged.
    pub ping_due: bool,
    /// When it was pinged, if it was not heard since.
    pub pinged: Option<Instant>,
    /// When it was last heard.
    pub last_activity: Instant,
    /// Since when it takes none of the bytes that wait for it.
    pub blocked_since: Option<Instant>,
    /// Since when nothing can be sent to it; what it sent before may still come.
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

    /// Any byte from a side proves that it lives, whether or not it is the pong.
    pub fn on_activity(&mut self, now: Instant) {
        self.last_activity = now;
        self.pinged = None;
    }

    /// Whether nothing can be sent to it.
    pub fn is_write_closed(&self) -> bool {
        self.write_closed_since.is_some() || self.input == Input::Disconnected
    }

    /// Whether nothing may be passed on to it: it has been sent a Close, or nothing can be sent.
    pub fn output_closed(&self) -> bool {
        self.close_sent || self.is_write_closed()
    }

    /// Forgets what it was to be sent.
    pub fn drop_output(&mut self) {
        self.pending_close = None;
        self.ping_due = false;
        self.blocked_since = None;
    }
}
