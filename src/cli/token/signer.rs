//! Reads the private key of a file in each supported format, or describes what the file holds instead.

use std::fmt;

use aws_lc_rs::signature::{
    self as crypto, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{hmac, rand};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use x509_cert::der::asn1::OctetStringRef;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{AnyRef, Decode as _, Reader as _, SliceReader};
use x509_cert::spki::AlgorithmIdentifierRef;

use crate::policy::key::{self, secret_in};

/// A key that signs tokens with one algorithm.
pub(super) enum Signer {
    Hmac(Box<hmac::Key>),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// The reason why no signer can be created.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SignerError {
    /// The name of the algorithm is unknown.
    Algorithm(String),
    /// The kind of content found and the kind expected, as text that follows the file's name in a sentence.
    File(String),
}

impl SignerError {
    pub(super) fn is_about_file(&self) -> bool {
        matches!(self, Self::File(_))
    }
}

impl fmt::Display for SignerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Algorithm(name) => write!(
                f,
                "unknown algorithm {name:?}: expected HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, \
                 ES256, ES384, Ed25519 or EdDSA"
            ),
            Self::File(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for SignerError {}

impl Signer {
    /// Creates a signer for an algorithm with the key in a file.
    pub(super) fn new(name: &str, file: &[u8]) -> Result<Self, SignerError> {
        let algorithm = key::algorithm(name).ok_or_else(|| SignerError::Algorithm(name.to_owned()))?;
        let wants = Wants { name, algorithm };
        if algorithm.family() == AlgorithmFamily::Hmac {
            return Self::from_secret(&wants, file);
        }
        let (label, der) = private_pem(&wants, file)?;
        let (held, der) = match label {
            Label::Pkcs8 => inside_pkcs8(&der).ok_or_else(|| wants.instead("a private key that cannot be read"))?,
            Label::Pkcs1 => (Held::Rsa, der.as_slice()),
            Label::Sec1 => (Held::ec(&der), der.as_slice()),
        };
        let broken = || wants.instead(&format!("{held} that cannot be read"));
        match (held, algorithm.family()) {
            (Held::Rsa, AlgorithmFamily::Rsa) => {
                let key = RsaKeyPair::from_der(der).map_err(|_| {
                    wants.instead("an RSA key that cannot be read, or has less than 2048 or more than 8192 bits")
                })?;
                Ok(Self::Rsa(key, rsa_encoding(algorithm)))
            }
            (Held::Ed25519, AlgorithmFamily::Ed) => {
                // The key is in an octet string of its own (RFC 8410 section 7).
                let seed = <&OctetStringRef>::from_der(der).map_err(|_| broken())?;
                Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).map(Self::Ed25519).map_err(|_| broken())
            }
            (Held::P256, _) if algorithm == Algorithm::ES256 => {
                ecdsa(&crypto::ECDSA_P256_SHA256_FIXED_SIGNING, der).ok_or_else(broken)
            }
            (Held::P384, _) if algorithm == Algorithm::ES384 => {
                ecdsa(&crypto::ECDSA_P384_SHA384_FIXED_SIGNING, der).ok_or_else(broken)
            }
            _ => Err(wants.instead(&held.to_string())),
        }
    }

    fn from_secret(wants: &Wants<'_>, file: &[u8]) -> Result<Self, SignerError> {
        let secret = secret_in(file);
        let (algorithm, min_bytes) = match wants.algorithm {
            Algorithm::HS384 => (hmac::HMAC_SHA384, 48),
            Algorithm::HS512 => (hmac::HMAC_SHA512, 64),
            _ => (hmac::HMAC_SHA256, 32),
        };
        if let Some((label, _)) = blocks(file).next() {
            return Err(wants.instead(&describe(label)));
        }
        match secret.len() {
            0 => Err(SignerError::File("is empty".to_owned())),
            len if len < min_bytes => {
                Err(wants.instead(&format!("{len} bytes, fewer than the {min_bytes} that {} needs", wants.name)))
            }
            _ => Ok(Self::Hmac(Box::new(hmac::Key::new(algorithm, secret)))),
        }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, &'static str> {
        let failed = |_| "the key cannot sign";
        let random = rand::SystemRandom::new();
        Ok(match self {
            Self::Hmac(key) => hmac::sign(key, message).as_ref().to_vec(),
            Self::Rsa(key, encoding) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(*encoding, &random, message, &mut signature).map_err(failed)?;
                signature
            }
            Self::Ecdsa(key) => key.sign(&random, message).map_err(failed)?.as_ref().to_vec(),
            Self::Ed25519(key) => key.sign(message).as_ref().to_vec(),
        })
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

fn rsa_encoding(algorithm: Algorithm) -> &'static dyn RsaEncoding {
    match algorithm {
        Algorithm::RS384 => &crypto::RSA_PKCS1_SHA384,
        Algorithm::RS512 => &crypto::RSA_PKCS1_SHA512,
        Algorithm::PS256 => &crypto::RSA_PSS_SHA256,
        Algorithm::PS384 => &crypto::RSA_PSS_SHA384,
        Algorithm::PS512 => &crypto::RSA_PSS_SHA512,
        _ => &crypto::RSA_PKCS1_SHA256,
    }
}

fn ecdsa(algorithm: &'static EcdsaSigningAlgorithm, der: &[u8]) -> Option<Signer> {
    EcdsaKeyPair::from_private_key_der(algorithm, der).ok().map(Signer::Ecdsa)
}

/// The requested algorithm, which determines the expected key.
struct Wants<'a> {
    /// The name of the algorithm as requested.
    name: &'a str,
    algorithm: Algorithm,
}

