//! Every way in which a request is refused, and the one table that says how.

use std::sync::Arc;

use http::StatusCode;

use super::path::PathError;
use super::token::TokenError;
use crate::ws::handshake::{AnswerError, OpeningError};

/// Why a request got no session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// What came is no HTTP request, or its head is larger than the listener takes (RFC 6585 section 5).
    Head {
        /// The latter.
        too_large: bool,
    },
    /// The opening handshake is malformed, or is none.
    Opening(OpeningError),
    /// The Host names no host.
    Host,
    /// The path could mean one thing here and another at the upstream.
    Path(PathError),
    /// No route for this host and path.
    NoRoute,
    /// The route does not admit this client address.
    Address,
    /// The client address makes requests too fast, whatever they ask for.
    UpgradeRate {
        /// Seconds until one more may pass.
        retry_after_secs: u64,
    },
    /// The route does not admit this origin.
    Origin,
    /// No token where the route asks for one.
    NoToken,
    /// The request carries tokens that differ where it may carry one.
    TokenAmbiguous,
    /// The token does not hold.
    Token(TokenError),
    /// The claims are not those that the route requires, or one that it forwards cannot stand in a header.
    Claims,
    /// The client address has as many sessions as it may have.
    AddressSessions,
    /// The token's subject has as many sessions as it may have.
    SubjectSessions,
    /// As many sessions as the process may have.
    Full,
    /// The process is going away.
    Draining,
    /// As many requests as may wait for the upstream already do.
    UpstreamBusy,
    /// No server of the upstream took the connection, or the one that did broke it off.
    Unreachable,
    /// The upstream's answer is not HTTP, or its head is too large.
    UpstreamMalformed,
    /// The upstream did not connect or answer in time.
    UpstreamTimeout,
    /// The upstream's answer opens no WebSocket.
    Answer(AnswerError),
    /// The upstream itself refused, with this status.
    UpstreamStatus(StatusCode),
    /// The client left before it had its answer; no response is sent.
    ClientGone,
}

/// A rejection, and what was known of the request by then. The log shows that; the client does not learn it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub rejection: Rejection,
    /// The name of the route, if one was found.
    pub route: Option<Arc<str>>,
    /// The token's subject, if the token holds.
    pub subject: Option<Arc<str>>,
    /// The name of the claim that is not as the route requires, or that no header can carry; never its value.
    pub claim: Option<Box<str>>,
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, route: None, subject: None, claim: None }
    }
}

/// What a client learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status of the response.
    pub status: StatusCode,
    /// Its body: one sentence that gives away nothing about the inside of a token or an upstream.
    pub body: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_secs: Option<u64>,
}

/// Why a client waits before it comes back when there is no better guess: sessions end when they end.
const RETRY_AFTER_SECS: u64 = 5;

/// The status that logs have for a client that left. nginx's, and known from there; it is registered nowhere.
const CLIENT_GONE: u16 = 499;

impl Rejection {
    /// What the client learns of it.
    pub fn response(self) -> ErrorResponse {
        let say = |status, body| ErrorResponse { status, body, retry_after_secs: None };
        let later = |status, body, secs| ErrorResponse { status, body, retry_after_secs: Some(secs) };
        match self {
            Self::Head { too_large: true } => say(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ""),
            Self::Head { too_large: false } => say(StatusCode::BAD_REQUEST, ""),
            Self::Opening(OpeningError::NotUpgrade | OpeningError::Version) => {
                say(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint (RFC 6455, version 13).\n")
            }
            Self::Opening(_) | Self::Host | Self::Path(_) => {
                say(StatusCode::BAD_REQUEST, "The opening handshake is malformed.\n")
            }
            Self::NoRoute => say(StatusCode::NOT_FOUND, "Nothing is served here.\n"),
            Self::NoToken | Self::TokenAmbiguous | Self::Token(_) => {
                say(StatusCode::UNAUTHORIZED, "A valid token is required.\n")
            }
            Self::Address | Self::Origin | Self::Claims => say(StatusCode::FORBIDDEN, "This is not allowed.\n"),
            Self::UpgradeRate { retry_after_secs } => {
                later(StatusCode::TOO_MANY_REQUESTS, "Too many attempts.\n", retry_after_secs)
            }
            Self::AddressSessions | Self::SubjectSessions => {
                later(StatusCode::TOO_MANY_REQUESTS, "Too many sessions.\n", RETRY_AFTER_SECS)
            }
            Self::Full | Self::Draining | Self::UpstreamBusy => {
                later(StatusCode::SERVICE_UNAVAILABLE, "No room for now.\n", RETRY_AFTER_SECS)
            }
            Self::Unreachable | Self::UpstreamMalformed | Self::Answer(_) => {
                say(StatusCode::BAD_GATEWAY, "The upstream is not available.\n")
            }
            Self::UpstreamTimeout => say(StatusCode::GATEWAY_TIMEOUT, "The upstream did not answer in time.\n"),
            Self::UpstreamStatus(status) => say(status, ""),
            Self::ClientGone => say(StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::REQUEST_TIMEOUT), ""),
        }
    }

    /// Its name in logs and as a metric label: one of a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Head { .. } => "head",
            Self::Opening(OpeningError::NotUpgrade) => "not_upgrade",
            Self::Opening(OpeningError::Version) => "version",
            Self::Opening(_) => "malformed",
            Self::Host => "host",
            Self::Path(_) => "path",
            Self::NoRoute => "no_route",
            Self::Address => "address",
            Self::UpgradeRate { .. } => "upgrade_rate",
            Self::Origin => "origin",
            Self::NoToken => "no_token",
            Self::TokenAmbiguous => "token_ambiguous",
            Self::Token(_) => "token",
            Self::Claims => "claims",
            Self::AddressSessions => "address_sessions",
            Self::SubjectSessions => "subject_sessions",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::UpstreamBusy => "upstream_busy",
            Self::Unreachable => "unreachable",
            Self::UpstreamMalformed => "upstream_malformed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Answer(_) => "upstream_answer",
            Self::UpstreamStatus(_) => "upstream_status",
            Self::ClientGone => "client_gone",
        }
    }

    /// The rule within it that was broken, for the log.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Self::Opening(error) => Some(error.label()),
            Self::Path(error) => Some(error.label()),
            Self::Token(error) => Some(error.label()),
            Self::Answer(error) => Some(error.label()),
            _ => None,
        }
    }
}
