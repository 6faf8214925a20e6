//! Tests of `logout`: every check of the specification's section 2.6, and what a logout revokes.

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};

use super::super::expiry::OnExpiry;
use super::super::key::KeySet;
use super::super::token::VerifierConfig;
use super::*;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const SECRET: &[u8] = b"a secret of thirty-two bytes ...";

fn endpoint() -> LogoutEndpoint {
    endpoint_with("sub")
}

fn endpoint_with(subject_claim: &str) -> LogoutEndpoint {
    let algorithms = vec![Algorithm::HS256];
    let verifier = Verifier::new(VerifierConfig {
        keys: KeySet::from_secret(SECRET, &algorithms).unwrap().into(),
        algorithms,
        issuer: Some("https://id.example.com/".to_owned()),
        audience: vec!["chat".to_owned()],
        subject_claim: subject_claim.parse().unwrap(),
        leeway: Duration::from_secs(30),
        on_expiry: OnExpiry::default(),
        sources: Vec::new(),
        forward_token: false,
        max_bytes: 2048,
        claims: Vec::new(),
    });
    let kind = AuthKind::Token(Arc::new(verifier));
    LogoutEndpoint {
        method: Arc::new(AuthMethod { name: "users".into(), kind }),
        rules: LogoutRules { path: "/logout".parse().unwrap(), audience: vec!["client".to_owned()] },
        hosts: vec![HostPattern::Any],
    }
}

/// Returns a valid logout token with these replacements; a member that is replaced by `"absent"` is left out.
fn claims(replaced: &Value) -> Value {
    let mut claims = json!({
        "iss": "https://id.example.com/", "aud": "client", "sub": "ada", "sid": "s1", "jti": "t1",
        "iat": NOW.as_secs(), "exp": NOW.as_secs() + 120, "events": { EVENT: {} },
    });
    for (name, value) in replaced.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| value != "absent");
    claims
}

fn signed(header: &Header, claims: &Value, secret: &[u8]) -> String {
    jsonwebtoken::encode(header, claims, &EncodingKey::from_secret(secret)).unwrap()
}

fn verify(replaced: Value) -> Result<Logout, LogoutError> {
    endpoint().verify(&signed(&Header::new(Algorithm::HS256), &claims(&replaced), SECRET), NOW)
}

#[test]
fn every_rule_of_the_specification_is_checked() {
    let table: &[(Value, Result<(), LogoutError>)] = &[
        (json!({}), Ok(())),
        (json!({ "sid": "absent" }), Ok(())),
        (json!({ "sub": "absent" }), Ok(())),
        (json!({ "aud": ["other", "client"] }), Ok(())),
        (json!({ "events": { EVENT: { "more": 1 }, "other": 1 } }), Ok(())),
        (json!({ "unknown": [1] }), Ok(())),
        // Step 4.
        (json!({ "iss": "https://evil.example/" }), Err(LogoutError::Issuer)),
        (json!({ "iss": "absent" }), Err(LogoutError::Issuer)),
        (json!({ "iss": 1 }), Err(LogoutError::Claims)),
        (json!({ "aud": "chat" }), Err(LogoutError::Audience)),
        (json!({ "aud": "absent" }), Err(LogoutError::Audience)),
        (json!({ "aud": [] }), Err(LogoutError::Audience)),
        (json!({ "aud": ["client", 1] }), Err(LogoutError::Claims)),
        (json!({ "iat": "absent" }), Err(LogoutError::Issued)),
        (json!({ "iat": NOW.as_secs() + 30 }), Ok(())),
        (json!({ "iat": NOW.as_secs() + 31 }), Err(LogoutError::Issued)),
        (json!({ "iat": -1 }), Err(LogoutError::Issued)),
        (json!({ "iat": "now" }), Err(LogoutError::Claims)),
        (json!({ "exp": "absent" }), Err(LogoutError::Expires)),
        (json!({ "exp": NOW.as_secs() - 29 }), Ok(())),
        (json!({ "exp": NOW.as_secs() - 30 }), Err(LogoutError::Expires)),
        (json!({ "exp": "never" }), Err(LogoutError::Claims)),
        // Step 5.
        (json!({ "sub": "absent", "sid": "absent" }), Err(LogoutError::Target)),
        (json!({ "sub": null, "sid": null }), Err(LogoutError::Target)),
        (json!({ "sub": "" }), Err(LogoutError::Target)),
        (json!({ "sid": "x".repeat(257) }), Err(LogoutError::Target)),
        (json!({ "sub": 1 }), Err(LogoutError::Claims)),
        // Step 6.
        (json!({ "events": "absent" }), Err(LogoutError::Events)),
        (json!({ "events": {} }), Err(LogoutError::Events)),
        (json!({ "events": [EVENT] }), Err(LogoutError::Events)),
        (json!({ "events": EVENT }), Err(LogoutError::Events)),
        (json!({ "events": { "http://schemas.openid.net/event/other": {} } }), Err(LogoutError::Events)),
        (json!({ "events": { EVENT: true } }), Err(LogoutError::Events)),
        (json!({ "events": { EVENT: [] } }), Err(LogoutError::Events)),
        // Step 7.
        (json!({ "nonce": "n" }), Err(LogoutError::Nonce)),
        (json!({ "nonce": null }), Err(LogoutError::Nonce)),
        // Section 2.4.
        (json!({ "jti": "absent" }), Err(LogoutError::Id)),
        (json!({ "jti": "" }), Err(LogoutError::Id)),
        (json!({ "jti": "x".repeat(257) }), Err(LogoutError::Id)),
    ];
    for (replaced, expected) in table {
        assert_eq!(verify(replaced.clone()).map(drop), *expected, "{replaced}");
    }
}

