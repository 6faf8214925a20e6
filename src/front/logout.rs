//! Back-channel logout: receives a logout token, and revokes the tokens that it names.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use http::header::{CONTENT_TYPE, HOST};
use http::uri::Authority;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Limited};
use hyper::body::{Bytes, Incoming};
use tokio::time::timeout;

use super::gateway::Gateway;
use super::keys::wait_for_keys;
use super::logouts::RECEIVING_MAX;
use super::revoker::RevokeError;
use super::snapshot::Snapshot;
use crate::policy::credential::{self, TokenSource};
use crate::policy::host::request_host;
use crate::policy::logout::{LogoutEndpoint, LogoutError};
use crate::policy::path::Path;
use crate::policy::route::{AuthKind, Route};
use crate::runtime::clock;
use crate::telemetry::request::RequestId;

/// How long an issuer may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The size of a body besides its token.
const FORM_BYTES: usize = 1024;
/// The name of the form field (section 2.5), in the notation of a token source.
const FIELD: &str = "query:logout_token";

/// Returns the sections that receive logout tokens at the target of a request.
pub(super) fn endpoints<'a>(snapshot: &'a Snapshot, request: &Request<()>) -> Vec<&'a LogoutEndpoint> {
    if snapshot.logouts().is_empty() {
        return Vec::new();
    }
    let Some((host, path)) = target(request) else { return Vec::new() };
    snapshot.logouts().iter().filter(|endpoint| endpoint.serves(&host, &path)).collect()
}

/// Returns the route whose headers the response to a logout has: the most specific one of its host that uses one of the
/// sections.
pub(super) fn route<'a>(snapshot: &'a Snapshot, request: &Request<()>) -> Option<&'a Arc<Route>> {
    let ((host, _), endpoints) = (target(request)?, endpoints(snapshot, request));
    let uses = |route: &Route| endpoints.iter().any(|endpoint| route.config.auth.contains(&endpoint.method.name));
    snapshot.policy().routes().iter().find(|route| route.config.host.matches(&host) && uses(route))
}

/// Returns the one host and the path of a request.
fn target(request: &Request<()>) -> Option<(String, Path)> {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    // In absolute form the authority of the target replaces Host (RFC 9112 section 3.2.2).
    let authority = request.uri().authority().map(Authority::as_str).or(host.to_str().ok());
    authority.and_then(request_host).zip(Path::parse(request.uri().path()).ok())
}

/// Executes a logout. Returns when its revocations are stored, and every open session that they concern has the command
/// to end.
///
/// # Errors
/// The first rule that the request or its token breaks.
pub(super) async fn log_out(
    gateway: &Gateway,
    snapshot: &Snapshot,
    endpoints: &[&LogoutEndpoint],
    (request, body): (&Request<()>, Incoming),
    client: IpAddr,
    request_id: RequestId,
) -> Result<(), LogoutError> {
    if gateway.process.lifecycle.is_upgrading() {
        return Err(LogoutError::Busy);
    }
    let _permit = gateway.logouts.permits.try_acquire().map_err(|_| LogoutError::Busy)?;
    let receiving = gateway.logouts.receiving.take(client.into(), RECEIVING_MAX).ok_or(LogoutError::Busy)?;
    let body = receive(endpoints, request, body).await?;
    drop(receiving);
    let token = token(&body)?;
    let recognizing = endpoints.iter().find(|endpoint| endpoint.recognizes(&token));
    let endpoint = recognizing.or(endpoints.first()).ok_or(LogoutError::Form)?;
    if let AuthKind::Token(verifier) = &endpoint.method.kind {
        let has_keys =
            wait_for_keys(gateway, client, verifier, &token).await.is_ok() && verifier.check_keys(clock::now()).is_ok();
        has_keys.then_some(()).ok_or(LogoutError::NoKeys)?;
    }
    let (now, auth) = (clock::both().unix, &*endpoint.method.name);
    let logout = endpoint.verify(&token, now)?;
    gateway.logouts.recent.note(&logout, auth, now)?;
    let revocations = logout.revocations(auth, now, snapshot.revocation_end(Some(auth), now));
    // All are queued before the first wait: the issuer may disconnect meanwhile.
    let revoking = revocations.into_iter().map(|revocation| gateway.revoker.revoke(revocation));
    let mut ended = 0_usize;
    for revoked in join_all(revoking).await {
        let revoked = revoked.map_err(|error| {
            gateway.logouts.recent.forget(&logout, auth);
            if error == RevokeError::Upgrading { LogoutError::Busy } else { LogoutError::NotStored }
        });
        ended = ended.saturating_add(revoked?.ended);
    }
    tracing::info!(%request_id, auth, ended, "logout");
    Ok(())
}

/// Receives the body of a form.
async fn receive(endpoints: &[&LogoutEndpoint], request: &Request<()>, body: Incoming) -> Result<Bytes, LogoutError> {
    if !is_form(request.headers()) {
        return Err(LogoutError::Form);
    }
    let tokens = endpoints.iter().filter_map(|endpoint| match &endpoint.method.kind {
        AuthKind::Token(verifier) => Some(verifier.config().max_bytes),
        AuthKind::Forward(_) => None,
    });
    let max_bytes = tokens.max().unwrap_or_default().saturating_add(FORM_BYTES);
    let receiving = timeout(BODY_TIMEOUT, Limited::new(body, max_bytes).collect());
    Ok(receiving.await.map_err(|_| LogoutError::Form)?.map_err(|_| LogoutError::Form)?.to_bytes())
}

fn is_form(headers: &HeaderMap) -> bool {
    let declared = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    declared.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/x-www-form-urlencoded")
}

/// Finds the token in a form, whose syntax is that of a query.
fn token(body: &[u8]) -> Result<String, LogoutError> {
    let body = str::from_utf8(body).map_err(|_| LogoutError::Form)?;
    let sources = FIELD.parse::<TokenSource>().map(|source| [source]).map_err(|_| LogoutError::Form)?;
    let headers = HeaderMap::new();
    let found = credential::find(&sources, &headers, Some(body), &[]).map_err(|_| LogoutError::Form)?;
    found.map(Cow::into_owned).ok_or(LogoutError::Form)
}
