//! One request, in five steps: parse it, admit it, write the request to the upstream, get its response, send the 101.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, ORIGIN, SET_COOKIE};
use http::uri::Authority;
use http::{Method, Request, Response, Uri};
use http_body_util::{Empty, Full};
use hyper::body::{Bytes, Incoming};

use super::authenticate::authenticate;
use super::gateway::Gateway;
use super::headers::{self, UpstreamHeaders};
use super::logout;
use super::refresh::Refresh;
use super::response::{self, RejectedRequest};
use super::snapshot::Snapshot;
use crate::balance::ServerSession;
use crate::policy::admission::Admission;
use crate::policy::credential::{self, TokenSource};
use crate::policy::endpoints::proxy_header;
use crate::policy::forwarded::Client;
use crate::policy::grant::Grant;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::request::RequestFacts;
use crate::policy::route::Target;
use crate::relay::registry::SessionContext;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Phase;
use crate::session::{Session, SessionConfig};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::{OwnedRequestSummary, RequestId, RequestSummary};
use crate::telemetry::sessions::SessionSummary;
use crate::telemetry::trace_context::{TraceContext, TraceId};
use crate::upstream::open::UpstreamResponse;
use crate::upstream::{AskError, Asked, UpstreamStream};
use crate::ws::handshake::{self, Answer, Opening, OpeningError};

/// A session whose 101 is being sent.
#[derive(Debug)]
pub struct OpenedSession {
    /// The permission to relay.
    pub admission: Admission,
    /// The session, from its first byte on.
    pub session: Session,
    /// The connection to the upstream.
    pub upstream: UpstreamStream,
    /// The bytes that the upstream sent after its 101.
    pub read_ahead: Bytes,
    /// The server, as the configuration names it.
    pub server: Arc<str>,
    /// The count of the session at its server.
    pub server_session: ServerSession,
    /// The id of the request.
    pub request_id: RequestId,
    /// The request for the log.
    pub summary: OwnedRequestSummary,
    /// The generation of the snapshot that admitted it.
    pub generation: u64,
    /// The phases of its upgrade.
    pub phases: UpgradePhases,
    /// When its head was received.
    pub started: Instant,
}

/// The parts of a request that every log line about it contains.
#[derive(Clone, Copy)]
struct Context<'a> {
    gateway: &'a Gateway,
    metrics: &'a WorkerMetrics,
    client: Client,
    request_id: RequestId,
    trace: TraceContext,
    summary: RequestSummary<'a>,
    phases: UpgradePhases,
    /// The generation of the snapshot that the request uses.
    generation: u64,
    started: Instant,
}

impl<'a> Context<'a> {
    fn event(&self, rejection: Rejection) -> RejectionEvent<'a> {
        let times = self.gateway.process.sessions.slow_times(&self.phases, clock::now());
        RejectionEvent {
            summary: self.summary,
            times,
            ..RejectionEvent::new(rejection, self.request_id, self.client.address)
        }
    }

    /// Logs and counts a rejection.
    fn log(&self, event: &RejectionEvent<'_>) {
        self.metrics.count_upgrade(event.route.unwrap_or_default(), event.rejection.label());
        self.gateway.log_rejection(event);
    }
}

