//! Revocations for the sessions that drain in the process before: the new process sends them, the old one applies them.

use std::fmt;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Duration;

use super::channel::{Channel, ChannelError, Received};
use super::memfd::{MemfdError, read_sealed, write_sealed};
use super::records::PROCESS_MAX_BYTES;
use super::state::{self, StateError};
use super::wire::{Message, State};
use crate::front::gateway::Gateway;
use crate::policy::revocation::state::RevocationsState;

/// The pause after each message: each has all revocations.
const PAUSE: Duration = Duration::from_millis(250);
/// The time that the process before has to read a message.
const SEND_MAX: Duration = Duration::from_secs(10);
/// The longest wait for a message. The wait begins again after it.
const WAIT: Duration = Duration::from_secs(3600);

/// Sends the revocations of the new process whenever some were added, until the process before has ended. The move must
/// have ended: a batch that arrives here would be lost.
pub async fn forward(channel: &Channel, gateway: &Gateway, version: u16) {
    loop {
        let ended = async { while matches!(channel.receive(WAIT).await, Err(ChannelError::TimedOut(_)) | Ok(_)) {} };
        tokio::select! {
            () = ended => return,
            () = gateway.revoker.changed() => {}
        }
        let mut is_first = true;
        while let Err(error) = send(channel, gateway, version).await {
            if matches!(error, ForwardError::Channel(ChannelError::Closed)) {
                return;
            }
            if is_first {
                tracing::error!(%error, "revocations do not reach the sessions that drain in the process before");
            }
            is_first = false;
            tokio::time::sleep(PAUSE).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Applies the revocations of the new process to the sessions that drain here, until that process closes its end.
pub async fn apply(channel: Channel, gateway: Arc<Gateway>) {
    loop {
        let received = match channel.receive(WAIT).await {
            Ok(received) => received,
            Err(ChannelError::TimedOut(_)) => continue,
            Err(error) => return tracing::debug!(%error, "no further revocations of the new process"),
        };
        match read(received) {
            Ok(Some(revocations)) => {
                let ended = gateway.revoker.take(revocations).await;
                tracing::debug!(ended, "revocations of the new process are in effect");
            }
            Ok(None) => {}
            Err(error) => tracing::error!(error, "revocations of the new process cannot be read"),
        }
    }
}

fn read(received: Received) -> Result<Option<RevocationsState>, String> {
    let Received { message: Message::Revocations(State { len, .. }), descriptors, .. } = received else {
        return Err(received.unexpected().to_string());
    };
    let file = descriptors.into_iter().next().ok_or("the descriptor is missing")?;
    let bytes = read_sealed(file, len, PROCESS_MAX_BYTES).map_err(|error| error.to_string())?;
    state::read_revocations(&bytes).map_err(|error| error.to_string())
}

async fn send(channel: &Channel, gateway: &Gateway, version: u16) -> Result<(), ForwardError> {
    let records = state::export_revocations(gateway).map_err(ForwardError::State)?;
    let (file, len) = write_sealed(&records, PROCESS_MAX_BYTES).map_err(ForwardError::Memory)?;
    let message = Message::Revocations(State { version, len });
    channel.send(&message, &[file.as_fd()], SEND_MAX).await.map_err(ForwardError::Channel)
}

/// Why revocations were not sent.
#[derive(Debug)]
enum ForwardError {
    State(StateError),
    Memory(MemfdError),
    Channel(ChannelError),
}

impl fmt::Display for ForwardError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::State(error) => error.fmt(f),
            Self::Memory(error) => error.fmt(f),
            Self::Channel(error) => error.fmt(f),
        }
    }
}
