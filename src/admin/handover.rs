//! The endpoint that replaces the process, and the facts about handovers.

use std::path::PathBuf;

use axum::Extension;
use axum::extract::State as Extract;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::audit;
use super::extract::Json;
use super::problem::{Problem, Result};
use super::state::Shared;
use super::view::rfc3339;
use crate::handover::progress::Successor;
use crate::handover::upgrader::{UpgradeError, UpgradeSummary};
use crate::server::control::HandedOver;

/// The longest path (`PATH_MAX` of Linux).
const PATH_MAX_BYTES: usize = 4096;

/// The program that replaces the running one.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Upgrade {
    /// The absolute path of the program; null or absent: the path from which the running program was started.
    #[schema(pattern = "^/", max_length = 4096, example = "/usr/local/bin/tollgate")]
    binary: Option<String>,
}

/// The effect of an upgrade.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Upgraded {
    /// The id of the new process.
    pid: u32,
    /// The version of the new process.
    version: String,
    /// The number of sessions that the new process continues.
    moved: usize,
    /// The number of sessions that cannot move, and drain in the process before.
    drained: usize,
    /// The number of sessions that were lost.
    failed: usize,
    /// The longest time for which a session was not served, in milliseconds.
    longest_pause_ms: u64,
    /// The time from the start of the new process to the end of the last move, in milliseconds.
    took_ms: u64,
}

/// The process that handed its sessions over to this one.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct HandedOverFrom {
    /// The id of that process.
    pid: u32,
    /// The version of that process.
    version: String,
    /// The time at which this process took over the listeners (RFC 3339), unless the clock of the machine was wrong.
    at: Option<String>,
    /// The number of sessions that this process continued.
    sessions: usize,
    /// Whether no further session follows.
    complete: bool,
}

/// An upgrade in progress.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpgradeInProgress {
    /// The id of the new process.
    pid: u32,
    /// The version of the new process; null before it has sent it.
    version: Option<String>,
    /// The number of sessions that have moved to it.
    moved: usize,
}

impl From<&HandedOver> for HandedOverFrom {
    fn from(from: &HandedOver) -> Self {
        Self {
            pid: from.pid,
            version: from.version.clone(),
            at: from.unix.and_then(rfc3339),
            sessions: from.sessions(),
            complete: from.is_complete(),
        }
    }
}

impl From<Successor> for UpgradeInProgress {
    fn from(Successor { pid, version, moved }: Successor) -> Self {
        Self { pid, version, moved }
    }
}

impl From<UpgradeSummary> for Upgraded {
    fn from(summary: UpgradeSummary) -> Self {
        let totals = summary.totals();
        let UpgradeSummary { pid, version, moved, drained, failed, .. } = summary;
        let (longest_pause_ms, took_ms) = (totals.longest_pause_ms(), totals.took_ms());
        Self { pid, version, moved, drained, failed, longest_pause_ms, took_ms }
    }
}

