//! `tollgate run`: serves until a stop signal, and reports its state to systemd.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use sd_notify::NotifyState;
use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::signals::{self, UpgradeOnReload};
use super::systemd::{notify, notify_reloading};
use crate::admin::{Admin, AdminError};
use crate::config::{self, Config, Severity};
use crate::handover::old_process;
use crate::handover::on_disk::ProgramFile;
use crate::handover::predecessor::{self, Predecessor};
use crate::handover::program::Program;
use crate::handover::replace::replace;
use crate::handover::upgrader::Upgrader;
use crate::runtime::tasks::start_blocking;
use crate::server::control::Control;
use crate::server::error::ServeError;
use crate::server::inherited::Inherited;
use crate::server::reload::{ReloadError, ReloadSummary};
use crate::server::serve::{Server, ServerEvent};
use crate::telemetry::log;

/// The exit code for a configuration that cannot be used (`EX_CONFIG` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 78;
/// The time that an upgrade in progress has to end once this process has drained.
const UPGRADE_END_TIMEOUT: Duration = Duration::from_secs(30);

/// Serves with the configuration in a file. The exit code is 0 after a drain, 1 if serving failed, 78 if the
/// configuration cannot be used.
pub fn run(path: &Path) -> ExitCode {
    // Neither a core file nor another process of this user is to have the keys of sessions.
    let undumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let socket = predecessor::socket_of_environment();
    match socket.and_then(|socket| socket.map(old_process::connect).transpose()) {
        Ok(predecessor) => run_after(predecessor, path, undumpable.map_err(io::Error::from)),
        Err(error) => {
            eprintln!("{}{error}", log::stderr_prefix(tracing::Level::ERROR));
            ExitCode::FAILURE
        }
    }
}

/// Serves as the successor of another process, if there is one.
fn run_after(mut predecessor: Option<Box<dyn Predecessor>>, path: &Path, undumpable: io::Result<()>) -> ExitCode {
    // Before the log starts its thread.
    let inherited = Inherited::from_env();
    let config = match config::load(path) {
        Ok(config) => config,
        Err(report) => {
            if let Some(predecessor) = &mut predecessor {
                predecessor.fail(&report.to_string());
                return ExitCode::from(EXIT_CONFIG);
            }
            // The settings of the log are part of the configuration that failed to load.
            let level = log::stderr_prefix(tracing::Level::ERROR);
            report.to_string().lines().for_each(|line| eprintln!("{level}{line}"));
            return ExitCode::from(EXIT_CONFIG);
        }
    };
    let _log = log::init(config.log);
    if let Err(error) = undumpable {
        tracing::warn!(%error, "core files are not prevented");
    }
    for (severity, line) in config.warnings.lines() {
        match severity {
            Severity::Error | Severity::Urgent => tracing::error!("{line}"),
            Severity::Warning => tracing::warn!("{line}"),
        }
    }
    match serve(config, path.to_owned(), inherited, predecessor) {
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
    /// The process that this one replaces does not let it take over.
    Handover(String),
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
            Self::Handover(error) => write!(f, "cannot take over from the running process: {error}"),
        }
    }
}

/// The parts of a process that is about to serve.
struct Bound {
    server: Server,
    admin: Admin,
    stop: mpsc::Receiver<()>,
    upgrader: Option<Upgrader>,
}

fn serve(
    config: Config,
    file: PathBuf,
    inherited: io::Result<Inherited>,
    mut predecessor: Option<Box<dyn Predecessor>>,
) -> Result<(), RunError> {
    // The API ends with this function, after the drain.
    let Bound { server, admin, stop, upgrader } =
        bind(config, file, inherited, &mut predecessor).inspect_err(|error| {
            if let Some(predecessor) = &mut predecessor {
                predecessor.fail(&error.to_string());
            }
        })?;
    if let Some(predecessor) = &mut predecessor {
        predecessor.wait_for_take_over(server.control()).map_err(RunError::Handover)?;
    }
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    admin.log_addresses();
    let handover = predecessor.map(|predecessor| take_sessions(predecessor, server.control().clone()));
    if handover.is_none() {
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    }
    let is_replaced = Cell::new(false);
    let control = server.control().clone();
    server.run(stop, |event| {
        match event {
            ServerEvent::Reloaded(result) => admin.note_reload(result),
            ServerEvent::Replaced(_) => is_replaced.set(true),
            ServerEvent::Alive if is_replaced.get() => return,
            _ => {}
        }
        report(event);
    })?;
    if let Some(upgrader) = upgrader {
        upgrader.wait_until_idle(UPGRADE_END_TIMEOUT);
    }
    // If sessions still arrive, the process before notices the end of this one, and goes on.
    let before = control.facts().handed_over.as_ref();
    if let Some(handover) = handover.filter(|_| before.is_some_and(|before| before.is_complete())) {
        wait_for_predecessor(handover, control.gateway().process.lifecycle.drain_timeout());
    }
    if is_replaced.get() {
        tracing::info!("stopped: another process has replaced this one");
    } else {
        tracing::info!("stopped");
    }
    Ok(())
}

