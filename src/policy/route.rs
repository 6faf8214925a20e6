//! Which route a request belongs to: host and path patterns, the most specific first.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::address::Addresses;
use super::claims::Requirement;
use super::host::HostPattern;
use super::limits::Limits;
use super::origin::Origins;
use super::path::Path;
use super::pattern::{Params, PathPattern};
use super::token::Verifier;
use crate::balance::Pool;

/// All routes, ordered so that the first that matches is the most specific.
///
/// Hosts outweigh paths: an exact host stands before every wildcard, a wildcard of a longer domain before that of a
/// shorter one, and routes for any host come last. Among equal hosts the paths are compared segment by segment: a
/// literal stands before `{name}`, and that before `{*rest}`. A pattern that ends stands before one that goes on there,
/// since only `{*rest}` can match the same path: `/files` stands before `/files/{*rest}`.
///
/// The most specific host pattern that matches a request's host decides: only routes of that pattern are asked, whatever
/// their paths. With `host_fall_through` a request that none of them matches goes on to the routes of wider patterns.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
    host_fall_through: bool,
}

impl Routes {
    /// Orders the routes by how specific they are, whatever their order in the file.
    #[must_use]
    pub fn new(mut routes: Vec<Arc<Route>>, host_fall_through: bool) -> Self {
        // The name decides between routes that match the same requests, so that even these have one order.
        routes.sort_by(|a, b| {
            let (a, b) = (&a.config, &b.config);
            a.host.order(&b.host).then_with(|| a.path.order(&b.path)).then_with(|| a.name.cmp(&b.name))
        });
        Self { routes, host_fall_through }
    }

    /// The most specific route for a host, as [`request_host`](super::host::request_host) gives it, and a path.
    #[must_use]
    pub fn find(&self, host: &str, path: &Path) -> Option<(&Arc<Route>, Params)> {
        let mut serving = self.routes.iter().filter(|route| route.config.host.matches(host)).peekable();
        let most_specific = &serving.peek()?.config.host;
        // Routes of one pattern stand together.
        let mut asked = serving.take_while(|route| self.host_fall_through || route.config.host == *most_specific);
        asked.find_map(|route| Some((route, route.config.path.matches(path)?)))
    }

    /// Every route, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

/// The configuration of a route: plain data that two configurations are compared by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RouteConfig {
    /// Its name in logs and labels.
    pub name: Arc<str>,
    /// The hosts that it serves.
    pub host: HostPattern,
    /// The paths that it serves.
    pub path: PathPattern,
    /// What it does with an admitted request.
    pub action: RouteAction,
    /// The `Host` that the upstream receives; absent: the host that the client sent.
    pub upstream_host: Option<HeaderValue>,
    /// The name of the `[auth]` section; absent: the route is open to every client (`auth = "none"`).
    pub auth: Option<Arc<str>>,
    /// The origins that may use it.
    pub origins: Origins,
    /// The client addresses that may use it.
    pub addresses: Addresses,
    /// The conditions on the claims.
    pub require: Vec<Requirement>,
    /// The claims that the upstream receives, each with its header.
    pub forward_claims: Vec<(String, HeaderName)>,
    /// The client headers that the upstream receives although they are removed by default.
    pub pass_headers: Vec<HeaderName>,
    /// The limits of its sessions.
    pub limits: Arc<Limits>,
}

/// What a route does with an admitted request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteAction {
    /// Upgrades are proxied to the upstream of this name.
    Proxy {
        /// The name of the `[upstream]` section.
        upstream: Arc<str>,
    },
    /// `GET` is answered with this HTML page. Only the demo has such a route.
    Page(Arc<str>),
}

/// A route of a snapshot: its configuration with the objects that the configuration names.
#[derive(Debug)]
pub struct Route {
    /// Its configuration.
    pub config: RouteConfig,
    /// How its clients authenticate.
    pub auth: Auth,
    /// Where its requests go.
    pub target: Target,
}

/// How the clients of a route authenticate.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Not at all: the operator wrote `auth = "none"`.
    None,
    /// With a token that this verifier accepts.
    Token(Arc<Verifier>),
}

/// Where the requests of a route go.
#[derive(Debug, Clone)]
pub enum Target {
    /// To a server of this pool.
    Pool(Arc<Pool>),
    /// Nowhere: this page is the response.
    Page(Arc<str>),
}

impl Route {
    /// Its name in logs and labels.
    pub fn name(&self) -> &Arc<str> {
        &self.config.name
    }
}

/// Whether both patterns match exactly the same requests, so that the later of the two can never match.
#[must_use]
pub fn shadowed(a: (&HostPattern, &PathPattern), b: (&HostPattern, &PathPattern)) -> bool {
    a.0 == b.0 && a.1.same_shape(b.1)
}

#[cfg(test)]
mod tests;
