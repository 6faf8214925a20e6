//! Key sets that a server sends, and the comparison of two of them.

use jsonwebtoken::Algorithm;

use super::{KeyError, KeyId, KeySet};

/// The algorithms of public keys. A set that is fetched may serve sections with different algorithms: each of them
/// checks the algorithm of a token before it uses a key.
const PUBLIC_KEY_ALGORITHMS: [Algorithm; 9] = [
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

impl KeySet {
    /// Creates a set from a JWK set that a server sent. Shared secrets in it are skipped.
    ///
    /// # Errors
    /// As [`KeySet::from_jwks`].
    pub fn from_server(body: &[u8]) -> Result<Self, KeyError> {
        Self::from_jwks(body, &PUBLIC_KEY_ALGORITHMS)
    }

    /// Returns the identities of the keys.
    pub fn ids(&self) -> impl Iterator<Item = KeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// Whether the set has this key.
    pub fn has_id(&self, id: KeyId) -> bool {
        self.ids().any(|own| own == id)
    }

    /// Returns the number of keys that can verify a token with one of these algorithms.
    pub fn count_for(&self, algorithms: &[Algorithm]) -> usize {
        self.keys.iter().filter(|key| algorithms.iter().any(|algorithm| key.fits(*algorithm))).count()
    }
}
