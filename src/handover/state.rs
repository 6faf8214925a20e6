//! The state of the process that moves beside its sessions, as records: the sockets, and one record for each part.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tracing::Level;

use super::records::{self, PROCESS_MAX_BYTES, Record, RecordError, Records};
use crate::front::gateway::Gateway;
use crate::policy::revocation::state::RevocationsState;
use crate::runtime::clock;
use crate::server::control::Control;
use crate::server::gauges::gauges;
use crate::server::moved::MovedState;
use crate::server::passed::SocketDescription;
use crate::telemetry::metrics::MovedMetrics;

/// The version of each part that this program writes and reads. A part of another version is left out, and begins anew:
/// a newer program must not change the version of [`Kind::Sockets`] without need.
const PART_VERSION: u16 = 1;

/// The kinds of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// [`SocketsState`].
    Sockets = 2,
    /// [`MovedState::generation`].
    Generation = 3,
    /// [`MovedState::identities`].
    Identities = 4,
    /// [`MovedState::cookies`].
    Cookies = 5,
    /// [`MovedState::tickets`].
    Tickets = 6,
    /// [`MovedState::key_sets`].
    KeySets = 7,
    /// [`MovedState::found`].
    Found = 8,
    /// [`MovedState::pools`].
    Pools = 9,
    /// [`MovedState::metrics`].
    Metrics = 10,
    /// [`MovedState::log_level`].
    LogLevel = 11,
    /// [`MovedState::counters`].
    Counters = 12,
    /// [`MovedState::revocations`].
    Revocations = 13,
    /// [`MovedState::logouts`].
    Logouts = 14,
}

impl Kind {
    /// Returns its name in errors.
    fn label(self) -> &'static str {
        match self {
            Self::Sockets => "sockets",
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

/// The meaning of the descriptors that follow the state.
#[derive(Debug, Serialize, Deserialize)]
pub struct SocketsState {
    /// The listening sockets, in order.
    pub sockets: Vec<SocketDescription>,
    /// Whether the locked file in `state_dir` follows them.
    pub has_journal_lock: bool,
    /// The version of the program, for the log.
    pub build: String,
}

/// The state of another process.
#[derive(Debug)]
pub struct ProcessState {
    /// The meaning of its descriptors.
    pub sockets: SocketsState,
    /// Its parts.
    pub moved: MovedState,
}

/// Why the state of a process cannot be written or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StateError {
    /// It is not a list of records.
    Records(RecordError),
    /// A part is too long or malformed.
    Part(&'static str, RecordError),
    /// The sockets are missing.
    NoSockets,
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Records(error) => write!(f, "the state of the process: {error}"),
            Self::Part(part, error) => write!(f, "the part `{part}` of the state of the process: {error}"),
            Self::NoSockets => f.write_str("the state of the process has no sockets"),
        }
    }
}

impl std::error::Error for StateError {}

/// Returns the state of this process. `level` is the level of the log in the configuration.
///
/// # Errors
/// If a part is too long.
pub fn export(control: &Control, sockets: &SocketsState, level: Level) -> Result<Vec<Record>, StateError> {
    write(sockets, &MovedState::export(control.gateway(), level))
}

/// Returns the counters of this process.
///
/// # Errors
/// If they are too long.
pub fn export_metrics(control: &Control) -> Result<Vec<Record>, StateError> {
    let gateway = control.gateway();
    Ok(vec![part(Kind::Metrics, &Some(gateway.process.metrics.export(&gauges(gateway))))?])
}

/// Continues the counters of another process in this one, in place of those that it has sent before.
///
/// # Errors
/// If they are malformed.
pub fn import_metrics(bytes: &[u8], control: &Control) -> Result<(), StateError> {
    if let Some(moved) = parts(bytes)?.get::<Option<MovedMetrics>>(Kind::Metrics)?.flatten() {
        // The series that are left out were logged with the first ones.
        let _left_out = control.gateway().process.metrics.import(moved);
    }
    Ok(())
}

/// Returns all revocations of this process, for one that drains.
///
/// # Errors
/// If they are too long.
pub fn export_revocations(gateway: &Gateway) -> Result<Vec<Record>, StateError> {
    let all = gateway.counters.revocations().export_all(clock::both().unix);
    Ok(vec![part(Kind::Revocations, &Some(all))?])
}

/// Reads what [`export_revocations`] returned in another process. `None` if it is of another version.
///
/// # Errors
/// If it is malformed.
pub fn read_revocations(bytes: &[u8]) -> Result<Option<RevocationsState>, StateError> {
    Ok(parts(bytes)?.get::<Option<RevocationsState>>(Kind::Revocations)?.flatten())
}

fn write(sockets: &SocketsState, moved: &MovedState) -> Result<Vec<Record>, StateError> {
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
    Ok(vec![
        part(Kind::Sockets, sockets)?,
        part(Kind::Generation, generation)?,
        part(Kind::Identities, identities)?,
        part(Kind::Cookies, cookies)?,
        part(Kind::Tickets, tickets)?,
        part(Kind::KeySets, key_sets)?,
        part(Kind::Found, found)?,
        part(Kind::Pools, pools)?,
        part(Kind::Metrics, metrics)?,
        part(Kind::LogLevel, log_level)?,
        part(Kind::Counters, counters)?,
        part(Kind::Revocations, revocations)?,
        part(Kind::Logouts, logouts)?,
    ])
}