#[test]
fn the_signature_and_the_algorithm_are_checked_first() {
    let (endpoint, claims) = (endpoint(), claims(&json!({ "iss": "https://evil.example/" })));
    let verify = |token: &str| endpoint.verify(token, NOW).unwrap_err();
    let good = signed(&Header::new(Algorithm::HS256), &claims, SECRET);
    assert_eq!(verify(&good), LogoutError::Issuer);
    let forged = signed(&Header::new(Algorithm::HS256), &claims, b"another secret of thirty-two b. ");
    assert_eq!(verify(&forged), LogoutError::Token(TokenError::Signature));
    let other = signed(&Header::new(Algorithm::HS384), &claims, SECRET);
    assert_eq!(verify(&other), LogoutError::Token(TokenError::AlgorithmNotAllowed));
    let payload = good.split('.').nth(1).unwrap();
    let none = format!("eyJhbGciOiJub25lIn0.{payload}.");
    assert_eq!(verify(&none), LogoutError::Token(TokenError::AlgorithmUnknown));
    assert_eq!(verify("a.b"), LogoutError::Token(TokenError::NotCompact));
    assert_eq!(verify(&"a".repeat(2049)), LogoutError::Token(TokenError::TooLong));
}

#[test]
fn a_token_of_another_type_is_rejected_and_the_type_is_optional() {
    let verify = |kind: Option<&str>| {
        let header = Header { typ: kind.map(str::to_owned), ..Header::new(Algorithm::HS256) };
        endpoint().verify(&signed(&header, &claims(&json!({})), SECRET), NOW).map(drop)
    };
    for kind in [None, Some("logout+jwt"), Some("LOGOUT+JWT"), Some("application/logout+jwt"), Some("JWT")] {
        assert_eq!(verify(kind), Ok(()), "{kind:?}");
    }
    for kind in ["at+jwt", "application/at+jwt", "secevent+jwt", "", "logout"] {
        assert_eq!(verify(Some(kind)), Err(LogoutError::Type), "{kind}");
    }
}

#[test]
fn a_logout_token_is_not_an_access_token() {
    let endpoint = endpoint();
    let AuthKind::Token(verifier) = &endpoint.method.kind else { panic!() };
    let token = |kind: &str| {
        let header = Header { typ: Some(kind.to_owned()), ..Header::new(Algorithm::HS256) };
        signed(&header, &claims(&json!({ "aud": ["client", "chat"] })), SECRET)
    };
    assert_eq!(verifier.verify(&token("logout+jwt"), NOW), Err(TokenError::LogoutToken));
    assert!(verifier.verify(&token("JWT"), NOW).is_ok(), "what an issuer does not mark has to differ in its audience");
}

#[test]
fn a_logout_revokes_the_session_or_all_earlier_tokens_of_the_subject() {
    let end = NOW + Duration::from_secs(3600);
    let revoked = |replaced: Value, now: Duration| -> Vec<(Kind, String, Option<Duration>)> {
        let revocations = verify(replaced).unwrap().revocations("users", now, end);
        assert!(revocations.iter().all(|entry| entry.target.auth() == Some("users") && entry.expires == end));
        let entry = |entry: Revocation| (entry.target.kind(), entry.target.value().to_owned(), entry.issued_before);
        revocations.into_iter().map(entry).collect()
    };
    let (ada, s1, second) = ("ada".to_owned(), "s1".to_owned(), Duration::from_secs(1));
    let expected = [(Kind::Subject, ada.clone(), Some(NOW + second))];
    assert_eq!(revoked(json!({ "sid": "absent" }), NOW), expected);
    let expected = [(Kind::Session, s1.clone(), None)];
    assert_eq!(revoked(json!({ "sub": "absent" }), NOW), expected);
    let expected = [(Kind::Session, s1, None), (Kind::SubjectWithoutSession, ada.clone(), Some(NOW + second))];
    assert_eq!(revoked(json!({}), NOW), expected);
    // A token that arrives later revokes what was issued until then.
    let late = NOW + 60 * second;
    assert_eq!(revoked(json!({ "sid": "absent" }), late), [(Kind::Subject, ada, Some(late))]);
}

