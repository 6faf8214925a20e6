//! The inspector: checks the frames of one direction for their order, size and text (RFC 6455 section 5).

use serde::{Deserialize, Serialize};

use super::frame::{Header, Opcode, apply_mask};
use super::utf8::Utf8;
use super::violation::Violation;

/// The rules for the sender of one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// Whether frames must be masked: a client masks every frame, and a server must not mask any (section 5.1).
    pub masked: bool,
    /// Whether compression was negotiated. RSV1 then marks the first frame of a compressed message (RFC 7692 section
    /// 6).
    pub compressed: bool,
    /// The largest payload of a frame.
    pub frame_max_bytes: u64,
    /// The largest message, summed over its fragments.
    pub message_max_bytes: u64,
    /// Whether text must be UTF-8. Text that is marked as compressed is not checked, since it is not inflated.
    pub check_utf8: bool,
}

/// The first item of the received bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Too few bytes to judge: none, a part of a header, or a part of a control frame.
    Incomplete,
    /// This many bytes of payload of the current data frame.
    Payload(usize),
    /// The header of a valid data frame, to be passed to [`Inspector::begin`].
    Data(Header),
    /// The header of a valid control frame, which has been received as a whole.
    Control(Header),
}

/// The state of one direction of a connection. [`Inspector::look`] does not change it, so a frame can be judged again
/// later.
#[derive(Debug)]
pub struct Inspector {
    rules: Rules,
    /// Bytes of payload left in the current data frame.
    remaining: u64,
    /// The size of the current message according to its headers up to now; `None` between messages.
    message: Option<u64>,
    /// The UTF-8 state of the current text, if it is checked.
    text: Option<Utf8>,
    /// The masking key of the current frame; in a checked text it is rotated to start at the next byte of payload.
    mask: [u8; 4],
    /// Whether the current frame ends its message.
    fin: bool,
}

/// The state of an [`Inspector`] without its rules, as plain data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InspectorState {
    /// Bytes of payload left in the current data frame.
    pub remaining: u64,
    /// The size of the current message according to its headers up to now; `None` between messages.
    pub message: Option<u64>,
    /// In a checked text: the first bytes of a character that is still incomplete, unmasked.
    pub text: Option<Vec<u8>>,
    /// The masking key of the current frame; in a checked text it starts at the next byte of payload.
    pub mask: [u8; 4],
    /// Whether the current frame ends its message.
    pub fin: bool,
}

impl Inspector {
    /// Returns the state at the start of a connection.
    pub fn new(rules: Rules) -> Self {
        Self { rules, remaining: 0, message: None, text: None, mask: [0; 4], fin: true }
    }

    /// Returns the state, for [`Inspector::import`].
    pub fn export(&self) -> InspectorState {
        let Self { rules: _, remaining, message, text, mask, fin } = self;
        let text = text.map(|text| text.begun().to_vec());
        InspectorState { remaining: *remaining, message: *message, text, mask: *mask, fin: *fin }
    }

    /// Continues from an exported state.
    pub fn import(rules: Rules, state: InspectorState) -> Self {
        let InspectorState { remaining, message, text, mask, fin } = state;
        let text = text.map(|begun| {
            let mut text = Utf8::default();
            // The start of a character is valid.
            let _ = text.push(&begun);
            text
        });
        Self { rules, remaining, message, text, mask, fin }
    }

    /// Returns the number of payload bytes left in the current data frame.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// Returns the rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Changes the limits from the next header on. A message in progress is judged by the new limit at its next frame.
    pub fn set_sizes(&mut self, frame_max_bytes: u64, message_max_bytes: u64) {
        self.rules.frame_max_bytes = frame_max_bytes;
        self.rules.message_max_bytes = message_max_bytes;
    }

    /// Begins the data frame whose header [`Inspector::look`] returned.
    ///
    /// # Errors
    /// If it is an empty last fragment, and the checked text ends within a character.
    #[inline]
    pub fn begin(&mut self, header: &Header) -> Result<(), Violation> {
        if header.opcode == Opcode::Text && self.rules.check_utf8 && header.rsv == 0 {
            self.text = Some(Utf8::default());
        }
        self.message = Some(self.message.unwrap_or(0).saturating_add(header.payload_len));
        self.remaining = header.payload_len;
        self.mask = header.mask.unwrap_or_default();
        self.fin = header.fin;
        if self.remaining == 0 { self.end_frame() } else { Ok(()) }
    }

    /// Consumes payload of the current data frame, at most as much as [`Next::Payload`] returned.
    ///
    /// # Errors
    /// If a checked text is not UTF-8. The error comes with its last byte at the latest.
    #[inline]
    pub fn payload(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let taken = (bytes.len() as u64).min(self.remaining);
        if let Some(text) = &mut self.text {
            let mut plain = [0; 512];
            for piece in bytes.chunks(plain.len()) {
                let plain = &mut plain[..piece.len()];
                plain.copy_from_slice(piece);
                apply_mask(plain, self.mask, 0);
                text.push(plain).map_err(|_| Violation::TextNotUtf8)?;
                self.mask.rotate_left(piece.len() % 4);
            }
        }
        self.remaining -= taken;
        if self.remaining == 0 { self.end_frame() } else { Ok(()) }
    }

    fn end_frame(&mut self) -> Result<(), Violation> {
        if !self.fin {
            return Ok(());
        }
        self.message = None;
        self.text.take().map_or(Ok(()), |mut text| text.end()).map_err(|_| Violation::TextNotUtf8)
    }

