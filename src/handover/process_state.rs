//! The state of the process that moves beside its sessions, as records.

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::records::{self, PROCESS_MAX_BYTES, Record};
use super::state;
use crate::server::control::Control;
use crate::server::moved::MovedState;
use crate::server::passed::SocketDescription;

/// The kind of the record of the sockets, and its version.
const SOCKETS: u16 = 2;
const SOCKETS_VERSION: u16 = 1;
/// The kind of the record of the other parts, and its version.
const PARTS: u16 = 3;
const PARTS_VERSION: u16 = 1;

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

/// Returns the state of this process. `level` is the level of the log in the configuration.
///
/// # Errors
/// The reason: a part is too long.
pub fn export(control: &Control, sockets: &SocketsState, level: Level) -> Result<Vec<Record>, String> {
    let content = records::encode(sockets, PROCESS_MAX_BYTES).map_err(|error| error.to_string())?;
    let sockets = Record { kind: SOCKETS, version: SOCKETS_VERSION, content };
    let mut parts = state::ProcessState::default();
    let moved = MovedState::export(control.gateway(), level);
    let content = parts.put_moved(&moved).and_then(|()| parts.encode()).map_err(|error| error.to_string())?;
    Ok(vec![sockets, Record { kind: PARTS, version: PARTS_VERSION, content }])
}

/// The state of another process.
#[derive(Debug)]
pub struct ProcessState {
    /// The meaning of its descriptors.
    pub sockets: SocketsState,
    /// Its parts.
    pub moved: MovedState,
}

/// Reads the state of another process. Records of unknown kinds are left out: a newer program may have more.
///
/// # Errors
/// The reason: a record is not valid, or that of the sockets is missing.
pub fn read(bytes: &[u8]) -> Result<ProcessState, String> {
    let (mut sockets, mut moved) = (None, MovedState::default());
    for record in records::Records::new(bytes, PROCESS_MAX_BYTES) {
        let record = record.map_err(|error| error.to_string())?;
        match (record.kind, record.version) {
            (SOCKETS, SOCKETS_VERSION) => {
                let read: SocketsState =
                    records::decode(record.content).map_err(|error| format!("the sockets: {error}"))?;
                sockets = Some(read);
            }
            (PARTS, PARTS_VERSION) => {
                let parts = state::ProcessState::decode(record.content).and_then(|parts| parts.moved());
                moved = parts.map_err(|error| error.to_string())?;
            }
            (kind, version) => tracing::debug!(kind, version, "a part of the state is not known, and left out"),
        }
    }
    Ok(ProcessState { sockets: sockets.ok_or("the state has no sockets")?, moved })
}
