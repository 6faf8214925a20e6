//! The request that an upstream receives: the client's headers without those reserved for the proxy, plus the proxy's.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;

use crate::support::pki::{good_token, token};
use crate::support::request::{KEY, Request};
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Head;

/// Returns the first line and the sorted fields of a request at the upstream, without the key and the ids, which are
/// random and are checked here.
pub fn seen(asked: &Head) -> (String, Vec<(&str, &str)>) {
    let key = asked.get("Sec-WebSocket-Key").expect("a key");
    assert!(key != KEY && key.len() == KEY.len(), "the proxy sends a key of its own: {key}");
    let id = asked.get("X-Request-Id").expect("an id");
    assert!(id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    let [version, trace_id, span_id, _] = trace(asked);
    assert!((version.len(), trace_id.len(), span_id.len()) == (2, 32, 16), "{asked:?}");
    let checked = ["sec-websocket-key", "x-request-id", "traceparent"];
    let fields = asked.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut fields: Vec<_> = fields.filter(|(name, _)| !checked.contains(name)).collect();
    fields.sort_unstable();
    (asked.first_line.clone(), fields)
}

/// Returns the fields of the `traceparent` at the upstream.
fn trace(asked: &Head) -> [&str; 4] {
    let fields: Vec<_> = asked.get("Traceparent").expect("a traceparent").split('-').collect();
    fields.try_into().expect("four fields")
}

/// The upstream's span is a child of the client's, in the same trace.
#[test]
fn a_valid_trace_context_passes_with_a_span_id_of_the_proxy() {
    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    let upstream = Upstream::bind();
    let gate = Setup::new().log("session_start = \"info\"").start(&upstream);
    let with = |lines: &[&str]| lines.iter().fold(Request::to("/open/"), |request, line| request.with(line));
    let open = |lines: &[&str]| Session::open_with(&gate, &upstream, &with(lines), &[]);
    let parent = |rest: &str| format!("traceparent: 00-{TRACE}-{rest}");

    let mut spans = BTreeSet::from(["b7ad6b7169203331".to_owned()]);
    for flags in ["01", "00"] {
        let valid = parent(&format!("b7ad6b7169203331-{flags}"));
        let session = open(&[&valid, "Tracestate: a=1, b=2", "tracestate: c=3", "Connection: Upgrade, Traceparent"]);
        let [version, trace_id, span_id, sampled] = trace(&session.asked);
        assert_eq!((version, trace_id, sampled), ("00", TRACE, flags));
        assert!(spans.insert(span_id.to_owned()), "each request to the upstream has a span id of its own");
        assert_eq!(session.asked.get("Tracestate"), Some("a=1, b=2,c=3"));
        let started = gate.log.next("session started");
        session.close();
        let ended = gate.log.next("session ended");
        assert_eq!((&started["trace_id"], &ended["trace_id"]), (&json!(TRACE), &json!(TRACE)));
    }
    for invalid in ["b7ad6b7169203331", "0000000000000000-01", "B7AD6B7169203331-01"] {
        let session = open(&[&parent(invalid), "Tracestate: a=1"]);
        let [version, trace_id, _, sampled] = trace(&session.asked);
        assert_eq!((version, sampled), ("00", "00"));
        assert_ne!(trace_id, TRACE);
        assert_eq!(session.asked.get("Tracestate"), None);
        assert_eq!(gate.log.next("session started")["trace_id"], json!(trace_id));
    }
    // The second `traceparent` makes both invalid.
    let valid = parent("b7ad6b7169203331-01");
    assert_ne!(trace(&open(&[&valid, &valid]).asked)[1], TRACE);

    Client::connect(&gate).ask(&Request::to("/elsewhere").with(&valid));
    assert_eq!(gate.log.next("refused")["trace_id"], json!(TRACE));
    Client::connect(&gate).ask(&Request::to("/elsewhere"));
    assert_eq!(gate.log.next("refused")["trace_id"].as_str().map(str::len), Some(32));
}

/// Returns the fields that every upstream receives, with `also` added.
pub fn told<'a>(host: &'a str, also: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let mut fields = vec![
        ("connection", "Upgrade"),
        ("forwarded", "for=127.0.0.1;host=\"chat.example.com\";proto=https"),
        ("host", host),
        ("sec-websocket-version", "13"),
        ("upgrade", "websocket"),
        ("x-forwarded-for", "127.0.0.1"),
        ("x-forwarded-host", "chat.example.com"),
        ("x-forwarded-proto", "https"),
    ];
    fields.extend_from_slice(also);
    fields.sort_unstable();
    fields
}

