//! The new side of the move: parses batches, acknowledges them, and starts their sessions after the commit.

use std::future::Future;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::channel::{Channel, ChannelError, Received};
use super::ended::OldPeer;
use super::memfd::read_sealed;
use super::monotonic::since;
use super::protocol::{Ack, Cancel, Commit, Prepared};
use super::records::{BATCH_MAX_BYTES, PROCESS_MAX_BYTES, Records, SESSION, SESSION_MAX_BYTES};
use super::wire::{End, Entry, Message, Prepare, State};

/// The time that the old process has between two batches. It waits there for handshakes and for slow workers.
pub const BATCH_WAIT_MAX: Duration = Duration::from_secs(300);
/// The time that the old process has to erase the keys of a batch.
pub const COMMIT_MAX: Duration = Duration::from_secs(30);
/// The time that the new process waits for the end of the old one after the channel has broken.
pub const OLD_END_MAX: Duration = Duration::from_secs(1);
/// The time that the old process has to read while the socket is full.
const SEND_MAX: Duration = Duration::from_secs(10);

/// Takes sessions into this process.
pub trait Adopt {
    /// A session that was parsed. It does not seal, and neither reads from nor writes to its sockets. Dropping it closes
    /// the descriptors and sends nothing: the old process may resume the session.
    type Prepared;

    /// Parses a session of this version. `elapsed` is the time since its export.
    ///
    /// # Errors
    ///
    /// The reason for the log. The session stays in the old process.
    fn prepare(
        &mut self,
        version: u16,
        image: &[u8],
        descriptors: Vec<OwnedFd>,
        elapsed: Duration,
    ) -> Result<Self::Prepared, String>;

    /// Starts a session, which no other process has any more.
    fn start(&mut self, session: Self::Prepared) -> impl Future<Output = ()>;

    /// Takes over the counters of the old process, in place of those that it has sent before.
    fn metrics(&mut self, records: &[u8]);
}

/// The result of a move, as the new process sees it.
#[derive(Debug, Default)]
pub struct Adopted {
    /// The number of sessions that were started.
    pub started: usize,
    /// The number of sessions that stay in the old process, because they could not be parsed here.
    pub refused: usize,
    /// The number of prepared sessions that were dropped, because the old process has taken them back, or has neither
    /// committed nor ended.
    pub dropped: usize,
    /// The reason of the last refusal.
    pub last_refusal: Option<String>,
    /// The longest pause of a started session.
    pub longest_pause: Duration,
    /// The counts of the old process. `None` if it did not send them.
    pub end: Option<End>,
    /// Why the move has ended early.
    pub error: Option<ChannelError>,
}

/// Receives batches until the old process ends the move, or the channel breaks.
#[derive(Debug)]
pub struct Receiver<'a, O> {
    channel: &'a Channel,
    old: &'a O,
    version: u16,
    next_batch: u32,
    adopted: Adopted,
    commit_max: Duration,
}

impl<'a, O: OldPeer> Receiver<'a, O> {
    /// Prepares to receive sessions in this version of the state, after [`Message::TakeOver`].
    pub fn new(channel: &'a Channel, old: &'a O, version: u16) -> Self {
        let adopted = Adopted::default();
        Self { channel, old, version, next_batch: 0, adopted, commit_max: COMMIT_MAX }
    }

    /// Replaces [`COMMIT_MAX`].
    #[cfg(test)]
    pub fn commit_within(mut self, max: Duration) -> Self {
        self.commit_max = max;
        self
    }

    /// Receives all batches. Sessions that were started stay in this process, even if the move fails.
    pub async fn run<A: Adopt>(mut self, adopt: &mut A) -> Adopted {
        match self.batches(adopt).await {
            Ok(end) => self.adopted.end = Some(end),
            Err(error) => self.adopted.error = Some(error),
        }
        self.adopted
    }

    async fn batches<A: Adopt>(&mut self, adopt: &mut A) -> Result<End, ChannelError> {
        loop {
            let received = self.channel.receive(BATCH_WAIT_MAX).await?;
            match received.message {
                Message::Prepare(_) => self.batch(received, adopt).await?,
                // The old process has taken a batch back that this one has dropped before.
                Message::Cancel(_) => {}
                Message::Metrics(_) => metrics(received, adopt),
                Message::End(end) => return Ok(end),
                _ => return Err(received.unexpected()),
            }
        }
    }

    /// Runs the two phases for one batch.
    async fn batch<A: Adopt>(&mut self, received: Received, adopt: &mut A) -> Result<(), ChannelError> {
        let Received { message: Message::Prepare(prepare), descriptors, descriptors_lost } = received else {
            return Err(received.unexpected());
        };
        let expected: usize = prepare.sessions.iter().map(|entry| usize::from(entry.descriptors)).sum();
        let complete = descriptors.len() == expected + 1;
        if prepare.batch != self.next_batch || !(complete || descriptors_lost) {
            return Err(ChannelError::Unexpected("Prepare"));
        }
        self.next_batch = self.next_batch.wrapping_add(1);
        let prepared = self.parse(&prepare, descriptors, adopt);
        self.adopted.refused += prepared.iter().filter(|session| session.is_none()).count();
        let (prepared, mut ack) = Prepared::new(prepare.batch, prepared);
        ack.longest_pause = u64::try_from(self.adopted.longest_pause.as_nanos()).unwrap_or(u64::MAX);
        let (prepared, error) = match self.decision(ack).await {
            Ok(Decision::Commit(commit)) => match prepared.start(commit) {
                Ok(sessions) => {
                    self.start(sessions, adopt).await;
                    return Ok(());
                }
                Err((prepared, _)) => (prepared, ChannelError::Unexpected("Commit")),
            },
            Ok(Decision::Cancel(cancel)) => {
                let count = prepared.len();
                match prepared.cancel(&cancel) {
                    Ok(cancelled) => {
                        self.adopted.dropped = self.adopted.dropped.saturating_add(count);
                        return self.channel.send(&Message::Cancelled(cancelled), &[], SEND_MAX).await;
                    }
                    Err((prepared, _)) => (prepared, ChannelError::Unexpected("Cancel")),
                }
            }
            Err(error) => (prepared, error),
        };
        self.take_over(prepared, adopt).await;
        Err(error)
    }

