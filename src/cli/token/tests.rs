//! Tests of `tollgate token`: key formats, and errors for files that do not hold a matching key.

use std::time::Duration;

use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::Algorithm;
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ECDSA_P521_SHA512, PKCS_ED25519,
    PKCS_RSA_SHA256,
};

use super::*;
use crate::policy::claim_path::ClaimPath;
use crate::policy::expiry::OnExpiry;
use crate::policy::key::{self, KeySet};
use crate::policy::token::{Verifier, VerifierConfig};

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
}

/// Returns the PKCS #1 or SEC 1 key inside a PKCS #8 key.
fn inside(pkcs8: &[u8]) -> Vec<u8> {
    use x509_cert::der::asn1::OctetStringRef;
    use x509_cert::der::{AnyRef, Decode as _, Reader as _, SliceReader};
    let mut reader = SliceReader::new(pkcs8).unwrap();
    let read = reader.sequence(|reader| -> x509_cert::der::Result<Vec<u8>> {
        u8::decode(reader)?;
        AnyRef::decode(reader)?;
        let key = <&OctetStringRef>::decode(reader)?.as_bytes().to_vec();
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok(key)
    });
    read.unwrap()
}

/// Mints a token with a key file of this content. Returns the token, or the error without the name of the file.
fn minted(algorithm: &str, file: &[u8]) -> Result<String, String> {
    let path =
        std::env::temp_dir().join(format!("tollgate-key-{}-{:?}", std::process::id(), std::thread::current().id()));
    std::fs::write(&path, file).unwrap();
    let minted = mint(&Token {
        key: path.clone(),
        algorithm: algorithm.to_owned(),
        subject: Some("ada".to_owned()),
        issuer: None,
        audience: None,
        expires: Duration::from_secs(60),
        kid: Some("k\"1".to_owned()),
        claims: vec![],
    });
    std::fs::remove_file(&path).unwrap();
    minted.map_err(|error| error.to_string().replace(&format!("{} ", path.display()), ""))
}

