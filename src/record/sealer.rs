//! The way out: from plaintext to records.

use aws_lc_rs::aead::Aad;

use super::keys::{Direction, TrafficSecret};
use super::wire::{
    Alert, ContentType, HEADER_LEN, KEY_UPDATE, KEY_UPDATE_LEN, OUTER_TYPE, OVERHEAD, PLAINTEXT_MAX, TAG_LEN,
};

/// `KeyUpdate` with `update_not_requested`: the peer need not change its own key.
const UPDATE_NOT_REQUESTED: [u8; KEY_UPDATE_LEN] = [KEY_UPDATE, 0, 0, 1, 0];

/// Seals what is sent. It holds no bytes.
#[derive(Debug)]
pub struct Sealer {
    direction: Direction,
    /// A `KeyUpdate` goes before the next record.
    update_due: bool,
    /// An alert was sealed: nothing may follow it (section 6).
    closed: bool,
}

/// How far a call of [`Sealer::seal`] came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// How many bytes of plaintext were taken.
    pub taken: usize,
    /// How many bytes of records were written. Each of them must be sent, in order, or the connection is lost.
    pub written: usize,
}

/// Why nothing more can be sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealError {
    /// An alert was sealed before, so that nothing may follow (section 6.1).
    Closed,
    /// No sequence number is left, or the library failed.
    Failed,
}

impl Sealer {
    /// The most that [`Sealer::seal`] writes for so many bytes of plaintext.
    pub const fn sealed_max(plaintext_len: usize) -> usize {
        // A key may come to its end within, and then its KeyUpdate has a record of its own.
        plaintext_len + plaintext_len.div_ceil(PLAINTEXT_MAX) * OVERHEAD + KEY_UPDATE_LEN + OVERHEAD
    }

    /// Goes on where another left off: `sequence` is the number of the next record under this secret.
    pub fn new(secret: TrafficSecret, sequence: u64) -> Self {
        Self { direction: Direction::new(secret, sequence), update_due: false, closed: false }
    }

    /// Seals as much plaintext as `out` has room for, in records as large as possible, with a `KeyUpdate` before them if
    /// one is due. Nothing is sealed of an empty plaintext.
    ///
    /// # Errors
    /// If nothing more can be sealed; `out` then holds nothing of use.
    pub fn seal(&mut self, content: ContentType, plaintext: &[u8], out: &mut [u8]) -> Result<Sealed, SealError> {
        if self.closed {
            return Err(SealError::Closed);
        }
        let (mut taken, mut written) = (0, 0);
        while taken < plaintext.len() {
            let Some(room) = out.get_mut(written..) else { break };
            if self.update_due || self.direction.is_at_limit() {
                let Some(len) = self.seal_one(ContentType::Handshake, &UPDATE_NOT_REQUESTED, room)? else { break };
                self.direction.update().map_err(|_| SealError::Failed)?;
                self.update_due = false;
                written += len;
                continue;
            }
            let len = (plaintext.len() - taken).min(PLAINTEXT_MAX).min(room.len().saturating_sub(OVERHEAD));
            let Some(part) = plaintext.get(taken..taken + len).filter(|part| !part.is_empty()) else { break };
            let Some(len) = self.seal_one(content, part, room)? else { break };
            taken += part.len();
            written += len;
        }
        Ok(Sealed { taken, written })
    }

    /// Seals an alert, the last record of this direction. How many bytes were written to `out`, which must have room for
    /// [`Sealer::sealed_max`] of 2.
    ///
    /// # Errors
    /// If nothing more can be sealed, or `out` is too small.
    pub fn alert(&mut self, alert: Alert, out: &mut [u8]) -> Result<usize, SealError> {
        let sealed = self.seal(ContentType::Alert, &alert.encode(), out)?;
        self.closed = true;
        if sealed.taken == alert.encode().len() { Ok(sealed.written) } else { Err(SealError::Failed) }
    }

    /// Changes the key before the next record: what a peer's request asks for (section 4.6.3). However often it is called
    /// before that, the key changes once.
    pub fn update_key(&mut self) {
        self.update_due = true;
    }

    /// Seals nothing more: after a fatal alert of the peer (section 6.2), or when records were lost on their way.
    pub fn close(&mut self) {
        self.closed = true;
    }

    /// Whether nothing more is sealed.
    pub fn is_closed(&self) -> bool {
        self.closed
    }

    /// Drops what can be derived again from the secret. The next record costs some microseconds more.
    pub fn hibernate(&mut self) {
        self.direction.hibernate();
    }

    /// Seals one record, if there is room for it. Its length.
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
