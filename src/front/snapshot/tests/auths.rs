//! Admission by several `[auth]` sections of one route.

use jsonwebtoken::{Algorithm, EncodingKey, Header};

use super::*;

const UNIX: Duration = Duration::from_secs(1_800_000_000);

/// Returns a token of this issuer, signed with this secret of the tests.
fn token(issuer: Option<&str>, secret: &[u8]) -> String {
    let mut claims = serde_json::json!({ "sub": "ann", "exp": UNIX.as_secs() + 600 });
    if let Some(issuer) = issuer {
        claims["iss"] = issuer.into();
    }
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret)).unwrap()
}

/// Three sections: two read the same header and differ by issuer and key, and the third has the key of the first, no
/// issuer, and another source.
fn policy() -> Arc<Policy> {
    let (files, counters) = (InMemory::new(), Arc::default());
    let sections = "
        [auth.people]
        secret_file = \"secret\"
        algorithms = [\"HS256\"]
        issuer = \"people\"
        [auth.machines]
        secret_file = \"other\"
        algorithms = [\"HS256\"]
        issuer = \"machines\"
        [auth.users]";
    let replacements = [
        ("[auth.users]", sections),
        ("algorithms = [\"HS256\"]\n        [upstream.blue]", LAST),
        ("auth = \"users\"", "auth = [\"people\", \"machines\", \"users\"]\n[route.limits]\nsessions_per_subject = 1"),
    ];
    Arc::clone(build(None, &config(&files, &replacements), &counters).policy())
}

const LAST: &str = "algorithms = [\"HS256\"]\ntoken_from = [\"query:token\"]\n[upstream.blue]";
const SECRET: &[u8] = b"a secret of thirty-two bytes ...";
const OTHER: &[u8] = b"another secret of thirty-two b. ";

/// Admits a request with these tokens in `Authorization` and in the query. The error is the rule that it does not meet.
fn admission(policy: &Policy, header: Option<&str>, query: Option<&str>) -> Result<Admission, &'static str> {
    let mut headers = HeaderMap::new();
    if let Some(token) = header {
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
    }
    let query = query.map(|token| format!("token={token}"));
    let facts = RequestFacts {
        kind: RequestKind::WebSocket,
        authority: "a.example",
        path: "/feed",
        query: query.as_deref(),
        origin: None,
        headers: &headers,
        protocols: &[],
        address: CLIENT,
        scheme: Scheme::Https,
        id: 1,
    };
    let admitted = policy.admit(&facts, Clocks { instant: clock::now(), unix: UNIX });
    let detail = |rejection: Rejection| rejection.detail().unwrap_or(rejection.label());
    admitted.map_err(|rejected| detail(rejected.rejection))
}

/// As `admission`, and returns the name of the section.
fn admitted(policy: &Policy, header: Option<&str>, query: Option<&str>) -> Result<String, &'static str> {
    Ok(admission(policy, header, query)?.grant().auth.as_deref().unwrap().to_owned())
}

#[test]
fn the_first_section_that_recognizes_the_credential_decides() {
    let policy = policy();
    let (people, machines) = (token(Some("people"), SECRET), token(Some("machines"), OTHER));
    let (forged, unknown) = (token(Some("people"), OTHER), token(Some("nobody"), SECRET));
    let plain = token(None, SECRET);
    let table: &[(Option<&str>, Option<&str>, Result<&str, &str>)] = &[
        (Some(&people), None, Ok("people")),
        (Some(&machines), None, Ok("machines")),
        (None, Some(&plain), Ok("users")),
        (None, Some(&people), Ok("users")),
        // A token that a section recognizes and rejects does not reach another section.
        (Some(&forged), None, Err("signature")),
        (Some(&forged), Some(&plain), Err("signature")),
        // A token that no section recognizes is judged by the first that reads it.
        (Some(&unknown), None, Err("issuer")),
        (Some(&plain), None, Err("issuer")),
        (Some("junk"), None, Err("not_compact")),
        // The first section in order that recognizes one of several credentials decides.
        (Some(&people), Some("junk"), Ok("people")),
        (Some("junk"), Some(&plain), Ok("users")),
        (None, None, Err("no_token")),
    ];
    for (header, query, expected) in table {
        let admitted = admitted(&policy, *header, *query);
        assert_eq!(admitted.as_deref().map_err(|label| *label), *expected, "{header:?} {query:?}");
    }
}

/// Two sections of one issuer differ by their audience.
#[test]
fn a_section_recognizes_tokens_by_issuer_and_audience() {
    let (files, counters) = (InMemory::new(), Arc::default());
    let section = |name: &str| {
        format!(
            "[auth.{name}]\nsecret_file = \"secret\"\nalgorithms = [\"HS256\"]\nissuer = \"people\"\naudience = [\"{name}\"]\n"
        )
    };
    let sections = format!("{}{}[auth.users]", section("web"), section("mobile"));
    let replacements = [("[auth.users]", sections.as_str()), ("auth = \"users\"", "auth = [\"web\", \"mobile\"]")];
    let snapshot = build(None, &config(&files, &replacements), &counters);
    let token = |audience: serde_json::Value| {
        let claims = serde_json::json!({ "sub": "ann", "exp": UNIX.as_secs() + 600, "iss": "people", "aud": audience });
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(SECRET)).unwrap()
    };
    let by = |audience| admitted(snapshot.policy(), Some(&token(audience)), None);
    assert_eq!(by("web".into()).as_deref(), Ok("web"));
    assert_eq!(by("mobile".into()).as_deref(), Ok("mobile"));
    assert_eq!(by(serde_json::json!(["mobile", "web"])).as_deref(), Ok("web"));
    assert_eq!(by("other".into()).as_deref(), Err(&"audience"));
}

#[test]
fn identities_of_different_sections_are_different() {
    let policy = policy();
    let open = |header: Option<&str>, query: Option<&str>| admitted(&policy, header, query);
    let (people, plain) = (token(Some("people"), SECRET), token(None, SECRET));
    // Both tokens have the same subject, and one session per subject is allowed.
    let (first, second) = (admission(&policy, Some(&people), None), admission(&policy, None, Some(&plain)));
    assert!(first.is_ok() && second.is_ok());
    assert_eq!(open(Some(&people), None), Err("subject_sessions"));
    assert_eq!(open(None, Some(&plain)), Err("subject_sessions"));
}

#[test]
fn the_tokens_of_every_section_are_removed() {
    let policy = policy();
    let auth = &policy.routes().named("feed").unwrap().auth;
    let admission = admission(&policy, Some(&token(Some("people"), SECRET)), None).unwrap();
    assert_eq!(admission.stripped().len(), 2, "{:?}", admission.stripped());
    let names: Vec<&str> = auth.methods().iter().map(|method| &*method.name).collect();
    assert_eq!(names, ["people", "machines", "users"]);
}
