//! An ordinary request on a route with `http = true`: checks and admits it, forwards it, and streams the response.

use std::sync::Arc;

use http::header::{CONNECTION, SET_COOKIE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::{Body as _, Incoming};

use super::answer_body::{AnswerBody, ForwardedBody};
use super::authenticate::authenticate;
use super::awaited_share;
use super::headers::{self, Admitted, OwnHeaders};
use super::request_connection::RequestConnection;
use super::request_context::{Context, PendingRequest, target};
use super::request_record::RequestRecord;
use super::response::RejectedRequest;
use crate::policy::admission::Policy;
use crate::policy::endpoints::proxy_header;
use crate::policy::framing::{self, BodyLength, FramingError};
use crate::policy::limits::Limits;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::request::RequestFacts;
use crate::policy::request_admission::RequestAdmission;
use crate::policy::route::Route;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::pending_limit::AddressPermit;
use crate::telemetry::phases::UpgradePhase;
use crate::upstream::forward::OutgoingRequest;
use crate::upstream::request_body::{BodyLimits, BodyProgress, RequestBody};
use crate::upstream::{AskError, Asked};
use crate::ws::handshake::{OpeningError, tokens};

/// Forwards a request, and returns the response when its head has arrived. Counts the response to one that is rejected.
pub(super) async fn forward(
    context: &Context<'_>,
    connection: &RequestConnection<'_>,
    policy: &Policy,
    request: &Request<()>,
    body: Incoming,
) -> Result<(Response<AnswerBody>, Arc<Route>), RejectedRequest> {
    let context = &Context { is_ordinary: true, ..*context };
    admit_and_forward(context, connection, policy, request, body).await.map_err(|rejected| {
        // Without a route, or at one without `http`, it counts as a rejected upgrade.
        let is_upgrade = rejected.rejected.rejection == Rejection::Opening(OpeningError::NotUpgrade);
        let route = rejected.rejected.route.as_ref().filter(|_| !is_upgrade);
        if let Some(route) = route {
            context.metrics.count_request(route, rejected.status());
        }
        RejectedRequest { is_ordinary: route.is_some(), ..rejected }
    })
}

async fn admit_and_forward(
    context: &Context<'_>,
    connection: &RequestConnection<'_>,
    policy: &Policy,
    request: &Request<()>,
    body: Incoming,
) -> Result<(Response<AnswerBody>, Arc<Route>), RejectedRequest> {
    let target = (request.method(), request.uri());
    let facts = RequestFacts::of_http(target, request.headers(), context.client, context.request_id.0);
    let facts = facts.ok_or(Rejection::Framing(FramingError::Host))?;
    let candidate = policy.begin(&facts)?;
    let route = Arc::clone(candidate.route());
    let reject = |rejection| Rejected { route: Some(Arc::clone(route.name())), ..Rejected::from(rejection) };
    let length = check(connection, request, &route.config.limits).map_err(reject)?;
    let pending = PendingRequest::new(context, route.name(), None);
    let authenticating = authenticate(context.gateway, connection.worker.clients(), candidate);
    let (authenticated, cookies) = pending.until(authenticating).await?;
    awaited_share::wait_for_request(context.gateway, context.client.address, &authenticated).await;
    let admission = authenticated.admit_request(clock::now())?;
    if let Some(limit) = admission.exceeded() {
        context.metrics.count_reported_request(route.name(), limit);
    }
    let permit = connection.permit(context.client.address).map_err(reject)?;
    connection.carry_requests();
    let has_body = length != BodyLength::Known(0);
    if has_body {
        connection.take_body(length.into()).await;
    }
    let message = (request, has_body.then_some(body));
    let mut response = exchange(context, connection, &facts, &admission, permit, message).await?;
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok((response, route))
}

/// Exchanges a request and its response with the upstream.
async fn exchange(
    context: &Context<'_>,
    connection: &RequestConnection<'_>,
    facts: &RequestFacts<'_>,
    admission: &RequestAdmission,
    permit: AddressPermit,
    (request, body): (&Request<()>, Option<Incoming>),
) -> Result<Response<AnswerBody>, RejectedRequest> {
    let mut context = *context;
    context.phases.enter(UpgradePhase::Connect, clock::now());
    let context = &context;
    let (route, grant, upstream) = (admission.route(), admission.grant(), admission.pool().config());
    let limits = &route.config.limits;
    let reject = |rejection| {
        let (route, auth, subject) = (Some(Arc::clone(route.name())), grant.auth.clone(), grant.subject.clone());
        let rejected = Rejected { route, auth, subject, ..Rejected::from(rejection) };
        let phases = Some(context.phases);
        RejectedRequest { upstream: Some(Arc::clone(&upstream.name)), phases, ..rejected.into() }
    };
    let mut head = head(context, facts, admission, request.method()).map_err(&reject)?;
    if body.as_ref().is_some_and(|body| body.size_hint().exact().is_none()) {
        // hyper sends no body of a GET or HEAD that does not say so.
        head.headers_mut().insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    let progress = Arc::<BodyProgress>::default();
    let body_limits = BodyLimits { max_bytes: max_bytes(limits), timeout: connection.config.body_timeout };
    let has_body = body.is_some();
    let body = body.map(|body| {
        let route = Arc::clone(route);
        let filter = Box::new(move |trailers: &mut HeaderMap| headers::retain_trailers(&route, trailers));
        RequestBody::streamed(body, body_limits, filter, &progress)
    });
    let proxy_header = if upstream.proxy_protocol { proxy_header(context.client.endpoints) } else { Vec::new() };
    let outgoing =
        OutgoingRequest { proxy_header: &proxy_header, head, body: body.unwrap_or_default(), progress: &progress };
    let pending = PendingRequest::new(context, route.name(), Some((grant, &*upstream.name)));
    let connections = connection.worker.connections();
    let forwarding = context.gateway.connector.forward(admission, facts, connections, outgoing);
    let asked = pending.until(forwarding).await.map_err(|AskError { rejection, server, detail, waited }| {
        let detail = Some(detail).filter(|detail| !detail.is_empty());
        let mut phases = context.phases;
        if !waited.is_zero() {
            phases.part(UpgradePhase::Wait, waited);
        }
        RejectedRequest { server, detail, phases: Some(phases), ..reject(rejection) }
    })?;

    let Asked { response, session: server_session, cookie, .. } = asked;
    // The rest of a body that the server does not read is not awaited.
    let is_read = !has_body || progress.has_ended();
    let (head, body) = response.into_parts();
    let record = RequestRecord {
        gateway: Arc::clone(connection.gateway),
        worker: connection.worker.clone(),
        request_id: context.request_id,
        summary: context.summary.keep(),
        route: Arc::clone(route.name()),
        auth: grant.auth.clone(),
        subject: grant.subject.clone(),
        client: grant.address,
        upstream: Arc::clone(&upstream.name),
        server: Arc::clone(server_session.server()),
        method: request.method().clone(),
        status: head.status,
        started: context.started,
        progress,
        bytes_out: 0,
        report_above: limits.request_max_bytes.filter(|_| limits.is_reporting()),
    };
    let has_answered = connection.progress.begin_answer(limits.write_timeout);
    let body = ForwardedBody::new(body, (server_session, permit), record, has_answered, limits.idle_timeout);
    let mut response = Response::new(AnswerBody::Upstream(Box::new(body)));
    *response.status_mut() = head.status;
    let has_length = *request.method() == Method::HEAD || head.status == StatusCode::NOT_MODIFIED;
    *response.headers_mut() = headers::of_response(&head.headers, has_length);
    response.headers_mut().extend(cookie.map(|cookie| (SET_COOKIE, cookie)));
    if request.version() != Version::HTTP_11 || !is_read || !connection.may_stay_open() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Returns the head of the request to the upstream.
fn head(
    context: &Context<'_>,
    facts: &RequestFacts<'_>,
    admission: &RequestAdmission,
    method: &Method,
) -> Result<Request<()>, Rejection> {
    let (route, grant, rewrite) = (admission.route(), admission.grant(), &admission.route().config.rewrite);
    let set = &rewrite.headers(&grant.params).map_err(Rejection::Path)?;
    let (request_id, stripped) = (context.request_id.to_string(), admission.stripped());
    let added = OwnHeaders { request_id: &request_id, trace: context.trace, span_id: random(), set };
    let (pool, claim_headers) = (&**admission.pool(), admission.claim_headers());
    let admitted = Admitted { route, pool, claim_headers, stripped };
    let path = [pool.config().base_path.as_str(), rewrite.path(facts.path)];
    let mut head = Request::new(());
    *head.method_mut() = method.clone();
    *head.uri_mut() = target(path, facts.query, stripped).ok_or(Rejection::Framing(FramingError::Target))?;
    *head.headers_mut() = headers::of_request(facts, &admitted, &added);
    Ok(head)
}

/// Checks the method, the framing and the declared size of a request.
fn check(connection: &RequestConnection<'_>, request: &Request<()>, limits: &Limits) -> Result<BodyLength, Rejection> {
    let (method, headers) = (request.method(), request.headers());
    if *method == Method::TRACE || *method == Method::CONNECT {
        return Err(Rejection::Unsupported);
    }
    if headers.contains_key(UPGRADE) {
        let is_websocket = tokens(headers, &UPGRADE).any(|token| token.eq_ignore_ascii_case(b"websocket"));
        return Err(if is_websocket { Rejection::Opening(OpeningError::NotUpgrade) } else { Rejection::Unsupported });
    }
    let length = framing::check(connection.progress.shape(), (method, request.uri()), headers);
    let length = length.map_err(Rejection::Framing)?;
    match (length, max_bytes(limits)) {
        (BodyLength::Known(length), Some(max)) if length > max => Err(Rejection::BodyTooLarge),
        _ => Ok(length),
    }
}

/// Returns the maximum size of a body, if it is enforced.
fn max_bytes(limits: &Limits) -> Option<u64> {
    limits.request_max_bytes.filter(|_| !limits.is_reporting())
}
