//! `GET /v1/upstreams`: the upstreams, and the state of their servers.

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::servers::Server;
use super::settings::{WrittenSetting, line, written};
use super::state::Shared;
use super::view::rfc3339;
use crate::balance::{Discover, Pool};
use crate::config::{SettingLines, SettingSection};
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
    /// Whether connections to its servers use TLS.
    tls: bool,
    /// Its open sessions.
    sessions: u64,
    /// The requests that wait for its servers.
    pending_requests: u32,
    /// The limit of that number.
    max_pending_requests: u32,
    /// The requests that wait because every server is full, `admit_rate` is used up, or no server is up.
    queued: usize,
    /// The limit of that number.
    queue_max: u32,
    /// The rate at which the sessions of a server that drains or was removed are closed, as in `20/s`.
    drain_rate: String,
    /// Where its servers are listed; null if the configuration lists them.
    discover: Option<Discovery>,
    /// Its servers, in the order of the file, or by address if they are looked up.
    servers: Vec<Server>,
    /// The servers that are not in the file any more and still have sessions.
    removed: Vec<RemovedServer>,
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

/// A server that is not in the file any more.
#[derive(Debug, Serialize, ToSchema)]
struct RemovedServer {
    /// Its address.
    address: String,
    /// Its open sessions.
    sessions: u32,
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
        let uses = snapshot.policy().routes().iter().filter(|route| route.config.upstream == pool.config().name);
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
        let sessions = counts.upstream_sessions.iter().filter(|([upstream, _], _)| *upstream == config.name);
        Self {
            name: config.name.to_string(),
            line: line(lines, section),
            settings: written(lines, section, Some(("health", SettingSection::UpstreamHealth(&config.name)))),
            routes,
            tls: config.tls.is_some(),
            sessions: sessions.map(|(_, count)| count).sum(),
            pending_requests: pool.pending(),
            max_pending_requests: config.max_pending_requests,
            drain_rate: config.drain_rate.to_string(),
            discover: None,
            queued: pool.queue().waiting(),
            queue_max: config.queue_max,
            servers: pool.servers().map(|server| Server::new(pool, server, counts)).collect(),
            removed: pool
                .removed()
                .map(|(address, sessions)| RemovedServer { address: address.to_string(), sessions })
                .collect(),
        }
    }
}

impl Discovery {
    fn new(source: &Discover, status: DiscoveryStatus) -> Self {
        let DiscoveryStatus { succeeded, error, failures } = status;
        Self { source: source.to_string(), last_success: succeeded.and_then(rfc3339), error, failures }
    }
}