/// Replaces the process by a new one, which continues its sessions. Returns when all sessions have moved or drain.
#[utoipa::path(
    post,
    path = "/v1/upgrade",
    tag = "process",
    request_body = Option<Upgrade>,
    responses(
        (status = 200, description = "The effect of the upgrade", body = Upgraded),
        (status = 409, description = "Another upgrade is in progress, or the process cannot be replaced", body = Problem,
            content_type = "application/problem+json"),
        (status = 422, description = "The new program does not start, or rejects the configuration or the state",
            body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The upgrade failed", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "The new process did not answer", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "The process stops", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(super) async fn upgrade(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    body: Option<Json<Option<Upgrade>>>,
) -> Result<axum::Json<Upgraded>> {
    let binary = body.and_then(|Json(body)| body).unwrap_or_default().binary;
    let binary = binary.map(checked).transpose()?;
    let Some(upgrader) = &state.upgrader else {
        return Err(Problem::new(StatusCode::CONFLICT, "this process cannot be replaced"));
    };
    let shown = binary.as_ref().map_or("that of the process".to_owned(), |path| format!("{:?}", path.display()));
    match upgrader.upgrade(binary).await {
        Ok(summary) => {
            let effect = Upgraded::from(summary);
            let Upgraded { pid, version, moved, .. } = &effect;
            audit::log(caller, "upgrade", &format_args!("program={shown} pid={pid} version={version}"), *moved);
            Ok(axum::Json(effect))
        }
        Err(error) => {
            // The reason of an upgrade that was tried has lines of its own.
            let reason = if error.is_refusal() { format!(": {error}") } else { String::new() };
            audit::log(caller, "upgrade", &format_args!("refused program={shown}{reason}"), 0);
            Err(refused(&error))
        }
    }
}

/// Checks the form of the path of a program. The working directory of the process is not that of its operator.
fn checked(path: String) -> Result<PathBuf> {
    if !path.starts_with('/') || path.len() > PATH_MAX_BYTES || path.contains('\0') {
        let detail = format!("`binary` is an absolute path of at most {PATH_MAX_BYTES} bytes");
        return Err(Problem::bad_request(detail));
    }
    Ok(path.into())
}

fn refused(error: &UpgradeError) -> Box<Problem> {
    let status = match error {
        UpgradeError::InProgress => StatusCode::CONFLICT,
        UpgradeError::Stopping => StatusCode::SERVICE_UNAVAILABLE,
        UpgradeError::Start(..) | UpgradeError::Rejected(_) | UpgradeError::NoCommonVersion(..) => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        UpgradeError::NoAnswer(_) => StatusCode::BAD_GATEWAY,
        UpgradeError::Failed { .. } | UpgradeError::System(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    // After the new process has taken over, some of the sessions may have moved.
    let detail = match error {
        UpgradeError::Failed { .. } => format!("this process continues with the sessions that it has: {error}"),
        _ => format!("nothing was changed: {error}"),
    };
    Problem::new(status, detail)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn each_error_has_a_status_and_says_whether_anything_changed() {
        let text = || "error: unknown key\n  ^^^".to_owned();
        for (error, status, changed) in [
            (UpgradeError::InProgress, 409, false),
            (UpgradeError::Stopping, 503, false),
            (UpgradeError::Start("/tmp/x".into(), text()), 422, false),
            (UpgradeError::Rejected(text()), 422, false),
            (UpgradeError::NoCommonVersion([1, 2], [3, 4]), 422, false),
            (UpgradeError::NoAnswer(text()), 502, false),
            (UpgradeError::Failed { reason: text(), lost: 3 }, 500, true),
            (UpgradeError::System(text()), 500, false),
        ] {
            let problem = refused(&error);
            assert_eq!(problem.status(), status, "{error:?}");
            let detail = serde_json::to_value(problem).unwrap()["detail"].as_str().unwrap().to_owned();
            assert!(detail.ends_with(&error.to_string()), "the whole reason is there: {detail}");
            assert_eq!(detail.starts_with("nothing was changed: "), !changed, "{detail}");
        }
    }

    #[test]
    fn the_path_of_a_program_is_absolute_and_of_bounded_length() {
        assert_eq!(checked("/opt/new tollgate".to_owned()).unwrap(), PathBuf::from("/opt/new tollgate"));
        assert!(checked(format!("/{}", "x".repeat(PATH_MAX_BYTES - 1))).is_ok());
        for path in
            [String::new(), "tollgate".to_owned(), "../tollgate".to_owned(), "/a\0b".to_owned(), "/x".repeat(2049)]
        {
            assert_eq!(checked(path.clone()).unwrap_err().status(), 400, "{path:?}");
        }
    }

    #[test]
    fn the_summary_has_its_times_in_milliseconds() {
        let summary = UpgradeSummary {
            pid: 8,
            version: "0.2.0".to_owned(),
            moved: 40,
            drained: 2,
            failed: 1,
            longest_pause: Duration::from_micros(12_900),
            took: Duration::from_millis(1500),
        };
        let expected = json!({
            "pid": 8, "version": "0.2.0", "moved": 40, "drained": 2, "failed": 1, "longest_pause_ms": 12, "took_ms": 1500,
        });
        assert_eq!(serde_json::to_value(Upgraded::from(summary)).unwrap(), expected);
    }

    #[test]
    fn the_process_before_is_shown_with_the_sessions_that_moved_so_far() {
        let from = HandedOver::new(7, "0.1.0".to_owned(), Some(Duration::from_secs(1_800_000_000)));
        let shown = |from: &HandedOver| -> Value { serde_json::to_value(HandedOverFrom::from(from)).unwrap() };
        from.add_sessions(64);
        let during = shown(&from);
        assert_eq!((&during["sessions"], &during["complete"]), (&json!(64), &json!(false)));
        from.add_sessions(6);
        from.complete();
        let expected = json!({
            "pid": 7, "version": "0.1.0", "at": during["at"], "sessions": 70, "complete": true,
        });
        assert_eq!(shown(&from), expected);
        assert!(during["at"].as_str().unwrap().starts_with("2027-01-15T08:00:00"), "{during}");
    }
}
