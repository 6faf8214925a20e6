//! The wire format of frames: headers (RFC 6455 section 5.2), masking, and the frames that Tollgate itself sends.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::code::CloseCode;
use super::violation::Violation;

/// The longest header: two bytes, eight of extended length, four of masking key.
pub const HEADER_MAX_BYTES: usize = 14;
/// The longest payload of a control frame (section 5.5).
pub const CONTROL_MAX_BYTES: usize = 125;
/// The longest reason of a Close: it follows the two bytes of the code (section 5.5.1).
pub const REASON_MAX_BYTES: usize = CONTROL_MAX_BYTES - 2;

/// The opcode of a frame. The reserved opcodes have no variant: they are violations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opcode {
    /// A further fragment of a message.
    Continuation,
    /// The first or only fragment of a text message.
    Text,
    /// The first or only fragment of a binary message.
    Binary,
    /// A Close frame.
    Close,
    /// A Ping frame.
    Ping,
    /// A Pong frame.
    Pong,
}

impl Opcode {
    /// Whether this is a control frame (section 5.5).
    pub fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }

    fn decode(bits: u8) -> Result<Self, Violation> {
        match bits {
            0x0 => Ok(Self::Continuation),
            0x1 => Ok(Self::Text),
            0x2 => Ok(Self::Binary),
            0x8 => Ok(Self::Close),
            0x9 => Ok(Self::Ping),
            0xa => Ok(Self::Pong),
            _ => Err(Violation::ReservedOpcode),
        }
    }

    fn encode(self) -> u8 {
        match self {
            Self::Continuation => 0x0,
            Self::Text => 0x1,
            Self::Binary => 0x2,
            Self::Close => 0x8,
            Self::Ping => 0x9,
            Self::Pong => 0xa,
        }
    }
}

/// A decoded frame header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whether this frame ends its message.
    pub fin: bool,
    /// The reserved bits: RSV1 is 4, RSV2 is 2, RSV3 is 1.
    pub rsv: u8,
    /// The opcode.
    pub opcode: Opcode,
    /// The masking key, if the payload is masked.
    pub mask: Option<[u8; 4]>,
    /// The length of the payload in bytes; below 2^63.
    pub payload_len: u64,
    /// The length of this header in bytes: 2 to 14.
    pub len: usize,
}

impl Header {
    /// Decodes the header at the start of `bytes`. Returns `None` if it is incomplete.
    ///
    /// # Errors
    /// If the header breaks a rule that holds for clients and servers alike: reserved opcodes, lengths in the wrong
    /// form, and control frames that are too long or fragmented.
    #[inline]
    pub fn decode(bytes: &[u8]) -> Result<Option<Self>, Violation> {
        let [first, second, rest @ ..] = bytes else { return Ok(None) };
        let opcode = Opcode::decode(first & 0x0f)?;
        let fin = first & 0x80 != 0;
        let short_len = second & 0x7f;
        if opcode.is_control() {
            if !fin {
                return Err(Violation::FragmentedControl);
            }
            if usize::from(short_len) > CONTROL_MAX_BYTES {
                return Err(Violation::LongControl);
            }
        }
        let (payload_len, rest) = match short_len {
            126 => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u64::from(u16::from_be_bytes(*len));
                if len < 126 {
                    return Err(Violation::LengthNotMinimal);
                }
                (len, rest)
            }
            127 => {
                let Some((len, rest)) = rest.split_first_chunk() else { return Ok(None) };
                let len = u64::from_be_bytes(*len);
                if len >> 63 != 0 {
                    return Err(Violation::LengthOver63Bits);
                }
                if u16::try_from(len).is_ok() {
                    return Err(Violation::LengthNotMinimal);
                }
                (len, rest)
            }
            len => (u64::from(len), rest),
        };
        let (mask, rest) = if second & 0x80 == 0 {
            (None, rest)
        } else {
            let Some((key, rest)) = rest.split_first_chunk() else { return Ok(None) };
            (Some(*key), rest)
        };
        let len = bytes.len() - rest.len();
        Ok(Some(Self { fin, rsv: (first >> 4) & 0x7, opcode, mask, payload_len, len }))
    }

    /// Appends the header to `out` in its shortest form. The field `len` is ignored.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(u8::from(self.fin) << 7 | (self.rsv & 0x7) << 4 | self.opcode.encode());
        let masked = if self.mask.is_some() { 0x80 } else { 0 };
        match (u8::try_from(self.payload_len), u16::try_from(self.payload_len)) {
            (Ok(len @ 0..=125), _) => out.push(masked + len),
            (_, Ok(len)) => {
                out.push(masked + 126);
                out.extend_from_slice(&len.to_be_bytes());
            }
            _ => {
                out.push(masked + 127);
                out.extend_from_slice(&self.payload_len.to_be_bytes());
            }
        }
        out.extend_from_slice(self.mask.as_ref().map_or(&[], |key| key));
    }
}

