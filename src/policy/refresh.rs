//! A fresh token at the refresh path of a route: which open sessions it renews, and until when.

use std::borrow::Cow;
use std::fmt;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use super::admission::{Clocks, Policy};
use super::claims::Claims;
use super::credential::{self, Ambiguous, TokenSource};
use super::expiry::Expiry;
use super::grant::identity;
use super::host::request_host;
use super::path::Path;
use super::recheck::{OpenSession, params};
use super::rejection::{Rejected, Rejection};
use super::request::RequestFacts;
use super::revocation::Revocations;
use super::route::{AuthKind, AuthMethod, Route};
use super::token::{TokenRecord, Verifier};

impl Policy {
    /// Returns the route at whose refresh path a request arrived.
    pub fn refreshed_route(&self, authority: &str, path: &str) -> Option<&Arc<Route>> {
        if !self.routes().have_refresh_paths() {
            return None;
        }
        self.routes().find_refreshed(&request_host(authority)?, &Path::parse(path).ok()?)
    }
}

/// A verified token that renews open sessions of its client.
#[derive(Debug)]
pub struct Renewal {
    route: Arc<Route>,
    method: Arc<AuthMethod>,
    claims: Claims,
    subject: Arc<str>,
    token: Arc<TokenRecord>,
    expires: Option<Expiry>,
    /// Whether another node got the token. This node may have got a later one of the client since.
    is_of_node: bool,
}

impl Renewal {
    /// Verifies the token of a request at the refresh path of a route.
    ///
    /// # Errors
    /// The first rule that the token does not meet. A token without a subject is rejected: it does not identify the
    /// client.
    pub fn of_token(route: &Arc<Route>, found: &RefreshToken<'_>, now: Clocks) -> Result<Self, Rejected> {
        let reject = |rejection| found.reject(route, rejection);
        let RefreshToken { method, verifier, token, .. } = found;
        let method = Arc::clone(method);
        verifier.check_keys(now.instant).map_err(|error| reject(error.into()))?;
        let claims = verifier.verify(token, now.unix).map_err(|error| reject(Rejection::Token(error)))?;
        let Some(subject) = claims.subject().map(Arc::<str>::from) else {
            let claim = Some(verifier.config().subject_claim.as_str().into());
            return Err(Rejected { claim, ..reject(Rejection::Claims) });
        };
        let record = TokenRecord::new(token, &claims).ok_or_else(|| reject(Rejection::NoToken))?;
        let expires = method.expiry(&claims, now);
        let (route, token) = (Arc::clone(route), Arc::new(record));
        Ok(Self { route, method, claims, subject, token, expires, is_of_node: false })
    }

    /// Returns the renewal by a token that another node got, which may arrive late and twice: it leaves sessions alone
    /// whose token expires later.
    pub fn of_other_node(self) -> Self {
        Self { is_of_node: true, ..self }
    }

    /// Whether the token renews this session: it is of the same route, section, issuer, subject and login (`sid`), and
    /// meets the requirements of the route for the path of the session.
    pub fn renews(&self, session: &OpenSession<'_>) -> bool {
        let grant = session.grant;
        let same_client = self.route.name() == session.route.name()
            && grant.auth.as_deref() == Some(&*self.method.name)
            && grant.subject.as_deref() == Some(&*self.subject);
        let is_older = |token: &TokenRecord| self.is_of_node && token.expires() > Some(self.token_expires());
        let renews = |token: &TokenRecord| self.token.is_same_login(token) && !is_older(token);
        if !same_client || !grant.token.get().is_some_and(|token| renews(&token)) {
            return false;
        }
        let Ok(params) = params(&self.route, session) else { return false };
        let params = params.as_ref().unwrap_or(&grant.params);
        self.route.config.require.iter().all(|requirement| requirement.met_by(&self.claims, params))
    }

    /// Whether the token, its subject or its session at the issuer is revoked at `now`, counted from the Unix epoch.
    pub fn is_revoked(&self, revocations: &Revocations, now: Duration) -> bool {
        let client = identity(Some(&self.method.name), Some(&self.subject), Some(&self.token));
        client.is_some_and(|client| revocations.is_revoked(&client, now))
    }

    /// Returns the route.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the name of the section that verified the token.
    pub fn auth(&self) -> &Arc<str> {
        &self.method.name
    }

    /// Returns the subject of the token.
    pub fn subject(&self) -> &Arc<str> {
        &self.subject
    }

    /// Returns the token, which replaces that of each session that it renews.
    pub fn token(&self) -> &Arc<TokenRecord> {
        &self.token
    }

