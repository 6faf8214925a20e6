//! The events by which nodes tell each other of revocations, and of operations of the API.
//!
//! They are entries of two streams at the server, which each node reads with a blocking command: a node that reads gets
//! an entry as soon as it is written, as by a broadcast, and a node that was away reads on where it ended. Each process
//! executes an entry at most once, and never its own; at the end of an upgrade it executes the closes and fresh tokens of
//! its time again. Revocations are kept in a set besides, for nodes that were away for longer than the streams reach. An
//! operation that is read too late is skipped, see [`super::event`].

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use redis::{Script, Value};
use tokio::sync::{mpsc, watch};

use super::event::{Entry, EntryId, Event, Operation, PAYLOAD_MAX_BYTES, TEXT_MAX_BYTES, entries};
use super::event_counts::EventCounts;
use super::keys::Keys;
use super::link::{Link, Unavailable};
use super::outbox::Outbox;
use super::revocation_set::{RevocationSet, SharedChange};
use super::stream::{CONTROL_MAX, Scripts, write};
use super::time::{millis, of_millis};
use crate::config::ClusterConfig;
use crate::policy::revocation::journal::Change;
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::telemetry::request::RequestId;

/// The number of events that wait until they are executed.
const NOTICES_MAX: usize = 1024;
const OPERATIONS_MAX: usize = 64;
/// The length of the text of a process in its ids as a node.
const PROCESS_CHARS: usize = 12;

/// What another node has done that concerns this one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It made a change of the revocations.
    Revocation(Change),
    /// Its sessions have taken over the slots of these sessions.
    Replaced(Vec<RequestId>),
    /// All revocations of the cluster precede this notice.
    Loaded,
}

/// An operation of the API of another node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemoteOperation {
    /// The time at which it was published. It does not concern sessions that began later.
    pub published: Instant,
    /// The random text of the process that published it, with which its ids as a node end.
    pub from: String,
    /// The operation.
    pub operation: Operation,
}

/// Returns the part of the name of a process that is in its ids as a node.
fn process_of(instance: &str) -> String {
    instance.chars().take(PROCESS_CHARS).collect()
}

/// When an entry was published.
#[derive(Debug, Clone, Copy)]
pub(super) struct Published {
    /// How long before it was read, by the clock of the server.
    pub age: Duration,
    /// When it was read.
    pub read: Instant,
}

/// Why the other nodes do not get an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShareError {
    /// Its text or its payload is too large.
    TooLarge,
    /// The server did not take it.
    Unavailable,
}

impl From<Unavailable> for ShareError {
    fn from(_: Unavailable) -> Self {
        Self::Unavailable
    }
}

/// The events of this process and of the other nodes.
#[derive(Debug)]
pub struct Events {
    pub(super) config: Arc<ClusterConfig>,
    pub(super) streams: [String; 2],
    /// The process. A node gets another id when it was dead, and this one stays. Each id of the node ends with the
    /// beginning of it, see [`Events::process`].
    pub(super) instance: Arc<str>,
    pub(super) set: RevocationSet,
    pub(super) scripts: Scripts,
    /// Returns the time of the server in milliseconds.
    pub(super) clock: Script,
    pub(super) outbox: Mutex<Outbox>,
    pub(super) counts: EventCounts,
    pub(super) notices: OnceLock<mpsc::Sender<Notice>>,
    pub(super) operations: OnceLock<mpsc::Sender<RemoteOperation>>,
    /// Whether the revocations of the cluster are known.
    is_loaded: watch::Sender<bool>,
}

impl Events {
    /// Creates the events of a process. Nothing is read before [`Events::run`].
    pub fn new(config: Arc<ClusterConfig>, keys: &Keys) -> Self {
        let instance: Arc<str> = format!("{:032x}", u128::from_be_bytes(random())).into();
        Self {
            streams: keys.streams(),
            set: RevocationSet::new(keys, Arc::clone(&instance)),
            instance,
            scripts: Scripts::new(),
            clock: Script::new("local t = redis.call('TIME') return t[1] * 1000 + math.floor(t[2] / 1000)"),
            outbox: Mutex::default(),
            counts: EventCounts::default(),
            notices: OnceLock::new(),
            operations: OnceLock::new(),
            is_loaded: watch::Sender::new(!config.share.revocations),
            config,
        }
    }

    /// Returns the random text of this process, with which its ids as a node end: logs of other nodes show it.
    pub fn process(&self) -> String {
        process_of(&self.instance)
    }

    /// Returns the notices of other nodes. There is one receiver: a second one gets none.
    pub fn notices(&self) -> mpsc::Receiver<Notice> {
        let (sender, receiver) = mpsc::channel(NOTICES_MAX);
        let _ = self.notices.set(sender);
        receiver
    }

