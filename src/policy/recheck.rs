//! Checks an open session against the rules of a later snapshot, with the facts that it was admitted with.

use std::sync::Arc;

use super::admission::{Clocks, Policy};
use super::claims::Claims;
use super::client_slots::{self, ClientSlots};
use super::counters::SharedCounts;
use super::expiry::Expiry;
use super::forward::ForwardAnswer;
use super::grant::Grant;
use super::limits::Limits;
use super::path::Path;
use super::pattern::Params;
use super::rejection::Rejection;
use super::requirement::Requirement;
use super::route::{AuthKind, AuthMethod, OnRemoved, Route};
use super::session_slots::Holder;

/// An open session, as its worker knows it.
#[derive(Debug, Clone, Copy)]
pub struct OpenSession<'a> {
    /// The route by whose rules the session is open.
    pub route: &'a Arc<Route>,
    /// The facts that it was admitted with.
    pub grant: &'a Grant,
    /// The path of its request; `None` if it is not known whole.
    pub path: Option<&'a str>,
    /// The name of its server.
    pub server: &'a str,
    /// Its id, and when it was opened.
    pub holder: Holder,
}

/// The result of a check.
#[derive(Debug)]
pub enum Recheck {
    /// The route is the same object: nothing changes.
    Unchanged,
    /// The session is admitted.
    Admitted(Terms),
    /// The session is admitted, but by these terms its token has expired, so it ends when it receives them.
    Expired(Terms),
    /// The session is not admitted any more, for this reason.
    Rejected(Rejection),
    /// The session is admitted, and its server is not in the pool of its upstream any more. It has these terms until the
    /// drain of the server ends it.
    Unserved(Terms),
    /// The session has no route any more.
    Removed(Removed, OnRemoved),
}

/// The terms of a session that is admitted by another route object.
#[derive(Debug)]
pub struct Terms {
    /// The route.
    pub route: Arc<Route>,
    /// The changes for the session; `None` if it can continue as it is.
    pub changes: Option<TermChanges>,
}

/// The changes of the terms of an open session.
#[derive(Debug)]
pub struct TermChanges {
    /// The limits.
    pub limits: Arc<Limits>,
    /// The counts of messages and bytes that the session shares with others.
    pub shared: SharedCounts,
    /// When the session ends because its token expires.
    pub expires: Option<Expiry>,
    /// The slots of limits that did not apply before.
    pub slots: ClientSlots,
}

impl Terms {
    fn has_expired(&self, now: Clocks) -> bool {
        let expires = self.changes.as_ref().and_then(|changes| changes.expires);
        expires.is_some_and(|expires| expires.at <= now.instant)
    }
}

impl TermChanges {
    /// Takes over the slots of earlier changes that the session has not received, where these have none.
    pub fn keep_slots(&mut self, earlier: &mut Self) {
        let mut slots = std::mem::take(&mut earlier.slots);
        slots.add(std::mem::take(&mut self.slots));
        self.slots = slots;
    }
}

/// The part of the configuration that a session has lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// No route has its route's name.
    Route,
    /// Its route has another host.
    Host,
    /// Its route has another path, or its path is not known whole.
    Path,
    /// Its route leads to another upstream.
    Upstream,
}

impl Removed {
    /// Returns its name in logs and reports.
    pub fn label(self) -> &'static str {
        match self {
            Self::Route => "route_removed",
            Self::Host => "host_changed",
            Self::Path => "path_changed",
            Self::Upstream => "upstream_changed",
        }
    }
}

impl Policy {
    /// Checks an open session. The route is found by its name: a session is not moved to a more specific route that
    /// would match its request today. Slots and quotas are not checked, so a lowered limit ends no session.
    pub fn recheck(&self, session: &OpenSession<'_>, now: Clocks) -> Recheck {
        let before = session.route;
        let Some(route) = self.routes().named(before.name()) else {
            return Recheck::Removed(Removed::Route, before.config.on_removed);
        };
        if Arc::ptr_eq(route, before) {
            return Recheck::Unchanged;
        }
        let (params, is_served) = match remains(route, session) {
            Ok(remains) => remains,
            Err(removed) => return Recheck::Removed(removed, route.config.on_removed),
        };
        let admitted = admits(route, session.grant, params.as_ref().unwrap_or(&session.grant.params), now);
        match admitted {
            Ok(verified) => {
                let terms = self.terms(route, session, verified.as_ref(), now);
                match (terms.has_expired(now), is_served) {
                    (true, _) => Recheck::Expired(terms),
                    (false, true) => Recheck::Admitted(terms),
                    (false, false) => Recheck::Unserved(terms),
                }
            }
            Err(rejection) => Recheck::Rejected(rejection),
        }
    }

