//! Endpoints that list and describe sessions.

use std::collections::HashMap;
use std::time::Duration;

use axum::extract::{Path, State as Extract};
use http::StatusCode;
use serde::Deserialize;
use utoipa::IntoParams;

use super::extract::Query;
use super::filter::{Filter, parse_id};
use super::paging::{Page, Place, SortKey};
use super::problem::{Problem, Result};
use super::schema;
use super::state::{Shared, State};
use super::view::{Session, SessionPage};
use crate::relay::description::SessionInfo;
use crate::server::control::SessionEntry;
use crate::telemetry::request::RequestId;

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
}

/// Lists sessions, the newest first unless `sort` is given.
#[utoipa::path(
    get,
    path = "/v1/sessions",
    tag = "sessions",
    params(ListQuery),
    responses((status = 200, description = "A page of the list", body = SessionPage))
)]
pub(super) async fn list(Extract(state): Shared, Query(query): Query<ListQuery>) -> Result<axum::Json<SessionPage>> {
    let ListQuery { route, auth, subject, address, upstream, server, search, sort, limit, cursor } = query;
    let page = Page::parse(sort.as_deref(), limit, cursor.as_deref())?;
    let filter = Filter { id: None, route, auth, subject, address, upstream, server, search, all: true }.check()?;
    let mut entries = state.control.sessions().await;
    entries.retain(|entry| filter.matches(entry));
    let total = entries.len();
    let (entries, cursor) = page.select(places(&state, entries, page.order.key).await);
    let infos = describe(&state, &entries).await;
    let sessions = entries.iter().filter_map(|entry| Some(Session::new(entry, infos.get(&entry.id.0)?, false)));
    Ok(axum::Json(SessionPage { sessions: sessions.collect(), total, cursor }))
}

/// Describes a session.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    params(("id" = String, Path, description = "The id of the session")),
    responses(
        (status = 200, description = "The session", body = Session),
        (status = 404, description = "There is no such session", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn describe_one(Extract(state): Shared, Path(id): Path<String>) -> Result<axum::Json<Session>> {
    let entry = find(&state, &id).await?;
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

/// Returns the problem of an unknown id.
pub(super) fn no_session(id: &str) -> Box<Problem> {
    let detail = if parse_id(id).is_some() { "no session has this id" } else { "an id has 32 hexadecimal digits" };
    Problem::new(StatusCode::NOT_FOUND, detail)
}

/// Returns each session with its place in the order. Only orders by counts ask the sessions themselves; a session that
/// has ended meanwhile is left out.
async fn places(state: &State, entries: Vec<SessionEntry>, key: SortKey) -> Vec<(Place, SessionEntry)> {
    let infos = match key {
        SortKey::Messages | SortKey::Bytes => describe(state, &entries).await,
        SortKey::Age | SortKey::Id => HashMap::new(),
    };
    let key = |entry: &SessionEntry| -> Option<i128> {
        let counts = infos.get(&entry.id.0).map(|info| info.stats);
        match key {
            SortKey::Age => Some(since(entry.started, state.control.facts().started)),
            SortKey::Id => Some(0),
            SortKey::Messages => counts.map(|stats| sum(stats.client.messages, stats.upstream.messages)),
            SortKey::Bytes => counts.map(|stats| sum(stats.client.bytes, stats.upstream.bytes)),
        }
    };
    entries.into_iter().filter_map(|entry| Some(((key(&entry)?, entry.id.0), entry))).collect()
}

/// Returns the key of an order by age: the negative start, so that it grows with the age and does not change.
fn since(started: std::time::Instant, epoch: std::time::Instant) -> i128 {
    let nanos = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or(i128::MAX);
    nanos(epoch.saturating_duration_since(started)) - nanos(started.saturating_duration_since(epoch))
}

fn sum(a: u64, b: u64) -> i128 {
    i128::from(a) + i128::from(b)
}

async fn describe(state: &State, entries: &[SessionEntry]) -> HashMap<u128, SessionInfo> {
    let ids: Vec<RequestId> = entries.iter().map(|entry| entry.id).collect();
    state.control.describe(&ids).await.into_iter().map(|info| (info.id.0, info)).collect()
}