#[test]
fn other_headers_and_the_target_pass_unchanged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let request = Request::to("/open/a%20b/?x=1&&y=%2f#").with("User-Agent: e2e").with("Cookie: a=b; c=d");
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    let (line, fields) = seen(&session.asked);
    assert_eq!(line, "GET /open/a%20b/?x=1&&y=%2f HTTP/1.1");
    assert_eq!(fields, told("chat.example.com", &[("cookie", "a=b; c=d"), ("user-agent", "e2e")]));
}

#[test]
fn hop_by_hop_headers_are_removed() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let request = [
        "Connection: keep-alive, X-Named, X-Request-Id, Host, Sec-WebSocket-Key",
        "X-Named: secret",
        "Keep-Alive: timeout=5",
        "Proxy-Connection: keep-alive",
        "Proxy-Authorization: Basic eDp5",
        "TE: trailers",
        "Trailer: X-Later",
        "HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        "Content-Length: 0",
        "X-End: kept",
    ]
    .into_iter()
    .fold(Request::to("/open/"), Request::with);
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!(seen(&session.asked).1, told("chat.example.com", &[("x-end", "kept")]));
}

/// Headers that identify the client are set by the proxy only, however a client spells them.
#[test]
fn spoofed_headers_are_removed() {
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("head_max_headers = 128").start(&upstream);
    let request = [
        "X-Forwarded-For: 10.0.0.1",
        "X-Forwarded-For: 10.0.0.2",
        "X_Forwarded_For: 10.0.0.3",
        "X-Forwarded_For: 10.0.0.4",
        "x-forwarded-proto: http",
        "X-Forwarded-Host: evil.example",
        "X-Forwarded-Port: 1",
        "X-Forwarded-Anything: x",
        "X-Real-IP: 10.0.0.5",
        "X_Real_IP: 10.0.0.6",
        "X.Forwarded.For: 10.0.0.8",
        "X-Client-IP: 10.0.0.8",
        "True-Client-IP: 10.0.0.8",
        "X-Cluster-Client-IP: 10.0.0.8",
        "CF-Connecting-IP: 10.0.0.8",
        "CF_Connecting.IP: 10.0.0.8",
        "CF-Connecting-IPv6: ::1",
        "Fastly-Client-IP: 10.0.0.8",
        "X-ProxyUser-Ip: 10.0.0.8",
        "X-Azure-ClientIP: 10.0.0.8",
        "X-Appengine-User-IP: 10.0.0.8",
        "Fly-Client-IP: 10.0.0.8",
        "X-Envoy-External-Address: 10.0.0.8",
        "Client-IP: 10.0.0.8",
        "X-Original-Forwarded-For: 10.0.0.8",
        "X-Original-Host: evil.example",
        "X-Host: evil.example",
        "X-HTTP-Host-Override: evil.example",
        "X-Original-URL: /admin",
        "X_Original_URL: /admin",
        "X-Rewrite-URL: /admin",
        "X-HTTP-Method-Override: DELETE",
        "X-HTTP-Method: DELETE",
        "X-Method-Override: DELETE",
        "Proxy: http://evil.example",
        "Expect: 100-continue",
        "Forwarded: for=10.0.0.7",
        "X-Request-Id: mine",
        "X_Request_Id: mine",
        "X-User-Id: root",
        "X_User_Id: root",
        "X-User_Id: root",
        "X.User.Id: root",
        "X~User!Id: root",
        "Sec-WebSocket-Accept: x",
        "Sec_WebSocket_Key: x",
    ]
    .into_iter()
    .fold(Request::to("/room/blue").bearer(&good_token()), Request::with);
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!(seen(&session.asked).1, told("chat.example.com", &[("x-user-id", "ada")]));
    // The client's header is removed even if the token lacks the claim.
    let request = Request::to("/room/blue").bearer(&token(&json!({ "sub": null }))).with("X-User-Id: root");
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    assert_eq!(seen(&session.asked).1, told("chat.example.com", &[]));
}

