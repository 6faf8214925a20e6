//! Every reason for which a request is rejected, and the response to each.

use std::sync::Arc;

use http::StatusCode;

use super::framing::FramingError;
use super::live_keys::KeysUnavailable;
use super::logout::LogoutError;
use super::path::PathError;
use super::token::TokenError;
use crate::ws::handshake::{AnswerError, OpeningError};

/// Why a request was rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The request is not HTTP, or its head exceeds the listener's limit (RFC 6585 section 5).
    Head {
        /// Whether the head exceeds the limit.
        too_large: bool,
    },
    /// The opening handshake is missing or malformed.
    Opening(OpeningError),
    /// The authority of the request is not a host.
    Host,
    /// The policy and the upstream could read the path differently.
    Path(PathError),
    /// No route matches this host and path.
    NoRoute,
    /// No route serves this host, to which a plain listener would redirect.
    Misdirected,
    /// The path is not answered for this method.
    Method,
    /// The route does not admit this client address.
    Address,
    /// The client address exceeds its quota of requests, in which every request counts.
    UpgradeRate {
        /// Seconds until the quota allows another request.
        retry_after_secs: u64,
    },
    /// The client exceeds the quota of ordinary requests.
    RequestRate {
        /// Seconds until the quota allows another request.
        retry_after_secs: u64,
    },
    /// The request asks for another protocol than WebSocket, or its method is not forwarded: `TRACE` would return the
    /// headers that Tollgate adds, and `CONNECT` is a tunnel (RFC 9110 section 9.3).
    Unsupported,
    /// The request is HTTP, and other parties may read it differently (RFC 9112 section 11.2).
    Framing(FramingError),
    /// The body of the request exceeds the limit of the route.
    BodyTooLarge,
    /// The client sent no part of the body of its request for too long.
    BodyTimeout,
    /// The route does not admit this origin.
    Origin,
    /// The request has no token, and the route requires one.
    NoToken,
    /// One token source of the request contains more than one token.
    TokenAmbiguous,
    /// The token is invalid.
    Token(TokenError),
    /// The token, its subject or its session at the issuer was revoked.
    Revoked,
    /// A back-channel logout failed (`OpenID` Connect Back-Channel Logout 1.0 section 2.8).
    Logout(LogoutError),
    /// The forward authentication service rejected the client with this status: 401, 403 or a redirection.
    AuthStatus(StatusCode),
    /// The forward authentication service did not answer in time, or its answer cannot be used.
    AuthUnavailable,
    /// Too many requests wait for the forward authentication service, of all clients or of this address.
    AuthBusy,
    /// The keys that verify tokens were not fetched yet, or are too old; or the fetch that may bring the key of the
    /// token failed or did not end in time; or too many requests wait.
    KeysUnavailable {
        /// Seconds until the next fetch.
        retry_after_secs: u64,
    },
    /// The claims do not meet a requirement of the route, or a forwarded claim cannot be written as a header.
    Claims,
    /// The client address has reached its limit of sessions.
    AddressSessions,
    /// The token's subject has reached its limit of sessions.
    SubjectSessions,
    /// The server of the cluster, which counts the sessions of all nodes, did not answer in time, or is away and the
    /// configuration refuses further sessions then.
    ClusterUnavailable,
    /// The process has reached its limit of sessions, or of refreshes in progress.
    Full,
    /// The process has reached its limit of ordinary requests in progress.
    RequestsFull,
    /// The client address has its share of the ordinary requests that may be in progress.
    AddressRequests,
    /// The process exceeds its limit of memory.
    Memory,
    /// The process is shutting down.
    Draining,
    /// The upstream has reached its limit of pending requests.
    UpstreamBusy {
        /// Seconds until the client may try again.
        retry_after_secs: u64,
    },
    /// Every server of the upstream is draining, or has as many sessions as it may have, and none became available while
    /// the request waited.
    UpstreamFull {
        /// Seconds until the client may try again.
        retry_after_secs: u64,
    },
    /// The rate at which the upstream's servers are tried is used up, and was for as long as the request waited.
    UpstreamRate {
        /// Seconds until the client may try again.
        retry_after_secs: u64,
    },
    /// No server of the upstream accepted the connection, or the connection broke before the response.
    Unreachable,
    /// The upstream's response is not HTTP, or its head is too large.
    UpstreamMalformed,
    /// The upstream did not accept the connection or respond in time.
    UpstreamTimeout,
    /// The upstream's 101 response does not complete the opening handshake.
    Answer(AnswerError),
    /// The upstream rejected the request with this status.
    UpstreamStatus(StatusCode),
    /// The client disconnected or stopped reading before it received its response; no error response is sent.
    ClientGone,
}

