//! The messages between the old and the new process: their encoding, versions and limits.
//!
//! A message is one packet: `kind: u16, version: u16, length: u32` in little endian, and the content in the encoding of
//! postcard. [`Hello`] and [`Message::Failed`] keep their format in all versions, so that two programs of any age can
//! say why they do not work together.

use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::protocol::{Ack, BATCH_MAX, Cancel, Cancelled, Commit};
use super::records::{self, BATCH_MAX_BYTES, PROCESS_MAX_BYTES, RecordError};
use crate::relay::image::VERSIONS;

/// The versions of the state that this program reads and writes: the current and the previous one.
pub const SUPPORTED: RangeInclusive<u16> = VERSIONS;
/// The version of the messages themselves.
pub const MESSAGE_VERSION: u16 = 1;
/// Limit on the bytes of one message.
pub const MESSAGE_MAX_BYTES: usize = 32 << 10;
/// Limit on the descriptors of one message, which the kernel sets (`SCM_MAX_FD`).
pub const DESCRIPTORS_MAX: usize = 253;
/// Limit on the descriptors of one session: the client's socket and the upstream's.
pub const SESSION_DESCRIPTORS_MAX: usize = 2;
/// Limit on the bytes of a text.
pub const TEXT_MAX_BYTES: usize = 8 << 10;

const ENVELOPE_BYTES: usize = 8;

/// The versions that the new process can read, after it has checked its configuration.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The oldest version of the state that it reads.
    pub min: u16,
    /// The newest version of the state that it reads.
    pub max: u16,
    /// The version of the program, for the log.
    pub build: String,
}

/// Records of the state of the process. The first descriptor is a sealed memory file with the records. In
/// [`Message::State`], one of them has the meaning of the other descriptors.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// The version of the state, which the old process has chosen.
    pub version: u16,
    /// The bytes in the memory file.
    pub len: u64,
}

/// A session of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number of its descriptors, 1 or 2: the client's socket, then the upstream's.
    pub descriptors: u8,
    /// The time of its export, in nanoseconds of `CLOCK_MONOTONIC`, which is the same in both processes.
    pub exported_at: u64,
}

/// A batch of sessions. The first descriptor is a sealed memory file with a record for each session, in the same
/// order. The descriptors of the sessions follow.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prepare {
    /// The number of the batch, from 0.
    pub batch: u32,
    /// The bytes in the memory file.
    pub len: u64,
    /// The sessions.
    pub sessions: Vec<Entry>,
}

/// The end of the move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The number of sessions that the new process continues.
    pub moved: u64,
    /// The number of sessions that drain in the old process.
    pub drained: u64,
    /// The number of sessions that were lost.
    pub failed: u64,
    /// The longest pause of a session, in nanoseconds.
    pub longest_pause: u64,
}

/// A message.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// From the new process, first.
    Hello(Hello),
    /// From the old process, after [`Message::Hello`].
    State(State),
    /// From the new process: it has bound everything and can take over.
    Ready,
    /// From either process: it does not continue, for this reason.
    Failed(String),
    /// From the old process: it does not accept any more.
    TakeOver,
    /// From the old process.
    Prepare(Prepare),
    /// From the new process, after [`Message::Prepare`].
    Ack(Ack),
    /// From the old process, after [`Message::Ack`].
    Commit(Commit),
    /// From the old process, last.
    End(End),
    /// From the old process, after [`Message::Prepare`]: it does not wait for [`Message::Ack`] any more.
    Cancel(Cancel),
    /// From the new process, after [`Message::Cancel`] or because it does not wait for [`Message::Commit`] any more.
    Cancelled(Cancelled),
    /// From the old process, before [`Message::TakeOver`] and before [`Message::End`]: its counters until now.
    Metrics(State),
    /// From the new process, after [`Message::End`]: all revocations, for the sessions that drain in the old process.
    Revocations(State),
}

/// Why a packet is not a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The length in the packet is not its length.
    Length,
    /// The packet is longer than [`MESSAGE_MAX_BYTES`].
    TooLong,
    /// This kind is unknown.
    Kind(u16),
    /// This version of the messages is unknown.
    Version(u16),
    /// The content cannot be parsed.
    Content(RecordError),
    /// A number or a text is outside its limits.
    Limit(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length => f.write_str("the length of a message is wrong"),
            Self::TooLong => f.write_str("a message is too long"),
            Self::Kind(kind) => write!(f, "messages of kind {kind} are unknown"),
            Self::Version(version) => {
                write!(f, "version {version} of the messages is unknown; this program has version {MESSAGE_VERSION}")
            }
            Self::Content(error) => write!(f, "a message cannot be parsed: {error}"),
            Self::Limit(what) => write!(f, "a message exceeds the limit on {what}"),
        }
    }
}

impl std::error::Error for WireError {}

