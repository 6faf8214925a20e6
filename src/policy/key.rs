//! The keys that verify tokens, each pinned to its algorithms (RFC 8725 section 3.1).
//!
//! An algorithm belongs to a key, never to a token: a token with an algorithm other than its key's is rejected before
//! any cryptography runs. A public key can therefore never be used as an HMAC secret, nor a P-384 key for P-256.

mod error;
mod id;
mod live;
mod pem;

use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::{digest, rsa, signature as crypto};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;
use x509_cert::Certificate;
use x509_cert::der::oid::ObjectIdentifier;
use x509_cert::der::{Decode as _, Encode as _};
use x509_cert::spki::SubjectPublicKeyInfoRef;

pub use self::error::{KeyError, MAX_KEYS};
pub use self::id::KeyId;
use self::pem::{Pem, PemLabel};

/// The keys of one `[auth]` section: at least one, at most [`MAX_KEYS`].
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
    fingerprint: Fingerprint,
}

/// Two sets are equal if they were created from the same file for the same algorithms.
impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for KeySet {}

/// The SHA-256 of the file and the algorithms of a set. It may be the hash of a secret, so `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Fingerprint([u8; digest::SHA256_OUTPUT_LEN]);

impl Fingerprint {
    fn of(file: &[u8], algorithms: &[Algorithm]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(format!("{algorithms:?}\n").as_bytes());
        context.update(file);
        let mut hash = [0; digest::SHA256_OUTPUT_LEN];
        hash.copy_from_slice(context.finish().as_ref());
        Self(hash)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint")
    }
}

/// Returns the algorithm of this name (RFC 7518 section 3.1, RFC 8037 section 3.1). `Ed25519` (RFC 9864 section 2.2) is
/// `EdDSA` with its only supported curve.
pub fn algorithm(name: &str) -> Option<Algorithm> {
    if name == "Ed25519" { Some(Algorithm::EdDSA) } else { name.parse().ok() }
}

/// Returns the secret in a file: all bytes except one trailing line end.
pub fn secret_in(file: &[u8]) -> &[u8] {
    file.strip_suffix(b"\n").map_or(file, |rest| rest.strip_suffix(b"\r").unwrap_or(rest))
}

impl KeySet {
    /// Creates a set from a shared secret for HS256, HS384 or HS512: [`secret_in`] the file.
    ///
    /// # Errors
    /// If the secret is shorter than the hash of a listed HMAC algorithm, or a PEM file, or no listed algorithm is
    /// HMAC.
    pub fn from_secret(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let secret = secret_in(file);
        if secret.is_empty() {
            return Err(KeyError::Empty);
        }
        if pem::is_pem(secret) {
            return Err(KeyError::PemAsSecret);
        }
        let hmac = fitting(algorithms, None, |algorithm| algorithm.family() == AlgorithmFamily::Hmac)?;
        let key = Key::from_secret(None, hmac, secret)?;
        Ok(Self { keys: vec![key], fingerprint: Fingerprint::of(secret, algorithms) })
    }

    /// Creates a set from one public key in PEM: RSA, EC P-256 or P-384, Ed25519, as `PUBLIC KEY` (X.509), as
    /// `RSA PUBLIC KEY` (PKCS #1) or in a `CERTIFICATE`. Only the key of a certificate is read, not its validity,
    /// issuer, names or usages, since the operator vouches for the file.
    ///
    /// # Errors
    /// If the file does not contain exactly one such block, or no listed algorithm fits the key.
    pub fn from_public_pem(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if file.trim_ascii().is_empty() {
            return Err(KeyError::Empty);
        }
        let Pem { label, text } = Pem::public(file)?;
        let der = STANDARD.decode(text);
        let key = match label {
            PemLabel::PublicKey => Key::from_spki(algorithms, &der.map_err(|_| KeyError::UnsupportedType)?),
            PemLabel::RsaPublicKey => Key::from_rsa_der(None, algorithms, None, &der.map_err(|_| KeyError::Malformed)?),
            PemLabel::Certificate => {
                let der = der.map_err(|_| KeyError::Malformed)?;
                let certificate = Certificate::from_der(&der).map_err(|_| KeyError::Malformed)?;
                let key = certificate.tbs_certificate().subject_public_key_info();
                Key::from_spki(algorithms, &key.to_der().map_err(|_| KeyError::Malformed)?)
            }
        };
        Ok(Self { keys: vec![key?], fingerprint: Fingerprint::of(file, algorithms) })
    }

