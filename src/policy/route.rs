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
    pub fn new(routes: Vec<Route>, host_fall_through: bool) -> Self {
        let mut routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        // The name decides between routes that match the same requests, so that even these have one order.
        routes.sort_by(|a, b| {
            a.host.order(&b.host).then_with(|| a.path.order(&b.path)).then_with(|| a.name.cmp(&b.name))
        });
        Self { routes, host_fall_through }
    }

    /// The most specific route for a host, as [`request_host`](super::host::request_host) gives it, and a path.
    #[must_use]
    pub fn find(&self, host: &str, path: &Path) -> Option<(&Arc<Route>, Params)> {
        let mut serving = self.routes.iter().filter(|route| route.host.matches(host)).peekable();
        let most_specific = &serving.peek()?.host;
        // Routes of one pattern stand together.
        let mut asked = serving.take_while(|route| self.host_fall_through || route.host == *most_specific);
        asked.find_map(|route| Some((route, route.path.matches(path)?)))
    }

    /// Every route, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}

/// One route: what it matches, whom it admits and on what terms.
#[derive(Debug)]
pub struct Route {
    /// Its name in logs and labels.
    pub name: Arc<str>,
    /// The hosts that it serves.
    pub host: HostPattern,
    /// The paths that it serves.
    pub path: PathPattern,
    /// Where its sessions go.
    pub upstream: UpstreamId,
    /// What the upstream sees as `Host`; absent: what the client sent.
    pub upstream_host: Option<HeaderValue>,
    /// Who may use it.
    pub auth: Auth,
    /// Which origins may use it.
    pub origins: Origins,
    /// Which client addresses may use it.
    pub addresses: Addresses,
    /// What the claims must say.
    pub require: Vec<Requirement>,
    /// Which claims the upstream gets, each in which header.
    pub forward_claims: Vec<(String, HeaderName)>,
    /// Which headers of a client the upstream sees although they are removed otherwise.
    pub pass_headers: Vec<HeaderName>,
    /// The bounds of its sessions.
    pub limits: Arc<Limits>,
}

/// The place of an upstream in the configuration's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Who may use a route.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everybody: the operator wrote `auth = "none"`.
    None,
    /// The bearer of a token that this verifier accepts.
    Token(Arc<Verifier>),
}

/// Whether both patterns match exactly the same requests, so that the later of the two can never match.
#[must_use]
pub fn shadowed(a: (&HostPattern, &PathPattern), b: (&HostPattern, &PathPattern)) -> bool {
    a.0 == b.0 && a.1.same_shape(b.1)
}

#[cfg(test)]
mod tests;
