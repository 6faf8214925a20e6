//! One request, in five steps: what it asks, whether it may, what the upstream is asked, what it answers, and the 101.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{
    CONNECTION, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderValue, ORIGIN, RETRY_AFTER, SEC_WEBSOCKET_ACCEPT,
    SEC_WEBSOCKET_EXTENSIONS, SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE, WWW_AUTHENTICATE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::uri::Authority;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{Empty, Full};
use hyper::body::{Bytes, Incoming};

use super::gateway::Gateway;
use super::headers::{self, UpstreamHeaders};
use crate::policy::admission::{Admission, RequestFacts};
use crate::policy::credential;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::route::Auth;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Phase;
use crate::session::{Session, SessionConfig};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::{OwnedRequestSummary, RequestId, RequestSummary};
use crate::upstream::open::UpstreamResponse;
use crate::upstream::{AskError, UpstreamStream};
use crate::ws::handshake::{self, Answer, Opening, OpeningError};

/// A session whose 101 is on its way.
#[derive(Debug)]
pub struct OpenedSession {
    /// The leave to relay.
    pub admission: Admission,
    /// The session, from its first byte on.
    pub session: Session,
    /// The upstream's end of it.
    pub upstream: UpstreamStream,
    /// What the upstream sent behind its 101.
    pub read_ahead: Bytes,
    /// The server, as the configuration has it.
    pub server: Arc<str>,
    /// The id of the request.
    pub request_id: RequestId,
    /// What it asked for.
    pub summary: OwnedRequestSummary,
}

/// Answers a request: with a session if it may have one.
pub async fn answer(
    gateway: &Gateway,
    client: IpAddr,
    request: &Request<Incoming>,
) -> (Response<Full<Bytes>>, Option<OpenedSession>) {
    if let Some(page) = gateway.page.as_deref().filter(|_| requests_page(request)) {
        return (page_response(page), None);
    }
    let request_id = RequestId(u128::from_be_bytes(random()));
    let summary = summary(request);
    match upgrade(gateway, client, request, request_id, summary).await {
        Ok((response, opened)) => (response, Some(opened)),
        Err(response) => {
            let refused = RejectionEvent {
                rejection: response.rejected.rejection,
                request_id,
                client,
                summary,
                route: response.rejected.route.as_deref(),
                subject: response.rejected.subject.as_deref(),
                claim: response.rejected.claim.as_deref(),
                upstream: response.upstream.as_deref(),
                server: response.server.as_deref(),
                detail: response.detail.as_deref(),
            };
            gateway.rejections.log(&refused, gateway.process.sessions.identities(), clock::now());
            (response.into_response(), None)
        }
    }
}

/// The parts of a request that the log shows. Its host is that of its target, if that is absolute, as it is for the policy.
fn summary(request: &Request<Incoming>) -> RequestSummary<'_> {
    let header = |name| request.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let host = request.uri().authority().map(Authority::as_str).or_else(|| header(HOST));
    // A name and a password before the host are a client's secret, and make no host.
    let host = host.map(|host| host.rsplit('@').next().unwrap_or(host));
    RequestSummary::new(host, Some(request.uri().path()), header(ORIGIN))
}

/// An admitted request that waits for its upstream. If it is dropped before that has answered, the client has left, or the
/// process cuts off what is still open; the log gets its line all the same.
struct PendingRequest<'a> {
    gateway: &'a Gateway,
    client: IpAddr,
    request_id: RequestId,
    summary: RequestSummary<'a>,
    admission: &'a Admission,
    upstream: &'a str,
    answered: bool,
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let aborted = self.gateway.process.lifecycle.phase() == Phase::Aborted;
        let refused = RejectionEvent {
            rejection: if aborted { Rejection::Draining } else { Rejection::ClientGone },
            request_id: self.request_id,
            client: self.client,
            summary: self.summary,
            route: Some(&self.admission.route().name),
            subject: self.admission.subject(),
            claim: None,
            upstream: Some(self.upstream),
            server: None,
            detail: Some("no answer of the upstream yet"),
        };
        self.gateway.rejections.log(&refused, self.gateway.process.sessions.identities(), clock::now());
    }
}

/// Logs a session that ended before it began: the client did not take its 101 in time.
pub fn log_answer_not_taken(gateway: &Gateway, client: IpAddr, opened: &OpenedSession) {
    let refused = RejectionEvent {
        rejection: Rejection::ClientGone,
        request_id: opened.request_id,
        client,
        summary: opened.summary.summary(),
        route: Some(&opened.admission.route().name),
        subject: opened.admission.subject(),
        claim: None,
        upstream: None,
        server: Some(&opened.server),
        detail: Some("the client did not take the 101 in time"),
    };
    gateway.rejections.log(&refused, gateway.process.sessions.identities(), clock::now());
}

