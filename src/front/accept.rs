//! The steps of a connection before its request: a permit, and the TLS handshake.

use std::error::Error;
use std::io;
use std::time::{Duration, Instant};

use tokio::io::Interest;
use tokio::time::{sleep, timeout_at};

use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use crate::policy::peer::Peer;
use crate::policy::proxy_header::ProxyHeaderError;
use crate::runtime::clock;
use crate::runtime::lifecycle::Lifecycle;
use crate::runtime::pending_limit::{PendingPermit, PendingSlot};
use crate::runtime::socket::SocketStream;
use crate::telemetry::metrics::labels::{HandshakeOutcome, TlsVersion};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::phases::{UpgradePhase, UpgradePhases};
use crate::tls::TlsSummary;
use crate::tls::challenge::ChallengeAnswered;
use crate::tls::stream::ClientStream;

/// The interval at which a queued connection whose client sends urgent data is checked.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// The time that a client without a request has to send one after the drain has started.
const DRAIN_GRACE: Duration = Duration::from_secs(1);

/// A connection that is ready for its request.
pub(super) struct AcceptedConnection {
    pub(super) permit: PendingPermit,
    pub(super) stream: ClientStream,
    /// `None` on a plain listener.
    pub(super) tls: Option<TlsSummary>,
}

/// Waits for a pending permit, and does the TLS handshake of a listener with TLS, which is counted. A failure is
/// logged.
pub(super) async fn accept(
    gateway: &Gateway,
    metrics: &WorkerMetrics,
    config: &ConnectionConfig,
    (stream, peer): (SocketStream, Peer),
    slot: PendingSlot,
    deadline: Instant,
    phases: &mut UpgradePhases,
) -> Option<AcceptedConnection> {
    let accepted = timeout_at(deadline.into(), establish(slot, config, stream, phases)).await;
    let identities = gateway.process.sessions.identities();
    let client = identities.address(peer.address());
    if config.tls.is_none() {
        if !matches!(accepted, Ok(Ok(_))) {
            tracing::debug!(client, "closed while it waited for a permit");
        }
        return accepted.ok()?.ok();
    }
    metrics.count_handshake(handshake_outcome(&accepted));
    match accepted {
        Ok(Ok(accepted)) => return Some(accepted),
        Ok(Err(error)) if is_proxy_header(&error) => {
            gateway.rejections.log_proxy_header(peer.address(), &config.listener, identities, clock::now());
        }
        Ok(Err(error)) if challenge(&error).is_some() => {
            tracing::info!(client, "ACME challenge answered (TLS-ALPN-01)");
        }
        Ok(Err(error)) => tracing::debug!(client, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(client, "TLS handshake took too long"),
    }
    None
}

async fn establish(
    slot: PendingSlot,
    config: &ConnectionConfig,
    stream: SocketStream,
    phases: &mut UpgradePhases,
) -> io::Result<AcceptedConnection> {
    let permit = tokio::select! {
        permit = slot.acquire() => permit,
        // A client that disconnects while it is queued gives up its position.
        () = peer_closed(&stream) => None,
    };
    let permit = permit.ok_or(io::ErrorKind::NotConnected)?;
    phases.enter(UpgradePhase::Tls, clock::now());
    let (stream, tls) = match &config.tls {
        Some(config) => ClientStream::accept(config, stream).await.map(|(stream, tls)| (stream, Some(tls)))?,
        None => (ClientStream::plain(stream), None),
    };
    Ok(AcceptedConnection { permit, stream, tls })
}

fn is_proxy_header(error: &io::Error) -> bool {
    error.get_ref().is_some_and(<dyn Error + Send + Sync>::is::<ProxyHeaderError>)
}

fn handshake_outcome<E>(accepted: &Result<io::Result<AcceptedConnection>, E>) -> HandshakeOutcome {
    match accepted {
        Ok(Ok(AcceptedConnection { tls, .. })) => {
            let unknown = HandshakeOutcome::Completed { version: TlsVersion::Tls12, resumed: false };
            tls.map_or(unknown, completed)
        }
        Ok(Err(error)) => match challenge(error) {
            Some(ChallengeAnswered(tls)) => completed(*tls),
            None => HandshakeOutcome::from(error),
        },
        Err(_) => HandshakeOutcome::TimedOut,
    }
}

fn completed(tls: TlsSummary) -> HandshakeOutcome {
    let version = if tls.is_tls13() { TlsVersion::Tls13 } else { TlsVersion::Tls12 };
    HandshakeOutcome::Completed { version, resumed: tls.resumed() }
}

/// Returns the handshake that validated an ACME challenge, after which the connection is closed.
fn challenge(error: &io::Error) -> Option<&ChallengeAnswered> {
    error.get_ref().and_then(|error| error.downcast_ref())
}

/// Completes when the client has closed its direction, even if bytes that it sent before are unread.
async fn peer_closed(stream: &SocketStream) {
    // Readiness for urgent data includes the end of the stream. Urgent data itself has no meaning here.
    while stream.ready(Interest::PRIORITY).await.is_ok_and(|ready| !ready.is_read_closed()) {
        sleep(WATCH_INTERVAL).await;
    }
}

/// Completes some time after the start of the drain. Until then, clients that connected without a request may send one,
/// and get a 503.
pub(super) async fn after_drain(lifecycle: &Lifecycle) {
    lifecycle.draining().await;
    sleep(DRAIN_GRACE).await;
}