/// Returns the response to a request, and its session if it is admitted. The whole request uses one snapshot.
pub async fn answer(
    gateway: &Gateway,
    worker: &SessionContext,
    client: Client,
    request_id: RequestId,
    phases: UpgradePhases,
    request: &Request<()>,
    body: Incoming,
) -> (Response<Full<Bytes>>, Option<OpenedSession>) {
    let trace = TraceContext::of_request(request.headers(), random);
    let (snapshot, summary) = (gateway.snapshot(), summary(request, trace.trace_id()));
    let (generation, started) = (snapshot.generation(), clock::now());
    let metrics = worker.metrics();
    let context = Context { gateway, metrics, client, request_id, trace, summary, phases, generation, started };
    match respond(&context, worker, &snapshot, request, body).await {
        Ok((response, opened)) => (response, opened),
        Err(rejected) => {
            let context = Context { phases: rejected.phases.unwrap_or(phases), ..context };
            let event = RejectionEvent {
                route: rejected.rejected.route.as_deref(),
                auth: rejected.rejected.auth.as_deref(),
                subject: rejected.rejected.subject.as_deref(),
                claim: rejected.rejected.claim.as_deref(),
                upstream: rejected.upstream.as_deref(),
                server: rejected.server.as_deref(),
                detail: rejected.detail.as_deref(),
                ..context.event(rejected.rejected.rejection)
            };
            if rejected.refresh.is_some() {
                metrics.count_refresh(event.route.unwrap_or_default(), event.rejection.label());
                gateway.log_rejection(&event);
            } else {
                context.log(&event);
            }
            (rejected.into_response(request_id), None)
        }
    }
}

/// Returns the parts of a request that the log shows. The host is that of the target if the target is absolute, as in
/// the policy.
fn summary(request: &Request<()>, trace_id: TraceId) -> RequestSummary<'_> {
    let header = |name| request.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let host = request.uri().authority().map(Authority::as_str).or_else(|| header(HOST));
    // A user name and a password before the host are secrets of the client.
    let host = host.map(|host| host.rsplit('@').next().unwrap_or(host));
    RequestSummary::new(trace_id, host, Some(request.uri().path()), header(ORIGIN))
}

type Answered = (Response<Full<Bytes>>, Option<OpenedSession>);

async fn respond(
    context: &Context<'_>,
    worker: &SessionContext,
    snapshot: &Snapshot,
    request: &Request<()>,
    body: Incoming,
) -> Result<Answered, RejectedRequest> {
    let (uri, headers, client) = (request.uri(), request.headers(), context.client);
    if !context.gateway.process.lifecycle.is_admitting() {
        return Err(Rejection::Draining.into());
    }
    // (a) The address is charged before the request is parsed.
    let policy = snapshot.policy();
    policy.charge(client.address, clock::now())?;
    if request.method() == Method::POST {
        let logouts = logout::endpoints(snapshot, request);
        if !logouts.is_empty() {
            let logging_out = logout::log_out(
                context.gateway,
                snapshot,
                &logouts,
                (request, body),
                client.address,
                context.request_id,
            );
            logging_out.await.map_err(|error| RejectedRequest::from(Rejection::Logout(error)))?;
            return Ok((response::logged_out(), None));
        }
    }
    let Context { gateway, metrics, request_id, .. } = *context;
    let refresh = Refresh { gateway, metrics, client, request_id, request };
    if let Some(response) = refresh.answer(policy).await? {
        return Ok((response, None));
    }
    let opening = match Opening::parse(request.method(), uri, request.version(), headers) {
        Ok(opening) => opening,
        Err(OpeningError::NotUpgrade) if request.method() == Method::GET => {
            let rejected = || RejectedRequest::from(Rejection::Opening(OpeningError::NotUpgrade));
            let facts = RequestFacts::of_http(uri, headers, client, context.request_id.0).ok_or_else(rejected)?;
            let candidate = policy.begin(&facts).map_err(|_| rejected())?;
            let Target::Page(page) = candidate.route().target.clone() else { return Err(rejected()) };
            authenticate(context.gateway, worker.clients(), candidate).await?;
            return Ok((response::page(&page), None));
        }
        Err(error) => return Err(Rejection::Opening(error).into()),
    };

    // (b) Admission.
    let facts = RequestFacts::of_opening(&opening, headers, client, context.request_id.0);
    let candidate = policy.begin(&facts)?;
    let pending = PendingRequest::new(context, candidate.route().name(), None);
    let authenticating = authenticate(context.gateway, worker.clients(), candidate);
    let (authenticated, cookies) = pending.until(authenticating).await?;
    let admission = authenticated.reserve(clock::both())?;
    let mut context = *context;
    context.phases.enter(UpgradePhase::Connect, clock::now());
    let (response, opened) = upgrade(&context, &opening, &facts, admission).await?;
    let mut response = response;
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok((response, Some(opened)))
}

