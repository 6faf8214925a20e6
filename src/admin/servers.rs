//! `PATCH /v1/upstreams/NAME/servers/ADDRESS`: the state and the weight of a server, until the configuration changes them.

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State as Extract};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::access::Caller;
use super::audit;
use super::extract::{Json, integer};
use super::problem::{Problem, Result};
use super::state::Shared;
use crate::balance::{self, OperatorState, Pool, ServerChange, checks};
use crate::runtime::clock;
use crate::server::draining::closing_rate;
use crate::telemetry::metrics::Merged;

/// The largest weight, as in the configuration.
const WEIGHT_MAX: u16 = 1000;

/// A server of an upstream.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Server {
    /// Its address, as the file has it.
    address: String,
    /// `up`; `slow start`: it was added or has recovered, and gets fewer sessions than its weight says; `failing`: a
    /// request to it failed, and none succeeded since; `ejected`: it is passed over after consecutive failures;
    /// `draining`: it gets no new sessions, and the open ones are closed at `drain_rate`; `down`: its checks fail, or an
    /// operator has its sessions closed within seconds; or `full`: it has `max_sessions`.
    #[schema(pattern = "^(up|slow start|failing|ejected|draining|down|full)$")]
    state: &'static str,
    /// The state that an operator gave it: `ready`, `drain` or `down`. Null: that of the configuration.
    #[schema(pattern = "^(ready|drain|down)$")]
    operator_state: Option<&'static str>,
    /// Its share of the sessions, relative to the other servers.
    weight: u32,
    /// The weight in the configuration. `weight` differs if an operator changed it.
    configured_weight: u16,
    /// The limit of its sessions, including requests that wait for it.
    max_sessions: Option<u32>,
    /// Whether the configuration drains it.
    drain: bool,
    /// The rate at which its sessions are closed if it drains, as in `20/s`.
    drain_rate: Option<String>,
    /// About how many seconds that takes, if it drains.
    drain_seconds: Option<f64>,
    /// Its open sessions.
    sessions: u64,
    /// The attempts to connect to it that failed.
    connect_failures: u64,
    /// Its last check; null before the first one, and if it is not checked.
    last_check: Option<LastCheck>,
}

/// A check of a server.
#[derive(Debug, Serialize, ToSchema)]
struct LastCheck {
    /// Whether it passed.
    passed: bool,
    /// Why it failed; null if it passed.
    error: Option<String>,
    /// The time since its end.
    age_seconds: f64,
}

/// A change of a server. At least one of the two is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ServerSettings {
    /// `ready`: it gets sessions, even if the configuration drains it; `drain`: it gets no new sessions, and the open ones
    /// are closed with 1012 at `drain_rate`; `down`: the same, within 10 seconds.
    #[schema(pattern = "^(ready|drain|down)$")]
    state: Option<String>,
    /// Its weight. The weight of the configuration ends the change.
    #[schema(minimum = 1, maximum = 1000)]
    #[serde(default, deserialize_with = "integer")]
    weight: Option<u16>,
}

impl LastCheck {
    fn new(last: &checks::LastCheck, now_ms: u64) -> Self {
        Self {
            passed: last.failure.is_none(),
            error: last.failure.as_deref().map(str::to_owned),
            age_seconds: Duration::from_millis(now_ms.saturating_sub(last.at_ms)).as_secs_f64(),
        }
    }
}

impl Server {
    /// Describes a server of a pool.
    pub(super) fn new(pool: &Pool, server: &balance::Server, counts: &Merged) -> Self {
        let now_ms = pool.millis_at(clock::now());
        let target = [&pool.config().name, server.name()].map(Arc::clone);
        let waiting = server.sessions();
        let rate = closing_rate(pool.config().drain_rate, server.is_down(), waiting);
        let drains = server.drains();
        let seconds = || (rate.interval().as_secs_f64() * f64::from(waiting) * 10.0).ceil() / 10.0;
        Self {
            address: server.name().to_string(),
            state: pool.condition(server, now_ms).label(),
            operator_state: server.operator_state().map(OperatorState::label),
            weight: server.weight(),
            configured_weight: server.config().weight.get(),
            max_sessions: server.config().max_sessions.map(Into::into),
            drain: server.config().drain,
            drain_rate: drains.then(|| rate.to_string()),
            drain_seconds: drains.then(seconds),
            sessions: counts.upstream_sessions.get(&target).copied().unwrap_or_default(),
            connect_failures: server.connect_failures(),
            last_check: server.checks().last().map(|last| LastCheck::new(&last, now_ms)),
        }
    }
}

