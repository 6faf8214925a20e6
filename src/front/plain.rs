//! The requests that a plain listener answers itself: those that validate an ACME challenge (HTTP-01), and all others
//! if it redirects to `https`.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{CONNECTION, CONTENT_TYPE, HOST, HeaderName, LOCATION};
use http::uri::Authority;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;

use super::connection_config::PlainConfig;
use super::request_connection::RequestConnection;
use super::request_context::summary;
use super::response::RejectedRequest;
use crate::client::acme::challenge::HTTP_PATH;
use crate::policy::framing::FramingError;
use crate::policy::host::request_host;
use crate::policy::rejection::Rejection;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::RequestId;
use crate::telemetry::requests::Redirect;
use crate::telemetry::trace_context::TraceContext;

/// The default port of `https`.
const HTTPS_PORT: u16 = 443;

/// Returns the answer to a request, unless the listener serves it, and logs it. The connection closes after it. A redirect
/// and a rejection count in `upgrade_rate`.
pub(super) fn answer(
    config: &PlainConfig,
    connection: &RequestConnection<'_>,
    client: IpAddr,
    request_id: RequestId,
    request: &Request<()>,
) -> Option<Response<Full<Bytes>>> {
    let is_challenge = request.uri().path().starts_with(HTTP_PATH);
    if !is_challenge && config.https_port.is_none() {
        return None;
    }
    let host = host(request);
    let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
    if is_read
        && is_challenge
        && let Some(host) = &host
        && let Some(key_authorization) = config.challenges.answer_http(host, request.uri().path())
    {
        tracing::info!(name = host, "ACME challenge answered (HTTP-01)");
        let body = if request.method() == Method::HEAD { String::new() } else { key_authorization.to_string() };
        return Some(response(StatusCode::OK, (CONTENT_TYPE, "application/octet-stream"), body));
    }
    let port = config.https_port?;
    let (gateway, metrics) = (connection.gateway, connection.worker.metrics());
    let snapshot = gateway.snapshot();
    let policy = snapshot.policy();
    let summary = summary(request, TraceContext::of_request(request.headers(), random).trace_id());
    let redirected = policy.charge(client, clock::now()).and_then(|()| {
        let host = host.ok_or(Rejection::Host)?;
        if !policy.routes().iter().any(|route| route.config.host.matches(&host)) {
            return Err(Rejection::Misdirected);
        }
        location(&host, port, request).ok_or(Rejection::Framing(FramingError::Target))
    });
    let location = match redirected {
        Ok(location) => location,
        Err(rejection) => {
            metrics.count_upgrade("", rejection.label());
            gateway.log_rejection(&RejectionEvent {
                method: Some(request.method()),
                summary,
                ..RejectionEvent::new(rejection, request_id, client)
            });
            return Some(RejectedRequest::from(rejection).into_response(request_id, request.headers()));
        }
    };
    // A method other than GET must not change (RFC 9110 section 15.4.9).
    let status = if is_read { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
    metrics.count_request(&Arc::from(""), status);
    let redirect = Redirect { request_id, summary, client, method: request.method(), status };
    gateway.process.sessions.log_redirect(&redirect, clock::now());
    Some(response(status, (LOCATION, &location), String::new()))
}

/// Returns the one host of a request. In absolute form the authority of the target replaces `Host` (RFC 9112 section
/// 3.2.2).
fn host(request: &Request<()>) -> Option<String> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    request_host(request.uri().authority().map(Authority::as_str).or(host.to_str().ok())?)
}

/// Returns the target of a request with the scheme `https`; `None` if it has no path.
fn location(host: &str, port: u16, request: &Request<()>) -> Option<String> {
    let target = request.uri().path_and_query().filter(|target| target.as_str().starts_with('/'))?;
    let port = if port == HTTPS_PORT { String::new() } else { format!(":{port}") };
    Some(format!("https://{host}{port}{target}"))
}

fn response(status: StatusCode, (name, value): (HeaderName, &str), body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_keeps_host_path_and_query() {
        let location = |target: &str, host: &str, port: u16| {
            let request = Request::builder().uri(target).header(HOST, host).body(()).unwrap();
            super::host(&request).and_then(|host| location(&host, port, &request))
        };
        for (target, host, port, expected) in [
            ("/", "a.example", 443, Some("https://a.example/")),
            ("/a%20b?c=d", "A.example:80", 443, Some("https://a.example/a%20b?c=d")),
            ("/", "a.example.", 8443, Some("https://a.example:8443/")),
            ("//evil.example/", "a.example", 443, Some("https://a.example//evil.example/")),
            ("http://b.example/x", "a.example", 443, Some("https://b.example/x")),
            ("/", "[2001:db8::1]:80", 443, Some("https://[2001:db8::1]/")),
            ("*", "a.example", 443, None),
            ("/", "", 443, None),
            ("/", "a.example/b", 443, None),
            ("/", "user@a.example", 443, None),
            ("/", "a.example, b.example", 443, None),
        ] {
            assert_eq!(location(target, host, port).as_deref(), expected, "{target} {host}");
        }
        let two = Request::builder().uri("/").header(HOST, "a.example").header(HOST, "b.example").body(()).unwrap();
        assert_eq!(host(&two), None);
    }
}
