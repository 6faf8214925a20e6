//! Reads the events of other nodes, and keeps the set of revocations at the server complete.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use redis::{RedisError, RedisResult};

use super::connect::{Connection, Connector};
use super::event::{Entry, Event, OperationKind};
use super::events::{Events, Notice, Published};
use super::link::{Link, PAUSE_MAX, PAUSE_MIN, is_up, jittered};
use super::revocation_set::SharedChange;
use super::stream::{Positions, write};
use super::time::{of_millis, random_part};
use crate::policy::revocation::Revocations;
use crate::policy::revocation::entry::Revocation;
use crate::policy::revocation::journal::Change;
use crate::runtime::clock;
use crate::runtime::entropy::random;

/// The longest time that a command waits for the next entry.
const WAIT: Duration = Duration::from_secs(5);
/// The shortest time for a connection, and for an answer besides its wait: an answer may have all revocations.
const ANSWER_MIN: Duration = Duration::from_secs(2);
/// The interval at which a node checks that the server still has the set and the streams.
const CHECKED: Duration = Duration::from_secs(5);
/// The server rounds times to milliseconds.
const ROUNDING: Duration = Duration::from_millis(2);
/// The time over which the nodes begin to restore a set that the server has lost.
const SPREAD: Duration = Duration::from_secs(1);
/// The number of changes that are sent between two reads.
const CHANGES_AT_ONCE: usize = 100;
/// With more missing revocations than this the others load the set, instead of getting an event for each.
const EVENTS_MAX: usize = 1_000;
/// The number of failures in a row after which the log says so, if the server answers other commands.
const FAILURES_LOGGED: u32 = 3;
/// The interval between two lines about entries that are not understood.
const REPORTED: Duration = Duration::from_mins(1);

/// The state of reading.
#[derive(Debug, Default)]
struct Reader {
    positions: Positions,
    /// The mark of the server's data, as it was when the set was loaded.
    mark: Option<String>,
    /// When to check the mark, and when to load the set.
    check_at: Option<Instant>,
    load_at: Option<Instant>,
    /// Changes that the server lacks.
    backlog: VecDeque<SharedChange>,
    /// Whether the others load the set once the backlog is sent.
    has_load: bool,
    not_understood: u64,
    reported: Option<Instant>,
}

impl Events {
    /// Reads the events of other nodes, and sends changes that the server lacks. `store` has the revocations of this
    /// node. Never returns.
    pub async fn run(&self, link: &Link, store: &Revocations) {
        if !self.config.share.revocations && !self.config.share.sessions && !self.config.share.slots {
            return std::future::pending().await;
        }
        let (mut reader, mut connector, mut pause, mut failures) = (Reader::default(), None, PAUSE_MIN, 0_u32);
        let mut changes = link.changes();
        loop {
            // The sender lives as long as the link.
            let _ = changes.wait_for(|state| is_up(*state)).await;
            let began = clock::now();
            let Err(error) = self.follow(&mut connector, &mut reader, store, link).await;
            if clock::now().saturating_duration_since(began) > WAIT {
                (pause, failures) = (PAUSE_MIN, 0);
            }
            failures = failures.saturating_add(1);
            tokio::time::sleep(jittered(pause)).await;
            pause = pause.saturating_mul(2).min(PAUSE_MAX);
            if failures == FAILURES_LOGGED && link.is_up() {
                tracing::warn!(%error, server = %self.config.servers, "the events of the cluster cannot be read");
            } else {
                tracing::debug!(%error, "the events of the cluster cannot be read");
            }
        }
    }

