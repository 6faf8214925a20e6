//! Endpoints that close sessions and send messages to them.

use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State as Extract};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::access::Caller;
use super::audit;
use super::extract::{Json, MESSAGE_MAX_BYTES, Query, integer};
use super::filter::{Filter, Selection};
use super::listing::Elsewhere;
use super::problem::{Problem, Result};
use super::schema;
use super::sessions::{find, find_at_other_node, unknown};
use super::shared::{CloseOperation, SendOperation, check_payload, share};
use super::state::{Shared, State};
use super::view::Selected;
use crate::cluster::event::OperationKind;
use crate::config::parse_duration;
use crate::server::control::{CLOSES_MAX, TooManyCloses};
use crate::telemetry::request::RequestId;
use crate::ws::code::CloseCode;
use crate::ws::frame::{Message, REASON_MAX_BYTES};

/// The code and the reason of a Close that names none.
const CODE_DEFAULT: u16 = CloseCode::POLICY_VIOLATION.0;
const REASON_DEFAULT: &str = "closed by an operator";
/// The longest time over which closes may be spread.
pub(super) const SPREAD_MAX: Duration = Duration::from_secs(3600);

/// The parameters of a close of one session.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct CloseQuery {
    /// The close code, 1008 by default.
    #[param(schema_with = schema::close_code)]
    code: Option<u16>,
    /// The reason, at most 123 bytes.
    #[param(max_length = 123)]
    reason: Option<String>,
}

/// A close of several sessions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Close {
    /// The sessions to close.
    #[serde(default)]
    filter: Filter,
    /// Has to be true, here or in the filter, if the filter is empty.
    #[serde(default)]
    all: bool,
    /// The close code, 1008 by default.
    #[schema(schema_with = schema::close_code_or_null)]
    #[serde(default, deserialize_with = "integer")]
    code: Option<u16>,
    /// The reason, at most 123 bytes.
    #[schema(max_length = 123)]
    reason: Option<String>,
    /// The time over which the closes are spread evenly, at most an hour. By default all sessions close at once.
    #[schema(pattern = "^([0-9]{1,6}ms|[0-9]{1,3}s|[1-5]?[0-9]m|1h)$", example = "10s")]
    spread: Option<String>,
}

/// A message to several clients. Either `text` or `binary` is given.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Send {
    /// The sessions to send to.
    #[serde(default)]
    filter: Filter,
    /// Has to be true, here or in the filter, if the filter is empty.
    #[serde(default)]
    all: bool,
    /// A text message, at most 1 MiB; 64 KiB if the sessions of other nodes get it, too.
    text: Option<String>,
    /// A binary message in base64, at most 1 MiB of it decoded.
    #[schema(
        content_encoding = "base64",
        pattern = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$"
    )]
    binary: Option<String>,
}

