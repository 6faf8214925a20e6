//! Back-channel logout at the running proxy: which requests it accepts, and what a logout ends.

use serde_json::{Value, json};

use crate::admin::{Api, expect_closed};
use crate::support::gate::Gate;
use crate::support::pki::{ISSUER, signed_as, token};
use crate::support::request::Request;
use crate::support::secrets;
use crate::support::session::{Client, ErrorResponse, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

const EVENT: &str = "http://schemas.openid.net/event/backchannel-logout";
const HEADER: &str = r#"{"alg":"ES256","typ":"logout+jwt"}"#;
const FORM: &str = "application/x-www-form-urlencoded";

fn now() -> u64 {
    jsonwebtoken::get_current_timestamp()
}

/// Returns the claims of a valid logout token with these replaced or, if null, removed.
fn claims(jti: &str, replaced: &Value) -> String {
    let mut claims = json!({
        "iss": ISSUER, "aud": "web", "sub": "ada", "jti": jti, "iat": now(), "exp": now() + 120, "events": { EVENT: {} },
    });
    for (name, value) in replaced.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims.to_string()
}

fn logout_token(jti: &str, replaced: &Value) -> String {
    signed_as(HEADER, &claims(jti, replaced))
}

fn start(upstream: &Upstream) -> Gate {
    setup().start(upstream)
}

fn setup() -> Setup {
    Setup::new().auth("backchannel_logout_path = \"/logout\"\nbackchannel_logout_audience = [\"web\"]")
}

fn post(gate: &Gate, target: &str, content_type: &str, body: &str) -> ErrorResponse {
    let mut client = Client::connect(gate);
    let length = body.len();
    let head = format!("POST {target} HTTP/1.1\r\nHost: chat.example.com\r\nContent-Type: {content_type}\r\n");
    client.send(format!("{head}Content-Length: {length}\r\n\r\n{body}").as_bytes());
    client.response()
}

fn log_out(gate: &Gate, token: &str) -> ErrorResponse {
    post(gate, "/logout", FORM, &format!("logout_token={token}"))
}

fn expect_logged_out(gate: &Gate, token: &str, ended: u64) {
    let response = log_out(gate, token);
    assert_eq!((response.head.status(), response.body.as_str()), (200, ""), "{response:?}");
    assert_eq!(response.head.get("Cache-Control"), Some("no-store"));
    let line = gate.log.next("logout");
    assert_eq!((&line["auth"], &line["ended"]), (&json!("users"), &json!(ended)), "{line}");
}

fn expect_refused(gate: &Gate, response: &ErrorResponse, rule: &str) {
    assert_eq!((response.head.status(), response.body.as_str()), (400, "{\"error\":\"invalid_request\"}"), "{rule}");
    assert_eq!(response.head.get("Cache-Control"), Some("no-store"), "{rule}");
    assert_eq!(response.head.get("Content-Type"), Some("application/json"), "{rule}");
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["rule"]), (&json!("logout"), &json!(rule)), "{line}");
}

fn open(gate: &Gate, upstream: &Upstream, token: &str) -> Session {
    Session::open_with(gate, upstream, &Request::to("/room/blue").bearer(token), &[])
}

fn status(gate: &Gate, token: &str) -> u16 {
    Client::connect(gate).ask(&Request::to("/room/blue").bearer(token)).head.status()
}

#[test]
fn a_logout_ends_the_sessions_of_the_subject_and_rejects_its_earlier_tokens() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let issued = |subject: &str, iat: u64| token(&json!({ "sub": subject, "iat": iat }));
    let (ada, bob) = (issued("ada", now() - 1), issued("bob", now() - 1));
    let sessions = (open(&gate, &upstream, &ada), open(&gate, &upstream, &bob));
    expect_logged_out(&gate, &logout_token("l1", &json!({})), 1);
    expect_closed(sessions.0, 1008, "revoked");
    assert_eq!(status(&gate, &ada), 401);
    // The next login gets a token that was issued later.
    open(&gate, &upstream, &issued("ada", now() + 2)).close();
    sessions.1.close();
    upstream.assert_untouched();
}

