//! Tests of access: tokens, hosts, origins.

use http::Request;

use super::*;
use crate::config::AdminAddress;

const FULL: &str = "full-token-0123456789";
const READ: &str = "read-token-0123456789";

fn access() -> Access {
    let address: SocketAddr = "127.0.0.1:9640".parse().unwrap();
    Access::new(&AdminConfig {
        address: AdminAddress::Tcp(address),
        socket_group: None,
        token: Some(AdminToken::new(FULL.as_bytes())),
        read_token: Some(AdminToken::new(READ.as_bytes())),
        payload: false,
    })
}

fn tcp() -> Peer {
    Peer::Tcp { client: "127.0.0.1:50000".parse().unwrap(), local: "127.0.0.1:9640".parse().unwrap() }
}

/// The status of a request with these headers; 200 if it is admitted.
fn status(access: &Access, peer: Peer, method: &str, target: &str, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::builder().method(method).uri(target);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let (parts, ()) = request.body(()).unwrap().into_parts();
    access.admit(peer, &parts).map_or_else(|problem| problem.status().as_u16(), |_| 200)
}

#[test]
fn a_tcp_request_needs_a_token_except_for_paths_without_data() {
    for (authorization, get, post) in [
        (None, 401, 401),
        (Some(format!("Bearer {FULL}")), 200, 200),
        (Some(format!("bearer {FULL}")), 200, 200),
        (Some(format!("Bearer {READ}")), 200, 403),
        (Some(format!("Bearer {FULL}x")), 401, 401),
        (Some(format!("Basic {FULL}")), 401, 401),
        (Some(FULL.to_owned()), 401, 401),
        (Some("Bearer ".to_owned()), 401, 401),
    ] {
        let access = access();
        let mut headers = vec![("host", "localhost")];
        headers.extend(authorization.as_deref().map(|value| ("authorization", value)));
        assert_eq!(status(&access, tcp(), "GET", "/v1/info", &headers), get, "{authorization:?}");
        assert_eq!(status(&access, tcp(), "POST", "/v1/reload", &headers), post, "{authorization:?}");
        assert_eq!(status(&access, tcp(), "DELETE", "/v1/sessions/1", &headers), post, "{authorization:?}");
        for open in ["/", "/healthz", "/readyz"] {
            assert_eq!(status(&access, tcp(), "GET", open, &headers), 200, "{open}");
        }
        assert_eq!(status(&access, tcp(), "GET", "/healthz/", &headers), get, "{authorization:?}");
    }
    let (full, read) = (format!("Bearer {FULL}"), format!("Bearer {READ}"));
    let two = [("host", "localhost"), ("authorization", full.as_str()), ("authorization", read.as_str())];
    assert_eq!(status(&access(), tcp(), "GET", "/v1/info", &two), 401);
}

#[test]
fn a_tcp_request_names_this_machine_as_its_host() {
    for (host, expected) in [
        ("127.0.0.1:9640", 200),
        ("127.0.0.1", 200),
        ("127.8.9.1:1", 200),
        ("localhost:9640", 200),
        ("LocalHost", 200),
        ("[::1]:9640", 200),
        ("[::ffff:127.0.0.1]", 200),
        ("evil.example", 403),
        ("evil.example:9640", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.0.2.1", 403),
        ("0.0.0.0", 403),
        ("user@localhost", 400),
        ("local host", 400),
        ("", 400),
    ] {
        assert_eq!(status(&access(), tcp(), "GET", "/healthz", &[("host", host)]), expected, "{host}");
    }
    assert_eq!(status(&access(), tcp(), "GET", "/healthz", &[]), 403, "a request without a host");
    let two = [("host", "localhost"), ("host", "localhost")];
    assert_eq!(status(&access(), tcp(), "GET", "/healthz", &two), 400);
    let absolute = "http://evil.example/healthz";
    assert_eq!(status(&access(), tcp(), "GET", absolute, &[]), 403);
    assert_eq!(status(&access(), tcp(), "GET", absolute, &[("host", "localhost")]), 400);
}

#[test]
fn a_unix_socket_needs_no_token() {
    for headers in [&[][..], &[("host", "localhost:1")], &[("host", "admin"), ("authorization", "Bearer wrong")]] {
        assert_eq!(status(&access(), Peer::Unix(Some(0)), "POST", "/v1/reload", headers), 200, "{headers:?}");
    }
}

/// A browser reaches the socket through a port that ssh forwards.
#[test]
fn a_unix_socket_takes_only_hosts_that_nobody_else_can_have() {
    for (host, expected) in [
        ("localhost:9640", 200),
        ("127.0.0.1:9640", 200),
        ("[::1]:9640", 200),
        ("tollgate", 200),
        ("tollgate:9640", 403),
        ("evil.example", 403),
        ("evil.example:9640", 403),
        ("evil.", 403),
        ("192.0.2.1", 403),
        ("[2001:db8::1]", 403),
    ] {
        assert_eq!(status(&access(), Peer::Unix(None), "GET", "/v1/info", &[("host", host)]), expected, "{host}");
    }
}

#[test]
fn a_page_of_another_origin_is_rejected() {
    for (origin, expected) in [
        ("http://localhost:9640", 200),
        ("http://LOCALHOST:9640", 200),
        ("http://localhost", 403),
        ("https://localhost:9640", 403),
        ("http://evil.example", 403),
        ("null", 403),
        ("", 403),
    ] {
        let headers = [("host", "localhost:9640"), ("origin", origin)];
        assert_eq!(status(&access(), tcp(), "GET", "/healthz", &headers), expected, "{origin}");
        assert_eq!(status(&access(), Peer::Unix(None), "POST", "/v1/reload", &headers), expected, "{origin}");
    }
    assert_eq!(status(&access(), Peer::Unix(None), "POST", "/v1/reload", &[("origin", "http://a")]), 403);
}

#[test]
fn an_audit_line_names_the_user_or_the_address() {
    let caller = |peer| Caller { peer, rights: Rights::All };
    assert_eq!(caller(Peer::Unix(Some(1000))).to_string(), "uid 1000");
    assert_eq!(caller(tcp()).to_string(), "token from 127.0.0.1:50000");
}

/// A browser asks without a token first. Lines about wrong tokens have a limit.
#[test]
fn only_a_token_that_was_sent_can_be_logged_as_wrong() {
    let lines_left = |headers: &[(&str, &str)], requests: usize| {
        let access = access();
        (0..requests).for_each(|_| assert_eq!(status(&access, tcp(), "GET", "/v1/info", headers), 401));
        (0..20).filter(|_| access.failure_lines.check().is_ok()).count()
    };
    let (host, wrong) = (("host", "localhost"), ("authorization", "Bearer wrong"));
    assert_eq!(lines_left(&[host], 50), 10);
    assert_eq!(lines_left(&[host, wrong], 3), 7);
    assert_eq!(lines_left(&[host, ("authorization", "Basic wrong")], 3), 7);
}
