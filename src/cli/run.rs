//! `tollgate run`: serves until a stop signal, and reports its state to systemd.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use sd_notify::NotifyState;

use super::signals::{self, UpgradeOnReload};
use super::systemd::{notify, notify_reloading};
use crate::admin::{Admin, AdminError};
use crate::config::{self, Config, Severity};
use crate::handover::on_disk::ProgramFile;
use crate::handover::upgrader::{UpgradeError, Upgrader};
use crate::server::control::Control;
use crate::server::error::ServeError;
use crate::server::inherited::Inherited;
use crate::server::reload::{ReloadError, ReloadSummary};
use crate::server::serve::{Server, ServerEvent};
use crate::telemetry::log;

/// The exit code for a configuration that cannot be used (`EX_CONFIG` of `sysexits.h`).
pub const EXIT_CONFIG: u8 = 78;

/// Serves with the configuration in a file. The exit code is 0 after a drain, 1 if serving failed, 78 if the
/// configuration cannot be used.
pub fn run(path: &Path) -> ExitCode {
    // Before the log starts its thread.
    let inherited = Inherited::from_env();
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
    match serve(config, path.to_owned(), inherited) {
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

fn serve(config: Config, file: PathBuf, inherited: io::Result<Inherited>) -> Result<(), RunError> {
    for route in config.routes.iter().filter(|route| route.auth.is_empty()) {
        tracing::warn!(route = %route.name, "this route is open to every client: it has auth = \"none\"");
    }
    let (admin, metrics) = (config.admin.clone(), config.metrics);
    let mut server = Server::bind_with(config, Some(file), inherited.map_err(ServeError::InheritedEnvironment)?)?;
    if let Some(interval) = sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero()) {
        server.report_alive(interval);
    }
    // It ends with this function, after the drain.
    let on_reload = upgrade(server.control());
    let admin =
        Admin::start(admin.as_ref(), metrics, server.control(), on_reload.as_ref().map(|upgrade| &upgrade.upgrader))?;
    let stop = signals::receive(server.control().clone(), on_reload).map_err(ServeError::System)?;
    for address in server.addresses() {
        tracing::info!(%address, version = env!("CARGO_PKG_VERSION"), "listening");
    }
    admin.log_addresses();
    notify(&[NotifyState::Ready, NotifyState::Status("serving")]);
    server.run(stop, |event| {
        if let ServerEvent::Reloaded(result) = event {
            admin.note_reload(result);
        }
        report(event);
    })?;
    tracing::info!("stopped");
    Ok(())
}

/// Returns the handle that replaces the process, and its program; `None` if that is unknown.
fn upgrade(control: &Control) -> Option<UpgradeOnReload> {
    let unknown = |error| tracing::warn!(%error, "the process cannot be upgraded: its program is unknown");
    let program = ProgramFile::current().map_err(unknown).ok()?;
    let path = program.path().to_owned();
    let upgrader = Upgrader::new(Arc::clone(&control.gateway().process.metrics), move |binary, _progress| {
        let binary = binary.unwrap_or_else(|| path.clone());
        let reason = "this version cannot hand over its sessions".to_owned();
        Box::pin(async move { Err(UpgradeError::Start(binary, reason)) })
    });
    Some(UpgradeOnReload { upgrader, program })
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
