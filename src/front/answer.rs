//! One request: parses it, and finds what answers it: an endpoint of Tollgate, an upgrade, an upstream, or a page.

use std::sync::Arc;

use http::header::{SET_COOKIE, UPGRADE};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};

use super::answer_body::AnswerBody;
use super::authenticate::authenticate;
use super::awaited_share;
use super::body_scanner::BodyScanner;
use super::http_request;
use super::logout;
use super::refresh::Refresh;
use super::request_connection::RequestConnection;
use super::request_context::{Context, PendingRequest, summary};
use super::response::{self, RejectedRequest};
use super::route_headers;
use super::slots;
use super::snapshot::Snapshot;
use super::upgrade::{OpenedSession, upgrade};
use crate::policy::forwarded::Client;
use crate::policy::rejection::Rejection;
use crate::policy::request::RequestFacts;
use crate::policy::route::Route;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::lifecycle::Lifecycle;
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::RequestId;
use crate::telemetry::trace_context::TraceContext;
use crate::ws::handshake::{Opening, OpeningError};

/// The state of a connection after a request.
#[derive(Debug)]
pub(super) enum Answered {
    /// It becomes a session, once its 101 is written.
    Upgraded(Box<OpenedSession>),
    /// It carries the response of an upstream, and may carry another request after it.
    Forwarded(Arc<Route>),
    /// It closes after the response, which is one of Tollgate's own at a path of this route, if of one.
    Closed(Option<Arc<Route>>),
}

impl Answered {
    /// Returns the route of the request, if it has one.
    fn route(&self) -> Option<&Arc<Route>> {
        match self {
            Self::Upgraded(opened) => Some(opened.admission.route()),
            Self::Forwarded(route) => Some(route),
            Self::Closed(route) => route.as_ref(),
        }
    }
}

/// Returns the response to a request, and what becomes of it. The whole request uses one snapshot.
pub(super) async fn answer(
    connection: &RequestConnection<'_>,
    client: Client,
    (request_id, is_first): (RequestId, bool),
    phases: UpgradePhases,
    request: &Request<()>,
    body: Incoming,
) -> (Response<AnswerBody>, Answered) {
    let gateway = connection.gateway;
    let trace = TraceContext::of_request(request.headers(), random);
    let (snapshot, summary) = (gateway.snapshot(), summary(request, trace.trace_id()));
    let (generation, started, method) = (snapshot.generation(), clock::now(), request.method());
    let metrics = connection.worker.metrics();
    let is_ordinary = false;
    let context = Context {
        gateway,
        metrics,
        client,
        request_id,
        trace,
        method,
        summary,
        phases,
        generation,
        started,
        is_ordinary,
    };
    let has_tls = connection.config.tls.is_some();
    let is_counted = is_counted(is_first, request.headers());
    match respond(&context, connection, &snapshot, is_counted, request, body).await {
        Ok((mut response, answered)) => {
            if let Some(route) = answered.route() {
                route_headers::add(response.headers_mut(), &route.config, has_tls);
            }
            (response, answered)
        }
        Err(rejected) => {
            if !is_counted {
                // Its own status is the answer, also beyond the rate.
                let _ = snapshot.policy().charge(client.address, clock::now());
            }
            let (phases, is_ordinary) = (rejected.phases.unwrap_or(phases), rejected.is_ordinary);
            let context = Context { phases, is_ordinary, ..context };
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
            let route = match rejected.rejected.rejection {
                Rejection::Logout(_) => logout::route(&snapshot, request),
                _ => rejected.rejected.route.as_deref().and_then(|route| snapshot.policy().routes().named(route)),
            };
            let route = route.map(Arc::clone);
            let mut response = rejected.into_response(request_id, request.headers()).map(AnswerBody::Own);
            if let Some(route) = route {
                route_headers::add(response.headers_mut(), &route.config, has_tls);
            }
            (response, Answered::Closed(None))
        }
    }
}

/// Whether a request counts in `upgrade_rate` before it is parsed, as the first one of its connection and each upgrade do.
fn is_counted(is_first: bool, headers: &HeaderMap) -> bool {
    is_first || headers.contains_key(UPGRADE)
}

