//! The responses that Tollgate itself sends: the 101 and rejections.

use std::sync::Arc;

use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

use super::accept_header::prefers_problem;
use super::headers::{self, X_REQUEST_ID};
use crate::policy::rejection::{ErrorResponse, Rejected, Rejection};
use crate::telemetry::phases::UpgradePhases;
use crate::telemetry::request::RequestId;
use crate::ws::handshake::{self, Answer, Opening};

/// The methods of a refresh path.
pub(super) const REFRESH_METHODS: &str = "POST, OPTIONS";

/// A request that was rejected.
#[derive(Debug)]
pub(super) struct RejectedRequest {
    pub(super) rejected: Rejected,
    /// The name of the upstream, if the request was admitted for one.
    pub(super) upstream: Option<Arc<str>>,
    /// The server of the upstream that was tried last, if any.
    pub(super) server: Option<Arc<str>>,
    /// Further text for the log.
    pub(super) detail: Option<String>,
    /// The upstream's own response, if it is the reason for the rejection.
    pub(super) response: Option<Response<Bytes>>,
    /// The phases of its upgrade, if it was admitted.
    pub(super) phases: Option<UpgradePhases>,
    /// Further headers of the response, if the request was at a refresh path.
    pub(super) refresh: Option<HeaderMap>,
    /// Whether it is an ordinary request of a route with `http = true`.
    pub(super) is_ordinary: bool,
}

impl<T: Into<Rejected>> From<T> for RejectedRequest {
    fn from(rejected: T) -> Self {
        Self {
            rejected: rejected.into(),
            upstream: None,
            server: None,
            detail: None,
            response: None,
            phases: None,
            refresh: None,
            is_ordinary: false,
        }
    }
}

impl RejectedRequest {
    /// Returns the status of the response.
    pub(super) fn status(&self) -> StatusCode {
        self.response.as_ref().map_or_else(|| self.rejected.rejection.response().status, Response::status)
    }

    /// Returns the response. It has the id of the request, which is in the log as well. It closes the connection: a
    /// client does not need a second request on it, and a request that is not read cannot be smuggled.
    /// Its own errors are problem details (RFC 9457) if the client, which sent `request`, prefers them.
    pub(super) fn into_response(self, request_id: RequestId, request: &HeaderMap) -> Response<Full<Bytes>> {
        let mut response = match self.response {
            Some(response) => {
                let (head, body) = response.into_parts();
                let mut response = Response::new(Full::new(body));
                *response.status_mut() = head.status;
                *response.headers_mut() = headers::to_refused_client(head.status, &head.headers);
                response
            }
            None => error_response(self.rejected.rejection, request_id, prefers_problem(request)),
        };
        let headers = response.headers_mut();
        headers.extend(self.refresh.into_iter().flatten());
        headers.append(CONNECTION, HeaderValue::from_static("close"));
        if let Ok(id) = HeaderValue::from_str(&request_id.to_string()) {
            headers.insert(HeaderName::from_static(X_REQUEST_ID), id);
        }
        response
    }
}

fn error_response(rejection: Rejection, request_id: RequestId, prefers_problem: bool) -> Response<Full<Bytes>> {
    let error = rejection.response();
    let is_logout = matches!(rejection, Rejection::Logout(_));
    let is_problem = prefers_problem && !is_logout;
    let body = if is_problem { problem(&error, request_id).into() } else { Full::from(error.body) };
    let mut response = Response::new(body);
    *response.status_mut() = error.status;
    let headers = response.headers_mut();
    let body_type = match (is_problem, is_logout) {
        (true, _) => "application/problem+json",
        (_, true) => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(body_type));
    if is_logout {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if let Some(seconds) = error.retry_after_secs {
        headers.insert(RETRY_AFTER, seconds.into());
    }
    if error.status == StatusCode::UNAUTHORIZED {
        headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(rejection)));
    }
    if error.status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static(REFRESH_METHODS));
    }
    if error.status == StatusCode::UPGRADE_REQUIRED {
        headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
    }
    response
}

/// Returns the problem details of an error (RFC 9457 section 3). Its type is the status itself.
fn problem(error: &ErrorResponse, request_id: RequestId) -> String {
    let mut problem = serde_json::json!({
        "type": "about:blank",
        "title": error.status.canonical_reason().unwrap_or_default(),
        "status": error.status.as_u16(),
        "request_id": request_id.to_string(),
    });
    if !error.body.is_empty() {
        problem["detail"] = error.body.trim_end().into();
    }
    format!("{problem}\n")
}

/// Returns the challenge (RFC 6750 section 3): without an error code if there was no token, and with one code for every
/// invalid token.
fn challenge(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::Token(_) | Rejection::Revoked => "Bearer error=\"invalid_token\"",
        _ => "Bearer",
    }
}

/// Returns the 101 for the client.
pub(super) fn switching_protocols(
    opening: &Opening<'_>,
    answer: &Answer<'_>,
    marker: Option<&str>,
    upstream: &HeaderMap,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    *headers = headers::to_client(upstream);
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    let accept = handshake::accept(opening.key);
    let values = [
        (SEC_WEBSOCKET_ACCEPT, Some(accept.as_str())),
        (SEC_WEBSOCKET_PROTOCOL, answer.protocol.or(marker)),
        (SEC_WEBSOCKET_EXTENSIONS, answer.extension),
    ];
    for (name, value) in values {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    response
}

/// Returns the response to a logout that succeeded (`OpenID` Connect Back-Channel Logout 1.0 section 2.8).
pub(super) fn logged_out() -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
