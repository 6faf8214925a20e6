//! The connection of a request, as its service sees it.

use std::future::poll_fn;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use super::body_scanner::BodyScanner;
use super::connection_config::ConnectionConfig;
use super::gateway::Gateway;
use super::request_progress::RequestProgress;
use crate::policy::endpoints::Endpoints;
use crate::policy::peer::Peer;
use crate::policy::rejection::Rejection;
use crate::relay::registry::SessionContext;
use crate::runtime::handshake_pacing;
use crate::runtime::pending_limit::{AddressPermit, Exhausted};
use crate::telemetry::metrics::labels::ConnectionState;
use crate::telemetry::metrics::worker::ConnectionGuard;

/// A connection that carries one request, or several ordinary ones.
#[derive(Debug)]
pub(super) struct RequestConnection<'a> {
    pub(super) gateway: &'a Arc<Gateway>,
    pub(super) worker: &'a SessionContext,
    pub(super) config: &'a ConnectionConfig,
    pub(super) peer: (Peer, Option<Endpoints>),
    pub(super) progress: RequestProgress,
    /// The number of requests that have arrived.
    requests: AtomicU32,
    guard: Mutex<&'a mut ConnectionGuard>,
    /// The permit to stay open between requests.
    kept: Mutex<Option<AddressPermit>>,
}

impl<'a> RequestConnection<'a> {
    pub(super) fn new(
        gateway: &'a Arc<Gateway>,
        worker: &'a SessionContext,
        config: &'a ConnectionConfig,
        peer: (Peer, Option<Endpoints>),
        guard: &'a mut ConnectionGuard,
    ) -> Self {
        let (progress, requests, guard) = (RequestProgress::new(), AtomicU32::new(0), Mutex::new(guard));
        Self { gateway, worker, config, peer, progress, requests, guard, kept: Mutex::new(None) }
    }

    /// Counts a request that has arrived. Returns whether it is the first one.
    pub(super) fn count_request(&self) -> bool {
        self.requests.fetch_add(1, Ordering::Relaxed) == 0
    }

    /// Returns the number of requests that have arrived.
    pub(super) fn requests(&self) -> u32 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Passes the body of the request to hyper from now on.
    pub(super) async fn take_body(&self, body: BodyScanner) {
        self.progress.take_body(body);
        // hyper has tried to read the body already, and waits for bytes that the stream may have kept.
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            Poll::Ready(())
        })
        .await;
    }

    /// Begins to carry ordinary requests: the connection is no handshake any more.
    pub(super) fn carry_requests(&self) {
        self.guard.lock().unwrap_or_else(PoisonError::into_inner).enter(ConnectionState::Http);
        handshake_pacing::release();
    }

    /// Returns a permit for an ordinary request of a client.
    pub(super) fn permit(&self, client: IpAddr) -> Result<AddressPermit, Rejection> {
        let permit = self.gateway.request_limit.request(self.config.counted(Peer::Ip(client)));
        permit.map_err(|exhausted| match exhausted {
            Exhausted::Share => Rejection::AddressRequests,
            Exhausted::All => Rejection::RequestsFull,
        })
    }

    /// Whether the connection may stay open after the response in progress: there is room, and the process does not
    /// stop.
    pub(super) fn may_stay_open(&self) -> bool {
        let lifecycle = &self.gateway.process.lifecycle;
        if self.requests() >= self.config.requests_per_connection.get()
            || !lifecycle.is_ready()
            || !lifecycle.is_admitting()
        {
            return false;
        }
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.is_none() {
            *kept = self.gateway.request_limit.connection(self.counted());
        }
        kept.is_some()
    }

    fn counted(&self) -> Option<IpAddr> {
        self.config.counted(self.peer.0)
    }
}
