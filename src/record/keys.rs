//! The key schedule of one direction: its suite, its traffic secret, and the key and the nonces derived from them.

use std::fmt;

use aws_lc_rs::aead::{self, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::error::Unspecified;
use aws_lc_rs::hkdf::{self, Prk};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, Zeroizing};

/// The length of the longest traffic secret, the output of SHA-384.
const SECRET_MAX: usize = 48;
/// The length of the longest AEAD key.
const KEY_MAX: usize = 32;

/// The prefix of all labels (RFC 8446 section 7.1).
const LABEL_PREFIX: &[u8] = b"tls13 ";

/// A cipher suite of TLS 1.3 (RFC 8446 appendix B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_AES_128_GCM_SHA256`.
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`.
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`.
    ChaCha20Poly1305,
}

impl Suite {
    /// All suites.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// Returns the suite with this IANA code, if it is one of the three.
    pub fn from_code(code: u16) -> Option<Self> {
        match code {
            0x1301 => Some(Self::Aes128Gcm),
            0x1302 => Some(Self::Aes256Gcm),
            0x1303 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// Returns its IANA code.
    pub fn code(self) -> u16 {
        match self {
            Self::Aes128Gcm => 0x1301,
            Self::Aes256Gcm => 0x1302,
            Self::ChaCha20Poly1305 => 0x1303,
        }
    }

    /// Returns the length of its traffic secrets in bytes.
    pub fn secret_len(self) -> usize {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => 32,
            Self::Aes256Gcm => 48,
        }
    }

    /// Returns the number of records that one key may seal, as in rustls: 2^24 for AES-GCM (RFC 8446 section 5.5, and
    /// draft-irtf-cfrg-aead-limits-08 section 5.1.1 with full records and an attacker advantage of 2^-60).
    /// ChaCha20-Poly1305 does not have such a limit, so the last sequence number is used, with a margin.
    pub fn records_max(self) -> u64 {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => 1 << 24,
            Self::ChaCha20Poly1305 => u64::MAX - 0xffff,
        }
    }

    fn aead(self) -> &'static aead::Algorithm {
        match self {
            Self::Aes128Gcm => &aead::AES_128_GCM,
            Self::Aes256Gcm => &aead::AES_256_GCM,
            Self::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128Gcm | Self::ChaCha20Poly1305 => hkdf::HKDF_SHA256,
            Self::Aes256Gcm => hkdf::HKDF_SHA384,
        }
    }
}

/// A traffic secret (RFC 8446 section 7.1) and its suite. It is zeroized on drop.
pub struct TrafficSecret {
    suite: Suite,
    bytes: [u8; SECRET_MAX],
}

impl TrafficSecret {
    /// Returns a secret of this suite, or `None` if its length is not the output length of the suite's hash.
    pub fn new(suite: Suite, secret: &[u8]) -> Option<Self> {
        if secret.len() != suite.secret_len() {
            return None;
        }
        let mut bytes = [0; SECRET_MAX];
        bytes.get_mut(..secret.len())?.copy_from_slice(secret);
        Some(Self { suite, bytes })
    }

    /// Whether this key and this initialization vector are derived from this secret. Each is compared in constant time.
    pub fn gives(&self, key: &[u8], iv: &[u8]) -> bool {
        let (mut own_key, mut own_iv) = (Zeroizing::new([0; KEY_MAX]), Zeroizing::new([0; aead::NONCE_LEN]));
        let Some(own_key) = own_key.get_mut(..self.suite.aead().key_len()) else { return false };
        let derived = self.expand(b"key", own_key).and_then(|()| self.expand(b"iv", &mut *own_iv));
        derived.is_ok()
            && aws_lc_rs::constant_time::verify_slices_are_equal(own_key, key).is_ok()
            && aws_lc_rs::constant_time::verify_slices_are_equal(&*own_iv, iv).is_ok()
    }

    /// Returns the secret after a key update (section 7.2).
    fn next(&self) -> Result<Self, Unspecified> {
        let mut next = Self { suite: self.suite, bytes: [0; SECRET_MAX] };
        let out = next.bytes.get_mut(..self.suite.secret_len()).ok_or(Unspecified)?;
        self.expand(b"traffic upd", out)?;
        Ok(next)
    }

