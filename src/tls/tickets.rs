//! The keys of session tickets: they rotate. They are random and can be passed to another process, or are derived from the
//! secret of a cluster.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{AES_256_GCM, Aad, Nonce, RandomizedNonceKey};
use rustls::server::ProducesTickets;
use serde::{Deserialize, Serialize};

use super::shared_tickets::SharedTicketSecret;
use super::ticket_secret::NAME_BYTES;
pub use super::ticket_secret::TicketSecret;
use crate::runtime::clock;

/// The time for which a key encrypts tickets. It decrypts them for as long again.
pub const LIFETIME: Duration = Duration::from_hours(6);

const NONCE_BYTES: usize = 12;

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
///
/// Without the secret of a cluster, keys are random and rotate after each [`LIFETIME`]. With one, the key that encrypts is
/// that of the current period of the wall clock, of the length [`LIFETIME`] since the Unix epoch; the keys of the periods
/// before and after it decrypt as well, so clocks may differ. Until the clock is set, keys are random.
#[derive(Debug)]
pub struct TicketKeys {
    ring: ArcSwap<Ring>,
    shared: Option<SharedTicketSecret>,
}

/// The keys between two rotations.
#[derive(Debug)]
struct Ring {
    current: Arc<TicketKey>,
    /// The keys that only decrypt.
    others: Vec<Arc<TicketKey>>,
    used: Used,
}

/// How long a ring is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Used {
    /// Its current key is random: until this time.
    Until(Instant),
    /// Its current key is derived: in the period with this number.
    In(u64),
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

    /// Creates the keys of another process. Keys that follow them are random.
    ///
    /// # Errors
    /// If the cipher is not available.
    pub fn from_state(state: &TicketKeysState, now: Instant) -> Result<Self, rustls::Error> {
        Ok(Self { ring: ArcSwap::from_pointee(Ring::new(state, now)?), shared: None })
    }

    /// Creates keys that are derived. `unix` is the time since the Unix epoch; `None`: it is not known yet.
    ///
    /// # Errors
    /// If the cipher or HKDF is not available.
    pub fn derived(shared: SharedTicketSecret, now: Instant, unix: Option<Duration>) -> Result<Self, rustls::Error> {
        let Some(unix) = unix else { return Ok(Self { shared: Some(shared), ..Self::new(now)? }) };
        let ring = Ring::derived(&shared, period_of(unix))?;
        Ok(Self { ring: ArcSwap::from_pointee(ring), shared: Some(shared) })
    }

    /// Whether the keys are derived from the same secret and for the same names; `None`: they are random.
    pub fn are_from(&self, shared: Option<&SharedTicketSecret>) -> bool {
        match (&self.shared, shared) {
            (Some(own), Some(other)) => own.is_same(other),
            (own, other) => own.is_none() && other.is_none(),
        }
    }

    /// Returns the keys for another process. Derived keys are not passed, so that it does not use those of a secret that
    /// it does not have: it gets new keys, and derives its own.
    pub fn export(&self, now: Instant) -> TicketKeysState {
        self.rotate(now, None);
        let ring = self.ring.load();
        match ring.used {
            Used::Until(rotates_at) => TicketKeysState {
                current: ring.current.secret.clone(),
                previous: ring.others.first().map(|previous| previous.secret.clone()),
                rotates_in: rotates_at.saturating_duration_since(now).min(LIFETIME),
            },
            Used::In(_) => TicketKeysState { current: TicketSecret::random(), previous: None, rotates_in: LIFETIME },
        }
    }

    /// Replaces the keys by those of another process. Tickets of the keys before are refused from now on. Derived keys
    /// stay as they are.
    ///
    /// # Errors
    /// If the cipher is not available; then nothing changes.
    pub fn import(&self, state: &TicketKeysState, now: Instant) -> Result<(), rustls::Error> {
        if let Used::Until(_) = self.ring.load().used {
            self.ring.store(Arc::new(Ring::new(state, now)?));
        }
        Ok(())
    }

    /// Encrypts a ticket. `unix` is the time since the Unix epoch, if it is known.
    pub fn encrypt_at(&self, plain: &[u8], now: Instant, unix: Option<Duration>) -> Option<Vec<u8>> {
        self.rotate(now, unix);
        self.ring.load().current.encrypt(plain)
    }

    /// Decrypts a ticket; `None` if it is not one of these keys.
    pub fn decrypt_at(&self, ticket: &[u8], now: Instant, unix: Option<Duration>) -> Option<Vec<u8>> {
        self.rotate(now, unix);
        let (name, sealed) = ticket.split_first_chunk::<NAME_BYTES>()?;
        let ring = self.ring.load();
        // The name is no secret: the client sends it in the clear.
        let mut keys = std::iter::once(&ring.current).chain(&ring.others);
        keys.find(|key| key.secret.name == *name).and_then(|key| key.decrypt(sealed))
    }

    /// Rotates the keys if it is time. Of several threads that do it at once, one succeeds.
    fn rotate(&self, now: Instant, unix: Option<Duration>) {
        let ring = self.ring.load();
        let next = match (&self.shared, unix.map(period_of), ring.used) {
            (Some(_), Some(period), Used::In(used)) if period == used => return,
            (Some(shared), Some(period), used) => {
                let derived = Ring::derived(shared, period);
                derived.map(|next| if matches!(used, Used::Until(_)) { next.and(&ring.current) } else { next })
            }
            (_, _, Used::Until(rotates_at)) if now >= rotates_at => {
                TicketKey::new(TicketSecret::random()).map(|current| ring.next(current, now, rotates_at))
            }
            // Without the wall clock, derived keys stay in use.
            _ => return,
        };
        // Without a new key the one before stays in use.
        if let Ok(next) = next {
            self.ring.compare_and_swap(&*ring, Arc::new(next));
        }
    }
}

