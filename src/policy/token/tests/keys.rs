//! Tests of `token`: the choice of the key, and known attacks on it.

use super::*;

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
