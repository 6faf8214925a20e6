//! The sending half of the record layer: seals plaintext into records.

use aws_lc_rs::aead::Aad;
use serde::{Deserialize, Serialize};

use super::keys::{Direction, DirectionState, TrafficSecret};
use super::wire::{
    Alert, ContentType, HEADER_LEN, KEY_UPDATE, KEY_UPDATE_LEN, OUTER_TYPE, OVERHEAD, PLAINTEXT_MAX, TAG_LEN,
};

/// A `KeyUpdate` with `update_not_requested`: the peer does not have to update its own key.
const UPDATE_NOT_REQUESTED: [u8; KEY_UPDATE_LEN] = [KEY_UPDATE, 0, 0, 1, 0];

/// The sending half of a connection. It does not buffer.
#[derive(Debug)]
pub struct Sealer {
    direction: Direction,
    /// Whether a `KeyUpdate` must precede the next record.
    update_due: bool,
    /// Whether nothing more may be sealed: an alert was sealed (section 6), or [`Sealer::close`] was called.
    closed: bool,
}

/// The progress of one call of [`Sealer::seal`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The number of bytes of plaintext taken.
    pub taken: usize,
    /// The number of bytes of records written. All of them must be sent, in order, or the connection is lost.
    pub written: usize,
}

/// The reason why nothing more can be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// The direction is closed: an alert was sealed, after which nothing may follow (section 6.1), or [`Sealer::close`]
    /// was called.
    Closed,
    /// No sequence number is left, the cryptographic library failed, or the buffer was too small for an alert.
    Failed,
}

/// The state of a [`Sealer`] as plain data, which cannot seal. It is not `Clone`: two sealers with one key would repeat
/// nonces, and a repeated nonce gives the key away. It contains the traffic secret.
#[derive(Debug, Serialize, Deserialize)]
pub struct SealerState {
    direction: DirectionState,
    update_due: bool,
    closed: bool,
}

impl SealerState {
    /// Continues to seal. Nothing else may seal with this secret any more. Returns `None` if the state is not valid.
    pub fn into_sealer(self) -> Option<Sealer> {
        let Self { direction, update_due, closed } = self;
        Some(Sealer { direction: direction.into_direction()?, update_due, closed })
    }
}

impl Sealer {
    /// Returns the state, with which another process can continue to seal.
    pub fn into_state(self) -> SealerState {
        let Self { direction, update_due, closed } = self;
        SealerState { direction: direction.into_state(), update_due, closed }
    }

    /// Returns the most bytes that [`Sealer::seal`] writes for `plaintext_len` bytes of plaintext.
    pub const fn sealed_max(plaintext_len: usize) -> usize {
        // The key may reach its limit in between; its `KeyUpdate` is then a record of its own.
        plaintext_len + plaintext_len.div_ceil(PLAINTEXT_MAX) * OVERHEAD + KEY_UPDATE_LEN + OVERHEAD
    }

    /// Returns the sending half for this secret, under which the next record has the number `sequence`.
    pub fn new(secret: TrafficSecret, sequence: u64) -> Self {
        Self { direction: Direction::new(secret, sequence), update_due: false, closed: false }
    }

    /// Seals as much of the plaintext as fits into `out`, in records as large as possible. A `KeyUpdate` precedes them
    /// if one is due. An empty plaintext seals nothing.
    ///
    /// # Errors
    /// If nothing more can be sealed. The content of `out` must then be discarded.
    pub fn seal(&mut self, content: ContentType, plaintext: &[u8], out: &mut [u8]) -> Result<Sealed, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        let (mut taken, mut written) = (0, 0);
        while taken < plaintext.len() {
            let Some(free) = out.get_mut(written..) else { break };
            if self.update_due || self.direction.is_at_limit() {
                let Some(len) = self.seal_one(ContentType::Handshake, &UPDATE_NOT_REQUESTED, free)? else { break };
                self.direction.update().map_err(|_| SealError::Failed)?;
                self.update_due = false;
                written += len;
                continue;
            }
            let len = (plaintext.len() - taken).min(PLAINTEXT_MAX).min(free.len().saturating_sub(OVERHEAD));
            let Some(part) = plaintext.get(taken..taken + len).filter(|part| !part.is_empty()) else { break };
            let Some(len) = self.seal_one(content, part, free)? else { break };
            taken += part.len();
            written += len;
        }
        Ok(Sealed { taken, written })
    }

    /// Seals an alert, the last record of this direction. Returns the number of bytes written to `out`, which must hold
    /// [`Sealer::sealed_max`] of 2 bytes.
    ///
    /// # Errors
    /// If nothing more can be sealed, or `out` is too small.
    pub fn alert(&mut self, alert: Alert, out: &mut [u8]) -> Result<usize, SealError> {
        let sealed = self.seal(ContentType::Alert, &alert.encode(), out)?;
        self.closed = true;
        if sealed.taken == alert.encode().len() { Ok(sealed.written) } else { Err(SealError::Failed) }
    }

    /// Updates the key before the next record, as a request of the peer requires (section 4.6.3). Repeated calls before
    /// that record cause a single update.
    pub fn update_key(&mut self) {
        self.update_due = true;
    }

    /// Closes the direction without an alert: after a fatal alert of the peer (section 6.2), or if records could not be
    /// sent.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether the direction is closed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Drops the state that can be derived again from the secret. The next record takes some microseconds longer.
    pub fn hibernate(&mut self) {
        self.direction.hibernate();
    }

    /// Seals one record and returns its length, or returns `None` if the record does not fit into `out`.
    fn seal_one(&mut self, content: ContentType, plaintext: &[u8], out: &mut [u8]) -> Result<Option<usize>, SealError> {
        let len = plaintext.len() + OVERHEAD;
        let body_len = u16::try_from(len - HEADER_LEN).map_err(|_| SealError::Failed)?.to_be_bytes();
        let header = [OUTER_TYPE, 3, 3, body_len[0], body_len[1]];
        let Some((head, rest)) = out.split_at_mut_checked(HEADER_LEN) else { return Ok(None) };
        let Some((ciphertext, rest)) = rest.split_at_mut_checked(plaintext.len()) else { return Ok(None) };
        let Some(tail) = rest.get_mut(..1 + TAG_LEN) else { return Ok(None) };
        head.copy_from_slice(&header);
        let (key, nonce) = self.direction.next().map_err(|_| SealError::Failed)?;
        key.seal_out_of_place_scatter(nonce, Aad::from(header), plaintext, ciphertext, &[content as u8], tail)
            .map_err(|_| SealError::Failed)?;
        Ok(Some(len))
    }
}
