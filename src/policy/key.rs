//! The keys that verify tokens, each pinned to its algorithms (RFC 8725 section 3.1).
//!
//! An algorithm belongs to a key, never to a token: a token that names another algorithm than its key's is refused
//! before any cryptography runs. So a public key can never be taken for an HMAC secret, nor P-384 for P-256.

use std::fmt;

use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::{rsa, signature as crypto};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// The keys of one `[auth]` section: at least one, at most [`MAX_KEYS`].
#[derive(Debug)]
pub struct KeySet {
    keys: Vec<Key>,
}

/// Why a key file cannot be used. What it prints holds nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The file holds nothing.
    Empty,
    /// A private key stands where a public one belongs: a proxy that only verifies must not be able to sign.
    PrivateKey,
    /// A PEM file was given as the shared secret. Who knows the public key could then sign (RFC 8725 section 2.1).
    PemAsSecret,
    /// The secret is shorter than the hash of a listed algorithm (RFC 7518 section 3.2).
    SecretTooShort {
        /// What the algorithm needs.
        min_bytes: usize,
    },
    /// The file has no PEM block (RFC 7468).
    NotPem,
    /// The file has more than one PEM block, so which key is meant is anyone's guess.
    SeveralPemBlocks,
    /// The PEM block is something other than `PUBLIC KEY`, a certificate for example (RFC 7468 section 13).
    NotPublicKeyPem,
    /// The key's encoding is broken, a member is missing, or the point is not on its curve.
    Malformed,
    /// Neither RSA, EC P-256, EC P-384, Ed25519 nor a shared secret.
    UnsupportedType,
    /// ES512 is not supported.
    P521,
    /// RSA takes 2048 to 8192 bits (RFC 7518 sections 3.3 and 3.5 set the lower bound).
    RsaSize,
    /// No listed algorithm fits the type of the key or, in a set, its own `alg` (RFC 7517 section 4.4).
    NoFittingAlgorithm,
    /// `use` or `key_ops` say that the key is not for verifying (RFC 7517 sections 4.2 and 4.3).
    NotForVerifying,
    /// The file is not JSON.
    NotJson {
        /// Where reading stopped, from 1.
        line: usize,
        /// Where reading stopped, from 1.
        column: usize,
    },
    /// The JSON is not an object with an array `keys` (RFC 7517 section 5).
    NotKeySet,
    /// The set has more than [`MAX_KEYS`] keys.
    TooManyKeys,
    /// Two usable keys of the set share a `kid`, so it names neither (RFC 7517 section 4.5).
    DuplicateKid(String),
    /// No key of the set can be used; with the reason why the first cannot, if there is a first.
    NoUsableKey(Option<Box<KeyError>>),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("the file is empty"),
            Self::PrivateKey => f.write_str("holds a private key; give the public key"),
            Self::PemAsSecret => f.write_str("is a PEM file, not a shared secret"),
            Self::SecretTooShort { min_bytes } => {
                write!(f, "the secret is too short; the algorithm needs {min_bytes} bytes")
            }
            Self::NotPem => f.write_str("is not a PEM file"),
            Self::SeveralPemBlocks => f.write_str("has more than one PEM block; give one public key"),
            Self::NotPublicKeyPem => f.write_str("has no `BEGIN PUBLIC KEY` block"),
            Self::Malformed => f.write_str("the key is malformed"),
            Self::UnsupportedType => f.write_str("is no key of a supported type: RSA, EC P-256, EC P-384 or Ed25519"),
            Self::P521 => f.write_str("EC P-521 (ES512) is not supported; use P-256 or P-384"),
            Self::RsaSize => f.write_str("RSA keys need 2048 to 8192 bits"),
            Self::NoFittingAlgorithm => f.write_str("none of `algorithms` fits the key"),
            Self::NotForVerifying => f.write_str("the key is not for verifying (`use`, `key_ops`)"),
            Self::NotJson { line, column } => write!(f, "is not JSON at line {line}, column {column}"),
            Self::NotKeySet => f.write_str("is not a JWK set: an object with an array `keys`"),
            Self::TooManyKeys => write!(f, "has more than {MAX_KEYS} keys"),
            Self::DuplicateKid(kid) => write!(f, "two keys have the kid {kid:?}"),
            Self::NoUsableKey(None) => f.write_str("has no keys"),
            Self::NoUsableKey(Some(first)) => write!(f, "has no usable key; of the first: {first}"),
        }
    }
}