/// Opens the WebSocket to the upstream, and with it the session of an admitted request.
async fn upgrade(
    context: &Context<'_>,
    opening: &Opening<'_>,
    facts: &RequestFacts<'_>,
    admission: Admission,
) -> Result<(Response<Full<Bytes>>, OpenedSession), RejectedRequest> {
    let (route, upstream) = (admission.route(), admission.pool().config());
    let reject = |rejection| {
        let Grant { auth, subject, .. } = &**admission.grant();
        let (route, auth, subject) = (Some(Arc::clone(route.name())), auth.clone(), subject.clone());
        let rejected = Rejected { route, auth, subject, ..Rejected::from(rejection) };
        let phases = Some(context.phases);
        RejectedRequest { upstream: Some(Arc::clone(&upstream.name)), phases, ..rejected.into() }
    };

    // (c) The request to the upstream.
    let (protocols, marker) = credential::strip_protocols(admission.stripped(), &opening.protocols);
    let allow_compression = route.config.limits.allow_compression();
    let extensions = if allow_compression { opening.extensions.as_slice() } else { &[] };
    let key = handshake::key(random());
    let request_id = context.request_id.to_string();
    let (trace, span_id, rewrite) = (context.trace, random(), &route.config.rewrite);
    let set = &rewrite.headers(&admission.grant().params).map_err(|error| reject(Rejection::Path(error)))?;
    let added =
        UpstreamHeaders { request_id: &request_id, trace, span_id, key: &key, protocols: &protocols, extensions, set };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target([&upstream.base_path, rewrite.path(facts.path)], facts.query, admission.stripped())
        .ok_or_else(|| reject(Rejection::Opening(OpeningError::Target)))?;
    *request.headers_mut() = headers::to_upstream(facts, &admission, &added);

    // (d) Its response.
    let pending = PendingRequest::new(context, route.name(), Some(&admission));
    let proxy_header = if upstream.proxy_protocol { proxy_header(context.client.endpoints) } else { Vec::new() };
    let asked = pending.until(context.gateway.connector.ask(&admission, facts, &proxy_header, request)).await;
    let waited = match &asked {
        Ok(asked) => asked.waited,
        Err(error) => error.waited,
    };
    let mut phases = context.phases;
    if !waited.is_zero() {
        phases.part(UpgradePhase::Wait, waited);
    }
    let reject = |rejection| RejectedRequest { phases: Some(phases), ..reject(rejection) };
    let asked = asked.map_err(|AskError { rejection, server, detail, .. }| {
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        RejectedRequest { server, detail, ..reject(rejection) }
    })?;
    let Asked { response, pool, session: server_session, cookie, .. } = asked;
    let server = Arc::clone(server_session.server());
    let reject = |rejection| RejectedRequest { server: Some(Arc::clone(&server)), ..reject(rejection) };
    let (head, stream, read_ahead) = match response {
        UpstreamResponse::Switched { head, stream, read_ahead } => (head, stream, read_ahead),
        UpstreamResponse::NotSwitched(response) => {
            let rejection = Rejection::UpstreamStatus(response.status());
            return Err(RejectedRequest { response: Some(response), ..reject(rejection) });
        }
    };
    let answer = Answer::parse(head.status(), head.version(), head.headers(), &key, &protocols, extensions);
    context.gateway.connector.note_answer(&pool, &server_session, answer.as_ref().err());
    let answer = answer.map_err(|error| reject(Rejection::Answer(error)))?;

    // (e) The 101.
    let mut response = response::switching_protocols(opening, &answer, marker, head.headers());
    response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
    let config = SessionConfig {
        limits: Arc::clone(&route.config.limits),
        messages: admission.messages().cloned(),
        bytes: admission.bytes().cloned(),
        expires: admission.expires(),
        age_jitter: u16::from_be_bytes(random()),
        loss: admission.pool().config().loss,
        compressed: answer.extension.is_some(),
        ping_tag: random(),
    };
    let now = clock::now();
    let session = Session::new(config, now);
    // The oldest sessions of the client are told to end before its new one begins.
    let mut admission = admission;
    context.gateway.workers.replace(&admission.open_session(&context.gateway.counters, now));
    let (request_id, summary) = (context.request_id, context.summary.keep());
    phases.enter(UpgradePhase::Answer, now);
    let opened = OpenedSession {
        admission,
        session,
        upstream: stream,
        read_ahead,
        server,
        server_session,
        request_id,
        summary,
        generation: context.generation,
        phases,
        started: context.started,
    };
    Ok((response, opened))
}

