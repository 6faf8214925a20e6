//! The facts of a session that do not change while it is open.

use std::sync::Arc;
use std::time::Instant;

use crate::policy::grant::Grant;
use crate::policy::recheck::OpenSession;
use crate::policy::route::Route;
use crate::policy::session_slots::Holder;
use crate::telemetry::request::{OwnedRequestSummary, RequestId};
use crate::telemetry::sessions::SessionSummary;
use crate::tls::TlsSummary;

/// The facts of a session that do not change while it is open. Its relay and its worker share them.
#[derive(Debug)]
pub struct SessionFacts {
    /// The id of its request.
    pub request_id: RequestId,
    /// The name of its route.
    pub route: Arc<str>,
    /// The facts that it was admitted with.
    pub grant: Arc<Grant>,
    /// The name of its upstream.
    pub upstream: Arc<str>,
    /// The upstream's server, as the configuration names it.
    pub server: Arc<str>,
    /// The target and the origin of its request, for the log.
    pub summary: OwnedRequestSummary,
    /// The version and the cipher suite of its client's connection; `None` without TLS.
    pub tls: Option<TlsSummary>,
    /// The time of its 101.
    pub started: Instant,
}

impl SessionFacts {
    /// Returns the token's subject.
    pub fn subject(&self) -> Option<&str> {
        self.grant.subject.as_deref()
    }

    /// Returns the session in the form that the log shows.
    pub fn log_summary(&self) -> SessionSummary<'_> {
        SessionSummary {
            request_id: self.request_id,
            route: &self.route,
            auth: self.grant.auth.as_deref(),
            subject: self.subject(),
            client: self.grant.address,
            upstream: &self.upstream,
            server: &self.server,
            request: self.summary.summary(),
        }
    }

    /// Returns the session in the form in which a policy checks it. `route` is the route by whose rules it is open.
    pub fn open_session<'a>(&'a self, route: &'a Arc<Route>) -> OpenSession<'a> {
        let holder = Holder { id: self.request_id.0, opened: self.started };
        OpenSession { route, grant: &self.grant, path: self.summary.whole_path(), server: &self.server, holder }
    }
}
