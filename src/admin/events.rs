//! `GET /v1/events`: the last ends of sessions and rejections of requests, each with its explanation.

use std::collections::BTreeMap;

use axum::extract::State as Extract;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::explain::{self, Explanation, Facts};
use super::extract::Query;
use super::paging::{check_limit, invalid_cursor};
use super::problem::Result;
use super::state::Shared;
use super::view::{rfc3339, seconds};
use crate::config::keys;
use crate::front::snapshot::Snapshot;
use crate::policy::host::{HostPattern, request_host};
use crate::policy::path::Path;
use crate::telemetry::events::{Event, EventKind, Text};

/// The parameters of a list of events.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct ListQuery {
    /// The largest number of events in the answer; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
    /// The cursor of the page before.
    #[param(pattern = "^[0-9]{1,20}$")]
    cursor: Option<String>,
}

/// One page of the list of events.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct EventPage {
    /// The events, the newest first.
    events: Vec<ListedEvent>,
    /// The cursor of the next page; null on the last one.
    cursor: Option<String>,
}

/// The end of a session, or the rejection of a request. A subject and an address are shown as in the log.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct ListedEvent {
    /// Its number since the start of the process.
    sequence: u64,
    /// The request id, 32 hexadecimal digits.
    id: String,
    /// The trace id, 32 hexadecimal digits.
    trace_id: Option<String>,
    /// The time (RFC 3339), unless the clock of the machine was wrong.
    time: Option<String>,
    /// The number of the configuration in use at that time.
    generation: u64,
    /// The name of the route.
    route: Option<String>,
    /// The name of the `[auth]` section.
    auth: Option<String>,
    /// The subject.
    subject: Option<String>,
    /// The client's address.
    address: Option<String>,
    /// The host of the request.
    host: Option<String>,
    /// The path of the request.
    path: Option<String>,
    /// The `Origin` of the request.
    origin: Option<String>,
    /// The name of the upstream.
    upstream: Option<String>,
    /// The upstream's server.
    server: Option<String>,
    /// The cause, as in the log and the metrics.
    cause: &'static str,
    /// The end or the rejection.
    #[serde(flatten)]
    kind: ListedKind,
    /// The same in words.
    explanation: ListedExplanation,
}

/// The end of a session, or the rejection of a request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum ListedKind {
    /// A session ended.
    End(ListedEnd),
    /// A request was rejected.
    Rejection(ListedRejection),
}

/// The end of a session. "In" is the direction from the client to the upstream.
#[derive(Debug, Serialize, ToSchema)]
struct ListedEnd {
    /// Seconds from the 101 to the end.
    age_seconds: f64,
    /// Messages from the client.
    messages_in: u64,
    /// Bytes of frames from the client, with headers.
    bytes_in: u64,
    /// Messages from the upstream.
    messages_out: u64,
    /// Bytes of frames from the upstream, with headers.
    bytes_out: u64,
    /// Messages and frames that exceeded a rate.
    throttled: u64,
    /// The limits that would have acted, where limits are only reported, and how often.
    reported: BTreeMap<&'static str, u64>,
    /// The side that ended it: `client`, `upstream` or `tollgate`.
    #[schema(pattern = "^(client|upstream|tollgate)$")]
    by: &'static str,
    /// The rule within the cause.
    rule: Option<&'static str>,
    /// The close code; null without one.
    code: Option<u16>,
    /// The reason of the Close, if Tollgate sent it.
    reason: String,
}

/// The rejection of a request.
#[derive(Debug, Serialize, ToSchema)]
struct ListedRejection {
    /// The status of the answer; 499 if the client disconnected before it.
    status: u16,
    /// The broken rule within the cause.
    rule: Option<&'static str>,
    /// The claim that fails a requirement.
    claim: Option<String>,
    /// Further text, such as an error of the upstream.
    detail: Option<String>,
}

/// An event in words.
#[derive(Debug, Serialize, ToSchema)]
struct ListedExplanation {
    /// The event and its rule.
    text: String,
    /// The change that prevents the event, or that none is needed.
    advice: String,
    /// The settings that decide, the most relevant first.
    settings: Vec<ListedSetting>,
    /// The path of the configuration.
    file: String,
    /// Whether the configuration is still the one of the event. If not, the lines may be others.
    is_current: bool,
}

/// A setting in the configuration that is in use.
#[derive(Debug, Serialize, ToSchema)]
struct ListedSetting {
    /// The section.
    section: String,
    /// The key.
    key: &'static str,
    /// The line of the key, or of its section if the key has its default.
    line: Option<usize>,
    /// Whether the file sets the key.
    is_set: bool,
}

/// Lists the last ends of sessions and rejections of requests, the newest first. A flood of rejections leaves the last
/// 500 ends, and the other way round.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "history",
    params(ListQuery),
    responses((status = 200, description = "A page of the list", body = EventPage))
)]
pub(super) async fn list(
    Extract(state): Shared,
    Query(ListQuery { limit, cursor }): Query<ListQuery>,
) -> Result<axum::Json<EventPage>> {
    let limit = check_limit(limit)?;
    let before = cursor.map(|cursor| cursor.parse().map_err(|_| invalid_cursor())).transpose()?;
    let gateway = state.control.gateway();
    let (page, has_more) = gateway.process.events.page(before, limit);
    let cursor = page.last().filter(|_| has_more).map(|event| event.sequence.to_string());
    let snapshot = gateway.snapshot();
    let shares_slots = gateway.cluster.as_ref().is_some_and(|cluster| cluster.config.share.slots);
    let events = page.iter().map(|event| ListedEvent::new(event, &snapshot, shares_slots)).collect();
    Ok(axum::Json(EventPage { events, cursor }))
}

