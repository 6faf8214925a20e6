//! Frames on the wire, from RFC 6455 section 5 only: an implementation independent of `tollgate::ws`.

use std::fmt;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// The FIN bit in a frame's first byte.
pub const FIN: u8 = 0x80;
/// The RSV1 bit in a frame's first byte.
pub const RSV1: u8 = 0x40;

/// Returns only the header of a frame, in its shortest form.
pub fn header(first: u8, key: Option<[u8; 4]>, payload_len: u64) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut bytes = vec![first];
    if payload_len < 126 {
        bytes.push(masked | payload_len as u8);
    } else if payload_len < 65536 {
        bytes.push(masked | 126);
        bytes.extend((payload_len as u16).to_be_bytes());
    } else {
        bytes.push(masked | 127);
        bytes.extend(payload_len.to_be_bytes());
    }
    bytes.extend(key.into_iter().flatten());
    bytes
}

/// Returns a whole frame.
pub fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, key, payload.len() as u64);
    bytes.extend(masked(payload, key));
    bytes
}

/// Returns the payload of a Close.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

pub fn masked(payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let key = key.unwrap_or_default();
    payload.iter().enumerate().map(|(index, byte)| byte ^ key[index % 4]).collect()
}

/// A received frame, whole or partial.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv1: bool,
    pub opcode: u8,
    /// The unmasked payload received so far.
    pub payload: Vec<u8>,
    /// The payload length in the header.
    pub payload_len: u64,
    /// The offset of the frame in the received bytes.
    pub start: usize,
    /// The offset of its end.
    pub end: usize,
}

impl Frame {
    pub fn is_whole(&self) -> bool {
        self.payload.len() as u64 == self.payload_len
    }

    pub fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// Returns the code of a Close, if it has one.
    pub fn close_code(&self) -> Option<u16> {
        (self.opcode == CLOSE).then(|| self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))).flatten()
    }
}

/// The notation of the test tables: `text hi`, `binary+ part` for a fragment that is not the last, `close 1001 bye`,
/// `text hel(3 of 5)` for a partial frame.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = ["continuation", "text", "binary", "?", "?", "?", "?", "?", "close", "ping", "pong"];
        f.write_str(name[usize::from(self.opcode)])?;
        f.write_str(if self.rsv1 { "*" } else { "" })?;
        f.write_str(if self.fin { "" } else { "+" })?;
        let mut payload = &self.payload[..];
        if let (CLOSE, [high, low, reason @ ..]) = (self.opcode, payload) {
            write!(f, " {}", u16::from_be_bytes([*high, *low]))?;
            payload = reason;
        }
        if !payload.is_empty() {
            write!(f, " {}", String::from_utf8_lossy(payload))?;
        }
        if !self.is_whole() {
            write!(f, "({} of {})", self.payload.len(), self.payload_len)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// Decodes the bytes that one side receives, and panics where a peer would fail the connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Whether frames must be masked; otherwise they must not be.
    masked: bool,
    /// Whether RSV1 may mark the first frame of a message.
    compressed: bool,
    at: usize,
    in_message: bool,
    closed: bool,
}

impl Decoder {
    pub fn new(masked: bool, compressed: bool) -> Self {
        Self { masked, compressed, at: 0, in_message: false, closed: false }
    }

    /// Returns the next whole frame. `received` holds all bytes since the first call, so it only grows.
    pub fn next(&mut self, received: &[u8]) -> Option<Frame> {
        let frame = self.read(received, false)?;
        self.at = frame.end;
        self.closed = frame.opcode == CLOSE;
        if !frame.is_control() {
            self.in_message = !frame.fin;
        }
        Some(frame)
    }

    /// Whether `received` ends where a frame ends.
    pub fn at_boundary(&self, received: &[u8]) -> bool {
        self.at == received.len()
    }

    /// Whether `received` ends where a message ends, so that another one may follow.
    pub fn is_between_messages(&self, received: &[u8]) -> bool {
        self.at_boundary(received) && !self.in_message
    }

    pub fn has_seen_close(&self) -> bool {
        self.closed
    }

    /// Returns the next frame, whole or partial, if its header is complete.
    pub fn peek(&self, received: &[u8]) -> Option<Frame> {
        self.read(received, true)
    }

