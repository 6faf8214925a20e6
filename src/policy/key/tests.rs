//! Tests of `key`: which key files are accepted, and which algorithms each key is pinned to.

use base64::engine::general_purpose::STANDARD;
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519, PKCS_RSA_SHA256,
};
use serde_json::{Value, json};

use super::*;

const ALL: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The `kid` and the algorithms of every key.
fn pins(set: &Result<KeySet, KeyError>) -> Vec<(Option<&str>, &[Algorithm])> {
    let keys = &set.as_ref().unwrap().keys;
    keys.iter().map(|key| (key.kid.as_deref(), &key.algorithms[..])).collect()
}

fn refusal(set: Result<KeySet, KeyError>) -> KeyError {
    set.expect_err("the file should be rejected")
}

fn pair(kind: &'static rcgen::SignatureAlgorithm) -> KeyPair {
    KeyPair::generate_for(kind).unwrap()
}

fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn ec_jwk(curve: &str, pair: &KeyPair) -> Value {
    let (x, y) = pair.public_key_raw()[1..].split_at((pair.public_key_raw().len() - 1) / 2);
    json!({"kty": "EC", "crv": curve, "x": text(x), "y": text(y)})
}

/// The modulus is not a product of two primes, which the library does not check.
fn rsa_jwk(bytes: usize) -> Value {
    json!({"kty": "RSA", "n": text(&vec![0xc3; bytes]), "e": "AQAB"})
}

fn plus(mut jwk: Value, members: Value) -> Value {
    let Value::Object(members) = members else { panic!() };
    jwk.as_object_mut().unwrap().extend(members);
    jwk
}

fn set(keys: &[Value]) -> Result<KeySet, KeyError> {
    set_for(keys, &ALL)
}

fn set_for(keys: &[Value], algorithms: &[Algorithm]) -> Result<KeySet, KeyError> {
    KeySet::from_jwks(json!({ "keys": keys }).to_string().as_bytes(), algorithms)
}

/// Returns the reason why a key is skipped, from a set of that key alone.
fn skipped(jwk: Value, algorithms: &[Algorithm]) -> KeyError {
    match refusal(set_for(&[jwk], algorithms)) {
        KeyError::NoUsableKey(Some(reason)) => *reason,
        other => panic!("{other}"),
    }
}