/// Returns the target of the request to the upstream: the parts of its path, and the query as the client sent it,
/// without the tokens that are removed.
fn target([base, path]: [&str; 2], query: Option<&str>, stripped: &[TokenSource]) -> Option<Uri> {
    let query = match stripped {
        [] => query.map(str::to_owned),
        stripped => credential::strip_query(stripped, query),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base}{path}{query}").parse().ok()
}

/// A request that waits for its authentication or, once it is admitted, for its upstream. If it is dropped meanwhile,
/// the client has disconnected or the process aborts; it is logged in both cases.
struct PendingRequest<'a> {
    context: &'a Context<'a>,
    route: Arc<str>,
    admission: Option<&'a Admission>,
    is_over: bool,
}

impl<'a> PendingRequest<'a> {
    fn new(context: &'a Context<'a>, route: &Arc<str>, admission: Option<&'a Admission>) -> Self {
        Self { context, route: Arc::clone(route), admission, is_over: false }
    }

    /// Waits for the future.
    async fn until<T>(mut self, future: impl Future<Output = T>) -> T {
        let output = future.await;
        self.is_over = true;
        output
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let aborted = self.context.gateway.process.lifecycle.phase() == Phase::Aborted;
        let rejection = if aborted { Rejection::Draining } else { Rejection::ClientGone };
        self.context.log(&RejectionEvent {
            route: Some(&self.route),
            auth: self.admission.and_then(|admission| admission.grant().auth.as_deref()),
            subject: self.admission.and_then(Admission::subject),
            upstream: self.admission.map(|admission| &*admission.pool().config().name),
            detail: Some(if self.admission.is_some() {
                "no response of the upstream yet"
            } else {
                "not authenticated yet"
            }),
            ..self.context.event(rejection)
        });
    }
}

/// Logs a session that ended before it began, because the client did not read its 101 in time.
pub fn log_answer_not_taken(gateway: &Gateway, metrics: &WorkerMetrics, opened: &OpenedSession) {
    metrics.count_upgrade(opened.admission.route().name(), Rejection::ClientGone.label());
    let event = RejectionEvent {
        summary: opened.summary.summary(),
        route: Some(opened.admission.route().name()),
        auth: opened.admission.grant().auth.as_deref(),
        subject: opened.admission.subject(),
        server: Some(&opened.server),
        detail: Some("the client did not read the 101 in time"),
        times: gateway.process.sessions.slow_times(&opened.phases, clock::now()),
        ..RejectionEvent::new(Rejection::ClientGone, opened.request_id, opened.admission.grant().address)
    };
    gateway.log_rejection(&event);
}

/// Logs an upgrade that was slow. To be called when its 101 was written.
pub fn log_if_slow(gateway: &Gateway, opened: &OpenedSession) {
    let session = SessionSummary {
        request_id: opened.request_id,
        route: opened.admission.route().name(),
        auth: opened.admission.grant().auth.as_deref(),
        subject: opened.admission.subject(),
        client: opened.admission.grant().address,
        upstream: &opened.admission.pool().config().name,
        server: &opened.server,
        request: opened.summary.summary(),
    };
    gateway.process.sessions.log_upgrade(&session, &opened.phases, clock::now());
}