/// Whether the drain admits a request. A connection that is kept carries one more ordinary request, which would otherwise
/// be lost, and is closed after the response. No session begins on it.
fn is_admitted(lifecycle: &Lifecycle, is_counted: bool) -> bool {
    !is_counted || lifecycle.is_admitting()
}

async fn respond(
    context: &Context<'_>,
    connection: &RequestConnection<'_>,
    snapshot: &Snapshot,
    is_counted: bool,
    request: &Request<()>,
    body: Incoming,
) -> Result<(Response<AnswerBody>, Answered), RejectedRequest> {
    let (headers, client) = (request.headers(), context.client);
    if !is_admitted(&context.gateway.process.lifecycle, is_counted) {
        return Err(Rejection::Draining.into());
    }
    // (a) The address is charged before the request is parsed. Further ordinary requests of a connection are charged to
    // `request_rate`, and here only if they are rejected.
    let policy = snapshot.policy();
    if is_counted {
        awaited_share::charge(context.gateway, policy, client.address).await?;
    }
    let own = |response: Response<Full<Bytes>>, route: Option<&Arc<Route>>| {
        (response.map(AnswerBody::Own), Answered::Closed(route.cloned()))
    };
    if request.method() == Method::POST {
        let logouts = logout::endpoints(snapshot, request);
        if !logouts.is_empty() {
            connection.take_body(BodyScanner::Unlimited).await;
            let logging_out = logout::log_out(
                context.gateway,
                snapshot,
                &logouts,
                (request, body),
                client.address,
                context.request_id,
            );
            logging_out.await.map_err(|error| RejectedRequest::from(Rejection::Logout(error)))?;
            return Ok(own(response::logged_out(), logout::route(snapshot, request)));
        }
    }
    let Context { gateway, metrics, request_id, .. } = *context;
    let refresh = Refresh { gateway, metrics, client, request_id, request };
    if let Some((response, route)) = refresh.answer(policy).await? {
        return Ok(own(response, Some(route)));
    }
    let clients = connection.worker.clients();
    let opening = match Opening::parse(request.method(), request.uri(), request.version(), headers) {
        Ok(opening) => opening,
        Err(OpeningError::NotUpgrade) if policy.routes().have_http() => {
            let (response, route) = http_request::forward(context, connection, policy, request, body).await?;
            return Ok((response, Answered::Forwarded(route)));
        }
        Err(error) => return Err(Rejection::Opening(error).into()),
    };

    // (b) Admission.
    let facts = RequestFacts::of_opening(&opening, headers, client, request_id.0);
    let candidate = policy.begin(&facts)?;
    let pending = PendingRequest::new(context, candidate.route().name(), None);
    let authenticating = async {
        let (authenticated, cookies) = authenticate(gateway, clients, candidate).await?;
        let shared = slots::at_admission(gateway, &authenticated).await?;
        Ok::<_, RejectedRequest>((authenticated, cookies, shared))
    };
    let (authenticated, cookies, shared) = pending.until(authenticating).await?;
    let admission = authenticated.reserve(shared, clock::both())?;
    let mut context = *context;
    context.phases.enter(UpgradePhase::Connect, clock::now());
    let (mut response, opened) = upgrade(&context, &opening, &facts, admission).await?;
    for cookie in cookies {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok((response.map(AnswerBody::Own), Answered::Upgraded(Box::new(opened))))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::HeaderValue;

    use super::*;

    #[test]
    fn the_drain_admits_only_ordinary_requests_of_kept_connections() {
        let lifecycle = Lifecycle::new(Duration::from_secs(1));
        let upgrade: HeaderMap = [(UPGRADE, HeaderValue::from_static("websocket"))].into_iter().collect();
        let table = [
            // The first one, its headers, whether it counts, whether it is admitted in the drain.
            (true, HeaderMap::new(), true, false),
            (true, upgrade.clone(), true, false),
            (false, upgrade, true, false),
            (false, HeaderMap::new(), false, true),
        ];
        for (is_first, headers, counts, _) in &table {
            assert_eq!(is_counted(*is_first, headers), *counts, "{is_first} {headers:?}");
            assert!(is_admitted(&lifecycle, *counts));
        }
        lifecycle.stop_admitting();
        for (is_first, headers, counts, expected) in table {
            assert_eq!(is_admitted(&lifecycle, counts), expected, "{is_first} {headers:?}");
        }
    }
}
