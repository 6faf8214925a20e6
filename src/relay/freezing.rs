//! A frozen session: its image, its sockets, and the request to freeze it.
//!
//! A session is frozen when its task receives [`Command::Freeze`](super::registry::Command::Freeze): its sockets leave
//! the event loop, and its state becomes a [`SessionImage`], which cannot seal. Its task waits until the image is released
//! because another process has it, or comes back.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use super::facts::SessionFacts;
use super::image::SessionImage;
use crate::runtime::socket::DetachedSocket;

/// A session that is frozen: its image and its sockets. One of [`MovingSession::release`] and [`MovingSession::resume`]
/// is to be called; a session that is dropped instead ends without a Close.
#[derive(Debug)]
pub struct MovingSession {
    /// The facts of the session.
    pub facts: Arc<SessionFacts>,
    /// When it was frozen.
    pub frozen_at: Instant,
    pub(super) parts: MovingParts,
    pub(super) verdict: oneshot::Sender<Verdict>,
}

/// The image and the sockets of a session.
#[derive(Debug)]
pub struct MovingParts {
    /// The state.
    pub image: SessionImage,
    /// The socket of the client.
    pub client: DetachedSocket,
    /// The socket of the upstream, unless it is closed.
    pub upstream: Option<DetachedSocket>,
    /// When the image was exported. Its times relate to this one.
    pub exported_at: Instant,
}

/// The decision on a frozen session.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Another process continues it.
    Released,
    /// This process continues it.
    Resumed(Box<MovingParts>),
}

/// The answer of a session that was asked to freeze.
#[derive(Debug)]
pub enum Freezing {
    /// It is frozen.
    Frozen(Box<MovingSession>),
    /// It cannot move: its client has TLS 1.2 or is served by rustls, or its upstream has TLS.
    Stays,
    /// It is over, and only its connections remain to be closed.
    Over,
    /// It has ended, because its sockets could not be removed from the event loop.
    Lost,
}

/// A request to freeze a session.
#[derive(Debug)]
pub struct FreezeRequest(mpsc::Sender<Freezing>);

impl FreezeRequest {
    /// Returns a request whose answer goes to this channel, which has the capacity for the answers of all sessions that
    /// are asked.
    pub fn new(reply: mpsc::Sender<Freezing>) -> Self {
        Self(reply)
    }

    /// Answers that the session is over.
    pub(super) fn answer_over(&self) {
        self.answer(Freezing::Over);
    }

    pub(super) fn answer(&self, answer: Freezing) {
        // A caller that no longer waits drops the frozen session, which it must not do.
        let _ = self.0.try_send(answer);
    }
}

impl MovingSession {
    /// Returns the state, to be written for another process.
    pub fn image(&self) -> &SessionImage {
        &self.parts.image
    }

    /// Returns the sockets, of the client and of the upstream.
    pub fn sockets(&self) -> (BorrowedFd<'_>, Option<BorrowedFd<'_>>) {
        (self.parts.client.as_fd(), self.parts.upstream.as_ref().map(AsFd::as_fd))
    }

    /// Ends the session here, because another process has it: erases its keys, and drops the descriptors without closing
    /// the connections.
    pub fn release(self) {
        let Self { parts, verdict, .. } = self;
        drop(parts);
        let _ = verdict.send(Verdict::Released);
    }

    /// Continues the session here. No other process may have started it.
    pub fn resume(self) {
        // The task waits as long as its runtime exists.
        let _ = self.verdict.send(Verdict::Resumed(Box::new(self.parts)));
    }
}
