//! Tests of `route`: tables of requests and the routes that they match.

use std::num::NonZeroU32;
use std::time::Duration;

use super::super::limits::{LimitMode, Limits, OnSessionLimit, OnSlowClient};
use super::super::origin::MissingOrigin;
use super::super::quota::{Quota, Rate};
use super::super::rewrite::Rewrite;
use super::*;
use crate::balance::Balance;
use crate::balance::tests::pool;

fn route(name: &str, host: &str, path: &str) -> Arc<Route> {
    let rate = Rate { count: NonZeroU32::MIN, period: Duration::from_secs(1) };
    let config = RouteConfig {
        name: name.into(),
        host: if host.is_empty() { HostPattern::Any } else { host.parse().unwrap() },
        path: path.parse().unwrap(),
        upstream: "chat".into(),
        upstream_host: None,
        auth: Vec::new(),
        origins: Origins::new(None, MissingOrigin::Allow),
        addresses: Addresses::default(),
        require: Vec::new(),
        forward_claims: Vec::new(),
        pass_headers: Vec::new(),
        rewrite: Rewrite::default(),
        refresh_path: None,
        http: false,
        hsts: None,
        bypass_cors_preflight: false,
        server_header: false,
        on_removed: OnRemoved::Drain,
        limits: Arc::new(Limits {
            mode: LimitMode::Enforce,
            bytes: None,
            messages: None,
            overhead: Quota { rate, burst: NonZeroU32::MIN },
            message_max_bytes: 1,
            frame_max_bytes: 1,
            upstream_message_max_bytes: None,
            sessions_per_subject: None,
            sessions_per_address: None,
            on_session_limit: OnSessionLimit::Refuse,
            idle_timeout: None,
            ping_interval: None,
            upstream_ping_interval: None,
            pong_timeout: Duration::from_secs(1),
            close_timeout: Duration::from_secs(1),
            write_timeout: Duration::from_secs(1),
            on_slow_client: OnSlowClient::Block,
            check_utf8: false,
            max_session_age: None,
            requests: None,
            request_max_bytes: Some(1 << 20),
        }),
    };
    Arc::new(Route { config, auth: Auth::default(), pool: Arc::new(pool(Balance::default(), Vec::new())) })
}

/// Returns routes whose names are their host and path.
fn routes(patterns: &[(&str, &str)]) -> Routes {
    routes_that(patterns, false)
}

fn routes_that(patterns: &[(&str, &str)], fall_through: bool) -> Routes {
    let routes = patterns.iter().map(|(host, path)| route(&format!("{host}{path}"), host, path)).collect();
    Routes::new(routes, fall_through)
}

fn find(routes: &Routes, host: &str, path: &str) -> Option<String> {
    routes.find(host, &Path::parse(path).unwrap()).map(|(route, _params)| route.name().to_string())
}

fn names(routes: &Routes) -> Vec<&str> {
    routes.iter().map(|route| &**route.name()).collect()
}

fn pattern(text: &str) -> PathPattern {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
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
fn routes_are_ordered_by_host_first() {
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
fn wider_hosts_are_searched_only_with_fall_through() {
    let patterns = [
        ("", "/health"),
        ("*.com", "/com"),
        ("*.example.com", "/ws"),
        ("*.a.example.com", "/deep"),
        ("a.example.com", "/chat"),
        ("a.example.com", "/chat/{*rest}"),
    ];
    // The host and the path, the route found, and the route found with `host_fall_through`.
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
fn a_lookup_returns_the_placeholder_values() {
    let routes = routes(&[("", "/ws/{room}/{*rest}")]);
    let (_route, params) = routes.find("a.example", &Path::parse("/ws/a%20b/c/d").unwrap()).unwrap();
    assert_eq!((params.get("room"), params.get("rest"), params.get("other")), (Some("a b"), Some("c/d"), None));
}

/// A refresh path precedes the paths of the routes of its host, as the most specific host that matches decides.
#[test]
fn a_refresh_path_is_found_by_host_and_path() {
    let with_refresh = |name: &str, host: &str, path: &str, refresh: &str| {
        let mut route = Arc::into_inner(route(name, host, path)).unwrap();
        route.config.refresh_path = (!refresh.is_empty()).then(|| refresh.parse().unwrap());
        Arc::new(route)
    };
    let routes = |host_fall_through| {
        let routes = vec![
            with_refresh("any", "", "/ws/{room}", "/ws/refresh"),
            with_refresh("one", "a.example", "/{*all}", "/one/refresh"),
            with_refresh("two", "a.example", "/two", "/tw%6F/refresh"),
            with_refresh("three", "b.example", "/ws/{room}", ""),
            with_refresh("four", "c.example", "/other", ""),
        ];
        Routes::new(routes, host_fall_through)
    };
    // The host, the path, and the routes that are found without and with the search of wider hosts.
    let table = [
        ("d.example", "/ws/refresh", Some("any"), Some("any")),
        ("d.example", "/ws/blue", None, None),
        ("a.example", "/one/refresh", Some("one"), Some("one")),
        ("a.example", "/two/refresh", Some("two"), Some("two")),
        ("a.example", "/ws/refresh", None, None),
        ("b.example", "/ws/refresh", None, None),
        ("c.example", "/ws/refresh", None, Some("any")),
    ];
    for (host, path, plain, fall_through) in table {
        let parsed = Path::parse(path).unwrap();
        let name = |routes: &Routes| routes.find_refreshed(host, &parsed).map(|route| route.name().to_string());
        assert_eq!(
            (name(&routes(false)).as_deref(), name(&routes(true)).as_deref()),
            (plain, fall_through),
            "{host}{path}"
        );
    }
    assert!(routes(false).have_refresh_paths() && !Routes::new(vec![route("a", "", "/")], false).have_refresh_paths());
}