    /// Creates a set from a JWK set (RFC 7517 section 5). Keys that are not for verifying, of unknown type or too weak
    /// are skipped, as the RFC asks, so that a provider may add kinds of keys that Tollgate does not support.
    ///
    /// # Errors
    /// If a key is private, two different usable keys share a `kid` and an algorithm, there are too many keys, or no
    /// key is usable.
    pub fn from_jwks(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if file.trim_ascii().is_empty() {
            return Err(KeyError::Empty);
        }
        let set: JwkSet<'_> = serde_json::from_slice(file).map_err(|error| match error.classify() {
            // The message of serde may quote the file, which may contain a secret.
            serde_json::error::Category::Data => KeyError::NotKeySet,
            _ => KeyError::NotJson { line: error.line(), column: error.column() },
        })?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeyError::TooManyKeys);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(set.keys.len());
        let mut skipped = None;
        for value in set.keys {
            let jwk = serde_json::from_str::<Jwk>(value.get()).map_err(|_| KeyError::Malformed);
            let key = match jwk.and_then(|jwk| Key::from_jwk(jwk, algorithms)) {
                Ok(key) => key,
                Err(KeyError::PrivateKey) => return Err(KeyError::PrivateKey),
                Err(reason) => {
                    skipped.get_or_insert(reason);
                    continue;
                }
            };
            add(&mut keys, key)?;
        }
        if keys.is_empty() {
            return Err(KeyError::NoUsableKey(skipped.map(Box::new)));
        }
        Ok(Self { keys, fingerprint: Fingerprint::of(file, algorithms) })
    }

    /// Whether the set has this key, pinned to this algorithm.
    pub(super) fn has(&self, id: KeyId, algorithm: Algorithm) -> bool {
        self.keys.iter().any(|key| key.id == id && key.fits(algorithm))
    }

    /// Whether a key of the set has this `kid`.
    pub(super) fn names(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid.as_deref() == Some(kid))
    }

    /// Returns the keys that may have signed a token with this `kid`. If keys have that `kid`, only they are returned,
    /// and at most one of them fits an algorithm: a token that names its key is not checked with any other key.
    /// Otherwise the keys without `kid` are returned; and for a token without `kid`, all keys.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let is_named = move |key: &Key| kid.is_some() && key.kid.as_deref() == kid;
        let any_named = self.keys.iter().any(is_named);
        let token_is_nameless = kid.is_none();
        self.keys.iter().filter(
            move |key| {
                if any_named { is_named(key) } else { token_is_nameless || key.kid.is_none() }
            },
        )
    }
}

/// Adds a key to a set. If the set has the same key with the same `kid`, the algorithms are added to that key.
fn add(keys: &mut Vec<Key>, key: Key) -> Result<(), KeyError> {
    let shared = |other: &Key| other.algorithms.iter().any(|&algorithm| key.fits(algorithm));
    let mut same = None;
    for (index, other) in keys.iter().enumerate().filter(|(_, other)| other.kid == key.kid && shared(other)) {
        if key.is_same(other) {
            same.get_or_insert(index);
        } else if let Some(kid) = &key.kid {
            return Err(KeyError::DuplicateKid(kid.clone()));
        }
    }
    match same.and_then(|index| keys.get_mut(index)) {
        Some(same) => {
            for algorithm in key.algorithms {
                if !same.fits(algorithm) {
                    same.algorithms.push(algorithm);
                }
            }
        }
        None => keys.push(key),
    }
    Ok(())
}

/// One key and the algorithms that it is pinned to.
pub(super) struct Key {
    kid: Option<String>,
    /// Not empty, and all of one family.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
    /// The cost of a signature check, relative to that of the cheapest keys.
    cost: usize,
    id: KeyId,
}

