//! Ordinary requests on routes with `http = true`: what is forwarded, and how.

use serde_json::{Value, json};

use crate::forward::{ADA, Service, admitting, asking, replying};
use crate::support::exchange::{get, request};
use crate::support::gate::Gate;
use crate::support::pki::good_token;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Head;

fn start(upstream: &Upstream) -> Gate {
    Setup::new().route("http = true").start(upstream)
}

/// Requests of one client connection use one connection to the server, one after another.
#[test]
fn requests_are_forwarded_over_kept_connections() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.get("/open/a?b=c");
    let mut server = upstream.accept();
    let asked = server.message();
    assert_eq!(asked.head.first_line, "GET /open/a?b=c HTTP/1.1");
    assert_eq!(asked.head.get("Host"), Some("chat.example.com"));
    assert_eq!(asked.head.get("X-Forwarded-Proto"), Some("https"));
    assert_eq!(asked.head.get("Connection"), None);
    server.respond("X-Kept: yes\r\nServer: secret\r\n", "hello");
    let answer = client.message();
    assert_eq!((answer.head.status(), answer.body.as_str()), (200, "hello"));
    assert_eq!((answer.head.get("X-Kept"), answer.head.get("Server")), (Some("yes"), None));
    assert_eq!(answer.head.get("Connection"), None);
    for n in 0..5 {
        client.get(&format!("/open/{n}"));
        assert_eq!(server.message().head.first_line, format!("GET /open/{n} HTTP/1.1"));
        server.respond("", &format!("body {n}"));
        assert_eq!(client.message().body, format!("body {n}"));
    }
    drop(client);
    upstream.assert_untouched();
    let line = gate.log.next("request");
    assert_eq!((line["route"].as_str(), line["status"].as_u64()), (Some("open"), Some(200)));
    assert_eq!((line["method"].as_str(), line["bytes_out"].as_u64()), (Some("GET"), Some(5)));
    assert_eq!((line["path"].as_str(), line["host"].as_str()), (Some("/open/a"), Some("chat.example.com")));
}

/// Requests that arrive together are answered in order, whatever their bodies.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    let chunked = request("POST", "/open/2", "Transfer-Encoding: chunked\r\n", "4\r\nbody\r\n0\r\n\r\n");
    let known = request("POST", "/open/3", "Content-Length: 5\r\n", "known");
    client.send([get("/open/1"), chunked, known, get("/open/4")].concat().as_bytes());
    let mut server = upstream.accept();
    for (n, body) in [(1, ""), (2, "body"), (3, "known"), (4, "")] {
        let asked = server.message();
        assert!(asked.head.first_line.ends_with(&format!(" /open/{n} HTTP/1.1")), "{asked:?}");
        assert_eq!(asked.body, body);
        server.respond("", &format!("answer {n}"));
    }
    for n in 1..=4 {
        assert_eq!(client.message().body, format!("answer {n}"));
    }
}

/// A WebSocket opens on the same route, also over a connection that has carried ordinary requests.
#[test]
fn a_websocket_opens_on_the_same_route() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    Session::open(&gate, &upstream).close();
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("", "polled");
    assert_eq!(client.message().body, "polled");
    let mut session = Session::open_over(client, &upstream, &Request::to("/open/"), &[]);
    session.echo("hello");
    session.close();
}

/// The token of a request admits it, its claims are forwarded, and the token itself is not.
#[test]
fn a_token_admits_a_request() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    let bearer = format!("Authorization: Bearer {}\r\n", good_token());
    client.send(
        request("GET", "/room/blue", &format!("{bearer}X-User-Id: mallory\r\nX-Real-IP: 1.2.3.4\r\n"), "").as_bytes(),
    );
    let mut server = upstream.accept();
    let asked = server.message();
    assert_eq!(asked.head.get("X-User-Id"), Some("ada"));
    assert_eq!((asked.head.get("Authorization"), asked.head.get("X-Real-IP")), (None, None));
    server.respond("", "yes");
    assert_eq!(client.message().body, "yes");
    let line = gate.log.next("request");
    assert_eq!((line["subject"].as_str(), line["auth"].as_str()), (Some("ada"), Some("users")));
    for (lines, path, status) in [("", "/room/blue", 401), (bearer.as_str(), "/room/red", 403)] {
        let mut client = Client::connect(&gate);
        client.send(request("GET", path, lines, "").as_bytes());
        let answer = client.response();
        assert_eq!((answer.head.status(), answer.head.get("Connection")), (status, Some("close")));
    }
    upstream.assert_untouched();
}

