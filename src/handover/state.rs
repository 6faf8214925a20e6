//! The state of the process besides its sessions, as bytes: a list of records, each with its kind and its version.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::server::moved::MovedState;

/// The maximum size of the state, in bytes.
pub const STATE_MAX_BYTES: usize = 256 << 20;
/// The maximum number of records.
pub const RECORDS_MAX: usize = 64;

/// The kinds of records, with the version that this process writes. It reads no other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// [`MovedState::generation`].
    Generation = 1,
    /// [`MovedState::identities`].
    Identities = 2,
    /// [`MovedState::cookies`].
    Cookies = 3,
    /// [`MovedState::tickets`].
    Tickets = 4,
    /// [`MovedState::key_sets`].
    KeySets = 5,
    /// [`MovedState::found`].
    Found = 6,
    /// [`MovedState::pools`].
    Pools = 7,
    /// [`MovedState::metrics`].
    Metrics = 8,
    /// [`MovedState::log_level`].
    LogLevel = 9,
    /// The quotas and slots in use.
    Counters = 16,
    /// The revocations.
    Revocations = 17,
    /// The logout tokens that were received.
    Logouts = 18,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Generation,
        Self::Identities,
        Self::Cookies,
        Self::Tickets,
        Self::KeySets,
        Self::Found,
        Self::Pools,
        Self::Metrics,
        Self::LogLevel,
        Self::Counters,
        Self::Revocations,
        Self::Logouts,
    ];

    /// Returns the version of its records.
    pub fn version(self) -> u16 {
        1
    }

    /// Returns its name in errors.
    pub fn label(self) -> &'static str {
        match self {
            Self::Generation => "config generation",
            Self::Identities => "log identities",
            Self::Cookies => "sticky cookies",
            Self::Tickets => "ticket keys",
            Self::KeySets => "key sets",
            Self::Found => "discovered servers",
            Self::Pools => "pools",
            Self::Metrics => "metrics",
            Self::LogLevel => "log level",
            Self::Counters => "counters",
            Self::Revocations => "revocations",
            Self::Logouts => "logouts",
        }
    }
}

/// Why the state of another process cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// It has more than [`STATE_MAX_BYTES`].
    TooLarge,
    /// It is not a list of at most [`RECORDS_MAX`] records.
    Malformed,
    /// A part has another version than this process reads.
    Version(&'static str, u16),
    /// A part is malformed.
    Part(&'static str),
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => write!(f, "the state of the process has more than {STATE_MAX_BYTES} bytes"),
            Self::Malformed => f.write_str("the state of the process is malformed"),
            Self::Version(part, version) => {
                write!(f, "the part `{part}` has the version {version}, which is not known")
            }
            Self::Part(part) => write!(f, "the part `{part}` is malformed"),
        }
    }
}

impl std::error::Error for StateError {}

#[derive(Clone, Serialize, Deserialize)]
struct Record {
    kind: u16,
    version: u16,
    bytes: Vec<u8>,
}

impl Drop for Record {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// The state of the process as records. `Debug` omits them, and their memory is overwritten when they are dropped.
#[derive(Default)]
pub struct ProcessState(Vec<Record>);

impl fmt::Debug for ProcessState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|record| record.kind)).finish()
    }
}

impl ProcessState {
    /// Adds a part.
    ///
    /// # Errors
    /// If it cannot be written, or there are [`RECORDS_MAX`] records.
    pub fn put<T: Serialize>(&mut self, kind: Kind, part: &T) -> Result<(), StateError> {
        if self.0.len() >= RECORDS_MAX {
            return Err(StateError::Malformed);
        }
        let bytes = postcard::to_allocvec(part).map_err(|_| StateError::Part(kind.label()))?;
        self.0.push(Record { kind: kind as u16, version: kind.version(), bytes });
        Ok(())
    }

    /// Returns a part; `None` if the other process did not send it.
    ///
    /// # Errors
    /// If it has another version, or is malformed.
    pub fn get<T: DeserializeOwned>(&self, kind: Kind) -> Result<Option<T>, StateError> {
        let Some(record) = self.0.iter().find(|record| record.kind == kind as u16) else { return Ok(None) };
        if record.version != kind.version() {
            return Err(StateError::Version(kind.label(), record.version));
        }
        match postcard::take_from_bytes(&record.bytes) {
            Ok((part, [])) => Ok(Some(part)),
            _ => Err(StateError::Part(kind.label())),
        }
    }

    /// Returns the records as bytes. They contain secrets.
    ///
    /// # Errors
    /// If they are too large.
    pub fn encode(&self) -> Result<Zeroizing<Vec<u8>>, StateError> {
        let bytes = postcard::to_allocvec(&self.0).map_err(|_| StateError::Malformed)?;
        let bytes = Zeroizing::new(bytes);
        if bytes.len() > STATE_MAX_BYTES { Err(StateError::TooLarge) } else { Ok(bytes) }
    }