    /// Returns the first item of `bytes`.
    ///
    /// # Errors
    /// If a header breaks a rule. No part of its frame has been forwarded by then.
    #[inline]
    pub fn look(&self, bytes: &[u8]) -> Result<Next, Violation> {
        if self.remaining > 0 {
            let here = usize::try_from(self.remaining).unwrap_or(usize::MAX).min(bytes.len());
            return Ok(if here == 0 { Next::Incomplete } else { Next::Payload(here) });
        }
        let Some(header) = Header::decode(bytes)? else { return Ok(Next::Incomplete) };
        self.check(&header)?;
        if !header.opcode.is_control() {
            return Ok(Next::Data(header));
        }
        // A control frame is short, so the sum cannot overflow.
        let whole = header.len as u64 + header.payload_len <= bytes.len() as u64;
        Ok(if whole { Next::Control(header) } else { Next::Incomplete })
    }

    /// Whether no data frame is in progress, so that a control frame may be inserted here.
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0
    }

    /// Returns the size of the message in progress according to its headers up to now; 0 between messages.
    pub fn message_bytes(&self) -> u64 {
        self.message.unwrap_or(0)
    }

    /// Whether a message is in progress.
    pub fn in_message(&self) -> bool {
        self.message.is_some()
    }

    fn check(&self, header: &Header) -> Result<(), Violation> {
        match (self.rules.masked, header.mask.is_some()) {
            (true, false) => return Err(Violation::NotMasked),
            (false, true) => return Err(Violation::Masked),
            _ => {}
        }
        let first = matches!(header.opcode, Opcode::Text | Opcode::Binary);
        let allowed_rsv = if self.rules.compressed && first { 0b100 } else { 0 };
        if header.rsv & !allowed_rsv != 0 {
            return Err(Violation::ReservedBit);
        }
        if header.opcode.is_control() {
            return Ok(());
        }
        match (first, self.message) {
            (true, Some(_)) => return Err(Violation::InterruptedMessage),
            (false, None) => return Err(Violation::UnexpectedContinuation),
            _ => {}
        }
        if header.payload_len > self.rules.frame_max_bytes {
            return Err(Violation::FrameTooBig);
        }
        let message = self.message.unwrap_or(0).saturating_add(header.payload_len);
        if message > self.rules.message_max_bytes { Err(Violation::MessageTooBig) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: Rules =
        Rules { masked: false, compressed: false, frame_max_bytes: 10, message_max_bytes: 15, check_utf8: true };

    /// Feeds all bytes. Returns the number of bytes consumed, and the first violation.
    fn feed(rules: Rules, mut bytes: &[u8]) -> (usize, Option<Violation>) {
        let mut inspector = Inspector::new(rules);
        let all = bytes.len();
        loop {
            let taken = match inspector.look(bytes) {
                Ok(Next::Incomplete) => return (all - bytes.len(), None),
                Ok(Next::Payload(n)) => match inspector.payload(&bytes[..n]) {
                    Ok(()) => n,
                    Err(violation) => return (all - bytes.len(), Some(violation)),
                },
                Ok(Next::Data(header)) => match inspector.begin(&header) {
                    Ok(()) => header.len,
                    Err(violation) => return (all - bytes.len(), Some(violation)),
                },
                Ok(Next::Control(header)) => header.len + header.payload_len as usize,
                Err(violation) => return (all - bytes.len(), Some(violation)),
            };
            bytes = &bytes[taken..];
        }
    }

    #[test]
    fn sequences_of_frames_are_checked() {
        let compressed = Rules { compressed: true, ..RULES };
        let masked = Rules { masked: true, ..RULES };
        let table: &[(Rules, &[u8], (usize, Option<Violation>))] = &[
            (RULES, b"\x81\x02hi\x89\x00\x82\x01x", (9, None)),
            (RULES, b"\x01\x02hi\x89\x01p\x80\x01!", (10, None)),
            (RULES, b"\x80\x00", (0, Some(Violation::UnexpectedContinuation))),
            (RULES, b"\x01\x00\x81\x00", (2, Some(Violation::InterruptedMessage))),
            (RULES, b"\x82\x0b", (0, Some(Violation::FrameTooBig))),
            (RULES, b"\x02\x0a0123456789\x80\x06", (12, Some(Violation::MessageTooBig))),
            (RULES, b"\xc1\x00", (0, Some(Violation::ReservedBit))),
            (compressed, b"\xc1\x01\xff\x81\x00", (5, None)),
            (compressed, b"\x41\x00\xc0\x00", (2, Some(Violation::ReservedBit))),
            (compressed, b"\xc9\x00", (0, Some(Violation::ReservedBit))),
            (compressed, b"\xa1\x00", (0, Some(Violation::ReservedBit))),
            (RULES, b"\x81\x80\x00\x00\x00\x00", (0, Some(Violation::Masked))),
            (masked, b"\x81\x00", (0, Some(Violation::NotMasked))),
            (masked, b"\x81\x82\x01\x01\x01\x01\xc2\xa5", (8, None)),
            (RULES, b"\x81\x01\xff", (2, Some(Violation::TextNotUtf8))),
            (RULES, b"\x01\x01\xc3\x80\x01\xa4", (6, None)),
            (RULES, b"\x01\x01\xc3\x80\x00", (3, Some(Violation::TextNotUtf8))),
            (RULES, b"\x81\x01\xc3", (2, Some(Violation::TextNotUtf8))),
            (RULES, b"\x89\x03ab", (0, None)),
        ];
        for (rules, bytes, expected) in table {
            assert_eq!(feed(*rules, bytes), *expected, "{bytes:02x?}");
        }
    }
}