/// Without `sub` as the subject, a logout that names only the subject would end nothing, and the issuer has to know.
#[test]
fn a_logout_by_subject_fails_where_another_claim_is_the_subject() {
    let verify = |replaced: Value| {
        let token = signed(&Header::new(Algorithm::HS256), &claims(&replaced), SECRET);
        endpoint_with("email").verify(&token, NOW)
    };
    assert_eq!(verify(json!({ "sid": "absent" })).map(drop), Err(LogoutError::Target));
    let revocations = verify(json!({})).unwrap().revocations("users", NOW, NOW);
    assert_eq!(revocations.iter().map(|entry| entry.target.kind()).collect::<Vec<_>>(), [Kind::Session]);
}

#[test]
fn a_token_is_accepted_once_until_it_expires() {
    let recent = RecentLogouts::default();
    let logout = |jti: &str| verify(json!({ "jti": jti })).unwrap();
    let note = |jti: &str, auth: &str, now: Duration| recent.note(&logout(jti), auth, now);
    assert_eq!(note("t1", "users", NOW), Ok(()));
    assert_eq!(note("t1", "users", NOW), Err(LogoutError::Replayed));
    assert_eq!((note("t2", "users", NOW), note("t1", "partners", NOW)), (Ok(()), Ok(())));
    recent.forget(&logout("t1"), "users");
    assert_eq!(note("t1", "users", NOW), Ok(()), "its logout failed");
    assert_eq!(note("t1", "users", NOW + Duration::from_secs(149)), Err(LogoutError::Replayed));
    // It is forgotten when it has expired: `exp` rejects it from then on.
    assert_eq!(note("t1", "users", NOW + Duration::from_secs(150)), Ok(()));
    for number in 0..RECENT_MAX + 100 {
        assert_eq!(note(&number.to_string(), "users", NOW), Ok(()));
        assert!(recent.0.lock().unwrap().known.len() <= RECENT_MAX);
    }
    let sets = recent.0.lock().unwrap();
    assert_eq!(sets.known.len(), sets.by_end.len());
}

#[test]
fn a_token_that_one_process_accepted_is_rejected_by_the_next() {
    let (old, new) = (RecentLogouts::default(), RecentLogouts::default());
    let logout = |jti: &str| verify(json!({ "jti": jti })).unwrap();
    old.note(&logout("t1"), "users", NOW).unwrap();
    let end = NOW + Duration::from_secs(150);
    assert_eq!(old.export(end), state::RecentLogoutsState::default());
    let bytes = postcard::to_allocvec(&old.export(NOW)).unwrap();
    for _ in 0..2 {
        new.import(postcard::from_bytes(&bytes).unwrap(), NOW);
    }
    assert_eq!(new.note(&logout("t1"), "users", NOW), Err(LogoutError::Replayed));
    assert_eq!((new.note(&logout("t1"), "partners", NOW), new.note(&logout("t2"), "users", NOW)), (Ok(()), Ok(())));
    // More tokens than are remembered: the first to expire is forgotten.
    let many: Vec<(Duration, u128)> =
        (0..=RECENT_MAX).map(|n| (NOW + Duration::from_hours(n as u64 + 1), n as u128)).collect();
    let full = RecentLogouts::default();
    full.import(postcard::from_bytes(&postcard::to_allocvec(&many).unwrap()).unwrap(), NOW);
    let sets = full.0.lock().unwrap();
    assert_eq!((sets.known.len(), sets.by_end.len()), (RECENT_MAX, RECENT_MAX));
    assert!(!sets.known.contains(&RevocationId(0)) && sets.known.contains(&RevocationId(1)));
}

#[test]
fn logouts_are_received_on_the_hosts_of_the_routes() {
    let endpoint = LogoutEndpoint { hosts: vec!["*.example.com".parse().unwrap()], ..endpoint() };
    let serves = |host: &str, path: &str| endpoint.serves(host, &Path::parse(path).unwrap());
    assert!(serves("chat.example.com", "/logout") && serves("chat.example.com", "/%6cogout"));
    assert!(!serves("example.org", "/logout") && !serves("chat.example.com", "/logout/"));
}
