//! The upgrade of an admitted request: write the request to the upstream, get its response, send the 101.

use std::sync::Arc;
use std::time::Instant;

use http::header::SET_COOKIE;
use http::{Method, Request, Response};
use http_body_util::{Empty, Full};
use hyper::body::Bytes;

use super::gateway::Gateway;
use super::headers::{self, OwnHeaders, UpstreamHeaders};
use super::request_context::{Context, PendingRequest, target};
use super::response::{self, RejectedRequest};
use super::slots;
use crate::balance::ServerSession;
use crate::policy::admission::Admission;
use crate::policy::credential;
use crate::policy::endpoints::proxy_header;
use crate::policy::grant::Grant;
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::request::RequestFacts;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::session::{Session, SessionConfig};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::{OwnedRequestSummary, RequestId};
use crate::telemetry::sessions::SessionSummary;
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

/// Opens the WebSocket to the upstream, and with it the session of an admitted request.
pub(super) async fn upgrade(
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
    let of_tollgate = OwnHeaders { request_id: &request_id, trace, span_id, set };
    let added = UpstreamHeaders { of_tollgate, key: &key, protocols: &protocols, extensions };
    let mut request = Request::new(Empty::new());
    *request.uri_mut() = target([&upstream.base_path, rewrite.path(facts.path)], facts.query, admission.stripped())
        .ok_or_else(|| reject(Rejection::Opening(OpeningError::Target)))?;
    *request.headers_mut() = headers::to_upstream(facts, &admission, &added);

    // (d) Its response.
    let pending = PendingRequest::new(context, route.name(), Some((&**admission.grant(), &*upstream.name)));
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
    let shared = slots::at_opening(context.gateway, &admission, facts.id).await.map_err(reject)?;
    let now = clock::now();
    let session = Session::new(config, now);
    // The oldest sessions of the client are told to end before its new one begins.
    let mut admission = admission;
    context.gateway.workers.replace(&admission.open_session(&context.gateway.counters, shared, now));
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

/// Logs a session that ended before it began, because the client did not read its 101 in time.
pub fn log_answer_not_taken(gateway: &Gateway, metrics: &WorkerMetrics, opened: &OpenedSession) {
    metrics.count_upgrade(opened.admission.route().name(), Rejection::ClientGone.label());
    let method = Method::GET;
    let event = RejectionEvent {
        method: Some(&method),
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