impl Key {
    fn from_jwk(jwk: Jwk, listed: &[Algorithm]) -> Result<Self, KeyError> {
        if jwk.kty != "oct" && jwk.d.is_some() {
            return Err(KeyError::PrivateKey);
        }
        let for_verifying = jwk.key_use.is_none_or(|key_use| key_use == "sig")
            && jwk.key_ops.is_none_or(|operations| operations.iter().any(|operation| operation == "verify"));
        if !for_verifying {
            return Err(KeyError::NotForVerifying);
        }
        // An unknown name (ES512, RSA-OAEP, A256GCM) fits no listed algorithm.
        let own = jwk.alg.map(|name| algorithm(&name).ok_or(KeyError::NoFittingAlgorithm)).transpose()?;
        match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) => {
                let key = crypto::RsaPublicKeyComponents { n: decode(jwk.n)?, e: decode(jwk.e)? };
                let der = key.as_der().map_err(|_| KeyError::Malformed)?;
                Self::from_rsa_der(jwk.kid, listed, own, der.as_ref())
            }
            ("EC", Some(curve @ ("P-256" | "P-384"))) => {
                let (x, y) = (decode(jwk.x)?, decode(jwk.y)?);
                // RFC 7518 section 6.2.1.2: each coordinate has the full size of the field.
                let field_bytes = if curve == "P-256" { 32 } else { 48 };
                if x.len() != field_bytes || y.len() != field_bytes {
                    return Err(KeyError::Malformed);
                }
                Self::from_point(jwk.kid, listed, own, &[&[UNCOMPRESSED], &x[..], &y[..]].concat())
            }
            ("EC", Some("P-521")) => Err(KeyError::P521),
            ("OKP", Some("Ed25519")) => Self::from_ed25519(jwk.kid, listed, own, &decode(jwk.x)?),
            ("oct", _) => {
                let secret = decode(jwk.k)?;
                let mut hmac = fitting(listed, own, |algorithm| algorithm.family() == AlgorithmFamily::Hmac)?;
                // A set may contain secrets of different lengths: each is pinned to the algorithms that it is long
                // enough for.
                let min_bytes = hmac.iter().copied().map(hash_bytes).min().unwrap_or_default();
                if secret.len() < min_bytes {
                    return Err(KeyError::SecretTooShort { min_bytes });
                }
                hmac.retain(|&algorithm| hash_bytes(algorithm) <= secret.len());
                Self::from_secret(jwk.kid, hmac, &secret)
            }
            _ => Err(KeyError::UnsupportedType),
        }
    }

    fn from_secret(kid: Option<String>, algorithms: Vec<Algorithm>, secret: &[u8]) -> Result<Self, KeyError> {
        let min_bytes = algorithms.iter().copied().map(hash_bytes).max().unwrap_or_default();
        if secret.len() < min_bytes {
            return Err(KeyError::SecretTooShort { min_bytes });
        }
        let id = KeyId::of(AlgorithmFamily::Hmac, secret);
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_secret(secret), cost: 1, id })
    }

    /// Creates a key from an RSA public key in PKCS #1 or X.509 form. The key is kept in PKCS #1, as `DecodingKey`
    /// requires.
    fn from_rsa_der(
        kid: Option<String>,
        listed: &[Algorithm],
        own: Option<Algorithm>,
        der: &[u8],
    ) -> Result<Self, KeyError> {
        let key = rsa::PublicKey::from_der(der).map_err(|_| KeyError::Malformed)?;
        let bits = crypto::RsaParameters::public_modulus_len(key.as_ref()).map_err(|_| KeyError::Malformed)?;
        if !(RSA_MIN_BITS..=RSA_MAX_BITS).contains(&bits) {
            return Err(KeyError::RsaSize);
        }
        let algorithms = fitting(listed, own, |algorithm| algorithm.family() == AlgorithmFamily::Rsa)?;
        let cost = if bits > RSA_CHEAP_BITS { 2 } else { 1 };
        let id = KeyId::of(AlgorithmFamily::Rsa, key.as_ref());
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_rsa_der(key.as_ref()), cost, id })
    }

    /// Creates a key from an uncompressed point (SEC 1 section 2.3.3), whose length determines the curve.
    fn from_point(
        kid: Option<String>,
        listed: &[Algorithm],
        own: Option<Algorithm>,
        point: &[u8],
    ) -> Result<Self, KeyError> {
        let (pinned, curve) = match point.len() {
            65 => (Algorithm::ES256, &crypto::ECDSA_P256_SHA256_FIXED),
            97 => (Algorithm::ES384, &crypto::ECDSA_P384_SHA384_FIXED),
            133 => return Err(KeyError::P521),
            _ => return Err(KeyError::UnsupportedType),
        };
        // Other curves have points of this length, too; only points of the supported curve are accepted.
        crypto::ParsedPublicKey::new(curve, point).map_err(|_| KeyError::Malformed)?;
        let algorithms = fitting(listed, own, |algorithm| algorithm == pinned)?;
        let cost = if pinned == Algorithm::ES384 { 2 } else { 1 };
        let id = KeyId::of(AlgorithmFamily::Ec, point);
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_ec_der(point), cost, id })
    }

    fn from_ed25519(
        kid: Option<String>,
        listed: &[Algorithm],
        own: Option<Algorithm>,
        point: &[u8],
    ) -> Result<Self, KeyError> {
        crypto::ParsedPublicKey::new(&crypto::ED25519, point).map_err(|_| KeyError::Malformed)?;
        let algorithms = fitting(listed, own, |algorithm| algorithm == Algorithm::EdDSA)?;
        let id = KeyId::of(AlgorithmFamily::Ed, point);
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_ed_der(point), cost: 1, id })
    }

    /// Creates a key from a `SubjectPublicKeyInfo` (RFC 5280 section 4.1.2.7).
    fn from_spki(listed: &[Algorithm], der: &[u8]) -> Result<Self, KeyError> {
        let info = SubjectPublicKeyInfoRef::from_der(der).map_err(|_| KeyError::UnsupportedType)?;
        let bits = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
        match info.algorithm.oid {
            RSA_OID => Self::from_rsa_der(None, listed, None, bits),
            EC_OID => Self::from_point(None, listed, None, bits),
            ED25519_OID => Self::from_ed25519(None, listed, None, bits),
            _ => Err(KeyError::UnsupportedType),
        }
    }

    /// Whether the key is pinned to this algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Returns the cost of a signature check, in the unit of [`MAX_KEYS_COST`](super::token::MAX_KEYS_COST).
    pub(super) fn cost(&self) -> usize {
        self.cost
    }

    /// Whether both are the same key, regardless of `kid`.
    fn is_same(&self, other: &Self) -> bool {
        self.id == other.id
    }

    /// Returns the identity of the key, regardless of `kid`.
    pub(super) fn id(&self) -> KeyId {
        self.id
    }

    /// Whether `signature`, in base64url, is a signature of this key over `message`. Always false for an algorithm that
    /// the key is not pinned to.
    pub(super) fn verify(&self, algorithm: Algorithm, message: &str, signature: &str) -> bool {
        self.fits(algorithm)
            && jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.decoding, algorithm).unwrap_or(false)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key").field("kid", &self.kid).field("algorithms", &self.algorithms).finish_non_exhaustive()
    }
}

