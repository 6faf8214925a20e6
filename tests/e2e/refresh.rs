//! Refresh: a fresh token renews the open sessions of its client, and nothing else does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::gate::Gate;
use crate::support::pki::{good_token, token};
use crate::support::request::Request;
use crate::support::session::{Client, ErrorResponse, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// A route with a refresh path, for tokens of its rooms.
const LIVE: &str = "[[route]]\nname = \"live\"\npath = \"/live/{room}\"\nrefresh_path = \"/live/refresh\"\n\
                    upstream = \"main\"\nauth = \"users\"\nrequire = { room = \"{room}\" }\n\
                    origins = [\"https://page.example\"]\n";

fn unix() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn start(upstream: &Upstream, more: &str) -> Gate {
    Setup::new().more(&format!("{LIVE}{more}")).start(upstream)
}

/// Returns a request at the refresh path, without a token.
fn refresh(method: &str) -> Request {
    let request = Request::to("/").first_line(&format!("{method} /live/refresh HTTP/1.1"));
    let opening = ["Upgrade", "Connection", "Sec-WebSocket-Version", "Sec-WebSocket-Key"];
    opening.iter().fold(request, |request, name| request.without(name)).with("Content-Length: 0")
}

fn ask(gate: &Gate, request: &Request) -> ErrorResponse {
    Client::connect(gate).ask(request)
}

/// Sends a token to the refresh path, and returns the body of the answer, which must be a 200.
pub fn renew(gate: &Gate, token: &str) -> Value {
    let ErrorResponse { head, body } = ask(gate, &refresh("POST").bearer(token));
    assert_eq!((head.status(), head.get("Content-Type")), (200, Some("application/json")), "{head:?}, {body}");
    assert_eq!(head.get("Cache-Control"), Some("no-store"), "{head:?}");
    serde_json::from_str(&body).unwrap()
}

fn expect_expired(session: &mut Session) {
    for reason in [session.client.expect_close(1008), session.server.expect_close(1008)] {
        assert_eq!(reason, "token expired");
    }
    session.client.send_frame(Frame::close(1008, ""));
    session.server.send_frame(Frame::close(1008, ""));
}

/// The sessions are spread over two workers. The end of another client's session shows that the first token has
/// expired.
#[test]
fn a_fresh_token_renews_all_sessions_of_its_client() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let (soon, late) = (unix() + 2, unix() + 600);
    let first = token(&json!({ "exp": soon }));
    let mut renewed: Vec<Session> = (0..6).map(|_| Session::open_at(&gate, &upstream, "/live/blue", &first)).collect();
    let mut other = Session::open_at(&gate, &upstream, "/live/blue", &token(&json!({ "exp": soon, "sub": "bob" })));
    assert_eq!(renew(&gate, &token(&json!({ "exp": late }))), json!({ "renewed": 6, "expires": late }));
    let line = gate.log.next("token refreshed");
    assert_eq!((&line["route"], &line["subject"], &line["renewed"]), (&json!("live"), &json!("ada"), &json!(6)));
    expect_expired(&mut other);
    renewed.iter_mut().for_each(|session| session.echo("later"));
    // Nothing is left to renew for the other client.
    assert_eq!(renew(&gate, &token(&json!({ "exp": late, "sub": "bob" })))["renewed"], 0);
}

#[test]
fn a_token_renews_nothing_else() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let soon = unix() + 2;
    let of = |claims: Value| {
        let mut all = json!({ "exp": soon, "sid": "one" });
        claims.as_object().unwrap().iter().for_each(|(name, value)| all[name] = value.clone());
        token(&all)
    };
    let others = [
        ("/live/blue", json!({ "sub": "bob" })),
        ("/live/blue", json!({ "sid": "two" })),
        ("/live/blue", json!({ "sid": null })),
        ("/live/red", json!({ "room": "red" })),
        ("/room/blue", json!({})),
    ];
    let mut renewed = Session::open_at(&gate, &upstream, "/live/blue", &of(json!({})));
    let mut others = others.map(|(path, claims)| Session::open_at(&gate, &upstream, path, &of(claims)));
    assert_eq!(renew(&gate, &of(json!({ "exp": soon + 600 })))["renewed"], 1);
    others.iter_mut().for_each(expect_expired);
    renewed.echo("later");
}

