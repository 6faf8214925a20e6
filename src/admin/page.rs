//! The dashboard: one page without data, which a browser runs and which asks this API for them.

use aws_lc_rs::digest::{SHA256, digest};
use axum::body::Bytes;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY};

/// The page, in which the style and the script take the place of their markers.
const HTML: &str = include_str!("dashboard/page.html");
const STYLE: &str = include_str!("dashboard/page.css");
/// The parts of the script. At its start each uses only those before it.
const SCRIPTS: [&str; 30] = [
    include_str!("dashboard/dom.js"),
    include_str!("dashboard/format.js"),
    include_str!("dashboard/words.js"),
    include_str!("dashboard/api.js"),
    include_str!("dashboard/stream.js"),
    include_str!("dashboard/poll.js"),
    include_str!("dashboard/table.js"),
    include_str!("dashboard/dialog.js"),
    include_str!("dashboard/history.js"),
    include_str!("dashboard/chart.js"),
    include_str!("dashboard/card.js"),
    include_str!("dashboard/nodes.js"),
    include_str!("dashboard/attention.js"),
    include_str!("dashboard/figures.js"),
    include_str!("dashboard/certificates.js"),
    include_str!("dashboard/overview.js"),
    include_str!("dashboard/operations.js"),
    include_str!("dashboard/sessions.js"),
    include_str!("dashboard/limits.js"),
    include_str!("dashboard/tap.js"),
    include_str!("dashboard/session.js"),
    include_str!("dashboard/events.js"),
    include_str!("dashboard/event.js"),
    include_str!("dashboard/servers.js"),
    include_str!("dashboard/routes.js"),
    include_str!("dashboard/config.js"),
    include_str!("dashboard/reload.js"),
    include_str!("dashboard/revocations.js"),
    include_str!("dashboard/access.js"),
    include_str!("dashboard/main.js"),
];

/// The page with its policy. It is made once.
#[derive(Debug, Clone)]
pub(super) struct Page {
    html: Bytes,
    policy: HeaderValue,
}

impl Page {
    /// Puts the page together.
    pub(super) fn new() -> Self {
        let script = format!("'use strict';\n(() => {{\n{}}})();\n", SCRIPTS.concat());
        let html = HTML.replace("{{STYLE}}", STYLE).replace("{{SCRIPT}}", &script);
        // The browser runs only this script, loads only from this address, and parses no text as HTML
        // (Content Security Policy Level 3, Trusted Types).
        let policy = format!(
            "default-src 'none'; script-src '{}'; style-src '{}'; connect-src 'self'; img-src data:; base-uri 'none'; \
             form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'",
            source(&script),
            source(STYLE),
        );
        // The text above has only characters of a header; without it the browser would run nothing.
        let policy = HeaderValue::try_from(policy).unwrap_or(HeaderValue::from_static("default-src 'none'"));
        Self { html: html.into(), policy }
    }
}

/// The page as a response. Nothing else may open it in a frame, or learn its address from a link.
impl IntoResponse for Page {
    fn into_response(self) -> Response {
        let Self { html, policy } = self;
        let headers = [
            (CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
            (CONTENT_SECURITY_POLICY, policy),
            (REFERRER_POLICY, HeaderValue::from_static("no-referrer")),
            (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
            (HeaderName::from_static("cross-origin-resource-policy"), HeaderValue::from_static("same-origin")),
        ];
        (headers, html).into_response()
    }
}

/// Returns the source expression of an inline script or style: its hash.
fn source(text: &str) -> String {
    format!("sha256-{}", STANDARD.encode(digest(&SHA256, text.as_bytes())))
}
