use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::json;

use super::*;
use crate::policy::claim_path::ClaimPath;
use crate::policy::expiry::OnExpiry;
use crate::policy::token::{TokenError, TokenRecord, Verifier, VerifierConfig};

const NOW: Duration = Duration::from_secs(1_800_000_000);
const DAY: Duration = Duration::from_hours(24);

/// An Ed25519 key. Its JWK has no `kid` if that is empty.
struct Signer {
    kid: &'static str,
    key: rcgen::KeyPair,
}

impl Signer {
    fn new(kid: &'static str) -> Self {
        Self { kid, key: rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap() }
    }

    fn token(&self) -> String {
        let header = Header { kid: Some(self.kid.to_owned()), ..Header::new(Algorithm::EdDSA) };
        let claims = json!({ "sub": "ada", "exp": NOW.as_secs() + 3600 });
        jsonwebtoken::encode(&header, &claims, &EncodingKey::from_ed_der(&self.key.serialize_der())).unwrap()
    }
}

fn set(signers: &[&Signer]) -> KeySet {
    let keys = signers.iter().map(|signer| {
        let x = URL_SAFE_NO_PAD.encode(signer.key.public_key_raw());
        let mut jwk = json!({ "kty": "OKP", "crv": "Ed25519", "x": x });
        if !signer.kid.is_empty() {
            jwk["kid"] = signer.kid.into();
        }
        jwk
    });
    KeySet::from_server(json!({ "keys": keys.collect::<Vec<_>>() }).to_string().as_bytes()).unwrap()
}

fn remote() -> RemoteKeys {
    let location = KeyLocation::Jwks(HttpUrl::parse("https://id.example.com/keys").unwrap());
    RemoteKeys { location, roots: Roots::System }
}

fn live(now: Instant) -> (Arc<LiveKeys>, Verifier) {
    let live = Arc::new(LiveKeys::new(remote(), now));
    let config = VerifierConfig {
        keys: KeySource::Remote { keys: remote(), stale_for: DAY },
        algorithms: vec![Algorithm::EdDSA],
        issuer: None,
        audience: Vec::new(),
        subject_claim: ClaimPath::registered("sub"),
        leeway: Duration::ZERO,
        on_expiry: OnExpiry::default(),
        sources: Vec::new(),
        forward_token: false,
        max_bytes: 8192,
        claims: Vec::new(),
    };
    let verifier = Verifier::with_live_keys(config, Arc::clone(&live));
    (live, verifier)
}

fn replace(live: &LiveKeys, signers: &[&Signer], now: Instant) -> KeysChanged {
    live.schedule().start();
    live.replace(set(signers), None, now, 0)
}

#[test]
fn no_token_is_accepted_before_the_keys_are_there() {
    let now = Instant::now();
    let (live, verifier) = live(now);
    let signer = Signer::new("a");
    let token = signer.token();
    assert_eq!(verifier.check_keys(now), Err(KeysUnavailable { retry_after_secs: 1 }));
    assert_eq!(verifier.key_need(&token, now), KeyNeed::Keys);
    assert_eq!(verifier.verify(&token, NOW), Err(TokenError::KeyUnknown));
    let changed = replace(&live, &[&signer], now);
    assert_eq!(changed, KeysChanged { is_first: true, added: 1, removed: 0 });
    assert_eq!(verifier.check_keys(now), Ok(()));
    assert_eq!(verifier.key_need(&token, now), KeyNeed::Nothing);
    assert_eq!(verifier.verify(&token, NOW).unwrap().subject(), Some("ada"));
    assert_eq!(live.fetches(), (1, 0));
}

#[test]
fn keys_are_kept_over_an_outage_until_they_are_too_old() {
    let now = Instant::now();
    let (live, verifier) = live(now);
    let signer = Signer::new("a");
    replace(&live, &[&signer], now);
    live.schedule().start();
    live.keep(now + DAY / 2, 0);
    let before = now + Duration::from_millis(86_399_999);
    assert_eq!((verifier.check_keys(before), live.age(before)), (Ok(()), Some(before - now)));
    assert_eq!(verifier.key_need(&signer.token(), before), KeyNeed::Nothing);
    assert!(verifier.check_keys(now + DAY).is_err());
    assert_eq!(verifier.key_need(&signer.token(), now + DAY), KeyNeed::Keys);
    // Sessions that are open are not affected: an outage is not a revocation.
    let claims = verifier.verify(&signer.token(), NOW).unwrap();
    let record = TokenRecord::new(&signer.token(), &claims).unwrap();
    assert!(verifier.recheck(&record, NOW).is_ok());
    replace(&live, &[&signer], now + DAY);
    assert_eq!(verifier.check_keys(now + DAY), Ok(()));
    assert_eq!(live.fetches(), (2, 1));
}

#[test]
fn a_key_that_leaves_the_set_invalidates_what_it_verified() {
    let now = Instant::now();
    let (live, verifier) = live(now);
    let (old, new) = (Signer::new("old"), Signer::new("new"));
    replace(&live, &[&old], now);
    let token = old.token();
    let claims = verifier.verify(&token, NOW).unwrap();
    let record = TokenRecord::new(&token, &claims).unwrap();
    let changed = replace(&live, &[&old, &new], now);
    assert_eq!(changed, KeysChanged { is_first: false, added: 1, removed: 0 });
    assert!(verifier.verify(&token, NOW).is_ok() && !verifier.lost_key_of(&record));
    let changed = replace(&live, &[&new], now);
    assert_eq!(changed, KeysChanged { is_first: false, added: 0, removed: 1 });
    // The token is in the cache, and rejected.
    assert_eq!(verifier.verify(&token, NOW), Err(TokenError::KeyUnknown));
    assert_eq!(verifier.recheck(&record, NOW), Err(TokenError::KeyUnknown));
    assert!(verifier.lost_key_of(&record));
    // The same key under another name is the same key, but the token does not name it.
    let renamed = Signer { kid: "renamed", key: old.key };
    replace(&live, &[&renamed, &new], now);
    assert!(!verifier.lost_key_of(&record) && verifier.verify(&token, NOW).is_ok());
}

