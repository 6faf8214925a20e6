//! Finds the route of a request by host and path patterns, the most specific first.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::address::Addresses;
use super::claim_path::ClaimPath;
use super::claims::{Claims, canonical_header_name};
use super::clocks::Clocks;
use super::credential::TokenSource;
use super::expiry::Expiry;
use super::forward::ForwardAuth;
use super::host::HostPattern;
use super::limits::Limits;
use super::origin::Origins;
use super::path::Path;
use super::pattern::{Params, PathPattern};
use super::requirement::Requirement;
use super::rewrite::Rewrite;
use super::token::Verifier;
use crate::balance::Pool;
use crate::ws::code::CloseCode;

/// All routes, ordered so that the first that matches is the most specific.
///
/// Hosts outweigh paths: an exact host precedes every wildcard, a wildcard of a longer domain precedes that of a
/// shorter one, and routes for any host come last. Among equal hosts the paths are compared segment by segment: a
/// literal precedes `{name}`, which precedes `{*rest}`. A pattern that ends precedes one that continues there, since
/// only `{*rest}` can match the same path: `/files` precedes `/files/{*rest}`.
///
/// The most specific host pattern that matches a request's host decides: only routes with that pattern are searched,
/// whatever their paths. With `host_fall_through`, a request that matches none of them continues to the routes with
/// wider patterns.
#[derive(Debug)]
pub struct Routes {
    ordered: Vec<Arc<Route>>,
    by_name: HashMap<Arc<str>, Arc<Route>>,
    host_fall_through: bool,
    have_refresh_paths: bool,
    have_http: bool,
}

impl Routes {
    /// Orders the routes from the most to the least specific, independently of their order in the file.
    #[must_use]
    pub fn new(mut routes: Vec<Arc<Route>>, host_fall_through: bool) -> Self {
        // The name decides between routes that match the same requests, so that even these have one order.
        routes.sort_by(|a, b| {
            let (a, b) = (&a.config, &b.config);
            a.host.order(&b.host).then_with(|| a.path.order(&b.path)).then_with(|| a.name.cmp(&b.name))
        });
        let by_name = routes.iter().map(|route| (Arc::clone(route.name()), Arc::clone(route))).collect();
        let have_refresh_paths = routes.iter().any(|route| route.config.refresh_path.is_some());
        let have_http = routes.iter().any(|route| route.config.http);
        Self { ordered: routes, by_name, host_fall_through, have_refresh_paths, have_http }
    }

    /// Returns the most specific route for a path and a host, as [`request_host`](super::host::request_host) returns
    /// it, with the values of the path's placeholders.
    #[must_use]
    pub fn find(&self, host: &str, path: &Path) -> Option<(&Arc<Route>, Params)> {
        self.asked(host).find_map(|route| Some((route, route.config.path.matches(path)?)))
    }

    /// Whether a route serves ordinary requests.
    pub fn have_http(&self) -> bool {
        self.have_http
    }

    /// Whether a route has a refresh path.
    pub fn have_refresh_paths(&self) -> bool {
        self.have_refresh_paths
    }

    /// Returns the route of which this is the refresh path, for a host as in [`Routes::find`]. A refresh path precedes
    /// the paths of the routes of its host, and of wider hosts.
    pub fn find_refreshed(&self, host: &str, path: &Path) -> Option<&Arc<Route>> {
        let mut served: Option<&HostPattern> = None;
        for route in self.asked(host) {
            let config = &route.config;
            if served.is_some_and(|host| *host != config.host) {
                return None;
            }
            if config.refresh_path.as_ref().is_some_and(|own| own.matches(path).is_some()) {
                return Some(route);
            }
            if config.path.matches(path).is_some() {
                served = Some(&config.host);
            }
        }
        None
    }

    /// Returns the routes that are asked for a host, in order.
    fn asked(&self, host: &str) -> impl Iterator<Item = &Arc<Route>> {
        let mut serving = self.ordered.iter().filter(move |route| route.config.host.matches(host)).peekable();
        let most_specific = serving.peek().map(|route| &route.config.host);
        // Routes with the same host pattern are adjacent.
        serving.take_while(move |route| self.host_fall_through || Some(&route.config.host) == most_specific)
    }

    /// Returns the route of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<Route>> {
        self.by_name.get(name)
    }

    /// Returns all routes, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.ordered.iter()
    }
}

/// The configuration of a route: plain data that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Its name in logs and labels.
    pub name: Arc<str>,
    /// The hosts that it serves.
    pub host: HostPattern,
    /// The paths that it serves.
    pub path: PathPattern,
    /// The name of the `[upstream]` section that its requests go to.
    pub upstream: Arc<str>,
    /// The `Host` that the upstream receives; `None`: the host that the client sent.
    pub upstream_host: Option<HeaderValue>,
    /// The names of its `[auth]` sections, in order; empty: the route is open to every client (`auth = "none"`).
    pub auth: Vec<Arc<str>>,
    /// The origins that may use it.
    pub origins: Origins,
    /// The client addresses that may use it.
    pub addresses: Addresses,
    /// The conditions on the claims.
    pub require: Vec<Requirement>,
    /// The claims that the upstream receives, each with its header.
    pub forward_claims: Vec<(ClaimPath, HeaderName)>,
    /// The client headers that the upstream receives although they are removed by default.
    pub pass_headers: Vec<HeaderName>,
    /// The changes to the request that the upstream receives.
    pub rewrite: Rewrite,
    /// Whether it serves ordinary HTTP requests, too.
    pub http: bool,
    /// How long browsers use only TLS for its host; `None`: as they please.
    pub hsts: Option<Duration>,
    /// Whether preflight requests of its origins need no credential.
    pub bypass_cors_preflight: bool,
    /// Whether its responses name Tollgate in `Server`.
    pub server_header: bool,
    /// The path at which a fresh token renews its open sessions. It has no placeholders.
    pub refresh_path: Option<PathPattern>,
    /// How its sessions end when a reload removes it or its upstream.
    pub on_removed: OnRemoved,
    /// The limits of its sessions.
    pub limits: Arc<Limits>,
}