impl From<KeysUnavailable> for Rejection {
    fn from(KeysUnavailable { retry_after_secs }: KeysUnavailable) -> Self {
        Self::KeysUnavailable { retry_after_secs }
    }
}

/// A rejection, with the facts about the request that were known by then. The facts are logged, and not sent to the
/// client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// The reason.
    pub rejection: Rejection,
    /// The name of the route, if one matched.
    pub route: Option<Arc<str>>,
    /// The name of the auth section that decided, if one did.
    pub auth: Option<Arc<str>>,
    /// The token's subject, if the token is valid.
    pub subject: Option<Arc<str>>,
    /// The name of the claim that does not meet a requirement, or that cannot be written as a header; never its value.
    pub claim: Option<Box<str>>,
}

impl From<Rejection> for Rejected {
    fn from(rejection: Rejection) -> Self {
        Self { rejection, route: None, auth: None, subject: None, claim: None }
    }
}

/// The response to a rejected request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status code.
    pub status: StatusCode,
    /// The body: empty, or one sentence that reveals no detail of a token or an upstream.
    pub body: &'static str,
    /// `Retry-After`, in seconds.
    pub retry_after_secs: Option<u64>,
}

/// The default `Retry-After`, where the wait cannot be predicted: a session may end at any time.
const RETRY_AFTER_SECS: u64 = 5;

/// The logged status of a client that disconnected: nginx's 499, which is not registered with IANA.
const CLIENT_GONE: u16 = 499;