#[test]
fn one_trailing_line_end_is_not_part_of_a_secret() {
    let secret = [b'x'; 32];
    for (file, wanted) in [
        (&b""[..], &secret[..]),
        (b"\n", &secret),
        (b"\r\n", &secret),
        (b"\n\n", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n"),
        (b" ", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx "),
        (b"\r", b"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r"),
    ] {
        let set = KeySet::from_secret(&[&secret[..], file].concat(), &[Algorithm::HS256]);
        assert_eq!(pins(&set), [(None, &[Algorithm::HS256][..])]);
        assert_eq!(set.unwrap().keys[0].decoding.try_get_as_bytes().unwrap(), wanted);
    }
}

#[test]
fn a_secret_must_be_as_long_as_the_hash() {
    let cases: [(usize, &[Algorithm], Result<(), KeyError>); 8] = [
        (32, &[Algorithm::HS256], Ok(())),
        (31, &[Algorithm::HS256], Err(KeyError::SecretTooShort { min_bytes: 32 })),
        (48, &[Algorithm::HS384], Ok(())),
        (47, &[Algorithm::HS384], Err(KeyError::SecretTooShort { min_bytes: 48 })),
        (64, &[Algorithm::HS512, Algorithm::HS256], Ok(())),
        (63, &[Algorithm::HS512, Algorithm::HS256], Err(KeyError::SecretTooShort { min_bytes: 64 })),
        (64, &[Algorithm::RS256], Err(KeyError::NoFittingAlgorithm)),
        (64, &[], Err(KeyError::NoFittingAlgorithm)),
    ];
    for (bytes, algorithms, expected) in cases {
        assert_eq!(KeySet::from_secret(&vec![b'x'; bytes], algorithms).map(drop), expected, "{bytes} {algorithms:?}");
    }
    for file in [&b""[..], b"\n", b"\r\n"] {
        assert_eq!(refusal(KeySet::from_secret(file, &ALL)), KeyError::Empty);
    }
}

#[test]
fn a_pem_file_is_rejected_as_a_secret() {
    for pem in [pair(&PKCS_ED25519).public_key_pem(), pair(&PKCS_ED25519).serialize_pem()] {
        assert_eq!(refusal(KeySet::from_secret(pem.as_bytes(), &ALL)), KeyError::PemAsSecret);
    }
}

#[test]
fn a_public_key_is_pinned_to_what_fits_its_type() {
    use Algorithm::{ES256, ES384, EdDSA, PS256, RS256};
    let listed = [RS256, ES384, EdDSA, ES256, PS256, Algorithm::HS256];
    let cases: [(_, &[Algorithm]); 4] = [
        (&PKCS_ECDSA_P256_SHA256, &[ES256]),
        (&PKCS_ECDSA_P384_SHA384, &[ES384]),
        (&PKCS_ED25519, &[EdDSA]),
        (&PKCS_RSA_SHA256, &[RS256, PS256]),
    ];
    for (kind, expected) in cases {
        let pem = pair(kind).public_key_pem();
        assert_eq!(pins(&KeySet::from_public_pem(pem.as_bytes(), &listed)), [(None, expected)]);
        let crlf = pem.replace('\n', "\r\n");
        assert_eq!(pins(&KeySet::from_public_pem(crlf.as_bytes(), &listed)), [(None, expected)]);
        let is_rsa = |algorithm: Algorithm| algorithm.family() == AlgorithmFamily::Rsa;
        let fits = |algorithm| expected.contains(&algorithm) || (is_rsa(algorithm) && is_rsa(expected[0]));
        let others: Vec<_> = ALL.into_iter().filter(|&algorithm| !fits(algorithm)).collect();
        assert_eq!(refusal(KeySet::from_public_pem(pem.as_bytes(), &others)), KeyError::NoFittingAlgorithm);
    }
}

#[test]
fn files_without_one_supported_public_key_are_rejected() {
    let pair = pair(&PKCS_ECDSA_P256_SHA256);
    let (public, private) = (pair.public_key_pem(), pair.serialize_pem());
    let relabelled = |label: &str| public.replace("PUBLIC KEY", label);
    let cases = [
        (String::new(), KeyError::Empty),
        (" \n".to_owned(), KeyError::Empty),
        ("hello".to_owned(), KeyError::NotPem),
        ("{\"keys\":[]}".to_owned(), KeyError::NotPem),
        (private.clone(), KeyError::PrivateKey),
        (format!("{public}{private}"), KeyError::PrivateKey),
        (private.replace("PRIVATE KEY", "EC PRIVATE KEY"), KeyError::PrivateKey),
        (private.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"), KeyError::PrivateKey),
        (format!("{public}{public}"), KeyError::SeveralPemBlocks),
        (relabelled("CERTIFICATE"), KeyError::Malformed),
        (relabelled("RSA PUBLIC KEY"), KeyError::Malformed),
        (relabelled("CERTIFICATE REQUEST"), KeyError::NotPublicKeyPem),
        (relabelled("EC PARAMETERS"), KeyError::NotPublicKeyPem),
        ("-----BEGIN CERTIFICATE-----\n".to_owned(), KeyError::Malformed),
        ("-----BEGIN RSA PUBLIC KEY-----\n!\n-----END RSA PUBLIC KEY-----".to_owned(), KeyError::Malformed),
        (format!("{public}{}", relabelled("CERTIFICATE")), KeyError::SeveralPemBlocks),
        ("-----BEGIN PUBLIC KEY-----\n".to_owned(), KeyError::UnsupportedType),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".to_owned(), KeyError::UnsupportedType),
        (self::pair(&PKCS_ECDSA_P521_SHA512).public_key_pem(), KeyError::P521),
        (rsa_pem(128), KeyError::RsaSize),
        (rsa_pem(255), KeyError::RsaSize),
        (rsa_pem(1025), KeyError::RsaSize),
    ];
    for (file, expected) in cases {
        assert_eq!(refusal(KeySet::from_public_pem(file.as_bytes(), &ALL)), expected, "{file}");
    }
    assert!(KeySet::from_public_pem(rsa_pem(256).as_bytes(), &ALL).is_ok());
}

fn rsa_pem(bytes: usize) -> String {
    let key = crypto::RsaPublicKeyComponents { n: vec![0xc3; bytes], e: vec![1, 0, 1] };
    let der = STANDARD.encode(key.as_der().unwrap().as_ref());
    format!("-----BEGIN PUBLIC KEY-----\n{der}\n-----END PUBLIC KEY-----\n")
}

#[test]
fn a_public_key_may_be_in_pkcs_1_or_in_a_certificate() {
    use Algorithm::{ES256, ES384, EdDSA, RS256};
    let kinds = [
        (&PKCS_ECDSA_P256_SHA256, ES256),
        (&PKCS_ECDSA_P384_SHA384, ES384),
        (&PKCS_ED25519, EdDSA),
        (&PKCS_RSA_SHA256, RS256),
    ];
    for (kind, algorithm) in kinds {
        let pair = pair(kind);
        let read = |pem: &str| KeySet::from_public_pem(pem.as_bytes(), &[algorithm]);
        let plain = read(&pair.public_key_pem()).unwrap();
        let mut params = rcgen::CertificateParams::new(vec!["keys.example.com".to_owned()]).unwrap();
        // The validity is not checked.
        params.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let certificate = params.self_signed(&pair).unwrap().pem();
        let with_text = format!("Certificate:\n  Data: x\n{certificate}");
        let mut forms = vec![certificate, with_text];
        if algorithm == RS256 {
            let key = rsa::PublicKey::from_der(&rcgen::PublicKeyData::subject_public_key_info(&pair)).unwrap();
            let text = STANDARD.encode(key.as_ref());
            forms.push(format!("-----BEGIN RSA PUBLIC KEY-----\r\n{text}\r\n-----END RSA PUBLIC KEY-----\r\n"));
        }
        for form in forms {
            let set = read(&form);
            assert_eq!(pins(&set), [(None, &[algorithm][..])], "{form}");
            assert!(set.unwrap().keys[0].is_same(&plain.keys[0]), "{form}");
        }
    }
}

#[test]
fn ed25519_is_eddsa() {
    assert_eq!(["EdDSA", "Ed25519"].map(algorithm), [Some(Algorithm::EdDSA); 2]);
    assert_eq!(["Ed448", "ed25519", "eddsa", "none", ""].map(algorithm), [None; 5]);
    let ed = pair(&PKCS_ED25519);
    for alg in ["EdDSA", "Ed25519"] {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": text(ed.public_key_raw()), "alg": alg});
        assert_eq!(pins(&set(&[jwk])), [(None, &[Algorithm::EdDSA][..])]);
    }
}

#[test]
fn keys_with_the_same_kid_are_distinguished_by_algorithm() {
    use Algorithm::{ES256, ES384, PS256, RS256};
    let named = |key: Value| plus(key, json!({"kid": "k1"}));
    let (p256, p384) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P384_SHA384));
    let (p256, p384) = (named(ec_jwk("P-256", &p256)), named(ec_jwk("P-384", &p384)));
    let other_p256 = named(ec_jwk("P-256", &pair(&PKCS_ECDSA_P256_SHA256)));
    let rsa = |alg| plus(named(rsa_jwk(256)), json!({"alg": alg}));
    let other_rsa = |alg| plus(named(rsa_jwk(384)), json!({"alg": alg}));
    let duplicate = || KeyError::DuplicateKid("k1".to_owned());

    let mixed = set(&[p256.clone(), named(rsa_jwk(256)), p384.clone()]).unwrap();
    for (algorithm, place) in [(ES256, 0), (RS256, 1), (PS256, 1), (ES384, 2)] {
        let fitting: Vec<_> = mixed.candidates(Some("k1")).filter(|key| key.fits(algorithm)).collect();
        assert_eq!(fitting.len(), 1);
        assert!(fitting[0].is_same(&mixed.keys[place]));
    }
    assert_eq!(mixed.candidates(Some("k2")).count(), 0);
    assert_eq!(mixed.candidates(None).count(), 3);

    assert!(set(&[rsa("RS256"), other_rsa("PS256")]).is_ok());
    assert_eq!(refusal(set(&[rsa("RS256"), other_rsa("RS256")])), duplicate());
    assert_eq!(refusal(set(&[named(rsa_jwk(256)), other_rsa("RS256")])), duplicate());
    assert_eq!(refusal(set(&[p256.clone(), p384.clone(), other_p256.clone()])), duplicate());
    // A key without a listed algorithm is not a duplicate.
    assert!(set_for(&[rsa("RS256"), other_rsa("RS256"), p256.clone()], &[ES256]).is_ok());

    // An identical key is merged with the first one, with the algorithms of both.
    assert_eq!(pins(&set(&[p256.clone(), p256.clone()])), [(Some("k1"), &[ES256][..])]);
    let twice = set_for(&[rsa("RS256"), named(rsa_jwk(256)), rsa("PS256")], &[RS256, PS256]);
    assert_eq!(pins(&twice), [(Some("k1"), &[RS256, PS256][..])]);
    assert_eq!(refusal(set(&[rsa("RS256"), other_rsa("PS256"), named(rsa_jwk(256))])), duplicate());
    // With another `kid` it is a separate key.
    assert_eq!(pins(&set(&[p256.clone(), plus(p256, json!({"kid": "k2"}))])).len(), 2);
}

#[test]
fn a_point_of_another_curve_is_rejected() {
    // secp256k1 has points of the same length as P-256; this is its generator (SEC 2 section 2.4.1).
    let spki = "3056301006072a8648ce3d020106052b8104000a03420004\
        79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798\
        483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8";
    let der: Vec<u8> = (0..spki.len()).step_by(2).map(|n| u8::from_str_radix(&spki[n..n + 2], 16).unwrap()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    assert_eq!(refusal(KeySet::from_public_pem(pem.as_bytes(), &ALL)), KeyError::Malformed);
}

#[test]
fn a_set_pins_each_key() {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, PS256, PS384, PS512, RS256, RS384, RS512};
    let (p256, p384, ed) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P384_SHA384), pair(&PKCS_ED25519));
    let set = set(&[
        plus(ec_jwk("P-256", &p256), json!({"kid": "a", "use": "sig", "x5t": 1, "unknown": {}})),
        plus(ec_jwk("P-384", &p384), json!({"kid": "b", "key_ops": ["sign", "verify"]})),
        json!({"kty": "OKP", "crv": "Ed25519", "x": text(ed.public_key_raw()), "kid": ""}),
        plus(rsa_jwk(256), json!({"kid": "c", "alg": "PS384"})),
        rsa_jwk(512),
        json!({"kty": "oct", "k": text(&[7; 64]), "kid": "d", "alg": "HS384"}),
        json!({"kty": "oct", "k": text(&[7; 50]), "kid": "e"}),
    ]);
    let expected: [(Option<&str>, &[Algorithm]); 7] = [
        (Some("a"), &[ES256]),
        (Some("b"), &[ES384]),
        (Some(""), &[EdDSA]),
        (Some("c"), &[PS384]),
        (None, &[RS256, RS384, RS512, PS256, PS384, PS512]),
        (Some("d"), &[HS384]),
        (Some("e"), &[HS256, HS384]),
    ];
    assert_eq!(pins(&set), expected);
}

