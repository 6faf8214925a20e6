//! Tests of `token`: known attacks on verifiers, the checks of claims, and the use of the cache.

use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use serde_json::Value;

use super::*;

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
fn attack_embedded_key() {
    let ours = Signer::new(Algorithm::ES256);
    let theirs = Signer::new(Algorithm::ES256);
    let verifier = Verifier::new(parts(ours.keys(), &[Algorithm::ES256]));
    let jwk = r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA"}"#;
    for member in [
        format!(r#""jwk":{jwk}"#),
        r#""jku":"https://evil.example/jwks.json""#.to_owned(),
        r#""x5u":"https://evil.example/cert.pem""#.to_owned(),
        r#""x5c":["AA=="]"#.to_owned(),
    ] {
        let header = format!(r#"{{"alg":"ES256",{member}}}"#);
        let forged = signed(&header, GOOD, &theirs.sign, Algorithm::ES256);
        assert_eq!(verifier.verify(&forged, NOW), Err(TokenError::Signature), "{member}");
        // These members are not read: a valid token may contain them.
        assert!(verifier.verify(&signed(&header, GOOD, &ours.sign, Algorithm::ES256), NOW).is_ok());
    }
}

#[test]
fn attack_kid_injection() {
    let verifier = Verifier::new(parts(jwks(&[(Some("k1"), SECRET)]), &[Algorithm::HS256]));
    for kid in ["../../../../dev/null", "k1' OR '1'='1", "k1\\u0000", "", "K1", "k1 ", "http://evil.example/"] {
        let header = format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#);
        for secret in [SECRET, b""] {
            let forged = signed(&header, GOOD, &EncodingKey::from_secret(secret), Algorithm::HS256);
            assert_eq!(verifier.verify(&forged, NOW), Err(TokenError::KeyUnknown), "{kid}");
        }
    }
    for kid in ["null", "1", "[\"k1\"]", "{}"] {
        check_header(&format!(r#"{{"alg":"HS256","kid":{kid}}}"#), Err(TokenError::HeaderMalformed));
    }
}

#[test]
fn the_kid_chooses_the_key_without_fallback() {
    type Case<'a> = (Option<&'a str>, &'a [u8], Result<(), TokenError>);
    let other: &[u8] = b"another secret that is long enough";
    let set = || jwks(&[(Some("a"), SECRET), (Some("b"), other), (None, b"a key without any name, 32 bytes")]);
    let verifier = Verifier::new(parts(set(), &[Algorithm::HS256]));
    let nameless: &[u8] = b"a key without any name, 32 bytes";
    let cases: [Case<'_>; 9] = [
        (Some("a"), SECRET, Ok(())),
        (Some("b"), other, Ok(())),
        (Some("a"), other, Err(TokenError::Signature)),
        (Some("a"), nameless, Err(TokenError::Signature)),
        (Some("c"), nameless, Ok(())),
        (Some("c"), SECRET, Err(TokenError::Signature)),
        (None, SECRET, Ok(())),
        (None, other, Ok(())),
        (None, nameless, Ok(())),
    ];
    for (kid, secret, expected) in cases {
        let header = kid.map_or(r#"{"alg":"HS256"}"#.to_owned(), |kid| format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
        let token = signed(&header, GOOD, &EncodingKey::from_secret(secret), Algorithm::HS256);
        assert_eq!(verifier.verify(&token, NOW).map(drop), expected, "{kid:?}");
    }
}

#[test]
fn a_token_without_kid_is_checked_with_a_bounded_number_of_keys() {
    let secrets: Vec<String> = (0..=MAX_KEYS_COST).map(|n| format!("secret number {n:02} of thirty-two b.")).collect();
    let keys: Vec<(Option<&str>, &[u8])> = secrets.iter().map(|secret| (None, secret.as_bytes())).collect();
    let sign = |secret: &str| {
        signed(r#"{"alg":"HS256"}"#, GOOD, &EncodingKey::from_secret(secret.as_bytes()), Algorithm::HS256)
    };
    let verifier = Verifier::new(parts(jwks(&keys), &[Algorithm::HS256]));
    assert!(verifier.verify(&sign(&secrets[MAX_KEYS_COST - 1]), NOW).is_ok());
    assert_eq!(verifier.verify(&sign(&secrets[MAX_KEYS_COST]), NOW), Err(TokenError::KeyAmbiguous));
    let verifier = Verifier::new(parts(jwks(&keys[..MAX_KEYS_COST]), &[Algorithm::HS256]));
    assert_eq!(verifier.verify(&sign("no key of the set"), NOW), Err(TokenError::Signature));
}

#[test]
fn expensive_keys_are_tried_half_as_often() {
    let signers: Vec<Signer> = (0..5).map(|_| Signer::new(Algorithm::ES384)).collect();
    let jwk = |signer: &Signer| {
        let raw = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (raw(&signer.public_raw[1..49]), raw(&signer.public_raw[49..]));
        serde_json::json!({"kty": "EC", "crv": "P-384", "x": x, "y": y})
    };
    let verifier = |signers: &[Signer]| {
        let set = serde_json::json!({ "keys": signers.iter().map(jwk).collect::<Vec<_>>() });
        let keys = KeySet::from_jwks(set.to_string().as_bytes(), &[Algorithm::ES384]).unwrap();
        Verifier::new(parts(keys, &[Algorithm::ES384]))
    };
    assert!(verifier(&signers).verify(&signers[3].token(GOOD), NOW).is_ok());
    assert_eq!(verifier(&signers).verify(&signers[4].token(GOOD), NOW), Err(TokenError::KeyAmbiguous));
    assert_eq!(verifier(&signers[..4]).verify(&signers[4].token(GOOD), NOW), Err(TokenError::Signature));
}

#[test]
fn kid_and_alg_together_choose_the_key() {
    let (ec, ed) = (Signer::new(Algorithm::ES256), Signer::new(Algorithm::EdDSA));
    let raw = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let set = serde_json::json!({ "keys": [
        {"kty": "EC", "crv": "P-256", "kid": "k1", "x": raw(&ec.public_raw[1..33]), "y": raw(&ec.public_raw[33..])},
        {"kty": "OKP", "crv": "Ed25519", "kid": "k1", "alg": "Ed25519", "x": raw(&ed.public_raw)},
    ]});
    let listed = [Algorithm::ES256, Algorithm::EdDSA, Algorithm::RS256];
    let keys = KeySet::from_jwks(set.to_string().as_bytes(), &listed).unwrap();
    let verifier = Verifier::new(parts(keys, &listed));
    let outcome = |alg: &str, kid: &str, signer: &Signer| {
        let header = format!(r#"{{"alg":"{alg}","kid":"{kid}"}}"#);
        verifier.verify(&signed(&header, GOOD, &signer.sign, signer.algorithm), NOW).map(drop)
    };
    assert_eq!(outcome("ES256", "k1", &ec), Ok(()));
    assert_eq!(outcome("EdDSA", "k1", &ed), Ok(()));
    assert_eq!(outcome("Ed25519", "k1", &ed), Ok(()));
    assert_eq!(outcome("ES256", "k1", &ed), Err(TokenError::Signature));
    assert_eq!(outcome("Ed25519", "k1", &ec), Err(TokenError::Signature));
    assert_eq!(outcome("RS256", "k1", &ec), Err(TokenError::AlgorithmNotAllowed));
    assert_eq!(outcome("ES256", "k2", &ec), Err(TokenError::KeyUnknown));
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
fn attack_claims_that_are_not_an_object() {
    for payload in ["", "null", "[]", "1", "\"x\"", "{", r#"{"exp":1800000060}x"#, "{\"exp\":1e999}", "{'exp':1}"] {
        check_payload(payload, Err(TokenError::ClaimsMalformed));
    }
    let deep = format!(r#"{{"exp":1800000060,"a":{}1{}}}"#, "[".repeat(2000), "]".repeat(2000));
    check_payload(&deep, Err(TokenError::ClaimsMalformed));
}

#[test]
fn attack_exp() {
    let cases = [
        ("1800000001", Ok(())),
        ("1800000000.5", Ok(())),
        ("1.8000000005e9", Ok(())),
        ("18446744073709551615", Ok(())),
        ("1800000000", Err(TokenError::Expired)),
        ("1799999999.999", Err(TokenError::Expired)),
        ("0", Err(TokenError::Expired)),
        ("\"1800000060\"", Err(TokenError::ExpiresMalformed)),
        ("\"never\"", Err(TokenError::ExpiresMalformed)),
        ("null", Err(TokenError::ExpiresMalformed)),
        ("true", Err(TokenError::ExpiresMalformed)),
        ("[1800000060]", Err(TokenError::ExpiresMalformed)),
        ("{}", Err(TokenError::ExpiresMalformed)),
        ("-1", Err(TokenError::ExpiresMalformed)),
        ("-0.5", Err(TokenError::ExpiresMalformed)),
        ("1e30", Err(TokenError::ExpiresMalformed)),
    ];
    for (exp, expected) in cases {
        check_payload(&with_exp(exp), expected);
    }
    check_payload(r#"{"iss":"https://id.example.com/","aud":"chat"}"#, Err(TokenError::ExpiresMissing));
    check_payload(r#"{"EXP":1800000060}"#, Err(TokenError::ExpiresMissing));
}

#[test]
fn attack_nbf() {
    check_payload(&with(r#""nbf":1800000000"#), Ok(()));
    check_payload(&with(r#""nbf":0"#), Ok(()));
    check_payload(&with(r#""nbf":1800000000.5"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":1800000001"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":18446744073709551615"#), Err(TokenError::NotYetValid));
    check_payload(&with(r#""nbf":"1800000000""#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""nbf":null"#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""nbf":-1"#), Err(TokenError::NotBeforeMalformed));
    check_payload(&with(r#""iat":1900000000"#), Ok(()));
    check_payload(&with(r#""iat":"yesterday""#), Ok(()));
}

#[test]
fn leeway_applies_to_exp_and_nbf_and_is_bounded() {
    let token = hmac_token(r#"{"alg":"HS256"}"#, r#"{"exp":1800000000,"nbf":1799999000}"#);
    let at = |leeway: u64, now: u64| {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        let verifier = Verifier::new(VerifierConfig {
            issuer: None,
            audience: vec![],
            leeway: Duration::from_secs(leeway),
            ..parts(keys, &[Algorithm::HS256])
        });
        verifier.verify(&token, Duration::from_secs(now)).map(|claims| claims.expires().unwrap().as_secs())
    };
    assert_eq!(at(30, 1_800_000_029), Ok(1_800_000_000));
    assert_eq!(at(30, 1_800_000_030), Err(TokenError::Expired));
    assert_eq!(at(30, 1_799_998_970), Ok(1_800_000_000));
    assert_eq!(at(30, 1_799_998_969), Err(TokenError::NotYetValid));
    assert_eq!(at(u64::MAX, 1_800_000_299), Ok(1_800_000_000));
    assert_eq!(at(u64::MAX, 1_800_000_300), Err(TokenError::Expired));
}

#[test]
fn attack_wrong_issuer() {
    let cases = [
        (r#""https://id.example.com/""#, Ok(())),
        (r#""https://id.example.com""#, Err(TokenError::Issuer)),
        (r#""https://ID.example.com/""#, Err(TokenError::Issuer)),
        (r#""https://id.example.com/ ""#, Err(TokenError::Issuer)),
        (r#"["https://id.example.com/"]"#, Err(TokenError::Issuer)),
        ("null", Err(TokenError::Issuer)),
    ];
    for (issuer, expected) in cases {
        check_payload(&format!(r#"{{"exp":1800000060,"aud":"chat","iss":{issuer}}}"#), expected);
    }
    check_payload(r#"{"exp":1800000060,"aud":"chat"}"#, Err(TokenError::Issuer));
}

#[test]
fn attack_wrong_audience() {
    let cases = [
        (r#""chat""#, Ok(())),
        (r#"["chat"]"#, Ok(())),
        (r#"["mail","chat-admin"]"#, Ok(())),
        (r#""chatter""#, Err(TokenError::Audience)),
        (r#""Chat""#, Err(TokenError::Audience)),
        (r#""chat chat-admin""#, Err(TokenError::Audience)),
        (r#"["mail"]"#, Err(TokenError::Audience)),
        ("[]", Err(TokenError::Audience)),
        (r#"["chat",1]"#, Err(TokenError::Audience)),
        (r#"[["chat"]]"#, Err(TokenError::Audience)),
        (r#"{"chat":true}"#, Err(TokenError::Audience)),
        ("null", Err(TokenError::Audience)),
        (r#""""#, Err(TokenError::Audience)),
    ];
    for (audience, expected) in cases {
        check_payload(&format!(r#"{{"exp":1800000060,"iss":"https://id.example.com/","aud":{audience}}}"#), expected);
    }
    check_payload(r#"{"exp":1800000060,"iss":"https://id.example.com/"}"#, Err(TokenError::Audience));
}

#[test]
fn malformed_values_matter_only_in_claims_that_the_section_checks() {
    for value in [r#""\ud800""#, "1e400", r#"["\udfff"]"#, r#"{"\ud800":1}"#, r#"{"a":1,"a":2}"#] {
        for name in ["name", "iat", "jti", "sid", "\\ud800"] {
            check_payload(&with(&format!(r#""{name}":{value}"#)), Ok(()));
        }
    }
    for name in ["sub", "nbf"] {
        check_payload(&with(&format!(r#""{name}":"\ud800""#)), Err(TokenError::ClaimsMalformed));
    }
    // The same values in claims that the section checks, or that only a route uses.
    let judged = |issuer: Option<&str>, audience: &[&str], claims: &[&str], member: &str| {
        let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
        let verifier = Verifier::new(VerifierConfig {
            issuer: issuer.map(str::to_owned),
            audience: audience.iter().map(|name| (*name).to_owned()).collect(),
            claims: claims.iter().map(|name| name.parse().unwrap()).collect(),
            ..parts(keys, &[Algorithm::HS256])
        });
        let token = hmac_token(r#"{"alg":"HS256"}"#, &format!(r#"{{"exp":1800000060,{member}}}"#));
        verifier.verify(&token, NOW).map(drop)
    };
    let malformed = Err(TokenError::ClaimsMalformed);
    let iss = r#""iss":"\ud800""#;
    assert_eq!(judged(None, &[], &[], iss), Ok(()));
    assert_eq!(judged(Some("i"), &[], &[], iss), malformed);
    assert_eq!(judged(None, &[], &["iss"], iss), Ok(()));
    let aud = r#""aud":["\ud800","chat"]"#;
    assert_eq!(judged(None, &[], &[], aud), Ok(()));
    assert_eq!(judged(None, &["chat"], &[], aud), malformed);
    let realm = r#""realm":{"role":1e400,"name":"\ud800"}"#;
    assert_eq!(judged(None, &[], &["realm", "realm.x", "realm.x.role", "name"], realm), Ok(()));
    assert_eq!(judged(None, &[], &["realm.role", "realm.name"], realm), Ok(()));
    assert_eq!(judged(None, &[], &["o.p"], r#""o":{"p":1,"p":2}"#), Ok(()));
    assert_eq!(judged(None, &[], &["o.p"], r#""o":{"p":1},"o":{"p":1}"#), Err(TokenError::ClaimsDuplicate));
    assert_eq!(judged(None, &[], &["sub", "exp"], r#""sub":1e400"#), malformed);
}

#[test]
fn at_the_maximum_time_every_token_is_expired() {
    for leeway in [Duration::ZERO, MAX_LEEWAY] {
        for exp in ["1800000060", "18446744073709551615", "1.8446744073709550e19"] {
            let keys = KeySet::from_secret(SECRET, &[Algorithm::HS256]).unwrap();
            let verifier = Verifier::new(VerifierConfig { leeway, ..parts(keys, &[Algorithm::HS256]) });
            let token = hmac_token(r#"{"alg":"HS256"}"#, &with_exp(exp));
            assert_eq!(verifier.verify(&token, Duration::MAX), Err(TokenError::Expired), "{exp}");
            // A cached token is rejected, too.
            assert!(verifier.verify(&token, NOW).is_ok());
            assert_eq!(verifier.verify(&token, Duration::MAX), Err(TokenError::Expired), "{exp}");
        }
    }
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
fn claims_are_read_only_after_the_signature() {
    let stranger = EncodingKey::from_secret(b"a secret that is not ours, but long");
    for payload in ["{", r#"{"exp":"x"}"#, r#"{"exp":1}"#, "{}"] {
        let token = signed(r#"{"alg":"HS256"}"#, payload, &stranger, Algorithm::HS256);
        assert_eq!(hmac_verifier().verify(&token, NOW), Err(TokenError::Signature));
    }
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
