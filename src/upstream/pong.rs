//! Finds the pong that answers a ping among the frames of a server, without keeping them.

use crate::ws::frame::{CONTROL_MAX_BYTES, Header, Opcode};
use crate::ws::violation::Violation;

/// The longest header and payload of a control frame, and the longest header of any frame.
const KEPT_MAX_BYTES: usize = 14 + CONTROL_MAX_BYTES;

/// A control frame that ends the search, or why there is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// The pong with the payload of the ping.
    Pong,
    /// A Close.
    Close,
}

/// The search among the bytes that a server sends. Data, pings and other pongs are passed over.
#[derive(Debug)]
pub(super) struct PongSearch {
    payload: [u8; 8],
    /// The start of a frame whose header, or control frame whose payload, is incomplete.
    kept: Vec<u8>,
    /// The rest of the payload of a data frame.
    skip: u64,
}

impl PongSearch {
    /// Searches for the pong with this payload.
    pub(super) fn new(payload: [u8; 8]) -> Self {
        Self { payload, kept: Vec::new(), skip: 0 }
    }

    /// Passes over the next bytes that were received. Returns the first frame that was looked for, and leaves the bytes
    /// after it in `bytes`.
    ///
    /// # Errors
    /// If a frame is malformed, or masked (RFC 6455 section 5.1).
    pub(super) fn receive(&mut self, bytes: &mut &[u8]) -> Result<Option<Found>, Violation> {
        loop {
            self.pass_payload(bytes);
            // The header and the payload of a control frame fit into what is kept.
            let missing = KEPT_MAX_BYTES.saturating_sub(self.kept.len()).min(bytes.len());
            let before = self.kept.len();
            self.kept.extend_from_slice(bytes.get(..missing).unwrap_or_default());
            let Some(header) = Header::decode(&self.kept)? else {
                *bytes = bytes.get(missing..).unwrap_or_default();
                return Ok(None);
            };
            if header.mask.is_some() {
                return Err(Violation::Masked);
            }
            let payload_len = if header.opcode.is_control() { header.payload_len } else { 0 };
            let len = header.len.saturating_add(usize::try_from(payload_len).unwrap_or(usize::MAX));
            let Some(payload) = self.kept.get(header.len..len) else {
                *bytes = bytes.get(missing..).unwrap_or_default();
                return Ok(None);
            };
            let found = match header.opcode {
                Opcode::Pong if payload == self.payload => Some(Found::Pong),
                Opcode::Close => Some(Found::Close),
                _ => None,
            };
            *bytes = bytes.get(len.saturating_sub(before)..).unwrap_or_default();
            self.kept.clear();
            self.skip = header.payload_len.saturating_sub(payload_len);
            if found.is_some() {
                return Ok(found);
            }
        }
    }

    fn pass_payload(&mut self, bytes: &mut &[u8]) {
        let passed = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip = self.skip.saturating_sub(passed as u64);
        *bytes = bytes.get(passed..).unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ws::code::CloseCode;
    use crate::ws::frame::ControlFrame;

    const PAYLOAD: [u8; 8] = *b"12345678";

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let opcode = Header::decode(&[first, 0]).unwrap().unwrap().opcode;
        let header = Header { fin: true, rsv: 0, opcode, mask: None, payload_len: payload.len() as u64, len: 0 };
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes.extend(payload);
        bytes
    }

    fn close() -> Vec<u8> {
        let mut bytes = Vec::new();
        ControlFrame::close(CloseCode::GOING_AWAY, "").encode(None, &mut bytes);
        bytes
    }

    /// Searches in pieces of each size. Returns the result and the number of bytes after the frame.
    fn search(bytes: &[u8], piece: usize) -> (Result<Option<Found>, Violation>, usize) {
        let mut search = PongSearch::new(PAYLOAD);
        let mut left = bytes;
        while !left.is_empty() {
            let (mut now, later) = left.split_at(piece.min(left.len()));
            let found = search.receive(&mut now);
            assert!(search.kept.len() <= KEPT_MAX_BYTES);
            if found != Ok(None) {
                return (found, now.len() + later.len());
            }
            assert!(now.is_empty());
            left = later;
        }
        (Ok(None), 0)
    }

    #[test]
    fn the_pong_is_found_after_other_frames() {
        let pong = frame(0x8a, &PAYLOAD);
        let data = |len: usize| frame(0x82, &vec![0x8a; len]);
        let others =
            [frame(0x8a, b""), frame(0x8a, b"12345679"), frame(0x89, &PAYLOAD), frame(0x89, &[0; 125])].concat();
        for before in [vec![], others, data(1), data(126), data(70_000), [data(3), frame(0x89, b"x"), data(0)].concat()]
        {
            let bytes = [before, pong.clone(), b"rest".to_vec()].concat();
            for piece in [1, 2, 3, 64, 4096, usize::MAX] {
                assert_eq!(search(&bytes, piece), (Ok(Some(Found::Pong)), 4), "{} in {piece}", bytes.len());
            }
        }
    }

    #[test]
    fn a_close_and_malformed_frames_end_the_search() {
        let masked = [0x81, 0x80, 1, 2, 3, 4];
        for piece in [1, usize::MAX] {
            assert_eq!(search(&[frame(0x81, b"hi"), close()].concat(), piece), (Ok(Some(Found::Close)), 0));
            assert_eq!(search(&masked, piece).0, Err(Violation::Masked));
            assert!(search(&[0x83, 0x00], piece).0.is_err());
            assert_eq!(search(&frame(0x81, b"hello"), piece).0, Ok(None));
        }
    }
}