impl Wants<'_> {
    fn instead(&self, held: &str) -> SignerError {
        let wanted = match self.algorithm {
            Algorithm::ES256 => "an EC private key on P-256 in PEM",
            Algorithm::ES384 => "an EC private key on P-384 in PEM",
            Algorithm::EdDSA => "an Ed25519 private key in PEM",
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => "a shared secret",
            _ => "an RSA private key in PEM",
        };
        SignerError::File(format!("holds {held}; {} signs with {wanted}", self.name))
    }
}

/// The type of a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Held {
    Rsa,
    RsaPss,
    P256,
    P384,
    P521,
    OtherCurve,
    Ed25519,
    Ed448,
    KeyExchange,
    Dsa,
    Unknown,
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rsa => "an RSA key, which signs with RS256, RS384, RS512, PS256, PS384 and PS512",
            Self::RsaPss => {
                "an RSA key that is restricted to PSS, which is not supported (use one from `openssl genrsa`)"
            }
            Self::P256 => "an EC key on P-256, which signs with ES256",
            Self::P384 => "an EC key on P-384, which signs with ES384",
            Self::P521 => "an EC key on P-521, which is not supported",
            Self::OtherCurve => "an EC key on an unsupported curve, or that cannot be read",
            Self::Ed25519 => "an Ed25519 key, which signs with Ed25519, the same as EdDSA",
            Self::Ed448 => "an Ed448 key, which is not supported",
            Self::KeyExchange => "a key for key agreement (X25519, X448 or Diffie-Hellman), which cannot sign",
            Self::Dsa => "a DSA key, which cannot sign tokens",
            Self::Unknown => "a private key of an unknown type",
        })
    }
}