#[test]
fn unusable_keys_are_skipped() {
    let p256 = ec_jwk("P-256", &pair(&PKCS_ECDSA_P256_SHA256));
    let p384 = ec_jwk("P-384", &pair(&PKCS_ECDSA_P384_SHA384));
    let off_curve = plus(p256.clone(), json!({"y": text(&[1; 32])}));
    let cases = [
        (plus(p256.clone(), json!({"use": "enc"})), KeyError::NotForVerifying),
        (plus(p256.clone(), json!({"use": ""})), KeyError::NotForVerifying),
        (plus(p256.clone(), json!({"key_ops": ["sign"]})), KeyError::NotForVerifying),
        (plus(p256.clone(), json!({"key_ops": []})), KeyError::NotForVerifying),
        (plus(p256.clone(), json!({"key_ops": ["verify"], "use": "enc"})), KeyError::NotForVerifying),
        (plus(p256.clone(), json!({"key_ops": "verify"})), KeyError::Malformed),
        (plus(p256.clone(), json!({"kid": 7})), KeyError::Malformed),
        (plus(p256.clone(), json!({"alg": "ES384"})), KeyError::NoFittingAlgorithm),
        (plus(p256.clone(), json!({"alg": "ES521"})), KeyError::NoFittingAlgorithm),
        (plus(p256.clone(), json!({"alg": "ECDH-ES"})), KeyError::NoFittingAlgorithm),
        (plus(p256.clone(), json!({"alg": "HS256"})), KeyError::NoFittingAlgorithm),
        (plus(p256.clone(), json!({"crv": "P-384"})), KeyError::Malformed),
        (plus(p384, json!({"crv": "P-256"})), KeyError::Malformed),
        (plus(p256.clone(), json!({"crv": "P-521"})), KeyError::P521),
        (plus(p256.clone(), json!({"crv": "secp256k1"})), KeyError::UnsupportedType),
        (plus(p256.clone(), json!({"kty": "RSA"})), KeyError::Malformed),
        (off_curve, KeyError::Malformed),
        (json!({"kty": "EC", "crv": "P-256"}), KeyError::Malformed),
        (json!({"kty": "EC"}), KeyError::UnsupportedType),
        (json!({"kty": "ec", "crv": "P-256"}), KeyError::UnsupportedType),
        (json!({"kty": "AKP", "pub": "AA"}), KeyError::UnsupportedType),
        (json!({"kty": "OKP", "crv": "Ed448", "x": text(&[1; 57])}), KeyError::UnsupportedType),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": text(&[1; 31])}), KeyError::Malformed),
        (json!({"kty": "OKP", "crv": "Ed25519", "x": "not base64!"}), KeyError::Malformed),
        (json!({"kid": "a"}), KeyError::Malformed),
        (json!("a key"), KeyError::Malformed),
        (rsa_jwk(128), KeyError::RsaSize),
        (rsa_jwk(255), KeyError::RsaSize),
        (rsa_jwk(1025), KeyError::RsaSize),
        (plus(rsa_jwk(256), json!({"e": "AQ"})), KeyError::Malformed),
        (plus(rsa_jwk(256), json!({"e": ""})), KeyError::Malformed),
        (plus(rsa_jwk(256), json!({"n": ""})), KeyError::Malformed),
        (plus(rsa_jwk(256), json!({"n": text(&[&[0][..], &[0xc3; 256]].concat())})), KeyError::Malformed),
        (plus(rsa_jwk(256), json!({"alg": "RSA-OAEP"})), KeyError::NoFittingAlgorithm),
        (json!({"kty": "oct", "k": text(&[7; 31])}), KeyError::SecretTooShort { min_bytes: 32 }),
        (json!({"kty": "oct", "k": ""}), KeyError::SecretTooShort { min_bytes: 32 }),
        (json!({"kty": "oct", "k": text(&[7; 63]), "alg": "HS512"}), KeyError::SecretTooShort { min_bytes: 64 }),
        (json!({"kty": "oct", "k": text(&[7; 32]), "alg": "A256GCM"}), KeyError::NoFittingAlgorithm),
        (json!({"kty": "oct"}), KeyError::Malformed),
    ];
    for (jwk, expected) in cases {
        let what = jwk.to_string();
        // The other keys of the set are used.
        assert_eq!(pins(&set(&[jwk.clone(), plus(p256.clone(), json!({"kid": "good"}))])).len(), 1, "{what}");
        assert_eq!(skipped(jwk, &ALL), expected, "{what}");
    }
    assert_eq!(skipped(p256.clone(), &[Algorithm::RS256, Algorithm::ES384]), KeyError::NoFittingAlgorithm);
    assert_eq!(skipped(plus(rsa_jwk(256), json!({"alg": "PS256"})), &[Algorithm::RS256]), KeyError::NoFittingAlgorithm);
}