impl std::error::Error for KeyError {}

/// The secret that a file holds: all of it, less one line end.
pub fn secret_in(file: &[u8]) -> &[u8] {
    file.strip_suffix(b"\n").map_or(file, |rest| rest.strip_suffix(b"\r").unwrap_or(rest))
}

impl KeySet {
    /// A shared secret for HS256, HS384 or HS512: [`secret_in`] the file.
    ///
    /// # Errors
    /// The secret must be at least as long as the hash of every listed HMAC algorithm, and not a PEM file.
    pub fn from_secret(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        let secret = secret_in(file);
        if secret.is_empty() {
            return Err(KeyError::Empty);
        }
        if find(secret, PEM_BEGIN).is_some() {
            return Err(KeyError::PemAsSecret);
        }
        let hmac = fitting(algorithms, None, |algorithm| algorithm.family() == AlgorithmFamily::Hmac)?;
        Key::from_secret(None, hmac, secret).map(Self::of)
    }

    /// One public key in PEM (`BEGIN PUBLIC KEY`): RSA, EC P-256 or P-384, Ed25519.
    ///
    /// # Errors
    /// The file must hold just that one block, and a listed algorithm must fit the key.
    pub fn from_public_pem(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if file.trim_ascii().is_empty() {
            return Err(KeyError::Empty);
        }
        check_pem_label(file)?;
        if let Ok(key) = DecodingKey::from_ec_pem(file) {
            return Key::from_point(None, algorithms, None, bytes_of(&key)?).map(Self::of);
        }
        if let Ok(key) = DecodingKey::from_ed_pem(file) {
            return Key::from_ed25519(None, algorithms, None, bytes_of(&key)?).map(Self::of);
        }
        if let Ok(key) = DecodingKey::from_rsa_pem(file) {
            return Key::from_rsa_der(None, algorithms, None, bytes_of(&key)?).map(Self::of);
        }
        Err(KeyError::UnsupportedType)
    }

    /// A JWK set (RFC 7517 section 5). Keys that are not for verifying, of unknown type or too weak are skipped, as
    /// the RFC asks, so that a provider may add kinds of keys that we do not know.
    ///
    /// # Errors
    /// A private key fails the whole set, as do two usable keys of one `kid`, too many keys, and none that is usable.
    pub fn from_jwks(file: &[u8], algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        if file.trim_ascii().is_empty() {
            return Err(KeyError::Empty);
        }
        let set: JwkSet = serde_json::from_slice(file).map_err(|error| match error.classify() {
            // serde's own message may quote the file, which may hold a secret.
            serde_json::error::Category::Data => KeyError::NotKeySet,
            _ => KeyError::NotJson { line: error.line(), column: error.column() },
        })?;
        if set.keys.len() > MAX_KEYS {
            return Err(KeyError::TooManyKeys);
        }
        let mut keys: Vec<Key> = Vec::with_capacity(set.keys.len());
        let mut skipped = None;
        for value in set.keys {
            let jwk = serde_json::from_value::<Jwk>(value).map_err(|_| KeyError::Malformed);
            let key = match jwk.and_then(|jwk| Key::from_jwk(jwk, algorithms)) {
                Ok(key) => key,
                Err(KeyError::PrivateKey) => return Err(KeyError::PrivateKey),
                Err(reason) => {
                    skipped.get_or_insert(reason);
                    continue;
                }
            };
            if let Some(kid) = key.kid.as_deref()
                && keys.iter().any(|other| other.kid.as_deref() == Some(kid))
            {
                return Err(KeyError::DuplicateKid(kid.to_owned()));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyError::NoUsableKey(skipped.map(Box::new)));
        }
        Ok(Self { keys })
    }

    fn of(key: Key) -> Self {
        Self { keys: vec![key] }
    }

    /// The keys that may have signed a token with this `kid`. The key of that name alone, if there is one: a token
    /// that names its key gets no second chance. Otherwise the nameless keys; and for a token without `kid`, all.
    pub(super) fn candidates(&self, kid: Option<&str>) -> impl Iterator<Item = &Key> {
        let named = kid.and_then(|kid| self.keys.iter().position(|key| key.kid.as_deref() == Some(kid)));
        let token_is_nameless = kid.is_none();
        self.keys.iter().enumerate().filter_map(move |(place, key)| {
            let may_have_signed = match named {
                Some(named) => place == named,
                None => token_is_nameless || key.kid.is_none(),
            };
            may_have_signed.then_some(key)
        })
    }
}

