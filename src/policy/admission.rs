//! Admission of one request, in stages: the only constructor of an [`Admission`], without which no request reaches an
//! upstream.
//!
//! [`Policy::begin`] makes the cheap decisions, [`Candidate::authenticate`] verifies the identity of the client, and
//! [`Authenticated::reserve`] takes the slots. Each stage is synchronous; the caller may do asynchronous work between
//! them.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderName, HeaderValue};

use super::address::AddressKey;
use super::claims::{self, Claims};
use super::client_slots::{self, ClientSlots};
use super::counters::{Counters, LimitedClient, RouteCounts, SharedCounts};
use super::counts::KeyedLimiter;
use super::credential;
use super::host::request_host;
use super::limits::{LimitKind, MessageQuota};
use super::path::Path;
use super::pattern::Params;
use super::quota::{Count, Limiter, Quota};
use super::rejection::{Rejected, Rejection};
use super::request::{RequestFacts, RequestKind};
use super::route::{Auth, Route, Routes, Target};
use super::session_slots::{Holder, SessionId};
use super::slots::Slot;
use super::token::TokenRecord;
use crate::balance::Pool;
use crate::ws::handshake::OpeningError;

/// The longest `Origin` that a session keeps. An origin that a list can match is shorter: its host has at most 253
/// bytes.
const ORIGIN_MAX_BYTES: usize = 512;

/// One reading of both clocks: the monotonic one for deadlines, and the wall clock for tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Monotonic time.
    pub instant: Instant,
    /// Time since the Unix epoch.
    pub unix: Duration,
}

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
        candidate.authenticate(&evidence, now)?.reserve(now)
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

/// The evidence of a client's identity.
pub enum Evidence<'a> {
    /// Nothing: the route requires no authentication.
    None,
    /// A token.
    Token(Cow<'a, str>),
}

/// The kind only: a token is a secret.
impl fmt::Debug for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Token(_) => "Token",
        })
    }
}

impl<'a> Candidate<'a> {
    /// Returns the route of the request.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    fn check(&self) -> Result<(), Rejection> {
        let (config, counters) = (&self.route.config, &self.policy.counters);
        match (self.facts.kind, &self.route.target) {
            (RequestKind::WebSocket, Target::Pool(_)) | (RequestKind::Http, Target::Page(_)) => {}
            (RequestKind::Http, Target::Pool(_)) => return Err(Rejection::Opening(OpeningError::NotUpgrade)),
            (RequestKind::WebSocket, Target::Page(_)) => return Err(Rejection::NoRoute),
        }
        if !config.addresses.allow(self.facts.address) {
            return Err(Rejection::Address);
        }
        if !config.origins.allow(self.facts.origin) {
            return Err(Rejection::Origin);
        }
        if counters.is_short_of_memory() {
            return Err(Rejection::Memory);
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

    /// Finds the evidence in the head of the request.
    ///
    /// # Errors
    /// If the route requires a token and the request has none, or has several that differ.
    pub fn evidence(&self) -> Result<Evidence<'a>, Rejected> {
        let Auth::Token(verifier) = &self.route.auth else { return Ok(Evidence::None) };
        let facts = self.facts;
        let found = credential::find(&verifier.config().sources, facts.headers, facts.query, facts.protocols);
        let token = found.map_err(|credential::Ambiguous| self.reject(Rejection::TokenAmbiguous))?;
        token.map(Evidence::Token).ok_or_else(|| self.reject(Rejection::NoToken))
    }

    /// Verifies the identity of the client, and checks the conditions of the route on its claims.
    ///
    /// # Errors
    /// If the evidence is not valid, or the claims do not meet the route's conditions.
    pub fn authenticate(self, evidence: &Evidence<'_>, now: Clocks) -> Result<Authenticated<'a>, Rejected> {
        let claims = match (&self.route.auth, evidence) {
            (Auth::None, _) => None,
            (Auth::Token(_), Evidence::None) => return Err(self.reject(Rejection::NoToken)),
            (Auth::Token(verifier), Evidence::Token(token)) => {
                let claims = verifier.verify(token, now.unix);
                Some(claims.map_err(|error| self.reject(Rejection::Token(error)))?)
            }
        };
        let token = match (evidence, &claims) {
            (Evidence::Token(token), Some(claims)) => TokenRecord::new(token, claims),
            _ => None,
        };
        let subject: Option<Arc<str>> = claims.as_ref().and_then(Claims::subject).map(Arc::from);
        let claim_headers = match &claims {
            Some(claims) => claim_headers(&self.route, &self.params, claims).map_err(|claim| Rejected {
                claim: Some(claim.into()),
                subject: subject.clone(),
                ..self.reject(Rejection::Claims)
            })?,
            None => Vec::new(),
        };
        Ok(Authenticated { candidate: self, claims, token, subject, claim_headers })
    }

    fn reject(&self, rejection: Rejection) -> Rejected {
        Rejected { route: Some(Arc::clone(self.route.name())), ..Rejected::from(rejection) }
    }
}

/// A request of a client that the route admits.
#[derive(Debug)]
pub struct Authenticated<'a> {
    candidate: Candidate<'a>,
    claims: Option<Claims>,
    token: Option<TokenRecord>,
    subject: Option<Arc<str>>,
    claim_headers: Vec<(HeaderName, HeaderValue)>,
}

