//! The errors of key files.

use std::fmt;

/// The maximum number of keys in a set, used or not. Providers have two to five.
pub const MAX_KEYS: usize = 64;

/// Why a key file cannot be used. The message contains nothing of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// The file is empty.
    Empty,
    /// The file contains a private key instead of a public one: a proxy that only verifies must not be able to sign.
    PrivateKey,
    /// The shared secret is a PEM file: any holder of the public key could then sign (RFC 8725 section 2.1).
    PemAsSecret,
    /// The secret is shorter than the hash of a listed algorithm (RFC 7518 section 3.2).
    SecretTooShort {
        /// The size that the algorithm needs.
        min_bytes: usize,
    },
    /// The file has no PEM block (RFC 7468).
    NotPem,
    /// The file has more than one PEM block, so the key is ambiguous.
    SeveralPemBlocks,
    /// The PEM block is something other than `PUBLIC KEY` (RFC 7468 section 13), `RSA PUBLIC KEY` or `CERTIFICATE`.
    NotPublicKeyPem,
    /// The key's encoding is broken, a member is missing, or the point is not on its curve.
    Malformed,
    /// The key is neither RSA, EC P-256, EC P-384, Ed25519 nor a shared secret.
    UnsupportedType,
    /// The key is on P-521: ES512 is not supported.
    P521,
    /// The size of the RSA key is not 2048 to 8192 bits (RFC 7518 sections 3.3 and 3.5 set the lower bound).
    RsaSize,
    /// No listed algorithm fits the type of the key or, in a set, its own `alg` (RFC 7517 section 4.4).
    NoFittingAlgorithm,
    /// `use` or `key_ops` exclude verifying (RFC 7517 sections 4.2 and 4.3).
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
    /// Two different usable keys of the set share a `kid` and an algorithm, so the `kid` identifies neither (RFC 7517
    /// section 4.5).
    DuplicateKid(String),
    /// No key of the set is usable. Contains the reason for the first key, if the set is not empty.
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
            Self::NotPublicKeyPem => {
                f.write_str("has no `BEGIN PUBLIC KEY`, `BEGIN RSA PUBLIC KEY` or `BEGIN CERTIFICATE` block")
            }
            Self::Malformed => f.write_str("the key is malformed"),
            Self::UnsupportedType => f.write_str("is not a supported key type: RSA, EC P-256, EC P-384 or Ed25519"),
            Self::P521 => f.write_str("EC P-521 (ES512) is not supported; use P-256 or P-384"),
            Self::RsaSize => f.write_str("RSA keys need 2048 to 8192 bits"),
            Self::NoFittingAlgorithm => f.write_str("none of `algorithms` fits the key"),
            Self::NotForVerifying => f.write_str("the key is not for verifying (`use`, `key_ops`)"),
            Self::NotJson { line, column } => write!(f, "is not JSON at line {line}, column {column}"),
            Self::NotKeySet => f.write_str("is not a JWK set: an object with an array `keys`"),
            Self::TooManyKeys => write!(f, "has more than {MAX_KEYS} keys"),
            Self::DuplicateKid(kid) => write!(f, "two different keys have the kid {kid:?} and an algorithm in common"),
            Self::NoUsableKey(None) => f.write_str("has no keys"),
            Self::NoUsableKey(Some(first)) => write!(f, "has no usable key; of the first: {first}"),
        }
    }
}

impl std::error::Error for KeyError {}