/// One key with the algorithms that it is for.
pub(super) struct Key {
    kid: Option<String>,
    /// Never empty, and all of one family.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
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
        // A name that we do not know (ES512, RSA-OAEP, A256GCM) fits nothing.
        let own = jwk.alg.map(|name| name.parse().map_err(|_| KeyError::NoFittingAlgorithm)).transpose()?;
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
                // A set may hold secrets of different lengths: each is for what it is long enough for.
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
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_secret(secret) })
    }

    /// From a public key in PKCS #1 or X.509 form; kept in the first, which the library reads at once.
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
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_rsa_der(key.as_ref()) })
    }

    /// From an uncompressed point (SEC 1 section 2.3.3), whose length tells the curve.
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
        // Other curves have points of this length too; only those of ours pass.
        crypto::ParsedPublicKey::new(curve, point).map_err(|_| KeyError::Malformed)?;
        let algorithms = fitting(listed, own, |algorithm| algorithm == pinned)?;
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_ec_der(point) })
    }

    fn from_ed25519(
        kid: Option<String>,
        listed: &[Algorithm],
        own: Option<Algorithm>,
        point: &[u8],
    ) -> Result<Self, KeyError> {
        crypto::ParsedPublicKey::new(&crypto::ED25519, point).map_err(|_| KeyError::Malformed)?;
        let algorithms = fitting(listed, own, |algorithm| algorithm == Algorithm::EdDSA)?;
        Ok(Self { kid, algorithms, decoding: DecodingKey::from_ed_der(point) })
    }

    /// Whether the key is for this algorithm.
    pub(super) fn fits(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature`, in base64url, is this key's over `message`. An algorithm that is not the key's never is.
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

/// RFC 7517 section 5. The keys are read one by one, so that one of an unknown shape does not spoil the rest.
#[derive(Deserialize)]
struct JwkSet {
    keys: Vec<serde_json::Value>,
}

/// The members of a JWK that we know (RFC 7517 section 4, RFC 7518 section 6, RFC 8037 section 2).
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
    /// Marks a private key; what it is does not matter.
    d: Option<IgnoredAny>,
}

/// The listed algorithms that fit the type of a key: with an `alg` of its own, only that one.
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

/// jsonwebtoken's PEM reader takes the first block, and private keys and certificates for public keys: so look first.
fn check_pem_label(file: &[u8]) -> Result<(), KeyError> {
    let begin = find(file, PEM_BEGIN).ok_or(KeyError::NotPem)?;
    if find(file, PEM_PRIVATE).is_some() {
        return Err(KeyError::PrivateKey);
    }
    let label = file.get(begin + PEM_BEGIN.len()..).unwrap_or_default();
    if find(label, PEM_BEGIN).is_some() {
        return Err(KeyError::SeveralPemBlocks);
    }
    if label.starts_with(PEM_PUBLIC) { Ok(()) } else { Err(KeyError::NotPublicKeyPem) }
}

fn find(bytes: &[u8], part: &[u8]) -> Option<usize> {
    bytes.windows(part.len()).position(|window| window == part)
}

fn bytes_of(key: &DecodingKey) -> Result<&[u8], KeyError> {
    key.try_get_as_bytes().map_err(|_| KeyError::Malformed)
}

fn decode(member: Option<String>) -> Result<Vec<u8>, KeyError> {
    URL_SAFE_NO_PAD.decode(member.ok_or(KeyError::Malformed)?).map_err(|_| KeyError::Malformed)
}

/// The output of the algorithm's hash, which is the least that an HMAC key may have (RFC 7518 section 3.2).
fn hash_bytes(algorithm: Algorithm) -> usize {
    match algorithm {
        Algorithm::HS384 => 48,
        Algorithm::HS512 => 64,
        _ => MIN_HASH_BYTES,
    }
}

/// The most keys that a set may have, used or not. Providers have two to five.
pub const MAX_KEYS: usize = 64;

const MIN_HASH_BYTES: usize = 32;
const RSA_MIN_BITS: u32 = 2048;
const RSA_MAX_BITS: u32 = 8192;
/// The first byte of an uncompressed point.
const UNCOMPRESSED: u8 = 4;
const PEM_BEGIN: &[u8] = b"-----BEGIN ";
const PEM_PRIVATE: &[u8] = b"PRIVATE KEY-----";
const PEM_PUBLIC: &[u8] = b"PUBLIC KEY-----";

#[cfg(test)]
mod tests;
