//! The old side of the move: freezes sessions, offers them in batches, and erases what the new process has.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use zeroize::Zeroizing;

use super::channel::{Channel, ChannelError};
use super::ended::{NewPeer, PeerEnded};
use super::memfd::{MemfdError, write_sealed};
use super::monotonic::since;
use super::protocol::{Ack, BATCH_MAX, Cancel, Cancelled, Cancelling, Erase, Frozen, Offered};
use super::records::{BATCH_MAX_BYTES, HEADER_BYTES, Record, SESSION, SESSION_MAX_BYTES};
use super::wire::{End, Entry, Message, Prepare, SESSION_DESCRIPTORS_MAX};

/// The time that the new process has to acknowledge a batch.
pub const ACK_MAX: Duration = Duration::from_secs(10);
/// The time that the new process has to read while the socket is full.
pub const SEND_MAX: Duration = Duration::from_secs(10);
/// The time in which a new process that ends has ended after its end of the channel was closed.
const EXIT_MAX: Duration = Duration::from_secs(1);

/// Why a frozen session stays in the old process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stay {
    /// It cannot move: its image cannot be expressed in the chosen version or is too long or cannot be written, the new
    /// process has refused it, or the move has stopped. It drains. `Sessions::freeze` must not return it again.
    Drains,
    /// The new process has ended. The session continues as before.
    MoveFailed,
}

/// A frozen session, with its keys and its sockets.
pub trait Moving: Erase {
    /// Returns the image in this version of the state. Returns `None` if that version cannot express the session: it
    /// drains.
    fn image(&self, version: u16) -> Option<Zeroizing<Vec<u8>>>;

    /// Returns the client's socket, then the upstream's.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;

    /// Returns the time of `CLOCK_MONOTONIC` to which the times in the image relate, in nanoseconds.
    fn exported_at(&self) -> u64;

    /// Continues the session in this process.
    fn resume(self, stay: Stay);
}

/// The sessions of one worker.
pub trait Sessions {
    /// A frozen session.
    type Session: Moving;

    /// Freezes at most `max` sessions. Returns none if no session is left that can move now.
    fn freeze(&mut self, max: usize) -> impl Future<Output = Vec<Self::Session>>;
}

/// The number of sessions by outcome.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Sessions that the new process continues.
    pub moved: usize,
    /// Sessions that cannot move, and drain.
    pub drained: usize,
    /// Sessions that were lost.
    pub failed: usize,
    /// The longest time from the export of a moved session to its start, as far as it is known here.
    pub longest_pause: Duration,
}

/// How the move has ended before all sessions have moved.
#[derive(Debug)]
pub enum Stop {
    /// The new process has ended, and with it the sessions that had moved. This process continues.
    NewEnded(MoveError),
    /// The new process continues the sessions that have moved. Those that are left drain in this process.
    SessionsLeft(MoveError),
}

/// Why the move has ended before all sessions have moved.
#[derive(Debug)]
pub enum MoveError {
    /// The channel does not carry the batch.
    Channel(ChannelError),
    /// The new process broke the protocol.
    Protocol(String),
    /// An earlier batch has failed.
    Ended,
}

impl fmt::Display for MoveError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Channel(error) => error.fmt(f),
            Self::Protocol(error) => write!(f, "the new process broke the protocol: {error}"),
            Self::Ended => f.write_str("the move has ended after an earlier failure"),
        }
    }
}

impl std::error::Error for MoveError {}

impl From<ChannelError> for MoveError {
    fn from(error: ChannelError) -> Self {
        Self::Channel(error)
    }
}

impl Stop {
    /// Returns what a session that has not moved does.
    fn stay(&self) -> Stay {
        match self {
            Self::NewEnded(_) => Stay::MoveFailed,
            Self::SessionsLeft(_) => Stay::Drains,
        }
    }
}

/// Moves sessions over a channel, batch by batch.
#[derive(Debug)]
pub struct Sender<'a, N> {
    channel: &'a Channel,
    peer: &'a mut N,
    version: u16,
    next_batch: u32,
    ended: bool,
    /// Whether the new process has accepted connections for a while.
    is_serving: bool,
    counts: Counts,
    ack_max: Duration,
    write: WriteRecords,
}

