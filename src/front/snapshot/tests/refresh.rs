//! Renewals of open sessions by a fresh token.

use http::Method;
use http::header::{AUTHORIZATION, COOKIE};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

use super::*;
use crate::policy::recheck::OpenSession;
use crate::policy::refresh::{RefreshToken, Renewal};
use crate::policy::session_slots::Holder;

/// The time of the tests, since the Unix epoch.
const UNIX: Duration = Duration::from_secs(1_800_000_000);

fn clocks() -> Clocks {
    Clocks { instant: clock::now(), unix: UNIX }
}

fn token(claims: &Value) -> String {
    let mut all = json!({ "iss": "a", "sub": "ann", "exp": UNIX.as_secs() + 600, "room": "blue", "sid": "1" });
    for (name, value) in claims.as_object().unwrap() {
        all[name] = value.clone();
    }
    all.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    let key = EncodingKey::from_secret(b"a secret of thirty-two bytes ...");
    jsonwebtoken::encode(&Header::new(jsonwebtoken::Algorithm::HS256), &all, &key).unwrap()
}

/// Returns a snapshot in which two sections accept the tokens of the tests from different sources, and `/{room}` has
/// `/refresh` as its refresh path.
fn snapshot(sources: &str) -> Snapshot {
    let sections = format!(
        "[auth.people]\nsecret_file = \"secret\"\nalgorithms = [\"HS256\"]\ntoken_from = [\"query:t\"]\n\
         [auth.users]\ntoken_from = {sources}"
    );
    let route = "auth = [\"users\", \"people\"]\nrequire = { room = \"{room}\" }\nrefresh_path = \"/refresh\"\n\
                 origins = [\"https://a.example\"]";
    let replacements =
        [("[auth.users]", &*sections), ("path = \"/feed\"", "path = \"/{room}\""), ("auth = \"users\"", route)];
    build(None, &config(&InMemory::new(), &replacements), &Arc::default())
}

fn facts<'a>(path: &'a str, query: Option<&'a str>, headers: &'a HeaderMap) -> RequestFacts<'a> {
    RequestFacts {
        kind: RequestKind::Http(&Method::POST),
        authority: "a.example",
        path,
        query,
        origin: Some(b"https://a.example"),
        headers,
        protocols: &[],
        address: CLIENT,
        scheme: Scheme::Https,
        id: 1,
    }
}

fn renewal(snapshot: &Snapshot, facts: &RequestFacts<'_>) -> Result<Renewal, Rejected> {
    let route = snapshot.policy().refreshed_route(facts.authority, facts.path).unwrap();
    let reject = |rejection| Rejected { route: Some(Arc::clone(route.name())), ..Rejected::from(rejection) };
    Renewal::of_token(route, &RefreshToken::of_request(route, facts).map_err(reject)?, clocks())
}

fn with(name: http::HeaderName, value: &str) -> HeaderMap {
    HeaderMap::from_iter([(name, value.parse().unwrap())])
}

/// Admits a session at `/blue` with a token of these claims.
fn admitted(snapshot: &Snapshot, claims: &Value) -> Admission {
    let headers = with(AUTHORIZATION, &format!("Bearer {}", token(claims)));
    let opening = RequestFacts { kind: RequestKind::WebSocket, ..facts("/blue", None, &headers) };
    snapshot.policy().admit(&opening, clocks()).unwrap()
}

fn open_session(admission: &Admission) -> OpenSession<'_> {
    let holder = Holder { id: 1, opened: clocks().instant };
    let (route, grant) = (admission.route(), admission.grant());
    OpenSession { route, grant, path: Some("/blue"), server: "127.0.0.1:9002", holder }
}

#[test]
fn a_token_renews_the_sessions_of_the_same_login_whose_requirements_it_meets() {
    let snapshot = snapshot("[\"header\"]");
    // The claims of the first token, those of the fresh one, and whether it renews the session at `/blue`.
    let table = [
        (json!({}), json!({}), true),
        (json!({}), json!({ "exp": UNIX.as_secs() + 6000, "jti": "2", "iat": 1 }), true),
        (json!({ "sid": null }), json!({ "sid": null }), true),
        (json!({ "iss": null }), json!({ "iss": null }), true),
        (json!({}), json!({ "sub": "bob" }), false),
        (json!({}), json!({ "iss": "b" }), false),
        (json!({}), json!({ "iss": null }), false),
        (json!({}), json!({ "sid": "2" }), false),
        (json!({}), json!({ "sid": null }), false),
        (json!({ "sid": null }), json!({}), false),
        (json!({}), json!({ "room": "red" }), false),
        (json!({}), json!({ "room": null }), false),
    ];
    for (first, fresh, expected) in table {
        let admission = admitted(&snapshot, &first);
        let session = open_session(&admission);
        let headers = with(AUTHORIZATION, &format!("Bearer {}", token(&fresh)));
        let renewal = renewal(&snapshot, &facts("/refresh", None, &headers)).unwrap();
        assert_eq!(renewal.renews(&session), expected, "{first}, then {fresh}");
        // The same token by another section is another identity.
        let query = format!("t={}", token(&fresh));
        let headers = HeaderMap::new();
        let other = self::renewal(&snapshot, &facts("/refresh", Some(&query), &headers)).unwrap();
        assert!(!other.renews(&session), "{first}, then {fresh} by another section");
    }
}

#[test]
fn a_token_of_another_node_replaces_no_later_one() {
    let snapshot = snapshot("[\"header\"]");
    let exp = |seconds: u64| json!({ "exp": UNIX.as_secs() + seconds });
    for (first, fresh, expected) in [(1000, 2000, true), (2000, 2000, true), (2000, 1000, false)] {
        let admission = admitted(&snapshot, &exp(first));
        let session = open_session(&admission);
        let headers = with(AUTHORIZATION, &format!("Bearer {}", token(&exp(fresh))));
        let renewal = renewal(&snapshot, &facts("/refresh", None, &headers)).unwrap();
        assert!(renewal.renews(&session), "{first}, then {fresh} from the client");
        assert_eq!(renewal.of_other_node().renews(&session), expected, "{first}, then {fresh} from another node");
    }
}

#[test]
fn a_cookie_is_read_only_with_an_origin() {
    let snapshot = snapshot("[\"cookie:session\"]");
    let (cookie, bearer) = (format!("session={}", token(&json!({}))), format!("Bearer {}", token(&json!({}))));
    let rejection = |headers: &HeaderMap, origin| {
        let facts = RequestFacts { origin, ..facts("/refresh", None, headers) };
        renewal(&snapshot, &facts).err().map(|rejected| rejected.rejection)
    };
    let (cookie, bearer) = (with(COOKIE, &cookie), with(AUTHORIZATION, &bearer));
    let mut both = cookie.clone();
    both.extend(bearer.clone());
    assert_eq!(rejection(&cookie, Some(b"https://a.example".as_slice())), None);
    assert_eq!(rejection(&cookie, None), Some(Rejection::Origin));
    assert_eq!(rejection(&both, None), Some(Rejection::Origin));
    // `Authorization` is read although no section lists it.
    assert_eq!(rejection(&bearer, None), None);
    assert_eq!(rejection(&bearer, Some(b"https://b.example".as_slice())), Some(Rejection::Origin));
    assert_eq!(rejection(&HeaderMap::new(), None), Some(Rejection::NoToken));
}
