//! The keys of session tickets: they rotate, and can be passed to another process.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

use crate::runtime::clock;
use crate::runtime::entropy::random;

/// The time for which a key encrypts tickets. It decrypts them for as long again.
pub const LIFETIME: Duration = Duration::from_hours(6);

const NAME_BYTES: usize = 16;
const NONCE_BYTES: usize = 12;

/// A key and its name, which tickets begin with. `Debug` omits both, and the memory is overwritten when it is dropped.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketSecret {
    name: [u8; NAME_BYTES],
    key: [u8; 32],
}

impl TicketSecret {
    /// Creates a secret. Every key needs another name; both must be unpredictable.
    pub fn new(name: [u8; 16], key: [u8; 32]) -> Self {
        Self { name, key }
    }

    fn random() -> Self {
        Self::new(random(), random())
    }
}

impl Drop for TicketSecret {
    fn drop(&mut self) {
        self.name.zeroize();
        self.key.zeroize();
    }
}

impl fmt::Debug for TicketSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TicketSecret").finish_non_exhaustive()
    }
}

/// The keys of one listener, as another process takes them over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketKeysState {
    /// The key that encrypts.
    pub current: TicketSecret,
    /// The key before it, which only decrypts.
    pub previous: Option<TicketSecret>,
    /// The time until the current key becomes the previous one: at most [`LIFETIME`], a longer one is shortened.
    pub rotates_in: Duration,
}

/// The keys of a listener's tickets. Tickets contain the TLS session, encrypted with AES-256-GCM, so nothing is stored
/// for disconnected clients. A ticket is the name of its key, a random nonce, and the ciphertext with its tag.
#[derive(Debug)]
pub struct TicketKeys(ArcSwap<Ring>);

/// The keys between two rotations.
#[derive(Debug)]
struct Ring {
    current: Arc<TicketKey>,
    previous: Option<Arc<TicketKey>>,
    rotates_at: Instant,
}

struct TicketKey {
    secret: TicketSecret,
    cipher: RandomizedNonceKey,
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.secret.fmt(f)
    }
}

impl TicketKeys {
    /// Creates random keys.
    ///
    /// # Errors
    /// If the cipher is not available.
    pub fn new(now: Instant) -> Result<Self, rustls::Error> {
        let state = TicketKeysState { current: TicketSecret::random(), previous: None, rotates_in: LIFETIME };
        Self::from_state(&state, now)
    }

    /// Creates the ticketer with given keys: those of another process, or keys that were derived from a shared secret.
    /// Keys that follow them are random.
    ///
    /// # Errors
    /// If the cipher is not available.
    pub fn from_state(state: &TicketKeysState, now: Instant) -> Result<Self, rustls::Error> {
        Ok(Self(ArcSwap::from_pointee(Ring::new(state, now)?)))
    }

    /// Returns the keys for another process.
    pub fn export(&self, now: Instant) -> TicketKeysState {
        self.rotate(now);
        let ring = self.0.load();
        TicketKeysState {
            current: ring.current.secret.clone(),
            previous: ring.previous.as_ref().map(|previous| previous.secret.clone()),
            rotates_in: ring.rotates_at.saturating_duration_since(now).min(LIFETIME),
        }
    }

    /// Replaces the keys by those of another process. Tickets of the keys before are refused from now on.
    ///
    /// # Errors
    /// If the cipher is not available; then nothing changes.
    pub fn import(&self, state: &TicketKeysState, now: Instant) -> Result<(), rustls::Error> {
        self.0.store(Arc::new(Ring::new(state, now)?));
        Ok(())
    }

    /// Encrypts a ticket.
    pub fn encrypt_at(&self, plain: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.rotate(now);
        self.0.load().current.encrypt(plain)
    }

    /// Decrypts a ticket; `None` if it is not one of these keys.
    pub fn decrypt_at(&self, ticket: &[u8], now: Instant) -> Option<Vec<u8>> {
        self.rotate(now);
        let (name, sealed) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let ring = self.0.load();
        // The name is no secret: the client sends it in the clear.
        let key = [Some(&ring.current), ring.previous.as_ref()].into_iter().flatten();
        key.filter(|key| key.secret.name == *name).find_map(|key| key.decrypt(sealed))
    }

    /// Rotates the keys if it is time. Of several threads that do it at once, one succeeds.
    fn rotate(&self, now: Instant) {
        let ring = self.0.load();
        if now < ring.rotates_at {
            return;
        }
        // Without a new key the one before stays in use.
        if let Ok(current) = TicketKey::new(TicketSecret::random()) {
            let next = Arc::new(ring.next(current, now));
            self.0.compare_and_swap(&*ring, next);
        }
    }
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, clock::now())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, clock::now())
    }
}

impl Ring {
    fn new(state: &TicketKeysState, now: Instant) -> Result<Self, rustls::Error> {
        let key = |secret: &TicketSecret| TicketKey::new(secret.clone()).map(Arc::new);
        Ok(Self {
            current: key(&state.current)?,
            previous: state.previous.as_ref().map(key).transpose()?,
            rotates_at: clock::after(now, state.rotates_in.min(LIFETIME)),
        })
    }

    /// Returns the keys after a rotation. A key that was not used for a whole lifetime is dropped.
    fn next(&self, current: TicketKey, now: Instant) -> Self {
        let is_recent = now.saturating_duration_since(self.rotates_at) < LIFETIME;
        let previous = is_recent.then(|| Arc::clone(&self.current));
        // The key before decrypts until a lifetime after its own rotation, also if this one is late.
        let rotates_at = if is_recent { clock::after(self.rotates_at, LIFETIME) } else { clock::after(now, LIFETIME) };
        Self { current: Arc::new(current), previous, rotates_at }
    }
}