/// Writes records to sealed memory of at most this many bytes.
type WriteRecords = fn(&[Record], usize) -> Result<(OwnedFd, u64), MemfdError>;

impl<'a, N: NewPeer> Sender<'a, N> {
    /// Prepares to move sessions in this version of the state, after [`Message::TakeOver`].
    pub fn new(channel: &'a Channel, peer: &'a mut N, version: u16) -> Self {
        let (counts, write): (_, WriteRecords) = (Counts::default(), |records, max| write_sealed(records, max));
        Self { channel, peer, version, next_batch: 0, ended: false, is_serving: false, counts, ack_max: ACK_MAX, write }
    }

    /// Replaces [`ACK_MAX`].
    #[cfg(test)]
    pub fn ack_within(mut self, max: Duration) -> Self {
        self.ack_max = max;
        self
    }

    /// Replaces the function that writes the images.
    #[cfg(test)]
    pub fn write_with(mut self, write: WriteRecords) -> Self {
        self.write = write;
        self
    }

    /// Notes that the new process has accepted connections for a while, so that an error must not end it.
    pub fn note_serving(&mut self) {
        self.is_serving = true;
    }

    /// Checks that the new process runs.
    ///
    /// # Errors
    ///
    /// It has ended, and with it the sessions that had moved.
    pub async fn check(&mut self) -> Result<(), Stop> {
        if self.peer.has_ended(Duration::ZERO).await {
            return Err(self.stop(ChannelError::Closed.into()).await);
        }
        Ok(())
    }

    /// Returns what has been counted until now.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Moves all sessions that can move now.
    ///
    /// # Errors
    ///
    /// The move has stopped. If the new process had no session yet, it has been ended. If it has ended, those that had
    /// moved have ended with it and are counted as failed. The sessions that have not moved have been resumed, except
    /// those of an offered batch that the new process may still have: they have ended, and are counted as failed.
    pub async fn sweep<S: Sessions>(&mut self, sessions: &mut S) -> Result<(), Stop> {
        loop {
            if self.ended {
                return Err(Stop::NewEnded(MoveError::Ended));
            }
            let mut waiting: VecDeque<_> = sessions.freeze(BATCH_MAX).await.into();
            if waiting.is_empty() {
                return Ok(());
            }
            while let Some(batch) = self.fill(&mut waiting) {
                if let Err(stop) = self.transfer(batch).await {
                    if matches!(stop, Stop::SessionsLeft(_)) {
                        self.counts.drained = self.counts.drained.saturating_add(waiting.len());
                    }
                    resume(waiting, stop.stay());
                    return Err(stop);
                }
            }
        }
    }

    /// Ends the move: sends the counts, with the sessions that cannot move and those that were lost before the move.
    ///
    /// # Errors
    ///
    /// The new process has ended. One that does not read the message continues the sessions that have moved.
    pub async fn finish(mut self, also_drained: usize, also_failed: usize) -> Result<Counts, MoveError> {
        if self.ended {
            return Err(MoveError::Ended);
        }
        self.counts.drained = self.counts.drained.saturating_add(also_drained);
        self.counts.failed = self.counts.failed.saturating_add(also_failed);
        let Counts { moved, drained, failed, longest_pause } = self.counts;
        let end = Message::End(End {
            moved: moved as u64,
            drained: drained as u64,
            failed: failed as u64,
            longest_pause: u64::try_from(longest_pause.as_nanos()).unwrap_or(u64::MAX),
        });
        match self.channel.send(&end, &[], SEND_MAX).await {
            Ok(()) => Ok(self.counts),
            Err(error) => match self.stop(error.into()).await {
                Stop::NewEnded(error) => Err(error),
                Stop::SessionsLeft(error) => {
                    tracing::warn!(%error, "the new process does not know that the move has ended");
                    Ok(self.counts)
                }
            },
        }
    }

