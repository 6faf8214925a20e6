//! Which route a request belongs to: host and path patterns, the most specific first.

use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::address::Addresses;
use super::claims::Requirement;
use super::limits::Limits;
use super::origin::Origins;
use super::path::Path;
use super::token::Verifier;

/// Which hosts a route serves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// Every host.
    Any,
    /// This host, in lower case, without port.
    Exact(Box<str>),
    /// Every subdomain of this domain (`*.example.com`), at any depth, but not the domain itself.
    Subdomains(Box<str>),
}

/// Why a host pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostPatternError {}
impl std::fmt::Display for HostPatternError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl FromStr for HostPattern {
    type Err = HostPatternError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

/// A path with placeholders: `/ws/{room}`, `/files/{*rest}`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {}

/// Why a path pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPatternError {}
impl std::fmt::Display for PathPatternError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        todo!()
    }
}

impl PathPattern {
    /// The names of the placeholders, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        std::iter::empty()
    }
    /// Whether both patterns match exactly the same paths, whatever their placeholders are called.
    pub fn same_shape(&self, _other: &Self) -> bool {
        todo!()
    }
}

/// The values that a path gave to the placeholders of its route's pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    values: Vec<(Arc<str>, String)>,
}

impl Params {
    /// The placeholders' names, each with its value.
    pub fn new(values: Vec<(Arc<str>, String)>) -> Self {
        Self { values }
    }
    /// The value of one placeholder.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(key, _)| **key == *name).map(|(_, value)| value.as_str())
    }
}

/// The place of an upstream in the configuration's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct UpstreamId(pub usize);

/// Who may use a route.
#[derive(Debug, Clone)]
pub enum Auth {
    /// Everybody: the operator wrote `auth = "none"`.
    Open,
    /// The bearer of a token that this verifier accepts.
    Token(Arc<Verifier>),
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
    /// The bounds of its sessions.
    pub limits: Arc<Limits>,
}

/// All routes, ordered so that the first that matches is the most specific.
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
}

impl Routes {
    /// Orders the routes by how specific they are, whatever their order in the file.
    pub fn new(_routes: Vec<Route>) -> Self {
        todo!()
    }
    /// The most specific route for a host (lower case, without port) and a path.
    pub fn find(&self, _host: &str, _path: &Path) -> Option<(&Arc<Route>, Params)> {
        todo!()
    }
    /// Every route, the most specific first.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.iter()
    }
}