/// Checks that a verifier with these keys accepts a token.
fn check(keys: KeySet, algorithm: Algorithm, token: &str) {
    let verifier = Verifier::new(VerifierConfig {
        keys: keys.into(),
        algorithms: vec![algorithm],
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
    let claims =
        verifier.verify(token, clock::unix().unwrap()).unwrap_or_else(|error| panic!("{algorithm:?}: {error:?}"));
    assert_eq!(claims.subject(), Some("ada"));
}

#[test]
fn every_key_format_signs_tokens_that_verify() {
    let rsa = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
    let kinds: [(_, &str, &[&str]); 4] = [
        (&PKCS_RSA_SHA256, "RSA PRIVATE KEY", &rsa),
        (&PKCS_ECDSA_P256_SHA256, "EC PRIVATE KEY", &["ES256"]),
        (&PKCS_ECDSA_P384_SHA384, "EC PRIVATE KEY", &["ES384"]),
        (&PKCS_ED25519, "", &["EdDSA", "Ed25519"]),
    ];
    for (kind, label, names) in kinds {
        let pair = KeyPair::generate_for(kind).unwrap();
        let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&pair).unwrap().pem();
        let pkcs8 = pair.serialize_pem();
        let mut forms = vec![pkcs8.replace('\n', "\r\n"), format!("Key:\n{certificate}{pkcs8}"), pkcs8];
        if !label.is_empty() {
            let traditional = pem(label, &inside(&pair.serialize_der()));
            forms.push(format!("{}{traditional}", pem("EC PARAMETERS", &[5, 0])));
            forms.push(traditional);
        }
        for (name, form) in names.iter().flat_map(|name| forms.iter().map(move |form| (name, form))) {
            let algorithm = key::algorithm(name).unwrap();
            let token = minted(name, form.as_bytes()).unwrap();
            check(KeySet::from_public_pem(pair.public_key_pem().as_bytes(), &[algorithm]).unwrap(), algorithm, &token);
            let header = URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap();
            let header: Value = serde_json::from_slice(&header).unwrap();
            assert_eq!(header, json!({"alg": name, "kid": "k\"1", "typ": "JWT"}));
        }
    }
    for name in ["HS256", "HS384", "HS512"] {
        let secret = [b'x'; 64];
        let algorithm = key::algorithm(name).unwrap();
        let token = minted(name, &secret).unwrap();
        check(KeySet::from_secret(&secret, &[algorithm]).unwrap(), algorithm, &token);
    }
}

#[test]
fn errors_describe_what_the_file_holds() {
    let pair = |kind| KeyPair::generate_for(kind).unwrap();
    let (p256, p384, rsa) = (pair(&PKCS_ECDSA_P256_SHA256), pair(&PKCS_ECDSA_P384_SHA384), pair(&PKCS_RSA_SHA256));
    let certificate = CertificateParams::new(vec![]).unwrap().self_signed(&p256).unwrap().pem();
    let es256 = "ES256 signs with an EC private key on P-256 in PEM";
    let any_rsa = "an RSA key, which signs with RS256, RS384, RS512, PS256, PS384 and PS512";
    let held = |what: &str| format!("holds {what}; {es256}");
    let dsa = [0x30, 0x14, 2, 1, 0, 0x30, 9, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x38, 4, 1, 4, 4, 2, 2, 1, 1];
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("ES256", p384.serialize_pem().into(), held("an EC key on P-384, which signs with ES384")),
        ("ES256", pem("EC PRIVATE KEY", &inside(&p384.serialize_der())).into(), held("an EC key on P-384, which signs with ES384")),
        ("ES256", pair(&PKCS_ECDSA_P521_SHA512).serialize_pem().into(), held("an EC key on P-521, which is not supported")),
        ("ES256", rsa.serialize_pem().into(), held(any_rsa)),
        ("ES256", pem("RSA PRIVATE KEY", &inside(&rsa.serialize_der())).into(), held(any_rsa)),
        ("ES256", pair(&PKCS_ED25519).serialize_pem().into(), held("an Ed25519 key, which signs with Ed25519, the same as EdDSA")),
        ("ES256", pem("PRIVATE KEY", &dsa).into(), held("a DSA key, which cannot sign tokens")),
        ("ES256", p256.public_key_pem().into(), held("a public key, which only verifies")),
        ("ES256", pem("RSA PUBLIC KEY", &[]).into(), held("a public key, which only verifies")),
        ("ES256", certificate.into(), held("a certificate, which has a public key in it and only verifies")),
        ("ES256", pem("ENCRYPTED PRIVATE KEY", &[]).into(), held("an encrypted private key (`openssl pkey -in FILE` decrypts it)")),
        (
            "ES256",
            b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: x\n\nAAAA\n-----END EC PRIVATE KEY-----\n".to_vec(),
            held("an encrypted private key (`openssl pkey -in FILE` decrypts it)"),
        ),
        (
            "ES256",
            pem("OPENSSH PRIVATE KEY", &[]).into(),
            held("a private key in OpenSSH's form (`ssh-keygen -p -m PKCS8 -f COPY` converts a copy of one for RSA or ECDSA)"),
        ),
        ("ES256", pem("EC PARAMETERS", &[]).into(), held("the parameters of an EC key without the key")),
        ("ES256", pem("PRIVATE KEY", &[0]).into(), held("a private key that cannot be read")),
        ("ES256", pem("EC PRIVATE KEY", &[0]).into(), held("an EC key on an unsupported curve, or that cannot be read")),
        ("ES256", b"-----BEGIN PRIVATE KEY-----\n!\n".to_vec(), held("a PEM block that is not Base64")),
        ("ES256", pem("X", &[]).into(), held("a PEM block with the label \"X\"")),
        ("ES256", b"".to_vec(), held("nothing")),
        ("ES256", b"0123456789abcdef0123456789abcdef\n".to_vec(), held("text that is not PEM")),
        ("ES256", b"{\"kty\":\"EC\"}".to_vec(), held("JSON, perhaps a JWK")),
        ("ES256", p256.serialize_der(), held("DER (`openssl pkey -inform DER -in FILE` converts a private key)")),
        ("ES256", b"ssh-ed25519 AAAA x".to_vec(), held("a public key of OpenSSH, which only verifies")),
        ("ES256", vec![0xff; 32], held("bytes that are not PEM")),
        ("ES384", p256.serialize_pem().into(), "holds an EC key on P-256, which signs with ES256; ES384 signs with an EC private key on P-384 in PEM".to_owned()),
        ("PS256", p256.serialize_pem().into(), "holds an EC key on P-256, which signs with ES256; PS256 signs with an RSA private key in PEM".to_owned()),
        ("Ed25519", p256.serialize_pem().into(), "holds an EC key on P-256, which signs with ES256; Ed25519 signs with an Ed25519 private key in PEM".to_owned()),
        ("RS256", pem("RSA PRIVATE KEY", &[0]).into(), "holds an RSA key that cannot be read, or has less than 2048 or more than 8192 bits; RS256 signs with an RSA private key in PEM".to_owned()),
        ("HS256", p256.serialize_pem().into(), "holds a private key; HS256 signs with a shared secret".to_owned()),
        ("HS256", p256.public_key_pem().into(), "holds a public key, which only verifies; HS256 signs with a shared secret".to_owned()),
        ("HS256", b"short\n".to_vec(), "holds 5 bytes, fewer than the 32 that HS256 needs; HS256 signs with a shared secret".to_owned()),
        ("HS512", vec![b'x'; 63], "holds 63 bytes, fewer than the 64 that HS512 needs; HS512 signs with a shared secret".to_owned()),
        ("HS256", b"\n".to_vec(), "is empty".to_owned()),
        (
            "ES512",
            p256.serialize_pem().into(),
            "unknown algorithm \"ES512\": expected HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, \
             ES256, ES384, Ed25519 or EdDSA".to_owned(),
        ),
    ];
    for (algorithm, file, expected) in cases {
        assert_eq!(minted(algorithm, &file), Err(expected), "{algorithm}: {}", file.escape_ascii());
    }
}

/// A token that the command signs with a secret file must verify against a secret read from the same file.
#[test]
fn a_trailing_newline_is_not_part_of_a_secret() {
    let path = std::env::temp_dir().join(format!("tollgate-secret-{}", std::process::id()));
    let minted = ["", "\n", "\r\n"].map(|end| {
        std::fs::write(&path, format!("0123456789abcdef0123456789abcdef{end}")).unwrap();
        mint(&Token {
            key: path.clone(),
            algorithm: "HS256".to_owned(),
            subject: None,
            issuer: None,
            audience: None,
            expires: Duration::ZERO,
            kid: None,
            // The clock may advance between two tokens.
            claims: vec![("iat".to_owned(), 1.into()), ("exp".to_owned(), 2.into())],
        })
        .unwrap()
    });
    std::fs::remove_file(&path).unwrap();
    assert_eq!(minted[0], minted[1]);
    assert_eq!(minted[0], minted[2]);
}
