//! The limits of a session, as its route sets them.

use std::num::NonZeroU32;
use std::time::Duration;

use super::quota::Quota;

/// Whether the limits of a route have an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitMode {
    /// The limits act.
    Enforce,
    /// The limits do not act. Each time that one would have acted is counted, and the first of a session is logged.
    Report,
}

/// The treatment of a session beyond `sessions_per_subject` or `sessions_per_address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSessionLimit {
    /// Its request is answered with 429.
    Refuse,
    /// It takes over the slot of the oldest session, which is closed with code 1008.
    CloseOldest,
}

/// The treatment of a client that is slower than its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnSlowClient {
    /// The upstream is not read while the client accepts no bytes.
    Block,
    /// As `Block`, and the session is closed with code 1008 when data has waited longer than `write_timeout`.
    Close,
    /// The upstream is read, and the oldest messages are dropped when those that wait exceed the buffer.
    DropOldest {
        /// The memory for messages that wait for the client.
        buffer_bytes: u64,
    },
}

impl OnSlowClient {
    /// Returns the memory for messages that wait, if messages are dropped.
    pub fn buffer_bytes(self) -> Option<u64> {
        match self {
            Self::Block | Self::Close => None,
            Self::DropOldest { buffer_bytes } => Some(buffer_bytes),
        }
    }

    /// Returns its name in the configuration.
    pub fn label(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::Close => "close",
            Self::DropOldest { .. } => "drop_oldest",
        }
    }
}

/// A limit of a route that `mode = "report"` turns into a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LimitKind {
    /// The quota of messages from the client.
    MessageRate,
    /// The quota of bytes from the client.
    ByteRate,
    /// The quota of bytes from the upstream.
    UpstreamByteRate,
    /// The quota of control frames and small fragments from the client.
    OverheadRate,
    /// The size of a message from the client.
    MessageMaxSize,
    /// The size of a frame from the client.
    FrameMaxSize,
    /// The size of a message from the upstream.
    UpstreamMessageMaxSize,
    /// The time without a data frame.
    IdleTimeout,
    /// The time that a session may last.
    MaxSessionAge,
    /// How long data waits for the client, with `on_slow_client = "close"`.
    SlowClient,
    /// The number of sessions of a subject.
    SessionsPerSubject,
    /// The number of sessions of an address.
    SessionsPerAddress,
    /// The quota of ordinary requests.
    RequestRate,
    /// The size of the body of an ordinary request.
    RequestMaxSize,
}

impl LimitKind {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 14] = [
        Self::MessageRate,
        Self::ByteRate,
        Self::UpstreamByteRate,
        Self::OverheadRate,
        Self::MessageMaxSize,
        Self::FrameMaxSize,
        Self::UpstreamMessageMaxSize,
        Self::IdleTimeout,
        Self::MaxSessionAge,
        Self::SlowClient,
        Self::SessionsPerSubject,
        Self::SessionsPerAddress,
        Self::RequestRate,
        Self::RequestMaxSize,
    ];

    /// Returns its name in logs and metrics: its key, with `upstream_` if it limits the upstream.
    pub fn label(self) -> &'static str {
        match self {
            Self::MessageRate => "message_rate",
            Self::ByteRate => "byte_rate",
            Self::UpstreamByteRate => "upstream_byte_rate",
            Self::OverheadRate => "overhead_rate",
            Self::MessageMaxSize => "message_max_size",
            Self::FrameMaxSize => "frame_max_size",
            Self::UpstreamMessageMaxSize => "upstream_message_max_size",
            Self::IdleTimeout => "idle_timeout",
            Self::MaxSessionAge => "max_session_age",
            Self::SlowClient => "slow_client",
            Self::SessionsPerSubject => "sessions_per_subject",
            Self::SessionsPerAddress => "sessions_per_address",
            Self::RequestRate => "request_rate",
            Self::RequestMaxSize => "request_max_size",
        }
    }
}

/// The action of a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LimitAction {
    /// The session is closed.
    Close,
    /// Reading is delayed.
    Delay,
    /// The message is dropped.
    Drop,
    /// The upgrade or the request is answered with 429, or 413.
    Refuse,
    /// The oldest session is closed.
    CloseOldest,
}

impl LimitAction {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 5] = [Self::Close, Self::Delay, Self::Drop, Self::Refuse, Self::CloseOldest];

    /// Returns its name in logs and metrics: the value of its key.
    pub fn label(self) -> &'static str {
        match self {
            Self::Close => "close",
            Self::Delay => "delay",
            Self::Drop => "drop",
            Self::Refuse => "refuse",
            Self::CloseOldest => "close_oldest",
        }
    }
}