/// The list of origins applies to methods that may change something.
#[test]
fn origins_apply_to_unsafe_methods() {
    let upstream = Upstream::bind();
    let origins = "http = true\norigins = [\"https://good.example\"]\nmissing_origin = \"refuse\"";
    let gate = Setup::new().route(origins).start(&upstream);
    let (good, evil) = ("Origin: https://good.example\r\n", "Origin: https://evil.example\r\n");
    for (method, lines, is_admitted) in [
        ("GET", "", true),
        ("GET", evil, true),
        ("HEAD", evil, true),
        ("OPTIONS", evil, true),
        ("POST", good, true),
        ("POST", evil, false),
        ("POST", "", false),
        ("PUT", evil, false),
        ("DELETE", evil, false),
        ("PATCH", evil, false),
        ("PROPFIND", evil, false),
    ] {
        let mut client = Client::connect(&gate);
        client.send(request(method, "/open/", lines, "").as_bytes());
        if is_admitted {
            let mut server = upstream.accept();
            server.message();
            server.send(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n");
            assert_eq!(client.head().status(), 204, "{method} {lines}");
        } else {
            assert_eq!(client.head().status(), 403, "{method} {lines}");
            assert_eq!(gate.log.next("refused")["cause"], "origin");
        }
    }
    upstream.assert_untouched();
}

/// A browser sends the preflight of a page of an origin of the route without the token that the request itself has.
#[test]
fn preflights_of_origins_of_the_route_need_no_token() {
    let upstream = Upstream::bind();
    let lines = "http = true\norigins = [\"https://good.example\"]\nbypass_cors_preflight = true";
    let gate = Setup::new().route(lines).start(&upstream);
    let (good, evil) = ("Origin: https://good.example\r\n", "Origin: https://evil.example\r\n");
    let method = "Access-Control-Request-Method: PUT\r\nAccess-Control-Request-Headers: authorization\r\n";
    let mut client = Client::connect(&gate);
    let sent = format!("{good}{method}X-User-Id: mallory\r\nCookie: token=x\r\n");
    client.send(request("OPTIONS", "/room/blue", &sent, "").as_bytes());
    let mut server = upstream.accept();
    let asked = server.head();
    assert_eq!(asked.get("Access-Control-Request-Method"), Some("PUT"));
    assert_eq!(asked.get("X-User-Id"), None, "a header of a claim that nobody has verified");
    server.respond("Access-Control-Allow-Origin: https://good.example\r\nAccess-Control-Allow-Methods: PUT\r\n", "");
    assert_eq!(client.message().head.get("Access-Control-Allow-Methods"), Some("PUT"));

    for (verb, lines, body) in [
        ("OPTIONS", good.to_owned(), ""),
        ("OPTIONS", method.to_owned(), ""),
        ("OPTIONS", format!("{evil}{method}"), ""),
        ("OPTIONS", format!("{good}{method}Content-Length: 4\r\n"), "body"),
        ("OPTIONS", format!("{good}{method}Transfer-Encoding: chunked\r\n"), "0\r\n\r\n"),
        ("GET", format!("{good}{method}"), ""),
        ("PUT", format!("{good}{method}"), ""),
    ] {
        let mut client = Client::connect(&gate);
        client.send(request(verb, "/room/blue", &lines, body).as_bytes());
        assert_eq!(client.head().status(), 401, "{verb} {lines}");
    }
    let gate = Setup::new().route("http = true\norigins = [\"https://good.example\"]").start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("OPTIONS", "/room/blue", &format!("{good}{method}"), "").as_bytes());
    assert_eq!(client.head().status(), 401);
    drop(server);
    upstream.assert_untouched();
}

