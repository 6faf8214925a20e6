//! `GET /v1/upstreams`: the upstreams, and the state of their servers.

use std::sync::Arc;

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::settings::{WrittenSetting, line, written};
use super::state::Shared;
use super::view::rfc3339;
use crate::balance::{Discover, Pool};
use crate::config::{SettingLines, SettingSection};
use crate::policy::route::Target;
use crate::runtime::clock;
use crate::telemetry::metrics::Merged;
use crate::upstream::discovery::DiscoveryStatus;

/// The upstreams.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct UpstreamList {
    /// The upstreams, by name.
    upstreams: Vec<Upstream>,
}

/// An upstream.
#[derive(Debug, Serialize, ToSchema)]
struct Upstream {
    /// Its name.
    name: String,
    /// The line of its section.
    line: Option<usize>,
    /// Its settings in the file.
    settings: Vec<WrittenSetting>,
    /// The names of the routes that use it.
    routes: Vec<String>,
    /// Its open sessions.
    sessions: u64,
    /// The requests that wait for its servers.
    pending_requests: u32,
    /// The limit of that number.
    max_pending_requests: u32,
    /// Where its servers are listed; null if the configuration lists them.
    discover: Option<Discovery>,
    /// Its servers, in the order of the file, or by address if they are looked up.
    servers: Vec<Server>,
}

/// The source of the servers of an upstream.
#[derive(Debug, Serialize, ToSchema)]
struct Discovery {
    /// The source, as in `dns:chat.internal:9001`.
    source: String,
    /// The time of the last look-up that succeeded, or at which a file was read; null before the first one.
    last_success: Option<String>,
    /// The error of the last look-up or of the file; null if it succeeded. The servers before stay in use.
    error: Option<String>,
    /// The number of failures since the source is used.
    failures: u64,
}

/// A server of an upstream.
#[derive(Debug, Serialize, ToSchema)]
struct Server {
    /// Its address, as the file has it.
    address: String,
    /// `up`; `slow start`: it was added or has recovered, and gets fewer sessions than its weight says; `failing`: a
    /// request to it failed, and none succeeded since; `ejected`: it is passed over after consecutive failures;
    /// `draining`: it gets no new sessions; or `full`: it has `max_sessions`.
    #[schema(pattern = "^(up|slow start|failing|ejected|draining|full)$")]
    state: &'static str,
    /// Its share of the sessions, relative to the other servers.
    weight: u16,
    /// The limit of its sessions, including requests that wait for it.
    max_sessions: Option<u32>,
    /// Whether the configuration drains it.
    drain: bool,
    /// Its open sessions.
    sessions: u64,
    /// The attempts to connect to it that failed.
    connect_failures: u64,
}

/// Lists the upstreams with their servers.
#[utoipa::path(
    get,
    path = "/v1/upstreams",
    tag = "configuration",
    responses((status = 200, description = "The upstreams", body = UpstreamList))
)]
pub(super) async fn list(Extract(state): Shared) -> axum::Json<UpstreamList> {
    let gateway = state.control.gateway();
    let (snapshot, counts) = (gateway.snapshot(), gateway.process.metrics.merged());
    let routes = |pool: &Pool| {
        let uses = snapshot.policy().routes().iter().filter(|route| match &route.target {
            Target::Pool(used) => used.config().name == pool.config().name,
            Target::Page(_) => false,
        });
        uses.map(|route| route.name().to_string()).collect()
    };
    let discovery = |pool: &Pool| {
        let source = pool.config().discover.as_ref()?;
        Some(Discovery::new(source, gateway.discoveries.status(source)))
    };
    let upstreams = snapshot.pools().map(|pool| {
        let upstream = Upstream::new(pool, routes(pool), snapshot.setting_lines(), &counts);
        Upstream { discover: discovery(pool), ..upstream }
    });
    axum::Json(UpstreamList { upstreams: upstreams.collect() })
}

impl Upstream {
    fn new(pool: &Pool, routes: Vec<String>, lines: &SettingLines, counts: &Merged) -> Self {
        let config = pool.config();
        let section = SettingSection::Upstream(&config.name);
        let now_ms = pool.millis_at(clock::now());
        let servers = pool.servers().map(|server| {
            let target = [&config.name, server.name()].map(Arc::clone);
            Server {
                address: server.name().to_string(),
                state: pool.condition(server, now_ms).label(),
                weight: server.config().weight.get(),
                max_sessions: server.config().max_sessions.map(Into::into),
                drain: server.config().drain,
                sessions: counts.upstream_sessions.get(&target).copied().unwrap_or_default(),
                connect_failures: server.connect_failures(),
            }
        });
        let sessions = counts.upstream_sessions.iter().filter(|([upstream, _], _)| *upstream == config.name);
        Self {
            name: config.name.to_string(),
            line: line(lines, section),
            settings: written(lines, section, Some(("health", SettingSection::UpstreamHealth(&config.name)))),
            routes,
            sessions: sessions.map(|(_, count)| count).sum(),
            pending_requests: pool.pending(),
            max_pending_requests: config.max_pending_requests,
            discover: None,
            servers: servers.collect(),
        }
    }
}

impl Discovery {
    fn new(source: &Discover, status: DiscoveryStatus) -> Self {
        let DiscoveryStatus { succeeded, error, failures } = status;
        Self { source: source.to_string(), last_success: succeeded.and_then(rfc3339), error, failures }
    }
}
