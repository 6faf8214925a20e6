//! Decides on one request: the only maker of an [`Admission`], without which nothing reaches an upstream.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use http::{HeaderMap, HeaderName, HeaderValue};

use super::address::AddressKey;
use super::claims::{self, Claims};
use super::counts::{Counts, Grouped, KeyedLimiter};
use super::credential;
use super::host::request_host;
use super::limits::RateKey;
use super::path::Path;
use super::pattern::Params;
use super::quota::{Limiter, Quota};
use super::rejection::{Rejected, Rejection};
use super::route::{Auth, Route, Routes};
use super::slots::{Slot, Slots};
use crate::ws::handshake::Opening;

/// One reading of both clocks: the one for spans, and the one that tokens go by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Clocks {
    /// Monotonic time.
    pub instant: Instant,
    /// Time since the Unix epoch.
    pub unix: Duration,
}

/// What is known of a request when it asks for a session.
#[derive(Debug)]
pub struct RequestFacts<'a> {
    /// Its opening handshake.
    pub opening: &'a Opening<'a>,
    /// Its headers.
    pub headers: &'a HeaderMap,
    /// The address it comes from.
    pub address: IpAddr,
}

/// The leave to open an upstream and to relay.
#[derive(Debug)]
pub struct Admission {
    lease: Lease,
    claim_headers: Vec<(HeaderName, HeaderValue)>,
    expires: Option<Instant>,
    messages: Option<Arc<Limiter>>,
}

/// What a session has of its admission for as long as it lasts. It holds what it counts against: dropping it gives that
/// back.
#[derive(Debug)]
pub struct Lease {
    route: Arc<Route>,
    subject: Option<Arc<str>>,
    _session: Slot<()>,
    client: Option<ClientSlots>,
}

/// What a session counts against of the limits of its client.
type ClientSlots = (Option<Slot<RouteAddress>>, Option<Slot<RouteSubject>>);

impl Lease {
    /// The route that it is for.
    pub fn route(&self) -> &Arc<Route> {
        &self.route
    }

    /// The token's subject.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Gives back what counts against the limits of its address and of its subject, since the client is gone or its session
    /// is over. The session itself still counts until this is dropped: it has its descriptors until then.
    pub fn release_client(&mut self) {
        self.client = None;
    }
}

impl Admission {
    /// The route that it is for.
    pub fn route(&self) -> &Arc<Route> {
        &self.lease.route
    }

    /// The token's subject.
    pub fn subject(&self) -> Option<&str> {
        self.lease.subject()
    }

    /// The headers that tell the upstream what the route forwards of the claims.
    pub fn claim_headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.claim_headers
    }

    /// When the token runs out.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// The quota that the client's messages count against, if the route has one.
    pub fn messages(&self) -> Option<&Arc<Limiter>> {
        self.messages.as_ref()
    }

    /// What is left of it once the session begins.
    pub fn into_lease(self) -> Lease {
        self.lease
    }
}

/// Everything that a decision depends on beside the request and the time.
#[derive(Debug)]
pub struct Policy {
    routes: Routes,
    /// By route name; only routes that count messages by a key that sessions share.
    messages: HashMap<Arc<str>, Counts<MessageKey>>,
    upgrades: Option<KeyedLimiter<AddressKey>>,
    max_sessions: NonZeroU32,
    sessions: Slots<()>,
    by_address: Slots<RouteAddress>,
    by_subject: Slots<RouteSubject>,
    draining: AtomicBool,
}

/// A client address at a route, by the route's name.
type RouteAddress = (Arc<str>, AddressKey);
/// A token's subject at a route, by the route's name.
type RouteSubject = (Arc<str>, Arc<str>);

/// Whose messages are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum MessageKey {
    /// The SHA-256 of the subject: a subject may have kilobytes, and there may be many.
    Subject([u8; SHA256_OUTPUT_LEN]),
    Address(AddressKey),
}

impl MessageKey {
    fn of_subject(subject: &str) -> Self {
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(digest(&SHA256, subject.as_bytes()).as_ref());
        Self::Subject(hash)
    }
}

impl Grouped for AddressKey {
    /// The /48 of an IPv6 address: one customer may have 65,536 of the /64s that are counted.
    fn group(&self) -> Option<u64> {
        self.ipv6_48()
    }
}

impl Grouped for MessageKey {
    fn group(&self) -> Option<u64> {
        match self {
            Self::Subject(_) => None,
            Self::Address(address) => address.group(),
        }
    }
}

impl Policy {
    /// Nobody is in yet. `upgrades` is the quota of requests of one client address.
    pub fn new(routes: Routes, upgrades: Option<Quota>, max_sessions: NonZeroU32) -> Self {
        let shared = |route: &Route| {
            route.limits.messages.filter(|messages| messages.key != RateKey::Session)?;
            Some((Arc::clone(&route.name), Counts::new()))
        };
        Self {
            messages: routes.iter().filter_map(|route| shared(route)).collect(),
            routes,
            upgrades: upgrades.map(|quota| KeyedLimiter::over(Arc::default(), quota)),
            max_sessions,
            sessions: Slots::new(),
            by_address: Slots::new(),
            by_subject: Slots::new(),
            draining: AtomicBool::new(false),
        }
    }

    /// From now on everybody is refused.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Charges an address for a request, whatever the request is. It comes before the request is parsed, so that the quota
    /// bounds what parsing costs, too.
    ///
    /// # Errors
    /// If the process drains, or the address has used up its quota.
    pub fn charge(&self, address: IpAddr, now: Instant) -> Result<(), Rejection> {
        if self.draining.load(Ordering::Relaxed) {
            return Err(Rejection::Draining);
        }
        self.count_upgrade(address, now)
    }