impl TicketKey {
    fn new(secret: TicketSecret) -> Result<Self, rustls::Error> {
        let error = |_| rustls::Error::General("the key of tickets cannot be used".to_owned());
        let cipher = RandomizedNonceKey::new(&AES_256_GCM, &secret.key).map_err(error)?;
        Ok(Self { secret, cipher })
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut sealed = plain.to_vec();
        let nonce = self.cipher.seal_in_place_append_tag(Aad::from(self.secret.name), &mut sealed).ok()?;
        Some([self.secret.name.as_slice(), nonce.as_ref().as_slice(), &sealed].concat())
    }

    fn decrypt(&self, sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = sealed.split_first_chunk::<NONCE_BYTES>()?;
        let mut plain = sealed.to_vec();
        let nonce = Nonce::from(nonce);
        let length = self.cipher.open_in_place(nonce, Aad::from(self.secret.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn keys(now: Instant) -> TicketKeys {
        TicketKeys::new(now).unwrap()
    }

    #[test]
    fn a_ticket_is_decrypted_only_as_it_was_made() {
        let now = clock::now();
        let keys = keys(now);
        for plain in [&b""[..], b"a session", &[7; 4000]] {
            let ticket = keys.encrypt_at(plain, now).unwrap();
            assert_eq!(ticket.len(), NAME_BYTES + NONCE_BYTES + plain.len() + 16);
            assert_eq!(keys.decrypt_at(&ticket, now).as_deref(), Some(plain));
            assert_ne!(keys.encrypt_at(plain, now).unwrap(), ticket, "every nonce is new");
            let positions = [0, 15, 16, 27, 28, ticket.len() - 1];
            for position in positions {
                let mut changed = ticket.clone();
                changed[position] ^= 1;
                assert_eq!(keys.decrypt_at(&changed, now), None, "{position}");
            }
            for length in [0, 15, 16, 28, 43, ticket.len() - 1] {
                assert_eq!(keys.decrypt_at(&ticket[..length.min(ticket.len() - 1)], now), None, "{length}");
            }
        }
        let other = TicketKeys::new(now).unwrap();
        assert_eq!(other.decrypt_at(&keys.encrypt_at(b"a", now).unwrap(), now), None);
        // The same name with another key.
        let mut state = keys.export(now);
        state.current.key[0] ^= 1;
        other.import(&state, now).unwrap();
        assert_eq!(other.decrypt_at(&keys.encrypt_at(b"a", now).unwrap(), now), None);
    }

    #[test]
    fn a_key_decrypts_for_one_lifetime_after_its_rotation() {
        let start = clock::now();
        for (after, is_accepted) in [
            (LIFETIME.saturating_sub(SECOND), true),
            (LIFETIME, true),
            ((2 * LIFETIME).saturating_sub(SECOND), true),
            (2 * LIFETIME, false),
            (5 * LIFETIME, false),
        ] {
            for is_used in [false, true] {
                let keys = keys(start);
                let ticket = keys.encrypt_at(b"a", start).unwrap();
                if is_used {
                    // A late rotation does not lengthen the time.
                    let _ = keys.encrypt_at(b"b", start + (LIFETIME + 60 * SECOND).min(after));
                }
                let decrypted = keys.decrypt_at(&ticket, start + after);
                assert_eq!(decrypted.is_some(), is_accepted, "{after:?} {is_used}");
            }
        }
    }

    #[test]
    fn another_process_with_the_keys_decrypts_and_rotates_at_the_same_time() {
        let start = clock::now();
        let old = keys(start);
        let first = old.encrypt_at(b"first", start).unwrap();
        let later = start + LIFETIME + SECOND;
        let second = old.encrypt_at(b"second", later).unwrap();
        let state = old.export(later);
        assert_eq!(state.rotates_in, LIFETIME.saturating_sub(SECOND));
        let bytes = postcard::to_allocvec(&state).unwrap();
        let state: TicketKeysState = postcard::from_bytes(&bytes).unwrap();
        let new = keys(later);
        new.import(&state, later).unwrap();
        assert_eq!(new.decrypt_at(&first, later).as_deref(), Some(&b"first"[..]));
        assert_eq!(new.decrypt_at(&second, later).as_deref(), Some(&b"second"[..]));
        assert_eq!(old.decrypt_at(&new.encrypt_at(b"third", later).unwrap(), later).as_deref(), Some(&b"third"[..]));
        let third = start + 2 * LIFETIME;
        assert_eq!(new.decrypt_at(&first, third), None);
        assert_eq!(new.decrypt_at(&second, third).as_deref(), Some(&b"second"[..]));
        // A time that is too long is shortened.
        new.import(&TicketKeysState { rotates_in: Duration::MAX, ..state }, later).unwrap();
        assert_eq!(new.export(later).rotates_in, LIFETIME);
    }

    #[test]
    fn debug_omits_the_keys() {
        let now = clock::now();
        let state = TicketKeysState {
            current: TicketSecret::new([200; 16], [201; 32]),
            previous: Some(TicketSecret::new([200; 16], [201; 32])),
            rotates_in: LIFETIME,
        };
        let keys = TicketKeys::from_state(&state, now).unwrap();
        let text = format!("{state:?} {keys:?}");
        // The times may have any digits, but not the bytes of an array.
        let bytes = ["200, 200", "201, 201", "c8c8", "c9c9"];
        assert!(bytes.iter().all(|bytes| !text.contains(bytes)), "{text}");
        assert_eq!(text.matches("TicketSecret { .. }").count(), 4, "{text}");
    }
}
