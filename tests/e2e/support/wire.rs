//! One end of a session: bytes on a stream, and frames written by hand, so that malformed ones can be sent, too.

use std::io::{self, ErrorKind, Read, Write};

/// Opcodes (RFC 6455 section 5.2).
pub const CONTINUATION: u8 = 0x0;
pub const TEXT: u8 = 0x1;
pub const BINARY: u8 = 0x2;
pub const CLOSE: u8 = 0x8;
pub const PING: u8 = 0x9;
pub const PONG: u8 = 0xa;

/// The default masking key.
pub const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame, with its payload unmasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub fin: bool,
    /// RSV1 is 4, RSV2 is 2, RSV3 is 1.
    pub rsv: u8,
    pub opcode: u8,
    pub mask: Option<[u8; 4]>,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn new(opcode: u8, payload: impl AsRef<[u8]>) -> Self {
        Self { fin: true, rsv: 0, opcode, mask: None, payload: payload.as_ref().to_vec() }
    }

    pub fn text(payload: &str) -> Self {
        Self::new(TEXT, payload)
    }

    pub fn close(code: u16, reason: &str) -> Self {
        Self::new(CLOSE, [&code.to_be_bytes(), reason.as_bytes()].concat())
    }

    /// Clears FIN: the frame is a fragment and not the last one.
    pub fn unfinished(self) -> Self {
        Self { fin: false, ..self }
    }

    pub fn rsv(self, rsv: u8) -> Self {
        Self { rsv, ..self }
    }

    pub fn masked(self) -> Self {
        Self { mask: Some(MASK), ..self }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![u8::from(self.fin) << 7 | self.rsv << 4 | self.opcode];
        let masked = u8::from(self.mask.is_some()) << 7;
        let len = self.payload.len();
        match (u8::try_from(len), u16::try_from(len)) {
            (Ok(len @ 0..=125), _) => bytes.push(masked | len),
            (_, Ok(len)) => {
                bytes.push(masked | 0x7e);
                bytes.extend_from_slice(&len.to_be_bytes());
            }
            _ => {
                bytes.push(masked | 0x7f);
                bytes.extend_from_slice(&(len as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(self.mask.as_ref().map_or(&[][..], |mask| mask));
        let mask = self.mask.unwrap_or_default();
        bytes.extend(self.payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    /// Returns the code and the reason of a Close; the code is `None` if the payload is empty.
    pub fn close_payload(&self) -> (Option<u16>, String) {
        assert_eq!(self.opcode, CLOSE, "{self:?}");
        match self.payload.split_first_chunk::<2>() {
            Some((code, reason)) => (Some(u16::from_be_bytes(*code)), String::from_utf8(reason.to_vec()).unwrap()),
            None => (None, String::new()),
        }
    }
}

/// The head of a request or a response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    pub first_line: String,
    /// Names in lower case.
    pub fields: Vec<(String, String)>,
}

impl Head {
    fn parse(text: &str) -> Self {
        let mut lines = text.trim_end_matches("\r\n").split("\r\n");
        let first_line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_owned())
        };
        Self { first_line, fields: lines.map(field).collect() }
    }

    /// Returns the value of a field that occurs at most once.
    pub fn get(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|field| field.0 == name.to_ascii_lowercase());
        let value = values.next().map(|field| field.1.as_str());
        assert!(values.next().is_none(), "{name} occurs twice: {self:?}");
        value
    }

    pub fn status(&self) -> u16 {
        let status = self.first_line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no status: {self:?}"))
    }
}

/// How a stream ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: on TLS after a close_notify.
    Clean,
    /// By a reset, or on TLS without a close_notify.
    Cut,
}

/// One end of a connection. Every error and timeout fails the test.
pub struct Peer<S> {
    pub stream: S,
    /// Bytes that were read but not yet consumed.
    pending: Vec<u8>,
    /// Whether frames are masked by default, as those of a client are.
    masks: bool,
}