impl Authenticated<'_> {
    /// Takes the slot of the session, and those of its address and of its subject if these reject further sessions.
    ///
    /// # Errors
    /// If one of these limits is reached, or the route does not lead to an upstream. No slot is taken then.
    pub fn reserve(self, now: Clocks) -> Result<Admission, Rejected> {
        let Candidate { policy, facts, route, .. } = &self.candidate;
        let (limits, counters, name) = (&route.config.limits, &policy.counters, route.name());
        let reject = |rejection| Rejected { subject: self.subject.clone(), ..self.candidate.reject(rejection) };
        let Target::Pool(pool) = &route.target else { return Err(reject(Rejection::NoRoute)) };
        let pool = Arc::clone(pool);
        let session_slot = counters.take_session(policy.max_sessions).ok_or_else(|| reject(Rejection::Full))?;
        let client = LimitedClient {
            route: name,
            address: facts.address,
            auth: route.config.auth.as_deref().unwrap_or_default(),
            subject: self.subject.as_deref(),
        };
        let holder = Holder { id: facts.id, opened: now.instant };
        let taken = client_slots::take_at_admission(counters, limits, client, holder).map_err(reject)?;
        let counts = policy.shared_counts(route, &client, now.instant);
        let limiter = |messages: MessageQuota| {
            let shared = counts.messages.clone();
            Arc::new(shared.map_or_else(|| Limiter::new(messages.quota), |count| Limiter::over(count, messages.quota)))
        };
        let messages = limits.messages.map(limiter);
        let expires = self.claims.as_ref().and_then(|claims| deadline(claims, route, now));
        let Self { candidate: Candidate { facts, route, params, host, .. }, token, subject, claim_headers, .. } = self;
        let grant = Grant {
            subject,
            token,
            params,
            host: host.into(),
            origin: facts.origin.map(|origin| origin.get(..ORIGIN_MAX_BYTES).unwrap_or(origin).into()),
            address: facts.address,
        };
        let lease = Lease { _session: session_slot, client: Some(taken.slots) };
        let (bytes, exceeded) = (counts.bytes, taken.exceeded);
        let id = facts.id;
        Ok(Admission { id, route, grant: Arc::new(grant), lease, pool, claim_headers, expires, messages, bytes, exceeded })
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
    expires: Option<Instant>,
    messages: Option<Arc<Limiter>>,
    bytes: Option<[Arc<Count>; 2]>,
    exceeded: Vec<LimitKind>,
}

impl Admission {
    /// Takes the slots of a session whose upstream has accepted it, where it takes over those of the oldest sessions of
    /// its address or subject. Returns the ids of these, which have to be closed. To be called once, before the 101.
    pub fn open_session(&mut self, counters: &Counters, now: Instant) -> Vec<SessionId> {
        let client = LimitedClient {
            route: self.route.name(),
            address: self.grant.address,
            auth: self.route.config.auth.as_deref().unwrap_or_default(),
            subject: self.grant.subject.as_deref(),
        };
        let holder = Holder { id: self.id, opened: now };
        let taken = client_slots::take_at_opening(counters, &self.route.config.limits, client, holder);
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

    /// Returns when the token expires.
    pub fn expires(&self) -> Option<Instant> {
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

/// The part of an admission that a session keeps until it ends. Dropping it releases the slots.
#[derive(Debug)]
pub struct Lease {
    _session: Slot<()>,
    client: Option<ClientSlots>,
}

/// The facts that a session was admitted with. A later snapshot can check them again.
#[derive(Debug)]
pub struct Grant {
    /// The token's subject.
    pub subject: Option<Arc<str>>,
    /// The token, if the route required one.
    pub token: Option<TokenRecord>,
    /// The values of the path's placeholders.
    pub params: Params,
    /// The host of the request, in the form that routes compare.
    pub host: Box<str>,
    /// The value of `Origin`, cut to a length that no origin in a list has.
    pub origin: Option<Box<[u8]>>,
    /// The client's address.
    pub address: IpAddr,
}

impl Lease {
    /// Releases the slots of the address and of the subject, because the client has disconnected or its session is
    /// over. The slot of the session itself is released when the lease is dropped, since the session has its
    /// descriptors until then.
    pub fn release_client(&mut self) {
        self.client = None;
    }

    /// Adds slots to those of the client, unless they were released.
    pub fn add_client(&mut self, added: ClientSlots) {
        if let Some(client) = &mut self.client {
            client.add(added);
        }
    }

    /// Whether it holds slots of its client, which another session may take over.
    pub fn is_limited(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.is_empty())
    }

    /// Whether another session has taken over a slot of this one.
    pub fn is_replaced(&self) -> bool {
        self.client.as_ref().is_some_and(|client| !client.are_held())
    }
}

/// Checks the claims against the conditions of the route, and returns the headers for the upstream. The error is the
/// name of the claim that fails.
fn claim_headers<'a>(
    route: &'a Route,
    params: &Params,
    claims: &Claims,
) -> Result<Vec<(HeaderName, HeaderValue)>, &'a str> {
    if let Some(unmet) = route.config.require.iter().find(|requirement| !requirement.met_by(claims, params)) {
        return Err(unmet.claim());
    }
    claims::forward(claims, &route.config.forward_claims).map_err(|_| {
        let fails = |rule: &&(String, HeaderName)| claims::forward(claims, std::slice::from_ref(*rule)).is_err();
        route.config.forward_claims.iter().find(fails).map_or("", |(claim, _)| claim)
    })
}

/// Returns when the token expires, including the leeway of its verification. `None` for a time that no `Instant` can
/// represent.
pub(super) fn deadline(claims: &Claims, route: &Route, now: Clocks) -> Option<Instant> {
    let Auth::Token(verifier) = &route.auth else { return None };
    let left = claims.expires().saturating_add(verifier.leeway()).saturating_sub(now.unix);
    now.instant.checked_add(left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_contains_no_token() {
        assert_eq!(format!("{:?} {:?}", Evidence::Token("secret".into()), Evidence::None), "Token None");
    }
}