/// A header in `pass_headers` passes under exactly the listed name.
#[test]
fn listed_headers_pass() {
    let upstream = Upstream::bind();
    let listed = "pass_headers = [\"X-Real-IP\", \"x-original-url\", \"Expect\", \"SM_USER\"]";
    let gate = Setup::new().route(listed).start(&upstream);
    let request = [
        "X-Real-IP: 10.0.0.1",
        "X-Real-IP: 10.0.0.2",
        "X_Real_IP: 10.0.0.3",
        "X-Original-URL: /other",
        "X-Rewrite-URL: /other",
        "SM_USER: ada",
        "SM-User: eve",
        "X-Forwarded-For: 10.0.0.4",
    ]
    .into_iter()
    .fold(Request::to("/open/"), Request::with);
    let session = Session::open_with(&gate, &upstream, &request, &[]);
    let passed =
        [("x-real-ip", "10.0.0.1"), ("x-real-ip", "10.0.0.2"), ("x-original-url", "/other"), ("sm_user", "ada")];
    assert_eq!(seen(&session.asked).1, told("chat.example.com", &passed));
}

/// An upstream must not set headers that affect the whole origin, which other routes share.
#[test]
fn origin_wide_response_headers_are_removed() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let lines = [
        "Clear-Site-Data: \"*\"",
        "Alt-Svc: h3=\":443\"",
        "Strict-Transport-Security: max-age=0",
        "Set-Cookie: a=b",
        "X-Kept: yes",
    ];
    let check = |head: &Head| {
        for line in lines {
            let (name, value) = line.split_once(": ").unwrap();
            let kept = matches!(name, "Set-Cookie" | "X-Kept").then_some(value);
            assert_eq!(head.get(name), kept, "{head:?}");
        }
    };
    let session = Session::open_with(&gate, &upstream, &Request::to("/open/"), &lines);
    check(&session.answer);
    session.close();
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(format!("HTTP/1.1 403 Forbidden\r\n{}\r\nContent-Length: 0\r\n\r\n", lines.join("\r\n")).as_bytes());
    let response = client.response();
    assert_eq!(response.head.status(), 403);
    check(&response.head);
}

