//! Third-party test vectors of signatures and keys: Project Wycheproof and the cookbook of RFC 7520.
//!
//! The vectors are kept outside the checkout. Without them the tests print that they are skipped, and pass. Every
//! vector on which Tollgate differs is listed with its reason. An unlisted difference fails the test, and so does a
//! listed vector that does not differ.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tollgate::policy::claim_path::ClaimPath;
use tollgate::policy::expiry::OnExpiry;
use tollgate::policy::key::KeySet;
use tollgate::policy::token::{Verifier, VerifierConfig};

/// The vectors of signatures that Wycheproof accepts and Tollgate rejects, or the reverse.
const SIGNATURE_DIFFERENCES: &[(u64, &str)] = &[
    (346, PS384_WITH_A_PS256_KEY),
    (347, NO_ES512),
    (350, PS384_WITH_A_PS256_KEY),
    (351, NO_ES512),
    (367, NOT_PADDED),
    (370, NOT_PADDED),
    (372, STRAY_CHARACTER),
    (373, STRAY_CHARACTER),
];

/// The same for the vectors of key sets.
const KEY_DIFFERENCES: &[(u64, &str)] = &[
    (
        1,
        "a set of public keys and secrets is accepted: each key is pinned to its own algorithms, so none can be used \
         in place of another; such sets exist while an operator migrates from one kind to the other",
    ),
    (
        4,
        "the second key with that `kid` is not base64url (its last character has spare bits), so it is skipped and \
         only the first key has the `kid`; two usable keys with the same `kid` are rejected, as the unit tests show",
    ),
    (7, "the weakness of ROCA keys (CVE-2017-15361) is not checked: the operator selects the keys"),
];

const PS384_WITH_A_PS256_KEY: &str = "the token names PS384, its key has `alg: PS256`: keys are pinned to their `alg`";
const NO_ES512: &str = "P-521 is not supported";
const NOT_PADDED: &str = "meant to have padding, but the vector is byte for byte the valid vector 357";
const STRAY_CHARACTER: &str = "the authors' library skips a `?` in base64url; RFC 7515 section 2 does not allow it";

#[test]
fn wycheproof_signatures_differ_only_as_listed() {
    let Some(vectors) = read("wycheproof/json_web_signature_test.json") else { return };
    let tried = wycheproof(&vectors, SIGNATURE_DIFFERENCES, |group| json!({ "keys": [public_key(group)] }));
    assert_eq!(tried, 401);
}

#[test]
fn wycheproof_key_sets_differ_only_as_listed() {
    let Some(vectors) = read("wycheproof/json_web_key_test.json") else { return };
    let tried = wycheproof(&vectors, KEY_DIFFERENCES, |group| public_key(group).clone());
    assert_eq!(tried, 26);
}

#[test]
fn rfc_7520_signatures_have_the_expected_outcome() {
    let Some(folder) = folder("jose-cookbook/jws") else { return };
    let es512 = "the key set: has no usable key; of the first: EC P-521 (ES512) is not supported; use P-256 or P-384";
    let expected = [
        ("4_1", Ok("It’s a dangerous business")),
        ("4_2", Ok("It’s a dangerous business")),
        ("4_3", Err(es512)),
        ("4_4", Ok("It’s a dangerous business")),
        // The payload is detached, so the signature does not match the empty payload of the token.
        ("4_5", Err("Signature")),
        // These have no compact form, the only form of a JWT (RFC 7519 section 1).
        ("4_6", Err("no compact form")),
        ("4_7", Err("no compact form")),
        ("4_8", Err("no compact form")),
    ];
    let mut files: Vec<PathBuf> = folder.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), expected.len());
    for (file, (name, expected)) in files.iter().zip(expected) {
        assert!(file.file_name().unwrap().to_str().unwrap().starts_with(name));
        let vector = json(file);
        let outcome = match vector["output"]["compact"].as_str() {
            None => Err("no compact form".to_owned()),
            Some(token) => {
                // The cookbook contains private keys; a verifier has only the public part.
                let mut key = vector["input"]["key"].clone();
                key.as_object_mut().unwrap().remove("d");
                verify(&json!({ "keys": [key] }), token)
            }
        };
        match expected {
            Ok(start) => assert!(String::from_utf8(outcome.unwrap()).unwrap().starts_with(start), "{name}"),
            Err(reason) => assert_eq!(outcome.unwrap_err(), reason, "{name}"),
        }
    }
}

#[test]
fn rfc_7520_keys_have_the_expected_outcome() {
    let Some(folder) = folder("jose-cookbook/jwk") else { return };
    let private = || Err("holds a private key; give the public key".to_owned());
    let none_usable = |reason: &str| Err(format!("has no usable key; of the first: {reason}"));
    let expected = [
        ("3_1.ec_public_key", none_usable("EC P-521 (ES512) is not supported; use P-256 or P-384")),
        ("3_2.ec_private_key", private()),
        ("3_3.rsa_public_key", Ok(())),
        ("3_4.rsa_private_key", private()),
        ("3_5.symmetric_key_mac_computation", Ok(())),
        ("3_6.symmetric_key_encryption", none_usable("the key is not for verifying (`use`, `key_ops`)")),
    ];
    for (name, expected) in expected {
        let set = json!({ "keys": [json(&folder.join(format!("{name}.json")))] });
        let outcome = KeySet::from_jwks(set.to_string().as_bytes(), &ALL);
        assert_eq!(outcome.map(drop).map_err(|error| error.to_string()), expected, "{name}");
    }
}

/// Runs every vector and returns their number. An unusable key set rejects every token.
fn wycheproof(vectors: &Value, differences: &[(u64, &str)], set_of: impl Fn(&Value) -> Value) -> usize {
    let mut tried = 0;
    let mut differing = BTreeMap::new();
    for group in vectors["testGroups"].as_array().unwrap() {
        let set = set_of(group);
        for test in group["tests"].as_array().unwrap() {
            tried += 1;
            let outcome = verify(&set, test["jws"].as_str().unwrap());
            if outcome.is_ok() != (test["result"] == "valid") {
                let what = format!("{} {} is {}: {outcome:?}", group["comment"], test["comment"], test["result"]);
                differing.insert(test["tcId"].as_u64().unwrap(), what);
            }
        }
    }
    for (id, reason) in differences {
        assert!(differing.remove(id).is_some(), "vector {id} does not differ: {reason}");
    }
    assert!(differing.is_empty(), "{differing:#?}");
    tried
}

/// Returns the key of the verifier: the public key, or the shared secret.
fn public_key(group: &Value) -> &Value {
    group.get("public").unwrap_or(&group["private"])
}

fn verify(set: &Value, token: &str) -> Result<Vec<u8>, String> {
    let keys = KeySet::from_jwks(set.to_string().as_bytes(), &ALL).map_err(|error| format!("the key set: {error}"))?;
    let verifier = Verifier::new(VerifierConfig {
        keys: keys.into(),
        algorithms: ALL.to_vec(),
        issuer: None,
        audience: vec![],
        subject_claim: ClaimPath::registered("sub"),
        leeway: Duration::ZERO,
        on_expiry: OnExpiry::default(),
        sources: vec![],
        forward_token: false,
        max_bytes: 8192,
        claims: vec![],
    });
    verifier.verify_signature(token).map_err(|error| format!("{error:?}"))
}

fn read(name: &str) -> Option<Value> {
    folder(name).map(|path| json(&path))
}

fn folder(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/vectors").join(name);
    if path.exists() {
        return Some(path);
    }
    println!("skipped: {name} does not exist next to the checkout");
    None
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

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