    fn read(&self, received: &[u8], may_be_cut: bool) -> Option<Frame> {
        let bytes = &received[self.at..];
        assert!(!self.closed || bytes.is_empty(), "bytes after a Close: {bytes:02x?}");
        let (&first, &second) = (bytes.first()?, bytes.get(1)?);
        let (fin, rsv1, opcode) = (first & FIN != 0, first & RSV1 != 0, first & 0x0f);
        let control = opcode >= CLOSE;
        assert!(matches!(opcode, 0..=2 | 8..=10), "opcode {opcode}");
        assert_eq!(first & 0x30, 0, "RSV2 or RSV3");
        assert!(!rsv1 || (self.compressed && matches!(opcode, TEXT | BINARY)), "RSV1");
        assert_eq!(second & 0x80 != 0, self.masked, "masked");
        if control {
            assert!(fin && second & 0x7f < 126, "a control frame that is fragmented or long");
        } else {
            assert_eq!(opcode == CONTINUATION, self.in_message, "an unexpected or a missing continuation");
        }
        let (payload_len, mut at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
            127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
            len => (u64::from(len), 2),
        };
        let shortest = match payload_len {
            0..126 => 2,
            126..65536 => 4,
            _ => 10,
        };
        assert_eq!(at, shortest, "the encoding of length {payload_len}");
        assert!(payload_len < 1 << 63, "length {payload_len}");
        let key = if self.masked {
            let key = *bytes.get(at..)?.first_chunk::<4>()?;
            at += 4;
            Some(key)
        } else {
            None
        };
        let here = (bytes.len() - at).min(usize::try_from(payload_len).unwrap());
        if !may_be_cut && (here as u64) < payload_len {
            return None;
        }
        let payload = masked(&bytes[at..at + here], key);
        let frame = Frame { fin, rsv1, opcode, payload, payload_len, start: self.at, end: self.at + at + here };
        if opcode == CLOSE && frame.is_whole() {
            assert!(frame.payload.len() != 1, "a Close of one byte");
            assert!(frame.close_code().is_none_or(|code| matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999)));
            assert!(std::str::from_utf8(frame.payload.get(2..).unwrap_or_default()).is_ok(), "the reason of a Close");
        }
        Some(frame)
    }
}

/// Returns all whole frames, and the partial frame at the end if its header is complete.
pub fn decode(received: &[u8], masked: bool, compressed: bool) -> Vec<Frame> {
    let mut decoder = Decoder::new(masked, compressed);
    let mut frames: Vec<_> = std::iter::from_fn(|| decoder.next(received)).collect();
    frames.extend(decoder.peek(received));
    frames
}

/// Whether the received bytes end where a message ends.
pub fn ends_between_messages(received: &[u8], masked: bool, compressed: bool) -> bool {
    let mut decoder = Decoder::new(masked, compressed);
    while decoder.next(received).is_some() {}
    decoder.is_between_messages(received)
}

/// A sent frame, found by its header only: it may break rules.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub first: u8,
    /// The bytes of the frame sent so far.
    pub bytes: &'a [u8],
    /// The masked payload sent so far.
    payload: &'a [u8],
    key: Option<[u8; 4]>,
    pub whole: bool,
}

impl Sent<'_> {
    pub fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    /// Whether it starts a message.
    pub fn begins(&self) -> bool {
        !self.is_control() && self.first & 0x0f != CONTINUATION
    }

    pub fn payload(&self) -> Vec<u8> {
        masked(self.payload, self.key)
    }
}

/// Splits a stream into frames by their headers only. A last frame with an incomplete header is omitted.
pub fn split(mut bytes: &[u8]) -> Vec<Sent<'_>> {
    let mut frames = Vec::new();
    while let Some((sent, rest)) = split_first(bytes) {
        frames.push(sent);
        bytes = rest;
    }
    frames
}

fn split_first(bytes: &[u8]) -> Option<(Sent<'_>, &[u8])> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (payload_len, mut at) = match second & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?)), 4),
        127 => (u64::from_be_bytes(*bytes.get(2..)?.first_chunk()?), 10),
        len => (u64::from(len), 2),
    };
    let mut key = None;
    if second & 0x80 != 0 {
        key = Some(*bytes.get(at..)?.first_chunk()?);
        at += 4;
    }
    let here = usize::try_from(payload_len).unwrap_or(usize::MAX).min(bytes.len() - at);
    let (bytes, rest) = bytes.split_at(at + here);
    let whole = here as u64 == payload_len;
    Some((Sent { first, bytes, payload: &bytes[at..], key, whole }, rest))
}
