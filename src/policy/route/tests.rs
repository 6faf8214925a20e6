//! Tests of `route`: tables of what it takes and what it refuses.

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
        pass_headers: Vec::new(),
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
    routes_that(patterns, false)
}

fn routes_that(patterns: &[(&str, &str)], fall_through: bool) -> Routes {
    let routes = patterns.iter().map(|(host, path)| route(&format!("{host}{path}"), host, path)).collect();
    Routes::new(routes, fall_through)
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
fn the_most_specific_host_decides_and_falls_through_only_where_that_is_set() {
    let patterns = [
        ("", "/health"),
        ("*.com", "/com"),
        ("*.example.com", "/ws"),
        ("*.a.example.com", "/deep"),
        ("a.example.com", "/chat"),
        ("a.example.com", "/chat/{*rest}"),
    ];
    // Host and path, what is found, and what is found with `host_fall_through`.
    for (host, path, alone, through) in [
        ("a.example.com", "/chat", Some("a.example.com/chat"), Some("a.example.com/chat")),
        ("a.example.com", "/chat/x", Some("a.example.com/chat/{*rest}"), Some("a.example.com/chat/{*rest}")),
        ("a.example.com", "/ws", None, Some("*.example.com/ws")),
        ("a.example.com", "/com", None, Some("*.com/com")),
        ("a.example.com", "/health", None, Some("/health")),
        ("b.a.example.com", "/deep", Some("*.a.example.com/deep"), Some("*.a.example.com/deep")),
        ("b.a.example.com", "/ws", None, Some("*.example.com/ws")),
        ("b.example.com", "/ws", Some("*.example.com/ws"), Some("*.example.com/ws")),
        ("b.example.com", "/chat", None, None),
        ("b.example.com", "/health", None, Some("/health")),
        ("example.com", "/com", Some("*.com/com"), Some("*.com/com")),
        ("example.com", "/health", None, Some("/health")),
        ("example.org", "/health", Some("/health"), Some("/health")),
        ("192.0.2.1", "/health", Some("/health"), Some("/health")),
        ("a.example.com", "/other", None, None),
    ] {
        assert_eq!(find(&routes(&patterns), host, path).as_deref(), alone, "{host}{path}");
        assert_eq!(find(&routes_that(&patterns, true), host, path).as_deref(), through, "{host}{path}");
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
