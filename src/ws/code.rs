//! Close codes (RFC 6455 section 7.4).

use std::fmt;

use serde::{Deserialize, Serialize};

/// The status code of a Close frame. It can hold any `u16`; [`CloseCode::may_be_sent`] checks whether it may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// A normal closure: the purpose of the connection has been fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// An endpoint is going away: drain, idle timeout, no pong, or a client that disconnected or does not read.
    pub const GOING_AWAY: Self = Self(1001);
    /// A protocol error.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// A text message or a close reason that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A policy violation: rate exceeded, token expired.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A frame or a message that is too big.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// A server is replaced or restarts: the client should connect again after a random time (registered with IANA as
    /// "Service Restart").
    pub const SERVICE_RESTART: Self = Self(1012);
    /// The upstream disconnected without a Close, does not read, or does not answer a ping (registered with IANA by the
    /// authors of RFC 6455 as "Bad Gateway").
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Whether an endpoint may send this code in a Close frame: the codes that section 7.4.1 and the IANA registry
    /// define for that, and the ranges of section 7.4.2 for libraries, frameworks and applications.
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
