//! The errors of the API as problem details (RFC 9457).

use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use super::view::Reload;

/// The media type of a problem (RFC 9457 section 3).
pub(super) const PROBLEM_TYPE: &str = "application/problem+json";

/// An error (RFC 9457 section 3.1). If its type is `about:blank`, the status is the kind of the problem.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
pub(super) struct Problem {
    /// `about:blank`, or the name of the problem.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The name of the status.
    title: &'static str,
    /// The status code.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// The error in this request.
    detail: String,
    /// The errors of the configuration with their lines, if it is invalid.
    #[serde(skip_serializing_if = "Option::is_none")]
    report: Option<String>,
    /// The effect that the reload would have, if it would end too many sessions.
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<Reload>,
    /// The share of the open sessions that a reload may end without force, in percent.
    #[serde(skip_serializing_if = "Option::is_none")]
    max_percent: Option<u8>,
}

/// The result of a handler. The error is in a box because it is rare and large.
pub(super) type Result<T> = std::result::Result<T, Box<Problem>>;

impl Problem {
    /// Creates a problem with this status.
    pub(super) fn new(status: StatusCode, detail: impl Into<String>) -> Box<Self> {
        Box::new(Self {
            kind: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status: status.as_u16(),
            detail: detail.into(),
            report: None,
            summary: None,
            max_percent: None,
        })
    }

    /// Creates a problem of a malformed request.
    pub(super) fn bad_request(detail: impl Into<String>) -> Box<Self> {
        Self::new(StatusCode::BAD_REQUEST, detail)
    }

    /// Sets the type, which names the problem for programs.
    pub(super) fn with_type(mut self: Box<Self>, kind: &'static str) -> Box<Self> {
        self.kind = kind;
        self
    }

    /// Adds the report of an invalid configuration.
    pub(super) fn with_report(mut self: Box<Self>, report: String) -> Box<Self> {
        self.report = Some(report);
        self
    }

    /// Adds the effect that a reload would have, and the share of sessions that it may end.
    pub(super) fn with_summary(mut self: Box<Self>, summary: Reload, max_percent: u8) -> Box<Self> {
        (self.summary, self.max_percent) = (Some(summary), Some(max_percent));
        self
    }

    /// Returns the detail.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// Returns the status.
    pub(super) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }
}

impl IntoResponse for Box<Problem> {
    fn into_response(self) -> Response {
        let status = self.status();
        let mut response = (status, axum::Json(self)).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_TYPE));
        match status {
            StatusCode::UNAUTHORIZED => _ = headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            StatusCode::SERVICE_UNAVAILABLE => _ = headers.insert(RETRY_AFTER, HeaderValue::from_static("1")),
            _ => {}
        }
        response
    }
}
