//! `tollgate run`: serves until a stop signal, and reports its state to systemd.

use std::path::Path;
use std::process::ExitCode;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::config::{self, Config, Severity};
use crate::runtime::tasks::start_thread;
use crate::server::error::ServeError;
use crate::server::serve::Server;
use crate::telemetry::log;

/// The exit code for a configuration that cannot be used (`EX_CONFIG` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 78;

/// Serves with the configuration in a file. The exit code is 0 after a drain, 1 if serving failed, 78 if the
/// configuration cannot be used.
pub fn run(path: &Path) -> ExitCode {
    let config = match config::load(path) {
        Ok(config) => config,
        Err(report) => {
            // The settings of the log are part of the configuration that failed to load.
            let level = log::stderr_prefix(tracing::Level::ERROR);
            report.to_string().lines().for_each(|line| eprintln!("{level}{line}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let _log = log::init(config.log);
    for (severity, line) in config.warnings.lines() {
        match severity {
            Severity::Error | Severity::Urgent => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
    match serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "tollgate failed");
            notify(&[NotifyState::Status(&format!("failed: {error}"))]);
            // Another start with the same configuration would fail the same way.
            if error.is_of_configuration() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

fn serve(config: Config) -> Result<(), ServeError> {
    for route in config.routes.iter().filter(|route| route.auth.is_none()) {
        tracing::warn!(route = %route.name, "this route is open to every client: it has auth = \"none\"");
    }
    let stop = stop_signals().map_err(ServeError::System)?;
    let server = Server::bind(config)?;
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    server.run(stop, |sessions| {
        tracing::info!(sessions, "draining");
        let status = format!("draining {sessions} sessions");
        notify(&[NotifyState::Stopping, NotifyState::Status(&status)]);
    })?;
    tracing::info!("stopped");
    Ok(())
}

/// Returns a channel that receives one message for each SIGTERM and SIGINT.
///
/// # Errors
/// If the system cannot provide a thread, an event queue or a signal handler.
pub fn stop_signals() -> std::io::Result<mpsc::Receiver<()>> {
    let (sender, receiver) = mpsc::channel(2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let entered = runtime.enter();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hangup = signal(SignalKind::hangup())?;
    let (mut user1, mut user2) = (signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?);
    let mut alarm = signal(SignalKind::alarm())?;
    drop(entered);
    start_thread("signals", runtime, async move {
        loop {
            let ignored = tokio::select! {
                _ = terminate.recv() => None,
                _ = interrupt.recv() => None,
                // The default action of these signals ends the process without a drain, which their sender does not
                // intend. Rust's runtime ignores SIGPIPE from the start.
                _ = hangup.recv() => Some("SIGHUP is ignored: a change of the configuration needs a restart"),
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

/// Notifies systemd. Has no effect outside systemd; a failure is logged and does not stop the process.
fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "cannot notify systemd");
    }
}