/// Changes the state or the weight of a server, until the configuration changes it.
#[utoipa::path(
    patch,
    path = "/v1/upstreams/{upstream}/servers/{address}",
    tag = "configuration",
    params(
        ("upstream" = String, Path, description = "The name of the upstream"),
        ("address" = String, Path, description = "The address of the server, as the file has it, percent-encoded"),
    ),
    request_body = ServerSettings,
    responses(
        (status = 200, description = "The server", body = Server),
        (status = 404, description = "There is no such upstream or server", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn change(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Path((upstream, address)): Path<(String, String)>,
    Json(settings): Json<ServerSettings>,
) -> Result<axum::Json<Server>> {
    let change = check(&settings)?;
    let gateway = state.control.gateway();
    loop {
        let snapshot = gateway.snapshot();
        let not_found = |detail| Problem::new(StatusCode::NOT_FOUND, detail);
        let pool = snapshot.pool(&upstream).ok_or_else(|| not_found("there is no such upstream"))?;
        let server = pool.servers().find(|server| **server.name() == *address);
        let server = server.ok_or_else(|| not_found("the upstream has no such server"))?;
        pool.change_server(server, change, clock::now());
        // A reload at the same time may have built the next pool before the change.
        if gateway.snapshot().generation() != snapshot.generation() {
            continue;
        }
        let shown = Server::new(pool, server, &gateway.process.metrics.merged());
        let detail = format_args!("upstream={upstream} server={address} {}", summary(change));
        audit::log(caller, "server", &detail, usize::try_from(server.sessions()).unwrap_or(usize::MAX));
        return Ok(axum::Json(shown));
    }
}

fn check(settings: &ServerSettings) -> Result<ServerChange> {
    let named = |name: &String| {
        let state = OperatorState::ALL.into_iter().find(|state| state.label() == name.as_str());
        state.ok_or_else(|| Problem::bad_request("`state` is \"ready\", \"drain\" or \"down\""))
    };
    let bounded = |weight: u16| {
        let weight = NonZeroU16::new(weight).filter(|weight| weight.get() <= WEIGHT_MAX);
        weight.ok_or_else(|| Problem::bad_request(format!("`weight` is from 1 to {WEIGHT_MAX}")))
    };
    let change = ServerChange {
        state: settings.state.as_ref().map(named).transpose()?,
        weight: settings.weight.map(bounded).transpose()?,
    };
    if change == ServerChange::default() {
        return Err(Problem::bad_request("`state` or `weight` is needed"));
    }
    Ok(change)
}

fn summary(change: ServerChange) -> String {
    let state = change.state.map(|state| format!("state={}", state.label()));
    let weight = change.weight.map(|weight| format!("weight={weight}"));
    state.into_iter().chain(weight).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> std::result::Result<ServerChange, u16> {
        let settings: ServerSettings = serde_json::from_str(text).map_err(|_| 0_u16)?;
        check(&settings).map_err(|problem| problem.status().as_u16())
    }

    #[test]
    fn a_change_has_a_state_or_a_weight() {
        let state = |state| ServerChange { state: Some(state), weight: None };
        let weight = |weight: u16| ServerChange { state: None, weight: NonZeroU16::new(weight) };
        for (text, expected) in [
            (r#"{"state": "ready"}"#, Ok(state(OperatorState::Ready))),
            (r#"{"state": "drain", "weight": null}"#, Ok(state(OperatorState::Drain))),
            (r#"{"state": "down"}"#, Ok(state(OperatorState::Down))),
            (r#"{"weight": 1}"#, Ok(weight(1))),
            (r#"{"weight": 1000.0}"#, Ok(weight(1000))),
            ("{}", Err(400)),
            (r#"{"state": null}"#, Err(400)),
            (r#"{"state": "up"}"#, Err(400)),
            (r#"{"weight": 0}"#, Err(400)),
            (r#"{"weight": 1001}"#, Err(400)),
            (r#"{"weight": -1}"#, Err(0)),
            (r#"{"weight": 1.5}"#, Err(0)),
            (r#"{"weight": 65536}"#, Err(0)),
            (r#"{"drain": true}"#, Err(0)),
        ] {
            assert_eq!(settings(text), expected, "{text}");
        }
    }
}
