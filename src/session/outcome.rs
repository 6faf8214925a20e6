//! How a session ended and what passed: the facts that the shell logs and counts.

use super::side::Side;
use crate::ws::code::CloseCode;
use crate::ws::violation::Violation;

/// Who ended the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ClosedBy {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
    /// We did.
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
    /// Its name in logs.
    pub fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::Tollgate => "tollgate",
        }
    }
}

/// Why a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// A side sent a Close.
    Closed,
    /// A side broke a rule of the protocol or of its route's sizes.
    Violation(Side, Violation),
    /// The client sent messages faster than its route allows.
    MessageRate,
    /// The client sent control frames or small fragments faster than its route allows.
    OverheadRate,
    /// The token ran out.
    TokenExpired,
    /// No data passed for as long as the route allows.
    IdleTimeout,
    /// A side did not answer a ping.
    NoPong(Side),
    /// The process goes away.
    Drain,
    /// A side went away without a Close.
    Disconnected(Side),
    /// A side took none of the bytes that waited for it.
    WriteStall(Side),
    /// An operator ended the session.
    Command,
    /// The process could not wait any longer for the closing handshake.
    Aborted,
}

impl CloseReason {
    /// The code of the Close that tells of it. It is not used where a side or a command gave the code.
    pub fn close_code(self) -> CloseCode {
        match self {
            Self::Closed | Self::Command => CloseCode::NORMAL,
            Self::Violation(_, violation) => violation.close_code(),
            Self::MessageRate | Self::OverheadRate | Self::TokenExpired => CloseCode::POLICY_VIOLATION,
            Self::IdleTimeout
            | Self::NoPong(_)
            | Self::Drain
            | Self::Aborted
            | Self::Disconnected(Side::Client)
            | Self::WriteStall(Side::Client) => CloseCode::GOING_AWAY,
            Self::Disconnected(Side::Upstream) | Self::WriteStall(Side::Upstream) => CloseCode::BAD_GATEWAY,
        }
    }

    /// The reason in that Close.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Closed | Self::Command | Self::Aborted => "",
            Self::Violation(_, violation) => violation.label(),
            Self::MessageRate => "message rate exceeded",
            Self::OverheadRate => "frame rate exceeded",
            Self::TokenExpired => "token expired",
            Self::IdleTimeout => "idle timeout",
            Self::NoPong(_) => "no pong",
            Self::Drain => "going away",
            Self::Disconnected(Side::Client) => "client went away",
            Self::Disconnected(Side::Upstream) => "upstream went away",
            Self::WriteStall(Side::Client) => "client does not read",
            Self::WriteStall(Side::Upstream) => "upstream does not read",
        }
    }

    /// Its name in logs: one of a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Violation(Side::Client, _) => "client_violation",
            Self::Violation(Side::Upstream, _) => "upstream_violation",
            Self::MessageRate => "message_rate",
            Self::OverheadRate => "overhead_rate",
            Self::TokenExpired => "token_expired",
            Self::IdleTimeout => "idle_timeout",
            Self::NoPong(Side::Client) => "client_no_pong",
            Self::NoPong(Side::Upstream) => "upstream_no_pong",
            Self::Drain => "drain",
            Self::Disconnected(Side::Client) => "client_gone",
            Self::Disconnected(Side::Upstream) => "upstream_gone",
            Self::WriteStall(Side::Client) => "client_write_stall",
            Self::WriteStall(Side::Upstream) => "upstream_write_stall",
            Self::Command => "command",
            Self::Aborted => "cut",
        }
    }
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Who ended it.
    pub by: ClosedBy,
    /// The code of the Close that ended it, if there was one and it had one.
    pub code: Option<CloseCode>,
    /// Why.
    pub cause: CloseReason,
}

/// What passed in one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Messages, whether or not they are whole yet.
    pub messages: u64,
    /// Bytes of frames, headers and control frames included.
    pub bytes: u64,
}

/// What passed in both directions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct SessionStats {
    /// From the client.
    pub client: DirectionStats,
    /// From the upstream.
    pub upstream: DirectionStats,
    /// How often the client exceeded its message rate.
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
