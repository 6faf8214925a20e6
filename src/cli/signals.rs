//! The signals of the process: SIGTERM and SIGINT stop it, SIGHUP reloads the configuration.

use std::io;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::runtime::tasks::{Tasks, start_thread};
use crate::server::control::Control;
use crate::server::reload::{ReloadError, ReloadOptions};

/// Returns a channel that receives one message for each SIGTERM and SIGINT. SIGHUP reloads the configuration, and the
/// result is reported by the server.
///
/// # Errors
/// If the system cannot provide a thread, an event queue or a signal handler.
pub fn receive(control: Control) -> io::Result<mpsc::Receiver<()>> {
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
                    let control = control.clone();
                    // The task waits for the end of the reload, and the next signal does not.
                    tasks.start(async move {
                        let reloaded = control.reload(ReloadOptions::default()).await;
                        if let Err(error @ (ReloadError::Stopping | ReloadError::Upgrading)) = reloaded {
                            tracing::warn!("SIGHUP is ignored: {error}");
                        }
                    });
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