impl From<OnExcess> for LimitAction {
    fn from(on_excess: OnExcess) -> Self {
        match on_excess {
            OnExcess::Close => Self::Close,
            OnExcess::Delay => Self::Delay,
            OnExcess::Drop => Self::Drop,
        }
    }
}

impl From<OnSessionLimit> for LimitAction {
    fn from(on_session_limit: OnSessionLimit) -> Self {
        match on_session_limit {
            OnSessionLimit::Refuse => Self::Refuse,
            OnSessionLimit::CloseOldest => Self::CloseOldest,
        }
    }
}

/// The key by which messages and bytes are counted.
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

/// The quota of the bytes of frames, header and payload, in each direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteQuota {
    /// The quota, of which a cell is a byte.
    pub quota: Quota,
    /// The key by which bytes are counted.
    pub key: RateKey,
    /// The treatment of bytes that exceed the quota.
    pub on_excess: OnExcess,
}

/// The quota of ordinary requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestQuota {
    /// The quota.
    pub quota: Quota,
    /// The key by which requests are counted.
    pub key: RateKey,
}

/// The limits of a session, and of ordinary requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Whether the limits have an effect. Timeouts that protect the process always have one: pings, `pong_timeout`,
    /// `close_timeout`, `write_timeout`. `check_utf8` has one as well, since it is a rule of the protocol.
    pub mode: LimitMode,
    /// The quota of messages from the client; `None`: unlimited.
    pub messages: Option<MessageQuota>,
    /// The quota of bytes; `None`: unlimited.
    pub bytes: Option<ByteQuota>,
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
    /// The treatment of a session beyond either of these two numbers.
    pub on_session_limit: OnSessionLimit,
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
    /// The treatment of a client that is slower than its upstream.
    pub on_slow_client: OnSlowClient,
    /// Whether text messages from a client must be UTF-8 (RFC 6455 section 8.1). Disables compression.
    pub check_utf8: bool,
    /// How long a session may last at most; `None`: unlimited. See [`Limits::session_age_max`].
    pub max_session_age: Option<Duration>,
    /// The quota of ordinary requests; `None`: unlimited.
    pub requests: Option<RequestQuota>,
    /// The maximum number of bytes of the body of an ordinary request; `None`: unlimited.
    pub request_max_bytes: Option<u64>,
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
        let drops_oldest = matches!(self.on_slow_client, OnSlowClient::DropOldest { .. });
        let drops = self.on_excess() == Some(OnExcess::Drop) || drops_oldest;
        !self.check_utf8 && (self.is_reporting() || !drops)
    }

    /// Whether the limits only report what they would do.
    pub fn is_reporting(&self) -> bool {
        self.mode == LimitMode::Report
    }

    /// Returns the treatment of messages and bytes that exceed their quotas, if there is a quota.
    pub fn on_excess(&self) -> Option<OnExcess> {
        self.messages.map(|messages| messages.on_excess).or(self.bytes.map(|bytes| bytes.on_excess))
    }

    /// Returns the key by which sessions share counts of messages and bytes, if they share them.
    pub fn shared_key(&self) -> Option<RateKey> {
        let key = self.messages.map(|messages| messages.key).or(self.bytes.map(|bytes| bytes.key));
        key.filter(|key| *key != RateKey::Session)
    }

    /// Returns the treatment of a session beyond `sessions_per_subject`. Clients without a subject cannot be
    /// distinguished, so none of them closes the session of another.
    pub fn on_subject_limit(&self, has_subject: bool) -> OnSessionLimit {
        if has_subject { self.on_session_limit } else { OnSessionLimit::Refuse }
    }

    /// Returns the action of a limit on a client.
    pub fn action_on(&self, kind: LimitKind, has_subject: bool) -> LimitAction {
        match kind {
            LimitKind::SessionsPerSubject => self.on_subject_limit(has_subject).into(),
            _ => self.action(kind),
        }
    }

    /// Returns the action of a limit on clients with a subject.
    pub fn action(&self, kind: LimitKind) -> LimitAction {
        match (kind, self.on_excess()) {
            // Messages of the upstream are never dropped.
            (LimitKind::UpstreamByteRate, Some(OnExcess::Drop)) => LimitAction::Delay,
            (LimitKind::MessageRate | LimitKind::ByteRate | LimitKind::UpstreamByteRate, Some(on_excess)) => {
                on_excess.into()
            }
            (LimitKind::SessionsPerSubject | LimitKind::SessionsPerAddress, _) => self.on_session_limit.into(),
            (LimitKind::RequestRate | LimitKind::RequestMaxSize, _) => LimitAction::Refuse,
            _ => LimitAction::Close,
        }
    }
}
