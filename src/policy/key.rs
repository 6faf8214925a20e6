//! The keys that verify tokens, each pinned to its algorithms (RFC 8725 section 3.1).

use jsonwebtoken::Algorithm;

/// The keys of one `[auth]` section.
pub struct KeySet {}

/// Why a key file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {}
impl std::fmt::Display for KeyError {
    fn fmt(&self, _f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        todo!()
    }
}

impl KeySet {
    /// A shared secret for HS256, HS384 or HS512: the whole file, less one trailing line end.
    pub fn from_secret(_file: &[u8], _algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        todo!()
    }
    /// One public key in PEM (`BEGIN PUBLIC KEY`): RSA, EC P-256 or P-384, Ed25519.
    pub fn from_public_pem(_file: &[u8], _algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        todo!()
    }
    /// A JWK set (RFC 7517 section 5).
    pub fn from_jwks(_file: &[u8], _algorithms: &[Algorithm]) -> Result<Self, KeyError> {
        todo!()
    }
}
