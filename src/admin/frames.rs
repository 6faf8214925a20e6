//! `GET /v1/sessions/ID/frames`: the frames of a session as server-sent events.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::{Path, State as Extract};
use axum::response::sse::{Event, KeepAlive, Sse};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::stream::{Stream, unfold};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use utoipa::{IntoParams, ToSchema};

use super::access::{Caller, Rights};
use super::audit;
use super::extract::Query;
use super::filter::parse_id;
use super::problem::{Problem, Result};
use super::sessions::{no_session, not_here};
use super::state::{Shared, WATCHERS_MAX};
use super::view::seconds;
use crate::relay::watcher::{Watch, WatchEvent, WatchedFrame};
use crate::server::control::WatchError;
use crate::session::Side;
use crate::ws::frame::Opcode;

/// The interval of comments that keep an idle stream open, and find clients that have disconnected.
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The parameters of a tap.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields, default)]
#[into_params(parameter_in = Query)]
pub(super) struct FramesQuery {
    /// Whether events have the payload, up to 4 KiB of each frame. `[admin] payload` has to allow it.
    payload: bool,
}

/// The data of an event `frame`.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
pub(super) struct Frame {
    /// Seconds since the session's 101.
    at_seconds: f64,
    /// `in`: from the client. `out`: from the upstream.
    direction: &'static str,
    /// `continuation`, `text`, `binary`, `close`, `ping` or `pong`.
    opcode: &'static str,
    /// Whether the frame ends its message.
    fin: bool,
    /// Whether the frame begins a compressed message (RFC 7692).
    compressed: bool,
    /// The length of the payload in bytes.
    length: u64,
    /// The start of the payload in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// The same as text, for a text frame that is not compressed.
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
}

/// The data of an event `missed`.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Missed {
    /// The number of frames for which there is no event, because this client read too slowly.
    count: u64,
}

/// Streams the frames of a session until it ends: events `frame`, and `missed` where the client read too slowly.
#[utoipa::path(
    get,
    path = "/v1/sessions/{id}/frames",
    tag = "sessions",
    params(("id" = String, Path, description = "The id of the session"), FramesQuery),
    responses(
        (status = 200, description = "Events `frame` and `missed`", body = Frame, content_type = "text/event-stream"),
        (status = 404, description = "There is no such session, or it is at another node", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "There are too many taps, or not all other nodes of the cluster answer", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(super) async fn frames(
    Extract(state): Shared,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
    Query(FramesQuery { payload }): Query<FramesQuery>,
) -> Result<Sse<impl Stream<Item = std::result::Result<Event, Infallible>>>> {
    if payload && !state.payload {
        return Err(Problem::new(StatusCode::FORBIDDEN, "payloads are only shown with `[admin] payload = true`"));
    }
    // Payloads are the users' data.
    if payload && caller.rights != Rights::All {
        return Err(Problem::new(StatusCode::FORBIDDEN, "this token sees no payloads"));
    }
    let request = parse_id(&id).ok_or_else(|| no_session(&id))?;
    let Ok(permit) = Arc::clone(&state.watchers).try_acquire_owned() else {
        let detail = format!("there are {WATCHERS_MAX} taps already");
        return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
    };
    let watch = match state.control.watch(request, payload).await {
        Ok(watch) => watch,
        Err(WatchError::NoSession) => return Err(not_here(&state, &id).await),
        Err(WatchError::TooMany) => {
            let detail = "as many taps as possible watch this session already";
            return Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail));
        }
    };
    audit::log(caller, "tap", &format_args!("id={request} payload={payload}"), 1);
    let tap = Tap { watch, stop: state.stop.clone(), _permit: permit };
    Ok(Sse::new(unfold(tap, next)).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

/// An open tap.
struct Tap {
    watch: Watch,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

async fn next(mut tap: Tap) -> Option<(std::result::Result<Event, Infallible>, Tap)> {
    let event = tokio::select! {
        event = tap.watch.next() => event?,
        () = tap.stop.cancelled() => return None,
    };
    let event = match event {
        WatchEvent::Missed(count) => Event::default().event("missed").json_data(Missed { count }),
        WatchEvent::Frame(frame) => Event::default().event("frame").json_data(Frame::from(frame)),
    };
    // The types above always have a JSON form.
    Some((Ok(event.ok()?), tap))
}

impl From<WatchedFrame> for Frame {
    fn from(frame: WatchedFrame) -> Self {
        let WatchedFrame { from, opcode, fin, compressed, length, payload, at } = frame;
        let is_text = opcode == Opcode::Text && !compressed;
        let text = payload.as_deref().filter(|_| is_text).and_then(text);
        Self {
            at_seconds: seconds(at),
            direction: match from {
                Side::Client => "in",
                Side::Upstream => "out",
            },
            opcode: name(opcode),
            fin,
            compressed,
            length,
            payload: payload.map(|payload| STANDARD.encode(payload)),
            text,
        }
    }
}

/// Returns the part of a payload that is whole characters: it may be cut within one, by its frame or by the limit of an
/// event. `None`: it is not UTF-8.
fn text(payload: &[u8]) -> Option<String> {
    match std::str::from_utf8(payload) {
        Ok(text) => Some(text.to_owned()),
        Err(error) if error.error_len().is_none() => {
            let whole = payload.get(..error.valid_up_to())?;
            Some(String::from_utf8_lossy(whole).into_owned())
        }
        Err(_) => None,
    }
}

fn name(opcode: Opcode) -> &'static str {
    match opcode {
        Opcode::Continuation => "continuation",
        Opcode::Text => "text",
        Opcode::Binary => "binary",
        Opcode::Close => "close",
        Opcode::Ping => "ping",
        Opcode::Pong => "pong",
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Bytes;

    use super::*;

    fn frame(opcode: Opcode, compressed: bool, payload: Option<&'static [u8]>) -> Frame {
        let length = payload.map_or(5, |payload| payload.len() as u64);
        let (payload, at) = (payload.map(Bytes::from_static), Duration::from_millis(1500));
        let from = Side::Upstream;
        WatchedFrame { from, opcode, fin: true, compressed, length, payload, at }.into()
    }

    #[test]
    fn only_uncompressed_text_is_shown_as_text() {
        let shown = |opcode, compressed, payload| {
            let frame = frame(opcode, compressed, payload);
            (frame.payload, frame.text)
        };
        let (base64, text) = (|| Some("aGk=".to_owned()), || Some("hi".to_owned()));
        assert_eq!(shown(Opcode::Text, false, None), (None, None));
        assert_eq!(shown(Opcode::Text, false, Some(b"hi")), (base64(), text()));
        assert_eq!(shown(Opcode::Text, true, Some(b"hi")), (base64(), None));
        assert_eq!(shown(Opcode::Binary, false, Some(b"hi")), (base64(), None));
        // A character that is cut off is left out, and text that is not UTF-8 is not text.
        assert_eq!(shown(Opcode::Text, false, Some(b"hi\xc3")).1, text());
        assert_eq!(shown(Opcode::Text, false, Some(b"hi\xc3(")).1, None);
    }

    #[test]
    fn a_frame_without_payload_has_its_header_only() {
        let json = serde_json::to_value(frame(Opcode::Ping, false, None)).unwrap();
        let expected = serde_json::json!({
            "at_seconds": 1.5, "direction": "out", "opcode": "ping", "fin": true, "compressed": false, "length": 5
        });
        assert_eq!(json, expected);
    }
}