#[test]
fn a_session_is_kept_while_the_keys_of_a_new_source_are_not_there_yet() {
    let now = Instant::now();
    let (before, verifier) = live(now);
    let (signer, other) = (Signer::new("a"), Signer::new("b"));
    replace(&before, &[&signer], now);
    let claims = verifier.verify(&signer.token(), NOW).unwrap();
    let record = TokenRecord::new(&signer.token(), &claims).unwrap();
    let (after, verifier) = live(now);
    assert!(verifier.recheck(&record, NOW).is_ok() && !verifier.lost_key_of(&record));
    replace(&after, &[&other], now);
    assert!(verifier.lost_key_of(&record));
}

#[test]
fn only_an_unknown_key_of_an_allowed_algorithm_is_worth_a_fetch() {
    let now = Instant::now();
    let (live, verifier) = live(now);
    let (known, unknown) = (Signer::new("a"), Signer::new("b"));
    replace(&live, &[&known], now);
    assert_eq!(verifier.key_need(&unknown.token(), now), KeyNeed::NamedKey);
    let token = |header: &str| format!("{}.e30.AAAA", URL_SAFE_NO_PAD.encode(header));
    for (header, expected) in [
        (r#"{"alg":"EdDSA","kid":"b"}"#, KeyNeed::NamedKey),
        (r#"{"alg":"EdDSA","kid":"a"}"#, KeyNeed::Nothing),
        (r#"{"alg":"EdDSA"}"#, KeyNeed::Nothing),
        (r#"{"alg":"RS256","kid":"b"}"#, KeyNeed::Nothing),
        (r#"{"alg":"none","kid":"b"}"#, KeyNeed::Nothing),
        (r#"{"alg":"EdDSA","kid":7}"#, KeyNeed::Nothing),
        (r#"{"alg":"EdDSA","kid":"b","crit":["x"]}"#, KeyNeed::Nothing),
        ("{", KeyNeed::Nothing),
    ] {
        assert_eq!(verifier.key_need(&token(header), now), expected, "{header}");
    }
    let long = format!("{}{}", token(r#"{"alg":"EdDSA","kid":"b"}"#), "A".repeat(8192));
    assert_eq!((verifier.key_need(&long, now), verifier.key_need("", now)), (KeyNeed::Nothing, KeyNeed::Nothing));
}

#[test]
fn an_unknown_key_is_worth_a_fetch_although_a_key_has_no_name() {
    let now = Instant::now();
    let (live, verifier) = live(now);
    let (nameless, named, new) = (Signer::new(""), Signer::new("a"), Signer::new("b"));
    replace(&live, &[&nameless, &named], now);
    assert_eq!(verifier.key_need(&named.token(), now), KeyNeed::Nothing);
    assert_eq!(verifier.key_need(&new.token(), now), KeyNeed::NamedKey);
    // The key without a name verifies a token with any name.
    let other_name = Signer { kid: "c", key: nameless.key };
    assert_eq!(verifier.key_need(&other_name.token(), now), KeyNeed::Nothing);
    assert!(verifier.verify(&other_name.token(), NOW).is_ok());
    assert_eq!(verifier.key_need(&other_name.token(), now), KeyNeed::Nothing, "it is cached");
    replace(&live, &[&new], now);
    assert_eq!(verifier.key_need(&new.token(), now), KeyNeed::Nothing);
    assert_eq!(verifier.key_need(&other_name.token(), now), KeyNeed::NamedKey, "its key has left the set");
}

#[test]
fn an_equal_set_stays_the_same_object() {
    let now = Instant::now();
    let (live, _) = live(now);
    let signer = Signer::new("a");
    replace(&live, &[&signer], now);
    let first = live.current().unwrap();
    let later = now + Duration::from_secs(1);
    let changed = replace(&live, &[&signer], later);
    let second = live.current().unwrap();
    assert_eq!(changed, KeysChanged { is_first: false, added: 0, removed: 0 });
    assert!(Arc::ptr_eq(&first.keys, &second.keys) && second.fetched == later);
}

#[test]
fn shared_secrets_of_a_server_are_not_used() {
    let secret = json!({ "kty": "oct", "kid": "s", "alg": "HS256", "k": URL_SAFE_NO_PAD.encode([7; 32]) });
    let body = json!({ "keys": [secret] }).to_string();
    assert!(KeySet::from_server(body.as_bytes()).is_err());
    let signer = Signer::new("a");
    assert_eq!(set(&[&signer]).count_for(&[Algorithm::EdDSA]), 1);
    assert_eq!(set(&[&signer]).count_for(&[Algorithm::ES256]), 0);
}

#[test]
fn the_configuration_of_an_issuer_is_below_its_url() {
    for (issuer, expected) in [
        ("https://id.example.com", Some("https://id.example.com/.well-known/openid-configuration")),
        ("https://id.example.com/", Some("https://id.example.com/.well-known/openid-configuration")),
        ("https://id.example.com/realms/a", Some("https://id.example.com/realms/a/.well-known/openid-configuration")),
        ("https://id.example.com/realms/a/", Some("https://id.example.com/realms/a/.well-known/openid-configuration")),
        ("http://id.example.com", None),
        ("accounts.example.com", None),
    ] {
        let location = KeyLocation::of_issuer(issuer);
        assert_eq!(location.map(|location| location.url().to_string()).as_deref(), expected, "{issuer}");
    }
}
