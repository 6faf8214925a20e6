//! The signals of the process: SIGTERM and SIGINT stop it, SIGHUP reloads the configuration or replaces the process.

use std::io;

use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::systemd::{notify, notify_reloading};
use crate::handover::on_disk::ProgramFile;
use crate::handover::upgrader::{UpgradeError, Upgrader};
use crate::runtime::tasks::{Tasks, start_thread};
use crate::server::control::Control;
use crate::server::reload::{ReloadError, ReloadOptions};

/// Replaces the process at SIGHUP, if the configuration says so and the program on disk has changed.
#[derive(Debug, Clone)]
pub struct UpgradeOnReload {
    /// Replaces the process.
    pub upgrader: Upgrader,
    /// The program of the process.
    pub program: ProgramFile,
}

/// Returns a channel that receives one message for each SIGTERM and SIGINT. SIGHUP reloads the configuration, and the
/// result is reported by the server; or it replaces the process, if `upgrade` is given and `upgrade_on_reload` is set.
///
/// # Errors
/// If the system cannot provide a thread, an event queue or a signal handler.
pub fn receive(control: Control, upgrade: Option<UpgradeOnReload>) -> io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut user1, mut user2) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    let mut alarm = signal(SignalKind::alarm())?;
    drop(entered);
    start_thread("signals", runtime, async move {
        let tasks = Tasks::default();
        loop {
            let ignored = tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                _ = hangup.recv() => {
                    let (control, upgrade) = (control.clone(), upgrade.clone());
                    // The task waits for the end of the reload, and the next signal does not.
                    tasks.start(async move { reload(&control, upgrade).await });
                    continue;
                }
                // The default action of these signals ends the process without a drain, which their sender does not
                // intend. Rust's runtime ignores SIGPIPE from the start.
                _ = user1.recv() => Some("SIGUSR1 is ignored"),
                _ = user2.recv() => Some("SIGUSR2 is ignored"),
                _ = alarm.recv() => Some("SIGALRM is ignored"),
            };
            if let Some(message) = ignored {
                tracing::warn!("{message}");
                continue;
            }
            if sender.send(()).await.is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

/// Replaces the process if it has another program now and the configuration says so, and reloads the configuration
/// otherwise.
async fn reload(control: &Control, upgrade: Option<UpgradeOnReload>) {
    let wanted = upgrade.filter(|_| control.gateway().snapshot().upgrades_on_reload());
    if let Some(UpgradeOnReload { upgrader, program }) = wanted.filter(|upgrade| upgrade.program.has_changed()) {
        tracing::info!(program = %program.path().display(), "SIGHUP: the program on disk has changed");
        return replace(&upgrader).await;
    }
    let reloaded = control.reload(ReloadOptions::default()).await;
    if let Err(error @ (ReloadError::Stopping | ReloadError::Upgrading)) = reloaded {
        tracing::warn!("SIGHUP is ignored: {error}");
    }
}

/// Replaces the process. After a success the new process reports to systemd.
async fn replace(upgrader: &Upgrader) {
    notify_reloading();
    match upgrader.upgrade(None).await {
        Ok(_) => {}
        // That upgrade reports its own end.
        Err(UpgradeError::InProgress) => tracing::warn!("SIGHUP is ignored: an upgrade is in progress"),
        Err(UpgradeError::Stopping) => tracing::warn!("SIGHUP is ignored: the process is stopping"),
        Err(error) => {
            let reason = error.to_string();
            let reason = reason.lines().next().unwrap_or_default();
            notify(&[NotifyState::Ready, NotifyState::Status(&format!("serving; upgrade failed: {reason}"))]);
        }
    }
}