impl Rejection {
    /// Returns the response to the client.
    pub fn response(self) -> ErrorResponse {
        let respond = |status, body| ErrorResponse { status, body, retry_after_secs: None };
        let respond_later = |status, body, secs| ErrorResponse { status, body, retry_after_secs: Some(secs) };
        match self {
            Self::Head { too_large: true } => respond(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ""),
            Self::Head { too_large: false } => respond(StatusCode::BAD_REQUEST, ""),
            Self::Opening(OpeningError::NotUpgrade | OpeningError::Version) => {
                respond(StatusCode::UPGRADE_REQUIRED, "This is a WebSocket endpoint (RFC 6455, version 13).\n")
            }
            Self::Opening(_) | Self::Host | Self::Path(_) => {
                respond(StatusCode::BAD_REQUEST, "The request is malformed.\n")
            }
            Self::NoRoute => respond(StatusCode::NOT_FOUND, "Nothing is served here.\n"),
            Self::Misdirected => respond(StatusCode::MISDIRECTED_REQUEST, "No route serves this host.\n"),
            Self::Method => respond(StatusCode::METHOD_NOT_ALLOWED, "Only POST is answered here.\n"),
            Self::NoToken | Self::TokenAmbiguous | Self::Token(_) | Self::Revoked => {
                respond(StatusCode::UNAUTHORIZED, "A valid token is required.\n")
            }
            Self::Logout(LogoutError::Busy | LogoutError::NoKeys) => respond_later(
                StatusCode::SERVICE_UNAVAILABLE,
                r#"{"error":"temporarily_unavailable"}"#,
                RETRY_AFTER_SECS,
            ),
            Self::Logout(LogoutError::NotStored) => respond(StatusCode::BAD_REQUEST, r#"{"error":"server_error"}"#),
            Self::Logout(_) => respond(StatusCode::BAD_REQUEST, r#"{"error":"invalid_request"}"#),
            Self::Address | Self::Origin | Self::Claims => respond(StatusCode::FORBIDDEN, "This is not allowed.\n"),
            Self::UpgradeRate { retry_after_secs } => {
                respond_later(StatusCode::TOO_MANY_REQUESTS, "Too many attempts.\n", retry_after_secs)
            }
            Self::RequestRate { retry_after_secs } => {
                respond_later(StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n", retry_after_secs)
            }
            Self::Unsupported => respond(StatusCode::NOT_IMPLEMENTED, "This method or protocol is not supported.\n"),
            Self::Framing(_) => respond(StatusCode::BAD_REQUEST, "The request is malformed.\n"),
            Self::BodyTooLarge => respond(StatusCode::PAYLOAD_TOO_LARGE, "The body is too large.\n"),
            Self::BodyTimeout => respond(StatusCode::REQUEST_TIMEOUT, "The body did not arrive in time.\n"),
            Self::AddressSessions | Self::SubjectSessions => {
                respond_later(StatusCode::TOO_MANY_REQUESTS, "Too many sessions.\n", RETRY_AFTER_SECS)
            }
            Self::KeysUnavailable { retry_after_secs } => {
                respond_later(StatusCode::SERVICE_UNAVAILABLE, "Tokens cannot be verified for now.\n", retry_after_secs)
            }
            Self::AuthBusy | Self::AuthUnavailable => respond_later(
                StatusCode::SERVICE_UNAVAILABLE,
                "Clients cannot be authenticated for now.\n",
                RETRY_AFTER_SECS,
            ),
            Self::UpstreamBusy { retry_after_secs }
            | Self::UpstreamFull { retry_after_secs }
            | Self::UpstreamRate { retry_after_secs } => {
                respond_later(StatusCode::SERVICE_UNAVAILABLE, "No room for now.\n", retry_after_secs)
            }
            Self::ClusterUnavailable => {
                let body = "The limit of sessions cannot be checked for now.\n";
                respond_later(StatusCode::SERVICE_UNAVAILABLE, body, RETRY_AFTER_SECS)
            }
            Self::Full | Self::RequestsFull | Self::AddressRequests | Self::Memory | Self::Draining => {
                respond_later(StatusCode::SERVICE_UNAVAILABLE, "No room for now.\n", RETRY_AFTER_SECS)
            }
            Self::Unreachable | Self::UpstreamMalformed | Self::Answer(_) => {
                respond(StatusCode::BAD_GATEWAY, "The upstream is not available.\n")
            }
            Self::UpstreamTimeout => respond(StatusCode::GATEWAY_TIMEOUT, "The upstream did not answer in time.\n"),
            Self::UpstreamStatus(status) | Self::AuthStatus(status) => respond(status, ""),
            Self::ClientGone => respond(StatusCode::from_u16(CLIENT_GONE).unwrap_or(StatusCode::REQUEST_TIMEOUT), ""),
        }
    }

    /// Returns the name in logs and metric labels, from a fixed set.
    pub fn label(self) -> &'static str {
        match self {
            Self::Head { .. } => "head",
            Self::Opening(OpeningError::NotUpgrade) => "not_upgrade",
            Self::Opening(OpeningError::Version) => "version",
            Self::Opening(_) => "malformed",
            Self::Host => "host",
            Self::Path(_) => "path",
            Self::NoRoute => "no_route",
            Self::Misdirected => "misdirected",
            Self::Method => "method",
            Self::Address => "address",
            Self::UpgradeRate { .. } => "upgrade_rate",
            Self::RequestRate { .. } => "request_rate",
            Self::Unsupported => "unsupported",
            Self::Framing(_) => "framing",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Origin => "origin",
            Self::NoToken => "no_token",
            Self::TokenAmbiguous => "token_ambiguous",
            Self::Token(_) => "token",
            Self::Revoked => "revoked",
            Self::Logout(_) => "logout",
            Self::AuthStatus(_) => "auth_status",
            Self::AuthUnavailable => "auth_unavailable",
            Self::AuthBusy => "auth_busy",
            Self::KeysUnavailable { .. } => "keys_unavailable",
            Self::Claims => "claims",
            Self::AddressSessions => "address_sessions",
            Self::SubjectSessions => "subject_sessions",
            Self::ClusterUnavailable => "cluster_unavailable",
            Self::Full => "full",
            Self::RequestsFull => "requests_full",
            Self::AddressRequests => "address_requests",
            Self::Memory => "memory",
            Self::Draining => "draining",
            Self::UpstreamBusy { .. } => "upstream_busy",
            Self::UpstreamFull { .. } => "upstream_full",
            Self::UpstreamRate { .. } => "upstream_rate",
            Self::Unreachable => "unreachable",
            Self::UpstreamMalformed => "upstream_malformed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::Answer(_) => "upstream_answer",
            Self::UpstreamStatus(_) => "upstream_status",
            Self::ClientGone => "client_gone",
        }
    }

    /// Returns the name of the broken rule within this reason, for the log.
    pub fn detail(self) -> Option<&'static str> {
        match self {
            Self::Opening(error) => Some(error.label()),
            Self::Path(error) => Some(error.label()),
            Self::Framing(error) => Some(error.label()),
            Self::Token(error) => Some(error.label()),
            Self::Answer(error) => Some(error.label()),
            Self::Logout(error) => Some(error.label()),
            _ => None,
        }
    }
}
