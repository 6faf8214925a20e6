//! The identity of a key among the keys of all configurations.

use std::fmt;

use serde::{Deserialize, Serialize};

use aws_lc_rs::digest;
use jsonwebtoken::AlgorithmFamily;

/// Identifies a key among the keys of all configurations: a truncated SHA-256 of its type and its bytes. `Debug` does
/// not show it, since it may be the hash of a secret.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyId([u8; 16]);

impl KeyId {
    pub(super) fn of(family: AlgorithmFamily, key: &[u8]) -> Self {
        let mut context = digest::Context::new(&digest::SHA256);
        context.update(format!("{family:?}\n").as_bytes());
        context.update(key);
        Self(context.finish().as_ref().first_chunk().copied().unwrap_or_default())
    }
}

#[cfg(test)]
impl KeyId {
    /// Returns the identity of a key for tests.
    pub(in crate::policy) fn of_test() -> Self {
        Self([7; 16])
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyId")
    }
}
