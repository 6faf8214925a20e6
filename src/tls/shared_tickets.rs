//! The keys of session tickets that all nodes of a cluster derive from their secret.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{HKDF_SHA256, KeyType, Prk, Salt};
use zeroize::Zeroizing;

use super::ticket_secret::TicketSecret;

/// Separates these keys from others that are derived from the same secret. Another derivation needs another number.
const LABEL: &[u8] = b"tollgate tls session tickets 1";

/// The size of the name of a key and of the key (AES-256).
const NAME_BYTES: usize = 16;
const KEY_BYTES: usize = 32;

/// What the keys of one listener's tickets are derived from: the secret of the cluster, and the host names of the
/// listener's certificates. Nodes may have different addresses, and a listener may move to another port; a client resumes
/// a session only at a host of the same name, so listeners with other names have other keys.
pub struct SharedTicketSecret {
    prk: Prk,
    /// The hash of the names.
    listener: [u8; 32],
}

/// The length of an HKDF output.
struct Len(usize);

impl KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

impl SharedTicketSecret {
    /// Creates the source of a listener's keys. The order and the repetition of names make no difference.
    pub fn new<'a>(secret: &[u8], names: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<&str> = names.into_iter().collect();
        names.sort_unstable();
        names.dedup();
        let mut hash = Context::new(&SHA256);
        for name in names {
            hash.update(&(name.len() as u64).to_be_bytes());
            hash.update(name.as_bytes());
        }
        let mut listener = [0; 32];
        listener.copy_from_slice(hash.finish().as_ref());
        Self { prk: Salt::new(HKDF_SHA256, LABEL).extract(secret), listener }
    }

    /// Returns the key of a period: the output of HKDF-SHA256 (RFC 5869) for the listener and the number of the period.
    ///
    /// # Errors
    /// If HKDF is not available.
    pub fn of_period(&self, period: u64) -> Result<TicketSecret, Unspecified> {
        let mut derived = Zeroizing::new([0; NAME_BYTES + KEY_BYTES]);
        let period = period.to_be_bytes();
        self.prk.expand(&[LABEL, &self.listener, &period], Len(derived.len()))?.fill(&mut *derived)?;
        let (name, key) = derived.split_first_chunk().ok_or(Unspecified)?;
        Ok(TicketSecret::new(*name, *key.first_chunk().ok_or(Unspecified)?))
    }

    /// Whether the keys are the same as those of another source.
    pub fn is_same(&self, other: &Self) -> bool {
        matches!((self.of_period(0), other.of_period(0)), (Ok(own), Ok(other)) if own == other)
    }
}

impl fmt::Debug for SharedTicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTicketSecret").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SECRET: &[u8] = b"a secret of at least 32 bytes ..";

    fn bytes(source: &SharedTicketSecret, period: u64) -> Vec<u8> {
        postcard::to_allocvec(&source.of_period(period).unwrap()).unwrap()
    }

    #[test]
    fn every_secret_listener_and_period_has_its_own_name_and_key() {
        let sources: [(&[u8], &[&str]); 6] = [
            (SECRET, &["a.example"]),
            (b"a secret of at least 32 bytes ./", &["a.example"]),
            (SECRET, &["b.example"]),
            (SECRET, &["a.example", "b.example"]),
            (SECRET, &["a.exampleb.example"]),
            (SECRET, &[]),
        ];
        let mut names = BTreeSet::new();
        let mut keys = BTreeSet::new();
        for (secret, listener) in sources {
            let source = SharedTicketSecret::new(secret, listener.iter().copied());
            for period in [0, 1, 2, 80_000, 80_001, u64::MAX] {
                let derived = bytes(&source, period);
                let (name, key) = derived.split_at(NAME_BYTES);
                assert_eq!(key.len(), KEY_BYTES);
                names.insert(name.to_vec());
                keys.insert(key.to_vec());
            }
        }
        assert_eq!((names.len(), keys.len()), (36, 36));
    }

    #[test]
    fn nodes_with_the_same_secret_and_names_have_the_same_keys() {
        let first = SharedTicketSecret::new(SECRET, ["a.example", "*.b.example"]);
        let second = SharedTicketSecret::new(SECRET, ["*.b.example", "a.example", "a.example"]);
        assert!(first.is_same(&second));
        assert_eq!(bytes(&first, 7), bytes(&second, 7));
        assert!(!first.is_same(&SharedTicketSecret::new(SECRET, ["a.example"])));
        assert!(!first.is_same(&SharedTicketSecret::new(b"x", ["a.example", "*.b.example"])));
    }

    /// Another derivation would make the nodes of two versions refuse each other's tickets. The expected bytes are those of
    /// another implementation of HKDF.
    #[test]
    fn the_derivation_is_pinned() {
        let source = SharedTicketSecret::new(SECRET, ["chat.example.com"]);
        let hex = bytes(&source, 83_000).iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        assert_eq!(
            hex,
            "6239926e56d9ed29978952ce86897819518d252cb5a785fb3d33a731466c015724232c7606e76ccfb34c5c96042e4b44"
        );
    }
}
