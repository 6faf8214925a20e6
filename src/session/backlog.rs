//! The frames that wait for a client that is slower than its upstream. When they need too much memory, the oldest whole
//! messages are dropped.

use std::collections::VecDeque;
use std::mem;

use serde::{Deserialize, Serialize};

use crate::ws::frame::{Header, Opcode};

/// The memory that a piece of a frame costs in addition to its bytes.
const PIECE_BYTES: usize = 96;

/// A queue of frames for a client.
///
/// A message is sent whole or not at all. It is dropped only while none of its bytes were taken, with all of its
/// fragments, also those that arrive later. A message that is larger than the whole queue is dropped as soon as that is
/// known, and the others stay. Control frames are never dropped and keep their order among the remaining messages.
///
/// The messages must not be compressed with reference to earlier ones (RFC 7692 section 7.1.1).
#[derive(Debug, Serialize, Deserialize)]
pub struct Backlog {
    max_bytes: usize,
    /// The pieces at the front that cannot be dropped. They are apart from the others, so that dropping a message costs
    /// the same for any number of them.
    kept: VecDeque<Piece>,
    /// The pieces behind them.
    pieces: VecDeque<Piece>,
    /// The memory of all pieces.
    bytes: usize,
    /// The bytes that are missing of the last frame.
    frame_left: u64,
    frame: Kind,
    /// Whether the last data frame ends its message.
    is_final: bool,
    /// The number of the last message.
    message: u64,
    /// The bytes of its frames, with headers, as declared by now.
    message_bytes: u64,
    /// Whether it is dropped.
    is_dropping: bool,
    /// The last message of which bytes were taken.
    started: Option<u64>,
    /// The dropped messages that the caller has not taken.
    dropped: u64,
}

/// A frame or a part of one.
#[derive(Debug, Serialize, Deserialize)]
struct Piece {
    /// The number of its message; `None` for a control frame.
    message: Option<u64>,
    bytes: Vec<u8>,
}

impl Piece {
    fn cost(&self) -> usize {
        self.bytes.len().saturating_add(PIECE_BYTES)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Data,
    Control,
}

impl Backlog {
    /// Creates an empty queue that begins after `frame_left` bytes of payload of the client's present frame.
    /// `in_message`: whether a message has begun before, which is then never dropped.
    pub fn new(max_bytes: usize, frame_left: u64, in_message: bool) -> Self {
        Self {
            max_bytes,
            kept: VecDeque::new(),
            pieces: VecDeque::new(),
            bytes: 0,
            frame_left,
            frame: Kind::Data,
            is_final: !in_message,
            message: 0,
            message_bytes: 0,
            is_dropping: false,
            started: (in_message || frame_left > 0).then_some(0),
            dropped: 0,
        }
    }

    /// Changes the memory that the queue may need.
    pub fn set_max_bytes(&mut self, max_bytes: usize) {
        self.max_bytes = max_bytes;
        self.drop_oldest_messages();
    }

    /// Appends bytes of valid frames. They end within a frame or between two, and never within a header.
    pub fn push(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.frame_left == 0 {
                if let Ok(Some(header)) = Header::decode(bytes) {
                    self.begin(&header);
                } else {
                    // A caller that breaks the rule above loses no bytes.
                    (self.frame, self.frame_left) = (Kind::Control, bytes.len() as u64);
                }
            }
            let here = usize::try_from(self.frame_left).unwrap_or(usize::MAX).min(bytes.len());
            let (piece, rest) = bytes.split_at(here);
            self.frame_left = self.frame_left.saturating_sub(here as u64);
            match self.frame {
                Kind::Data if self.is_dropping => {}
                Kind::Data => self.append(Some(self.message), piece),
                Kind::Control => self.append(None, piece),
            }
            bytes = rest;
        }
        self.drop_oldest_messages();
    }

    /// Appends a control frame of the owner, which may be sent before the rest of a frame that is dropped.
    pub fn push_control(&mut self, bytes: &[u8]) {
        self.append(None, bytes);
    }

    /// Moves the first frames to `out`, about `most` bytes of them. They are not dropped any more.
    pub fn take(&mut self, out: &mut Vec<u8>, most: usize) {
        while let Some(piece) = self.kept.front().or_else(|| self.pieces.front()) {
            if !out.is_empty() && out.len().saturating_add(piece.bytes.len()) > most {
                return;
            }
            let Some(piece) = self.kept.pop_front().or_else(|| self.pieces.pop_front()) else { return };
            self.bytes = self.bytes.saturating_sub(piece.cost());
            self.started = piece.message.or(self.started);
            if out.is_empty() {
                *out = piece.bytes;
            } else {
                out.extend_from_slice(&piece.bytes);
            }
        }
        (self.kept, self.pieces) = Default::default();
    }

