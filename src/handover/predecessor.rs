//! The process that this one replaces, as its successor uses it.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::net::sockopt::{socket_domain, socket_type};
use rustix::net::{AddressFamily, SocketType, getpeername};
use rustix::stdio::dup2_stdin;

use super::program::HANDOVER_VARIABLE;
use crate::server::control::Control;
use crate::server::passed::PassedState;

/// The process that this one replaces. The methods block, and are called in this order.
pub trait Predecessor: Send {
    /// Reports that this process cannot take over, for this reason. Has no effect if the other process has ended.
    fn fail(&mut self, reason: &str);

    /// Greets the process, and receives its listening sockets and its state.
    ///
    /// # Errors
    /// The reason: the processes have no version in common, or the other one has ended or did not answer in time.
    fn receive_state(&mut self) -> Result<PassedState, String>;

    /// Reports that everything is bound, and waits until this process is to accept connections. The counters of the other
    /// process are then those of this one.
    ///
    /// # Errors
    /// The reason: the other process keeps its sockets, has ended, or did not answer in time.
    fn wait_for_take_over(&mut self, control: &Control) -> Result<(), String>;

    /// Takes over sessions until all have moved. The server runs meanwhile.
    ///
    /// # Errors
    /// The reason for which the other process stopped before that. The sessions that have moved go on.
    fn take_sessions(&mut self, control: &Control) -> Result<(), String>;

    /// Sends revocations for the sessions that drain in the other process, until that has ended.
    fn forward_revocations(&mut self, control: &Control);
}

/// Returns the socket to the process that this one replaces; `None` if it replaces none.
///
/// # Errors
/// If the environment promises such a socket as standard input, and that is another file.
pub fn socket_of_environment() -> Result<Option<OwnedFd>, String> {
    let socket = socket(std::env::var_os(HANDOVER_VARIABLE).as_deref(), io::stdin())?;
    if socket.is_some() {
        // The other process learns from the end of the last descriptor that this one has given up.
        let null = File::open("/dev/null").map_err(|error| format!("cannot open /dev/null: {error}"))?;
        dup2_stdin(null).map_err(|error| format!("cannot replace the standard input: {error}"))?;
    }
    Ok(socket)
}

fn socket(variable: Option<&OsStr>, input: impl AsFd) -> Result<Option<OwnedFd>, String> {
    if variable.is_none() {
        return Ok(None);
    }
    if !is_channel(&input) {
        return Err(format!(
            "{HANDOVER_VARIABLE} is set, and standard input is not the socket of a running tollgate: only an upgrade \
             sets this variable"
        ));
    }
    let socket = input.as_fd().try_clone_to_owned();
    socket.map(Some).map_err(|error| format!("cannot use the socket of the running tollgate: {error}"))
}

/// Whether a file is a connected Unix socket that keeps the boundaries of messages.
fn is_channel(file: impl AsFd) -> bool {
    let file = file.as_fd();
    socket_domain(file).is_ok_and(|domain| domain == AddressFamily::UNIX)
        && socket_type(file).is_ok_and(|kind| kind == SocketType::SEQPACKET)
        && getpeername(file).is_ok()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::unix::net::UnixStream;

    use rustix::net::{SocketFlags, socketpair};

    use super::*;

    #[test]
    fn only_a_connected_socket_of_messages_is_the_one_of_a_process() {
        let set = Some(OsStr::new("1"));
        let pair = |kind| socketpair(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None).unwrap();
        let (own, _other) = pair(SocketType::SEQPACKET);
        assert!(socket(set, &own).unwrap().is_some());
        assert!(socket(None, &own).unwrap().is_none(), "an ordinary start");
        let (stream, _other) = UnixStream::pair().unwrap();
        let alone = rustix::net::socket(AddressFamily::UNIX, SocketType::SEQPACKET, None).unwrap();
        let files: [&dyn AsFd; 3] = [&stream, &alone, &File::open("/dev/null").unwrap()];
        for file in files {
            let error = socket(set, file.as_fd()).unwrap_err();
            assert!(error.starts_with("TOLLGATE_HANDOVER is set, and standard input is not"), "{error}");
        }
    }
}