    /// Takes as many sessions as fit into a batch. Resumes those that cannot move.
    fn fill<S: Moving>(&mut self, waiting: &mut VecDeque<S>) -> Option<(Vec<S>, Vec<Record>)> {
        let (mut sessions, mut records) = (Vec::new(), Vec::new());
        let mut len: usize = 0;
        while let Some(session) = waiting.pop_front() {
            let Some(content) = image(&session, self.version) else {
                self.counts.drained += 1;
                session.resume(Stay::Drains);
                continue;
            };
            let with = len.saturating_add(HEADER_BYTES).saturating_add(content.len());
            if sessions.len() == BATCH_MAX || with > BATCH_MAX_BYTES {
                waiting.push_front(session);
                break;
            }
            len = with;
            records.push(Record { kind: SESSION, version: self.version, content });
            sessions.push(session);
        }
        (!sessions.is_empty()).then_some((sessions, records))
    }

    /// Runs the two phases for one batch.
    async fn transfer<S: Moving>(&mut self, (sessions, records): (Vec<S>, Vec<Record>)) -> Result<(), Stop> {
        let frozen = Frozen::new(self.next_batch, sessions);
        let written = (self.write)(&records, BATCH_MAX_BYTES);
        drop(records);
        let (file, len) = match written {
            Ok(written) => written,
            Err(error) => {
                // The new process knows nothing of these sessions, and goes on with those that have moved.
                tracing::error!(%error, sessions = frozen.sessions().len(), "sessions cannot move, and drain");
                self.counts.drained = self.counts.drained.saturating_add(frozen.sessions().len());
                resume(frozen.resume(), Stay::Drains);
                return Ok(());
            }
        };
        let batch = match frozen
            .offer(async |number, sessions| self.prepare(number, sessions, file.as_fd(), len).await)
            .await
        {
            Ok(batch) => batch,
            Err((sessions, error)) => return self.keep_unsent(sessions, error).await,
        };
        self.next_batch = self.next_batch.wrapping_add(1);
        drop(file);
        let ack = match self.ack().await {
            Ok(ack) => ack,
            Err(error) => return Err(self.take_back(batch, error).await),
        };
        let (accepted, refused) = match batch.acknowledged(&ack) {
            Ok(split) => split,
            Err((batch, mismatch)) => {
                return Err(self.take_back(batch, MoveError::Protocol(mismatch.to_string())).await);
            }
        };
        self.counts.drained += refused.len();
        resume(refused, Stay::Drains);
        let count = accepted.len();
        let exported_at = accepted.sessions().iter().map(Moving::exported_at).min();
        let commit = accepted.erase();
        if let Err(error) = self.channel.send(&Message::Commit(commit), &[], SEND_MAX).await {
            self.counts.failed += count;
            return Err(self.stop(error.into()).await);
        }
        self.counts.moved += count;
        let pause = exported_at.map(since).unwrap_or_default().max(Duration::from_nanos(ack.longest_pause));
        self.counts.longest_pause = self.counts.longest_pause.max(pause);
        Ok(())
    }

    /// Sends a batch.
    async fn prepare<S: Moving>(
        &self,
        batch: u32,
        sessions: &[S],
        file: BorrowedFd<'_>,
        len: u64,
    ) -> Result<(), ChannelError> {
        let mut descriptors = vec![file];
        let mut entries = Vec::with_capacity(sessions.len());
        for session in sessions {
            let own = session.descriptors();
            let count = u8::try_from(own.len()).unwrap_or(u8::MAX);
            entries.push(Entry { descriptors: count, exported_at: session.exported_at() });
            descriptors.extend(own);
        }
        let prepare = Message::Prepare(Prepare { batch, len, sessions: entries });
        self.channel.send(&prepare, &descriptors, SEND_MAX).await
    }

    /// Waits for the answer to a batch.
    async fn ack(&self) -> Result<Ack, MoveError> {
        let received = self.channel.receive(self.ack_max).await?;
        match received.message {
            Message::Ack(ack) => Ok(ack),
            _ => Err(received.unexpected().into()),
        }
    }