impl Held {
    /// Returns the curve of an `ECPrivateKey` (RFC 5915): the one for which it parses as a key.
    fn ec(der: &[u8]) -> Self {
        let curves: [(&'static EcdsaSigningAlgorithm, Self); 3] = [
            (&crypto::ECDSA_P256_SHA256_FIXED_SIGNING, Self::P256),
            (&crypto::ECDSA_P384_SHA384_FIXED_SIGNING, Self::P384),
            (&crypto::ECDSA_P521_SHA512_FIXED_SIGNING, Self::P521),
        ];
        let found = curves.into_iter().find(|(algorithm, _)| ecdsa(algorithm, der).is_some());
        found.map_or(Self::OtherCurve, |(_, held)| held)
    }

    fn of_oids(algorithm: ObjectIdentifier, parameters: Option<ObjectIdentifier>) -> Self {
        let dotted = |oid: ObjectIdentifier| oid.to_string();
        match (dotted(algorithm).as_str(), parameters.map(dotted).as_deref()) {
            ("1.2.840.113549.1.1.1", _) => Self::Rsa,
            ("1.2.840.113549.1.1.10", _) => Self::RsaPss,
            ("1.2.840.10045.2.1", Some("1.2.840.10045.3.1.7")) => Self::P256,
            ("1.2.840.10045.2.1", Some("1.3.132.0.34")) => Self::P384,
            ("1.2.840.10045.2.1", Some("1.3.132.0.35")) => Self::P521,
            ("1.2.840.10045.2.1", _) => Self::OtherCurve,
            ("1.3.101.112", _) => Self::Ed25519,
            ("1.3.101.113", _) => Self::Ed448,
            ("1.3.101.110" | "1.3.101.111" | "1.2.840.113549.1.3.1" | "1.2.840.10046.2.1", _) => Self::KeyExchange,
            ("1.2.840.10040.4.1", _) => Self::Dsa,
            _ => Self::Unknown,
        }
    }
}

/// Returns the key inside a `PrivateKeyInfo` (RFC 5208, RFC 5958). For an EC key it returns the whole structure, since
/// the curve may be named only outside the inner key.
fn inside_pkcs8(der: &[u8]) -> Option<(Held, &[u8])> {
    let mut reader = SliceReader::new(der).ok()?;
    let read = reader.sequence(|reader| -> x509_cert::der::Result<_> {
        u8::decode(reader)?;
        let algorithm = AlgorithmIdentifierRef::decode(reader)?;
        let key = <&OctetStringRef>::decode(reader)?.as_bytes();
        while !reader.is_finished() {
            AnyRef::decode(reader)?;
        }
        Ok((Held::of_oids(algorithm.oid, algorithm.parameters_oid().ok()), key))
    });
    let (held, key) = read.ok()?;
    let whole = matches!(held, Held::P256 | Held::P384);
    Some((held, if whole { der } else { key }))
}

/// The PEM formats of private keys.
enum Label {
    Pkcs8,
    Pkcs1,
    Sec1,
}

/// Returns the first private key of a PEM file. Other blocks before it are skipped: openssl writes `EC PARAMETERS`, and
/// some files hold a certificate and its key.
fn private_pem(wants: &Wants<'_>, file: &[u8]) -> Result<(Label, Vec<u8>), SignerError> {
    let Some((first, _)) = blocks(file).next() else { return Err(wants.instead(&describe_text(file))) };
    let labels = |label: &str| match label {
        "PRIVATE KEY" => Some(Label::Pkcs8),
        "RSA PRIVATE KEY" => Some(Label::Pkcs1),
        "EC PRIVATE KEY" => Some(Label::Sec1),
        _ => None,
    };
    let private = blocks(file).find_map(|(label, text)| Some((labels(label)?, text)));
    let Some((label, text)) = private else {
        // A private key in an unsupported format explains the error better than the first block does.
        let closest = blocks(file).map(|(label, _)| label).find(|label| label.ends_with("PRIVATE KEY"));
        return Err(wants.instead(&describe(closest.unwrap_or(first))));
    };
    if text.contains("ENCRYPTED") {
        return Err(wants.instead(&describe("ENCRYPTED PRIVATE KEY")));
    }
    let base64: String = text.split_ascii_whitespace().collect();
    let der = STANDARD.decode(base64).map_err(|_| wants.instead("a PEM block that is not Base64"))?;
    Ok((label, der))
}

/// Returns the label and the content of each PEM block.
fn blocks(file: &[u8]) -> impl Iterator<Item = (&str, &str)> {
    let text = match str::from_utf8(file) {
        Ok(text) => text,
        Err(error) => str::from_utf8(file.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default(),
    };
    text.split("-----BEGIN ").skip(1).filter_map(|block| {
        let (label, rest) = block.split_once("-----")?;
        Some((label, rest.split("-----END ").next().unwrap_or_default()))
    })
}

fn describe(label: &str) -> String {
    match label {
        "PUBLIC KEY" | "RSA PUBLIC KEY" => "a public key, which only verifies".to_owned(),
        "CERTIFICATE" | "X509 CERTIFICATE" | "TRUSTED CERTIFICATE" => {
            "a certificate, which has a public key in it and only verifies".to_owned()
        }
        "ENCRYPTED PRIVATE KEY" => "an encrypted private key (`openssl pkey -in FILE` decrypts it)".to_owned(),
        "OPENSSH PRIVATE KEY" => {
            "a private key in OpenSSH's form (`ssh-keygen -p -m PKCS8 -f COPY` converts a copy of one for RSA or ECDSA)"
                .to_owned()
        }
        "DSA PRIVATE KEY" => Held::Dsa.to_string(),
        "PRIVATE KEY" | "RSA PRIVATE KEY" | "EC PRIVATE KEY" => "a private key".to_owned(),
        "EC PARAMETERS" => "the parameters of an EC key without the key".to_owned(),
        other => format!("a PEM block with the label {:?}", other.chars().take(LABEL_SHOWN_MAX).collect::<String>()),
    }
}

/// Describes a file without a PEM block.
fn describe_text(file: &[u8]) -> String {
    let trimmed = file.trim_ascii();
    let is_text = str::from_utf8(file).is_ok_and(|text| !text.contains(|c: char| c.is_control() && !c.is_whitespace()));
    if trimmed.is_empty() {
        "nothing"
    } else if trimmed.starts_with(b"{") {
        "JSON, perhaps a JWK"
    } else if !is_text && file.starts_with(&[DER_SEQUENCE]) {
        "DER (`openssl pkey -inform DER -in FILE` converts a private key)"
    } else if trimmed.starts_with(b"ssh-") || trimmed.starts_with(b"ecdsa-sha2-") {
        "a public key of OpenSSH, which only verifies"
    } else if is_text {
        "text that is not PEM"
    } else {
        "bytes that are not PEM"
    }
    .to_owned()
}

/// The first byte of every key in DER: the tag of a sequence. In ASCII it is `0`.
const DER_SEQUENCE: u8 = 0x30;
const LABEL_SHOWN_MAX: usize = 40;