    fn terms(
        &self,
        route: &Arc<Route>,
        session: &OpenSession<'_>,
        verified: Option<&(&Arc<AuthMethod>, Claims)>,
        now: Clocks,
    ) -> Terms {
        let (before, grant) = (session.route, session.grant);
        let method_before = grant.auth.as_deref().and_then(|name| before.auth.named(name));
        let expires_as_before = match (method_before, verified) {
            (None, None) => true,
            (Some(before), Some((after, claims))) => before.session_end(claims) == after.session_end(claims),
            _ => false,
        };
        let (limits_before, limits) = (&before.config.limits, &route.config.limits);
        if expires_as_before && limits_before == limits {
            return Terms { route: Arc::clone(route), changes: None };
        }
        let client = grant.limited_client(route.name());
        let slots = client_slots::add_new_limits(self.counters(), (limits_before, limits), client, session.holder);
        let changes = TermChanges {
            limits: Arc::clone(limits),
            shared: self.shared_counts(route, &client, now.instant),
            expires: verified.and_then(|(method, claims)| method.expiry(claims, now)),
            slots,
        };
        Terms { route: Arc::clone(route), changes: Some(changes) }
    }
}

/// Returns the values of the placeholders of the route in the path of the session; `None` if the path is not known
/// whole and the route has the same pattern as before, so that the values did not change.
pub(super) fn params(route: &Route, session: &OpenSession<'_>) -> Result<Option<Params>, Removed> {
    let pattern = &route.config.path;
    let path = session.path.and_then(|path| Path::parse(path).ok());
    match path.and_then(|path| pattern.matches(&path)) {
        None if *pattern != session.route.config.path => Err(Removed::Path),
        params => Ok(params),
    }
}

/// Whether the route still serves the request of the session on the same upstream. Returns the values of placeholders, as
/// [`params`] does, and whether the upstream has the server of the session.
fn remains(route: &Route, session: &OpenSession<'_>) -> Result<(Option<Params>, bool), Removed> {
    let (config, before) = (&route.config, &session.route.config);
    if config.host != before.host && !config.host.matches(&session.grant.host) {
        return Err(Removed::Host);
    }
    let params = params(route, session)?;
    if config.upstream != before.upstream {
        return Err(Removed::Upstream);
    }
    Ok((params, route.pool.servers().any(|server| **server.name() == *session.server)))
}

/// Whether a later answer of the forward authentication service still admits a session: its subject is the same, and it
/// meets the conditions of the route by whose rules the session is open.
pub fn admits_answer(session: &OpenSession<'_>, answer: &ForwardAnswer) -> bool {
    let (route, grant) = (session.route, session.grant);
    let Some(method) = grant.auth.as_deref().and_then(|name| route.auth.named(name)) else { return false };
    let AuthKind::Forward(forward) = &method.kind else { return false };
    let Ok(params) = params(route, session) else { return false };
    let (claims, params) = (forward.claims(answer), params.as_ref().unwrap_or(&grant.params));
    let meets = |requirement: &Requirement| requirement.met_by(&claims, params);
    answer.subject() == grant.subject.as_ref() && route.config.require.iter().all(meets)
}

/// Whether the token of an open session was verified by a fetched key that has left its set since.
pub fn has_lost_key(route: &Route, grant: &Grant) -> bool {
    let method = grant.auth.as_deref().and_then(|name| route.auth.named(name));
    let (Some(method), Some(token)) = (method, grant.token.get()) else { return false };
    let AuthKind::Token(verifier) = &method.kind else { return false };
    verifier.live_keys().is_some() && verifier.lost_key_of(&token)
}

/// Whether the route admits the client, as `begin` and `authenticate` decide it. Returns its section and the claims of
/// its token. Another section is another identity, so the route must still have the section that admitted the client.
pub(super) fn admits<'a>(
    route: &'a Route,
    grant: &Grant,
    params: &Params,
    now: Clocks,
) -> Result<Option<(&'a Arc<AuthMethod>, Claims)>, Rejection> {
    let config = &route.config;
    if !config.addresses.allow(grant.address) {
        return Err(Rejection::Address);
    }
    if !config.origins.allow(grant.origin.as_deref()) {
        return Err(Rejection::Origin);
    }
    if route.auth.is_open() {
        return Ok(None);
    }
    let method = grant.auth.as_deref().and_then(|name| route.auth.named(name)).ok_or(Rejection::NoToken)?;
    let claims = match &method.kind {
        AuthKind::Token(verifier) => {
            let token = grant.token.get().ok_or(Rejection::NoToken)?;
            verifier.recheck(&token, now.unix).map_err(Rejection::Token)?
        }
        // The service is not asked: `recheck_interval` does that.
        AuthKind::Forward(forward) => {
            let answered = grant.answered.as_ref().ok_or(Rejection::NoToken)?;
            forward.claims(&answered.answer)
        }
    };
    if config.require.iter().all(|requirement| requirement.met_by(&claims, params)) {
        Ok(Some((method, claims)))
    } else {
        Err(Rejection::Claims)
    }
}