    /// Discards all frames, because nothing can be sent to the client any more.
    pub fn clear(&mut self) {
        (self.kept, self.pieces) = Default::default();
        self.bytes = 0;
    }

    /// Whether it holds no frames.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.pieces.is_empty()
    }

    /// Whether the rest of a message that is dropped may follow, so that later bytes must still be pushed.
    pub fn is_within_dropped(&self) -> bool {
        self.is_dropping && (self.frame_left > 0 || !self.is_final)
    }

    /// Returns how many bytes are missing of the last frame if it is dropped.
    pub fn dropped_frame_left(&self) -> u64 {
        if self.is_dropping && self.frame == Kind::Data { self.frame_left } else { 0 }
    }

    /// Whether it needs more memory than it may, and holds no message that can be dropped. No more bytes must be read
    /// for the client then.
    pub fn is_full(&self) -> bool {
        self.bytes > self.max_bytes
    }

    /// Returns the number of bytes in it.
    pub fn len(&self) -> usize {
        self.bytes.saturating_sub((self.kept.len() + self.pieces.len()).saturating_mul(PIECE_BYTES))
    }

    /// Returns the number of messages that were dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        mem::take(&mut self.dropped)
    }

    fn begin(&mut self, header: &Header) {
        let whole = header.payload_len.saturating_add(header.len as u64);
        self.frame_left = whole;
        if header.opcode.is_control() {
            self.frame = Kind::Control;
            return;
        }
        (self.frame, self.is_final) = (Kind::Data, header.fin);
        if header.opcode != Opcode::Continuation {
            self.message = self.message.wrapping_add(1);
            (self.message_bytes, self.is_dropping) = (0, false);
        }
        self.message_bytes = self.message_bytes.saturating_add(whole);
        let exceeds = self.message_bytes.saturating_add(PIECE_BYTES as u64) > self.max_bytes as u64;
        if exceeds && !self.is_dropping && self.started != Some(self.message) {
            self.drop_last();
        }
    }

    fn append(&mut self, message: Option<u64>, bytes: &[u8]) {
        let piece = Piece { message, bytes: bytes.to_vec() };
        self.bytes = self.bytes.saturating_add(piece.cost());
        self.pieces.push_back(piece);
    }

    fn drop_oldest_messages(&mut self) {
        while self.bytes > self.max_bytes && self.drop_oldest() {}
    }

    /// Drops the first message of which no bytes were taken. Returns false if there is none.
    fn drop_oldest(&mut self) -> bool {
        let started = self.started;
        let is_kept = |piece: &Piece| piece.message.is_none() || piece.message == started;
        while self.pieces.front().is_some_and(is_kept)
            && let Some(piece) = self.pieces.pop_front()
        {
            self.kept.push_back(piece);
        }
        let Some(oldest) = self.pieces.front().and_then(|piece| piece.message) else { return false };
        let is_of_it = |piece: &Piece| piece.message.is_none_or(|message| message == oldest);
        while self.pieces.front().is_some_and(is_of_it)
            && let Some(piece) = self.pieces.pop_front()
        {
            match piece.message {
                Some(_) => self.bytes = self.bytes.saturating_sub(piece.cost()),
                None => self.kept.push_back(piece),
            }
        }
        self.dropped = self.dropped.saturating_add(1);
        // Fragments of it may follow.
        self.is_dropping |= oldest == self.message;
        true
    }

    /// Drops the last message, of which no bytes were taken.
    fn drop_last(&mut self) {
        let last = self.message;
        let is_of_it = |piece: &Piece| piece.message.is_none_or(|message| message == last);
        let mut control = Vec::new();
        while self.pieces.back().is_some_and(is_of_it)
            && let Some(piece) = self.pieces.pop_back()
        {
            match piece.message {
                Some(_) => self.bytes = self.bytes.saturating_sub(piece.cost()),
                None => control.push(piece),
            }
        }
        self.pieces.extend(control.into_iter().rev());
        self.dropped = self.dropped.saturating_add(1);
        self.is_dropping = true;
    }
}

#[cfg(test)]
pub(crate) mod tests;