/// Returns the number of the period of a time since the Unix epoch.
fn period_of(unix: Duration) -> u64 {
    unix.as_secs() / LIFETIME.as_secs()
}

impl ProducesTickets for TicketKeys {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        u32::try_from(LIFETIME.as_secs()).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.encrypt_at(plain, clock::now(), clock::unix())
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.decrypt_at(cipher, clock::now(), clock::unix())
    }
}

impl Ring {
    fn new(state: &TicketKeysState, now: Instant) -> Result<Self, rustls::Error> {
        let key = |secret: &TicketSecret| TicketKey::new(secret.clone()).map(Arc::new);
        Ok(Self {
            current: key(&state.current)?,
            others: state.previous.iter().map(key).collect::<Result<_, _>>()?,
            used: Used::Until(clock::after(now, state.rotates_in.min(LIFETIME))),
        })
    }

    /// Returns the derived keys that are used in a period.
    fn derived(shared: &SharedTicketSecret, period: u64) -> Result<Self, rustls::Error> {
        let error = |_| rustls::Error::General("the keys of tickets cannot be derived".to_owned());
        let key = |period| shared.of_period(period).map_err(error).and_then(TicketKey::new).map(Arc::new);
        // The next key is that of a node whose clock is ahead.
        let others = [period.checked_sub(1), period.checked_add(1)];
        let others = others.into_iter().flatten().map(key).collect::<Result<_, _>>()?;
        Ok(Self { current: key(period)?, others, used: Used::In(period) })
    }

    /// Adds a key that only decrypts.
    fn and(mut self, key: &Arc<TicketKey>) -> Self {
        self.others.push(Arc::clone(key));
        self
    }

    /// Returns the random keys after a rotation that was due at `due`. A key that was not used for a whole lifetime is dropped.
    fn next(&self, current: TicketKey, now: Instant, due: Instant) -> Self {
        let is_recent = now.saturating_duration_since(due) < LIFETIME;
        let others = if is_recent { vec![Arc::clone(&self.current)] } else { Vec::new() };
        // The key before decrypts until a lifetime after its own rotation, also if this one is late.
        let rotates_at = if is_recent { clock::after(due, LIFETIME) } else { clock::after(now, LIFETIME) };
        Self { current: Arc::new(current), others, used: Used::Until(rotates_at) }
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
mod tests;
