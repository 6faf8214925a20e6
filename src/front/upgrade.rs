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
use super::headers::{self, Via};
use crate::policy::admission::{Admission, Facts};
use crate::policy::credential;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::route::Auth;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Phase;
use crate::session::{Session, Terms};
use crate::telemetry::refusals::Refused;
use crate::telemetry::request::{Asked, KeptAsked, RequestId};
use crate::upstream::open::Answered;
use crate::upstream::{AskError, UpstreamStream};
use crate::ws::handshake::{self, Answer, Opening, OpeningError};

/// A session whose 101 is on its way.
#[derive(Debug)]
pub struct Opened {
    /// The leave to relay.
    pub admission: Admission,
    /// The session, from its first byte on.
    pub session: Session,
    /// The upstream's end of it.
    pub upstream: UpstreamStream,
    /// What the upstream sent behind its 101.
    pub early: Bytes,
    /// The server, as the configuration has it.
    pub server: Arc<str>,
    /// The id of the request.
    pub request_id: RequestId,
    /// What it asked for.
    pub asked: KeptAsked,
}

/// Answers a request: with a session if it may have one.
pub async fn answer(
    gateway: &Gateway,
    client: IpAddr,
    request: &Request<Incoming>,
) -> (Response<Full<Bytes>>, Option<Opened>) {
    if let Some(page) = gateway.page.as_deref().filter(|_| asks_for_page(request)) {
        return (page_response(page), None);
    }
    let request_id = RequestId(u128::from_be_bytes(random()));
    let asked = asked(request);
    match upgrade(gateway, client, request, request_id, asked).await {
        Ok((response, opened)) => (response, Some(opened)),
        Err(refusal) => {
            let refused = Refused {
                rejection: refusal.rejected.rejection,
                request_id,
                client,
                asked,
                route: refusal.rejected.route.as_deref(),
                subject: refusal.rejected.subject.as_deref(),
                claim: refusal.rejected.claim.as_deref(),
                upstream: refusal.upstream.as_deref(),
                server: refusal.server.as_deref(),
                detail: refusal.detail.as_deref(),
            };
            gateway.refusals.log(&refused, gateway.process.sessions.identities(), clock::now());
            (refusal.into_response(), None)
        }
    }
}

/// The parts of a request that the log shows. Its host is that of its target, if that is absolute, as it is for the policy.
fn asked(request: &Request<Incoming>) -> Asked<'_> {
    let header = |name| request.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let host = request.uri().authority().map(Authority::as_str).or_else(|| header(HOST));
    // A name and a password before the host are a client's secret, and make no host.
    let host = host.map(|host| host.rsplit('@').next().unwrap_or(host));
    Asked::new(host, Some(request.uri().path()), header(ORIGIN))
}

/// An admitted request that waits for its upstream. If it is dropped before that has answered, the client has left, or the
/// process cuts off what is still open; the log gets its line all the same.
struct Waiting<'a> {
    gateway: &'a Gateway,
    client: IpAddr,
    request_id: RequestId,
    asked: Asked<'a>,
    admission: &'a Admission,
    upstream: &'a str,
    answered: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let cut = self.gateway.process.lifecycle.phase() == Phase::Cut;
        let refused = Refused {
            rejection: if cut { Rejection::Draining } else { Rejection::ClientGone },
            request_id: self.request_id,
            client: self.client,
            asked: self.asked,
            route: Some(&self.admission.route().name),
            subject: self.admission.subject(),
            claim: None,
            upstream: Some(self.upstream),
            server: None,
            detail: Some("no answer of the upstream yet"),
        };
        self.gateway.refusals.log(&refused, self.gateway.process.sessions.identities(), clock::now());
    }
}

/// Logs a session that ended before it began: the client did not take its 101 in time.
pub fn log_answer_not_taken(gateway: &Gateway, client: IpAddr, opened: &Opened) {
    let refused = Refused {
        rejection: Rejection::ClientGone,
        request_id: opened.request_id,
        client,
        asked: opened.asked.asked(),
        route: Some(&opened.admission.route().name),
        subject: opened.admission.subject(),
        claim: None,
        upstream: None,
        server: Some(&opened.server),
        detail: Some("the client did not take the 101 in time"),
    };
    gateway.refusals.log(&refused, gateway.process.sessions.identities(), clock::now());
}

