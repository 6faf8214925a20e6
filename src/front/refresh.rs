//! Answers requests at the refresh path of a route: a fresh token renews the open sessions of its client.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HOST, ORIGIN, SEC_WEBSOCKET_PROTOCOL};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::cors;
use super::gateway::Gateway;
use super::keys::wait_for_keys;
use super::response::{REFRESH_METHODS, RejectedRequest};
use crate::policy::admission::Policy;
use crate::policy::forwarded::Client;
use crate::policy::refresh::{RefreshToken, Renewal, reads_cookie};
use crate::policy::rejection::{Rejected, Rejection};
use crate::policy::request::RequestFacts;
use crate::policy::route::Route;
use crate::runtime::clock;
use crate::telemetry::metrics::worker::{NO_SESSION, RENEWED, WorkerMetrics};
use crate::telemetry::request::RequestId;
use crate::ws::handshake::PROTOCOLS_MAX;

/// How long the sessions have to take their new expiry.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A request whose address was charged.
#[derive(Clone, Copy)]
pub(super) struct Refresh<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) metrics: &'a WorkerMetrics,
    pub(super) client: Client,
    pub(super) request_id: RequestId,
    pub(super) request: &'a Request<()>,
}

impl Refresh<'_> {
    /// Returns the response and the route, or `None` if the path is not the refresh path of a route.
    ///
    /// # Errors
    /// If the request is rejected. The rejection has the headers that let a page of the route's origins read it.
    pub(super) async fn answer<'p>(
        &self,
        policy: &'p Policy,
    ) -> Result<Option<(Response<Full<Bytes>>, &'p Arc<Route>)>, RejectedRequest> {
        let Some(route) = self.route(policy) else { return Ok(None) };
        let headers = headers(route, self.request.headers());
        match self.respond(route).await {
            Ok(mut response) => {
                response.headers_mut().extend(headers);
                Ok(Some((response, route)))
            }
            Err(rejected) => Err(RejectedRequest { refresh: Some(headers), ..rejected.into() }),
        }
    }

    fn route<'a>(&self, policy: &'a Policy) -> Option<&'a Arc<Route>> {
        let uri = self.request.uri();
        let host = || self.request.headers().get(HOST)?.to_str().ok();
        policy.refreshed_route(uri.authority().map(Authority::as_str).or_else(host)?, uri.path())
    }

    async fn respond(&self, route: &Arc<Route>) -> Result<Response<Full<Bytes>>, Rejected> {
        let reject = |rejection| Rejected { route: Some(Arc::clone(route.name())), ..Rejected::from(rejection) };
        let (method, headers) = (self.request.method(), self.request.headers());
        if *method == Method::OPTIONS {
            return options(route, headers, self.client.address).map_err(reject);
        }
        if *method != Method::POST {
            return Err(reject(Rejection::Method));
        }
        let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|line| line.to_str().ok());
        let protocols = protocols.flat_map(|line| line.split(',')).map(str::trim);
        let protocols: Vec<&str> = protocols.take(PROTOCOLS_MAX).collect();
        let facts = RequestFacts::of_http((method, self.request.uri()), headers, self.client, self.request_id.0);
        let facts = RequestFacts { protocols: &protocols, ..facts.ok_or_else(|| reject(Rejection::Host))? };
        let token = RefreshToken::of_request(route, &facts).map_err(reject)?;
        let reject = |rejection| token.reject(route, rejection);
        wait_for_keys(self.gateway, self.client.address, &token.verifier, &token.token).await.map_err(reject)?;
        let renewal = Arc::new(Renewal::of_token(route, &token, clock::both())?);
        if renewal.is_revoked(self.gateway.counters.revocations(), clock::both().unix) {
            return Err(Rejected { subject: Some(Arc::clone(renewal.subject())), ..reject(Rejection::Revoked) });
        }
        // An upgrade of the process takes all permits.
        let _permit = self.gateway.refreshes.try_acquire().map_err(|_| reject(Rejection::Full))?;
        let renewed = timeout(PATIENCE, self.gateway.workers.renew(&renewal)).await;
        let renewed = renewed.map_err(|_| reject(Rejection::Full))?;
        self.log(&renewal, renewed);
        let nodes = match &self.gateway.cluster {
            Some(cluster) => cluster.share_renewal(route.name(), renewal.auth(), &token.token).await,
            None => None,
        };
        Ok(response(&renewal, renewed, nodes))
    }

    fn log(&self, renewal: &Renewal, renewed: usize) {
        let route = renewal.route().name();
        self.metrics.count_refresh(route, if renewed > 0 { RENEWED } else { NO_SESSION });
        let identities = self.gateway.process.sessions.identities();
        tracing::debug!(
            request_id = self.request_id.to_string(),
            route = &**route,
            auth = &**renewal.auth(),
            subject = identities.subject(Some(renewal.subject())),
            client = identities.address(self.client.address),
            renewed,
            "token refreshed"
        );
    }
}

/// Returns the response. `nodes` is the number of other nodes that renew their sessions of the client, too.
fn response(renewal: &Renewal, renewed: usize, nodes: Option<usize>) -> Response<Full<Bytes>> {
    let expires = renewal.token_expires().as_secs();
    let nodes = nodes.map(|nodes| format!(",\"nodes\":{nodes}")).unwrap_or_default();
    let mut response = Response::new(Full::from(format!("{{\"renewed\":{renewed},\"expires\":{expires}{nodes}}}\n")));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

/// Answers `OPTIONS`: a preflight request has no credentials, so only its address and its origin are checked.
fn options(route: &Route, request: &HeaderMap, address: IpAddr) -> Result<Response<Full<Bytes>>, Rejection> {
    let origin = request.get(ORIGIN).map(HeaderValue::as_bytes);
    if !route.config.addresses.allow(address) {
        return Err(Rejection::Address);
    }
    if origin.is_some() && !route.config.origins.allow(origin) {
        return Err(Rejection::Origin);
    }
    let mut response = Response::new(Full::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static(REFRESH_METHODS));
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    if origin.is_some() && cors::is_preflight(request, &Method::POST) {
        cors::permit(headers, "POST");
    }
    Ok(response)
}

/// Returns the headers that every response has.
fn headers(route: &Route, request: &HeaderMap) -> HeaderMap {
    let mut headers = cors::headers(&route.config.origins, request, reads_cookie(route));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers
}