/// Masks or unmasks a piece of payload that starts `offset` bytes into the payload of its frame (section 5.3).
pub fn apply_mask(payload: &mut [u8], key: [u8; 4], offset: u64) {
    // The piece may start at any byte of the key, so rotate the key to start at the first byte of the piece.
    let mut key = key;
    key.rotate_left((offset % 4) as usize);
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

/// Truncates the reason of a Close at a character boundary, so that it fits into a frame and is still UTF-8.
pub fn truncate_reason(reason: &str) -> &str {
    &reason[..reason.floor_char_boundary(REASON_MAX_BYTES)]
}

/// A control frame that Tollgate itself sends. The caller supplies the masking key, since it must be fresh and random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlFrame {
    opcode: Opcode,
    payload: [u8; CONTROL_MAX_BYTES],
    len: usize,
}

impl ControlFrame {
    /// Returns a Close with a code and a reason, which is truncated to fit.
    pub fn close(code: CloseCode, reason: &str) -> Self {
        let mut frame = Self { opcode: Opcode::Close, payload: [0; CONTROL_MAX_BYTES], len: 0 };
        frame.push(&code.0.to_be_bytes());
        frame.push(truncate_reason(reason).as_bytes());
        frame
    }

    /// Returns a Ping whose payload identifies the pong that answers it.
    pub fn ping(payload: [u8; 8]) -> Self {
        let mut frame = Self { opcode: Opcode::Ping, payload: [0; CONTROL_MAX_BYTES], len: 0 };
        frame.push(&payload);
        frame
    }

    /// Returns the Pong that answers a Ping with this payload.
    pub fn pong(payload: &[u8]) -> Self {
        let mut frame = Self { opcode: Opcode::Pong, payload: [0; CONTROL_MAX_BYTES], len: 0 };
        frame.push(payload);
        frame
    }

    fn push(&mut self, bytes: &[u8]) {
        let room = &mut self.payload[self.len..];
        let len = bytes.len().min(room.len());
        room[..len].copy_from_slice(&bytes[..len]);
        self.len += len;
    }

    /// Returns the opcode.
    pub fn opcode(&self) -> Opcode {
        self.opcode
    }

    /// Returns the unmasked payload.
    pub fn payload(&self) -> &[u8] {
        &self.payload[..self.len]
    }

    /// Appends the frame to `out`: masked for an upstream, unmasked for a client (section 5.1).
    pub fn encode(&self, mask: Option<[u8; 4]>, out: &mut Vec<u8>) {
        Header { fin: true, rsv: 0, opcode: self.opcode, mask, payload_len: self.len as u64, len: 0 }.encode(out);
        let start = out.len();
        out.extend_from_slice(self.payload());
        if let Some(key) = mask {
            apply_mask(&mut out[start..], key, 0);
        }
    }
}

/// A message that Tollgate itself sends to a client: one frame, unmasked (section 5.1) and not compressed, which a peer
/// accepts where compression was negotiated, too (RFC 7692 section 6). Clones share the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// A text message.
    Text(Arc<str>),
    /// A binary message.
    Binary(Arc<[u8]>),
}

impl Message {
    /// Returns the payload.
    pub fn payload(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Binary(bytes) => bytes,
        }
    }

    /// Returns the header of the frame.
    pub fn header(&self) -> Header {
        let opcode = match self {
            Self::Text(_) => Opcode::Text,
            Self::Binary(_) => Opcode::Binary,
        };
        let payload_len = self.payload().len() as u64;
        let len = match payload_len {
            0..126 => 2,
            126..65_536 => 4,
            _ => 10,
        };
        Header { fin: true, rsv: 0, opcode, mask: None, payload_len, len }
    }

    /// Returns the frame.
    pub fn encode(&self) -> Vec<u8> {
        let header = self.header();
        let mut out = Vec::with_capacity(header.len + self.payload().len());
        header.encode(&mut out);
        out.extend_from_slice(self.payload());
        out
    }
}

impl From<String> for Message {
    fn from(text: String) -> Self {
        Self::Text(text.into())
    }
}