/// Headers about one connection are not forwarded (RFC 9110 section 7.6.1), in either direction.
#[test]
fn hop_by_hop_headers_are_removed() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    let lines = "Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nTE: gzip\r\n\
                 Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nVia: 1.1 other\r\n";
    client.send(request("GET", "/open/", lines, "").as_bytes());
    let mut server = upstream.accept();
    let asked = server.message().head;
    for name in ["Connection", "X-Named", "Keep-Alive", "TE", "Proxy-Connection", "Proxy-Authorization"] {
        assert_eq!(asked.get(name), None, "{name}");
    }
    assert_eq!(asked.get("Via"), Some("1.1 other"));
    let lines = "Connection: keep-alive, X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\n\
                 Proxy-Authenticate: Basic\r\nAlt-Svc: x\r\nStrict-Transport-Security: max-age=1\r\nSet-Cookie: a=b\r\n";
    server.respond(lines, "");
    let answer = client.head();
    let removed = [
        "Connection",
        "X-Named",
        "Keep-Alive",
        "Upgrade",
        "Proxy-Authenticate",
        "Alt-Svc",
        "Strict-Transport-Security",
    ];
    for name in removed {
        assert_eq!(answer.get(name), None, "{name}");
    }
    assert_eq!(answer.get("Set-Cookie"), Some("a=b"));
}

/// The length of a response without a body is that of the body that it stands for.
#[test]
fn head_and_304_keep_the_length() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("HEAD", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    assert_eq!(server.head().first_line, "HEAD /open/ HTTP/1.1");
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n");
    let answer = client.head();
    assert_eq!((answer.status(), answer.get("Content-Length")), (200, Some("1000")));
    client.get("/open/");
    // Nothing follows an announced body that is not permitted.
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 304 Not Modified\r\nContent-Length: 1000\r\nETag: \"x\"\r\n\r\n");
    let answer = client.head();
    assert_eq!((answer.status(), answer.get("ETag")), (304, Some("\"x\"")));
    client.send(request("HEAD", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().get("Content-Length"), None);
    client.send(request("OPTIONS", "/open/", "", "").as_bytes());
    let mut server = upstream.accept();
    assert_eq!(server.head().first_line, "OPTIONS /open/ HTTP/1.1");
    server.respond("Allow: GET\r\n", "");
    assert_eq!(client.message().head.get("Allow"), Some("GET"));
}

/// The route changes path and headers of an ordinary request as those of an upgrade.
#[test]
fn a_request_is_rewritten_as_an_upgrade() {
    let upstream = Upstream::bind();
    let route = "http = true\nstrip_prefix = \"/open\"\nset_headers = { X-Set = \"yes\" }\nremove_headers = [\"X-Gone\"]\n\
                 pass_headers = [\"X-Real-IP\"]\nupstream_host = \"inner\"";
    let route =
        format!("[[route]]\nname = \"third\"\npath = \"/open/third\"\nupstream = \"main\"\nauth = \"none\"\n{route}\n");
    let gate = Setup::new().upstream("path = \"/base\"").more(&route).start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/third?q", "X-Gone: 1\r\nX-Real-IP: 1.2.3.4\r\nX-Set: no\r\n", "").as_bytes());
    let mut server = upstream.accept();
    let asked = server.message().head;
    assert_eq!(asked.first_line, "GET /base/third?q HTTP/1.1");
    assert_eq!((asked.get("X-Set"), asked.get("X-Gone")), (Some("yes"), None));
    assert_eq!((asked.get("X-Real-IP"), asked.get("Host")), (Some("1.2.3.4"), Some("inner")));
    assert!(asked.get("X-Request-ID").is_some() && asked.get("traceparent").is_some());
}

/// Clients of HTTP/1.0 are served, and their connection closes.
#[test]
fn http_1_0_is_served() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(b"GET /open/ HTTP/1.0\r\nHost: chat.example.com\r\n\r\n");
    let mut server = upstream.accept();
    assert_eq!(server.message().head.first_line, "GET /open/ HTTP/1.1");
    server.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n");
    let answer = client.response();
    assert_eq!((answer.body.as_str(), answer.head.get("Transfer-Encoding")), ("hello", None));
}

