//! The limits of a session, as its route sets them.

use std::num::NonZeroU32;
use std::time::Duration;

use super::quota::Quota;

/// The key by which messages are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateKey {
    /// Each session has a quota of its own.
    Session,
    /// All sessions of one token subject share a quota; a session without a subject is counted by its address.
    Subject,
    /// All sessions of one client address share a quota.
    Address,
}

/// The treatment of a message that exceeds the quota.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnExcess {
    /// The session is closed with code 1008.
    Close,
    /// Reading from the client stops until the quota allows the message.
    Delay,
    /// The whole message is discarded.
    Drop,
}

/// The quota of messages from a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageQuota {
    /// The quota.
    pub quota: Quota,
    /// The key by which messages are counted.
    pub key: RateKey,
    /// The treatment of messages that exceed the quota.
    pub on_excess: OnExcess,
}

/// The limits of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// The quota of messages from the client; `None`: unlimited.
    pub messages: Option<MessageQuota>,
    /// The quota of control frames and small inner fragments from the client and, without a quota of messages, of empty
    /// messages: they cost work and carry almost no data.
    pub overhead: Quota,
    /// The maximum number of bytes of a message from the client, over all its fragments, as declared on the wire
    /// (compressed if it is compressed).
    pub message_max_bytes: u64,
    /// The maximum number of payload bytes of one frame from the client.
    pub frame_max_bytes: u64,
    /// The maximum number of bytes of a message from the upstream; `None`: unlimited.
    pub upstream_message_max_bytes: Option<u64>,
    /// The maximum number of concurrent sessions of one token subject.
    pub sessions_per_subject: Option<NonZeroU32>,
    /// The maximum number of concurrent sessions of one client address.
    pub sessions_per_address: Option<NonZeroU32>,
    /// How long a session may last without a data frame in either direction; `None`: unlimited.
    pub idle_timeout: Option<Duration>,
    /// How long a client may be silent before it is pinged; `None`: it is never pinged.
    pub ping_interval: Option<Duration>,
    /// How long an upstream may be silent before it is pinged; `None`: it is never pinged.
    pub upstream_ping_interval: Option<Duration>,
    /// How long a side may stay silent after a ping.
    pub pong_timeout: Duration,
    /// How long the closing handshake may take.
    pub close_timeout: Duration,
    /// How long a side may accept none of the bytes queued for it.
    pub write_timeout: Duration,
    /// Whether text messages from a client must be UTF-8 (RFC 6455 section 8.1). Disables compression.
    pub check_utf8: bool,
    /// How long a session may last at most; `None`: unlimited. See [`Limits::session_age_max`].
    pub max_session_age: Option<Duration>,
}

impl Limits {
    /// Returns how long a session may last: `max_session_age` less up to a tenth of it, in proportion to `jitter`, a
    /// random number of the session. Sessions that began together so end over a tenth of the time.
    pub fn session_age_max(&self, jitter: u16) -> Option<Duration> {
        let age = self.max_session_age?;
        let less = (age / 10).saturating_mul(u32::from(jitter)) / (u32::from(u16::MAX) + 1);
        Some(age.saturating_sub(less))
    }

    /// Whether messages may be compressed (RFC 7692). False if text is checked, since it would have to be decompressed,
    /// and if messages are dropped, since later messages are compressed with reference to earlier ones.
    pub fn allow_compression(&self) -> bool {
        !self.check_utf8 && self.messages.is_none_or(|messages| messages.on_excess != OnExcess::Drop)
    }
}