/// Waits until the process before has ended. Until then a process that was replaced passes revocations of the next one on
/// to it. The service manager ends all processes of the service once the main one has ended, also one that drains.
fn wait_for_predecessor(handover: oneshot::Receiver<()>, drain_timeout: Duration) {
    // Without a runtime this process ends at once.
    let Ok(runtime) = Builder::new_current_thread().enable_time().build() else { return };
    let _ = runtime.block_on(async { timeout(drain_timeout.saturating_add(UPGRADE_END_TIMEOUT), handover).await });
}

/// Takes over the sessions on a thread, which ends after the process before. systemd accepts messages of this process only once the other one has made it the
/// main process, which precedes the end of that.
fn take_sessions(mut predecessor: Box<dyn Predecessor>, control: Control) -> oneshot::Receiver<()> {
    start_blocking("handover", move || {
        let taken = predecessor.take_sessions(&control);
        notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
        match taken {
            Ok(()) => predecessor.forward_revocations(&control),
            Err(error) => tracing::error!(%error, "the process before ended before all its sessions had moved"),
        }
    })
}

fn bind(
    config: Config,
    file: PathBuf,
    inherited: io::Result<Inherited>,
    predecessor: &mut Option<Box<dyn Predecessor>>,
) -> Result<Bound, RunError> {
    for route in config.routes.iter().filter(|route| route.auth.is_empty()) {
        tracing::warn!(route = %route.name, "this route is open to every client: it has auth = \"none\"");
    }
    let (admin, metrics) = (config.admin.clone(), config.metrics);
    let passed = predecessor.as_mut().map(|predecessor| predecessor.receive_state()).transpose();
    let passed = passed.map_err(RunError::Handover)?;
    let inherited = inherited.map_err(ServeError::InheritedEnvironment)?;
    let mut server = Server::bind_with(config, Some(file), inherited, passed)?;
    if let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) {
        server.report_alive(interval);
    }
    let upgrade = upgrade(server.control());
    let upgrader = upgrade.as_ref().map(|upgrade| upgrade.upgrader.clone());
    let admin = Admin::start(admin.as_ref(), metrics, server.control(), upgrader.as_ref())?;
    let stop = signals::receive(server.control().clone(), upgrade).map_err(ServeError::System)?;
    Ok(Bound { server, admin, stop, upgrader })
}

/// Returns the handle that replaces the process, and its program; `None` if that is unknown.
fn upgrade(control: &Control) -> Option<UpgradeOnReload> {
    let unknown = |error| tracing::warn!(%error, "the process cannot be upgraded: its program is unknown");
    let file = ProgramFile::current().map_err(unknown).ok()?;
    let program = Arc::new(Program::new(file.path().to_owned()));
    let (metrics, control) = (Arc::clone(&control.gateway().process.metrics), control.clone());
    let upgrader = Upgrader::new(metrics, move |binary, progress| {
        let (control, program) = (control.clone(), Arc::clone(&program));
        Box::pin(async move { replace(&control, &program, binary.as_deref(), &progress).await })
    });
    Some(UpgradeOnReload { upgrader, program: file })
}

/// Reports a change of the process to the log and to systemd.
fn report(event: ServerEvent<'_>) {
    match event {
        ServerEvent::Stopping(delay) => {
            let seconds = delay.as_secs_f64();
            tracing::info!(delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX), "stopping");
            notify(&[NotifyState::Stopping, NotifyState::Status(&format!("serving for {seconds} s before the drain"))]);
        }
        ServerEvent::Draining(sessions) => {
            tracing::info!(sessions, "draining");
            notify(&[NotifyState::Stopping, NotifyState::Status(&format!("draining {sessions} sessions"))]);
        }
        // systemd accepts no message of this process any more, and the service does not stop.
        ServerEvent::Replaced(sessions) => tracing::info!(sessions, "replaced by another process"),
        ServerEvent::Reloading => notify_reloading(),
        ServerEvent::Alive => notify(&[NotifyState::Watchdog]),
        ServerEvent::Reloaded(result) => notify(&[NotifyState::Ready, NotifyState::Status(&report_reload(result))]),
    }
}

/// Logs the result of a reload, and returns the status for systemd.
fn report_reload(result: &Result<ReloadSummary, ReloadError>) -> String {
    match result {
        Ok(summary) => {
            summary.warnings.iter().for_each(|line| tracing::warn!("{line}"));
            let ReloadSummary { generation, kept, changed, .. } = summary;
            let (added, removed) = (summary.listeners_added.join(", "), summary.listeners_removed.join(", "));
            for (cause, sessions) in &summary.ended {
                tracing::info!(generation, cause, sessions, "sessions end");
            }
            let ended = summary.ended_total();
            tracing::info!(generation, kept, changed, ended, added, removed, "reloaded");
            format!("serving, configuration {generation}")
        }
        Err(error) => {
            error.to_string().lines().for_each(|line| tracing::error!("{line}"));
            tracing::error!("reload failed: the configuration in use stays");
            let reason = error.to_string().lines().next().unwrap_or_default().to_owned();
            format!("serving the earlier configuration; reload failed: {reason}")
        }
    }
}

#[cfg(test)]
mod tests;