/// Without `http = true` a request gets the same answer as before.
#[test]
fn a_route_without_http_answers_426() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    for method in ["GET", "POST"] {
        let mut client = Client::connect(&gate);
        client.send(request(method, "/open/", "", "").as_bytes());
        assert_eq!(client.response().head.status(), 426, "{method}");
    }
    upstream.assert_untouched();
}

/// `hsts` and `server_header` apply to every response of the route.
#[test]
fn a_route_adds_headers_to_its_responses() {
    let upstream = Upstream::bind();
    let gate = Setup::new().route("http = true\nhsts = \"1d\"\nserver_header = true").start(&upstream);
    let check = |head: &Head| {
        let found = (head.get("Strict-Transport-Security"), head.get("Server"));
        assert_eq!(found, (Some("max-age=86400"), Some("tollgate")), "{head:?}");
    };
    let mut client = Client::connect(&gate);
    client.get("/open/");
    let mut server = upstream.accept();
    server.message();
    server.respond("Server: other\r\nStrict-Transport-Security: max-age=1\r\n", "");
    check(&client.message().head);
    check(&Session::open_with(&gate, &upstream, &Request::to("/open/"), &["Server: other"]).answer);
    let mut client = Client::connect(&gate);
    client.get("/room/blue");
    let answer = client.response();
    assert_eq!(answer.head.status(), 401);
    check(&answer.head);
    let mut client = Client::connect(&gate);
    client.get("/nowhere");
    let answer = client.response();
    assert_eq!((answer.head.status(), answer.head.get("Server")), (404, None));
}

/// Errors are problem details for clients that prefer them.
#[test]
fn errors_are_problem_details_on_request() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let ask = |accept: &str| {
        let mut client = Client::connect(&gate);
        client.send(request("GET", "/room/blue", &format!("Accept: {accept}\r\n"), "").as_bytes());
        client.response()
    };
    let answer = ask("application/json");
    assert_eq!(answer.head.get("Content-Type"), Some("application/problem+json"));
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&problem["status"], &problem["title"]), (&json!(401), &json!("Unauthorized")));
    assert_eq!(problem["request_id"].as_str(), answer.head.get("X-Request-ID"));
    let answer = ask("*/*");
    assert_eq!(answer.head.get("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(answer.body, "A valid token is required.\n");
}

/// The service is asked about an ordinary request with its method, and its cookies reach the client.
#[test]
fn a_service_decides_on_ordinary_requests() {
    let (upstream, listener) = (Upstream::bind(), Upstream::bind());
    let gate = asking(&listener, "").route("http = true").start(&upstream);
    let mut service = Service::new(&listener);
    let lines = "Origin: https://a.example\r\nCookie: session=abc\r\nContent-Length: 4\r\nX-Auth-Request-User: eve\r\n";
    let mut client = Client::connect(&gate);
    client.send(request("POST", "/open/form", lines, "body").as_bytes());
    let asked = service.reply(&admitting(&format!("{ADA}Set-Cookie: fresh=1\r\n")));
    assert_eq!((asked.get("X-Forwarded-Method"), asked.get("X-Original-Method")), (Some("POST"), Some("POST")));
    assert_eq!((asked.get("X-Forwarded-Uri"), asked.get("Content-Length")), (Some("/open/form"), None));
    let mut server = upstream.accept();
    let got = server.message();
    assert_eq!((got.head.get("X-Auth-Request-User"), got.body.as_str()), (Some("ada"), "body"));
    server.respond("", "saved");
    let answer = client.message();
    assert_eq!((answer.body.as_str(), answer.head.get("Set-Cookie")), ("saved", Some("fresh=1")));
    let mut client = Client::connect(&gate);
    client.send(request("GET", "/open/form", lines, "").as_bytes());
    service.reply(&replying("302 Found", "Location: https://sso.example/\r\n", ""));
    let answer = client.response();
    assert_eq!((answer.head.status(), answer.head.get("Location")), (302, Some("https://sso.example/")));
    upstream.assert_untouched();
}