    /// Returns when the renewed sessions end because the token expires.
    pub fn expires(&self) -> Option<Expiry> {
        self.expires
    }

    /// Returns the `exp` of the token, counted from the Unix epoch.
    pub fn token_expires(&self) -> Duration {
        self.claims.expires().unwrap_or_default()
    }
}

/// The token of a request at a refresh path, which is not verified yet.
pub struct RefreshToken<'a> {
    /// The section that decides about it.
    method: Arc<AuthMethod>,
    /// The verifier of the section.
    pub verifier: Arc<Verifier>,
    /// The token.
    pub token: Cow<'a, str>,
    is_cookie: bool,
}

/// Shows the section only: a token is a secret.
impl fmt::Debug for RefreshToken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RefreshToken").field("auth", &self.method.name).finish_non_exhaustive()
    }
}

impl<'a> RefreshToken<'a> {
    /// Finds the token of a request that the route admits by its address and origin. The token is in a source of the
    /// route's sections, or in `Authorization`, which a page can set although it cannot offer a subprotocol in such a
    /// request.
    ///
    /// # Errors
    /// The first rule of the route that the request does not meet.
    pub fn of_request(route: &Arc<Route>, facts: &RequestFacts<'a>) -> Result<Self, Rejection> {
        let config = &route.config;
        if !config.addresses.allow(facts.address) {
            return Err(Rejection::Address);
        }
        if !config.origins.allow(facts.origin) {
            return Err(Rejection::Origin);
        }
        let found = Self::in_request(route, facts)?.ok_or(Rejection::NoToken)?;
        // A browser sends cookies with requests of any page, and the origin of the page with each POST.
        if found.is_cookie && facts.origin.is_none() {
            return Err(Rejection::Origin);
        }
        Ok(found)
    }

    /// Takes a token that another node has found in a request for this route and section; `None` if the section of the
    /// route reads no tokens.
    pub fn of_node(route: &Route, auth: &str, token: &'a str) -> Option<Self> {
        let method = route.auth.named(auth)?;
        let AuthKind::Token(verifier) = &method.kind else { return None };
        let (method, verifier) = (Arc::clone(method), Arc::clone(verifier));
        Some(Self { method, verifier, token: token.into(), is_cookie: false })
    }

    /// Returns the rejection of the request by the section of the token.
    pub fn reject(&self, route: &Route, rejection: Rejection) -> Rejected {
        let (route, auth) = (Some(Arc::clone(route.name())), Some(Arc::clone(&self.method.name)));
        Rejected { route, auth, ..Rejected::from(rejection) }
    }

    /// Finds the token that the first section of the route recognises, or else the first one that a section reads.
    fn in_request(route: &Route, facts: &RequestFacts<'a>) -> Result<Option<Self>, Rejection> {
        let methods = route.auth.methods();
        let mut first = None;
        for method in methods {
            let AuthKind::Token(verifier) = &method.kind else { continue };
            let found = find(verifier, facts).map_err(|Ambiguous| Rejection::TokenAmbiguous)?;
            let Some((token, is_cookie)) = found else { continue };
            let is_recognized = methods.len() == 1 || verifier.recognizes(&token);
            let verifier = Arc::clone(verifier);
            let found = Self { method: Arc::clone(method), verifier, token, is_cookie };
            if is_recognized {
                return Ok(Some(found));
            }
            first.get_or_insert(found);
        }
        Ok(first)
    }
}

/// Returns the token in the first source that has one, and whether the source is a cookie.
fn find<'a>(verifier: &Verifier, facts: &RequestFacts<'a>) -> Result<Option<(Cow<'a, str>, bool)>, Ambiguous> {
    let own = &verifier.config().sources;
    let header = (!own.contains(&TokenSource::Header)).then_some(&TokenSource::Header);
    for source in own.iter().chain(header) {
        let RequestFacts { headers, query, protocols, .. } = *facts;
        if let Some(token) = credential::find(slice::from_ref(source), headers, query, protocols)? {
            return Ok(Some((token, matches!(source, TokenSource::Cookie(_)))));
        }
    }
    Ok(None)
}

/// Whether a section of the route reads a cookie.
pub fn reads_cookie(route: &Route) -> bool {
    let verifiers = route.auth.methods().iter().filter_map(|method| match &method.kind {
        AuthKind::Token(verifier) => Some(verifier),
        AuthKind::Forward(_) => None,
    });
    let mut sources = verifiers.flat_map(|verifier| &verifier.config().sources);
    sources.any(|source| matches!(source, TokenSource::Cookie(_)))
}