    /// Returns the operations of other nodes. There is one receiver: a second one gets none.
    pub fn operations(&self) -> mpsc::Receiver<RemoteOperation> {
        let (sender, receiver) = mpsc::channel(OPERATIONS_MAX);
        let _ = self.operations.set(sender);
        receiver
    }

    /// Returns the numbers of events by outcome: published here and taken by the server (`sent`) or not (`failed`), of
    /// other nodes (`received`), among these the operations that were read too late (`expired`), and entries that are not
    /// understood (`unknown`). Questions are left out: nothing is lost with one.
    pub fn counts(&self) -> [(&'static str, u64); 5] {
        self.counts.all()
    }

    /// Notes that the notices before [`Notice::Loaded`] were executed.
    pub fn note_loaded(&self) {
        self.is_loaded.send_replace(true);
    }

    /// Waits until this node knows the revocations of the cluster.
    pub async fn loaded(&self) {
        // The sender lives as long as this.
        let _ = self.is_loaded.subscribe().wait_for(|is_loaded| *is_loaded).await;
    }

    /// Tells the other nodes of a change of the revocations that was made here at `made`. `end` is the end of the
    /// revocation. Returns whether the server has it; otherwise it gets it later, unless its set is full. `None`:
    /// revocations are not shared.
    pub async fn share_revocation(&self, link: &Link, change: Change, made: Duration, end: Duration) -> Option<bool> {
        if !self.config.share.revocations {
            return None;
        }
        let shared = SharedChange { change, made, end, is_event: true };
        self.outbox().add(shared.clone(), clock::now());
        let answer = link.script::<u8>(&self.set.script(&shared, true)).await;
        self.counts.note_published(&answer);
        if answer.is_ok() {
            self.outbox().confirm(&shared, clock::now());
        }
        Some(answer == Ok(1))
    }

    /// Tells the other nodes of an operation.
    ///
    /// # Errors
    /// If it is too large, or the server does not take it. The other nodes do not get it later.
    pub async fn share_operation(&self, link: &Link, operation: Operation) -> Result<(), ShareError> {
        if operation.text.len() > TEXT_MAX_BYTES || operation.payload.len() > PAYLOAD_MAX_BYTES {
            return Err(ShareError::TooLarge);
        }
        Ok(self.publish(link, Event::Operation(operation)).await?)
    }

    /// Hands the closes, the fresh tokens and the replaced sessions over once more that other processes have published
    /// within this span: sessions that were on their way to this process have missed them. It changes nothing for the
    /// others.
    ///
    /// # Errors
    /// If the server does not answer in time.
    pub async fn repeat_operations(&self, link: &Link, within: Duration) -> Result<(), Unavailable> {
        let [control, _] = &self.streams;
        let (server_millis, read): (u64, _) = (link.script(&self.clock.key(control)).await?, clock::now());
        let first = EntryId(server_millis.saturating_sub(millis(within)), 0);
        let mut commands = redis::pipe();
        commands.cmd("XRANGE").arg(control).arg(first.to_string()).arg("+").arg("COUNT").arg(CONTROL_MAX);
        let answers: Vec<Value> = link.pipeline(&commands).await?;
        for Entry { id, content } in answers.iter().flat_map(entries) {
            let published = Published { age: of_millis(server_millis.saturating_sub(id.0)), read };
            match content.filter(|(from, _)| **from != *self.instance) {
                Some((_, Event::Replaced(ids))) => self.notify_of_replaced(ids).await,
                Some((from, Event::Operation(operation))) if operation.kind.is_repeated() => {
                    self.hand_over(&from, operation, published).await;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Hands an operation of another node over, if it concerns this one.
    pub(super) async fn hand_over(&self, from: &str, operation: Operation, Published { age, read }: Published) {
        let is_current = self.config.share.sessions && operation.kind.is_current(age);
        if let Some(operations) = self.operations.get().filter(|_| is_current) {
            let published = read.checked_sub(age).unwrap_or(read);
            // The receiver ends with the process.
            let _ = operations.send(RemoteOperation { published, from: process_of(from), operation }).await;
        }
    }

    /// Hands the ids of replaced sessions over.
    pub(super) async fn notify_of_replaced(&self, ids: Vec<RequestId>) {
        if let Some(notices) = self.notices.get().filter(|_| self.config.share.slots) {
            // The receiver ends with the process.
            let _ = notices.send(Notice::Replaced(ids)).await;
        }
    }

    pub(super) async fn publish(&self, link: &Link, event: Event) -> Result<(), Unavailable> {
        let is_counted = event.is_counted();
        let published = if event.is_short_lived() {
            link.script(&self.scripts.send(&self.streams, &self.instance, event)).await
        } else {
            link.pipeline(&write(&self.streams, &self.instance, event)).await
        };
        if is_counted {
            self.counts.note_published(&published);
        }
        published
    }

    pub(super) fn outbox(&self) -> std::sync::MutexGuard<'_, Outbox> {
        self.outbox.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
