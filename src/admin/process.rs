//! Endpoints about the process: health, facts, reload, log level.

use std::sync::PoisonError;

use axum::Extension;
use axum::extract::State as Extract;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::access::{Caller, Rights};
use super::audit;
use super::extract::{Json, Query};
use super::handover::{HandedOverFrom, UpgradeInProgress};
use super::problem::{Problem, Result};
use super::state::{LastReload, Shared};
use super::view::{Reload, rfc3339, seconds};
use crate::config::{ClusterConfig, OnOutage};
use crate::handover::upgrader::Upgrader;
use crate::runtime::clock;
use crate::server::reload::{ReloadError, ReloadOptions};
use crate::telemetry::log;

/// Facts about the process.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Info {
    /// The version of Tollgate.
    version: &'static str,
    /// The number of the configuration in use, counted from 1.
    generation: u64,
    /// The start of the process (RFC 3339), unless the clock of the machine was wrong.
    started: Option<String>,
    /// The process id.
    pid: u32,
    /// The number of worker threads.
    workers: usize,
    /// The number of open sessions.
    sessions: usize,
    /// The limit of that number.
    max_sessions: u32,
    /// `serving`, or `draining` from the stop signal on.
    #[schema(pattern = "^(serving|draining)$")]
    phase: &'static str,
    /// The path of the configuration.
    config: String,
    /// The addresses of the listeners.
    listeners: Vec<String>,
    /// The last reload; null if there was none.
    last_reload: Option<ReloadResult>,
    /// The process that handed its sessions over to this one; null if this process was started on its own.
    handed_over_from: Option<HandedOverFrom>,
    /// The new process, while this one hands its sessions over; else null.
    upgrade: Option<UpgradeInProgress>,
    /// Seconds since the start.
    uptime_seconds: f64,
    /// The rights of this request: `all`, or `read`.
    #[schema(pattern = "^(all|read)$")]
    rights: &'static str,
    /// Whether a tap may show payloads to a request with all rights.
    payload: bool,
}

/// The result of a reload.
#[derive(Debug, Serialize, ToSchema)]
struct ReloadResult {
    /// The time (RFC 3339), unless the clock of the machine was wrong.
    time: Option<String>,
    /// Whether the configuration was applied.
    #[serde(rename = "successful")]
    is_successful: bool,
    /// The reason of a failure.
    error: Option<String>,
}

/// The parameters of a reload.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ReloadQuery {
    /// Only reports the effect of a reload.
    dry_run: bool,
    /// Applies a configuration that ends more of the open sessions than `recheck_max`.
    force: bool,
}

/// The level of the log.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct LogLevel {
    level: Level,
}

/// A level of the log, which includes the levels before it.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Answers while the process lives.
#[utoipa::path(
    get,
    path = "/healthz",
    tag = "process",
    security(()),
    responses((status = 200, description = "The process lives", body = String, content_type = "text/plain"))
)]
pub(super) async fn healthz() -> &'static str {
    "ok\n"
}

/// Reports whether new clients may be sent here: not from the stop signal on, even while `shutdown_delay` still admits
/// them, and not while a node with `on_outage = "refuse"` is without the server of its cluster.
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "process",
    security(()),
    responses(
        (status = 200, description = "New sessions are admitted", body = String, content_type = "text/plain"),
        (status = 503, description = "The process drains, or refuses sessions without the server of its cluster",
            body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn readyz(Extract(state): Shared) -> Result<&'static str> {
    let gateway = state.control.gateway();
    if !gateway.process.lifecycle.is_ready() {
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the process is about to stop"));
    }
    let alone = gateway.cluster.as_ref().filter(|cluster| !cluster.link.is_up());
    ready(alone.map(|cluster| &*cluster.config))
}

/// Returns the answer of a process that does not stop. `alone` is its cluster if the server of it is away.
fn ready(alone: Option<&ClusterConfig>) -> Result<&'static str> {
    match alone {
        None => Ok("ready\n"),
        Some(cluster) if cluster.on_outage == OnOutage::Local || !cluster.share.slots => {
            Ok("ready, without the cluster's server\n")
        }
        Some(_) => {
            let detail = "the cluster's server is away, and `on_outage` is \"refuse\": sessions at routes with shared \
                          limits are refused";
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail))
        }
    }
}

