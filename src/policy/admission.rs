//! Admission of one request, in stages: the only constructor of an [`Admission`], without which no request reaches an
//! upstream.
//!
//! [`Policy::begin`] makes the cheap decisions, [`Candidate::authenticate`] verifies the identity of the client, and
//! [`Authenticated::reserve`] takes the slots. Each stage is synchronous; the caller may do asynchronous work between
//! them.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderName, HeaderValue};

use super::address::AddressKey;
use super::claim_headers::claim_headers;
use super::claims::Claims;
use super::client_slots;
pub use super::clocks::Clocks;
use super::counters::{Counters, LimitedClient, RouteCounts, SharedCounts};
use super::counts::KeyedLimiter;
use super::credential::{self, TokenSource};
use super::evidence::Evidence;
use super::expiry::Expiry;
use super::forward::Answered;
use super::grant::{self, Grant, Lease, SessionToken, short_origin};
use super::host::request_host;
use super::limits::LimitKind;
use super::path::Path;
use super::pattern::Params;
use super::quota::{Count, Limiter, Quota};
use super::rejection::{Rejected, Rejection};
use super::request::{RequestFacts, RequestKind};
use super::route::{AuthKind, AuthMethod, Route, Routes};
use super::session_slots::{Holder, SessionId};
use super::shared_slots::SharedSlots;
use super::token::TokenRecord;
use crate::balance::Pool;
use crate::ws::handshake::OpeningError;

/// The rules of one snapshot over the counters of the process.
#[derive(Debug)]
pub struct Policy {
    routes: Routes,
    /// By route name, only for routes whose sessions share counts of messages or bytes.
    shared: HashMap<Arc<str>, Arc<RouteCounts>>,
    upgrades: Option<KeyedLimiter<AddressKey>>,
    max_sessions: NonZeroU32,
    counters: Arc<Counters>,
}

impl Policy {
    /// Creates the rules. `upgrades` is the quota of requests of one client address.
    pub fn new(routes: Routes, upgrades: Option<Quota>, max_sessions: NonZeroU32, counters: Arc<Counters>) -> Self {
        let shared = |route: &Route| {
            route.config.limits.shared_key()?;
            Some((Arc::clone(route.name()), counters.route(route.name())))
        };
        Self {
            shared: routes.iter().filter_map(|route| shared(route)).collect(),
            routes,
            upgrades: upgrades.map(|quota| KeyedLimiter::over(Arc::clone(counters.upgrades()), quota)),
            max_sessions,
            counters,
        }
    }

    /// Returns the maximum number of sessions.
    pub fn max_sessions(&self) -> NonZeroU32 {
        self.max_sessions
    }

    /// Returns the routes.
    pub fn routes(&self) -> &Routes {
        &self.routes
    }

    /// Charges an address for a request. This precedes the parsing of the request, so that the quota limits the cost of
    /// parsing, too.
    ///
    /// # Errors
    /// If the address has used up its quota.
    pub fn charge(&self, address: IpAddr, now: Instant) -> Result<(), Rejection> {
        let Some(upgrades) = &self.upgrades else { return Ok(()) };
        upgrades.check(&AddressKey::from(address), now).map_err(|exceeded| {
            let wait = exceeded.until.saturating_duration_since(now);
            Rejection::UpgradeRate { retry_after_secs: wait.as_secs().saturating_add(1) }
        })
    }

    /// Whether [`Policy::charge`] would reject an address only because this node of a cluster awaits a greater share of its
    /// quota. The caller may try again for a fraction of a second.
    pub fn awaits_share(&self, address: IpAddr, now: Instant) -> bool {
        self.upgrades.as_ref().is_some_and(|upgrades| upgrades.awaits_share(&AddressKey::from(address), now))
    }