async fn upgrade(
    gateway: &Gateway,
    client: IpAddr,
    request: &Request<Incoming>,
    request_id: RequestId,
    asked: Asked<'_>,
) -> Result<(Response<Full<Bytes>>, Opened), Refusal> {
    // (a) What it asks. The address is charged first, whatever that is.
    gateway.policy.charge(client, clock::now())?;
    let (uri, headers) = (request.uri(), request.headers());
    let opening = Opening::parse(request.method(), uri, request.version(), headers).map_err(Rejection::Opening)?;

    // (b) Whether it may.
    let facts = Facts { opening: &opening, headers, address: client };
    let admission = gateway.policy.admit(&facts, clock::both())?;
    let refuse = |rejection| {
        let route = Some(Arc::clone(&admission.route().name));
        Refusal::from(Rejected { route, subject: admission.subject().map(Arc::from), ..Rejected::from(rejection) })
    };

    // (c) What the upstream is asked.
    let route = admission.route();
    let pool = gateway.pools.get(route.upstream.0).ok_or_else(|| refuse(Rejection::Unreachable))?;
    let refuse = |rejection| Refusal { upstream: Some(Arc::clone(&pool.upstream().name)), ..refuse(rejection) };
    let (protocols, marker) = match &route.auth {
        Auth::Token(verifier) => credential::strip_protocols(&verifier.sources, &opening.protocols),
        Auth::Open => (opening.protocols.clone(), None),
    };
    let extensions = if route.limits.allow_compression() { opening.extensions.as_slice() } else { &[] };
    let key = handshake::key(random());
    let via =
        Via { address: client, request_id: &request_id.to_string(), key: &key, protocols: &protocols, extensions };
    let mut upstream_request = Request::new(Empty::new());
    *upstream_request.uri_mut() = target(&pool.upstream().base_path, &opening, &route.auth)
        .ok_or_else(|| refuse(Rejection::Opening(OpeningError::Target)))?;
    *upstream_request.headers_mut() = headers::to_upstream(headers, &opening, &admission, &via);

    // (d) What it answers.
    let mut waiting = Waiting {
        gateway,
        client,
        request_id,
        asked,
        admission: &admission,
        upstream: &pool.upstream().name,
        answered: false,
    };
    let answered = pool.ask(&admission, upstream_request).await;
    waiting.answered = true;
    drop(waiting);
    let (answered, server) = answered.map_err(|AskError { rejection, server, detail }| {
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        Refusal { server, detail, ..refuse(rejection) }
    })?;
    let fail = |rejection| Refusal { server: Some(Arc::clone(&server)), ..refuse(rejection) };
    let (head, stream, early) = match answered {
        Answered::Switched { head, stream, early } => (head, stream, early),
        Answered::Refused(response) => {
            let rejection = Rejection::UpstreamStatus(response.status());
            return Err(Refusal { response: Some(response), ..fail(rejection) });
        }
    };
    let answer = Answer::parse(head.status(), head.version(), head.headers(), &key, &protocols, extensions)
        .map_err(|error| fail(Rejection::Answer(error)))?;

    // (e) The 101.
    let response = switching(&opening, &answer, marker, head.headers());
    let terms = Terms {
        limits: Arc::clone(&route.limits),
        messages: admission.messages().cloned(),
        expires: admission.expires(),
        compressed: answer.extension.is_some(),
        ping_tag: random(),
    };
    let session = Session::new(terms, clock::now());
    let asked = asked.keep();
    let opened = Opened { session, upstream: stream, early, server, request_id, asked, admission };
    Ok((response, opened))
}

/// The path and query that the upstream is asked for: as the client sent them, less the token.
fn target(base_path: &str, opening: &Opening<'_>, auth: &Auth) -> Option<Uri> {
    let query = match auth {
        Auth::Token(verifier) => credential::strip_query(&verifier.sources, opening.query),
        Auth::Open => opening.query.map(str::to_owned),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base_path}{}{query}", opening.path).parse().ok()
}

fn switching(
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
struct Refusal {
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

impl<T: Into<Rejected>> From<T> for Refusal {
    fn from(rejected: T) -> Self {
        Self { rejected: rejected.into(), upstream: None, server: None, detail: None, response: None }
    }
}

impl Refusal {
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
        let refusal = self.rejected.rejection.refusal();
        let mut response = Response::new(Full::from(refusal.body));
        *response.status_mut() = refusal.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if let Some(seconds) = refusal.retry_after_secs {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        if refusal.status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge(self.rejected.rejection)));
        }
        if refusal.status == StatusCode::UPGRADE_REQUIRED {
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

fn asks_for_page(request: &Request<Incoming>) -> bool {
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
