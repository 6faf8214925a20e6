//! `tollgate run`: serves until a stop signal, and reports its state to systemd.

use std::fmt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{Admin, AdminError, Facts};
use crate::config::{self, Config, Severity};
use crate::runtime::tasks::start_thread;
use crate::server::control::Control;
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
    match serve(path, config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(%error, "tollgate failed");
            notify(&[NotifyState::Status(&format!("failed: {error}"))]);
            // Another start with the same configuration would fail the same way.
            if error.is_of_configuration() { ExitCode::from(EXIT_CONFIG) } else { ExitCode::FAILURE }
        }
    }
}

/// The reason why the process ended.
enum RunError {
    Serve(ServeError),
    Admin(AdminError),
}

impl From<ServeError> for RunError {
    fn from(error: ServeError) -> Self {
        Self::Serve(error)
    }
}

impl From<AdminError> for RunError {
    fn from(error: AdminError) -> Self {
        Self::Admin(error)
    }
}

impl RunError {
    fn is_of_configuration(&self) -> bool {
        matches!(self, Self::Serve(error) if error.is_of_configuration())
    }
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serve(error) => error.fmt(f),
            Self::Admin(error) => error.fmt(f),
        }
    }
}

fn serve(path: &Path, config: Config) -> Result<(), RunError> {
    for route in config.routes.iter().filter(|route| route.auth.is_none()) {
        tracing::warn!(route = %route.name, "this route is open to every client: it has auth = \"none\"");
    }
    let stop = stop_signals().map_err(ServeError::System)?;
    let (admin, metrics, workers) = (config.admin.clone(), config.metrics, config.server.workers.get());
    let server = Server::bind(config)?;
    let listeners = server.addresses().iter().map(ToString::to_string).collect();
    let facts = Facts { config: path.to_owned(), workers, listeners };
    let control = Control::new(Arc::clone(server.gateway()));
    // It ends with this function, after the drain.
    let admin = Admin::start(admin.as_ref(), metrics, &control, &facts)?;
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    admin.log_addresses();
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
