//! One page of the list of sessions: of this process, or of all nodes of the cluster.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::filter::{Filter, Selection};
use super::paging::{Order, Page, Place, SortKey};
use super::problem::{Problem, Result};
use super::view::{Session, SessionPage};
use crate::cluster::directory::{ANSWER_MAX_BYTES, Answers};
use crate::cluster::events::ShareError;
use crate::cluster::handle::Cluster;
use crate::relay::description::SessionInfo;
use crate::server::control::{Control, SessionEntry};
use crate::telemetry::request::RequestId;

/// The room in an answer for what is not a session.
const HEAD_BYTES: usize = 4096;

/// A page to list.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Question {
    pub(super) filter: Filter,
    pub(super) sort: Option<String>,
    pub(super) limit: Option<usize>,
    pub(super) cursor: Option<String>,
}

/// The page of one node.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NodePage {
    /// The number of its sessions that match.
    total: usize,
    /// Whether more follow after these.
    has_more: bool,
    /// The sessions, each with its place as a cursor.
    sessions: Vec<(String, Session)>,
}

impl Question {
    /// Checks the parameters.
    ///
    /// # Errors
    /// If one of them is malformed.
    pub(super) fn check(&self) -> Result<(Page, Selection)> {
        let page = Page::parse(self.sort.as_deref(), self.limit, self.cursor.as_deref())?;
        Ok((page, self.filter.clone().check()?))
    }
}

/// Returns the page of this process.
///
/// # Errors
/// If a parameter is malformed.
pub(super) async fn own(control: &Control, question: &Question) -> Result<SessionPage> {
    let (page, filter) = question.check()?;
    let (total, entries) = places(control, &filter, page.order.key).await;
    let (entries, cursor) = page.select(entries);
    let infos = describe(control, entries.iter().map(|entry| entry.id)).await;
    let sessions = entries.iter().filter_map(|entry| Some(Session::new(entry, infos.get(&entry.id.0)?, false)));
    Ok(SessionPage { sessions: sessions.collect(), total, cursor, missing: None })
}

/// Returns the page of this process, as another node gets it.
///
/// # Errors
/// If a parameter is malformed.
pub(super) async fn for_node(control: &Control, question: &Question) -> Result<NodePage> {
    let (page, filter) = question.check()?;
    let (total, entries) = places(control, &filter, page.order.key).await;
    let (entries, mut has_more) = page.cut(entries);
    let infos = describe(control, entries.iter().map(|(_, entry)| entry.id)).await;
    let (mut sessions, mut bytes) = (Vec::with_capacity(entries.len()), HEAD_BYTES);
    for (place, entry) in &entries {
        let Some(info) = infos.get(&entry.id.0) else { continue };
        let row = (page.order.encode(*place), Session::new(entry, info, false));
        bytes = bytes.saturating_add(serde_json::to_string(&row).unwrap_or_default().len()).saturating_add(1);
        if bytes > ANSWER_MAX_BYTES {
            has_more = true;
            break;
        }
        sessions.push(row);
    }
    // Without a row there is no place at which the next page begins.
    has_more &= !sessions.is_empty();
    Ok(NodePage { total, has_more, sessions })
}

/// Returns the page of all nodes.
///
/// # Errors
/// If a parameter is malformed, or the other nodes are not known.
pub(super) async fn of_cluster(control: &Control, cluster: &Cluster, question: &Question) -> Result<SessionPage> {
    let (page, _) = question.check()?;
    let own = for_node(control, question).await?;
    let Answers { answers, mut missing } = ask(cluster, question).await?;
    let view = cluster.nodes.view().ok_or_else(away)?;
    let mut pages = vec![(view.id.to_string(), own)];
    for (node, answer) in answers {
        // A node of another version may answer in another form.
        match serde_json::from_slice::<NodePage>(&answer) {
            Ok(answer) => pages.push((node.to_string(), answer)),
            Err(_) => missing.push(node),
        }
    }
    let mut merged = merge(&page, pages);
    merged.missing = Some(missing.iter().map(ToString::to_string).collect());
    Ok(merged)
}

/// Where a session is that this node does not have.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    /// At the node with this id.
    At(Arc<str>),
    /// No node has it.
    Nowhere,
    /// Not all nodes have answered, and none of the others has it.
    Unknown,
}

/// Asks the other nodes for the session with this id.
pub(super) async fn find_elsewhere(cluster: &Cluster, id: RequestId) -> Elsewhere {
    let filter = Filter { id: Some(id.to_string()), ..Filter::default() };
    let answers = ask(cluster, &Question { filter, sort: None, limit: Some(1), cursor: None }).await;
    answers.map_or(Elsewhere::Unknown, |answers| elsewhere(&answers))
}