#[test]
fn invalid_sets_are_rejected() {
    let key = |kid: &str| json!({"kty": "oct", "k": text(&[7; 32]), "kid": kid});
    let other = json!({"kty": "oct", "k": text(&[8; 32]), "kid": "a"});
    assert_eq!(refusal(set(&[key("a"), key("b"), other])), KeyError::DuplicateKid("a".to_owned()));
    // An unusable key does not count as a duplicate.
    assert!(set(&[key("a"), plus(key("a"), json!({"use": "enc"}))]).is_ok());
    let nameless = json!({"kty": "oct", "k": text(&[7; 32])});
    assert!(set(&[nameless.clone(), nameless]).is_ok());

    let private = json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA", "d": "AA", "use": "enc"});
    assert_eq!(refusal(set(&[key("a"), private])), KeyError::PrivateKey);

    let many: Vec<Value> = (0..=MAX_KEYS).map(|n| key(&n.to_string())).collect();
    assert_eq!(refusal(set(&many)), KeyError::TooManyKeys);
    assert_eq!(pins(&set(&many[..MAX_KEYS])).len(), MAX_KEYS);

    assert_eq!(refusal(set(&[])), KeyError::NoUsableKey(None));
    // Members that are not read need only be JSON by their syntax.
    let odd = r#"{"keys":[{"kty":"oct","k":"BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc","z":"\ud800","exp":1e400}]}"#;
    assert_eq!(pins(&KeySet::from_jwks(odd.as_bytes(), &[Algorithm::HS256])), [(None, &[Algorithm::HS256][..])]);
    let files: [(&[u8], KeyError); 8] = [
        (b"", KeyError::Empty),
        (b" \n", KeyError::Empty),
        (b"{", KeyError::NotJson { line: 1, column: 1 }),
        (b"{\n  \"keys\": [,]}", KeyError::NotJson { line: 2, column: 12 }),
        (b"-----BEGIN PUBLIC KEY-----", KeyError::NotJson { line: 1, column: 2 }),
        (b"{}", KeyError::NotKeySet),
        (b"{\"kty\":\"oct\",\"k\":\"AA\"}", KeyError::NotKeySet),
        (b"{\"keys\":{}}", KeyError::NotKeySet),
    ];
    for (file, expected) in files {
        assert_eq!(refusal(KeySet::from_jwks(file, &ALL)), expected, "{:?}", String::from_utf8_lossy(file));
    }
}

