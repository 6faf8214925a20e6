//! Tests of `token`: known attacks on the form and the signature of tokens, and the use of the cache.

use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::Value;

use super::*;

mod claims;
mod keys;
mod subject;

const NOW: Duration = Duration::from_secs(1_800_000_000);
const GOOD: &str = r#"{"sub":"ada","exp":1800000060,"iss":"https://id.example.com/","aud":"chat"}"#;
const MAX_BYTES: usize = 8192;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

/// A key pair: the key that signs, and the public key that verifies.
struct Signer {
    algorithm: Algorithm,
    sign: EncodingKey,
    public_pem: String,
    public_raw: Vec<u8>,
}

impl Signer {
    fn new(algorithm: Algorithm) -> Self {
        type FromPem = fn(&[u8]) -> jsonwebtoken::errors::Result<EncodingKey>;
        let (kind, from_pem): (_, FromPem) = match algorithm {
            Algorithm::ES256 => (&PKCS_ECDSA_P256_SHA256, EncodingKey::from_ec_pem),
            Algorithm::ES384 => (&PKCS_ECDSA_P384_SHA384, EncodingKey::from_ec_pem),
            Algorithm::EdDSA => (&PKCS_ED25519, EncodingKey::from_ed_pem),
            _ => (&PKCS_RSA_SHA256, EncodingKey::from_rsa_pem),
        };
        let pair = KeyPair::generate_for(kind).unwrap();
        let sign = from_pem(pair.serialize_pem().as_bytes()).unwrap();
        let public_raw = pair.public_key_raw().to_vec();
        Self { algorithm, sign, public_pem: pair.public_key_pem(), public_raw }
    }

    fn keys(&self) -> KeySet {
        KeySet::from_public_pem(self.public_pem.as_bytes(), &[self.algorithm]).unwrap()
    }

    fn token(&self, payload: &str) -> String {
        let header = format!(r#"{{"alg":"{:?}","typ":"JWT"}}"#, self.algorithm);
        signed(&header, payload, &self.sign, self.algorithm)
    }
}

fn signed(header: &str, payload: &str, key: &EncodingKey, algorithm: Algorithm) -> String {
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, algorithm).unwrap();
    format!("{message}.{signature}")
}

/// Returns a configuration with the issuer and the audience of [`GOOD`].
pub(in crate::policy) fn parts(keys: KeySet, algorithms: &[Algorithm]) -> VerifierConfig {
    VerifierConfig {
        keys: keys.into(),
        algorithms: algorithms.to_vec(),
        issuer: Some("https://id.example.com/".to_owned()),
        audience: vec!["chat".to_owned(), "chat-admin".to_owned()],
        subject_claim: ClaimPath::registered("sub"),
        leeway: Duration::ZERO,
        on_expiry: OnExpiry::default(),
        sources: vec![TokenSource::Header],
        forward_token: false,
        max_bytes: MAX_BYTES,
        claims: vec![],
    }
}

fn hmac_verifier() -> Verifier {
    Verifier::new(parts(KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap(), &[Algorithm::HS256]))
}

fn hmac_token(header: &str, payload: &str) -> String {
    signed(header, payload, &EncodingKey::from_secret(SECRET), Algorithm::HS256)
}

