//! `GET /v1/nodes`: the nodes of the cluster.

use axum::extract::State as Extract;
use serde::Serialize;
use utoipa::ToSchema;

use super::state::Shared;
use super::view::seconds;
use crate::cluster::handle::Cluster;
use crate::cluster::nodes::{Node, View};
use crate::runtime::clock;

/// The nodes.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct NodeList {
    /// Whether the server of the cluster answers; null if the process is in no cluster.
    server_answers: Option<bool>,
    /// The error with which the server answers, if it cannot be used for it; absent if it can be used, or does not answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    server_error: Option<String>,
    /// Whether `close` and `send` reach the sessions of all nodes; null if the process is in no cluster.
    shares_sessions: Option<bool>,
    /// The age of this list in seconds; null if there is none.
    age_seconds: Option<f64>,
    /// The nodes that are not dead, ordered by their ids; empty if the process is in no cluster, or was never registered.
    nodes: Vec<ListedNode>,
}

/// A node. Its facts are null if it has another version that says them differently.
#[derive(Debug, Serialize, ToSchema)]
struct ListedNode {
    /// Its id. A node that was dead returns with another one.
    id: String,
    /// Whether it is the node that answers.
    this: bool,
    /// The name of its machine.
    name: Option<String>,
    /// The address of its first listener.
    address: Option<String>,
    /// Its version of Tollgate.
    version: Option<String>,
    /// The digest of its routes, upstreams and `[auth]` sections, which should be the same on all nodes.
    config: Option<String>,
    /// Whether its `secret_file` has the secret of the node that answers; null if its version does not say it.
    same_secret: Option<bool>,
    /// The generation of its configuration.
    generation: Option<u64>,
    /// The number of its sessions.
    sessions: Option<u64>,
    /// The seconds since its last heartbeat, as of the time of this list.
    silent_seconds: f64,
}

impl ListedNode {
    fn new(node: &Node, view: &View) -> Self {
        let facts = node.facts.as_ref();
        Self {
            id: node.id.to_string(),
            this: node.id == view.id,
            name: facts.map(|facts| facts.name.clone()),
            address: facts.map(|facts| facts.address.clone()),
            version: facts.map(|facts| facts.version.clone()),
            config: facts.map(|facts| facts.config.clone()),
            same_secret: view.own().and_then(|own| own.has_secret_of(node)),
            generation: facts.map(|facts| facts.generation),
            sessions: facts.map(|facts| facts.sessions),
            silent_seconds: seconds(node.silent),
        }
    }
}

/// Lists the nodes of the cluster.
#[utoipa::path(
    get,
    path = "/v1/nodes",
    tag = "process",
    responses((status = 200, description = "The nodes", body = NodeList))
)]
pub(super) async fn list(Extract(state): Shared) -> axum::Json<NodeList> {
    axum::Json(listed(state.control.gateway().cluster.as_deref()))
}

fn listed(cluster: Option<&Cluster>) -> NodeList {
    let view = cluster.and_then(|cluster| cluster.nodes.view());
    let age = view.as_ref().map(|view| seconds(clock::now().saturating_duration_since(view.sent)));
    let mut nodes: Vec<_> =
        view.iter().flat_map(|view| view.nodes.iter().map(|node| ListedNode::new(node, view))).collect();
    nodes.sort_by(|one, other| one.id.cmp(&other.id));
    NodeList {
        server_answers: cluster.map(|cluster| cluster.link.is_up()),
        server_error: cluster.and_then(|cluster| cluster.link.refusal()),
        shares_sessions: cluster.map(Cluster::shares_sessions),
        age_seconds: age,
        nodes,
    }
}
