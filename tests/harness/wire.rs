//! Frames on the wire, written from RFC 6455 section 5 alone: a second opinion on what `tollgate::ws` reads and writes.

use std::fmt;

pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// The bit of a final fragment in a frame's first byte.
pub const FIN: u8 = 0x80;
/// The first reserved bit in a frame's first byte.
pub const RSV1: u8 = 0x40;

/// The header of a frame in its shortest form, and nothing else.
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

/// A whole frame.
pub fn frame(first: u8, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, key, payload.len() as u64);
    bytes.extend(masked(payload, key));
    bytes
}

/// The payload of a Close frame.
pub fn close_payload(code: u16, reason: &str) -> Vec<u8> {
    [&code.to_be_bytes(), reason.as_bytes()].concat()
}

pub fn masked(payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let key = key.unwrap_or_default();
    payload.iter().enumerate().map(|(place, byte)| byte ^ key[place % 4]).collect()
}

/// A frame that was received, in whole or the first part of it.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    pub rsv1: bool,
    pub opcode: u8,
    /// The unmasked payload, as far as it came.
    pub payload: Vec<u8>,
    /// How long the payload is to be.
    pub payload_len: u64,
    /// Where the frame starts in what was received.
    pub start: usize,
    /// Where it ends.
    pub end: usize,
}

impl Frame {
    pub fn is_whole(&self) -> bool {
        self.payload.len() as u64 == self.payload_len
    }

    pub fn is_control(&self) -> bool {
        self.opcode >= CLOSE
    }

    /// The code in a Close that has one.
    pub fn close_code(&self) -> Option<u16> {
        (self.opcode == CLOSE).then(|| self.payload.first_chunk().map(|code| u16::from_be_bytes(*code))).flatten()
    }
}

/// As the tables of the tests write it: `text hi`, `binary+ part` for a fragment that others follow, `close 1001 bye`,
/// `text hel(3 of 5)` for a part of a frame.
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

/// Reads what one side receives, and panics where a peer would fail the connection.
#[derive(Debug, Clone)]
pub struct Decoder {
    /// Whether the frames must be masked, or must not be.
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

    /// The next whole frame of `received`, which is the same as in the last call, or longer.
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

    pub fn has_seen_close(&self) -> bool {
        self.closed
    }

    /// The next frame, or as much of it as there is, if its header is there.
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
            assert_eq!(
                opcode == CONTINUATION,
                self.in_message,
                "a continuation where none belongs, or none where one does"
            );
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
        assert_eq!(at, shortest, "the form of length {payload_len}");
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

/// All whole frames, and the part of a frame at the end if its header is there.
pub fn decode(received: &[u8], masked: bool, compressed: bool) -> Vec<Frame> {
    let mut decoder = Decoder::new(masked, compressed);
    let mut frames: Vec<_> = std::iter::from_fn(|| decoder.next(received)).collect();
    frames.extend(decoder.peek(received));
    frames
}

/// A frame as it was sent, by nothing but its header: whether it keeps the rules is not looked at.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    pub first: u8,
    /// All of it that there is.
    pub bytes: &'a [u8],
    /// The masked payload as far as it is there.
    payload: &'a [u8],
    key: Option<[u8; 4]>,
    pub whole: bool,
}

impl Sent<'_> {
    pub fn is_control(&self) -> bool {
        self.first & 0x08 != 0
    }

    /// Whether it begins a message.
    pub fn begins(&self) -> bool {
        !self.is_control() && self.first & 0x0f != CONTINUATION
    }

    pub fn payload(&self) -> Vec<u8> {
        masked(self.payload, self.key)
    }
}

/// Cuts a stream into its frames by their headers alone; a last frame whose header is not whole is left out.
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