/// Returns facts about the process.
#[utoipa::path(
    get,
    path = "/v1/info",
    tag = "process",
    responses((status = 200, description = "Facts about the process", body = Info))
)]
pub(super) async fn info(Extract(state): Shared, Extension(caller): Extension<Caller>) -> axum::Json<Info> {
    let (gateway, facts) = (state.control.gateway(), state.control.facts());
    let snapshot = gateway.snapshot();
    let last_reload = state.last_reload.lock().unwrap_or_else(PoisonError::into_inner).clone();
    axum::Json(Info {
        version: env!("CARGO_PKG_VERSION"),
        generation: snapshot.generation(),
        started: rfc3339(facts.started_unix),
        pid: std::process::id(),
        workers: facts.workers,
        sessions: gateway.process.lifecycle.sessions(),
        max_sessions: snapshot.policy().max_sessions().get(),
        phase: if gateway.process.lifecycle.is_ready() { "serving" } else { "draining" },
        config: snapshot.file_name().display().to_string(),
        listeners: snapshot.addresses().map(ToString::to_string).collect(),
        last_reload: last_reload.map(|LastReload { unix, error }| ReloadResult {
            time: unix.and_then(rfc3339),
            is_successful: error.is_none(),
            error,
        }),
        handed_over_from: facts.handed_over.as_deref().map(HandedOverFrom::from),
        upgrade: state.upgrader.as_ref().and_then(Upgrader::successor).map(UpgradeInProgress::from),
        uptime_seconds: seconds(clock::now().saturating_duration_since(facts.started)),
        rights: match caller.rights {
            Rights::All => "all",
            Rights::Read => "read",
        },
        payload: state.payload,
    })
}

/// Replaces the configuration by that of the file.
#[utoipa::path(
    post,
    path = "/v1/reload",
    tag = "process",
    params(ReloadQuery),
    responses(
        (status = 200, description = "The effect of the reload", body = Reload),
        (status = 409, description = "It would end too many sessions, or a resource is missing", body = Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "The configuration is invalid", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "The process stops", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn reload(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Query(ReloadQuery { dry_run, force }): Query<ReloadQuery>,
) -> Result<axum::Json<Reload>> {
    match state.control.reload(ReloadOptions { dry_run, force }).await {
        Ok(summary) => {
            let reload = Reload::from(summary);
            if !dry_run {
                let ended = reload.ended.values().sum();
                audit::log(caller, "reload", &format_args!("generation {} force={force}", reload.generation), ended);
            }
            Ok(axum::Json(reload))
        }
        Err(error) => {
            if !dry_run {
                audit::log(caller, "reload", &format_args!("refused force={force}"), 0);
            }
            Err(refused(error))
        }
    }
}

fn refused(error: ReloadError) -> Box<Problem> {
    let unchanged = |status, error: &ReloadError| Problem::new(status, format!("nothing was changed: {error}"));
    match error {
        ReloadError::Invalid(report) => {
            let detail = "the configuration is not valid; nothing was changed";
            Problem::new(StatusCode::UNPROCESSABLE_ENTITY, detail).with_report(report.to_string())
        }
        ReloadError::TooMany { ref summary, max_percent } => {
            unchanged(StatusCode::CONFLICT, &error).with_summary(summary.clone().into(), max_percent)
        }
        ReloadError::NoFile | ReloadError::Server(_) | ReloadError::Upgrading => {
            unchanged(StatusCode::CONFLICT, &error)
        }
        ReloadError::Stopping => Problem::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Sets the level of the log until the next reload or restart.
#[utoipa::path(
    put,
    path = "/v1/log-level",
    tag = "process",
    request_body = LogLevel,
    responses((status = 200, description = "The level in use", body = LogLevel))
)]
pub(super) async fn log_level(
    Extension(caller): Extension<Caller>,
    Json(body): Json<LogLevel>,
) -> axum::Json<LogLevel> {
    let level = match body.level {
        Level::Error => tracing::Level::ERROR,
        Level::Warn => tracing::Level::WARN,
        Level::Info => tracing::Level::INFO,
        Level::Debug => tracing::Level::DEBUG,
        Level::Trace => tracing::Level::TRACE,
    };
    // The line appears at both the old and the new level, unless both hide it.
    audit::log(caller, "log-level", &level, 1);
    if let Some(log) = log::handle() {
        log.set_level(level);
    }
    axum::Json(body)
}