    /// Resumes a batch that was not sent. If the system did not permit that, as with too many descriptors in flight, the
    /// move goes on.
    async fn keep_unsent<S: Moving>(&mut self, sessions: Vec<S>, error: ChannelError) -> Result<(), Stop> {
        let stop = match &error {
            ChannelError::Closed | ChannelError::TimedOut(_) => Some(self.stop(error.into()).await),
            error => {
                tracing::error!(%error, sessions = sessions.len(), "sessions cannot move, and drain");
                None
            }
        };
        let stay = stop.as_ref().map_or(Stay::Drains, Stop::stay);
        if stay == Stay::Drains {
            self.counts.drained = self.counts.drained.saturating_add(sessions.len());
        }
        resume(sessions, stay);
        stop.map_or(Ok(()), Err)
    }

    /// Resumes an offered batch, if the new process does not have it or has ended. A new process without sessions is
    /// ended: so this one can continue as if nothing had happened.
    async fn take_back<S: Moving>(&mut self, batch: Offered<S>, error: MoveError) -> Stop {
        let (batch, cancel) = batch.cancel();
        let batch = if self.has_sessions() { self.cancel(batch, cancel).await } else { Err(batch) };
        let batch = match batch {
            Ok(sessions) => {
                self.counts.drained = self.counts.drained.saturating_add(sessions.len());
                resume(sessions, Stay::Drains);
                return Stop::SessionsLeft(error);
            }
            Err(batch) => batch,
        };
        let count = batch.len();
        let is_ended = !self.has_sessions() || self.peer.has_ended(EXIT_MAX).await;
        if is_ended && let Some(ended) = self.end_peer().await {
            resume(batch.resume(&ended), Stay::MoveFailed);
            return Stop::NewEnded(error);
        }
        // The new process may still have the keys, so that they must not be used here.
        drop(batch);
        self.counts.failed = self.counts.failed.saturating_add(count);
        if self.ended { Stop::NewEnded(error) } else { Stop::SessionsLeft(error) }
    }

    /// Asks the new process to drop a batch. Returns its sessions once the new process has confirmed that.
    async fn cancel<S: Moving>(&self, batch: Cancelling<S>, cancel: Cancel) -> Result<Vec<S>, Cancelling<S>> {
        match self.ask_to_cancel(cancel).await {
            Ok(cancelled) => batch.cancelled(&cancelled).map_err(|(batch, _)| batch),
            Err(error) => {
                tracing::debug!(%error, "the new process does not cancel a batch");
                Err(batch)
            }
        }
    }

    async fn ask_to_cancel(&self, cancel: Cancel) -> Result<Cancelled, ChannelError> {
        // A process that has given up by itself has confirmed that, and closed its end: then this error says nothing.
        let _ = self.channel.send(&Message::Cancel(cancel), &[], SEND_MAX).await;
        loop {
            let received = self.channel.receive(self.ack_max).await?;
            match received.message {
                Message::Cancelled(cancelled) => return Ok(cancelled),
                // It was sent before the request arrived.
                Message::Ack(_) => {}
                _ => return Err(received.unexpected()),
            }
        }
    }

    /// Whether the new process has sessions, which its end would cost.
    fn has_sessions(&self) -> bool {
        self.counts.moved > 0 || self.is_serving
    }

    /// Ends the move after an error.
    async fn stop(&mut self, error: MoveError) -> Stop {
        if self.has_sessions() && !self.peer.has_ended(EXIT_MAX).await {
            return Stop::SessionsLeft(error);
        }
        self.end_peer().await;
        Stop::NewEnded(error)
    }

    /// Ends the new process, and with it the sessions that had moved.
    async fn end_peer(&mut self) -> Option<PeerEnded> {
        self.ended = true;
        self.counts.failed += std::mem::take(&mut self.counts.moved);
        match self.peer.end().await {
            Ok(ended) => Some(ended),
            Err(error) => {
                tracing::error!(%error, "the new process cannot be ended");
                None
            }
        }
    }
}

/// Continues sessions in this process.
fn resume<S: Moving>(sessions: impl IntoIterator<Item = S>, stay: Stay) {
    for session in sessions {
        session.resume(stay);
    }
}

/// Returns the image of a session that can move.
fn image<S: Moving>(session: &S, version: u16) -> Option<Zeroizing<Vec<u8>>> {
    let descriptors = session.descriptors().len();
    let image = session.image(version)?;
    ((1..=SESSION_DESCRIPTORS_MAX).contains(&descriptors) && image.len() <= SESSION_MAX_BYTES).then_some(image)
}