#[test]
fn a_logout_of_one_session_at_the_issuer_keeps_the_others() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let of = |sid: Value| token(&json!({ "sid": sid, "iat": now() - 1 }));
    let (first, second, without) = (of(json!("s1")), of(json!("s2")), of(Value::Null));
    let [ended, kept, unknown] = [&first, &second, &without].map(|token| open(&gate, &upstream, token));
    expect_logged_out(&gate, &logout_token("l1", &json!({ "sid": "s1", "sub": null })), 1);
    expect_closed(ended, 1008, "revoked");
    // With a subject, a token that does not say to which session it belongs is revoked, too.
    let replaced = json!({ "sid": "s1" });
    assert_eq!(log_out(&gate, &logout_token("l2", &replaced)).head.status(), 200);
    expect_closed(unknown, 1008, "revoked");
    assert_eq!((status(&gate, &first), status(&gate, &without)), (401, 401));
    kept.close();
    open(&gate, &upstream, &second).close();
}

/// Each check of section 2.6, at the running proxy. The unit tests of `logout` have all forms of each.
#[test]
fn every_check_of_section_2_6_is_made() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let session = open(&gate, &upstream, &token(&json!({ "iat": now() - 1 })));
    let good = logout_token("l1", &json!({}));
    let parts: Vec<&str> = good.split('.').collect();
    let other = logout_token("l1", &json!({ "sub": "bob" }));
    let table = [
        ("signature", format!("{}.{}.{}", parts[0], parts[1], other.rsplit('.').next().unwrap())),
        ("algorithm_unknown", format!("eyJhbGciOiJub25lIn0.{}.", parts[1])),
        ("not_compact", parts[1].to_owned()),
        ("too_long", logout_token("l1", &json!({ "pad": "a".repeat(6100) }))),
        ("type", signed_as(r#"{"alg":"ES256","typ":"at+jwt"}"#, &claims("l1", &json!({})))),
        ("issuer", logout_token("l1", &json!({ "iss": "https://evil.example/" }))),
        ("audience", logout_token("l1", &json!({ "aud": "other" }))),
        ("issued", logout_token("l1", &json!({ "iat": null }))),
        ("issued", logout_token("l1", &json!({ "iat": now() + 600 }))),
        ("expires", logout_token("l1", &json!({ "exp": null }))),
        ("expires", logout_token("l1", &json!({ "exp": now() - 1 }))),
        ("target", logout_token("l1", &json!({ "sub": null }))),
        ("events", logout_token("l1", &json!({ "events": null }))),
        ("events", logout_token("l1", &json!({ "events": { EVENT: "x" } }))),
        ("nonce", logout_token("l1", &json!({ "nonce": "n" }))),
        ("jti", logout_token("l1", &json!({ "jti": null }))),
        // An access token, which its holder could send.
        ("audience", token(&json!({ "iat": now() }))),
    ];
    for (rule, token) in table {
        secrets::remember(&token);
        expect_refused(&gate, &log_out(&gate, &token), rule);
    }
    expect_logged_out(&gate, &good, 1);
    expect_refused(&gate, &log_out(&gate, &good), "replayed");
    expect_closed(session, 1008, "revoked");
}

/// The audience of a logout token is not that of the tokens that admit clients, so the issuer selects the section.
#[test]
fn the_section_of_the_issuer_decides_if_several_share_a_path() {
    let upstream = Upstream::bind();
    let other = "[auth.another]\nissuer = \"https://another.example/\"\naudience = [\"chat\"]\nalgorithms = [\"ES256\"]\n\
                 public_key_file = \"token.pem\"\nbackchannel_logout_path = \"/logout\"\n\
                 backchannel_logout_audience = [\"web\"]\n\
                 [[route]]\nname = \"another\"\npath = \"/another\"\nupstream = \"main\"\nauth = \"another\"\n";
    let gate = setup().more(other).start(&upstream);
    expect_logged_out(&gate, &logout_token("of users", &json!({})), 0);
    let of_another = logout_token("of another", &json!({ "iss": "https://another.example/" }));
    assert_eq!(log_out(&gate, &of_another).head.status(), 200);
    assert_eq!(gate.log.next("logout")["auth"], "another");
    expect_refused(
        &gate,
        &log_out(&gate, &logout_token("of none", &json!({ "iss": "https://none.example/" }))),
        "issuer",
    );
}

#[test]
fn a_request_that_is_not_a_form_with_one_token_is_refused() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let (token, other) = (logout_token("l1", &json!({})), logout_token("l2", &json!({})));
    for (content_type, body) in [
        ("application/json", format!("logout_token={token}")),
        ("application/x-www-form-urlencoded-too", format!("logout_token={token}")),
        (FORM, String::new()),
        (FORM, format!("token={token}")),
        (FORM, format!("logout_token={token}&logout_token={other}")),
        (FORM, format!("logout_token={token}&pad={}", "a".repeat(16 << 10))),
    ] {
        expect_refused(&gate, &post(&gate, "/logout", content_type, &body), "form");
    }
    // Only the body of a POST to this path on a host of the section is a logout.
    let query = post(&gate, &format!("/logout?logout_token={token}"), FORM, "");
    expect_refused(&gate, &query, "form");
    assert_eq!(post(&gate, "/logout/", FORM, &format!("logout_token={token}")).head.status(), 426);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/logout")).head.status(), 404);
    let body = format!("state=1&logout_token={}", token.replace('.', "%2E"));
    assert_eq!(post(&gate, "/logout", "Application/X-WWW-Form-Urlencoded; charset=utf-8", &body).head.status(), 200);
}