async fn upgrade(
    gateway: &Gateway,
    client: IpAddr,
    request: &Request<Incoming>,
    request_id: RequestId,
    summary: RequestSummary<'_>,
) -> Result<(Response<Full<Bytes>>, OpenedSession), RejectedUpgrade> {
    // (a) What it asks. The address is charged first, whatever that is.
    gateway.policy.charge(client, clock::now())?;
    let (uri, headers) = (request.uri(), request.headers());
    let opening = Opening::parse(request.method(), uri, request.version(), headers).map_err(Rejection::Opening)?;

    // (b) Whether it may.
    let facts = RequestFacts { opening: &opening, headers, address: client };
    let admission = gateway.policy.admit(&facts, clock::both())?;
    let reject = |rejection| {
        let route = Some(Arc::clone(&admission.route().name));
        RejectedUpgrade::from(Rejected {
            route,
            subject: admission.subject().map(Arc::from),
            ..Rejected::from(rejection)
        })
    };

    // (c) What the upstream is asked.
    let route = admission.route();
    let pool = gateway.pools.get(route.upstream.0).ok_or_else(|| reject(Rejection::Unreachable))?;
    let reject = |rejection| RejectedUpgrade { upstream: Some(Arc::clone(&pool.upstream().name)), ..reject(rejection) };
    let (protocols, marker) = match &route.auth {
        Auth::Token(verifier) => credential::strip_protocols(&verifier.sources, &opening.protocols),
        Auth::None => (opening.protocols.clone(), None),
    };
    let extensions = if route.limits.allow_compression() { opening.extensions.as_slice() } else { &[] };
    let key = handshake::key(random());
    let added = UpstreamHeaders {
        address: client,
        request_id: &request_id.to_string(),
        key: &key,
        protocols: &protocols,
        extensions,
    };
    let mut upstream_request = Request::new(Empty::new());
    *upstream_request.uri_mut() = target(&pool.upstream().base_path, &opening, &route.auth)
        .ok_or_else(|| reject(Rejection::Opening(OpeningError::Target)))?;
    *upstream_request.headers_mut() = headers::to_upstream(headers, &opening, &admission, &added);

    // (d) What it answers.
    let mut pending = PendingRequest {
        gateway,
        client,
        request_id,
        summary,
        admission: &admission,
        upstream: &pool.upstream().name,
        answered: false,
    };
    let answered = pool.ask(&admission, upstream_request).await;
    pending.answered = true;
    drop(pending);
    let (answered, server) = answered.map_err(|AskError { rejection, server, detail }| {
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        RejectedUpgrade { server, detail, ..reject(rejection) }
    })?;
    let reject_of_server = |rejection| RejectedUpgrade { server: Some(Arc::clone(&server)), ..reject(rejection) };
    let (head, stream, read_ahead) = match answered {
        UpstreamResponse::Switched { head, stream, read_ahead } => (head, stream, read_ahead),
        UpstreamResponse::NotSwitched(response) => {
            let rejection = Rejection::UpstreamStatus(response.status());
            return Err(RejectedUpgrade { response: Some(response), ..reject_of_server(rejection) });
        }
    };
    let answer = Answer::parse(head.status(), head.version(), head.headers(), &key, &protocols, extensions)
        .map_err(|error| reject_of_server(Rejection::Answer(error)))?;

    // (e) The 101.
    let response = switching_protocols(&opening, &answer, marker, head.headers());
    let terms = SessionConfig {
        limits: Arc::clone(&route.limits),
        messages: admission.messages().cloned(),
        expires: admission.expires(),
        compressed: answer.extension.is_some(),
        ping_tag: random(),
    };
    let session = Session::new(terms, clock::now());
    let summary = summary.keep();
    let opened = OpenedSession { session, upstream: stream, read_ahead, server, request_id, summary, admission };
    Ok((response, opened))
}

/// The path and query that the upstream is asked for: as the client sent them, less the token.
fn target(base_path: &str, opening: &Opening<'_>, auth: &Auth) -> Option<Uri> {
    let query = match auth {
        Auth::Token(verifier) => credential::strip_query(&verifier.sources, opening.query),
        Auth::None => opening.query.map(str::to_owned),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base_path}{}{query}", opening.path).parse().ok()
}

fn switching_protocols(
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

/// A request that gets no session.
#[derive(Debug)]
struct RejectedUpgrade {
    rejected: Rejected,
    /// The upstream, if it was one that was asked.
    upstream: Option<Arc<str>>,
    /// Its server, if one took the connection.
    server: Option<Arc<str>>,
    /// What the log says beside the rejection itself.
    detail: Option<String>,
    /// The upstream's own answer, if it was one.
    response: Option<Response<Bytes>>,
}

impl<T: Into<Rejected>> From<T> for RejectedUpgrade {
    fn from(rejected: T) -> Self {
        Self { rejected: rejected.into(), upstream: None, server: None, detail: None, response: None }
    }
}

impl RejectedUpgrade {
    /// One request a connection: what follows a refusal on the same connection is nothing that a client needs, and
    /// what is never read cannot be smuggled.
    fn into_response(self) -> Response<Full<Bytes>> {
        let mut response = self.into_open_response();
        response.headers_mut().append(CONNECTION, HeaderValue::from_static("close"));
        response
    }

    fn into_open_response(self) -> Response<Full<Bytes>> {
        if let Some(upstream) = self.response {
            let (head, body) = upstream.into_parts();
            let mut response = Response::new(Full::new(body));
            *response.status_mut() = head.status;
            *response.headers_mut() = headers::to_refused_client(head.status, &head.headers);
            return response;
        }
        let error = self.rejected.rejection.response();
        let mut response = Response::new(Full::from(error.body));
        *response.status_mut() = error.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(seconds) = error.retry_after_secs {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if error.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(self.rejected.rejection)));
        }
        if error.status == StatusCode::UPGRADE_REQUIRED {
            headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
            headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(SEC_WEBSOCKET_VERSION, HeaderValue::from_static(handshake::VERSION));
        }
        response
    }
}

/// RFC 6750 section 3: no error code where there was no token, and one for all tokens that do not hold.
fn challenge(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::Token(_) => "Bearer error=\"invalid_token\"",
        _ => "Bearer",
    }
}

fn requests_page(request: &Request<Incoming>) -> bool {
    request.method() == Method::GET && request.uri().path() == "/" && !request.headers().contains_key(UPGRADE)
}

fn page_response(page: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(page.to_owned()));
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(
        CONTENT_SECURITY_POLICY,
        HeaderValue::from_static(
            "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; \
             connect-src 'self' wss://localhost:*; frame-ancestors 'none'",
        ),
    );
    response
}
