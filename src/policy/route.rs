//! Which route a request belongs to: host and path patterns, the most specific first.

pub(super) mod host;

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use super::address::Addresses;
use super::claims::Requirement;
use super::limits::Limits;
use super::origin::Origins;
use super::path::{self, Path, PathError};
use super::token::Verifier;
pub use host::{HostError, HostPattern, HostPatternError, request_host};

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

    /// The most specific route for a host, as [`request_host`] gives it, and a path.
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
    Open,
    /// The bearer of a token that this verifier accepts.
    Token(Arc<Verifier>),
}

/// Whether both patterns match exactly the same requests, so that the later of the two can never match.
#[must_use]
pub fn shadowed(a: (&HostPattern, &PathPattern), b: (&HostPattern, &PathPattern)) -> bool {
    a.0 == b.0 && a.1.same_shape(b.1)
}

/// A path with placeholders: `/ws/{room}`, `/files/{*rest}`.
///
/// `{name}` matches exactly one segment that is not empty. `{*name}`, which can only stand last, matches the segments
/// that are left, even none: `/files/{*rest}` matches `/files`, `/files/` and `/files/a/b`, with `""`, `""` and `a/b`
/// for `rest`. Every other segment is a literal, which is decoded as a request's path is, and compared by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathPattern {
    pieces: Vec<Piece>,
}

/// What one segment of a path must be.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Literal(Box<str>),
    One(Arc<str>),
    Rest(Arc<str>),
}

impl PathPattern {
    /// The names of the placeholders, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pieces.iter().filter_map(Piece::name)
    }

    /// Whether both patterns match exactly the same paths, whatever their placeholders are called.
    #[must_use]
    pub fn same_shape(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }

    /// What a path gives to the placeholders; `None` if the path does not match.
    #[must_use]
    pub fn matches(&self, path: &Path) -> Option<Params> {
        let mut segments = path.segments();
        let mut values = Vec::new();
        for piece in &self.pieces {
            if let Piece::Rest(name) = piece {
                values.push((Arc::clone(name), segments.join("/")));
                return Some(Params::new(values));
            }
            let (segment, left) = segments.split_first()?;
            segments = left;
            match piece {
                Piece::One(name) if !segment.is_empty() => values.push((Arc::clone(name), segment.clone())),
                Piece::Literal(literal) if **literal == **segment => {}
                _ => return None,
            }
        }
        segments.is_empty().then(|| Params::new(values))
    }

    /// By what each segment matches, not by the names. A pattern that ends stands before one that goes on, which
    /// [`Routes`] relies on.
    fn order(&self, other: &Self) -> Ordering {
        fn key(piece: &Piece) -> (u8, &str) {
            match piece {
                Piece::Literal(literal) => (0, literal),
                Piece::One(_) => (1, ""),
                Piece::Rest(_) => (2, ""),
            }
        }
        self.pieces.iter().map(key).cmp(other.pieces.iter().map(key))
    }
}

impl FromStr for PathPattern {
    type Err = PathPatternError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pieces: Vec<Piece> = Vec::new();
        for segment in path::split(text).map_err(PathPatternError::Path)? {
            if let Some(Piece::Rest(name)) = pieces.last() {
                return Err(PathPatternError::RestNotLast(Arc::clone(name)));
            }
            let piece: Piece = segment.parse()?;
            match piece.name() {
                Some(name) if pieces.iter().any(|earlier| earlier.name() == Some(name)) => {
                    return Err(PathPatternError::NameTwice(name.into()));
                }
                _ => pieces.push(piece),
            }
        }
        Ok(Self { pieces })
    }
}

impl Piece {
    fn name(&self) -> Option<&str> {
        match self {
            Self::Literal(_) => None,
            Self::One(name) | Self::Rest(name) => Some(name),
        }
    }
}

impl FromStr for Piece {
    type Err = PathPatternError;

    fn from_str(segment: &str) -> Result<Self, Self::Err> {
        // Elsewhere these match anything. Taken as they stand they would make a route that nobody ever reaches.
        if matches!(segment, "*" | "**") {
            return Err(PathPatternError::Star);
        }
        if !segment.contains(['{', '}']) {
            return Ok(Self::Literal(path::decode(segment).map_err(PathPatternError::Path)?.into()));
        }
        let inner = segment.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
        let inner = inner.filter(|inner| !inner.contains(['{', '}'])).ok_or(PathPatternError::PartOfSegment)?;
        let name = inner.strip_prefix('*').unwrap_or(inner);
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !name.bytes().all(word) || !name.starts_with(|first: char| !first.is_ascii_digit()) {
            return Err(PathPatternError::Name(name.into()));
        }
        Ok(if name == inner { Self::One(name.into()) } else { Self::Rest(name.into()) })
    }
}

/// Why a path pattern cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathPatternError {
    /// No request could have such a path.
    Path(PathError),
    /// A segment is `*` or `**`.
    Star,
    /// A placeholder is not a whole segment, or its braces do not pair.
    PartOfSegment,
    /// A placeholder's name is not a letter or `_` followed by letters, digits and `_`.
    Name(Arc<str>),
    /// Two placeholders have this name.
    NameTwice(Arc<str>),
    /// A segment follows the placeholder of this name, which takes all that is left.
    RestNotLast(Arc<str>),
}

impl fmt::Display for PathPatternError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(error) => error.fmt(f),
            Self::Star => f.write_str("write `{name}` to match one segment, or `{*name}` at the end to match the rest"),
            Self::PartOfSegment => f.write_str("a placeholder is a whole segment, as in `/ws/{room}`"),
            Self::Name(name) => {
                write!(f, "`{name}` is not a name for a placeholder: use letters, digits and `_`, and no digit first")
            }
            Self::NameTwice(name) => write!(f, "two placeholders have the name `{name}`"),
            Self::RestNotLast(name) => write!(f, "`{{*{name}}}` takes the rest of the path, so nothing follows it"),
        }
    }
}

impl std::error::Error for PathPatternError {}

/// The values that a path gave to the placeholders of its route's pattern.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Params {
    values: Vec<(Arc<str>, String)>,
}

impl Params {
    /// Each placeholder's name, once, and its decoded value.
    #[must_use]
    pub fn new(values: Vec<(Arc<str>, String)>) -> Self {
        Self { values }
    }

    /// The value of one placeholder: decoded text that a client chose. That of `{name}` is never empty and holds no `/`;
    /// that of `{*name}` may be empty, and a `/` in it stood between two segments.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().find(|(known, _value)| **known == *name).map(|(_name, value)| value.as_str())
    }
}

#[cfg(test)]
mod tests;
