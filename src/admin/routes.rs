//! `GET /v1/routes`: the routes, with what their requests and sessions did.

use std::collections::BTreeMap;

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::settings::{WrittenSetting, line, written};
use super::state::Shared;
use super::view::SessionLimits;
use crate::config::{SettingLines, SettingSection};
use crate::policy::route::Route as PolicyRoute;
use crate::telemetry::metrics::Merged;
use crate::telemetry::metrics::labels::{CLOSED_BY, CODES};

/// The routes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct RouteList {
    /// The routes, in the order in which they are matched.
    routes: Vec<Route>,
}

/// A route. The counts are totals since the start of the process, or since a reload added the route.
#[derive(Debug, Serialize, ToSchema)]
struct Route {
    /// Its name.
    name: String,
    /// The line of its section.
    line: Option<usize>,
    /// Its settings in the file.
    settings: Vec<WrittenSetting>,
    /// The name of its upstream.
    upstream: String,
    /// The names of its `[auth]` sections; empty: it is open to every client.
    auth: Vec<String>,
    /// The limits of its sessions.
    limits: SessionLimits,
    /// Its open sessions.
    sessions: u64,
    /// Messages from clients.
    messages_in: u64,
    /// Bytes of frames from clients.
    bytes_in: u64,
    /// Messages to clients.
    messages_out: u64,
    /// Bytes of frames to clients.
    bytes_out: u64,
    /// Messages and frames that exceeded a rate.
    throttled: u64,
    /// Its upgrades that were accepted, as `accepted`, and its rejected upgrades and ordinary requests, by the cause.
    outcomes: BTreeMap<&'static str, u64>,
    /// Its ended sessions, by close code and side.
    closes: Vec<Closes>,
}

/// The number of ended sessions with a close code.
#[derive(Debug, Serialize, ToSchema)]
struct Closes {
    /// The code, as in `tollgate_closes_total`.
    code: &'static str,
    /// The side that ended them.
    by: &'static str,
    /// Their number.
    count: u64,
}

/// Lists the routes.
#[utoipa::path(
    get,
    path = "/v1/routes",
    tag = "configuration",
    responses((status = 200, description = "The routes", body = RouteList))
)]
pub(super) async fn list(Extract(state): Shared) -> axum::Json<RouteList> {
    let gateway = state.control.gateway();
    let (snapshot, counts) = (gateway.snapshot(), gateway.process.metrics.merged());
    let routes = snapshot.policy().routes().iter();
    let routes = routes.map(|route| Route::new(route, snapshot.setting_lines(), &counts)).collect();
    axum::Json(RouteList { routes })
}

impl Route {
    fn new(route: &PolicyRoute, lines: &SettingLines, counts: &Merged) -> Self {
        let name = route.name();
        let section = SettingSection::Route(name);
        let values = counts.routes.get(name).cloned().unwrap_or_default();
        let ([messages_in, messages_out], [bytes_in, bytes_out]) = (values.messages, values.bytes);
        let closes = CODES.into_iter().zip(values.closes).flat_map(|(code, by_side)| {
            let closes = CLOSED_BY.into_iter().zip(by_side).filter(|(_, count)| *count > 0);
            closes.map(move |(by, count)| Closes { code, by, count })
        });
        let sessions = counts.sessions.iter().filter(|([route, _], _)| route == name);
        Self {
            name: name.to_string(),
            line: line(lines, section),
            settings: written(lines, section, Some(("limits", SettingSection::RouteLimits(name)))),
            upstream: route.config.upstream.to_string(),
            auth: route.config.auth.iter().map(ToString::to_string).collect(),
            limits: SessionLimits::new(&route.config.limits),
            sessions: sessions.map(|(_, count)| count).sum(),
            messages_in,
            bytes_in,
            messages_out,
            bytes_out,
            throttled: values.throttled.iter().sum(),
            outcomes: outcomes(name, counts),
            closes: closes.collect(),
        }
    }
}

fn outcomes(route: &str, counts: &Merged) -> BTreeMap<&'static str, u64> {
    let mut outcomes = counts.upgrades.get(route).cloned().unwrap_or_default();
    for (cause, count) in counts.http_rejections.get(route).into_iter().flatten() {
        *outcomes.entry(*cause).or_default() += count;
    }
    outcomes
}