    /// Reads the records. Those of unknown kinds are skipped: a newer process may send more.
    ///
    /// # Errors
    /// If the bytes are too many or malformed, or a kind is there twice.
    pub fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        if bytes.len() > STATE_MAX_BYTES {
            return Err(StateError::TooLarge);
        }
        // No allocation exceeds the input: the reader checks each length against it.
        let Ok((mut records, [])) = postcard::take_from_bytes::<Vec<Record>>(bytes) else {
            return Err(StateError::Malformed);
        };
        if records.len() > RECORDS_MAX {
            return Err(StateError::Malformed);
        }
        records.retain(|record| {
            let is_known = Kind::ALL.iter().any(|kind| *kind as u16 == record.kind);
            if !is_known {
                tracing::debug!(kind = record.kind, "a part of the state that this version does not know is skipped");
            }
            is_known
        });
        let mut kinds: Vec<u16> = records.iter().map(|record| record.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        if kinds.len() < records.len() { Err(StateError::Malformed) } else { Ok(Self(records)) }
    }

    /// Adds the parts that [`MovedState`] has.
    ///
    /// # Errors
    /// As [`ProcessState::put`].
    pub fn put_moved(&mut self, moved: &MovedState) -> Result<(), StateError> {
        let MovedState {
            generation,
            identities,
            cookies,
            tickets,
            key_sets,
            found,
            pools,
            metrics,
            log_level,
            counters,
            revocations,
            logouts,
        } = moved;
        self.put(Kind::Generation, generation)?;
        self.put(Kind::Identities, identities)?;
        self.put(Kind::Cookies, cookies)?;
        self.put(Kind::Tickets, tickets)?;
        self.put(Kind::KeySets, key_sets)?;
        self.put(Kind::Found, found)?;
        self.put(Kind::Pools, pools)?;
        self.put(Kind::Metrics, metrics)?;
        self.put(Kind::LogLevel, log_level)?;
        self.put(Kind::Counters, counters)?;
        self.put(Kind::Revocations, revocations)?;
        self.put(Kind::Logouts, logouts)
    }

    /// Returns the parts that [`MovedState`] has.
    ///
    /// # Errors
    /// As [`ProcessState::get`].
    pub fn moved(&self) -> Result<MovedState, StateError> {
        Ok(MovedState {
            generation: self.get(Kind::Generation)?.flatten(),
            identities: self.get(Kind::Identities)?.flatten(),
            cookies: self.get(Kind::Cookies)?.flatten(),
            tickets: self.get(Kind::Tickets)?.unwrap_or_default(),
            key_sets: self.get(Kind::KeySets)?.unwrap_or_default(),
            found: self.get(Kind::Found)?.unwrap_or_default(),
            pools: self.get(Kind::Pools)?.unwrap_or_default(),
            metrics: self.get(Kind::Metrics)?.flatten(),
            log_level: self.get(Kind::LogLevel)?.flatten(),
            counters: self.get(Kind::Counters)?.flatten(),
            revocations: self.get(Kind::Revocations)?.flatten(),
            logouts: self.get(Kind::Logouts)?.flatten(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> ProcessState {
        let moved = MovedState { generation: Some(7), log_level: Some("DEBUG".to_owned()), ..MovedState::default() };
        let mut state = ProcessState::default();
        state.put_moved(&moved).unwrap();
        state
    }

    #[test]
    fn the_parts_arrive_as_they_were_sent() {
        let bytes = state().encode().unwrap();
        let moved = ProcessState::decode(&bytes).unwrap().moved().unwrap();
        assert_eq!((moved.generation, moved.log_level.as_deref()), (Some(7), Some("DEBUG")));
        // A process that sends no parts is taken for one without state.
        assert!(ProcessState::default().moved().unwrap().generation.is_none());
    }

    #[test]
    fn kinds_that_are_not_known_are_skipped() {
        let mut sent = state();
        sent.0.push(Record { kind: 999, version: 3, bytes: vec![1, 2, 3] });
        let received = ProcessState::decode(&sent.encode().unwrap()).unwrap();
        assert_eq!(received.0.len() + 1, sent.0.len());
        assert_eq!(received.moved().unwrap().generation, Some(7));
    }

    #[test]
    fn an_error_names_the_part() {
        let with = |change: fn(&mut Record)| {
            let mut state = state();
            let record = state.0.iter_mut().find(|record| record.kind == Kind::Tickets as u16).unwrap();
            change(record);
            ProcessState::decode(&state.encode().unwrap()).unwrap().moved().unwrap_err().to_string()
        };
        assert_eq!(with(|record| record.bytes = vec![255]), "the part `ticket keys` is malformed");
        assert_eq!(with(|record| record.bytes.push(0)), "the part `ticket keys` is malformed");
        let other = "the part `ticket keys` has the version 9, which is not known";
        assert_eq!(with(|record| record.version = 9), other);
    }

    #[test]
    fn every_cut_or_doubled_state_is_an_error() {
        let bytes = state().encode().unwrap();
        for length in 0..bytes.len() {
            assert!(ProcessState::decode(&bytes[..length]).is_err(), "{length}");
        }
        let mut doubled = state();
        doubled.put(Kind::Generation, &Some(8_u64)).unwrap();
        assert_eq!(ProcessState::decode(&doubled.encode().unwrap()).unwrap_err(), StateError::Malformed);
        // A length that the input does not have.
        assert_eq!(ProcessState::decode(&[0xff, 0xff, 0xff, 0xff, 0x0f]).unwrap_err(), StateError::Malformed);
        let mut many = ProcessState::default();
        let puts: Vec<_> = (0..=RECORDS_MAX).map(|_| many.put(Kind::Generation, &1_u64).is_ok()).collect();
        assert_eq!(puts.iter().filter(|put| **put).count(), RECORDS_MAX);
    }
}
