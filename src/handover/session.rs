//! A session as a record: its facts and its image.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use zeroize::Zeroizing;

use super::monotonic::monotonic_nanos;
use super::protocol::Erase;
use super::receiver::Adopt;
use super::records::{self, SESSION_MAX_BYTES};
use super::sender::{Moving, Sessions, Stay};
use super::state;
use crate::front::adopt;
use crate::relay::adopted::AdoptedSession;
use crate::relay::freezing::{Freezing, MovingParts, MovingSession};
use crate::relay::image::SessionImage;
use crate::relay::workers::Workers;
use crate::runtime::clock;
use crate::runtime::socket::DetachedSocket;
use crate::server::control::Control;

/// The length of the number before the facts: their length, in little endian.
const LENGTH_BYTES: usize = 4;

/// A frozen session of the old process.
#[derive(Debug)]
pub struct FrozenSession {
    moving: Box<MovingSession>,
    exported_at: u64,
}

impl FrozenSession {
    fn new(moving: Box<MovingSession>) -> Self {
        let age = clock::now().saturating_duration_since(moving.frozen_at);
        let age = u64::try_from(age.as_nanos()).unwrap_or(u64::MAX);
        Self { moving, exported_at: monotonic_nanos().saturating_sub(age) }
    }
}

impl Erase for FrozenSession {
    fn erase(self) {
        self.moving.release();
    }
}

impl Moving for FrozenSession {
    fn image(&self, version: u16) -> Option<Zeroizing<Vec<u8>>> {
        let facts = records::encode(&self.moving.facts.export(self.moving.frozen_at), SESSION_MAX_BYTES).ok()?;
        let image = self.moving.image().encode(version).ok()?;
        let len = u32::try_from(facts.len()).ok()?;
        let mut content = Vec::with_capacity(LENGTH_BYTES + facts.len() + image.len());
        content.extend(len.to_le_bytes());
        content.extend_from_slice(&facts);
        content.extend_from_slice(&image);
        Some(Zeroizing::new(content))
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let (client, upstream) = self.moving.sockets();
        std::iter::once(client).chain(upstream).collect()
    }

    fn exported_at(&self) -> u64 {
        self.exported_at
    }

    fn resume(self, _stay: Stay) {
        self.moving.resume();
    }
}

/// The sessions of one worker of the old process.
#[derive(Debug)]
pub struct WorkerSessions<'a> {
    /// All workers.
    pub workers: &'a Workers,
    /// The number of the worker.
    pub worker: usize,
    /// The number of this upgrade: each session is asked once.
    pub round: u32,
    /// The number of sessions that cannot move.
    pub stays: usize,
    /// The number of sessions that have ended because they could not be frozen.
    pub lost: usize,
}

impl Sessions for WorkerSessions<'_> {
    type Session = FrozenSession;

    async fn freeze(&mut self, max: usize) -> Vec<FrozenSession> {
        loop {
            let answers = self.workers.freeze(self.worker, self.round, max).await;
            if answers.is_empty() {
                return Vec::new();
            }
            let mut frozen = Vec::with_capacity(answers.len());
            for answer in answers {
                match answer {
                    Freezing::Frozen(moving) => frozen.push(FrozenSession::new(moving)),
                    Freezing::Stays => self.stays = self.stays.saturating_add(1),
                    Freezing::Over => {}
                    Freezing::Lost => self.lost = self.lost.saturating_add(1),
                }
            }
            if !frozen.is_empty() {
                return frozen;
            }
        }
    }
}

/// Takes sessions into the workers of the new process.
#[derive(Debug)]
pub struct Adopter<'a> {
    control: &'a Control,
    next: usize,
}

impl<'a> Adopter<'a> {
    /// Distributes the sessions over the workers.
    pub fn new(control: &'a Control) -> Self {
        Self { control, next: 0 }
    }
}

impl Adopt for Adopter<'_> {
    type Prepared = AdoptedSession;

    fn prepare(
        &mut self,
        version: u16,
        content: &[u8],
        descriptors: Vec<OwnedFd>,
        elapsed: Duration,
    ) -> Result<AdoptedSession, String> {
        let (len, rest) = content.split_first_chunk::<LENGTH_BYTES>().ok_or("the record is too short")?;
        let len = usize::try_from(u32::from_le_bytes(*len)).map_err(|error| error.to_string())?;
        let (facts, image) = rest.split_at_checked(len).ok_or("the facts are incomplete")?;
        let facts = records::decode(facts).map_err(|error| error.to_string())?;
        let image = SessionImage::decode(version, image).map_err(|error| error.to_string())?;
        let mut sockets = descriptors.into_iter().map(DetachedSocket::from_descriptor);
        let mut socket = || sockets.next().transpose().map_err(|error| error.to_string());
        let client = socket()?.ok_or("there is no socket of the client")?;
        let upstream = socket()?;
        let now = clock::now();
        let exported_at = now.checked_sub(elapsed).unwrap_or(now);
        adopt::prepare(self.control.gateway(), facts, MovingParts { image, client, upstream, exported_at })
    }

    async fn start(&mut self, session: AdoptedSession) {
        self.next = self.next.wrapping_add(1);
        self.control.facts().handed_over.iter().for_each(|before| before.add_sessions(1));
        self.control.gateway().workers.adopt(self.next, vec![session]).await;
    }

    fn metrics(&mut self, records: &[u8]) {
        if let Err(error) = state::import_metrics(records, self.control) {
            tracing::warn!(%error, "the counters of the process before cannot be continued");
        }
    }
}
