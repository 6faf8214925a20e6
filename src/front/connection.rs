//! One connection: the TLS handshake, and its requests. An upgraded connection continues as a session.

use std::sync::Arc;
use std::time::Instant;

use hyper::body::Bytes;

use super::accept::{AcceptedConnection, accept, after_drain};
use super::admitted::check_registered;
use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use super::linger::linger;
use super::request_connection::RequestConnection;
use super::serve_requests::{RequestOutcome, serve_requests};
use super::upgrade::{self, OpenedSession};
use crate::policy::endpoints::Endpoints;
use crate::policy::peer::Peer;
use crate::relay::facts::SessionFacts;
use crate::relay::registry::SessionContext;
use crate::relay::{Prefixed, Relay, RelayGuards};
use crate::runtime::clock;
use crate::runtime::guard::{LoadGuard, PendingConnection};
use crate::runtime::socket::SocketStream;
use crate::telemetry::metrics::labels::ConnectionState;
use crate::telemetry::metrics::worker::{ConnectionGuard, SessionMetrics, WorkerMetrics};
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::tls::TlsSummary;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// Serves a connection of a peer, with these ends, until it is upgraded or closed, or the process aborts. The wait for
/// a pending permit, the TLS handshake and the request head share the deadline.
pub async fn serve(
    gateway: &Arc<Gateway>,
    sessions: &SessionContext,
    config: &ConnectionConfig,
    stream: SocketStream,
    (peer, endpoints): (Peer, Option<Endpoints>),
    (pending, mut connection): (PendingConnection, ConnectionGuard),
    deadline: Instant,
) -> Option<Relay<ClientStream, UpstreamStream>> {
    let PendingConnection { slot, load } = pending;
    let metrics = sessions.metrics();
    // The connection was accepted this long before its deadline.
    let mut phases = UpgradePhases::start(deadline.checked_sub(config.handshake_timeout).unwrap_or_else(clock::now));
    let lifecycle = &gateway.process.lifecycle;
    let accepted = tokio::select! {
        () = lifecycle.aborted() => return None,
        () = after_drain(lifecycle) => return None,
        accepted = accept(gateway, metrics, config, (stream, peer), slot, deadline, &mut phases) => accepted?,
    };
    let AcceptedConnection { permit, stream, tls } = accepted;
    connection.enter(ConnectionState::Request);
    let now = clock::now();
    phases.enter(UpgradePhase::Head, now);
    let requests = RequestConnection::new(gateway, sessions, config, (peer, endpoints), &mut connection);
    let (stream, read_ahead, outcome) = tokio::select! {
        () = lifecycle.aborted() => return None,
        served = serve_requests(&requests, (stream, permit), deadline, phases) => served,
    };
    drop(requests);
    let opened = match outcome {
        RequestOutcome::Upgraded(opened) => *opened,
        RequestOutcome::Closed(closing) => {
            connection.enter(ConnectionState::Closing);
            linger(stream, closing).await;
            return None;
        }
    };
    upgrade::log_if_slow(gateway, &opened);
    let metrics = count_session(metrics, connection, &opened);
    Some(relay(gateway, sessions, opened, tls, (stream, read_ahead), (load, metrics)))
}

/// Returns the relay of a session whose client has its 101.
fn relay(
    gateway: &Gateway,
    sessions: &SessionContext,
    opened: OpenedSession,
    tls: Option<TlsSummary>,
    (stream, read_ahead): (ClientStream, Bytes),
    (connection, metrics): (LoadGuard, SessionMetrics),
) -> Relay<ClientStream, UpstreamStream> {
    let OpenedSession {
        admission, mut session, upstream, read_ahead: upstream_read_ahead, server, server_session, ..
    } = opened;
    // The bytes are copied, since a slice would keep hyper's whole buffer alive.
    let client_side = Prefixed(stream, read_ahead.to_vec());
    let upstream_side = Prefixed(upstream, upstream_read_ahead.to_vec());
    let route = Arc::clone(admission.route());
    let facts = Arc::new(SessionFacts {
        request_id: opened.request_id,
        route: Arc::clone(route.name()),
        grant: Arc::clone(admission.grant()),
        upstream: Arc::clone(&admission.pool().config().name),
        server,
        summary: opened.summary,
        tls,
        started: clock::now(),
    });
    let session_guard = sessions.register(Arc::clone(&facts), Arc::clone(&route));
    session.report_upgrade(admission.exceeded());
    let mut lease = admission.into_lease();
    lease.hold_server(server_session);
    check_registered(gateway, sessions, session_guard.key(), opened.generation, &lease, &facts);
    let guards = RelayGuards { session: session_guard, connection, metrics };
    Relay::new(lease, session, client_side, upstream_side, facts, Arc::clone(&gateway.process), guards)
}

fn count_session(metrics: &WorkerMetrics, connection: ConnectionGuard, opened: &OpenedSession) -> SessionMetrics {
    let OpenedSession { admission, session, server, started, .. } = opened;
    let target = [admission.route().name(), &admission.pool().config().name, server].map(Arc::clone);
    let duration = clock::now().saturating_duration_since(*started);
    metrics.open_session(connection, target, duration, &session.counts())
}
