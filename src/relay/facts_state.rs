//! The facts of a session as plain data, for another process.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};

use super::facts::SessionFacts;
use crate::policy::grant_state::{GrantState, NAME_MAX_BYTES};
use crate::session::state::RelativeTime;
use crate::telemetry::request::{OwnedRequestSummary, RequestId};
use crate::tls::TlsSummary;

/// [`SessionFacts`] as plain data.
#[derive(Debug, Serialize, Deserialize)]
pub struct FactsState {
    request_id: u128,
    route: Arc<str>,
    grant: GrantState,
    upstream: Arc<str>,
    server: Arc<str>,
    summary: OwnedRequestSummary,
    tls: Option<(u16, u16, bool)>,
    started: RelativeTime,
}

impl SessionFacts {
    /// Returns the facts as plain data.
    pub fn export(&self, now: Instant) -> FactsState {
        FactsState {
            request_id: self.request_id.0,
            route: Arc::clone(&self.route),
            grant: self.grant.export(),
            upstream: Arc::clone(&self.upstream),
            server: Arc::clone(&self.server),
            summary: self.summary.clone(),
            tls: self.tls.map(TlsSummary::to_codes),
            started: RelativeTime::since(self.started, now),
        }
    }
}

impl FactsState {
    /// Returns the facts. `None` if a part is not valid, or longer than a request can make it.
    pub fn import(self, now: Instant) -> Option<SessionFacts> {
        let Self { request_id, route, grant, upstream, server, summary, tls, started } = self;
        let is_name = |name: &Arc<str>| name.len() <= NAME_MAX_BYTES;
        if ![&route, &upstream, &server].into_iter().all(is_name) || !summary.is_bounded() {
            return None;
        }
        Some(SessionFacts {
            request_id: RequestId(request_id),
            route,
            grant: Arc::new(grant.import()?),
            upstream,
            server,
            summary,
            tls: tls.map(TlsSummary::from_codes),
            started: started.to_instant(now),
        })
    }
}