    /// Makes the cheap decisions on a request whose address was charged, the cheapest first: host, path, route,
    /// address, origin, and whether the limits of sessions are reached already.
    ///
    /// # Errors
    /// The first rule that the request does not meet.
    pub fn begin<'a>(&'a self, facts: &'a RequestFacts<'a>) -> Result<Candidate<'a>, Rejected> {
        let host = request_host(facts.authority).ok_or(Rejection::Host)?;
        let path = Path::parse(facts.path).map_err(Rejection::Path)?;
        let (route, params) = self.routes.find(&host, &path).ok_or(Rejection::NoRoute)?;
        let candidate = Candidate { policy: self, facts, route: Arc::clone(route), params, host };
        candidate.check().map_err(|rejection| candidate.reject(rejection))?;
        Ok(candidate)
    }

    /// Returns the counts of messages and bytes that a session shares with others.
    pub(super) fn shared_counts(&self, route: &Route, client: &LimitedClient<'_>, now: Instant) -> SharedCounts {
        let counts = self.shared.get(route.name());
        counts.map_or_else(SharedCounts::default, |counts| counts.shared(&route.config.limits, client, now))
    }

    /// Returns the counters of the process.
    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Runs all stages, for a request whose evidence is in its head.
    ///
    /// # Errors
    /// The first rule that the request does not meet.
    pub fn admit(&self, facts: &RequestFacts<'_>, now: Clocks) -> Result<Admission, Rejected> {
        let candidate = self.begin(facts)?;
        let evidence = candidate.evidence()?;
        candidate.authenticate(&evidence, now)?.reserve(SharedSlots::default(), now)
    }
}

/// A request that passed the cheap decisions.
#[derive(Debug)]
pub struct Candidate<'a> {
    policy: &'a Policy,
    facts: &'a RequestFacts<'a>,
    route: Arc<Route>,
    params: Params,
    host: String,
}

impl<'a> Candidate<'a> {
    /// Returns the route of the request.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the facts of the request.
    pub fn facts(&self) -> &'a RequestFacts<'a> {
        self.facts
    }

    fn check(&self) -> Result<(), Rejection> {
        let (config, counters) = (&self.route.config, &self.policy.counters);
        if matches!(self.facts.kind, RequestKind::Http(_)) && !config.http {
            return Err(Rejection::Opening(OpeningError::NotUpgrade));
        }
        if !config.addresses.allow(self.facts.address) {
            return Err(Rejection::Address);
        }
        if self.facts.kind.is_unsafe() && !config.origins.allow(self.facts.origin) {
            return Err(Rejection::Origin);
        }
        if counters.is_short_of_memory() {
            return Err(Rejection::Memory);
        }
        if let RequestKind::Http(_) = self.facts.kind {
            // It takes no slot.
            return Ok(());
        }
        // `reserve` decides. This earlier check saves the verification of the token in most cases.
        if counters.is_full(self.policy.max_sessions) {
            return Err(Rejection::Full);
        }
        if client_slots::is_address_full(counters, &config.limits, &config.name, self.facts.address) {
            return Err(Rejection::AddressSessions);
        }
        Ok(())
    }

    /// Whether the request is a preflight request that needs no credential. The browser sends the request itself only if
    /// the upstream permits it, and that one needs a credential.
    fn is_preflight_passed(&self) -> bool {
        let config = &self.route.config;
        config.bypass_cors_preflight && self.facts.is_preflight() && config.origins.allow(self.facts.origin)
    }

