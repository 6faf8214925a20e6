//! The text of the journal of revocations: one line for each change, with a checksum.
//!
//! A line is written as a whole after those before it. So a line that is cut can only be the last one, and was not
//! stored: its change was not confirmed. A line whose checksum does not match was damaged later, and costs only its own
//! change.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use super::entry::{Revocation, RevocationId};
use super::written::{LATEST, WrittenRevocation};

/// The first line, with its end.
pub const HEADER: &str = "tollgate revocations 1\n";
/// The start of the first line of every version.
const HEADER_START: &[u8] = b"tollgate revocations ";
/// The bytes of the SHA-256 of a change that are its checksum.
const SUM_BYTES: usize = 8;

/// A change of the revocations of the API.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A revocation was added.
    Add(Revocation),
    /// A revocation was removed.
    Remove(RevocationId),
}

/// The content of a journal.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Replay {
    /// The changes, in their order.
    pub changes: Vec<Change>,
    /// The length of the whole lines.
    pub whole_bytes: usize,
    /// The numbers of the damaged lines, counted from 1.
    pub damaged: Vec<usize>,
}

/// The file is a journal of another version of Tollgate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OtherVersion;

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Written {
    Add(WrittenRevocation),
    Remove(String),
}

impl Change {
    /// Returns the line of the change, with its end.
    pub fn line(&self) -> String {
        let written = match self {
            Self::Add(revocation) => Written::Add(WrittenRevocation::of(revocation)),
            Self::Remove(id) => Written::Remove(id.to_string()),
        };
        // Strings and finite numbers always have a form in JSON, which contains no line feed.
        let json = serde_json::to_string(&written).unwrap_or_default();
        format!("{} {json}\n", checksum(json.as_bytes()))
    }

    /// Reads a line without its end; `None` if it is damaged, or is no change.
    pub fn parse(line: &[u8]) -> Option<Self> {
        let (sum, json) = line.split_at_checked(SUM_BYTES.saturating_mul(2))?;
        let json = json.strip_prefix(b" ")?;
        if checksum(json).as_bytes() != sum {
            return None;
        }
        match serde_json::from_slice(json).ok()? {
            Written::Add(written) => written.read(LATEST, LATEST).ok().map(Self::Add),
            Written::Remove(id) => RevocationId::parse(&id).map(Self::Remove),
        }
    }
}

fn checksum(bytes: &[u8]) -> String {
    let mut sum = String::new();
    for byte in digest(&SHA256, bytes).as_ref().iter().take(SUM_BYTES) {
        // A string accepts everything.
        let _ = write!(sum, "{byte:02x}");
    }
    sum
}

/// Reads a journal. The last line is left out if it has no end.
///
/// # Errors
/// If another version of Tollgate wrote it.
pub fn replay(bytes: &[u8]) -> Result<Replay, OtherVersion> {
    let mut replay = Replay::default();
    for (number, line) in (1..).zip(bytes.split_inclusive(|byte| *byte == b'\n')) {
        let Some(content) = line.strip_suffix(b"\n") else { break };
        replay.whole_bytes = replay.whole_bytes.saturating_add(line.len());
        if number == 1 {
            if line != HEADER.as_bytes() && line.starts_with(HEADER_START) {
                return Err(OtherVersion);
            }
            if line == HEADER.as_bytes() {
                continue;
            }
        }
        match Change::parse(content) {
            Some(change) => replay.changes.push(change),
            None => replay.damaged.push(number),
        }
    }
    Ok(replay)
}