/// Closes a session.
#[utoipa::path(
    delete,
    path = "/v1/sessions/{id}",
    tag = "sessions",
    params(("id" = String, Path, description = "The id of the session"), CloseQuery),
    responses(
        (status = 204, description = "The session closes"),
        (status = 503, description = "Too many closes are in progress, or not all other nodes of the cluster answer", body = Problem,
            content_type = "application/problem+json"),
        (status = 404, description = "There is no such session", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn close_one(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(CloseQuery { code, reason }): Query<CloseQuery>,
) -> Result<StatusCode> {
    let (code, reason) = (check_code(code)?, check_reason(reason.as_deref())?);
    let entry = match find(&state, &id).await {
        Ok(entry) => entry,
        Err(problem) => {
            let node = match find_at_other_node(&state, &id).await {
                Elsewhere::At(node) => node,
                Elsewhere::Nowhere => return Err(problem),
                Elsewhere::Unknown => return Err(unknown()),
            };
            let filter = Filter { id: Some(id.clone()), ..Filter::default() };
            let told = share_close(&state, &filter, (code, reason), Duration::ZERO).await;
            told.and_then(std::result::Result::ok).ok_or_else(cluster_away)?;
            audit::log(caller, "close", &format_args!("id={id} code={code} reason={reason:?} of node {node}"), 1);
            return Ok(StatusCode::NO_CONTENT);
        }
    };
    state.control.close(vec![entry.id], code, reason, Duration::ZERO).await.map_err(too_many_closes)?;
    audit::log(caller, "close", &format_args!("id={} code={code} reason={reason:?}", entry.id), 1);
    Ok(StatusCode::NO_CONTENT)
}

/// Closes the sessions that match a filter.
#[utoipa::path(
    post,
    path = "/v1/sessions/close",
    tag = "sessions",
    request_body = Close,
    responses(
        (status = 202, description = "The number of sessions that close", body = Selected),
        (status = 503, description = "Too many closes are in progress", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn close(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Json(Close { filter, all, code, reason, spread }): Json<Close>,
) -> Result<(StatusCode, axum::Json<Selected>)> {
    let (code, reason) = (check_code(code)?, check_reason(reason.as_deref())?);
    let spread = spread.map_or(Ok(Duration::ZERO), |spread| {
        let bounds = Duration::ZERO..=SPREAD_MAX;
        parse_duration(&spread, &bounds).map_err(|error| Problem::bad_request(format!("`spread`: {error}")))
    })?;
    let mut filter = filter;
    filter.all |= all;
    let filter = filter.check_for_change(all)?;
    let ids = select(&state, &filter).await;
    let selected = ids.len();
    state.control.close(ids, code, reason, spread).await.map_err(too_many_closes)?;
    let told = share_close(&state, filter.filter(), (code, reason), spread).await;
    audit::log(
        caller,
        "close",
        &format_args!("{} code={code} reason={reason:?} spread={}ms", filter.summary(), spread.as_millis()),
        selected,
    );
    Ok((StatusCode::ACCEPTED, axum::Json(Selected::new(selected, told))))
}

/// Sends a message to the clients of the sessions that match a filter.
#[utoipa::path(
    post,
    path = "/v1/sessions/send",
    tag = "sessions",
    request_body = Send,
    responses((status = 202, description = "The number of sessions that get the message", body = Selected))
)]
pub(super) async fn send(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Json(Send { filter, all, text, binary }): Json<Send>,
) -> Result<(StatusCode, axum::Json<Selected>)> {
    let message = message(text, binary)?;
    let mut filter = filter;
    filter.all |= all;
    let filter = filter.check_for_change(all)?;
    let bytes = message.payload().len();
    check_payload(&state.control, bytes)?;
    let ids = select(&state, &filter).await;
    let selected = ids.len();
    let operation = SendOperation { filter: filter.filter().clone(), is_text: matches!(message, Message::Text(_)) };
    let payload = message.payload().to_vec();
    state.control.send(ids, message).await;
    let told = share(&state.control, OperationKind::Send, &operation, payload).await;
    audit::log(caller, "send", &format_args!("{} bytes={bytes}", filter.summary()), selected);
    Ok((StatusCode::ACCEPTED, axum::Json(Selected::new(selected, told))))
}

/// Tells the other nodes of a close. See [`share`].
async fn share_close(
    state: &State,
    filter: &Filter,
    (code, reason): (CloseCode, &str),
    spread: Duration,
) -> Option<std::result::Result<usize, &'static str>> {
    let spread_millis = u64::try_from(spread.as_millis()).unwrap_or(u64::MAX);
    let operation = CloseOperation { filter: filter.clone(), code: code.0, reason: reason.to_owned(), spread_millis };
    share(&state.control, OperationKind::Close, &operation, Vec::new()).await
}

fn cluster_away() -> Box<Problem> {
    let detail = "the session is one of another node, and the server of the cluster is away";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}

fn too_many_closes(_: TooManyCloses) -> Box<Problem> {
    let detail = format!("{CLOSES_MAX} closes are in progress: wait until one has ended");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail)
}