impl From<Vec<u8>> for Message {
    fn from(bytes: Vec<u8>) -> Self {
        Self::Binary(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fin: bool, opcode: Opcode, payload_len: u64, len: usize) -> Header {
        Header { fin, rsv: 0, opcode, mask: None, payload_len, len }
    }

    #[test]
    fn headers_are_decoded_or_rejected() {
        let ok = |header| Ok(Some(header));
        let table: &[(&[u8], Result<Option<Header>, Violation>)] = &[
            (b"", Ok(None)),
            (b"\x81", Ok(None)),
            (b"\x81\x00", ok(header(true, Opcode::Text, 0, 2))),
            (b"\x02\x7d", ok(header(false, Opcode::Binary, 125, 2))),
            (b"\x80\x7e\x00", Ok(None)),
            (b"\x80\x7e\x00\x7e", ok(header(true, Opcode::Continuation, 126, 4))),
            (b"\x80\x7e\x00\x7d", Err(Violation::LengthNotMinimal)),
            (b"\x82\x7f\0\0\0\0\0\x01\0", Ok(None)),
            (b"\x82\x7f\0\0\0\0\0\x01\0\0", ok(header(true, Opcode::Binary, 65536, 10))),
            (b"\x82\x7f\0\0\0\0\0\0\xff\xff", Err(Violation::LengthNotMinimal)),
            (b"\x82\x7f\x80\0\0\0\0\0\0\0", Err(Violation::LengthOver63Bits)),
            (b"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", ok(header(true, Opcode::Binary, i64::MAX as u64, 10))),
            (
                b"\xc1\x81\x01\x02\x03\x04x",
                ok(Header { rsv: 4, mask: Some([1, 2, 3, 4]), ..header(true, Opcode::Text, 1, 6) }),
            ),
            (b"\x81\x81\x01\x02\x03", Ok(None)),
            (b"\x09\x00", Err(Violation::FragmentedControl)),
            (b"\x89\x7e", Err(Violation::LongControl)),
            (b"\x83\x00", Err(Violation::ReservedOpcode)),
            (b"\x8b\x00", Err(Violation::ReservedOpcode)),
        ];
        for (bytes, expected) in table {
            assert_eq!(Header::decode(bytes), *expected, "{bytes:02x?}");
        }
    }

    #[test]
    fn encoding_is_the_inverse_of_decoding() {
        for payload_len in [0, 1, 125, 126, 65535, 65536, i64::MAX as u64] {
            for mask in [None, Some([9, 8, 7, 6])] {
                let header = Header { mask, rsv: 5, ..header(false, Opcode::Text, payload_len, 0) };
                let mut bytes = Vec::new();
                header.encode(&mut bytes);
                assert_eq!(Header::decode(&bytes), Ok(Some(Header { len: bytes.len(), ..header })));
            }
        }
    }

    #[test]
    fn masking_in_pieces_equals_masking_at_once() {
        let key = [0x37, 0xfa, 0x21, 0x3d];
        // The example of section 5.7.
        let mut hello = *b"\x7f\x9f\x4d\x51\x58";
        let (first, second) = hello.split_at_mut(3);
        apply_mask(first, key, 0);
        apply_mask(second, key, 3);
        assert_eq!(&hello, b"Hello");
    }

    #[test]
    fn control_frames_are_encoded_and_long_reasons_truncated() {
        let mut out = Vec::new();
        ControlFrame::close(CloseCode::GOING_AWAY, "drain").encode(None, &mut out);
        assert_eq!(out, b"\x88\x07\x03\xe9drain");
        out.clear();
        ControlFrame::ping(*b"12345678").encode(Some([1, 1, 1, 1]), &mut out);
        assert_eq!(out, b"\x89\x88\x01\x01\x01\x010325476\x39");
        let cut = ControlFrame::close(CloseCode::NORMAL, &"ä".repeat(70));
        assert_eq!(cut.payload()[2..], *"ä".repeat(61).as_bytes());
        let whole = ControlFrame::close(CloseCode::NORMAL, &"a".repeat(REASON_MAX_BYTES));
        assert_eq!(whole.payload().len(), CONTROL_MAX_BYTES);
    }

    #[test]
    fn messages_are_one_frame_with_the_shortest_header() {
        let table: &[(Message, &[u8])] = &[
            (Message::from(String::new()), b"\x81\x00"),
            (Message::from("ä".to_owned()), b"\x81\x02"),
            (Message::from(vec![7; 125]), b"\x82\x7d"),
            (Message::from(vec![7; 126]), b"\x82\x7e\x00\x7e"),
            (Message::from("a".repeat(65_535)), b"\x81\x7e\xff\xff"),
            (Message::from(vec![7; 65_536]), b"\x82\x7f\0\0\0\0\0\x01\0\0"),
        ];
        for (message, expected) in table {
            let bytes = message.encode();
            let (header, payload) = bytes.split_at(expected.len());
            assert_eq!(header, *expected);
            assert_eq!(payload, message.payload());
            assert_eq!(Header::decode(&bytes), Ok(Some(message.header())));
        }
    }
}