/// A JWK set (RFC 7517 section 5). Each key is parsed separately, so that one of an unknown shape does not fail the
/// others.
#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The members of a JWK that are read (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    key_use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
    k: Option<String>,
    /// Present in a private key; its value is not read.
    d: Option<IgnoredAny>,
}

/// Returns the listed algorithms that fit the type of a key. If the key has an `alg`, only that one can fit.
fn fitting(
    listed: &[Algorithm],
    own: Option<Algorithm>,
    fits_type: impl Fn(Algorithm) -> bool,
) -> Result<Vec<Algorithm>, KeyError> {
    let algorithms: Vec<Algorithm> = listed
        .iter()
        .copied()
        .filter(|&algorithm| fits_type(algorithm) && own.is_none_or(|own| own == algorithm))
        .collect();
    if algorithms.is_empty() { Err(KeyError::NoFittingAlgorithm) } else { Ok(algorithms) }
}

fn decode(member: Option<String>) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(member.ok_or(KeyError::Malformed)?).map_err(|_| KeyError::Malformed)
}

/// Returns the output size of the algorithm's hash: the minimum size of an HMAC key (RFC 7518 section 3.2).
fn hash_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => MIN_HASH_BYTES,
    }
}

const MIN_HASH_BYTES: usize = 32;
const RSA_MIN_BITS: u32 = 2048;
const RSA_MAX_BITS: u32 = 8192;
/// A signature check with a larger RSA key costs more than one with an EC key on P-256.
const RSA_CHEAP_BITS: u32 = 4096;
/// `rsaEncryption` (RFC 3279 section 2.3.1).
const RSA_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// `id-ecPublicKey` (RFC 5480 section 2.1.1).
const EC_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// `id-Ed25519` (RFC 8410 section 3).
const ED25519_OID: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// The first byte of an uncompressed point.
const UNCOMPRESSED: u8 = 4;

#[cfg(test)]
mod tests;
