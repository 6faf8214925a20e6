//! The two-phase commit of one batch of sessions, as types: both ends consume what they hand over.
//!
//! The old process has [`Frozen`], [`Offered`], [`Acknowledged`] and the [`Commit`] that it sends. The new process has
//! [`Prepared`]. If the answer is late, the offered batch becomes [`Cancelling`], which cannot be committed. **A session
//! leaves [`Offered`] or [`Cancelling`] for the old process only if the new one has refused it, has dropped it or has
//! ended, and leaves [`Prepared`] to be started only if the old process has erased its keys or has ended.** So two
//! processes never seal with one key. Losses of messages and the end of either process only end sessions.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ended::{OldEnded, PeerEnded};

/// Limit on the sessions of one batch.
pub const BATCH_MAX: usize = 64;

/// A frozen session of the old process: it has the keys and does not seal.
pub trait Erase {
    /// Erases the keys and drops the descriptors. It neither shuts down a socket nor sends anything.
    fn erase(self);
}

/// A batch of which the new process knows nothing.
#[must_use = "a frozen session that is dropped ends"]
pub struct Frozen<S> {
    batch: u32,
    sessions: Vec<S>,
}

/// A batch of which the new process may know the keys.
#[must_use = "an offered session that is dropped ends"]
pub struct Offered<S> {
    batch: u32,
    sessions: Vec<S>,
}

/// The accepted sessions of a batch. They cannot be resumed.
#[must_use = "the new process waits for the commit"]
pub struct Acknowledged<S> {
    batch: u32,
    sessions: Vec<S>,
}

/// The answer of the new process to one batch.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ack {
    /// The number of the batch.
    pub batch: u32,
    /// The indexes of the sessions that the new process does not have, ascending.
    pub refused: Vec<u16>,
    /// The longest pause of the sessions that the new process has started until now, in nanoseconds.
    pub longest_pause: u64,
}

/// The message that lets the new process start a batch. It is made by erasing the keys, or read from the old process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[must_use = "the new process waits for the commit"]
pub struct Commit {
    batch: u32,
}

/// An offered batch that is not committed any more.
#[must_use = "a session of a cancelled batch that is dropped ends"]
pub struct Cancelling<S> {
    batch: u32,
    sessions: Vec<S>,
}

/// The message by which the old process takes a batch back. The new process answers with [`Cancelled`].
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancel {
    batch: u32,
}

/// The message that the new process has dropped a batch, so that the old one may resume it. It is made by dropping the
/// sessions, or read from the new process.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cancelled {
    batch: u32,
}

/// The sessions of a batch that the new process has parsed. It cannot seal for them.
#[must_use = "a prepared session that is dropped ends, unless the old process resumes it"]
pub struct Prepared<P> {
    batch: u32,
    sessions: Vec<P>,
}

/// A message that does not fit the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// The message is for batch `.1` instead of `.0`.
    Batch(u32, u32),
    /// The indexes of refused sessions are not ascending, or not below the number of sessions.
    Refused,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Batch(expected, got) => write!(f, "a message for batch {got} instead of {expected}"),
            Self::Refused => f.write_str("refused sessions that are not in the batch"),
        }
    }
}

impl std::error::Error for Mismatch {}

impl<S> Frozen<S> {
    /// Returns the sessions.
    pub fn sessions(&self) -> &[S] {
        &self.sessions
    }

    /// Collects frozen sessions as a batch. Only the first [`BATCH_MAX`] fit into a batch.
    pub fn new(batch: u32, sessions: Vec<S>) -> Self {
        Self { batch, sessions }
    }

    /// Offers the batch to the new process. `send` gets its number and its sessions, and sends one packet.
    ///
    /// # Errors
    ///
    /// `send` has sent nothing, and so the sessions stay in the old process.
    pub async fn offer<E>(self, send: impl AsyncFnOnce(u32, &[S]) -> Result<(), E>) -> Result<Offered<S>, (Vec<S>, E)> {
        let Self { batch, sessions } = self;
        match send(batch, &sessions).await {
            Ok(()) => Ok(Offered { batch, sessions }),
            Err(error) => Err((sessions, error)),
        }
    }

    /// Returns the sessions to the old process, because nothing has been sent.
    pub fn resume(self) -> Vec<S> {
        self.sessions
    }
}

