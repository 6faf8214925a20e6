//! The list of records in which state is written: each with kind, version, length and checksum.
//!
//! A record is `kind: u16, version: u16, length: u32` in little endian, the SHA-256 of these eight bytes and of the
//! content, and the content. The checksum detects a damaged image before its keys are used: a wrong key or number
//! would corrupt the stream of a client. It does not authenticate; the channel does.

use std::fmt;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::Serialize;
use serde::de::DeserializeOwned;
use zeroize::Zeroizing;

/// Limit on the bytes of all records of one batch of sessions.
pub const BATCH_MAX_BYTES: usize = 64 << 20;
/// Limit on the content of the record of one session.
pub const SESSION_MAX_BYTES: usize = 8 << 20;
/// Limit on the bytes of the state of the process, and on the content of each of its records.
pub const PROCESS_MAX_BYTES: usize = 256 << 20;
/// The bytes of a record before its content.
pub const HEADER_BYTES: usize = 8 + SHA256_OUTPUT_LEN;
/// Limit on the records of one list.
pub const RECORDS_MAX: usize = 4096;

/// The kind of a record that contains one session.
pub const SESSION: u16 = 1;

/// One record to be written.
pub struct Record {
    /// The part of the state that it contains.
    pub kind: u16,
    /// The version of its content.
    pub version: u16,
    /// The content. It may contain keys.
    pub content: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, version, content } = self;
        write!(f, "Record {{ kind: {kind}, version: {version}, length: {} }}", content.len())
    }
}

impl Record {
    /// Returns the bytes before the content.
    ///
    /// # Errors
    ///
    /// The content is longer than a length can express.
    pub fn header(&self) -> Result<[u8; HEADER_BYTES], RecordError> {
        let len = u32::try_from(self.content.len()).map_err(|_| RecordError::TooLong)?;
        let mut header = [0; HEADER_BYTES];
        let (fields, sum) = header.split_at_mut(8);
        let bytes = [self.kind.to_le_bytes(), self.version.to_le_bytes()].concat();
        fields.copy_from_slice(&[bytes.as_slice(), &len.to_le_bytes()].concat());
        sum.copy_from_slice(checksum(fields, &self.content).as_ref());
        Ok(header)
    }
}

/// One record that was read. Its checksum is right.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RecordRef<'a> {
    /// The part of the state that it contains.
    pub kind: u16,
    /// The version of its content.
    pub version: u16,
    /// The content. It may contain keys.
    pub content: &'a [u8],
}

impl fmt::Debug for RecordRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, version, content } = self;
        write!(f, "RecordRef {{ kind: {kind}, version: {version}, length: {} }}", content.len())
    }
}

/// Why a record cannot be read or written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordError {
    /// The list ends within a record.
    Truncated,
    /// The content is longer than the limit of its list.
    TooLong,
    /// The list has more records than its limit.
    TooMany,
    /// The content or the header has changed since it was written.
    Checksum,
    /// The content is not what its kind and version say.
    Content,
    /// Bytes follow the content.
    Trailing,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the state ends within a record",
            Self::TooLong => "a record is too long",
            Self::TooMany => "the state has too many records",
            Self::Checksum => "the checksum of a record is wrong",
            Self::Content => "the content of a record cannot be parsed",
            Self::Trailing => "bytes follow the content of a record",
        })
    }
}

impl std::error::Error for RecordError {}

/// Reads a list of records, in its order.
///
/// After [`RecordError::Checksum`] the reader continues with the next record. After any other error it ends.
pub struct Records<'a> {
    rest: &'a [u8],
    content_max: usize,
    left: usize,
}

impl<'a> Records<'a> {
    /// Reads `bytes`, whose records may have a content of `content_max` bytes.
    pub fn new(bytes: &'a [u8], content_max: usize) -> Self {
        Self { rest: bytes, content_max, left: RECORDS_MAX }
    }

    fn read(&mut self) -> Result<RecordRef<'a>, RecordError> {
        self.left = self.left.checked_sub(1).ok_or(RecordError::TooMany)?;
        let truncated = RecordError::Truncated;
        let (fields, rest) = self.rest.split_first_chunk::<8>().ok_or(truncated)?;
        let (sum, rest) = rest.split_first_chunk::<SHA256_OUTPUT_LEN>().ok_or(truncated)?;
        let [k0, k1, v0, v1, l0, l1, l2, l3] = *fields;
        let len = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).map_err(|_| RecordError::TooLong)?;
        if len > self.content_max {
            return Err(RecordError::TooLong);
        }
        let (content, rest) = rest.split_at_checked(len).ok_or(truncated)?;
        self.rest = rest;
        if checksum(fields, content).as_ref() != sum {
            return Err(RecordError::Checksum);
        }
        Ok(RecordRef { kind: u16::from_le_bytes([k0, k1]), version: u16::from_le_bytes([v0, v1]), content })
    }
}

impl fmt::Debug for Records<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Records").field("rest", &self.rest.len()).finish_non_exhaustive()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<RecordRef<'a>, RecordError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let record = self.read();
        if matches!(record, Err(error) if error != RecordError::Checksum) {
            self.rest = &[];
        }
        Some(record)
    }
}

/// Encodes a value as the content of a record. No copy of it stays in memory.
///
/// # Errors
///
/// The value is longer than `max` bytes, or its type has no encoding.
pub fn encode<T: Serialize + ?Sized>(value: &T, max: usize) -> Result<Zeroizing<Vec<u8>>, RecordError> {
    let size = postcard::ser_flavors::Size::default();
    let len = postcard::serialize_with_flavor(value, size).map_err(|_| RecordError::Content)?;
    if len > max {
        return Err(RecordError::TooLong);
    }
    // The length is known before, because a vector that grows would leave keys in the memory that it gives back.
    let mut content = Zeroizing::new(vec![0; len]);
    let written = postcard::to_slice(value, &mut content).map_err(|_| RecordError::Content)?.len();
    if written == len { Ok(content) } else { Err(RecordError::Content) }
}

/// Decodes the content of a record. The input bounds what is allocated.
///
/// # Errors
///
/// The content is not a value of this type, or bytes follow it.
pub fn decode<T: DeserializeOwned>(content: &[u8]) -> Result<T, RecordError> {
    match postcard::take_from_bytes(content) {
        Ok((value, [])) => Ok(value),
        Ok(_) => Err(RecordError::Trailing),
        Err(_) => Err(RecordError::Content),
    }
}

fn checksum(fields: &[u8], content: &[u8]) -> aws_lc_rs::digest::Digest {
    let mut hash = Context::new(&SHA256);
    hash.update(fields);
    hash.update(content);
    hash.finish()
}

#[cfg(test)]
mod tests;
