//! `GET /metrics`: the metrics in the text format of Prometheus.

use axum::extract::State as Extract;
use axum::response::{IntoResponse, Response};
use http::header::CONTENT_TYPE;

use super::state::{Shared, State};
use crate::server::gauges::gauges;
use crate::telemetry::metrics;

/// Returns the metrics in the text format of Prometheus.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "process",
    responses((status = 200, description = "The metrics", body = String, content_type = "text/plain"))
)]
pub(super) async fn scrape(Extract(state): Shared) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], text(&state)).into_response()
}

fn text(state: &State) -> String {
    state.control.gateway().process.metrics.encode(&gauges(state.control.gateway()))
}