impl ListedEvent {
    fn new(event: &Event, snapshot: &Snapshot, shares_slots: bool) -> Self {
        let owned = |text: &Text| text.as_deref().map(str::to_owned);
        let (cause, kind) = kind(&event.kind);
        Self {
            sequence: event.sequence,
            id: event.id.to_string(),
            trace_id: event.trace_id.map(|id| id.to_string()),
            time: event.unix.and_then(rfc3339),
            generation: event.generation,
            route: owned(&event.route),
            auth: owned(&event.auth),
            subject: owned(&event.subject),
            address: owned(&event.address),
            host: owned(&event.host),
            path: owned(&event.path),
            origin: owned(&event.origin),
            upstream: owned(&event.upstream),
            server: owned(&event.server),
            cause,
            kind,
            explanation: ListedExplanation::new(event, snapshot, shares_slots),
        }
    }
}

fn kind(kind: &EventKind) -> (&'static str, ListedKind) {
    match kind {
        EventKind::End { age, counts, reported, outcome, reason } => {
            let end = ListedEnd {
                age_seconds: seconds(*age),
                messages_in: counts.client.messages,
                bytes_in: counts.client.bytes,
                messages_out: counts.upstream.messages,
                bytes_out: counts.upstream.bytes,
                throttled: counts.throttled,
                reported: reported.iter().map(|(limit, count)| (limit.label(), *count)).collect(),
                by: outcome.by.label(),
                rule: outcome.cause.rule(),
                code: outcome.code.map(|code| code.0),
                reason: reason.to_string(),
            };
            (outcome.cause.label(), ListedKind::End(end))
        }
        EventKind::Rejection { rejection, claim, detail } => {
            let rejected = ListedRejection {
                status: rejection.response().status.as_u16(),
                rule: rejection.detail(),
                claim: claim.as_deref().map(str::to_owned),
                detail: detail.as_deref().map(str::to_owned),
            };
            (rejection.label(), ListedKind::Rejection(rejected))
        }
    }
}

impl ListedExplanation {
    fn new(event: &Event, snapshot: &Snapshot, shares_slots: bool) -> Self {
        let routes = snapshot.policy().routes();
        let route = event.route.as_deref().and_then(|route| routes.named(route));
        let claim = match &event.kind {
            EventKind::Rejection { claim, .. } => claim.as_deref(),
            EventKind::End { .. } => None,
        };
        // A request without a token is of no section, but that of a route with one section would be of that.
        let only = route.and_then(|route| match &*route.config.auth {
            [only] => Some(&**only),
            _ => None,
        });
        // An event does not know its listener, but that of a process with one listener is this one.
        let mut listeners = snapshot.listeners().map(|(_, listener)| listener.address.to_string());
        let listener = listeners.next().filter(|_| listeners.next().is_none());
        let facts = Facts {
            listener: listener.as_deref(),
            route: event.route.as_deref(),
            auth: event.auth.as_deref().or(only),
            upstream: event.upstream.as_deref(),
            server: event.server.as_deref(),
            origin: event.origin.as_deref(),
            host: event.host.as_deref(),
            path: event.path.as_deref(),
            address: event.address.as_deref(),
            claim,
            is_claim_required: route.zip(claim).map(|(route, claim)| {
                route.config.require.iter().any(|requirement| requirement.claim().to_string() == *claim)
            }),
            has_hosts: routes.iter().any(|route| route.config.host != HostPattern::Any),
            slash_route: slash_route(event, snapshot),
            shares_slots,
            detail: match &event.kind {
                EventKind::Rejection { detail, .. } => detail.as_deref(),
                EventKind::End { .. } => None,
            },
        };
        // With `on_reload = "keep"`, a session may have had the terms of an earlier configuration.
        let is_end = matches!(event.kind, EventKind::End { .. });
        let has_its_terms = !is_end || snapshot.rechecked_generation() == snapshot.generation();
        let Explanation { text, advice, settings } = match &event.kind {
            EventKind::End { outcome, reason, .. } => explain::end(*outcome, reason, &facts),
            EventKind::Rejection { rejection, .. } => explain::rejection(*rejection, &facts),
        };
        let settings = settings.into_iter().map(|(section, key)| {
            let find = |key| snapshot.setting_lines().find(section, key);
            let is_set = |key| find(key).is_some_and(|found| found.is_set);
            // The servers of an upstream may be listed elsewhere.
            let is_elsewhere = key == keys::SERVERS.name && !is_set(key) && is_set(keys::DISCOVER.name);
            let key = if is_elsewhere { keys::DISCOVER.name } else { key };
            let found = find(key);
            ListedSetting {
                section: section.to_string(),
                key,
                line: found.map(|found| found.line),
                is_set: found.is_some_and(|found| found.is_set),
            }
        });
        Self {
            text,
            advice,
            settings: settings.collect(),
            file: snapshot.file_name().display().to_string(),
            is_current: event.generation == snapshot.generation() && has_its_terms,
        }
    }
}

/// Returns the route that serves the path of a request without a route with a slash more or less at its end.
fn slash_route<'a>(event: &Event, snapshot: &'a Snapshot) -> Option<&'a str> {
    let (None, Some(path)) = (&event.route, event.path.as_deref()) else { return None };
    let other = path.strip_suffix('/').map_or_else(|| format!("{path}/"), str::to_owned);
    let (host, path) = (request_host(event.host.as_deref()?)?, Path::parse(&other).ok()?);
    snapshot.policy().routes().find(&host, &path).map(|(route, _)| &**route.name())
}