    /// Decides on a request whose address was charged, the cheapest refusal first.
    ///
    /// # Errors
    /// The first rule that the request does not meet.
    pub fn admit(&self, facts: &RequestFacts<'_>, now: Clocks) -> Result<Admission, Rejected> {
        let opening = facts.opening;
        let host = request_host(opening.authority).ok_or(Rejection::Host)?;
        let path = Path::parse(opening.path).map_err(Rejection::Path)?;
        let (route, params) = self.routes.find(&host, &path).ok_or(Rejection::NoRoute)?;
        let reject = |rejection| Rejected { route: Some(Arc::clone(&route.name)), ..Rejected::from(rejection) };
        if !route.addresses.allow(facts.address) {
            return Err(reject(Rejection::Address));
        }
        if !route.origins.allow(opening.origin) {
            return Err(reject(Rejection::Origin));
        }
        let session_slot = self.sessions.take((), self.max_sessions).ok_or_else(|| reject(Rejection::Full))?;
        let address_slot = self.take_address_slot(route, facts.address).map_err(reject)?;
        let claims = authenticate(route, facts, now.unix).map_err(reject)?;
        let subject: Option<Arc<str>> = claims.as_ref().and_then(Claims::subject).map(Arc::from);
        let reject = |rejection| Rejected { subject: subject.clone(), ..reject(rejection) };
        let claim_headers = match &claims {
            Some(claims) => claim_headers(route, &params, claims)
                .map_err(|claim| Rejected { claim: Some(claim.into()), ..reject(Rejection::Claims) })?,
            None => Vec::new(),
        };
        let subject_slot = self.take_subject_slot(route, subject.clone()).map_err(reject)?;
        let messages = self.message_bucket(route, subject.as_deref(), facts.address, now.instant);
        let expires = claims.as_ref().and_then(|claims| deadline(claims, route, now));
        let lease = Lease {
            route: Arc::clone(route),
            subject,
            _session: session_slot,
            client: Some((address_slot, subject_slot)),
        };
        Ok(Admission { lease, claim_headers, expires, messages })
    }

    fn count_upgrade(&self, address: IpAddr, now: Instant) -> Result<(), Rejection> {
        let Some(upgrades) = &self.upgrades else { return Ok(()) };
        upgrades.check(&AddressKey::from(address), now).map_err(|exceeded| {
            let wait = exceeded.until.saturating_duration_since(now);
            Rejection::UpgradeRate { retry_after_secs: wait.as_secs().saturating_add(1) }
        })
    }

    fn take_address_slot(&self, route: &Route, address: IpAddr) -> Result<Option<Slot<RouteAddress>>, Rejection> {
        let Some(max) = route.limits.sessions_per_address else { return Ok(None) };
        let key = (Arc::clone(&route.name), AddressKey::from(address));
        self.by_address.take(key, max).map(Some).ok_or(Rejection::AddressSessions)
    }

    fn take_subject_slot(
        &self,
        route: &Route,
        subject: Option<Arc<str>>,
    ) -> Result<Option<Slot<RouteSubject>>, Rejection> {
        let Some(max) = route.limits.sessions_per_subject else { return Ok(None) };
        // A token without a subject cannot be told from another one, so all of them count as one.
        let key = (Arc::clone(&route.name), subject.unwrap_or_default());
        self.by_subject.take(key, max).map(Some).ok_or(Rejection::SubjectSessions)
    }

    fn message_bucket(
        &self,
        route: &Route,
        subject: Option<&str>,
        address: IpAddr,
        now: Instant,
    ) -> Option<Arc<Limiter>> {
        let messages = route.limits.messages?;
        let key = match (messages.key, subject) {
            (RateKey::Session, _) => return Some(Arc::new(Limiter::new(messages.quota))),
            (RateKey::Subject, Some(subject)) => MessageKey::of_subject(subject),
            (RateKey::Subject, None) | (RateKey::Address, _) => MessageKey::Address(address.into()),
        };
        let counts = self.messages.get(&route.name)?;
        Some(Arc::new(Limiter::over(counts.get(&key, now), messages.quota)))
    }
}

fn authenticate(route: &Route, facts: &RequestFacts<'_>, unix_now: Duration) -> Result<Option<Claims>, Rejection> {
    let Auth::Token(verifier) = &route.auth else { return Ok(None) };
    let opening = facts.opening;
    let token = credential::find(&verifier.sources, facts.headers, opening.query, &opening.protocols)
        .map_err(|credential::Ambiguous| Rejection::TokenAmbiguous)?
        .ok_or(Rejection::NoToken)?;
    verifier.verify(&token, unix_now).map(Some).map_err(Rejection::Token)
}

/// Holds the claims against what the route requires, and gives the headers for the upstream. The error is the name of the
/// claim that is not as it must be.
fn claim_headers<'a>(
    route: &'a Route,
    params: &Params,
    claims: &Claims,
) -> Result<Vec<(HeaderName, HeaderValue)>, &'a str> {
    if let Some(unmet) = route.require.iter().find(|requirement| !requirement.met_by(claims, params)) {
        return Err(unmet.claim());
    }
    claims::forward(claims, &route.forward_claims).map_err(|_| {
        let fails = |rule: &&(String, HeaderName)| claims::forward(claims, std::slice::from_ref(*rule)).is_err();
        route.forward_claims.iter().find(fails).map_or("", |(claim, _)| claim)
    })
}

/// When the token's time is over, with the leeway that let it in. A time beyond what the clock can hold never comes.
fn deadline(claims: &Claims, route: &Route, now: Clocks) -> Option<Instant> {
    let Auth::Token(verifier) = &route.auth else { return None };
    let left = claims.expires().saturating_add(verifier.leeway).saturating_sub(now.unix);
    now.instant.checked_add(left)
}
