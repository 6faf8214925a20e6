//! Finds the end of a request's body in the bytes of its connection (RFC 9112 sections 6 and 7), so that no byte of the
//! next request is passed on with it. hyper decodes the body; it must end where this does.

use std::io;

use crate::policy::framing::BodyLength;

/// The position in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyScanner {
    /// This many bytes are left.
    Known(u64),
    /// A body of chunks.
    Chunked(Chunk),
    /// The body is read by an endpoint of Tollgate, and the connection closes then.
    Unlimited,
}

/// The position in a body of chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Chunk {
    /// In the size of a chunk, which has this value so far.
    Size(Option<u64>),
    /// In the extensions of a chunk of this size.
    Extension(u64),
    /// Before the LF of the line with this size.
    SizeLf(u64),
    /// This many bytes of the chunk are left.
    Data(u64),
    DataLf,
    /// At the beginning of a line of the trailer section.
    AtTrailer,
    InTrailer,
    /// Before the LF of a line of the trailer section.
    TrailerLf,
    /// Before the LF of the empty line.
    LastLf,
}

impl From<BodyLength> for BodyScanner {
    fn from(length: BodyLength) -> Self {
        match length {
            BodyLength::Known(length) => Self::Known(length),
            BodyLength::Chunked => Self::Chunked(Chunk::Size(None)),
        }
    }
}

impl BodyScanner {
    /// Reads further bytes. Returns the offset at which the body ends in them, if it does.
    ///
    /// # Errors
    /// If the framing of a chunk is not exactly that of RFC 9112 section 7.1.
    pub(super) fn read(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Unlimited => Ok(None),
            Self::Known(left) => {
                let taken = (*left).min(bytes.len().try_into().unwrap_or(u64::MAX));
                *left -= taken;
                Ok((*left == 0).then(|| usize::try_from(taken).unwrap_or(bytes.len())))
            }
            Self::Chunked(chunk) => chunk.read(bytes),
        }
    }
}

impl Chunk {
    fn read(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let Self::Data(left @ 1..) = self {
                let rest = bytes.len().saturating_sub(at);
                let taken = rest.min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= u64::try_from(taken).unwrap_or(*left);
                at += taken;
                continue;
            }
            at += 1;
            *self = match (*self, byte) {
                (Self::Size(Some(size)) | Self::Extension(size), b'\r') => Self::SizeLf(size),
                (Self::Size(Some(size)), b';') => Self::Extension(size),
                (Self::Size(size), digit) => Self::Size(Some(with_digit(size.unwrap_or_default(), *digit)?)),
                (Self::Extension(_) | Self::AtTrailer | Self::InTrailer, b'\n') => return Err(malformed()),
                // No control characters (RFC 9112 section 7.1.1).
                (extension @ Self::Extension(_), b'\t' | b' '..=b'~' | 0x80..) => extension,
                (Self::SizeLf(0) | Self::TrailerLf, b'\n') => Self::AtTrailer,
                (Self::SizeLf(size), b'\n') => Self::Data(size),
                (Self::Data(_), b'\r') => Self::DataLf,
                (Self::DataLf, b'\n') => Self::Size(None),
                (Self::AtTrailer, b'\r') => Self::LastLf,
                (Self::InTrailer, b'\r') => Self::TrailerLf,
                (Self::AtTrailer | Self::InTrailer, _) => Self::InTrailer,
                (Self::LastLf, b'\n') => return Ok(Some(at)),
                _ => return Err(malformed()),
            };
        }
        Ok(None)
    }
}

fn with_digit(size: u64, digit: u8) -> io::Result<u64> {
    let digit = char::from(digit).to_digit(16).ok_or_else(malformed)?;
    size.checked_mul(16).and_then(|size| size.checked_add(digit.into())).ok_or_else(malformed)
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a malformed chunk")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads a body in steps. Returns the offset of its end.
    fn end(length: BodyLength, bytes: &[u8], step: usize) -> Result<Option<usize>, io::ErrorKind> {
        let mut scanner = BodyScanner::from(length);
        let mut before = 0;
        for part in bytes.chunks(step) {
            if let Some(end) = scanner.read(part).map_err(|error| error.kind())? {
                return Ok(Some(before + end));
            }
            before += part.len();
        }
        Ok(None)
    }

    #[test]
    fn bodies_end_at_the_same_byte_wherever_they_are_split() {
        let table: [(BodyLength, &str, Option<usize>); 8] = [
            (BodyLength::Known(4), "bodyGET", Some(4)),
            (BodyLength::Known(9), "body", None),
            (BodyLength::Chunked, "0\r\n\r\nGET", Some(5)),
            (BodyLength::Chunked, "4\r\nbody\r\n0\r\n\r\nGET", Some(14)),
            (BodyLength::Chunked, "00a\r\n0123456789\r\n1;x=\"y\"\r\n.\r\n0\r\nA: b\r\nC: d\r\n\r\n.", Some(46)),
            (BodyLength::Chunked, "4\r\n\r\n\r\n\r\n0\r\n\r\n", Some(14)),
            (BodyLength::Chunked, "4\r\nbody\r\n0\r\n", None),
            (BodyLength::Chunked, "ffffffffffffffff\r\nbody", None),
        ];
        for (length, bytes, expected) in table {
            for step in 1..=bytes.len() {
                assert_eq!(end(length, bytes.as_bytes(), step), Ok(expected), "{bytes:?} in steps of {step}");
            }
        }
    }

    #[test]
    fn chunks_that_others_read_differently_are_errors() {
        for bytes in [
            "\r\n",
            " 4\r\nbody",
            "4 \r\nbody",
            "4\t;x\r\n",
            "0x4\r\nbody",
            "+4\r\nbody",
            "-1\r\n",
            "4\nbody\r\n",
            "4;x\nbody\r\n",
            "4;x\r.\n",
            "4;x\0\r\nbody",
            "4;\x7f\r\nbody",
            "4\r\rbody",
            "4\r\nbody\n",
            "4\r\nbodyy\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\n\n",
            "0\r\n\r.",
            "10000000000000000\r\n",
            ";\r\n",
        ] {
            for step in 1..=bytes.len() {
                let found = end(BodyLength::Chunked, bytes.as_bytes(), step);
                assert_eq!(found, Err(io::ErrorKind::InvalidData), "{bytes:?}");
            }
        }
    }
}