#[test]
fn logouts_are_received_on_the_hosts_of_the_routes_and_charged_to_the_address() {
    let upstream = Upstream::bind();
    let section =
        "[[route]]\nname = \"other\"\nhost = \"other.example\"\npath = \"/\"\nupstream = \"main\"\nauth = \"none\"";
    let gate = Setup::new()
        .server("upgrade_rate = \"2/h\"")
        .auth("backchannel_logout_path = \"/logout\"\nbackchannel_logout_audience = [\"web\"]")
        .more(section)
        .start(&upstream);
    expect_logged_out(&gate, &logout_token("l1", &json!({})), 0);
    expect_refused(&gate, &log_out(&gate, "x"), "not_compact");
    assert_eq!(log_out(&gate, &logout_token("l2", &json!({}))).head.status(), 429);
}

/// The interim response 100 shows that the proxy waits for a body (RFC 9110 section 10.1.1).
#[test]
fn the_logouts_of_one_address_whose_bodies_are_awaited_are_limited() {
    let upstream = Upstream::bind();
    let gate = start(&upstream);
    let waiting = "Content-Length: 1\r\nExpect: 100-continue\r\n\r\n";
    let head = format!("POST /logout HTTP/1.1\r\nHost: chat.example.com\r\nContent-Type: {FORM}\r\n{waiting}");
    let mut slow: Vec<Client> = (0..16).map(|_| Client::connect(&gate)).collect();
    for client in &mut slow {
        client.send(head.as_bytes());
        assert_eq!(client.head().status(), 100);
    }
    let response = log_out(&gate, &logout_token("l1", &json!({})));
    assert_eq!(response.head.status(), 503, "{response:?}");
    // Another address has its own limit.
    let mut other = Client::connect_from(&gate, [127, 0, 0, 2]);
    other.send(head.as_bytes());
    assert_eq!(other.head().status(), 100);
    slow[0].send(b"x");
    assert_eq!(slow[0].response().head.status(), 400);
    assert_eq!(log_out(&gate, &logout_token("l1", &json!({}))).head.status(), 200);
}

#[test]
fn a_logout_token_admits_no_client() {
    let upstream = Upstream::bind();
    let gate = setup().start(&upstream);
    let access = logout_token("l1", &json!({ "aud": ["web", crate::support::pki::AUDIENCE], "room": "blue" }));
    assert_eq!(status(&gate, &access), 401);
    assert_eq!(gate.log.next("refused")["rule"], json!("logout_token"));
}

#[test]
fn a_logout_is_listed_and_outlives_a_killed_process() {
    let (upstream, api, state) = (Upstream::bind(), Api::new(), crate::support::gate::Folder::new());
    let start = || {
        let directory = format!("state_dir = {:?}", state.path(""));
        setup().server(&directory).more(&api.section()).start(&upstream)
    };
    let gate = start();
    let ada = token(&json!({ "iat": now() - 1 }));
    expect_logged_out(&gate, &logout_token("l1", &json!({})), 0);
    let listed = &api.get("/v1/revocations")["revocations"][0];
    assert_eq!((&listed["subject"], &listed["reason"]), (&json!("ada"), &json!("back-channel logout")));
    drop(gate);
    assert_eq!(status(&start(), &ada), 401);
}

/// `hsts` and `server_header` of a route apply to the answers at the logout path of its section.
#[test]
fn the_answers_to_a_logout_have_the_headers_of_the_route() {
    let upstream = Upstream::bind();
    let gate = setup().route("hsts = \"1d\"\nserver_header = true").start(&upstream);
    for (token, status) in [(logout_token("headers", &json!({})), 200), ("none".to_owned(), 400)] {
        let head = log_out(&gate, &token).head;
        let found = (head.status(), head.get("Strict-Transport-Security"), head.get("Server"));
        assert_eq!(found, (status, Some("max-age=86400"), Some("tollgate")), "{head:?}");
    }
}
