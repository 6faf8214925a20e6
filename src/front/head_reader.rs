//! Finds the end of a request head in the bytes of its connection, and notes the shape of the head.

use crate::policy::framing::HeadShape;

/// The position of the reader in the request head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// Before the request line. Empty lines are ignored (RFC 9112 section 2.2).
    Blank,
    /// Within a line.
    InLine,
    /// At the beginning of a line.
    AtLine,
    Ended,
}

/// Reads a request head.
#[derive(Debug)]
pub(super) struct HeadReader {
    position: Position,
    /// The number of bytes that were read, and the offset of the request line.
    read: usize,
    start: usize,
    shape: HeadShape,
}

impl HeadReader {
    pub(super) fn new() -> Self {
        Self { position: Position::Blank, read: 0, start: 0, shape: HeadShape::default() }
    }

    /// Whether nothing of the head was read.
    pub(super) fn is_blank(&self) -> bool {
        self.position == Position::Blank
    }

    pub(super) fn has_ended(&self) -> bool {
        self.position == Position::Ended
    }

    /// Returns the shape of a head that has ended.
    pub(super) fn shape(&self) -> HeadShape {
        self.shape
    }

    /// Reads further bytes. Returns the offset at which the head ends in them, if it does.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Option<usize> {
        if self.has_ended() {
            return None;
        }
        for (at, byte) in bytes.iter().enumerate() {
            match (self.position, byte) {
                (Position::AtLine, b'\n') => {
                    self.shape.lfs = self.shape.lfs.saturating_add(1);
                    self.position = Position::Ended;
                    return Some(at + 1);
                }
                (Position::InLine, b'\n') => {
                    if self.shape.lines == 0 {
                        // With its CR, the line ends two bytes before here.
                        let len = (self.read + at).saturating_sub(self.start + 1);
                        self.shape.request_line_len = u32::try_from(len).unwrap_or(u32::MAX);
                    }
                    self.shape.lines = self.shape.lines.saturating_add(1);
                    self.shape.lfs = self.shape.lfs.saturating_add(1);
                    self.position = Position::AtLine;
                }
                (Position::Blank, b'\n' | b'\r') => {}
                (_, b'\r') => self.shape.crs = self.shape.crs.saturating_add(1),
                (Position::Blank, _) => {
                    self.start = self.read + at;
                    self.position = Position::InLine;
                }
                _ => self.position = Position::InLine,
            }
        }
        self.read += bytes.len();
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_the_same_wherever_the_head_is_split() {
        let shape = |request_line_len, lines, crs, lfs| HeadShape { request_line_len, lines, crs, lfs };
        for (head, expected) in [
            ("GET / HTTP/1.1\r\n\r\n", shape(14, 1, 2, 2)),
            ("\r\n\nGET /a HTTP/1.1\r\nA: b\r\nC: d\r\n\r\n", shape(15, 3, 4, 4)),
            ("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", shape(14, 3, 3, 4)),
        ] {
            for step in 1..=head.len() {
                let mut reader = HeadReader::new();
                let ends: Vec<_> = head.as_bytes().chunks(step).filter_map(|part| reader.read(part)).collect();
                assert_eq!((ends.len(), reader.shape()), (1, expected), "{head:?} in steps of {step}");
            }
        }
    }
}