fn elsewhere(Answers { answers, missing }: &Answers) -> Elsewhere {
    let has = |answer: &[u8]| serde_json::from_slice::<NodePage>(answer).is_ok_and(|page| page.total > 0);
    match answers.iter().find(|(_, answer)| has(answer)) {
        Some((node, _)) => Elsewhere::At(Arc::clone(node)),
        None if missing.is_empty() => Elsewhere::Nowhere,
        None => Elsewhere::Unknown,
    }
}

/// Asks the other nodes. If the server is away, all of them are missing that were there before.
async fn ask(cluster: &Cluster, question: &Question) -> Result<Answers> {
    let text = serde_json::to_string(question).unwrap_or_default();
    match cluster.ask(text).await {
        Ok(answers) => Ok(answers),
        Err(ShareError::TooLarge) => Err(Problem::bad_request("the filter is too large for the nodes of a cluster")),
        Err(ShareError::Unavailable) => {
            let view = cluster.nodes.view().ok_or_else(away)?;
            let others = view.nodes.iter().filter(|node| node.id != view.id);
            Ok(Answers { answers: Vec::new(), missing: others.map(|node| node.id.clone()).collect() })
        }
    }
}

fn away() -> Box<Problem> {
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the server of the cluster is away: the other nodes are not known")
}

/// Merges the pages of nodes into one. It ends where a page ends after which its node has more.
fn merge(page: &Page, pages: Vec<(String, NodePage)>) -> SessionPage {
    let order = page.order;
    let (mut total, mut end, mut entries) = (0_usize, None::<Place>, Vec::new());
    for (node, NodePage { total: own, has_more, sessions }) in pages {
        total = total.saturating_add(own);
        let mut last = None;
        for (place, mut session) in sessions {
            let Some((_, place)) = Order::decode(&place).filter(|(found, _)| *found == order) else { continue };
            session.node = Some(node.clone());
            last = Some(place);
            entries.push((place, session));
        }
        if let Some(last) = last.filter(|_| has_more) {
            end = Some(end.filter(|end| order.compare(*end, last).is_lt()).unwrap_or(last));
        }
    }
    if let Some(end) = end {
        entries.retain(|(place, _)| order.compare(*place, end).is_le());
    }
    let (entries, is_cut) = page.cut(entries);
    let cursor = entries.last().filter(|_| is_cut || end.is_some()).map(|(place, _)| order.encode(*place));
    SessionPage { sessions: entries.into_iter().map(|(_, session)| session).collect(), total, cursor, missing: None }
}

/// Returns the number of sessions that match, and each with its place in the order. Only orders by counts ask the
/// sessions themselves; a session that has ended meanwhile is left out.
async fn places(control: &Control, filter: &Selection, key: SortKey) -> (usize, Vec<(Place, SessionEntry)>) {
    let mut entries = control.sessions().await;
    entries.retain(|entry| filter.matches(entry));
    let total = entries.len();
    let infos = match key {
        SortKey::Messages | SortKey::Bytes => describe(control, entries.iter().map(|entry| entry.id)).await,
        SortKey::Age | SortKey::Id => HashMap::new(),
    };
    let facts = control.facts();
    let key = |entry: &SessionEntry| -> Option<i128> {
        let counts = infos.get(&entry.id.0).map(|info| info.stats);
        match key {
            SortKey::Age => Some(since(entry.started, (facts.started, facts.started_unix))),
            SortKey::Id => Some(0),
            SortKey::Messages => counts.map(|stats| sum(stats.client.messages, stats.upstream.messages)),
            SortKey::Bytes => counts.map(|stats| sum(stats.client.bytes, stats.upstream.bytes)),
        }
    };
    let places = entries.into_iter().filter_map(|entry| Some(((key(&entry)?, entry.id.0), entry)));
    (total, places.collect())
}

/// Returns the key of an order by age: the negative start since the Unix epoch, so that it grows with the age, does not
/// change, and is the same on all nodes whose clocks are right. `process` is the start of the process by both clocks.
fn since(started: Instant, process: (Instant, Duration)) -> i128 {
    let nanos = |span: Duration| i128::try_from(span.as_nanos()).unwrap_or_default();
    let (instant, unix) = process;
    let offset = nanos(instant.saturating_duration_since(started)) - nanos(started.saturating_duration_since(instant));
    offset.saturating_sub(nanos(unix))
}

fn sum(a: u64, b: u64) -> i128 {
    i128::from(a) + i128::from(b)
}

async fn describe(control: &Control, ids: impl Iterator<Item = RequestId>) -> HashMap<u128, SessionInfo> {
    let ids: Vec<RequestId> = ids.collect();
    control.describe(&ids).await.into_iter().map(|info| (info.id.0, info)).collect()
}

#[cfg(test)]
mod tests;