    /// Acknowledges a batch and waits for the decision on it.
    async fn decision(&self, ack: Ack) -> Result<Decision, ChannelError> {
        self.channel.send(&Message::Ack(ack), &[], SEND_MAX).await?;
        let received = self.channel.receive(self.commit_max).await?;
        match received.message {
            Message::Commit(commit) => Ok(Decision::Commit(commit)),
            Message::Cancel(cancel) => Ok(Decision::Cancel(cancel)),
            _ => Err(received.unexpected()),
        }
    }

    /// Starts a prepared batch without its commit if the old process has ended, and drops it otherwise.
    async fn take_over<A: Adopt>(&mut self, prepared: Prepared<Timed<A::Prepared>>, adopt: &mut A) {
        if let Some(ended) = self.old.ended(OLD_END_MAX).await {
            self.start(prepared.start_after_end(&ended), adopt).await;
        } else {
            self.adopted.dropped = self.adopted.dropped.saturating_add(prepared.len());
            // Without a reader there is nobody who could resume them.
            let _ = self.channel.send(&Message::Cancelled(prepared.give_up()), &[], SEND_MAX).await;
        }
    }

    async fn start<A: Adopt>(&mut self, sessions: Vec<Timed<A::Prepared>>, adopt: &mut A) {
        for Timed { session, exported_at } in sessions {
            adopt.start(session).await;
            self.adopted.started += 1;
            self.adopted.longest_pause = self.adopted.longest_pause.max(since(exported_at));
        }
    }

    /// Parses the sessions of a batch. A session that cannot be parsed, or of which a descriptor is lost, is `None`.
    fn parse<A: Adopt>(
        &mut self,
        prepare: &Prepare,
        descriptors: Vec<OwnedFd>,
        adopt: &mut A,
    ) -> Vec<Option<Timed<A::Prepared>>> {
        let mut descriptors = descriptors.into_iter();
        let bytes = match descriptors.next().map(|file| read_sealed(file, prepare.len, BATCH_MAX_BYTES)) {
            Some(Ok(bytes)) => bytes,
            Some(Err(error)) => {
                self.adopted.last_refusal = Some(error.to_string());
                return prepare.sessions.iter().map(|_| None).collect();
            }
            None => {
                self.adopted.last_refusal = Some("no descriptor is left".to_owned());
                return prepare.sessions.iter().map(|_| None).collect();
            }
        };
        let mut records = Records::new(&bytes, SESSION_MAX_BYTES);
        let mut parsed = Vec::with_capacity(prepare.sessions.len());
        for entry in &prepare.sessions {
            // Descriptors arrive in order, and the kernel stops at the first one for which no number is left.
            let own: Vec<_> = descriptors.by_ref().take(entry.descriptors.into()).collect();
            let session = records
                .next()
                .ok_or_else(|| "the image is missing".to_owned())
                .and_then(|record| record.map_err(|error| error.to_string()))
                .and_then(|record| {
                    if record.kind != SESSION || record.version != self.version {
                        return Err(format!("a record of kind {} and version {}", record.kind, record.version));
                    }
                    if own.len() != usize::from(entry.descriptors) {
                        return Err("no descriptor is left".to_owned());
                    }
                    prepare_one(adopt, record.version, record.content, own, entry)
                });
            parsed.push(session.map_err(|reason| self.adopted.last_refusal = Some(reason)).ok());
        }
        parsed
    }
}

/// What becomes of a prepared batch.
enum Decision {
    Commit(Commit),
    Cancel(Cancel),
}

/// A session, and when it was exported.
struct Timed<P> {
    session: P,
    exported_at: u64,
}

/// Reads the counters of the old process. Without them, those of this process go on as they are.
pub fn metrics<A: Adopt>(received: Received, adopt: &mut A) {
    let Received { message: Message::Metrics(State { len, .. }), descriptors, .. } = received else { return };
    match descriptors.into_iter().next().map(|file| read_sealed(file, len, PROCESS_MAX_BYTES)) {
        Some(Ok(records)) => adopt.metrics(&records),
        Some(Err(error)) => tracing::warn!(%error, "the counters of the process before cannot be read"),
        None => tracing::warn!("the counters of the process before are missing"),
    }
}

fn prepare_one<A: Adopt>(
    adopt: &mut A,
    version: u16,
    image: &[u8],
    descriptors: Vec<OwnedFd>,
    entry: &Entry,
) -> Result<Timed<A::Prepared>, String> {
    let session = adopt.prepare(version, image, descriptors, since(entry.exported_at))?;
    Ok(Timed { session, exported_at: entry.exported_at })
}

#[cfg(test)]
mod tests;