/// How the sessions of a route end when a reload removes it or its upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRemoved {
    /// Paced over the drain timeout.
    Drain,
    /// At once.
    Close,
}

/// A route of a snapshot: its configuration, and the objects that the configuration names.
#[derive(Debug)]
pub struct Route {
    /// Its configuration.
    pub config: RouteConfig,
    /// The authentication of its clients.
    pub auth: Auth,
    /// The servers of its requests.
    pub pool: Arc<Pool>,
}

/// The authentication of a route's clients: by one of several `[auth]` sections, or none.
#[derive(Debug, Default)]
pub struct Auth {
    methods: Vec<Arc<AuthMethod>>,
    /// The sources of the tokens of all sections.
    sources: Arc<[TokenSource]>,
    /// The canonical names of the headers that sections write.
    written: Vec<String>,
}

/// An `[auth]` section of a route.
#[derive(Debug)]
pub struct AuthMethod {
    /// The name of the section.
    pub name: Arc<str>,
    /// The rules by which it authenticates clients.
    pub kind: AuthKind,
}

/// The kind of an `[auth]` section.
#[derive(Debug)]
pub enum AuthKind {
    /// A token that this verifier accepts (`kind = "jwt"`).
    Token(Arc<Verifier>),
    /// The answer of a service (`kind = "forward"`). It recognises every request.
    Forward(Arc<ForwardAuth>),
}

impl AuthMethod {
    /// Returns when the session of a token ends because the token has expired, counted from the Unix epoch, and the
    /// code of its Close. `None` if its session outlives it.
    pub fn session_end(&self, claims: &Claims) -> Option<(Duration, CloseCode)> {
        let AuthKind::Token(verifier) = &self.kind else { return None };
        verifier.session_end(claims)
    }

    /// Returns when the session of a token ends because the token expires: now, if that time has passed. `None` if its
    /// session outlives it, and for a time that no `Instant` can represent.
    pub(super) fn expiry(&self, claims: &Claims, now: Clocks) -> Option<Expiry> {
        let (end, code) = self.session_end(claims)?;
        let at = now.instant.checked_add(end.saturating_sub(now.unix))?;
        Some(Expiry { at, code })
    }
}

impl Auth {
    /// Creates the authentication by these sections, in the order in which they are asked for whether they recognise a
    /// credential. Without a section, every client is admitted (`auth = "none"`).
    pub fn new(methods: Vec<Arc<AuthMethod>>) -> Self {
        let (mut sources, mut written) = (Vec::new(), Vec::new());
        for method in &methods {
            match &method.kind {
                AuthKind::Token(verifier) => {
                    for source in &verifier.config().sources {
                        if !sources.contains(source) {
                            sources.push(source.clone());
                        }
                    }
                }
                AuthKind::Forward(forward) => {
                    written.extend(forward.config().response_headers.iter().map(canonical_header_name));
                }
            }
        }
        Self { methods, sources: sources.into(), written }
    }

    /// Whether the route is open to every client.
    pub fn is_open(&self) -> bool {
        self.methods.is_empty()
    }

    /// Returns the sections, in order.
    pub fn methods(&self) -> &[Arc<AuthMethod>] {
        &self.methods
    }

    /// Returns the section of this name.
    pub fn named(&self, name: &str) -> Option<&Arc<AuthMethod>> {
        self.methods.iter().find(|method| *method.name == *name)
    }

    /// Returns the sources of tokens that are removed before a request goes to the upstream: those of all sections,
    /// whichever admitted the client, except the one whose token the upstream receives.
    pub(super) fn stripped(&self, forwarded: Option<&TokenSource>) -> Arc<[TokenSource]> {
        match forwarded {
            None => Arc::clone(&self.sources),
            Some(forwarded) => self.sources.iter().filter(|source| *source != forwarded).cloned().collect(),
        }
    }

    /// Returns the canonical names of the headers that only a section may write: those of a client are removed,
    /// whichever section admitted it.
    pub fn written(&self) -> &[String] {
        &self.written
    }

    /// Whether both have the same sections.
    pub fn is_same(&self, other: &Self) -> bool {
        let same = |(a, b): (&Arc<AuthMethod>, &Arc<AuthMethod>)| Arc::ptr_eq(a, b);
        self.methods.len() == other.methods.len() && self.methods.iter().zip(&other.methods).all(same)
    }
}

impl Route {
    /// Returns its name in logs and labels.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }
}

/// Whether both patterns match exactly the same requests, so that the later of the two can never match.
#[must_use]
pub fn shadowed(a: (&HostPattern, &PathPattern), b: (&HostPattern, &PathPattern)) -> bool {
    a.0 == b.0 && a.1.same_shape(b.1)
}

/// Whether a path that Tollgate answers itself takes requests from a route with `http = true` on the same host, which
/// names that path. A `{*rest}` does not: it stands for whatever nothing else answers.
#[must_use]
pub fn hides(internal: (&HostPattern, &PathPattern), route: (&HostPattern, &PathPattern)) -> bool {
    internal.0 == route.0 && route.1.names_path(internal.1)
}

#[cfg(test)]
mod tests;
