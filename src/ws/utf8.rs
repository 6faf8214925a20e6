//! Incremental UTF-8 validation of a text that arrives in pieces (RFC 6455 section 8.1).

/// The validation state of a text that is still incomplete.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Utf8 {
    /// The first bytes of a character that is still incomplete.
    begun: [u8; 4],
    /// The number of bytes in `begun`: 0 to 3.
    len: usize,
}

/// The error for a text that is not UTF-8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotUtf8;

impl Utf8 {
    /// Validates the next piece.
    ///
    /// # Errors
    /// If the piece contains a byte that is invalid at its position.
    pub fn push(&mut self, mut piece: &[u8]) -> Result<(), NotUtf8> {
        while self.len > 0 {
            let Some((byte, rest)) = piece.split_first() else { return Ok(()) };
            piece = rest;
            self.begun[self.len] = *byte;
            match std::str::from_utf8(&self.begun[..=self.len]) {
                Ok(_) => self.len = 0,
                Err(error) if error.error_len().is_none() => self.len += 1,
                Err(_) => return Err(NotUtf8),
            }
        }
        let Err(error) = std::str::from_utf8(piece) else { return Ok(()) };
        if error.error_len().is_some() {
            return Err(NotUtf8);
        }
        let begun = &piece[error.valid_up_to()..];
        self.begun[..begun.len()].copy_from_slice(begun);
        self.len = begun.len();
        Ok(())
    }

    /// Returns the first bytes of the character that is still incomplete. [`Utf8::push`] of them to a new value gives
    /// this state.
    pub fn begun(&self) -> &[u8] {
        self.begun.get(..self.len).unwrap_or_default()
    }

    /// Ends the text.
    ///
    /// # Errors
    /// If its last character is incomplete.
    pub fn end(&mut self) -> Result<(), NotUtf8> {
        if std::mem::take(&mut self.len) == 0 { Ok(()) } else { Err(NotUtf8) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &[u8], cut: usize) -> bool {
        let mut utf8 = Utf8::default();
        let (first, second) = text.split_at(cut.min(text.len()));
        utf8.push(first).and_then(|()| utf8.push(second)).and_then(|()| utf8.end()).is_ok()
    }

    #[test]
    fn any_split_agrees_with_the_standard_library() {
        let texts: &[&[u8]] = &[
            b"",
            b"plain",
            "κόσμε".as_bytes(),
            "a\u{10ffff}z".as_bytes(),
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            b"\xc0\xaf",
            b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited",
            b"cut\xf0\x9f\x98",
            b"\x80",
            b"\xff",
        ];
        for text in texts {
            for cut in 0..=text.len() {
                assert_eq!(check(text, cut), std::str::from_utf8(text).is_ok(), "{text:02x?} cut at {cut}");
                let (mut utf8, mut copy) = (Utf8::default(), Utf8::default());
                if utf8.push(&text[..cut]).is_ok() {
                    assert_eq!(copy.push(utf8.begun()), Ok(()));
                    assert_eq!(copy.begun(), utf8.begun(), "{text:02x?} cut at {cut}");
                }
            }
        }
    }
}