/// The session takes the expiry of the fresh token, even if it is earlier.
#[test]
fn an_earlier_expiry_applies_too() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let mut session = Session::open_at(&gate, &upstream, "/live/blue", &good_token());
    let soon = unix() + 2;
    assert_eq!(renew(&gate, &token(&json!({ "exp": soon }))), json!({ "renewed": 1, "expires": soon }));
    expect_expired(&mut session);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    assert!(now >= Duration::from_secs(soon), "{now:?}");
}

/// The fresh token replaces the first one in every later check.
#[test]
fn a_reload_checks_the_fresh_token() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("recheck_max = \"off\"").more(LIVE).start(&upstream);
    let soon = unix() + 2;
    let claims = |exp: u64, role: &str| token(&json!({ "exp": exp, "role": role }));
    let mut session = Session::open_at(&gate, &upstream, "/live/blue", &claims(soon, "guest"));
    assert_eq!(renew(&gate, &claims(soon + 600, "admin"))["renewed"], 1);
    while unix() <= soon {
        session.echo("wait");
    }
    let line = gate.reload(|text| text.replace("leeway = \"0s\"", "leeway = \"1s\""));
    assert_eq!(line["ended"], 0, "{line}");
    session.echo("later");
    let require = "require = { room = \"{room}\", role = \"admin\" }";
    let line = gate.reload(|text| text.replace("require = { room = \"{room}\" }", require));
    assert_eq!(line["ended"], 0, "{line}");
    session.echo("still here");
}

#[test]
fn other_requests_are_rejected() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let evil = || refresh("POST").with("Origin: https://evil.example");
    let table = [
        (refresh("POST"), 401, "no_token"),
        (refresh("POST").bearer("not.a.token"), 401, "token"),
        (refresh("POST").bearer(&token(&json!({ "exp": unix() - 1 }))), 401, "token"),
        (refresh("POST").bearer(&token(&json!({ "iss": "another" }))), 401, "token"),
        // Without a subject it is nobody's.
        (refresh("POST").bearer(&token(&json!({ "sub": null }))), 403, "claims"),
        (evil().bearer(&good_token()), 403, "origin"),
        (refresh("GET"), 405, "method"),
        (refresh("PUT").bearer(&good_token()), 405, "method"),
        (Request::to("/live/refresh").bearer(&good_token()), 405, "method"),
    ];
    for (request, status, cause) in table {
        let ErrorResponse { head, .. } = ask(&gate, &request);
        assert_eq!(head.status(), status, "{request:?}: {head:?}");
        assert_eq!(head.get("Allow"), (status == 405).then_some("POST, OPTIONS"), "{head:?}");
        assert_eq!(head.get("Cache-Control"), Some("no-store"), "{head:?}");
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["route"]), (&json!(cause), &json!("live")), "{line}");
        assert!(line["method"].is_string(), "{line}");
    }
    upstream.assert_untouched();
}

#[test]
fn requests_count_against_the_quota_of_their_address() {
    let upstream = Upstream::bind();
    let gate = Setup::new().server("upgrade_rate = \"2/h\"").more(LIVE).start(&upstream);
    let statuses = [(); 3].map(|()| ask(&gate, &refresh("POST").bearer(&good_token())).head.status());
    assert_eq!(statuses, [200, 200, 429]);
}