impl Message {
    /// Returns the name of the message, for errors.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello(_) => "Hello",
            Self::State(_) => "State",
            Self::Ready => "Ready",
            Self::Failed(_) => "Failed",
            Self::TakeOver => "TakeOver",
            Self::Prepare(_) => "Prepare",
            Self::Ack(_) => "Ack",
            Self::Commit(_) => "Commit",
            Self::End(_) => "End",
            Self::Cancel(_) => "Cancel",
            Self::Cancelled(_) => "Cancelled",
            Self::Metrics(_) => "Metrics",
            Self::Revocations(_) => "Revocations",
        }
    }

    /// Makes a [`Message::Failed`] of a text, which is cut at [`TEXT_MAX_BYTES`].
    pub fn failed(text: &str) -> Self {
        Self::Failed(text.get(..text.floor_char_boundary(TEXT_MAX_BYTES)).unwrap_or_default().to_owned())
    }

    /// Encodes the message as a packet.
    ///
    /// # Errors
    ///
    /// The message exceeds a limit.
    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        self.check()?;
        let (kind, content) = match self {
            Self::Hello(hello) => (1, content(hello)?),
            Self::State(state) => (2, content(state)?),
            Self::Ready => (3, Vec::new()),
            Self::Failed(text) => (4, content(text)?),
            Self::TakeOver => (5, Vec::new()),
            Self::Prepare(prepare) => (6, content(prepare)?),
            Self::Ack(ack) => (7, content(ack)?),
            Self::Commit(commit) => (8, content(commit)?),
            Self::End(end) => (9, content(end)?),
            Self::Cancel(cancel) => (10, content(cancel)?),
            Self::Cancelled(cancelled) => (11, content(cancelled)?),
            Self::Metrics(state) => (12, content(state)?),
            Self::Revocations(state) => (13, content(state)?),
        };
        let kind: u16 = kind;
        let len = u32::try_from(content.len()).map_err(|_| WireError::TooLong)?;
        let mut packet = Vec::with_capacity(ENVELOPE_BYTES + content.len());
        packet.extend_from_slice(&kind.to_le_bytes());
        packet.extend_from_slice(&MESSAGE_VERSION.to_le_bytes());
        packet.extend_from_slice(&len.to_le_bytes());
        packet.extend_from_slice(&content);
        Ok(packet)
    }

    /// Decodes a packet.
    ///
    /// # Errors
    ///
    /// The packet is not a message of this version, or exceeds a limit.
    pub fn decode(packet: &[u8]) -> Result<Self, WireError> {
        if packet.len() > MESSAGE_MAX_BYTES {
            return Err(WireError::TooLong);
        }
        let (envelope, content) = packet.split_first_chunk::<ENVELOPE_BYTES>().ok_or(WireError::Length)?;
        let [k0, k1, v0, v1, l0, l1, l2, l3] = *envelope;
        if usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])) != Ok(content.len()) {
            return Err(WireError::Length);
        }
        let version = u16::from_le_bytes([v0, v1]);
        if version != MESSAGE_VERSION {
            return Err(WireError::Version(version));
        }
        let message = match u16::from_le_bytes([k0, k1]) {
            1 => Self::Hello(parse(content)?),
            2 => Self::State(parse(content)?),
            3 => parse(content).map(|()| Self::Ready)?,
            4 => Self::Failed(parse(content)?),
            5 => parse(content).map(|()| Self::TakeOver)?,
            6 => Self::Prepare(parse(content)?),
            7 => Self::Ack(parse(content)?),
            8 => Self::Commit(parse(content)?),
            9 => Self::End(parse(content)?),
            10 => Self::Cancel(parse(content)?),
            11 => Self::Cancelled(parse(content)?),
            12 => Self::Metrics(parse(content)?),
            13 => Self::Revocations(parse(content)?),
            kind => return Err(WireError::Kind(kind)),
        };
        message.check()?;
        Ok(message)
    }

    /// Checks the limits that the types do not express.
    fn check(&self) -> Result<(), WireError> {
        let limit = |fits: bool, what| if fits { Ok(()) } else { Err(WireError::Limit(what)) };
        match self {
            Self::Hello(hello) => {
                limit(hello.min <= hello.max, "versions")?;
                limit(hello.build.len() <= TEXT_MAX_BYTES, "text")
            }
            Self::State(state) | Self::Metrics(state) | Self::Revocations(state) => {
                limit(fits(state.len, PROCESS_MAX_BYTES), "the state of the process")
            }
            Self::Failed(text) => limit(text.len() <= TEXT_MAX_BYTES, "text"),
            Self::Prepare(prepare) => {
                limit((1..=BATCH_MAX).contains(&prepare.sessions.len()), "sessions of a batch")?;
                limit(fits(prepare.len, BATCH_MAX_BYTES), "the bytes of a batch")?;
                let mut counts = prepare.sessions.iter().map(|entry| usize::from(entry.descriptors));
                limit(counts.all(|count| (1..=SESSION_DESCRIPTORS_MAX).contains(&count)), "descriptors of a session")
            }
            Self::Ack(ack) => limit(ack.refused.len() <= BATCH_MAX, "sessions of a batch"),
            Self::Ready | Self::TakeOver | Self::Commit(_) | Self::End(_) | Self::Cancel(_) | Self::Cancelled(_) => {
                Ok(())
            }
        }
    }
}

/// Returns the newest version that both ranges contain.
pub fn newest_common(ours: &RangeInclusive<u16>, theirs: &RangeInclusive<u16>) -> Option<u16> {
    let newest = *ours.end().min(theirs.end());
    (ours.contains(&newest) && theirs.contains(&newest)).then_some(newest)
}

fn fits(len: u64, max: usize) -> bool {
    usize::try_from(len).is_ok_and(|len| len <= max)
}

fn content<T: Serialize>(value: &T) -> Result<Vec<u8>, WireError> {
    let max = MESSAGE_MAX_BYTES - ENVELOPE_BYTES;
    records::encode(value, max).map(|bytes| bytes.to_vec()).map_err(|error| match error {
        RecordError::TooLong => WireError::TooLong,
        error => WireError::Content(error),
    })
}

fn parse<T: serde::de::DeserializeOwned>(content: &[u8]) -> Result<T, WireError> {
    records::decode(content).map_err(WireError::Content)
}

#[cfg(test)]
mod tests;