    /// Finds the evidence in the head of the request: the credential that the first section of the route recognises.
    /// That section alone decides, so an invalid token never reaches a section with weaker rules. A token that no
    /// section recognises goes to the first section that reads it, for its reason.
    ///
    /// # Errors
    /// If the route requires a token and the request has none, or has several that differ in one source.
    pub fn evidence(&self) -> Result<Evidence<'a>, Rejected> {
        let (methods, facts) = (self.route.auth.methods(), self.facts);
        if methods.is_empty() || self.is_preflight_passed() {
            return Ok(Evidence::None);
        }
        let mut first = None;
        for method in methods {
            let verifier = match &method.kind {
                AuthKind::Token(verifier) => verifier,
                // Such a section is the last one.
                AuthKind::Forward(forward) => {
                    return Ok(first.unwrap_or_else(|| Evidence::Ask(Arc::clone(method), Arc::clone(forward))));
                }
            };
            let found = credential::find(&verifier.config().sources, facts.headers, facts.query, facts.protocols);
            let token = found.map_err(|credential::Ambiguous| self.reject_by(method, Rejection::TokenAmbiguous))?;
            let Some(token) = token else { continue };
            let is_recognized = methods.len() == 1 || verifier.recognizes(&token);
            let evidence = Evidence::Token(Arc::clone(method), Arc::clone(verifier), token);
            if is_recognized {
                return Ok(evidence);
            }
            first.get_or_insert(evidence);
        }
        first.ok_or_else(|| self.reject(Rejection::NoToken))
    }

    /// Verifies the identity of the client, and checks the conditions of the route on its claims.
    ///
    /// # Errors
    /// If the evidence is not valid, or the claims do not meet the route's conditions.
    pub fn authenticate(self, evidence: &Evidence<'_>, now: Clocks) -> Result<Authenticated<'a>, Rejected> {
        let (mut subject, mut token, mut answered, mut forwarded) = (None, None, None, None);
        let (method, claims) = match evidence {
            Evidence::None if self.route.auth.is_open() || self.is_preflight_passed() => (None, None),
            Evidence::None => return Err(self.reject(Rejection::NoToken)),
            Evidence::Token(method, verifier, text) => {
                verifier.check_keys(now.instant).map_err(|error| self.reject_by(method, error.into()))?;
                let invalid = |error| self.reject_by(method, Rejection::Token(error));
                let claims = verifier.verify(text, now.unix).map_err(invalid)?;
                subject = claims.subject().map(Arc::from);
                token = TokenRecord::new(text, &claims);
                if verifier.config().forward_token {
                    let RequestFacts { headers, query, protocols, .. } = *self.facts;
                    forwarded = credential::source_of(&verifier.config().sources, headers, query, protocols, text);
                }
                (Some(Arc::clone(method)), Some(claims))
            }
            Evidence::Ask(..) => return Err(self.reject(Rejection::AuthUnavailable)),
            Evidence::Answer(method, forward, answer) => {
                subject = answer.answer.subject().cloned();
                answered = Some(answer.clone());
                (Some(Arc::clone(method)), Some(forward.claims(&answer.answer)))
            }
        };
        let auth = method.as_ref().map(|method| Arc::clone(&method.name));
        let client = grant::identity(auth.as_deref(), subject.as_deref(), token.as_ref());
        if client.is_some_and(|client| self.policy.counters.revocations().is_revoked(&client, now.unix)) {
            return Err(Rejected { auth, subject, ..self.reject(Rejection::Revoked) });
        }
        let mut claim_headers = match &claims {
            Some(claims) => claim_headers(&self.route, &self.params, claims).map_err(|claim| Rejected {
                claim: Some(claim.into()),
                auth,
                subject: subject.clone(),
                ..self.reject(Rejection::Claims)
            })?,
            None => Vec::new(),
        };
        claim_headers.extend(answered.iter().flat_map(|answered| answered.answer.headers().iter().cloned()));
        let stripped = self.route.auth.stripped(forwarded);
        Ok(Authenticated { candidate: self, method, claims, token, answered, subject, claim_headers, stripped })
    }

    /// Returns the rejection of this request by a section, for a reason that the caller may have found between the
    /// stages.
    pub fn reject_by(&self, method: &AuthMethod, rejection: Rejection) -> Rejected {
        Rejected { auth: Some(Arc::clone(&method.name)), ..self.reject(rejection) }
    }

    fn reject(&self, rejection: Rejection) -> Rejected {
        Rejected { route: Some(Arc::clone(self.route.name())), ..Rejected::from(rejection) }
    }
}

/// A request of a client that the route admits.
#[derive(Debug)]
pub struct Authenticated<'a> {
    candidate: Candidate<'a>,
    method: Option<Arc<AuthMethod>>,
    claims: Option<Claims>,
    token: Option<TokenRecord>,
    answered: Option<Answered>,
    subject: Option<Arc<str>>,
    claim_headers: Vec<(HeaderName, HeaderValue)>,
    stripped: Arc<[TokenSource]>,
}

/// The parts of an admission that do not depend on its kind.
pub(super) struct Granted {
    pub(super) route: Arc<Route>,
    pub(super) grant: Grant,
    pub(super) claim_headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) stripped: Arc<[TokenSource]>,
}

