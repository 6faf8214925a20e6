//! Seals tokens that nodes tell each other, with a key of `secret_file`: whoever reads at the server learns none.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use zeroize::Zeroizing;

/// The label of the key, which no other use of the secret has (RFC 5869 section 3.2).
const LABEL: &[u8] = b"tollgate cluster refresh 1";
/// The length of a key of AES-256.
const KEY_BYTES: usize = 32;

/// The key.
pub(super) struct Seal(RandomizedNonceKey);

/// Shows no key.
impl fmt::Debug for Seal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Seal").finish_non_exhaustive()
    }
}

impl Seal {
    /// Derives the key.
    pub(super) fn new(secret: &[u8]) -> Option<Self> {
        let mut key = Zeroizing::new([0; KEY_BYTES]);
        let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
        extracted.expand(&[LABEL], HKDF_SHA256).ok()?.fill(key.as_mut_slice()).ok()?;
        RandomizedNonceKey::new(&AES_256_GCM, key.as_slice()).ok().map(Self)
    }

    /// Seals a token. It opens only with the same context.
    pub(super) fn seal(&self, context: &str, token: &str) -> Option<Vec<u8>> {
        let mut sealed = token.as_bytes().to_vec();
        let nonce = self.0.seal_in_place_append_tag(Aad::from(context), &mut sealed).ok()?;
        Some([nonce.as_ref().as_slice(), &sealed].concat())
    }

    /// Opens a sealed token; `None` if it was made with another secret, for another context, or was changed.
    pub(super) fn open(&self, context: &str, sealed: &[u8]) -> Option<Zeroizing<String>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut token = Zeroizing::new(sealed.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.open_in_place(nonce, Aad::from(context), token.as_mut_slice()).ok()?;
        std::str::from_utf8(opened).ok().map(|token| Zeroizing::new(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_secret_and_context_open_a_token() {
        let (seal, other) = (Seal::new(&[1; 32]).unwrap(), Seal::new(&[2; 32]).unwrap());
        let sealed = seal.seal("chat", "a.b.c").unwrap();
        assert_eq!(seal.open("chat", &sealed).as_ref().map(|token| token.as_str()), Some("a.b.c"));
        assert_ne!(seal.seal("chat", "a.b.c").unwrap(), sealed, "each has its own nonce");
        assert!(!sealed.windows(5).any(|part| part == b"a.b.c"));
        assert!(other.open("chat", &sealed).is_none() && seal.open("other", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert!(seal.open("chat", &changed).is_none() && seal.open("chat", &sealed[..at]).is_none(), "{at}");
        }
    }
}