impl<S> Offered<S> {
    /// Splits the batch by the answer: the accepted sessions, and those that the old process resumes.
    ///
    /// # Errors
    ///
    /// The answer does not fit the batch. The batch stays offered.
    pub fn acknowledged(self, ack: &Ack) -> Result<(Acknowledged<S>, Vec<S>), (Self, Mismatch)> {
        if ack.batch != self.batch {
            let mismatch = Mismatch::Batch(self.batch, ack.batch);
            return Err((self, mismatch));
        }
        let ascending = ack.refused.is_sorted_by(|a, b| a < b);
        if !ascending || ack.refused.last().is_some_and(|last| usize::from(*last) >= self.sessions.len()) {
            return Err((self, Mismatch::Refused));
        }
        let mut accepted = Vec::with_capacity(self.sessions.len());
        let mut refused = Vec::with_capacity(ack.refused.len());
        for (index, session) in (0_u16..).zip(self.sessions) {
            let to = if ack.refused.binary_search(&index).is_ok() { &mut refused } else { &mut accepted };
            to.push(session);
        }
        Ok((Acknowledged { batch: self.batch, sessions: accepted }, refused))
    }

    /// Gives up the commit. The message asks the new process to drop the batch.
    pub fn cancel(self) -> (Cancelling<S>, Cancel) {
        let Self { batch, sessions } = self;
        (Cancelling { batch, sessions }, Cancel { batch })
    }

    /// Returns the sessions to the old process, because the new one has ended.
    pub fn resume(self, _ended: &PeerEnded) -> Vec<S> {
        self.sessions
    }
}

impl<S> Cancelling<S> {
    /// Returns the number of sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether the batch has no session.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Returns the sessions to the old process, because the new one has dropped them.
    ///
    /// # Errors
    ///
    /// The message is for another batch.
    pub fn cancelled(self, cancelled: &Cancelled) -> Result<Vec<S>, (Self, Mismatch)> {
        if cancelled.batch == self.batch {
            Ok(self.sessions)
        } else {
            let mismatch = Mismatch::Batch(self.batch, cancelled.batch);
            Err((self, mismatch))
        }
    }

    /// Returns the sessions to the old process, because the new one has ended.
    pub fn resume(self, _ended: &PeerEnded) -> Vec<S> {
        self.sessions
    }
}

impl<S: Erase> Acknowledged<S> {
    /// Erases the keys of all sessions. Only this makes the message that starts them in the new process.
    pub fn erase(self) -> Commit {
        self.sessions.into_iter().for_each(Erase::erase);
        Commit { batch: self.batch }
    }
}

impl<S> Acknowledged<S> {
    /// Returns the accepted sessions.
    pub fn sessions(&self) -> &[S] {
        &self.sessions
    }

    /// Returns the number of accepted sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether the new process has refused all sessions.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

impl<P> Prepared<P> {
    /// Collects the parsed sessions of a batch, in its order. A refused session is `None`: the new process has nothing
    /// of it. Returns the answer for the old process as well.
    pub fn new(batch: u32, sessions: Vec<Option<P>>) -> (Self, Ack) {
        let refused = (0_u16..).zip(&sessions).filter(|(_, session)| session.is_none()).map(|(index, _)| index);
        let ack = Ack { batch, refused: refused.collect(), longest_pause: 0 };
        (Self { batch, sessions: sessions.into_iter().flatten().collect() }, ack)
    }

    /// Returns the sessions to be started, because the old process has erased their keys.
    ///
    /// # Errors
    ///
    /// The message is for another batch. The batch stays prepared.
    #[expect(clippy::needless_pass_by_value, reason = "a commit is used once")]
    pub fn start(self, commit: Commit) -> Result<Vec<P>, (Self, Mismatch)> {
        if commit.batch == self.batch {
            Ok(self.sessions)
        } else {
            let mismatch = Mismatch::Batch(self.batch, commit.batch);
            Err((self, mismatch))
        }
    }

    /// Drops the sessions, because the old process takes them back.
    ///
    /// # Errors
    ///
    /// The message is for another batch. The batch stays prepared.
    pub fn cancel(self, cancel: &Cancel) -> Result<Cancelled, (Self, Mismatch)> {
        if cancel.batch == self.batch {
            Ok(self.give_up())
        } else {
            let mismatch = Mismatch::Batch(self.batch, cancel.batch);
            Err((self, mismatch))
        }
    }

    /// Drops the sessions. The message lets the old process resume them.
    pub fn give_up(self) -> Cancelled {
        let Self { batch, sessions } = self;
        drop(sessions);
        Cancelled { batch }
    }

    /// Returns the sessions to be started, because the old process has ended.
    pub fn start_after_end(self, _ended: &OldEnded) -> Vec<P> {
        self.sessions
    }

    /// Returns the number of prepared sessions.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }

    /// Whether all sessions were refused.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }
}

/// Shows a batch without its sessions, which contain keys.
macro_rules! debug_without_sessions {
    ($($name:ident)+) => {
        $(impl<S> fmt::Debug for $name<S> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name))
                    .field("batch", &self.batch)
                    .field("sessions", &self.sessions.len())
                    .finish()
            }
        })+
    };
}

debug_without_sessions! { Frozen Offered Acknowledged Cancelling Prepared }

#[cfg(test)]
mod tests;
