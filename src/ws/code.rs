//! Close codes (RFC 6455 section 7.4).

use std::fmt;

/// The status code of a Close frame. Any `u16` can be one; [`CloseCode::may_be_sent`] tells which may be on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CloseCode(pub u16);

impl CloseCode {
    /// The purpose of the connection is fulfilled.
    pub const NORMAL: Self = Self(1000);
    /// An end goes away: drain, idle timeout, no pong, or a client that vanished.
    pub const GOING_AWAY: Self = Self(1001);
    /// A rule of the protocol was broken.
    pub const PROTOCOL_ERROR: Self = Self(1002);
    /// Text that is not UTF-8.
    pub const INVALID_PAYLOAD: Self = Self(1007);
    /// A policy was violated: rate exceeded, token expired.
    pub const POLICY_VIOLATION: Self = Self(1008);
    /// A message is too big.
    pub const MESSAGE_TOO_BIG: Self = Self(1009);
    /// The upstream went away without a close (registered with IANA by the authors of RFC 6455 as "Bad Gateway").
    pub const BAD_GATEWAY: Self = Self(1014);

    /// Whether an endpoint may put this code into a Close frame: the codes that section 7.4.1 and the IANA registry
    /// define for the wire, and the ranges of section 7.4.2 for libraries, frameworks and applications.
    pub fn may_be_sent(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
