//! Reports to systemd that another process is the main one of the service.

use sd_notify::NotifyState;

/// Makes a process the main one of the service, instead of this one. From then on systemd accepts only messages of that
/// process, and restarts the service when it ends: it must have taken over. Has no effect outside systemd.
///
/// A message that the new process sends after this call, caused by a message of this process, arrives later.
pub fn set_main_process(pid: u32) {
    if let Err(error) = sd_notify::notify(&[NotifyState::MainPid(pid)]) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
