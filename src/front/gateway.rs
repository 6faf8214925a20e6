//! What all connections share for as long as the process lives.

use std::sync::Arc;

use crate::policy::admission::Policy;
use crate::relay::Process;
use crate::telemetry::rejections::RejectionLog;
use crate::upstream::Pool;

/// What all connections share.
#[derive(Debug)]
pub struct Gateway {
    /// Who may come in.
    pub policy: Policy,
    /// Where they go; a route's upstream is a place in it.
    pub pools: Vec<Pool>,
    /// The log of refusals.
    pub rejections: RejectionLog,
    /// The phase of the process, and the log of sessions.
    pub process: Arc<Process>,
    /// What a browser gets that asks for `/` without wanting a WebSocket; only the demo has one.
    pub page: Option<String>,
}
