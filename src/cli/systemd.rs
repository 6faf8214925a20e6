//! Reports the state of the process to systemd.

use sd_notify::NotifyState;

/// Notifies systemd. Has no effect outside systemd; a failure is logged and does not stop the process.
pub(super) fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}

/// Notifies systemd of the start of a reload, which the next `READY=1` ends.
pub(super) fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "cannot notify systemd"),
    }
}
