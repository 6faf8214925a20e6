//! Endpoints that list and describe sessions.

use axum::extract::{Path, State as Extract};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Query;
use super::filter::{Filter, parse_id};
use super::listing::{Elsewhere, Question, find_elsewhere, of_cluster, own};
use super::problem::{Problem, Result};
use super::schema;
use super::shared::cluster;
use super::state::{Shared, State};
use super::view::{Session, SessionPage};
use crate::server::control::SessionEntry;

/// The parameters of a list of sessions.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The name of the route.
    route: Option<String>,
    /// The name of the `[auth]` section.
    auth: Option<String>,
    /// The subject; of every section, unless `auth` is given.
    subject: Option<String>,
    /// The client's address, or a network such as `10.0.0.0/8`.
    #[param(schema_with = schema::address)]
    address: Option<String>,
    /// The name of the upstream.
    upstream: Option<String>,
    /// The upstream's server.
    server: Option<String>,
    /// Text in the id, a name, the subject, the address, the host, the path or the origin; ASCII case is ignored.
    #[param(min_length = 1, max_length = 256)]
    search: Option<String>,
    /// `age`, `messages`, `bytes` or `id`; `-` before it reverses the order.
    #[param(pattern = "^-?(age|messages|bytes|id)$", example = "-bytes")]
    sort: Option<String>,
    /// The largest number of sessions in the answer; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The cursor of the page before.
    #[param(pattern = "^[0-7][0-9a-f]{64}$")]
    cursor: Option<String>,
    /// `node` for the sessions of this node, which is the default; `cluster` for those of all nodes.
    #[param(pattern = "^(node|cluster)$")]
    scope: Option<String>,
}

/// Lists sessions, the newest first unless `sort` is given. With `scope=cluster` the lists of the other nodes pass through
/// the server of the cluster, where they expire within 10 seconds.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    tag = "sessions",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of the list", body = SessionPage),
        (status = 409, description = "The process shares its sessions with no cluster", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "The server of the cluster is away", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn list(Extract(state): Shared, Query(query): Query<ListQuery>) -> Result<axum::Json<SessionPage>> {
    let ListQuery { route, auth, subject, address, upstream, server, search, sort, limit, cursor, scope } = query;
    let filter = Filter { id: None, route, auth, subject, address, upstream, server, search, all: true };
    let (question, control) = (Question { filter, sort, limit, cursor }, &state.control);
    Ok(axum::Json(match scope.as_deref() {
        None | Some("node") => own(control, &question).await?,
        Some("cluster") => of_cluster(control, cluster(control).ok_or_else(no_cluster)?, &question).await?,
        Some(_) => return Err(Problem::bad_request("`scope` is node or cluster")),
    }))
}

fn no_cluster() -> Box<Problem> {
    let detail = "this process is in no cluster, or its `share` does not have \"sessions\"";
    Problem::new(StatusCode::CONFLICT, detail)
}

/// Describes a session.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    params(("id" = String, Path, description = "The id of the session")),
    responses(
        (status = 200, description = "The session", body = Session),
        (status = 404, description = "There is no such session, or it is at another node", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not all other nodes of the cluster answer", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn describe_one(Extract(state): Shared, Path(id): Path<String>) -> Result<axum::Json<Session>> {
    let Ok(entry) = find(&state, &id).await else { return Err(not_here(&state, &id).await) };
    let infos = state.control.describe(&[entry.id]).await;
    infos.first().map(|info| axum::Json(Session::new(&entry, info, true))).ok_or_else(|| no_session(&id))
}

/// Finds a session by the text of its id.
///
/// # Errors
/// 404 if no session has this id.
pub(super) async fn find(state: &State, id: &str) -> Result<SessionEntry> {
    let wanted = parse_id(id).ok_or_else(|| no_session(id))?;
    let entries = state.control.sessions().await;
    entries.into_iter().find(|entry| entry.id == wanted).ok_or_else(|| no_session(id))
}

/// Finds a session of another node of the cluster by the text of its id.
pub(super) async fn find_at_other_node(state: &State, id: &str) -> Elsewhere {
    match cluster(&state.control).zip(parse_id(id)) {
        Some((cluster, id)) => find_elsewhere(cluster, id).await,
        None => Elsewhere::Nowhere,
    }
}

/// Returns the problem of an id that no session of this node has: it says which node has the session.
pub(super) async fn not_here(state: &State, id: &str) -> Box<Problem> {
    match find_at_other_node(state, id).await {
        Elsewhere::At(node) => {
            let detail = format!("the session is at the node {node} of the cluster: ask the admin API of that node");
            Problem::new(StatusCode::NOT_FOUND, detail)
        }
        Elsewhere::Nowhere => no_session(id),
        Elsewhere::Unknown => unknown(),
    }
}

/// Returns the problem of an id that no session of this node has while other nodes cannot be asked.
pub(super) fn unknown() -> Box<Problem> {
    let detail = "no session of this node has this id, and not all other nodes of the cluster answer";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}

/// Returns the problem of an unknown id.
pub(super) fn no_session(id: &str) -> Box<Problem> {
    let detail = if parse_id(id).is_some() { "no session has this id" } else { "an id has 32 hexadecimal digits" };
    Problem::new(StatusCode::NOT_FOUND, detail)
}
