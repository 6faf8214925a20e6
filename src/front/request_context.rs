//! The parts of a request that its log lines share, and the log line of a request that ends before its response.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{Method, Request, Uri};

use super::gateway::Gateway;
use crate::policy::credential::{self, TokenSource};
use crate::policy::forwarded::Client;
use crate::policy::grant::Grant;
use crate::policy::rejection::Rejection;
use crate::runtime::clock;
use crate::runtime::lifecycle::Phase;
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::phases::UpgradePhases;
use crate::telemetry::rejections::RejectionEvent;
use crate::telemetry::request::{RequestId, RequestSummary};
use crate::telemetry::trace_context::{TraceContext, TraceId};

/// The parts of a request that every log line about it contains.
#[derive(Clone, Copy)]
pub(super) struct Context<'a> {
    pub(super) gateway: &'a Gateway,
    pub(super) metrics: &'a WorkerMetrics,
    pub(super) client: Client,
    pub(super) request_id: RequestId,
    pub(super) trace: TraceContext,
    pub(super) method: &'a Method,
    pub(super) summary: RequestSummary<'a>,
    pub(super) phases: UpgradePhases,
    /// The generation of the snapshot that the request uses.
    pub(super) generation: u64,
    pub(super) started: Instant,
    /// Whether it is an ordinary request of a route with `http = true`.
    pub(super) is_ordinary: bool,
}

impl<'a> Context<'a> {
    pub(super) fn event(&self, rejection: Rejection) -> RejectionEvent<'a> {
        let times = self.gateway.process.sessions.slow_times(&self.phases, clock::now());
        RejectionEvent {
            method: Some(self.method),
            summary: self.summary,
            times,
            ..RejectionEvent::new(rejection, self.request_id, self.client.address)
        }
    }

    /// Logs and counts a rejection.
    pub(super) fn log(&self, event: &RejectionEvent<'_>) {
        let (route, outcome) = (event.route.unwrap_or_default(), event.rejection.label());
        if self.is_ordinary {
            self.metrics.count_http_rejection(route, outcome);
        } else {
            self.metrics.count_upgrade(route, outcome);
        }
        self.gateway.log_rejection(event);
    }
}

/// Returns the parts of a request that the log shows. The host is that of the target if the target is absolute, as in
/// the policy.
pub(super) fn summary(request: &Request<()>, trace_id: TraceId) -> RequestSummary<'_> {
    let header = |name| request.headers().get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let host = request.uri().authority().map(Authority::as_str).or_else(|| header(HOST));
    // A user name and a password before the host are secrets of the client.
    let host = host.map(|host| host.rsplit('@').next().unwrap_or(host));
    RequestSummary::new(trace_id, host, Some(request.uri().path()), header(ORIGIN))
}

/// Returns the target of the request to the upstream: the parts of its path, and the query as the client sent it,
/// without the tokens that are removed.
pub(super) fn target([base, path]: [&str; 2], query: Option<&str>, stripped: &[TokenSource]) -> Option<Uri> {
    let query = match stripped {
        [] => query.map(str::to_owned),
        stripped => credential::strip_query(stripped, query),
    };
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    format!("{base}{path}{query}").parse().ok()
}

/// A request that waits for its authentication or, once it is admitted, for its upstream. If it is dropped meanwhile,
/// the client has disconnected or the process aborts; it is logged in both cases.
pub(super) struct PendingRequest<'a> {
    context: &'a Context<'a>,
    route: Arc<str>,
    admitted: Option<(&'a Grant, &'a str)>,
    is_over: bool,
}

impl<'a> PendingRequest<'a> {
    /// `admitted` are the facts that the request was admitted with, and the name of its upstream.
    pub(super) fn new(context: &'a Context<'a>, route: &Arc<str>, admitted: Option<(&'a Grant, &'a str)>) -> Self {
        Self { context, route: Arc::clone(route), admitted, is_over: false }
    }

    /// Waits for the future.
    pub(super) async fn until<T>(mut self, future: impl Future<Output = T>) -> T {
        let output = future.await;
        self.is_over = true;
        output
    }
}

impl Drop for PendingRequest<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let aborted = self.context.gateway.process.lifecycle.phase() == Phase::Aborted;
        let rejection = if aborted { Rejection::Draining } else { Rejection::ClientGone };
        self.context.log(&RejectionEvent {
            route: Some(&self.route),
            auth: self.admitted.and_then(|(grant, _)| grant.auth.as_deref()),
            subject: self.admitted.and_then(|(grant, _)| grant.subject.as_deref()),
            upstream: self.admitted.map(|(_, upstream)| upstream),
            detail: Some(if self.admitted.is_some() {
                "no response of the upstream yet"
            } else {
                "not authenticated yet"
            }),
            ..self.context.event(rejection)
        });
    }
}
