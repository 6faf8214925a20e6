//! `GET /metrics`: the metrics in the text format of Prometheus.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

use super::state::{Shared, State};

/// The media type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Returns the metrics in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "process",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn metrics(Extract(state): Shared) -> Response {
    ([(CONTENT_TYPE, TEXT)], text(&state)).into_response()
}

fn text(state: &Arc<State>) -> String {
    format!(
        "# TYPE tollgate_config_generation gauge\ntollgate_config_generation {}\n",
        state.control.gateway().snapshot().generation()
    )
}