fn part(kind: Kind, value: &impl Serialize) -> Result<Record, StateError> {
    let content = records::encode(value, PROCESS_MAX_BYTES).map_err(|error| StateError::Part(kind.label(), error))?;
    Ok(Record { kind: kind as u16, version: PART_VERSION, content })
}

/// Reads the state of another process. Parts of unknown kinds or versions are left out: another program may have more.
///
/// # Errors
/// If it is not a list of records, a part is malformed, or the sockets are missing.
pub fn read(bytes: &[u8]) -> Result<ProcessState, StateError> {
    let parts = parts(bytes)?;
    Ok(ProcessState {
        sockets: parts.get(Kind::Sockets)?.ok_or(StateError::NoSockets)?,
        moved: MovedState {
            generation: parts.get(Kind::Generation)?.flatten(),
            identities: parts.get(Kind::Identities)?.flatten(),
            cookies: parts.get(Kind::Cookies)?.flatten(),
            tickets: parts.get(Kind::Tickets)?.unwrap_or_default(),
            key_sets: parts.get(Kind::KeySets)?.unwrap_or_default(),
            found: parts.get(Kind::Found)?.unwrap_or_default(),
            pools: parts.get(Kind::Pools)?.unwrap_or_default(),
            metrics: parts.get(Kind::Metrics)?.flatten(),
            log_level: parts.get(Kind::LogLevel)?.flatten(),
            counters: parts.get(Kind::Counters)?.flatten(),
            revocations: parts.get(Kind::Revocations)?.flatten(),
            logouts: parts.get(Kind::Logouts)?.flatten(),
        },
    })
}

fn parts(bytes: &[u8]) -> Result<Parts<'_>, StateError> {
    let mut parts = Vec::new();
    for record in Records::new(bytes, PROCESS_MAX_BYTES) {
        let record = record.map_err(StateError::Records)?;
        if record.version == PART_VERSION {
            parts.push((record.kind, record.content));
        } else {
            tracing::warn!(kind = record.kind, version = record.version, "a part of the state is of another version");
        }
    }
    Ok(Parts(parts))
}

/// The kinds and the contents of records.
struct Parts<'a>(Vec<(u16, &'a [u8])>);

impl Parts<'_> {
    /// Returns the first part of a kind; `None` if the other process did not send it.
    fn get<T: DeserializeOwned>(&self, kind: Kind) -> Result<Option<T>, StateError> {
        let Some((_, content)) = self.0.iter().find(|(found, _)| *found == kind as u16) else { return Ok(None) };
        records::decode(content).map(Some).map_err(|error| StateError::Part(kind.label(), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sockets() -> SocketsState {
        SocketsState { sockets: Vec::new(), has_journal_lock: true, build: "0.1.0".to_owned() }
    }

    fn state() -> Vec<Record> {
        let moved = MovedState { generation: Some(7), log_level: Some("DEBUG".to_owned()), ..MovedState::default() };
        write(&sockets(), &moved).unwrap()
    }

    fn bytes(records: &[Record]) -> Vec<u8> {
        let bytes = records.iter().flat_map(|record| [&record.header().unwrap()[..], &record.content].concat());
        bytes.collect()
    }

    #[test]
    fn the_parts_arrive_as_they_were_sent() {
        let ProcessState { sockets, moved } = read(&bytes(&state())).unwrap();
        assert_eq!((moved.generation, moved.log_level.as_deref()), (Some(7), Some("DEBUG")));
        assert_eq!((sockets.has_journal_lock, sockets.build.as_str()), (true, "0.1.0"));
    }

    #[test]
    fn unknown_kinds_and_versions_are_left_out() {
        let mut records = state();
        records.push(Record { kind: 999, version: PART_VERSION, content: vec![1, 2, 3].into() });
        records.iter_mut().find(|record| record.kind == Kind::LogLevel as u16).unwrap().version = 9;
        let moved = read(&bytes(&records)).unwrap().moved;
        assert_eq!((moved.generation, moved.log_level), (Some(7), None));
        // A process that sends no parts is taken for one without state; it must send its sockets.
        assert!(read(&bytes(&records[..1])).unwrap().moved.generation.is_none());
        assert_eq!(read(&bytes(&records[1..])).unwrap_err(), StateError::NoSockets);
    }

    #[test]
    fn an_error_names_the_part() {
        let mut records = state();
        let tickets = records.iter_mut().find(|record| record.kind == Kind::Tickets as u16).unwrap();
        tickets.content = vec![255].into();
        let error = read(&bytes(&records)).unwrap_err();
        assert_eq!(error, StateError::Part("ticket keys", RecordError::Content));
    }

    #[test]
    fn every_cut_state_is_an_error_or_lacks_parts() {
        let (bytes, whole) = (bytes(&state()), state().len());
        let ends: Vec<usize> = (1..=whole).map(|count| super::tests::bytes(&state()[..count]).len()).collect();
        for length in 0..bytes.len() {
            assert_eq!(read(&bytes[..length]).is_ok(), ends.contains(&length), "{length}");
        }
    }
}