/// Checks the outcome of a payload with a valid header and signature.
fn check_payload(payload: &str, expected: Result<(), TokenError>) {
    let token = hmac_token(r#"{"alg":"HS256"}"#, payload);
    assert_eq!(hmac_verifier().verify(&token, NOW).map(drop), expected, "{payload}");
}

/// Checks the outcome of a header with a valid payload and signature.
fn check_header(header: &str, expected: Result<(), TokenError>) {
    let token = hmac_token(header, GOOD);
    assert_eq!(hmac_verifier().verify(&token, NOW).map(drop), expected, "{header}");
}

fn with(member: &str) -> String {
    format!(r#"{{"exp":1800000060,"iss":"https://id.example.com/","aud":"chat",{member}}}"#)
}

fn with_exp(exp: &str) -> String {
    format!(r#"{{"iss":"https://id.example.com/","aud":"chat","exp":{exp}}}"#)
}

fn jwks(keys: &[(Option<&str>, &[u8])]) -> KeySet {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(kid, secret)| {
            let mut key = serde_json::json!({"kty": "oct", "k": URL_SAFE_NO_PAD.encode(secret)});
            if let Some(kid) = kid {
                key["kid"] = (*kid).into();
            }
            key
        })
        .collect();
    KeySet::from_jwks(serde_json::json!({ "keys": keys }).to_string().as_bytes(), &[Algorithm::HS256]).unwrap()
}

#[test]
fn every_algorithm_verifies() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    for algorithm in [HS256, HS384, HS512] {
        let keys = KeySet::from_secret(SECRET, &[algorithm]).unwrap();
        let header = format!(r#"{{"alg":"{algorithm:?}"}}"#);
        let token = signed(&header, GOOD, &EncodingKey::from_secret(SECRET), algorithm);
        assert!(Verifier::new(parts(keys, &[algorithm])).verify(&token, NOW).is_ok(), "{algorithm:?}");
    }
    let mut rsa = Signer::new(RS256);
    for algorithm in [RS256, RS384, RS512, PS256, PS384, PS512] {
        rsa.algorithm = algorithm;
        let verifier = Verifier::new(parts(rsa.keys(), &[algorithm]));
        assert!(verifier.verify(&rsa.token(GOOD), NOW).is_ok(), "{algorithm:?}");
    }
    for algorithm in [ES256, ES384, EdDSA] {
        let signer = Signer::new(algorithm);
        let verifier = Verifier::new(parts(signer.keys(), &[algorithm]));
        let claims = verifier.verify(&signer.token(GOOD), NOW).unwrap();
        assert_eq!(claims.subject(), Some("ada"));
        assert_eq!(claims.expires(), Some(NOW + Duration::from_secs(60)));
        let stranger = Signer::new(algorithm);
        assert_eq!(verifier.verify(&stranger.token(GOOD), NOW), Err(TokenError::Signature));
    }
}

#[test]
fn attack_alg_none() {
    for alg in ["none", "None", "NONE", "nOnE", "", "HS", "hs256", "Ed448", "ed25519", "ES512", "ES256K", "dir"] {
        let header = format!(r#"{{"alg":"{alg}"}}"#);
        let unsigned = format!("{}.{}.", URL_SAFE_NO_PAD.encode(&header), URL_SAFE_NO_PAD.encode(GOOD));
        assert_eq!(hmac_verifier().verify(&unsigned, NOW), Err(TokenError::AlgorithmUnknown), "{alg}");
        check_header(&header, Err(TokenError::AlgorithmUnknown));
    }
}

#[test]
fn attack_missing_signature() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    let (message, _) = token.rsplit_once('.').unwrap();
    assert_eq!(hmac_verifier().verify(&format!("{message}."), NOW), Err(TokenError::Signature));
    assert_eq!(hmac_verifier().verify(message, NOW), Err(TokenError::NotCompact));
}

#[test]
fn attack_public_key_as_hmac_secret() {
    for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let signer = Signer::new(algorithm);
        let secret = EncodingKey::from_secret(signer.public_pem.as_bytes());
        let forged = signed(r#"{"alg":"HS256"}"#, GOOD, &secret, Algorithm::HS256);
        let only = Verifier::new(parts(signer.keys(), &[algorithm]));
        assert_eq!(only.verify(&forged, NOW), Err(TokenError::AlgorithmNotAllowed));
        // Even if the operator lists both, the public key is pinned to its own family.
        let both = [algorithm, Algorithm::HS256];
        let keys = KeySet::from_public_pem(signer.public_pem.as_bytes(), &both).unwrap();
        assert_eq!(Verifier::new(parts(keys, &both)).verify(&forged, NOW), Err(TokenError::AlgorithmNotAllowed));
    }
}

#[test]
fn attack_other_algorithm_of_the_same_family() {
    let mut rsa = Signer::new(Algorithm::RS256);
    let verifier = Verifier::new(parts(rsa.keys(), &[Algorithm::RS256, Algorithm::PS256]));
    rsa.algorithm = Algorithm::PS256;
    assert_eq!(verifier.verify(&rsa.token(GOOD), NOW), Err(TokenError::AlgorithmNotAllowed));
    // The header names RS256, and the signature is PS256.
    let mixed = signed(r#"{"alg":"RS256"}"#, GOOD, &rsa.sign, Algorithm::PS256);
    assert_eq!(verifier.verify(&mixed, NOW), Err(TokenError::Signature));
}

#[test]
fn an_algorithm_must_also_be_listed_for_the_section() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    for listed in [&[][..], &[Algorithm::HS384, Algorithm::ES256]] {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        assert_eq!(Verifier::new(parts(keys, listed)).verify(&token, NOW), Err(TokenError::AlgorithmNotAllowed));
    }
}

#[test]
fn attack_crit_and_other_headers() {
    // Members that are not read need only be JSON by their syntax.
    check_header(r#"{"alg":"HS256","x":"\ud800","y":1e400,"\ud801":[{}]}"#, Ok(()));
    check_header(r#"{"alg":"HS256","x":"\q"}"#, Err(TokenError::HeaderMalformed));
    check_header(r#"{"alg":"HS256\ud800"}"#, Err(TokenError::HeaderMalformed));
    check_header(r#"{"alg":"HS256","kid":"\ud800"}"#, Err(TokenError::HeaderMalformed));
    check_header(r#"{"alg":"HS256","\ud800":1,"\ud800":1}"#, Err(TokenError::HeaderDuplicate));
    check_header(r#"{"alg":"HS256","b64": true }"#, Ok(()));
    check_header(r#"{"alg":"HS256","crit":["exp"],"exp":1}"#, Err(TokenError::Critical));
    check_header(r#"{"alg":"HS256","crit":[]}"#, Err(TokenError::Critical));
    check_header(r#"{"alg":"HS256","crit":null}"#, Err(TokenError::Critical));
    check_header(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, Err(TokenError::Critical));
    check_header(r#"{"alg":"HS256","b64":false}"#, Err(TokenError::UnencodedPayload));
    check_header(r#"{"alg":"HS256","b64":"true"}"#, Err(TokenError::UnencodedPayload));
    check_header(r#"{"alg":"HS256","b64":true}"#, Ok(()));
    check_header(r#"{"alg":"HS256","typ":"at+jwt","cty":1,"other":{}}"#, Ok(()));
    check_header(r#" { "alg" : "HS256" } "#, Ok(()));
    for header in [
        "",
        "{",
        "[]",
        "null",
        "\"HS256\"",
        "{}",
        r#"{"alg":null}"#,
        r#"{"alg":["HS256"]}"#,
        r#"{"alg":256}"#,
        r#"{"typ":"JWT"}"#,
        r#"{"alg":"HS256"}{}"#,
        r#"{"alg":"HS256",}"#,
        "{\"alg\":\"HS256\"}\0",
    ] {
        check_header(header, Err(TokenError::HeaderMalformed));
    }
}

#[test]
fn attack_duplicate_members() {
    check_header(r#"{"alg":"HS256","alg":"HS256"}"#, Err(TokenError::HeaderDuplicate));
    check_header(r#"{"alg":"none","alg":"HS256"}"#, Err(TokenError::HeaderDuplicate));
    check_header(r#"{"alg":"HS256","\u0061lg":"none"}"#, Err(TokenError::HeaderDuplicate));
    check_header(r#"{"alg":"HS256","x":1,"x":2}"#, Err(TokenError::HeaderDuplicate));
    check_payload(&with(r#""sub":"ada","sub":"root""#), Err(TokenError::ClaimsDuplicate));
    check_payload(&with(r#""exp":1800000060"#), Err(TokenError::ClaimsDuplicate));
    check_payload(&with(r#""sub":"ada","\u0073ub":"root""#), Err(TokenError::ClaimsDuplicate));
    check_payload(&with(r#""a":{"x":1},"b":{"x":1}"#), Ok(()));
}

#[test]
fn the_length_of_a_token_is_bounded_by_the_section() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, &with(&format!(r#""pad":"{}""#, "x".repeat(12_000))));
    let outcome = |max_bytes| {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        let verifier = Verifier::new(VerifierConfig { max_bytes, ..parts(keys, &[Algorithm::HS256]) });
        verifier.verify(&token, NOW).map(drop)
    };
    assert_eq!(outcome(token.len()), Ok(()));
    assert_eq!(outcome(token.len() - 1), Err(TokenError::TooLong));
}

#[test]
fn attack_psychic_signature() {
    for (algorithm, bytes) in [(Algorithm::ES256, 64), (Algorithm::ES384, 96), (Algorithm::EdDSA, 64)] {
        let signer = Signer::new(algorithm);
        let verifier = Verifier::new(parts(signer.keys(), &[algorithm]));
        let token = signer.token(GOOD);
        let (message, good) = token.rsplit_once('.').unwrap();
        let good = URL_SAFE_NO_PAD.decode(good).unwrap();
        let mut flipped = good.clone();
        flipped[0] ^= 1;
        for signature in
            [vec![0; bytes], vec![0xff; bytes], vec![], good[1..].to_vec(), [&good[..], &[0]].concat(), flipped]
        {
            let forged = format!("{message}.{}", URL_SAFE_NO_PAD.encode(signature));
            assert_eq!(verifier.verify(&forged, NOW), Err(TokenError::Signature));
        }
    }
}

#[test]
fn attack_signature_in_der_form() {
    // JWS concatenates r and s (RFC 7518 section 3.4) and does not use the DER form of TLS.
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    let keys = KeySet::from_public_pem(pair.public_key_pem().as_bytes(), &[Algorithm::ES256]).unwrap();
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#), URL_SAFE_NO_PAD.encode(GOOD));
    let der = rcgen::SigningKey::sign(&pair, message.as_bytes()).unwrap();
    let token = format!("{message}.{}", URL_SAFE_NO_PAD.encode(der));
    let verifier = Verifier::new(parts(keys, &[Algorithm::ES256]));
    assert_eq!(verifier.verify(&token, NOW), Err(TokenError::Signature));
}

#[test]
fn attack_token_of_10_kib() {
    let huge = hmac_token(r#"{"alg":"HS256"}"#, &with(&format!(r#""pad":"{}""#, "x".repeat(10 * 1024))));
    assert_eq!(hmac_verifier().verify(&huge, NOW), Err(TokenError::TooLong));
    // The limit itself. Base64 grows in steps of four characters, so this token only comes near it.
    let near = hmac_token(r#"{"alg":"HS256"}"#, &with(&format!(r#""pad":"{}""#, "x".repeat(6000))));
    assert!(near.len() <= MAX_BYTES, "{}", near.len());
    assert!(hmac_verifier().verify(&near, NOW).is_ok());
    assert_eq!(hmac_verifier().verify(&"a".repeat(MAX_BYTES), NOW), Err(TokenError::NotCompact));
    assert_eq!(hmac_verifier().verify(&"a".repeat(MAX_BYTES + 1), NOW), Err(TokenError::TooLong));
}

#[test]
fn attack_encoding() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    let [header, payload, signature] = token.split('.').collect::<Vec<_>>()[..] else { panic!() };
    let cases = [
        (format!("{token}="), TokenError::Base64),
        (format!("{header}=.{payload}.{signature}"), TokenError::Base64),
        (format!("{header}.{payload}=.{signature}"), TokenError::Base64),
        (format!("{token} "), TokenError::Base64),
        (format!(" {token}"), TokenError::Base64),
        (format!("{token}\n"), TokenError::Base64),
        (format!("{token}!"), TokenError::Base64),
        (format!("{header}.{payload}.+{}", &signature[1..]), TokenError::Base64),
        (format!("{header}.{payload}.é{}", &signature[2..]), TokenError::Base64),
        (format!("{token}AA"), TokenError::Base64),
        (format!("{token}A"), TokenError::Signature),
        (format!("{token}AAAA"), TokenError::Signature),
        (format!("{token}."), TokenError::NotCompact),
        (format!(".{token}"), TokenError::NotCompact),
        (format!("{token}.{token}"), TokenError::NotCompact),
        (format!("{header}..{payload}.{signature}"), TokenError::NotCompact),
        (format!("{header}.{payload}.{signature}.x.y"), TokenError::NotCompact),
        (format!("{header}{payload}{signature}"), TokenError::NotCompact),
        (format!(".{payload}.{signature}"), TokenError::HeaderMalformed),
        ("..".to_owned(), TokenError::HeaderMalformed),
        (".".to_owned(), TokenError::NotCompact),
        (String::new(), TokenError::NotCompact),
        (format!("{header}..{signature}"), TokenError::Signature),
    ];
    for (token, expected) in cases {
        assert_eq!(hmac_verifier().verify(&token, NOW), Err(expected), "{token}");
    }
}

#[test]
fn attack_spare_bits_in_the_last_character() {
    // A 32-byte signature has 43 characters, the last with two spare bits. With these set it would be a second text of
    // the same token, which a list of revoked tokens would not match.
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    let last = token.chars().next_back().unwrap();
    let alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let place = alphabet.find(last).unwrap();
    let sibling = &alphabet[place + 1..place + 2];
    let forged = format!("{}{sibling}", &token[..token.len() - 1]);
    assert_eq!(hmac_verifier().verify(&forged, NOW), Err(TokenError::Base64));
}

#[test]
fn the_times_of_a_cached_token_are_checked_again() {
    let verifier = hmac_verifier();
    let payload = with(r#""nbf":1799999990"#);
    let token = hmac_token(r#"{"alg":"HS256"}"#, &payload);
    let second = Duration::from_secs(1);
    let first = verifier.verify(&token, NOW).unwrap();
    assert_eq!(verifier.verify(&token, NOW + 59 * second), Ok(first.clone()));
    assert_eq!(verifier.verify(&token, NOW + 60 * second), Err(TokenError::Expired));
    assert_eq!(verifier.verify(&token, Duration::from_secs(1_799_999_989)), Err(TokenError::NotYetValid));
    assert_eq!(verifier.verify(&token, NOW), Ok(first));
}

/// The session of a token may outlive it, and every other rule still holds.
#[test]
fn a_recheck_accepts_a_token_that_has_expired() {
    let verifier = hmac_verifier();
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    let claims = verifier.verify(&token, NOW).unwrap();
    let record = TokenRecord::new(&token, &claims).unwrap();
    let later = NOW + Duration::from_secs(3600);
    assert_eq!(verifier.verify(&token, later), Err(TokenError::Expired));
    assert_eq!(verifier.recheck(&record, later), Ok(claims));
    let other = Verifier::new(VerifierConfig { issuer: Some("another".to_owned()), ..verifier.config().clone() });
    assert_eq!(other.recheck(&record, later), Err(TokenError::Issuer));
}

#[test]
fn verifiers_do_not_share_their_caches() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
    let other_key =
        Verifier::new(parts(KeySet::from_secret(&SECRET[1..], &[Algorithm::HS256]).unwrap(), &[Algorithm::HS256]));
    assert!(hmac_verifier().verify(&token, NOW).is_ok());
    assert_eq!(other_key.verify(&token, NOW), Err(TokenError::Signature));
}

#[test]
fn debug_shows_no_secret() {
    let text = format!("{:?}", hmac_verifier());
    assert!(text.contains("HS256") && text.contains("id.example.com"), "{text}");
    assert!(!text.contains("0123456789abcdef") && !text.contains("48, 49, 50"), "{text}");
}

#[test]
fn labels_are_the_names_of_variants_in_snake_case() {
    for error in [TokenError::TooLong, TokenError::Base64, TokenError::AlgorithmNotAllowed, TokenError::NotYetValid] {
        let snake: String = format!("{error:?}")
            .chars()
            .enumerate()
            .flat_map(|(n, c)| (c.is_uppercase() && n > 0).then_some('_').into_iter().chain(c.to_lowercase()))
            .collect();
        assert_eq!(error.label(), snake.trim_start_matches('_'));
    }
}

#[test]
fn a_verifier_is_shared_between_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Verifier>();
}

/// Tokens with times around [`NOW`] or without times, some with another audience, some with a changed character.
fn token_or_nearly() -> impl Strategy<Value = String> {
    let times = (prop::option::of(-40_i64..40), prop::option::of(-40_i64..40));
    let changed = prop::option::of((any::<prop::sample::Index>(), "[A-Za-z0-9_.=-]"));
    (times, prop::bool::weighted(0.9), changed).prop_map(|((exp, nbf), ours, changed)| {
        let now = i64::try_from(NOW.as_secs()).unwrap();
        let time =
            |name, time: Option<i64>| time.map(|time| format!(r#","{name}":{}"#, now + time)).unwrap_or_default();
        let audience = if ours { "chat" } else { "mail" };
        let (exp, nbf) = (time("exp", exp), time("nbf", nbf));
        let payload = format!(r#"{{"iss":"https://id.example.com/","aud":"{audience}"{exp}{nbf}}}"#);
        let token = hmac_token(r#"{"alg":"HS256"}"#, &payload);
        let Some((place, to)) = changed else { return token };
        let place = place.index(token.len());
        format!("{}{to}{}", &token[..place], &token[place + 1..])
    })
}

proptest! {
    #[test]
    fn the_cache_does_not_change_any_outcome(
        tokens in prop::collection::vec(token_or_nearly(), 1..4),
        uses in prop::collection::vec((any::<prop::sample::Index>(), -60_i64..60), 1..12),
        leeway in 0_u64..20,
    ) {
        let fresh = || {
            let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
            let leeway = Duration::from_secs(leeway);
            Verifier::new(VerifierConfig { leeway, ..parts(keys, &[Algorithm::HS256]) })
        };
        let verifier = fresh();
        for (which, seconds) in uses {
            let (token, now) = (which.get(&tokens), Duration::from_secs(NOW.as_secs().saturating_add_signed(seconds)));
            prop_assert_eq!(verifier.verify(token, now), fresh().verify(token, now));
        }
    }

    #[test]
    fn arbitrary_text_is_rejected(text in "\\PC{0,200}", dots in "[A-Za-z0-9_.-]{0,200}") {
        prop_assert!(hmac_verifier().verify(&text, NOW).is_err());
        prop_assert!(hmac_verifier().verify(&dots, NOW).is_err());
    }

    #[test]
    fn a_token_with_any_changed_byte_is_rejected(place in any::<prop::sample::Index>(), to in "[A-Za-z0-9_.=-]") {
        let token = hmac_token(r#"{"alg":"HS256"}"#, GOOD);
        let place = place.index(token.len());
        let changed = format!("{}{to}{}", &token[..place], &token[place + 1..]);
        prop_assert_eq!(hmac_verifier().verify(&changed, NOW).is_ok(), changed == token);
    }
}