impl Authenticated<'_> {
    /// Returns the request, its subject, and the counters of the process.
    pub(super) fn parts(&self) -> (&Candidate<'_>, Option<&str>, &Counters) {
        (&self.candidate, self.subject.as_deref(), self.candidate.policy.counters())
    }

    /// Returns the name of the section that authenticated the client.
    pub(super) fn auth(&self) -> Option<Arc<str>> {
        self.method.as_ref().map(|method| Arc::clone(&method.name))
    }

    pub(super) fn reject(&self, rejection: Rejection) -> Rejected {
        Rejected { auth: self.auth(), subject: self.subject.clone(), ..self.candidate.reject(rejection) }
    }

    pub(super) fn grant(self) -> Granted {
        let auth = self.auth();
        let Self { candidate, token, answered, subject, claim_headers, stripped, .. } = self;
        let Candidate { facts, route, params, host, .. } = candidate;
        let (token, host, address) = (SessionToken::new(token), host.into(), facts.address);
        let grant = Grant { auth, subject, token, answered, params, host, origin: short_origin(facts.origin), address };
        Granted { route, grant, claim_headers, stripped }
    }

    /// Takes the slot of the session, and those of its address and of its subject if these reject further sessions.
    ///
    /// # Errors
    /// If one of these limits is reached. No slot is taken then.
    pub fn reserve(self, shared: SharedSlots, now: Clocks) -> Result<Admission, Rejected> {
        let Candidate { policy, facts, route, .. } = &self.candidate;
        let (limits, counters, name) = (&route.config.limits, &policy.counters, route.name());
        let auth = self.auth();
        let reject = |rejection| self.reject(rejection);
        let pool = Arc::clone(&route.pool);
        let session_slot = counters.take_session(policy.max_sessions).ok_or_else(|| reject(Rejection::Full))?;
        let client = LimitedClient {
            route: name,
            address: facts.address,
            auth: auth.as_deref(),
            subject: self.subject.as_deref(),
        };
        let holder = Holder { id: facts.id, opened: now.instant };
        let taken = client_slots::take_at_admission(counters, limits, client, holder, shared).map_err(reject)?;
        let counts = policy.shared_counts(route, &client, now.instant);
        let count = counts.messages.unwrap_or_default();
        let messages = limits.messages.map(|messages| Arc::new(Limiter::over(count, messages.quota)));
        let expires =
            self.method.as_ref().zip(self.claims.as_ref()).and_then(|(method, claims)| method.expiry(claims, now));
        let (id, Granted { route, grant, claim_headers, stripped }) = (facts.id, self.grant());
        Ok(Admission {
            id,
            route,
            grant: Arc::new(grant),
            lease: Lease::new(session_slot, taken.slots),
            pool,
            claim_headers,
            stripped,
            expires,
            messages,
            bytes: counts.bytes,
            exceeded: taken.exceeded,
        })
    }
}

/// The permission to open a connection to a server of one pool, and to relay.
#[derive(Debug)]
pub struct Admission {
    id: SessionId,
    route: Arc<Route>,
    grant: Arc<Grant>,
    lease: Lease,
    pool: Arc<Pool>,
    claim_headers: Vec<(HeaderName, HeaderValue)>,
    stripped: Arc<[TokenSource]>,
    expires: Option<Expiry>,
    messages: Option<Arc<Limiter>>,
    bytes: Option<[Arc<Count>; 2]>,
    exceeded: Vec<LimitKind>,
}

impl Admission {
    /// Takes the slots of a session whose upstream has accepted it, and those of the oldest sessions of its address or
    /// subject. Returns the ids of these, to be closed. To be called once, before the 101, with what was answered.
    pub fn open_session(&mut self, counters: &Counters, shared: SharedSlots, now: Instant) -> Vec<SessionId> {
        let client = self.grant.limited_client(self.route.name());
        let holder = Holder { id: self.id, opened: now };
        let taken = client_slots::take_at_opening(counters, &self.route.config.limits, client, holder, shared);
        self.lease.add_client(taken.slots);
        self.exceeded.extend(taken.exceeded);
        taken.replaced
    }

    /// Returns the numbers of sessions that are exceeded, where limits are only reported.
    pub fn exceeded(&self) -> &[LimitKind] {
        &self.exceeded
    }

    /// Returns the counts of bytes that the session shares with others.
    pub fn bytes(&self) -> Option<&[Arc<Count>; 2]> {
        self.bytes.as_ref()
    }

    /// Returns the route of the request.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// Returns the facts that the request was admitted with.
    pub fn grant(&self) -> &Arc<Grant> {
        &self.grant
    }

    /// Returns the pool that the request was admitted for.
    pub fn pool(&self) -> &Arc<Pool> {
        &self.pool
    }

    /// Returns the token's subject.
    pub fn subject(&self) -> Option<&str> {
        self.grant.subject.as_deref()
    }

    /// Returns the headers that carry the claims that the route forwards.
    pub fn claim_headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.claim_headers
    }

    /// Returns the sources of tokens that are removed before the request goes to the upstream.
    pub fn stripped(&self) -> &[TokenSource] {
        &self.stripped
    }

    /// Returns when the session ends because the token expires.
    pub fn expires(&self) -> Option<Expiry> {
        self.expires
    }

    /// Returns the limiter of the client's messages, if the route has a quota for them.
    pub fn messages(&self) -> Option<&Arc<Limiter>> {
        self.messages.as_ref()
    }

    /// Returns the part that the session keeps.
    pub fn into_lease(self) -> Lease {
        self.lease
    }
}
