//! Sealed memory files: the only place outside a process in which its keys are written.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use rustix::io::{Errno, pread, pwrite};
use zeroize::Zeroizing;

use super::records::{Record, RecordError};

/// Neither end can change the file, so that it cannot change between the check and the use.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::WRITE).union(SealFlags::SEAL);

/// Why a memory file cannot be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemfdError {
    /// A system call failed.
    System(Errno),
    /// The file is not a memory file that is sealed against changes.
    NotSealed,
    /// The file does not have the length that was announced.
    Length,
    /// The records are longer than the limit.
    TooLong,
    /// A record cannot be written.
    Record(RecordError),
}

impl fmt::Display for MemfdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System(Errno::MFILE | Errno::NFILE) => f.write_str("no descriptor is left for the memory file"),
            Self::System(error) => write!(f, "the memory file: {error}"),
            Self::NotSealed => f.write_str("the memory file is not sealed"),
            Self::Length => f.write_str("the memory file does not have the announced length"),
            Self::TooLong => f.write_str("the state is too long"),
            Self::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for MemfdError {}

impl From<Errno> for MemfdError {
    fn from(error: Errno) -> Self {
        Self::System(error)
    }
}

/// Writes records to a new memory file of at most `max` bytes, and seals it. Returns its length as well.
///
/// # Errors
///
/// The records are longer than `max`, or the system has no descriptor or memory.
pub fn write_sealed<'a>(
    records: impl IntoIterator<Item = &'a Record>,
    max: usize,
) -> Result<(OwnedFd, u64), MemfdError> {
    let file = memfd_create("tollgate-handover", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut len = 0;
    for record in records {
        let header = record.header().map_err(MemfdError::Record)?;
        for bytes in [header.as_slice(), &record.content] {
            if bytes.len() > max.saturating_sub(usize::try_from(len).unwrap_or(usize::MAX)) {
                return Err(MemfdError::TooLong);
            }
            len = write_all(&file, bytes, len)?;
        }
    }
    fcntl_add_seals(&file, SEALS)?;
    Ok((file, len))
}

/// Reads a sealed memory file of `len` bytes.
///
/// # Errors
///
/// `len` is more than `max`, the file is not sealed or has another length, or the system cannot read it.
pub fn read_sealed(file: impl AsFd, len: u64, max: usize) -> Result<Zeroizing<Vec<u8>>, MemfdError> {
    let size = usize::try_from(len).ok().filter(|size| *size <= max).ok_or(MemfdError::TooLong)?;
    // Other kinds of files have no seals.
    let seals = fcntl_get_seals(&file).map_err(|_| MemfdError::NotSealed)?;
    if !seals.contains(SEALS) {
        return Err(MemfdError::NotSealed);
    }
    if u64::try_from(fstat(&file)?.st_size) != Ok(len) {
        return Err(MemfdError::Length);
    }
    let mut bytes = Zeroizing::new(vec![0; size]);
    let mut rest = bytes.as_mut_slice();
    let mut at = 0;
    while !rest.is_empty() {
        // The position of the descriptor is shared with the writer, so it is not used.
        match pread(&file, &mut *rest, at) {
            Ok(0) => return Err(MemfdError::Length),
            Ok(count) => {
                rest = rest.split_at_mut_checked(count).ok_or(MemfdError::Length)?.1;
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(bytes)
}

/// Writes all bytes at a position. Returns the position after them.
fn write_all(file: &OwnedFd, mut bytes: &[u8], mut at: u64) -> Result<u64, Errno> {
    while !bytes.is_empty() {
        match pwrite(file, bytes, at) {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                bytes = bytes.get(count..).unwrap_or_default();
                at += count as u64;
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests;