    /// Reads on a connection until it fails, or other commands find the server away: another one may have taken over.
    async fn follow(
        &self,
        connector: &mut Option<Connector>,
        reader: &mut Reader,
        store: &Revocations,
        link: &Link,
    ) -> Result<std::convert::Infallible, RedisError> {
        let connector = match connector {
            Some(connector) => connector,
            None => connector.insert(Connector::new(&self.config)?),
        };
        let margin = self.config.timeout.max(ANSWER_MIN);
        let mut connection = connector.connect(margin, Some(WAIT.saturating_add(margin))).await?;
        let has_missed = reader.positions.resume(&self.scripts, &self.streams, &mut connection).await?;
        let now = clock::now();
        reader.check_at = Some(now);
        if has_missed {
            reader.load_at = Some(now);
        }
        self.take_unsent(reader, true, now);
        let mut changes = link.changes();
        loop {
            if reader.check_at.is_none_or(|at| at <= clock::now()) {
                self.check(reader, &mut connection).await?;
            }
            let wait = if self.config.share.revocations {
                self.keep_complete(reader, &mut connection, store).await?
            } else {
                WAIT
            };
            let until_check = reader.check_at.map_or(WAIT, |at| at.saturating_duration_since(clock::now()));
            // The answer of a read that ends just before the check would begin another one.
            let wait = wait.min(until_check.saturating_add(ROUNDING));
            // A read that is cancelled is repeated.
            let entries = tokio::select! {
                entries = reader.positions.read(&self.streams, &mut connection, wait) => entries?,
                _ = changes.wait_for(|state| !is_up(*state)) => {
                    return Err(std::io::Error::from(std::io::ErrorKind::ConnectionAborted).into());
                }
            };
            if !entries.is_empty() {
                self.execute(reader, entries, &mut connection, store).await?;
            }
        }
    }

    /// Hands the events of other nodes over.
    async fn execute(
        &self,
        reader: &mut Reader,
        entries: Vec<Entry>,
        connection: &mut Connection,
        store: &Revocations,
    ) -> RedisResult<()> {
        let is_operation =
            |entry: &Entry| matches!(&entry.content, Some((from, Event::Operation(_))) if **from != *self.instance);
        let server_millis: u64 = if entries.iter().any(is_operation) {
            let [control, _] = &self.streams;
            self.clock.key(control).invoke_async(connection).await?
        } else {
            0
        };
        let read = clock::now();
        for Entry { id, content } in entries {
            match &content {
                None => self.counts.note_unknown(),
                Some((from, _)) if **from == *self.instance => continue,
                Some((_, event)) if event.is_counted() => self.counts.note_received(),
                Some(_) => {}
            }
            match content {
                None => reader.not_understood = reader.not_understood.saturating_add(1),
                Some((_, Event::Revocation(change))) if self.config.share.revocations => {
                    self.notify(change, store).await;
                }
                Some((_, Event::Load)) => reader.load_at = Some(clock::after(clock::now(), random_part(SPREAD))),
                Some((_, Event::Replaced(ids))) => self.notify_of_replaced(ids).await,
                Some((from, Event::Operation(operation))) => {
                    let age = of_millis(server_millis.saturating_sub(id.0));
                    let is_late = !operation.kind.is_current(age) && operation.kind != OperationKind::Question;
                    if self.config.share.sessions && is_late {
                        self.counts.note_expired();
                    }
                    self.hand_over(&from, operation, Published { age, read }).await;
                }
                Some((_, Event::Revocation(_))) => {}
            }
        }
        report(reader);
        Ok(())
    }

    /// Hands a change over, unless it changes nothing.
    async fn notify(&self, change: Change, store: &Revocations) {
        let is_known = match &change {
            Change::Add(revocation) => {
                store.of_id(revocation.target.id()).is_some_and(|known| known.covers(revocation))
                    || revocation.has_ended(clock::both().unix)
            }
            Change::Remove(id) => store.of_id(*id).is_none(),
        };
        if let Some(notices) = self.notices.get().filter(|_| !is_known) {
            // The receiver ends with the process.
            let _ = notices.send(Notice::Revocation(change)).await;
        }
    }

    /// Finds out whether the server has lost its data since the last check: then the set is to be loaded. Streams that
    /// begin anew may have earlier entries than the last ones that were read, if the clock of the server was set back.
    async fn check(&self, reader: &mut Reader, connection: &mut Connection) -> RedisResult<()> {
        let now = clock::now();
        let mut has_lost = reader.positions.resume(&self.scripts, &self.streams, connection).await?;
        if self.config.share.revocations {
            let new = format!("{}-{:016x}", self.instance, u64::from_be_bytes(random()));
            let mark: String = self.set.mark(&new).invoke_async(connection).await?;
            has_lost |= reader.mark.as_ref() != Some(&mark);
            if has_lost {
                // All nodes find the loss at about the same time, and the first one restores most of the set.
                let delay = if reader.mark.is_some() { random_part(SPREAD) } else { Duration::ZERO };
                if reader.mark.is_some() {
                    tracing::warn!(server = %self.config.servers, "the cluster's server has lost its data: restoring revocations");
                }
                reader.load_at.get_or_insert(clock::after(now, delay));
            }
            reader.mark = Some(mark);
            self.take_unsent(reader, false, now);
        }
        reader.check_at = Some(clock::after(now, CHECKED));
        Ok(())
    }

