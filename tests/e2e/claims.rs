//! Claims of any shape: requirements, the subject, and the token at the upstream.

use serde_json::{Value, json};

use crate::support::pki::{good_token, token};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

fn room() -> Request {
    Request::to("/room/blue")
}

/// Returns a route for the tokens of `users` with these keys.
fn route(name: &str, keys: &str) -> String {
    format!(
        "[[route]]\nname = \"{name}\"\npath = \"/{name}/{{room}}\"\nupstream = \"main\"\nauth = \"users\"\n{keys}\n"
    )
}

#[test]
fn conditions_on_claims_decide_and_the_log_names_the_claim_that_fails() {
    let upstream = Upstream::bind();
    let keys = "require = { \"realm_access.roles\" = [\"editor\", \"{room}\"], level = [1, 2], verified = true, \
                \"https://example.com/org\" = { present = true }, \"/resource_access/chat.web/roles\" = \"write\" }\n\
                forward_claims = { \"/realm_access/roles\" = \"X-Roles\", \"https://example.com/org\" = \"X-Org\" }";
    let gate = Setup::new().more(&route("chat", keys)).start(&upstream);
    let with = |changes: Value| {
        let mut claims = json!({
            "realm_access": { "roles": ["viewer", "editor"] },
            "resource_access": { "chat.web": { "roles": ["read", "write"] } },
            "https://example.com/org": "acme", "level": 2, "verified": true,
        });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        Request::to("/chat/blue").bearer(&token(&claims))
    };
    for changes in [json!({}), json!({ "realm_access": { "roles": ["blue"] } }), json!({ "level": "1" })] {
        let session = Session::open_with(&gate, &upstream, &with(changes.clone()), &[]);
        assert_eq!(session.asked.get("X-Org"), Some("acme"), "{changes}");
        session.close();
    }
    let session = Session::open_with(&gate, &upstream, &with(json!({})), &[]);
    assert_eq!(session.asked.get("X-Roles"), Some("viewer,editor"));
    session.close();

    let table = [
        (json!({ "realm_access": { "roles": ["viewer", "red"] } }), "realm_access.roles"),
        (json!({ "realm_access": null }), "realm_access.roles"),
        // A top-level claim with the name of the path does not replace the nested one.
        (json!({ "realm_access": { "roles": ["viewer"] }, "realm_access.roles": ["editor"] }), "realm_access.roles"),
        (json!({ "level": 3 }), "level"),
        (json!({ "level": 2.5 }), "level"),
        (json!({ "verified": false }), "verified"),
        (json!({ "verified": null }), "verified"),
        (json!({ "https://example.com/org": "" }), "https://example.com/org"),
        (json!({ "https://example.com/org": null }), "https://example.com/org"),
        (
            json!({ "resource_access": { "chat": { "web": { "roles": ["write"] } } } }),
            "/resource_access/chat.web/roles",
        ),
    ];
    for (changes, claim) in table {
        assert_eq!(Client::connect(&gate).ask(&with(changes.clone())).head.status(), 403, "{changes}");
        let line = gate.log.next("refused");
        assert_eq!((&line["cause"], &line["claim"]), (&json!("claims"), &json!(claim)), "{changes}");
    }
    upstream.assert_untouched();
}

#[test]
fn another_claim_can_identify_the_client() {
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .auth("subject_claim = \"user.id\"")
        .log("session_start = \"info\"")
        .room_limits("sessions_per_subject = 1")
        .start(&upstream);
    let of = |sub: &str, id: Value| room().bearer(&token(&json!({ "sub": sub, "user": { "id": id } })));
    let first = Session::open_with(&gate, &upstream, &of("ada", json!("u1")), &[]);
    assert_eq!(gate.log.next("session started")["subject"], json!("u1"));
    // The same user under another `sub` is the same subject, and another user under the same `sub` is not.
    assert_eq!(Client::connect(&gate).ask(&of("bob", json!("u1"))).head.status(), 429);
    assert_eq!(gate.log.next("refused")["subject"], json!("u1"));
    let second = Session::open_with(&gate, &upstream, &of("ada", json!("u2")), &[]);
    // The header that `forward_claims` names still carries `sub`.
    assert_eq!(second.asked.get("X-User-Id"), Some("ada"));
    let long = Client::connect(&gate).ask(&of("ada", json!("x".repeat(257))));
    assert_eq!(long.head.status(), 401);
    assert_eq!(gate.log.next("refused")["rule"], json!("subject_too_long"));
    // A claim that the section names is required.
    for missing in [json!(null), json!({}), json!("")] {
        assert_eq!(Client::connect(&gate).ask(&of("ada", missing)).head.status(), 401);
        assert_eq!(gate.log.next("refused")["rule"], json!("subject_missing"));
    }
    [first, second].into_iter().for_each(Session::close);
}

