//! Admission of an ordinary HTTP request: the only constructor of a [`RequestAdmission`], without which none is forwarded.

use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue};

use super::admission::{Authenticated, Granted};
use super::counters::{LimitedClient, MessageKey};
use super::counts::KeyedLimiter;
use super::credential::TokenSource;
use super::grant::Grant;
use super::limits::LimitKind;
use super::rejection::{Rejected, Rejection};
use super::route::Route;
use crate::balance::Pool;

/// The permission to forward one request to a server of one pool. It holds no slot.
#[derive(Debug)]
pub struct RequestAdmission {
    route: Arc<Route>,
    grant: Grant,
    pool: Arc<Pool>,
    claim_headers: Vec<(HeaderName, HeaderValue)>,
    stripped: Arc<[TokenSource]>,
    exceeded: Option<LimitKind>,
}

impl Authenticated<'_> {
    /// Admits an ordinary request, which is charged to `request_rate`.
    ///
    /// # Errors
    /// If its client has used up that rate.
    pub fn admit_request(self, now: Instant) -> Result<RequestAdmission, Rejected> {
        let route = self.parts().0.route();
        let pool = Arc::clone(&route.pool);
        let mut exceeded = None;
        if let Err(rejection) = self.charge_request(now) {
            if !route.config.limits.is_reporting() {
                return Err(self.reject(rejection));
            }
            exceeded = Some(LimitKind::RequestRate);
        }
        let Granted { route, grant, claim_headers, stripped } = self.grant();
        Ok(RequestAdmission { route, grant, pool, claim_headers, stripped, exceeded })
    }

    /// Whether [`Authenticated::admit_request`] would reject the request only because this node of a cluster awaits a
    /// greater share of the client's quota. The caller may try again for a fraction of a second.
    pub fn awaits_share(&self, now: Instant) -> bool {
        self.request_limiter().is_some_and(|(limiter, key)| limiter.awaits_share(&key, now))
    }

    /// Returns the limiter of the client's requests and its key, if the route has a quota of requests.
    fn request_limiter(&self) -> Option<(KeyedLimiter<MessageKey>, MessageKey)> {
        let (candidate, subject, counters) = self.parts();
        let (route, facts) = (candidate.route(), candidate.facts());
        let requests = route.config.limits.requests?;
        let auth = self.auth();
        let client = LimitedClient { route: route.name(), address: facts.address, auth: auth.as_deref(), subject };
        let counts = counters.requests(route.name());
        Some((KeyedLimiter::over(counts, requests.quota), client.request_key(requests.key)))
    }

    fn charge_request(&self, now: Instant) -> Result<(), Rejection> {
        let Some((limiter, key)) = self.request_limiter() else { return Ok(()) };
        limiter.check(&key, now).map_err(|exceeded| {
            let wait = exceeded.until.saturating_duration_since(now);
            Rejection::RequestRate { retry_after_secs: wait.as_secs().saturating_add(1) }
        })
    }
}

impl RequestAdmission {
    /// Returns the route of the request.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the facts that the request was admitted with.
    pub fn grant(&self) -> &Grant {
        &self.grant
    }

    /// Returns the pool that the request was admitted for.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the headers that carry the claims that the route forwards.
    pub fn claim_headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.claim_headers
    }

    /// Returns the sources of tokens that are removed before the request goes to the upstream.
    pub fn stripped(&self) -> &[TokenSource] {
        &self.stripped
    }

    /// Returns the limit that is exceeded, where limits are only reported.
    pub fn exceeded(&self) -> Option<LimitKind> {
        self.exceeded
    }
}
