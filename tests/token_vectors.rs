//! Signatures that others made and broke: Project Wycheproof and the cookbook of RFC 7520.
//!
//! The vectors lie beside the checkout, not in it. A clone without them says that it skipped them, and passes. Every
//! vector on which we differ stands in a list with its reason; a difference that is not listed fails, and so does a
//! listed one that is none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jsonwebtoken::Algorithm;
use serde_json::{Value, json};
use tollgate::policy::key::KeySet;
use tollgate::policy::token::{Verifier, VerifierParts};

/// Where we refuse a signature that Wycheproof takes, or the other way round.
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

/// The same for the key sets.
const KEY_DIFFERENCES: &[(u64, &str)] = &[
    (
        1,
        "a set of public keys and secrets is taken: each key is pinned to its own algorithms, so none can stand in \
         for another; such sets exist while an operator moves from one to the other",
    ),
    (
        4,
        "the second key of that `kid` is not base64url (its last character has bits to spare), so it is skipped and \
         the name is the first key's alone; two usable keys of one `kid` are refused, as the unit tests show",
    ),
    (7, "the weakness of ROCA keys (CVE-2017-15361) is not looked for: the operator chooses the keys"),
];

const PS384_WITH_A_PS256_KEY: &str = "the token says PS384, its key `alg: PS256`: our keys are pinned to their `alg`";
const NO_ES512: &str = "P-521 is not supported";
const NOT_PADDED: &str = "meant to have a padding, but the vector has none: byte for byte it is the valid vector 357";
const STRAY_CHARACTER: &str = "a `?` in the base64url is skipped by the authors' library; RFC 7515 section 2 has none";

#[test]
fn wycheproof_signatures() {
    let Some(vectors) = read("wycheproof/json_web_signature_test.json") else { return };
    let tried = wycheproof(&vectors, SIGNATURE_DIFFERENCES, |group| json!({ "keys": [public_key(group)] }));
    assert_eq!(tried, 401);
}

#[test]
fn wycheproof_key_sets() {
    let Some(vectors) = read("wycheproof/json_web_key_test.json") else { return };
    let tried = wycheproof(&vectors, KEY_DIFFERENCES, |group| public_key(group).clone());
    assert_eq!(tried, 26);
}

#[test]
fn rfc_7520_signatures() {
    let Some(folder) = folder("jose-cookbook/jws") else { return };
    let es512 = "the key set: has no usable key; of the first: EC P-521 (ES512) is not supported; use P-256 or P-384";
    let expected = [
        ("4_1", Ok("It’s a dangerous business")),
        ("4_2", Ok("It’s a dangerous business")),
        ("4_3", Err(es512)),
        ("4_4", Ok("It’s a dangerous business")),
        // The payload is not in the token, so the signature is not that of what is.
        ("4_5", Err("Signature")),
        // These have no compact form, the only one that a JWT takes (RFC 7519 section 1).
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
                // The cookbook shows the keys whole; a verifier has the public half.
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
fn rfc_7520_keys() {
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

/// Runs every vector, and returns how many there were. A key set that cannot be used refuses every token.
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
        assert!(differing.remove(id).is_some(), "vector {id} no longer differs: {reason}");
    }
    assert!(differing.is_empty(), "{differing:#?}");
    tried
}

/// What a verifier has: the public key; for a shared secret, the secret.
fn public_key(group: &Value) -> &Value {
    group.get("public").unwrap_or(&group["private"])
}

fn verify(set: &Value, token: &str) -> Result<Vec<u8>, String> {
    let keys = KeySet::from_jwks(set.to_string().as_bytes(), &ALL).map_err(|error| format!("the key set: {error}"))?;
    let verifier = Verifier::new(VerifierParts {
        keys,
        algorithms: ALL.to_vec(),
        issuer: None,
        audience: vec![],
        leeway: Duration::ZERO,
        sources: vec![],
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
    println!("skipped: {name} is not beside the checkout");
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
