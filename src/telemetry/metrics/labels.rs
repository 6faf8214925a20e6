//! The label values that are not names of the configuration: fixed sets, whatever clients send.

use std::io::{self, ErrorKind};

use http::StatusCode;

use crate::policy::limits::OnExcess;
use crate::session::{CloseReason, ClosedBy, Outcome};

/// The values of `direction`: from clients, and to clients.
pub const DIRECTIONS: [&str; 2] = ["in", "out"];

/// The values of `by`.
pub const CLOSED_BY: [&str; 3] = ["client", "upstream", "tollgate"];

/// The values of `action`: what happens to a message that exceeds its quota.
pub const ACTIONS: [&str; 3] = ["close", "delay", "drop"];

/// The values of `code`. A client may choose any code from 3000 to 4999, so those are two values. `1006` is a session
/// that was cut off without a Close, and `none` a Close without a code.
pub const CODES: [&str; 16] = [
    "1000", "1001", "1002", "1003", "1006", "1007", "1008", "1009", "1010", "1011", "1012", "1013", "1014", "3xxx",
    "4xxx", "none",
];

/// Returns the position in [`CODES`] of the code with which a session ended.
pub fn code(outcome: &Outcome) -> usize {
    let name = match (outcome.code, outcome.cause) {
        (None, CloseReason::Aborted) => "1006",
        (None, _) => "none",
        (Some(code), _) => match code.0 {
            3000..=3999 => "3xxx",
            4000..=4999 => "4xxx",
            number => return CODES.iter().position(|code| **code == *number.to_string()).unwrap_or(CODES.len() - 1),
        },
    };
    CODES.iter().position(|code| *code == name).unwrap_or(CODES.len() - 1)
}

/// The values of `cause` of an ended session: those of [`CloseReason::label`].
pub const CAUSES: [&str; 26] = [
    "closed",
    "client_violation",
    "upstream_violation",
    "message_rate",
    "byte_rate",
    "upstream_byte_rate",
    "overhead_rate",
    "token_expired",
    "max_session_age",
    "idle_timeout",
    "client_no_pong",
    "upstream_no_pong",
    "drain",
    "client_gone",
    "upstream_gone",
    "client_write_stall",
    "upstream_write_stall",
    "slow_client",
    "command",
    "revoked",
    "replaced",
    "not_admitted",
    "removed",
    "server_drained",
    "rebalanced",
    "cut",
];

/// Returns the position in [`CAUSES`]; `None` if the label is not there, which a test excludes.
pub fn cause(cause: CloseReason) -> Option<usize> {
    CAUSES.iter().position(|label| *label == cause.label())
}

/// Returns the position in [`CLOSED_BY`].
pub fn closed_by(by: ClosedBy) -> usize {
    match by {
        ClosedBy::Client => 0,
        ClosedBy::Upstream => 1,
        ClosedBy::Tollgate => 2,
    }
}

/// Returns the position in [`ACTIONS`].
pub fn action(on_excess: OnExcess) -> usize {
    match on_excess {
        OnExcess::Close => 0,
        OnExcess::Delay => 1,
        OnExcess::Drop => 2,
    }
}

/// The state of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionState {
    /// It waits for a permit, or its TLS handshake is in progress.
    Handshake,
    /// Its request is being read or answered.
    Request,
    /// It carries a session.
    Session,
    /// Its session is over or its request was rejected, and it is being closed.
    Closing,
    /// It carries ordinary requests, or is kept for the next one.
    Http,
}

/// The values of `state`, in the order of [`ConnectionState`].
pub const STATES: [&str; 5] = ["handshake", "request", "session", "closing", "http"];

/// Returns the number that stands for a status: itself if it is registered, otherwise that of its class, as 4 for 4xx.
/// A server may answer with any status.
pub fn status(status: StatusCode) -> u16 {
    if status.canonical_reason().is_some() { status.as_u16() } else { status.as_u16() / 100 }
}

/// Returns the value of `status` for such a number.
pub fn status_text(number: u16) -> String {
    if number < 100 { format!("{number}xx") } else { number.to_string() }
}

/// The TLS version of a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// The values of `version`: none was agreed on, TLS 1.2 and TLS 1.3.
pub const VERSIONS: [&str; 3] = ["none", "1.2", "1.3"];

/// The values of `resumed`.
pub const RESUMED: [&str; 2] = ["false", "true"];

/// The outcome of a TLS handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HandshakeOutcome {
    /// It succeeded.
    Completed {
        /// The version.
        version: TlsVersion,
        /// Whether it resumed an earlier session.
        resumed: bool,
    },
    /// The two sides did not agree, or the client broke the protocol.
    Failed,
    /// The client disconnected.
    Disconnected,
    /// It did not end in time.
    TimedOut,
}

/// The values of `outcome` of a handshake.
pub const HANDSHAKE_OUTCOMES: [&str; 4] = ["ok", "failed", "disconnected", "timeout"];

impl From<&io::Error> for HandshakeOutcome {
    fn from(error: &io::Error) -> Self {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | NotConnected | UnexpectedEof => Self::Disconnected,
            _ => Self::Failed,
        }
    }
}

impl HandshakeOutcome {
    /// Returns the positions in [`VERSIONS`], [`RESUMED`] and [`HANDSHAKE_OUTCOMES`].
    pub fn position(self) -> [usize; 3] {
        match self {
            Self::Completed { version: TlsVersion::Tls12, resumed } => [1, usize::from(resumed), 0],
            Self::Completed { version: TlsVersion::Tls13, resumed } => [2, usize::from(resumed), 0],
            Self::Failed => [0, 0, 1],
            Self::Disconnected => [0, 0, 2],
            Self::TimedOut => [0, 0, 3],
        }
    }
}
