//! The outcome and the traffic counts of a session, which the caller logs.

use serde::{Deserialize, Serialize};

use super::side::Side;
use crate::policy::rejection::Rejection;
use crate::ws::code::CloseCode;
use crate::ws::violation::Violation;

/// The side that ended the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ClosedBy {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// Tollgate itself.
    Tollgate,
}

impl From<Side> for ClosedBy {
    fn from(side: Side) -> Self {
        match side {
            Side::Client => Self::Client,
            Side::Upstream => Self::Upstream,
        }
    }
}

impl ClosedBy {
    /// Returns its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Tollgate => "tollgate",
        }
    }
}

/// The rule by which an open session is not admitted any more. A `u8`, so that a session does not grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AdmissionRule {
    /// Its token is not valid by the changed rules of its auth section, or its route has other sections.
    Token,
    /// The key that verified its token has left the key set.
    KeyLost,
    /// The authentication service did not admit it when it was asked again.
    Service,
    /// The route does not admit its address any more.
    Address,
    /// The route does not admit its origin any more.
    Origin,
    /// Its claims do not meet the requirements any more.
    Claims,
    /// Its subject or its address has more sessions than the changed limits allow.
    Sessions,
}

impl AdmissionRule {
    /// All rules.
    pub const ALL: [Self; 7] =
        [Self::Token, Self::KeyLost, Self::Service, Self::Address, Self::Origin, Self::Claims, Self::Sessions];

    /// Returns its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::KeyLost => "key_lost",
            Self::Service => "auth_status",
            Self::Address => "address",
            Self::Origin => "origin",
            Self::Claims => "claims",
            Self::Sessions => "sessions",
        }
    }
}

impl From<Rejection> for AdmissionRule {
    /// Returns the rule by which a check rejects an open session.
    fn from(rejection: Rejection) -> Self {
        match rejection {
            Rejection::Address => Self::Address,
            Rejection::Origin => Self::Origin,
            Rejection::Claims => Self::Claims,
            Rejection::AddressSessions | Rejection::SubjectSessions => Self::Sessions,
            Rejection::AuthStatus(_) | Rejection::AuthUnavailable | Rejection::AuthBusy => Self::Service,
            // The others concern the token, or only a request.
            _ => Self::Token,
        }
    }
}

/// The reason for the end of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum CloseReason {
    /// A side sent a Close.
    Closed,
    /// A side broke a rule of the protocol or exceeded a size limit of the route.
    Violation(Side, Violation),
    /// The client sent messages faster than its route allows.
    MessageRate,
    /// A side sent bytes faster than the route allows.
    ByteRate(Side),
    /// The client sent control frames or small fragments faster than its route allows.
    OverheadRate,
    /// The token expired.
    TokenExpired,
    /// The session lasted as long as its route allows.
    MaxAge,
    /// No data passed within the idle timeout of the route.
    IdleTimeout,
    /// A side did not answer a ping, or stopped within a frame while a ping to the other side waited for its end.
    NoPong(Side),
    /// The process drains.
    Drain,
    /// A side disconnected without a Close.
    Disconnected(Side),
    /// A side accepted none of the bytes queued for it within the write timeout.
    WriteStall(Side),
    /// Data for the client waited longer than the write timeout, although the client may have read some.
    SlowClient,
    /// An operator ended the session.
    Command,
    /// The token, its subject or its session at the issuer was revoked.
    Revoked,
    /// A newer session of the same subject or address has taken over its slot.
    Replaced,
    /// The session is not admitted any more, by this rule.
    NotAdmitted(AdmissionRule),
    /// A changed configuration has no route or no server for the session any more.
    Removed,
    /// Its server gets no new sessions, or is not in the pool of its upstream any more.
    ServerDrain,
    /// Its server had more sessions than its share.
    Rebalance,
    /// The process cut the session off without waiting for the closing handshake.
    Aborted,
}

impl CloseReason {
    /// Whether the connection to the upstream was lost.
    pub fn is_upstream_loss(self) -> bool {
        matches!(
            self,
            Self::Disconnected(Side::Upstream) | Self::WriteStall(Side::Upstream) | Self::NoPong(Side::Upstream)
        )
    }