    /// Fills `out` by HKDF-Expand-Label with an empty context (section 7.1).
    fn expand(&self, label: &[u8], out: &mut [u8]) -> Result<(), Unspecified> {
        let secret = self.bytes.get(..self.suite.secret_len()).ok_or(Unspecified)?;
        let len = u16::try_from(out.len()).map_err(|_| Unspecified)?.to_be_bytes();
        let label_len = [u8::try_from(LABEL_PREFIX.len() + label.len()).map_err(|_| Unspecified)?];
        let info = [&len[..], &label_len, LABEL_PREFIX, label, &[0]];
        Prk::new_less_safe(self.suite.hkdf(), secret).expand(&info, Len(out.len()))?.fill(out)
    }
}

impl Drop for TrafficSecret {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

impl fmt::Debug for TrafficSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TrafficSecret").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// The length of an HKDF output.
struct Len(usize);

impl hkdf::KeyType for Len {
    fn len(&self) -> usize {
        self.0
    }
}

/// One direction: a secret and the number of its next record. Each nonce is returned only once, even if its use fails.
pub(super) struct Direction {
    secret: TrafficSecret,
    /// The sequence number of the next record under this secret (section 5.3).
    sequence: u64,
    /// The key and the initialization vector derived from the secret; `None` until they are needed.
    context: Option<Context>,
}

struct Context {
    key: LessSafeKey,
    iv: Zeroizing<[u8; aead::NONCE_LEN]>,
}

impl Direction {
    pub(super) fn new(secret: TrafficSecret, sequence: u64) -> Self {
        Self { secret, sequence, context: None }
    }

    /// Returns the key and the nonce of the next record (section 5.3).
    ///
    /// # Errors
    /// If no sequence number is left, since it must not wrap, or if the derivation of the key fails.
    pub(super) fn next(&mut self) -> Result<(&LessSafeKey, Nonce), Unspecified> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1).ok_or(Unspecified)?;
        if self.context.is_none() {
            self.context = Some(Context::derive(&self.secret)?);
        }
        let context = self.context.as_ref().ok_or(Unspecified)?;
        let mut nonce = *context.iv;
        for (byte, number) in nonce.iter_mut().rev().zip(sequence.to_le_bytes()) {
            *byte ^= number;
        }
        Ok((&context.key, Nonce::assume_unique_for_key(nonce)))
    }

    /// Switches to the next secret, with the sequence number 0 (section 7.2).
    pub(super) fn update(&mut self) -> Result<(), Unspecified> {
        self.secret = self.secret.next()?;
        self.context = None;
        self.sequence = 0;
        Ok(())
    }

    /// Whether this key may seal at most one more record, which must then be the `KeyUpdate`.
    pub(super) fn is_at_limit(&self) -> bool {
        self.sequence >= self.secret.suite.records_max() - 1
    }

    /// Returns the state from which another process can continue, and which gives no nonce itself.
    pub(super) fn into_state(self) -> DirectionState {
        let Self { secret, sequence, context: _ } = self;
        let bytes = secret.bytes.get(..secret.suite.secret_len()).unwrap_or_default();
        DirectionState { suite: secret.suite.code(), secret: Zeroizing::new(bytes.to_vec()), sequence }
    }

    /// Drops the key and the initialization vector, which can be derived again.
    pub(super) fn hibernate(&mut self) {
        self.context = None;
    }
}

/// The state of one direction as plain data. It is not `Clone`: of two copies in use, both would return the same nonces.
#[derive(Serialize, Deserialize)]
pub(super) struct DirectionState {
    suite: u16,
    secret: Zeroizing<Vec<u8>>,
    sequence: u64,
}

impl DirectionState {
    /// Continues the direction. Returns `None` if the suite is not known or the secret has the wrong length.
    pub(super) fn into_direction(self) -> Option<Direction> {
        let secret = TrafficSecret::new(Suite::from_code(self.suite)?, &self.secret)?;
        Some(Direction::new(secret, self.sequence))
    }
}

impl fmt::Debug for DirectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectionState").field("suite", &self.suite).finish_non_exhaustive()
    }
}

impl Context {
    fn derive(secret: &TrafficSecret) -> Result<Self, Unspecified> {
        let algorithm = secret.suite.aead();
        let (mut key, mut iv) = (Zeroizing::new([0; KEY_MAX]), Zeroizing::new([0; aead::NONCE_LEN]));
        let key = key.get_mut(..algorithm.key_len()).ok_or(Unspecified)?;
        secret.expand(b"key", key)?;
        secret.expand(b"iv", &mut *iv)?;
        Ok(Self { key: LessSafeKey::new(UnboundKey::new(algorithm, key)?), iv })
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction")
            .field("secret", &self.secret)
            .field("sequence", &self.sequence)
            .field("awake", &self.context.is_some())
            .finish()
    }
}