/// Returns the parts of a request at the upstream that can carry a token.
fn carried(session: &Session) -> [Option<&str>; 4] {
    let line = session.asked.first_line.strip_prefix("GET ").and_then(|line| line.strip_suffix(" HTTP/1.1"));
    [line, session.asked.get("Authorization"), session.asked.get("Cookie"), session.asked.get("Sec-WebSocket-Protocol")]
}

#[test]
fn a_forwarded_token_stays_where_the_client_sent_it() {
    let upstream = Upstream::bind();
    let auth = "forward_token = true\ntoken_from = [\"header\", \"cookie:session\", \"query:token\", \
                \"subprotocol:bearer\", \"subprotocol_prefix:token.\"]";
    let origins = "origins = [\"https://a.example\"]";
    let gate = Setup::new().auth(auth).route(origins).log("level = \"trace\"").start(&upstream);
    let (token, other) = (good_token(), self::token(&json!({ "sub": "eve" })));
    let bearer = format!("Bearer {token}");
    let cookie = format!("a=b; session={token}");
    let query = format!("/room/blue?a=1&token={token}");
    let offer = format!("chat, bearer, {token}");
    let prefixed = format!("token.{token}, chat");
    // The tokens of all other sources are removed: they were not verified.
    let others = |request: Request| request.with(&format!("Sec-WebSocket-Protocol: chat, bearer, {other}"));
    let table: [(Request, [Option<&str>; 4]); 6] = [
        (room().bearer(&token), [Some("/room/blue"), Some(&bearer), None, None]),
        (
            others(Request::to(&format!("/room/blue?token={other}")).bearer(&token).with("Cookie: session=x; a=b")),
            [Some("/room/blue"), Some(&bearer), Some("a=b"), Some("chat")],
        ),
        (others(room().with(&format!("Cookie: {cookie}"))), [Some("/room/blue"), None, Some(&cookie), Some("chat")]),
        (others(Request::to(&query)), [Some(&query), None, None, Some("chat")]),
        (room().with(&format!("Sec-WebSocket-Protocol: {offer}")), [Some("/room/blue"), None, None, Some(&offer)]),
        (
            room().with(&format!("Sec-WebSocket-Protocol: {prefixed}")),
            [Some("/room/blue"), None, None, Some(&prefixed)],
        ),
    ];
    for (request, expected) in table {
        let session = Session::open_with(&gate, &upstream, &request, &[]);
        assert_eq!(carried(&session), expected, "{request:?}");
        assert_eq!(session.asked.get("X-User-Id"), Some("ada"));
        session.close();
    }
    // The upstream sees the marker, and selects it itself.
    let request = room().with(&format!("Sec-WebSocket-Protocol: {offer}"));
    let session = Session::open_with(&gate, &upstream, &request, &["Sec-WebSocket-Protocol: bearer"]);
    assert_eq!(session.answer.get("Sec-WebSocket-Protocol"), Some("bearer"));
    session.close();
}

#[test]
fn only_the_section_that_admits_the_client_decides_whether_the_token_is_forwarded() {
    let upstream = Upstream::bind();
    let partners = "[auth.partners]\nissuer = \"partners\"\naudience = [\"chat\"]\nalgorithms = [\"ES256\"]\n\
                    public_key_file = \"token.pem\"\ntoken_from = [\"header\", \"query:token\"]\n";
    let both = route("both", "").replace("auth = \"users\"", "auth = [\"users\", \"partners\"]");
    let gate = Setup::new().auth("forward_token = true").more(&format!("{partners}{both}")).start(&upstream);
    let (ours, theirs) = (good_token(), token(&json!({ "iss": "partners", "aud": "chat" })));
    let both = Request::to("/both/x");
    let bearer = format!("Bearer {ours}");
    let table: [(Request, [Option<&str>; 4]); 3] = [
        (both.clone().bearer(&ours), [Some("/both/x"), Some(&bearer), None, None]),
        (both.bearer(&theirs), [Some("/both/x"), None, None, None]),
        (Request::to(&format!("/both/x?token={theirs}")).bearer(&ours), [Some("/both/x"), Some(&bearer), None, None]),
    ];
    for (request, expected) in table {
        let session = Session::open_with(&gate, &upstream, &request, &[]);
        assert_eq!(carried(&session), expected, "{request:?}");
        session.close();
    }
}
