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
#[derive(Debug)]
pub struct Routes {
    routes: Vec<Arc<Route>>,
}

impl Routes {
    /// Orders the routes by how specific they are, whatever their order in the file.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Self {
        let mut routes: Vec<_> = routes.into_iter().map(Arc::new).collect();
        // The name decides between routes that match the same requests, so that even these have one order.
        routes.sort_by(|a, b| {
            a.host.order(&b.host).then_with(|| a.path.order(&b.path)).then_with(|| a.name.cmp(&b.name))
        });
        Self { routes }
    }

    /// The most specific route for a host, as [`request_host`] gives it, and a path.
    ///
    /// The first route whose host and path both match wins. So a request for an exact host of which no route matches the
    /// path goes on to the routes for wildcards and for any host.
    #[must_use]
    pub fn find(&self, host: &str, path: &Path) -> Option<(&Arc<Route>, Params)> {
        let mut serving = self.routes.iter().filter(|route| route.host.matches(host));
        serving.find_map(|route| Some((route, route.path.matches(path)?)))
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
mod tests {
    use std::num::NonZeroU32;
    use std::time::Duration;

    use super::super::limits::Limits;
    use super::super::origin::MissingOrigin;
    use super::super::quota::{Quota, Rate};
    use super::*;

    fn route(name: &str, host: &str, path: &str) -> Route {
        let rate = Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) };
        Route {
            name: name.into(),
            host: if host.is_empty() { HostPattern::Any } else { host.parse().unwrap() },
            path: path.parse().unwrap(),
            upstream: UpstreamId(0),
            upstream_host: None,
            auth: Auth::Open,
            origins: Origins::new(None, MissingOrigin::Allow),
            addresses: Addresses::default(),
            require: Vec::new(),
            forward_claims: Vec::new(),
            limits: Arc::new(Limits {
                messages: None,
                overhead: Quota { rate, burst: NonZeroU32::MIN },
                message_max_bytes: 1,
                frame_max_bytes: 1,
                upstream_message_max_bytes: None,
                sessions_per_subject: None,
                sessions_per_address: None,
                idle_timeout: None,
                ping_interval: None,
                upstream_ping_interval: None,
                pong_timeout: Duration::from_secs(1),
                close_timeout: Duration::from_secs(1),
                write_timeout: Duration::from_secs(1),
                check_utf8: false,
            }),
        }
    }

    /// Routes that are each named by their host and path.
    fn routes(patterns: &[(&str, &str)]) -> Routes {
        Routes::new(patterns.iter().map(|(host, path)| route(&format!("{host}{path}"), host, path)).collect())
    }

    fn find(routes: &Routes, host: &str, path: &str) -> Option<String> {
        routes.find(host, &Path::parse(path).unwrap()).map(|(route, _params)| route.name.to_string())
    }

    fn names(routes: &Routes) -> Vec<&str> {
        routes.iter().map(|route| &*route.name).collect()
    }

    fn pattern(text: &str) -> PathPattern {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    /// The values that the path gives the placeholders, in order; `None` if it does not match.
    fn values(text: &str, path: &str) -> Option<Vec<String>> {
        let pattern = pattern(text);
        let params = pattern.matches(&Path::parse(path).unwrap())?;
        Some(pattern.names().map(|name| params.get(name).unwrap().to_owned()).collect())
    }

    fn check(text: &str, expected: &[(&str, Option<&[&str]>)]) {
        for (path, expected) in expected {
            let expected = expected.map(|expected| expected.iter().map(ToString::to_string).collect());
            assert_eq!(values(text, path), expected, "{text} {path}");
        }
    }

    #[test]
    fn literal_patterns() {
        check("/", &[("/", Some(&[])), ("/ws", None)]);
        check("/ws", &[("/ws", Some(&[])), ("/%77s", Some(&[])), ("/ws/", None), ("/WS", None), ("/", None)]);
        check("/ws/", &[("/ws/", Some(&[])), ("/ws", None), ("/ws/a", None)]);
    }

    #[test]
    fn literals_are_decoded_like_paths() {
        check("/caf%C3%A9/a%20b", &[("/café/a%20b", Some(&[])), ("/caf%c3%a9/%61%20b", Some(&[]))]);
        check("/%7Broom%7d/%2A", &[("/{room}/*", Some(&[])), ("/a/b", None)]);
    }

    #[test]
    fn a_name_matches_one_segment_that_is_not_empty() {
        check(
            "/ws/{room}",
            &[
                ("/ws/lobby", Some(&["lobby"])),
                ("/ws/caf%C3%A9", Some(&["café"])),
                ("/ws/", None),
                ("/ws", None),
                ("/ws/lobby/", None),
                ("/ws/a/b", None),
            ],
        );
        check("/{a}/x/{b}", &[("/1/x/2", Some(&["1", "2"])), ("/1/y/2", None)]);
        check("/{room}/", &[("/lobby/", Some(&["lobby"])), ("/lobby", None)]);
        check("/{room}", &[("/", None)]);
    }

    #[test]
    fn a_rest_matches_what_is_left_even_nothing() {
        check(
            "/files/{*rest}",
            &[
                ("/files", Some(&[""])),
                ("/files/", Some(&[""])),
                ("/files/a", Some(&["a"])),
                ("/files/a/b%20c/", Some(&["a/b c/"])),
                ("/filesystem", None),
                ("/", None),
            ],
        );
        check("/{*all}", &[("/", Some(&[""])), ("/a/b", Some(&["a/b"]))]);
        check("/{a}/{*b}", &[("/x", Some(&["x", ""])), ("/x/y/z", Some(&["x", "y/z"])), ("/", None)]);
    }

    #[test]
    fn names_in_order() {
        assert_eq!(pattern("/a/{b}/c/{_D9}/{*e}").names().collect::<Vec<_>>(), ["b", "_D9", "e"]);
        assert_eq!(pattern("/a").names().count(), 0);
    }

    #[test]
    fn patterns_that_cannot_be_used() {
        let cases = [
            ("", PathPatternError::Path(PathError::NotAbsolute)),
            ("ws/{room}", PathPatternError::Path(PathError::NotAbsolute)),
            ("/ws/{room}?token=a", PathPatternError::Path(PathError::Delimiter)),
            ("/ws//a", PathPatternError::Path(PathError::EmptySegment)),
            ("/ws/../a", PathPatternError::Path(PathError::DotSegment)),
            ("/ws/%2e%2e", PathPatternError::Path(PathError::DotSegment)),
            ("/a%2Fb", PathPatternError::Path(PathError::EncodedSlash)),
            ("/a%", PathPatternError::Path(PathError::BadEscape)),
            ("/files/*", PathPatternError::Star),
            ("/files/**", PathPatternError::Star),
            ("/ws/room-{id}", PathPatternError::PartOfSegment),
            ("/ws/{a}{b}", PathPatternError::PartOfSegment),
            ("/ws/{a", PathPatternError::PartOfSegment),
            ("/ws/a}", PathPatternError::PartOfSegment),
            ("/ws/{{a}}", PathPatternError::PartOfSegment),
            ("/ws/{a/b}", PathPatternError::PartOfSegment),
            ("/ws/{}", PathPatternError::Name("".into())),
            ("/ws/{*}", PathPatternError::Name("".into())),
            ("/ws/{1a}", PathPatternError::Name("1a".into())),
            ("/ws/{a-b}", PathPatternError::Name("a-b".into())),
            ("/ws/{a*}", PathPatternError::Name("a*".into())),
            ("/ws/{**a}", PathPatternError::Name("*a".into())),
            ("/ws/{é}", PathPatternError::Name("é".into())),
            ("/{a}/{a}", PathPatternError::NameTwice("a".into())),
            ("/{a}/{*a}", PathPatternError::NameTwice("a".into())),
            ("/{*a}/b", PathPatternError::RestNotLast("a".into())),
            ("/{*a}/", PathPatternError::RestNotLast("a".into())),
            ("/{*a}/{*b}", PathPatternError::RestNotLast("a".into())),
        ];
        for (text, error) in cases {
            assert_eq!(text.parse::<PathPattern>(), Err(error), "{text}");
        }
    }

    #[test]
    fn messages_show_the_braces() {
        let error = "/{*all}/ws".parse::<PathPattern>().unwrap_err();
        assert_eq!(error.to_string(), "`{*all}` takes the rest of the path, so nothing follows it");
    }

    #[test]
    fn shape_is_what_matches_not_what_it_is_called() {
        assert!(pattern("/ws/{room}").same_shape(&pattern("/%77s/{id}")));
        assert!(pattern("/{*a}").same_shape(&pattern("/{*b}")));
        for (a, b) in [("/ws", "/ws/"), ("/{a}", "/{*a}"), ("/a", "/a/{*rest}"), ("/a/{b}", "/{b}/a"), ("/a", "/{a}")] {
            assert!(!pattern(a).same_shape(&pattern(b)), "{a} {b}");
        }
    }

    #[test]
    fn a_route_of_the_same_host_and_shape_is_shadowed() {
        let any = HostPattern::Any;
        let wide: HostPattern = "*.example.com".parse().unwrap();
        assert!(shadowed((&any, &pattern("/{a}")), (&any, &pattern("/{b}"))));
        assert!(shadowed((&wide, &pattern("/a")), ("*.EXAMPLE.com".parse().as_ref().unwrap(), &pattern("/a"))));
        assert!(!shadowed((&any, &pattern("/{a}")), (&wide, &pattern("/{a}"))));
        assert!(!shadowed((&any, &pattern("/{a}")), (&any, &pattern("/a"))));
    }

    #[test]
    fn hosts_outweigh_paths() {
        let routes = routes(&[
            ("", "/ws/lobby"),
            ("*.com", "/ws/lobby"),
            ("*.chat.example.com", "/ws/lobby"),
            ("a.chat.example.com", "/{*rest}"),
            ("*.example.com", "/ws/lobby"),
        ]);
        assert_eq!(
            names(&routes),
            [
                "a.chat.example.com/{*rest}",
                "*.chat.example.com/ws/lobby",
                "*.example.com/ws/lobby",
                "*.com/ws/lobby",
                "/ws/lobby"
            ]
        );
        for (host, expected) in [
            ("a.chat.example.com", "a.chat.example.com/{*rest}"),
            ("b.chat.example.com", "*.chat.example.com/ws/lobby"),
            ("chat.example.com", "*.example.com/ws/lobby"),
            ("example.com", "*.com/ws/lobby"),
            ("[::1]", "/ws/lobby"),
        ] {
            assert_eq!(find(&routes, host, "/ws/lobby").as_deref(), Some(expected), "{host}");
        }
    }

    #[test]
    fn a_host_without_a_matching_path_falls_through() {
        let routes = routes(&[("", "/health"), ("*.example.com", "/ws"), ("a.example.com", "/chat")]);
        for (host, path, expected) in [
            ("a.example.com", "/chat", Some("a.example.com/chat")),
            ("a.example.com", "/ws", Some("*.example.com/ws")),
            ("a.example.com", "/health", Some("/health")),
            ("b.example.com", "/chat", None),
            ("a.example.com", "/other", None),
        ] {
            assert_eq!(find(&routes, host, path).as_deref(), expected, "{host}{path}");
        }
    }

    #[test]
    fn paths_are_ordered_segment_by_segment() {
        let routes = routes(&[
            ("", "/{*all}"),
            ("", "/{a}/b"),
            ("", "/a/{*rest}"),
            ("", "/a"),
            ("", "/a/{b}"),
            ("", "/a/{b}/{*rest}"),
            ("", "/a/b"),
            ("", "/a/"),
        ]);
        for (path, expected) in [
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/b", "/a/b"),
            ("/a/c", "/a/{b}"),
            ("/a/c/", "/a/{b}/{*rest}"),
            ("/c/b", "/{a}/b"),
            ("/c", "/{*all}"),
            ("/", "/{*all}"),
        ] {
            assert_eq!(find(&routes, "a.example", path).as_deref(), Some(expected), "{path}");
        }
    }

    #[test]
    fn a_lookup_gives_the_values() {
        let routes = routes(&[("", "/ws/{room}/{*rest}")]);
        let (_route, params) = routes.find("a.example", &Path::parse("/ws/a%20b/c/d").unwrap()).unwrap();
        assert_eq!((params.get("room"), params.get("rest"), params.get("other")), (Some("a b"), Some("c/d"), None));
    }
}
