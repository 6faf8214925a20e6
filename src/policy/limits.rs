//! The bounds of a session, as its route sets them.

use std::num::NonZeroU32;
use std::time::Duration;

use super::quota::Quota;

/// What messages are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateKey {
    /// Each session has a quota of its own.
    Session,
    /// All sessions of one token subject share one; a session without a subject counts by its address.
    Subject,
    /// All sessions of one client address share one.
    Address,
}

/// What happens to a message beyond the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExcess {
    /// The session ends with 1008.
    Close,
    /// The client is not read until the quota allows the message.
    Delay,
    /// The whole message is discarded.
    Drop,
}

/// How many messages a client may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageQuota {
    /// How many.
    pub quota: Quota,
    /// Counted by what.
    pub key: RateKey,
    /// And beyond it.
    pub on_excess: OnExcess,
}

/// The bounds of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Messages a client may send; `None`: as many as it likes.
    pub messages: Option<MessageQuota>,
    /// Control frames and small inner fragments a client may send, and where messages are not counted empty ones: what
    /// costs work and carries next to nothing.
    pub overhead: Quota,
    /// Bytes of a client's message, over all its fragments, as declared on the wire (compressed if it is compressed).
    pub message_max_bytes: u64,
    /// Bytes of one frame's payload from a client.
    pub frame_max_bytes: u64,
    /// Bytes of an upstream's message; `None`: any.
    pub upstream_message_max_bytes: Option<u64>,
    /// Sessions of one token subject at once.
    pub sessions_per_subject: Option<NonZeroU32>,
    /// Sessions of one client address at once.
    pub sessions_per_address: Option<NonZeroU32>,
    /// How long a session may pass no data frame either way; `None`: for ever.
    pub idle_timeout: Option<Duration>,
    /// After how much silence a client is pinged; `None`: never.
    pub ping_interval: Option<Duration>,
    /// After how much silence an upstream is pinged; `None`: never.
    pub upstream_ping_interval: Option<Duration>,
    /// How long a pinged side may stay silent.
    pub pong_timeout: Duration,
    /// How long the closing handshake may take.
    pub close_timeout: Duration,
    /// How long a side may take none of the bytes that wait for it.
    pub write_timeout: Duration,
    /// Whether text messages from a client must be UTF-8 (RFC 6455 section 8.1). It keeps compression off.
    pub check_utf8: bool,
}

impl Limits {
    /// Whether messages may be compressed (RFC 7692). Not where text is checked, which would have to be inflated, and not
    /// where messages are dropped: the next one is compressed against those before it.
    pub fn allow_compression(&self) -> bool {
        !self.check_utf8 && self.messages.is_none_or(|messages| messages.on_excess != OnExcess::Drop)
    }
}