/// Fetch standard, CORS protocol: the preflight request has no credentials, and the page reads every answer.
#[test]
fn pages_of_the_origins_of_the_route_may_refresh() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let preflight = |origin: &str| {
        let request = refresh("OPTIONS").with(&format!("Origin: {origin}"));
        ask(&gate, &request.with("Access-Control-Request-Method: POST")).head
    };
    let allowed = preflight("https://page.example");
    let expected = [
        ("Access-Control-Allow-Origin", Some("https://page.example")),
        ("Access-Control-Allow-Methods", Some("POST")),
        ("Access-Control-Allow-Headers", Some("authorization")),
        ("Access-Control-Allow-Credentials", None),
        ("Access-Control-Max-Age", Some("600")),
        ("Vary", Some("origin")),
    ];
    assert_eq!(allowed.status(), 204);
    assert_eq!(expected.map(|(name, _)| (name, allowed.get(name))), expected);
    let refused = preflight("https://evil.example");
    assert_eq!((refused.status(), refused.get("Access-Control-Allow-Origin")), (403, None));
    // An answer that is not a 200 is readable as well.
    for (request, status) in [(refresh("POST").bearer(&good_token()), 200), (refresh("POST"), 401)] {
        let head = ask(&gate, &request.with("Origin: https://page.example")).head;
        assert_eq!((head.status(), head.get("Access-Control-Allow-Origin")), (status, Some("https://page.example")));
    }
}

/// A browser sends the cookie with requests of any page, and the origin of the page with each of them.
#[test]
fn a_cookie_needs_an_origin() {
    let upstream = Upstream::bind();
    let gate =
        Setup::new().auth("token_from = [\"cookie:session\", \"query:t\"]").more(LIVE).route(ORIGINS).start(&upstream);
    let mut session = {
        let request =
            Request::to("/live/blue").with(&format!("Cookie: session={}", token(&json!({ "exp": unix() + 2 }))));
        Session::open_with(&gate, &upstream, &request, &[])
    };
    session.echo("first");
    let cookie = || refresh("POST").with(&format!("Cookie: session={}", good_token()));
    assert_eq!(ask(&gate, &cookie()).head.status(), 403);
    assert_eq!(ask(&gate, &cookie().with("Origin: https://evil.example")).head.status(), 403);
    let ErrorResponse { head, body } = ask(&gate, &cookie().with("Origin: https://page.example"));
    assert_eq!((head.status(), head.get("Access-Control-Allow-Credentials")), (200, Some("true")));
    assert!(body.contains("\"renewed\":1"), "{body}");
    // The header and the query come from no page by themselves.
    let target = format!("POST /live/refresh?t={} HTTP/1.1", good_token());
    for request in [refresh("POST").bearer(&good_token()), refresh("POST").first_line(&target)] {
        assert_eq!(ask(&gate, &request).head.status(), 200);
    }
}

const ORIGINS: &str = "origins = [\"https://page.example\"]";

/// A body is not needed, and one that is sent does not matter.
#[test]
fn a_body_is_ignored() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "");
    let mut client = Client::connect(&gate);
    let request = refresh("POST").replacing("Content-Length: 5").bearer(&good_token());
    client.send(&[request.bytes(), b"hello".to_vec()].concat());
    assert_eq!(client.response().head.status(), 200);
}

/// `hsts` and `server_header` of the route apply to the answers at its refresh path.
#[test]
fn the_answers_at_a_refresh_path_have_the_headers_of_the_route() {
    let upstream = Upstream::bind();
    let gate = start(&upstream, "hsts = \"1d\"\nserver_header = true\n");
    for (request, status) in [
        (refresh("POST").bearer(&good_token()), 200),
        (refresh("OPTIONS"), 204),
        (refresh("GET"), 405),
        (refresh("POST"), 401),
    ] {
        let head = ask(&gate, &request).head;
        let found = (head.status(), head.get("Strict-Transport-Security"), head.get("Server"));
        assert_eq!(found, (status, Some("max-age=86400"), Some("tollgate")), "{head:?}");
    }
}