/// The token is removed from every source, and the rest of the request passes.
#[test]
fn tokens_are_removed_from_the_request() {
    let upstream = Upstream::bind();
    let sources = "token_from = [\"header\", \"cookie:session\", \"query:token\", \"subprotocol:bearer\", \
                   \"subprotocol_prefix:base64url.bearer.\"]";
    // A route that reads cookies must list its origins.
    let origins = "origins = [\"https://a.example\"]";
    let gate = Setup::new().auth(sources).route(origins).log("level = \"trace\"").start(&upstream);
    let token = good_token();
    let encoded = URL_SAFE_NO_PAD.encode(&token);
    let escaped = token.replace('.', "%2E");
    let room = || Request::to("/room/blue?a=1");
    // The request, the target at the upstream, and the fields beyond the usual ones.
    let table: [(Request, &str, &[(&str, &str)]); 11] = [
        (room().bearer(&token), "/room/blue?a=1", &[]),
        (room().with(&format!("Authorization: bEaReR  {token}")), "/room/blue?a=1", &[]),
        (room().with(&format!("Cookie: a=b; session={token}; c=d")), "/room/blue?a=1", &[("cookie", "a=b; c=d")]),
        (Request::to(&format!("/room/blue?a=1&token={token}&b=2")), "/room/blue?a=1&b=2", &[]),
        (Request::to(&format!("/room/blue?token={token}")), "/room/blue", &[]),
        (Request::to(&format!("/room/blue?token={escaped}&a=%2E")), "/room/blue?a=%2E", &[]),
        (room().with(&format!("Cookie: session=\"{token}\"; c=\"d\"")), "/room/blue?a=1", &[("cookie", "c=\"d\"")]),
        (
            room().with(&format!("Cookie: session={token}; a=b; session={token}")),
            "/room/blue?a=1",
            &[("cookie", "a=b")],
        ),
        (
            room().with(&format!("Sec-WebSocket-Protocol: base64url.bearer.{encoded}, base64.binary.k8s.io")),
            "/room/blue?a=1",
            &[("sec-websocket-protocol", "base64.binary.k8s.io")],
        ),
        (room().with(&format!("Sec-WebSocket-Protocol: base64url.bearer.{token}")), "/room/blue?a=1", &[]),
        (
            room().with(&format!("Sec-WebSocket-Protocol: chat, bearer, {token}")),
            "/room/blue?a=1",
            &[("sec-websocket-protocol", "chat")],
        ),
    ];
    for (request, target, fields) in table {
        let session = Session::open_with(&gate, &upstream, &request, &[]);
        let (line, seen) = seen(&session.asked);
        assert_eq!(line, format!("GET {target} HTTP/1.1"));
        let asked = format!("{:?}", session.asked);
        assert!(![&token, &encoded, &escaped].iter().any(|form| asked.contains(form.as_str())), "{asked}");
        let also = [fields, &[("x-user-id", "ada")]].concat();
        assert_eq!(seen, told("chat.example.com", &also), "{request:?}");
    }
    // Tokens of rejected requests are not logged either: `Gate` searches the log for tokens when it is dropped.
    let token = self::token(&json!({ "exp": 1 }));
    let all = room().bearer(&token).with(&format!("Cookie: session={token}"));
    for request in [all, Request::to(&format!("/room/blue?token={token}")), Request::to(&format!("/x?token={token}"))] {
        let response = Client::connect(&gate).ask(&request);
        assert!(!format!("{response:?}").contains(&token), "{response:?}");
    }
}

#[test]
fn claims_are_forwarded() {
    let upstream = Upstream::bind();
    let forward = "forward_claims = { sub = \"X-User-Id\", scope = \"X-Scope\", level = \"X-Level\" }";
    let room = "[[route]]\nname = \"claims\"\npath = \"/claims\"\nupstream = \"main\"\nauth = \"users\"\n";
    let gate = Setup::new().more(&format!("{room}{forward}")).start(&upstream);
    let token = token(&json!({ "sub": "ada@example.com", "scope": "read write", "level": 3 }));
    let session = Session::open_with(&gate, &upstream, &Request::to("/claims").bearer(&token), &[]);
    let claims = [("x-user-id", "ada@example.com"), ("x-scope", "read write"), ("x-level", "3")];
    assert_eq!(seen(&session.asked).1, told("chat.example.com", &claims));
}

#[test]
fn upstream_host_and_base_path_are_applied() {
    let upstream = Upstream::bind();
    let gate =
        Setup::new().upstream("path = \"/base/v1\"").route("upstream_host = \"chat.internal:8080\"").start(&upstream);
    let session = Session::open_with(&gate, &upstream, &Request::to("/open/x?q"), &[]);
    let (line, fields) = seen(&session.asked);
    assert_eq!(line, "GET /base/v1/open/x?q HTTP/1.1");
    assert_eq!(fields, told("chat.internal:8080", &[]));
}