    /// Sends changes that the server lacks, and loads the set if this node may have missed changes, or the server may
    /// have lost them. Returns how long nothing of this is due.
    async fn keep_complete(
        &self,
        reader: &mut Reader,
        connection: &mut Connection,
        store: &Revocations,
    ) -> RedisResult<Duration> {
        let now = clock::now();
        if reader.load_at.is_some_and(|at| at <= now) {
            self.load(reader, connection, store).await?;
            reader.load_at = None;
        }
        for _ in 0..CHANGES_AT_ONCE {
            let Some(change) = reader.backlog.front() else { break };
            let is_stored: RedisResult<u8> = self.set.script(change, false).invoke_async(connection).await;
            if change.is_event {
                self.counts.note_published(&is_stored);
            }
            let is_stored = is_stored?;
            if is_stored == 0 {
                tracing::debug!("the cluster's set of revocations is full");
            }
            self.outbox().confirm(change, clock::now());
            reader.backlog.pop_front();
        }
        if reader.backlog.is_empty() && reader.has_load {
            let commands = write(&self.streams, &self.instance, Event::Load);
            commands.query_async::<()>(connection).await?;
            reader.has_load = false;
        }
        let now = clock::now();
        let due = reader.load_at.map_or(WAIT, |at| at.saturating_duration_since(now));
        Ok(if reader.backlog.is_empty() { due.min(WAIT) } else { Duration::ZERO })
    }

    /// Makes the changes that this node lacks, and queues those that the server lacks.
    async fn load(&self, reader: &mut Reader, connection: &mut Connection, store: &Revocations) -> RedisResult<()> {
        let stored = self.set.load(connection).await?;
        let known = store.of_api(clock::both().unix);
        let (removed, kept): (Vec<_>, Vec<_>) = known.into_iter().partition(|known| stored.has_removed(known));
        for revocation in removed {
            self.notify(Change::Remove(revocation.target.id()), store).await;
        }
        let missing: Vec<Revocation> =
            kept.iter().filter(|known| !stored.covers(known)).map(|known| Revocation::clone(known)).collect();
        let (count, sent) = (stored.revocations.len(), missing.len());
        for revocation in stored.revocations.into_values().flatten() {
            self.notify(Change::Add(revocation), store).await;
        }
        if let Some(notices) = self.notices.get() {
            // The receiver ends with the process.
            let _ = notices.send(Notice::Loaded).await;
        }
        let is_event = missing.len() <= EVENTS_MAX;
        reader.has_load |= !is_event;
        reader.backlog.extend(missing.into_iter().map(|revocation| SharedChange::add(revocation, is_event)));
        tracing::debug!(count, sent, "loaded the revocations of the cluster");
        Ok(())
    }

    /// Queues the changes that the server did not confirm.
    fn take_unsent(&self, reader: &mut Reader, is_reconnected: bool, now: Instant) {
        let mut outbox = self.outbox();
        if outbox.take_overfull() {
            reader.load_at.get_or_insert(now);
        }
        if reader.backlog.is_empty() {
            reader.backlog.extend(outbox.unsent(is_reconnected, now));
        }
    }
}

/// Logs how many entries were not understood, at intervals.
fn report(reader: &mut Reader) {
    let (count, now) = (reader.not_understood, clock::now());
    let is_due = reader.reported.is_none_or(|at| now.saturating_duration_since(at) >= REPORTED);
    if count > 0 && is_due {
        reader.not_understood = 0;
        reader.reported = Some(now);
        tracing::warn!(count, "skipped events of the cluster that are not understood");
    }
}