#[test]
fn errors_and_debug_contain_no_secret() {
    let reasons = [
        (KeyError::PrivateKey, "holds a private key; give the public key"),
        (KeyError::SecretTooShort { min_bytes: 32 }, "the secret is too short; the algorithm needs 32 bytes"),
        (KeyError::DuplicateKid("a\nb".into()), r#"two different keys have the kid "a\nb" and an algorithm in common"#),
        (KeyError::NoUsableKey(None), "has no keys"),
        (
            KeyError::NoUsableKey(Some(Box::new(KeyError::RsaSize))),
            "has no usable key; of the first: RSA keys need 2048 to 8192 bits",
        ),
    ];
    for (error, expected) in reasons {
        assert_eq!(error.to_string(), expected);
    }
    let secret = "correct horse battery staple, and then some";
    let set = KeySet::from_secret(secret.as_bytes(), &ALL[..1]).unwrap();
    assert_eq!(
        format!("{set:?}"),
        "KeySet { keys: [Key { kid: None, algorithms: [HS256], .. }], fingerprint: Fingerprint }"
    );
}

#[test]
fn a_key_verifies_only_its_own_algorithm() {
    let secret = [7; 64];
    let set = KeySet::from_secret(&secret, &[Algorithm::HS256]).unwrap();
    let sign = jsonwebtoken::EncodingKey::from_secret(&secret);
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let signature = jsonwebtoken::crypto::sign(b"message", &sign, algorithm).unwrap();
        assert_eq!(set.keys[0].verify(algorithm, "message", &signature), algorithm == Algorithm::HS256);
    }
    assert!(!set.keys[0].verify(Algorithm::RS256, "message", "AAAA"));
}