impl<S: Read + Write> Peer<S> {
    pub fn new(stream: S, masks: bool) -> Self {
        Self { stream, pending: Vec::new(), masks }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).and_then(|()| self.stream.flush()).expect("the proxy accepts what is sent");
    }

    pub fn send_frame(&mut self, frame: Frame) {
        self.try_send_frame(frame).expect("the proxy accepts what is sent");
    }

    /// Sends a frame on a connection that the proxy may have closed.
    pub fn try_send_frame(&mut self, frame: Frame) -> io::Result<()> {
        let mask = frame.mask.or(self.masks.then_some(MASK));
        self.stream.write_all(&Frame { mask, ..frame }.bytes())?;
        self.stream.flush()
    }

    /// Sends frames of 60 KiB until a write takes longer than the write timeout of the stream. Returns the number of
    /// bytes sent and the rest of the last frame.
    pub fn flood(&mut self) -> (usize, Vec<u8>) {
        let frame = Frame { mask: self.masks.then_some(MASK), ..Frame::new(BINARY, vec![0x5a; 60 << 10]) }.bytes();
        let mut sent = 0;
        loop {
            let rest = &frame[sent % frame.len()..];
            match self.stream.write(rest) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return (sent, rest.to_vec()),
                Err(error) => panic!("the proxy has closed the connection: {error}"),
            }
        }
    }

    pub fn send_text(&mut self, text: &str) {
        self.send_frame(Frame::text(text));
    }

    /// Reads once; `Some` at the end of the stream.
    fn more(&mut self) -> Option<End> {
        let mut buffer = [0; 16 * 1024];
        match self.stream.read(&mut buffer) {
            Ok(0) => Some(End::Clean),
            Ok(n) => {
                self.pending.extend_from_slice(&buffer[..n]);
                None
            }
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                Some(End::Cut)
            }
            Err(error) => panic!("nothing received in time: {error}; before: {:?}", printable(&self.pending)),
        }
    }

    /// Takes up to this many bytes: of those that were read before, or of one read.
    pub fn take_up_to(&mut self, len: usize) -> Vec<u8> {
        if self.pending.is_empty()
            && let Some(end) = self.more()
        {
            panic!("{end:?} end, where more bytes were expected");
        }
        let rest = self.pending.split_off(len.min(self.pending.len()));
        std::mem::replace(&mut self.pending, rest)
    }

    /// Reads exactly this many bytes.
    pub fn take(&mut self, len: usize) -> Vec<u8> {
        while self.pending.len() < len {
            if let Some(end) = self.more() {
                panic!("{end:?} end after {:?}, where {len} bytes were expected", printable(&self.pending));
            }
        }
        let rest = self.pending.split_off(len);
        std::mem::replace(&mut self.pending, rest)
    }

    /// Reads the head of a request or a response.
    pub fn head(&mut self) -> Head {
        Head::parse(&self.head_text())
    }

    /// Reads the text of a head.
    pub fn head_text(&mut self) -> String {
        loop {
            if let Some(at) = self.pending.windows(4).position(|window| window == b"\r\n\r\n") {
                return String::from_utf8(self.take(at + 4)).expect("a head is text");
            }
            if let Some(end) = self.more() {
                panic!("{end:?} end after {:?}, where a head was expected", printable(&self.pending));
            }
        }
    }

    /// Reads everything up to the end of the stream, and returns how it ended.
    pub fn rest(&mut self) -> (Vec<u8>, End) {
        loop {
            if let Some(end) = self.more() {
                return (std::mem::take(&mut self.pending), end);
            }
        }
    }

    pub fn frame(&mut self) -> Frame {
        let first = self.take(2);
        let mut len = u64::from(first[1] & 0x7f);
        if len >= 126 {
            let wide = self.take(if len == 126 { 2 } else { 8 });
            len = wide.iter().fold(0, |len, byte| len << 8 | u64::from(*byte));
        }
        let mask = (first[1] & 0x80 != 0).then(|| self.take(4).try_into().unwrap());
        let mut payload = self.take(usize::try_from(len).unwrap());
        let key: [u8; 4] = mask.unwrap_or_default();
        payload.iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
        Frame { fin: first[0] & 0x80 != 0, rsv: first[0] >> 4 & 7, opcode: first[0] & 0xf, mask, payload }
    }

    pub fn expect_text(&mut self, text: &str) {
        let frame = self.frame();
        assert_eq!((frame.opcode, frame.payload.as_slice()), (TEXT, text.as_bytes()), "{frame:?}");
    }

    /// Reads a Close with this code and returns its reason. Frames before it were in flight and are skipped.
    pub fn expect_close(&mut self, code: u16) -> String {
        loop {
            let frame = self.frame();
            if frame.opcode == CLOSE {
                let (came, reason) = frame.close_payload();
                assert_eq!(came, Some(code), "{reason:?}");
                return reason;
            }
        }
    }

    /// Checks that the stream ends with nothing before it.
    pub fn expect_end(&mut self) -> End {
        let (rest, end) = self.rest();
        assert!(rest.is_empty(), "before the end: {:?}", printable(&rest));
        end
    }

    /// Checks that no further bytes have been read. It does not look for bytes in flight.
    pub fn expect_nothing_yet(&self) {
        assert!(self.pending.is_empty(), "{:?}", printable(&self.pending));
    }

    /// Checks that the stream ends in order with nothing before it.
    pub fn expect_clean_end(&mut self) {
        assert_eq!(self.expect_end(), End::Clean);
    }
}

fn printable(bytes: &[u8]) -> String {
    bytes.iter().take(400).copied().flat_map(std::ascii::escape_default).map(char::from).collect()
}