async fn select(state: &State, filter: &Selection) -> Vec<RequestId> {
    let entries = state.control.sessions().await;
    entries.iter().filter(|entry| filter.matches(entry)).map(|entry| entry.id).collect()
}

fn message(text: Option<String>, binary: Option<String>) -> Result<Message> {
    let message = match (text, binary) {
        (Some(text), None) => Message::Text(text.into()),
        (None, Some(binary)) => {
            let bytes = STANDARD.decode(binary);
            Message::Binary(bytes.map_err(|_| Problem::bad_request("`binary` is not base64"))?.into())
        }
        _ => return Err(Problem::bad_request("either `text` or `binary` is needed")),
    };
    if message.payload().len() > MESSAGE_MAX_BYTES {
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "a message may have at most 1 MiB"));
    }
    Ok(message)
}

/// Admits the codes that a proxy may send on behalf of an operator: those of errors that only the protocol finds are
/// left out.
pub(super) fn check_code(code: Option<u16>) -> Result<CloseCode> {
    match code.unwrap_or(CODE_DEFAULT) {
        code @ (1000 | 1001 | 1008 | 1011..=1013 | 3000..=4999) => Ok(CloseCode(code)),
        _ => Err(Problem::bad_request("`code` is 1000, 1001, 1008, 1011, 1012, 1013, or from 3000 to 4999")),
    }
}

pub(super) fn check_reason(reason: Option<&str>) -> Result<&str> {
    let reason = reason.unwrap_or(REASON_DEFAULT);
    if reason.len() > REASON_MAX_BYTES {
        return Err(Problem::bad_request(format!("`reason` may have at most {REASON_MAX_BYTES} bytes")));
    }
    Ok(reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_codes_that_an_operator_may_send_are_accepted() {
        assert_eq!(check_code(None).unwrap(), CloseCode(1008));
        for code in [1000, 1001, 1008, 1011, 1012, 1013, 3000, 4401, 4999] {
            assert_eq!(check_code(Some(code)).unwrap(), CloseCode(code));
        }
        for code in [0, 999, 1002, 1003, 1004, 1005, 1006, 1007, 1009, 1010, 1014, 1015, 2999, 5000, u16::MAX] {
            assert_eq!(check_code(Some(code)).unwrap_err().status(), 400, "{code}");
        }
    }

    #[test]
    fn a_reason_fits_a_close_frame() {
        assert_eq!(check_reason(Some("")).unwrap(), "");
        assert!(check_reason(None).is_ok());
        assert!(check_reason(Some(&"x".repeat(123))).is_ok());
        assert_eq!(check_reason(Some(&"é".repeat(62))).unwrap_err().status(), 400, "124 bytes");
    }

    #[test]
    fn a_message_is_text_or_binary_and_of_bounded_size() {
        let own =
            |text: Option<&str>, binary: Option<&str>| message(text.map(str::to_owned), binary.map(str::to_owned));
        assert_eq!(own(Some("hello"), None).unwrap(), Message::Text("hello".into()));
        assert_eq!(own(None, Some("aGVsbG8=")).unwrap(), Message::Binary((*b"hello").into()));
        assert_eq!(own(Some(""), None).unwrap(), Message::Text("".into()));
        for (text, binary) in [(None, None), (Some("a"), Some("YQ==")), (None, Some("a")), (None, Some("YQ"))] {
            assert_eq!(own(text, binary).unwrap_err().status(), 400, "{text:?} {binary:?}");
        }
        let large = "x".repeat(MESSAGE_MAX_BYTES);
        assert!(own(Some(&large), None).is_ok());
        assert_eq!(own(Some(&format!("{large}x")), None).unwrap_err().status(), 413);
        assert_eq!(own(None, Some(&STANDARD.encode(format!("{large}x")))).unwrap_err().status(), 413);
    }
}