    /// Returns the code of our Close. It is not used where a side, a command, the expiry of the token or the upstream's
    /// `upstream_loss_close_code` sets the code.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Closed | Self::Command => CloseCode::NORMAL,
            Self::Violation(_, violation) => violation.close_code(),
            Self::MessageRate
            | Self::ByteRate(_)
            | Self::OverheadRate
            | Self::TokenExpired
            | Self::Revoked
            | Self::Replaced
            | Self::SlowClient
            | Self::NotAdmitted(_) => CloseCode::POLICY_VIOLATION,
            Self::MaxAge
            | Self::IdleTimeout
            | Self::NoPong(Side::Client)
            | Self::Drain
            | Self::Removed
            | Self::Aborted
            | Self::Disconnected(Side::Client)
            | Self::WriteStall(Side::Client) => CloseCode::GOING_AWAY,
            Self::ServerDrain | Self::Rebalance => CloseCode::SERVICE_RESTART,
            Self::Disconnected(Side::Upstream) | Self::WriteStall(Side::Upstream) | Self::NoPong(Side::Upstream) => {
                CloseCode::BAD_GATEWAY
            }
        }
    }

    /// Returns the reason text of that Close.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Closed | Self::Command | Self::Aborted => "",
            Self::Violation(_, violation) => violation.label(),
            Self::MessageRate => "message rate exceeded",
            Self::ByteRate(Side::Client) => "byte rate of the client exceeded",
            Self::ByteRate(Side::Upstream) => "byte rate of the upstream exceeded",
            Self::OverheadRate => "frame rate exceeded",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced by a newer session",
            Self::NotAdmitted(_) => "no longer admitted",
            Self::Removed => "route removed",
            Self::ServerDrain => "server drained",
            Self::Rebalance => "rebalanced",
            Self::TokenExpired => "token expired",
            Self::MaxAge => "maximum session age",
            Self::IdleTimeout => "idle timeout",
            Self::NoPong(_) => "no pong",
            Self::Drain => "going away",
            Self::Disconnected(Side::Client) => "client went away",
            Self::Disconnected(Side::Upstream) => "upstream went away",
            Self::WriteStall(Side::Client) => "client does not read",
            Self::WriteStall(Side::Upstream) => "upstream does not read",
            Self::SlowClient => "slow consumer",
        }
    }

    /// Returns its name in logs, one of a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Violation(Side::Client, _) => "client_violation",
            Self::Violation(Side::Upstream, _) => "upstream_violation",
            Self::MessageRate => "message_rate",
            Self::ByteRate(Side::Client) => "byte_rate",
            Self::ByteRate(Side::Upstream) => "upstream_byte_rate",
            Self::OverheadRate => "overhead_rate",
            Self::TokenExpired => "token_expired",
            Self::MaxAge => "max_session_age",
            Self::IdleTimeout => "idle_timeout",
            Self::NoPong(Side::Client) => "client_no_pong",
            Self::NoPong(Side::Upstream) => "upstream_no_pong",
            Self::Drain => "drain",
            Self::Disconnected(Side::Client) => "client_gone",
            Self::Disconnected(Side::Upstream) => "upstream_gone",
            Self::WriteStall(Side::Client) => "client_write_stall",
            Self::WriteStall(Side::Upstream) => "upstream_write_stall",
            Self::SlowClient => "slow_client",
            Self::Command => "command",
            Self::Revoked => "revoked",
            Self::Replaced => "replaced",
            Self::NotAdmitted(_) => "not_admitted",
            Self::Removed => "removed",
            Self::ServerDrain => "server_drained",
            Self::Rebalance => "rebalanced",
            Self::Aborted => "cut",
        }
    }
}

impl CloseReason {
    /// Returns the name of the rule within this reason, for the log.
    pub fn rule(self) -> Option<&'static str> {
        match self {
            Self::NotAdmitted(rule) => Some(rule.label()),
            _ => None,
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The side that ended it.
    pub by: ClosedBy,
    /// The code of the Close that ended it, if there was one and it had one.
    pub code: Option<CloseCode>,
    /// The reason.
    pub cause: CloseReason,
}

/// The traffic forwarded in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionStats {
    /// Messages, including incomplete ones.
    pub messages: u64,
    /// Bytes of frames, including headers and control frames.
    pub bytes: u64,
}

/// The traffic forwarded in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStats {
    /// From the client.
    pub client: DirectionStats,
    /// From the upstream.
    pub upstream: DirectionStats,
    /// The number of messages with which the client exceeded its message rate, and of frames with which a side exceeded
    /// its byte rate.
    pub throttled: u64,
}

impl SessionStats {
    pub(super) fn of(&mut self, from: Side) -> &mut DirectionStats {
        match from {
            Side::Client => &mut self.client,
            Side::Upstream => &mut self.upstream,
        }
    }
}
