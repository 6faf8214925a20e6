//! The state of the process that moves beside its sessions, as records.

use serde::{Deserialize, Serialize};

use super::records::{self, PROCESS_MAX_BYTES, Record, RecordError};
use crate::server::control::Control;
use crate::server::passed::SocketDescription;

/// The kind of the record of the sockets, and its version.
const SOCKETS: u16 = 2;
const SOCKETS_VERSION: u16 = 1;

/// The meaning of the descriptors that follow the state.
#[derive(Debug, Serialize, Deserialize)]
pub struct SocketsState {
    /// The listening sockets, in order.
    pub sockets: Vec<SocketDescription>,
    /// Whether the locked file in `state_dir` follows them.
    pub has_journal_lock: bool,
}

/// Returns the state of this process.
///
/// # Errors
/// If it is too long.
pub fn export(_control: &Control, sockets: &SocketsState) -> Result<Vec<Record>, RecordError> {
    let content = records::encode(sockets, PROCESS_MAX_BYTES)?;
    Ok(vec![Record { kind: SOCKETS, version: SOCKETS_VERSION, content }])
}

/// The state of another process.
#[derive(Debug)]
pub struct ProcessState {
    /// The meaning of its descriptors.
    pub sockets: SocketsState,
}

/// Reads the state of another process. Records of unknown kinds are left out: a newer program may have more.
///
/// # Errors
/// The reason: a record is not valid, or that of the sockets is missing.
pub fn read(bytes: &[u8]) -> Result<ProcessState, String> {
    let mut sockets = None;
    for record in records::Records::new(bytes, PROCESS_MAX_BYTES) {
        let record = record.map_err(|error| error.to_string())?;
        match (record.kind, record.version) {
            (SOCKETS, SOCKETS_VERSION) => {
                let read: SocketsState =
                    records::decode(record.content).map_err(|error| format!("the sockets: {error}"))?;
                sockets = Some(read);
            }
            (kind, version) => tracing::debug!(kind, version, "a part of the state is not known, and left out"),
        }
    }
    Ok(ProcessState { sockets: sockets.ok_or("the state has no sockets")? })
}
