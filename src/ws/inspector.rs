//! The rules of one direction: which frames may come next, and how big they may be (RFC 6455 section 5).

use super::frame::{Header, Opcode, apply_mask};
use super::utf8::Utf8;
use super::violation::Violation;

/// What the sender of this direction must keep to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// A client masks every frame, a server none (section 5.1).
    pub masked: bool,
    /// RSV1 marks the first frame of a compressed message (RFC 7692 section 6), where that was negotiated.
    pub compressed: bool,
    /// Bytes of one frame's payload.
    pub frame_max_bytes: u64,
    /// Bytes of one message, over all its fragments.
    pub message_max_bytes: u64,
    /// Whether text is checked to be UTF-8. Text that is marked as compressed cannot be.
    pub check_utf8: bool,
}

/// What stands at the start of the bytes that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Nothing that can be judged yet: a part of a header, or a control frame that is not whole.
    Incomplete,
    /// This many bytes of the payload of the data frame under way.
    Payload(usize),
    /// The header of a data frame, which keeps the rules. [`Inspector::begin`] takes it.
    Data(Header),
    /// A whole control frame, which keeps the rules.
    Control(Header),
}

/// Follows one direction of a connection. Looking changes nothing, so that a frame can be judged again later.
#[derive(Debug)]
pub struct Inspector {
    rules: Rules,
    /// Bytes still to come of the payload of the data frame under way.
    remaining: u64,
    /// Bytes of the message under way that were announced so far; `None` between messages.
    message: Option<u64>,
    /// What is known of the text under way, if it is checked.
    text: Option<Utf8>,
    /// The key of the frame under way, turned so that it begins with the next byte's.
    mask: [u8; 4],
    /// Whether the frame under way ends its message.
    fin: bool,
}

impl Inspector {
    /// Stands at the start of a connection.
    pub fn new(rules: Rules) -> Self {
        Self { rules, remaining: 0, message: None, text: None, mask: [0; 4], fin: true }
    }

    /// Takes the header of a data frame that [`Inspector::look`] found.
    ///
    /// # Errors
    /// If it is an empty last fragment and leaves a text that is checked with half a character.
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

    /// Takes payload of the data frame under way, no more than [`Next::Payload`] told.
    ///
    /// # Errors
    /// If a text that is checked is not UTF-8: at the latest with its last byte.
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

    /// Tells what stands at the start of `bytes`.
    ///
    /// # Errors
    /// A header that breaks a rule; nothing of its frame has been passed on then.
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
        // A control frame is short, so its length fits any usize.
        let whole = header.len as u64 + header.payload_len <= bytes.len() as u64;
        Ok(if whole { Next::Control(header) } else { Next::Incomplete })
    }

    /// Whether no data frame is under way, so that a control frame may stand here.
    pub fn at_boundary(&self) -> bool {
        self.remaining == 0
    }

    /// Whether a fragmented message is under way.
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

    /// Feeds everything and gives the first violation with the number of bytes that were taken before it.
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
    fn sequences() {
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
