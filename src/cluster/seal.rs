//! Uses of `secret_file`: seals tokens that nodes tell each other, so that whoever reads at the server learns none, and
//! derives a digest of the secret by which nodes notice that theirs differ.

use std::fmt::{self, Write as _};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Salt};
use zeroize::Zeroizing;

/// The label of the key, which no other use of the secret has (RFC 5869 section 3.2).
const LABEL: &[u8] = b"tollgate cluster refresh 1";
/// The label of the digest. The digest says nothing about the key, which has another label.
const DIGEST_LABEL: &[u8] = b"tollgate cluster digest 1";
const DIGEST_BYTES: usize = 8;
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
        let key = derive::<KEY_BYTES>(secret, LABEL)?;
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

/// Returns a digest of the secret in hexadecimal digits: nodes with the same secret have the same one. Other nodes and the
/// server may know it. Neither the secret nor a key can be computed from it.
pub(super) fn digest(secret: &[u8]) -> Option<String> {
    let bytes = derive::<DIGEST_BYTES>(secret, DIGEST_LABEL)?;
    Some(bytes.iter().fold(String::new(), |mut hex, byte| {
        // Writing to a string never fails.
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

fn derive<const N: usize>(secret: &[u8], label: &[u8]) -> Option<Zeroizing<[u8; N]>> {
    let mut derived = Zeroizing::new([0; N]);
    let extracted = Salt::new(HKDF_SHA256, &[]).extract(secret);
    extracted.expand(&[label], Len(N)).ok()?.fill(derived.as_mut_slice()).ok()?;
    Some(derived)
}

/// A number of bytes to derive.
#[derive(Debug, Clone, Copy)]
struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_tells_secrets_apart_and_is_no_key() {
        let of = |secret: &[u8]| digest(secret).unwrap();
        assert_eq!((of(&[1; 32]).len(), of(&[1; 32])), (16, of(&[1; 32])));
        assert_ne!(of(&[1; 32]), of(&[2; 32]));
        let key = derive::<KEY_BYTES>(&[1; 32], LABEL).unwrap();
        assert_ne!(derive::<DIGEST_BYTES>(&[1; 32], DIGEST_LABEL).unwrap()[..], key[..DIGEST_BYTES]);
    }

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
