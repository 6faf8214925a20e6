//! The task of a session, which freezes and continues it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::oneshot;

use super::description::RateWindow;
use super::facts::SessionFacts;
use super::freezing::{FreezeRequest, Freezing, MovingParts, MovingSession, Verdict};
use super::image::{RelayState, SessionImage};
use super::peer_io::PeerIo;
use super::releasable::Releasable;
use super::terms::RelayTerms;
use super::{HIBERNATE_AFTER, OpenSession, Process, Relay, RelayExit, RelayGuards};
use crate::runtime::clock;
use crate::runtime::cycle::Ticket;
use crate::runtime::lifecycle::Phase;
use crate::runtime::socket::DetachedSocket;
use crate::session::Session;
use crate::session::state::RelativeTime;
use crate::tls::stream::ClientStream;
use crate::upstream::UpstreamStream;

/// The parts of a session that stay with its task while it is frozen.
#[derive(Debug)]
struct Frozen {
    verdict: oneshot::Receiver<Verdict>,
    terms: RelayTerms,
    facts: Arc<SessionFacts>,
    guards: RelayGuards,
    process: Arc<Process>,
    /// Keeps the session counted as open.
    _open: OpenSession,
}

/// The task of a session.
#[derive(Debug)]
pub struct RelayTask(State);

#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all tasks have the large variant, which saves a box")]
enum State {
    Running(Relay<ClientStream, UpstreamStream>),
    Frozen(Box<Frozen>),
    Ended,
}

impl From<Relay<ClientStream, UpstreamStream>> for RelayTask {
    fn from(relay: Relay<ClientStream, UpstreamStream>) -> Self {
        Self(State::Running(relay))
    }
}

impl Future for RelayTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let state = &mut self.0;
        loop {
            *state = match state {
                State::Running(relay) => match ready!(Pin::new(relay).poll(cx)) {
                    RelayExit::Ended => State::Ended,
                    RelayExit::Freeze(request) => match std::mem::replace(state, State::Ended) {
                        State::Running(relay) => relay.freeze(&request),
                        other => other,
                    },
                },
                State::Frozen(frozen) => match ready!(Pin::new(&mut frozen.verdict).poll(cx)) {
                    Ok(Verdict::Resumed(parts)) => match std::mem::replace(state, State::Ended) {
                        State::Frozen(frozen) => frozen.resume(*parts).map_or(State::Ended, State::Running),
                        other => other,
                    },
                    Ok(Verdict::Released) => {
                        frozen.terms.lease.continue_elsewhere();
                        State::Ended
                    }
                    Err(_) => State::Ended,
                },
                State::Ended => return Poll::Ready(()),
            };
        }
    }
}

impl Frozen {
    fn resume(self, parts: MovingParts) -> Option<Relay<ClientStream, UpstreamStream>> {
        let Self { terms, facts, guards, process, .. } = self;
        Relay::resume(parts, terms, facts, process, guards)
    }
}

impl Relay<ClientStream, UpstreamStream> {
    /// Whether another process can continue the session.
    fn is_movable(&self) -> bool {
        let Releasable(upstream) = self.upstream.stream();
        self.client.stream().is_movable() && upstream.as_ref().is_none_or(|upstream| !upstream.is_tls())
    }

    /// Freezes a session that is not over.
    fn freeze(self, request: &FreezeRequest) -> State {
        if !self.is_movable() {
            request.answer(Freezing::Stays);
            return State::Running(self);
        }
        let now = clock::now();
        let Self { session, client, upstream, guard, load, metrics, lease, facts, process, open, .. } = self;
        let (shared, limits) = (session.shared_counts(), Arc::clone(session.limits()));
        let (client, client_io) = client.into_parts();
        let (Releasable(upstream), upstream_io) = upstream.into_parts();
        let detached =
            client.detach().and_then(|client| Ok((client, upstream.map(UpstreamStream::detach).transpose()?)));
        let ((client, state), upstream) = match detached {
            Ok(detached) => detached,
            Err(error) => {
                tracing::error!(request_id = %facts.request_id, %error, "cannot move a session, which ends");
                request.answer(Freezing::Lost);
                return State::Ended;
            }
        };
        let image = SessionImage {
            session: session.export(now),
            client: state,
            client_io,
            upstream_io,
            relay: RelayState {
                is_awake: self.hibernate_at.is_some(),
                watch_at: self.watch_at.map(|at| RelativeTime::since(at, now)),
                is_probed: self.probed,
                slow: self.slow.map(|slow| *slow),
                is_client_released: lease.is_client_released(),
                has_server: lease.has_server(),
                rates: self.rates.map(|rates| rates.export(now)),
            },
        };
        let (verdict, awaited) = oneshot::channel();
        let parts = MovingParts { image, client, upstream, exported_at: now };
        let moving = MovingSession { facts: Arc::clone(&facts), frozen_at: now, parts, verdict };
        request.answer(Freezing::Frozen(Box::new(moving)));
        let terms = RelayTerms { lease, limits, shared };
        let guards = RelayGuards { session: guard, connection: load, metrics };
        State::Frozen(Box::new(Frozen { verdict: awaited, terms, facts, guards, process, _open: open }))
    }

    /// Continues a frozen session on the event loop of this thread. Returns `None` if the event loop does not take its
    /// sockets, or the image is not valid: the session ends.
    pub fn resume(
        parts: MovingParts,
        terms: RelayTerms,
        facts: Arc<SessionFacts>,
        process: Arc<Process>,
        guards: RelayGuards,
    ) -> Option<Self> {
        let MovingParts { image, client, upstream, exported_at } = parts;
        let client = client.attach().ok().and_then(|socket| image.client.into_stream(socket))?;
        let upstream = upstream.map(DetachedSocket::attach).transpose().ok()?.map(UpstreamStream::Plain);
        let RelayGuards { session: guard, connection: load, metrics } = guards;
        let RelayTerms { lease, limits, shared } = terms;
        let now = clock::now();
        let relay = Self {
            session: Session::import(image.session, limits, shared, exported_at),
            client: PeerIo::from_parts(client, image.client_io),
            upstream: PeerIo::from_parts(Releasable(upstream), image.upstream_io),
            guard,
            load,
            metrics,
            hibernate_at: image.relay.is_awake.then(|| clock::after(now, HIBERNATE_AFTER)),
            watch_at: image.relay.watch_at.map(|at| at.to_instant(exported_at)),
            postponed: 0,
            probed: image.relay.is_probed,
            ticket: Ticket::default(),
            phase: Phase::Serving,
            lingers_until: None,
            rates: image.relay.rates.map(|rates| Box::new(RateWindow::import(rates, exported_at))),
            slow: image.relay.slow.map(Box::new),
            watchers: Vec::new(),
            facts,
            lease,
            open: OpenSession::new(&process),
            process,
        };
        relay.limit_unsent();
        Some(relay)
    }
}
