//! The operations that the nodes of a cluster tell each other, in JSON.

use http::StatusCode;
use serde::{Deserialize, Serialize};

use super::filter::Filter;
use super::problem::{Problem, Result};
use crate::cluster::event::{Operation, OperationKind, PAYLOAD_MAX_BYTES};
use crate::cluster::events::ShareError;
use crate::cluster::handle::Cluster;
use crate::server::control::Control;

/// Closes the sessions that match a filter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseOperation {
    pub(super) filter: Filter,
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) spread_millis: u64,
}

/// Sends the message in the payload to the sessions that match a filter.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendOperation {
    pub(super) filter: Filter,
    pub(super) is_text: bool,
}

/// Returns the cluster if operations reach the sessions of all its nodes.
pub(super) fn cluster(control: &Control) -> Option<&Cluster> {
    control.gateway().cluster.as_deref().filter(|cluster| cluster.shares_sessions())
}

/// Checks that the other nodes can get a payload.
///
/// # Errors
/// 413 if it is too large.
pub(super) fn check_payload(control: &Control, bytes: usize) -> Result<()> {
    if cluster(control).is_some() && bytes > PAYLOAD_MAX_BYTES {
        let detail = format!("a message to the sessions of a cluster may have at most {} KiB", PAYLOAD_MAX_BYTES >> 10);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(())
}

/// Tells the other nodes of an operation. Returns their number, or why they do not get it; `None` if there is no cluster.
pub(super) async fn share(
    control: &Control,
    kind: OperationKind,
    parameters: &impl Serialize,
    payload: Vec<u8>,
) -> Option<std::result::Result<usize, &'static str>> {
    let cluster = cluster(control)?;
    // The parameters always have a form in JSON.
    let text = serde_json::to_string(parameters).ok()?;
    let told = cluster.share_operation(Operation { kind, text, payload }).await.map_err(|error| match error {
        ShareError::TooLarge => "the filter is too large for the nodes of a cluster",
        ShareError::Unavailable => "the cluster's server does not take the operation",
    });
    Some(told.inspect_err(|reason| tracing::warn!(?kind, reason, "the other nodes do not get an operation")))
}
