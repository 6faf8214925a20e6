//! The sessions of one worker, by id. Other threads reach a session only by commands that its worker delivers here.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use slab::Slab;
use tokio::sync::{mpsc, oneshot};

use super::description::SessionInfo;
use super::facts::SessionFacts;
use super::freezing::{FreezeRequest, Freezing};
use super::renewal_count::RenewalCount;
use super::watcher::Watcher;
use crate::client::clients::HttpClients;
use crate::policy::expiry::Expiry;
use crate::policy::recheck::{TermChanges, Terms};
use crate::policy::route::Route;
use crate::runtime::timers::{Timer, Timers};
use crate::session::{CloseReason, Message};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::request::RequestId;
use crate::upstream::http_pool::HttpPool;
use crate::ws::code::CloseCode;

/// The maximum number of pending commands of one session. Its task takes all of them when it is polled next.
const COMMANDS_MAX: usize = 16;

/// A command to one session.
#[derive(Debug)]
pub enum Command {
    /// Closes both sides. It has no effect on a session that is already closing.
    Close {
        /// The code of both Closes.
        code: CloseCode,
        /// The reason in both Closes.
        reason: Arc<str>,
    },
    /// Closes both sides because the session was revoked, a changed configuration does not admit it or has removed its
    /// route, its server drains or sheds sessions, or another session has taken over its slot.
    Revoke(CloseReason),
    /// Replaces the terms of the session. A later one replaces one that was not executed yet.
    SetTerms(Box<TermChanges>),
    /// Changes when the session ends because its token expires. A session that is not closing is counted. A later
    /// change replaces one that was not executed yet.
    SetExpiry(Option<Expiry>, RenewalCount),
    /// Sends a message to the client. If it cannot be sent within
    /// [`QUEUED_MAX_AGE`](crate::session::QUEUED_MAX_AGE), the session counts and logs that.
    Send(Message),
    /// Describes the session. The channel has a capacity for every session that is asked.
    Describe(mpsc::Sender<SessionInfo>),
    /// Reports the frames of the session. The reply is whether it does: not if it has too many watchers. A session that
    /// is over drops the sender.
    Watch(Box<Watcher>, oneshot::Sender<bool>),
    /// Freezes the session, so that another process can continue it.
    Freeze(FreezeRequest),
}

/// The reason why a command was not delivered, with the command.
#[derive(Debug)]
pub enum NotDelivered {
    /// No session of this worker has the id.
    NoSession(Command),
    /// The session has the maximum number of pending commands.
    Busy(Command),
    /// The worker ended before it replied.
    Lost,
}

/// The sessions of one worker. Only its own thread uses it, so its lock is always free.
#[derive(Default)]
pub struct Registry {
    entries: Mutex<Slab<Entry>>,
    /// The keys of the sessions that hold slots of their client's limits.
    limited: Mutex<HashMap<RequestId, usize>>,
    /// Changes when a command is delivered, so that a session checks for new commands with one load.
    delivered: AtomicU32,
}

struct Entry {
    facts: Arc<SessionFacts>,
    /// The route by whose rules the session is open.
    route: Arc<Route>,
    waker: Option<Waker>,
    commands: Vec<Command>,
    is_limited: bool,
    /// The last round in which it was asked to freeze.
    asked_in: u32,
}

/// A session in a list: its route, and its facts.
pub type ListedSession = (Arc<Route>, Arc<SessionFacts>);

impl Registry {
    /// Returns all sessions.
    pub fn list(&self) -> Vec<ListedSession> {
        let listed = |(_, entry): (usize, &Entry)| (Arc::clone(&entry.route), Arc::clone(&entry.facts));
        self.lock().iter().map(listed).collect()
    }

    /// Returns the keys of all sessions, for a caller that visits them one by one. The key of a session that ends
    /// meanwhile may become that of a new session.
    pub fn keys(&self) -> Vec<usize> {
        self.lock().iter().map(|(key, _)| key).collect()
    }

    /// Returns the session with this key.
    pub fn get(&self, key: usize) -> Option<ListedSession> {
        self.lock().get(key).map(|entry| (Arc::clone(&entry.route), Arc::clone(&entry.facts)))
    }

    /// Returns the key of the session with this id.
    pub fn key_of(&self, id: RequestId) -> Option<usize> {
        self.lock().iter().find(|(_, entry)| entry.facts.request_id == id).map(|(key, _)| key)
    }

    /// Delivers a command to the session with this id, and wakes it. The search is linear in the number of sessions:
    /// an index would cost memory for every session, and commands to many sessions are delivered by key.
    ///
    /// # Errors
    /// If there is no such session, or it has too many pending commands. The error contains the command.
    pub fn deliver(&self, id: RequestId, command: Command) -> Result<(), NotDelivered> {
        let Some(key) = self.key_of(id) else { return Err(NotDelivered::NoSession(command)) };
        self.deliver_to(key, command)
    }

    /// Delivers a command to the session with this key, and wakes it.
    ///
    /// # Errors
    /// If there is no such session, or it has too many pending commands. The error contains the command.
    pub fn deliver_to(&self, key: usize, command: Command) -> Result<(), NotDelivered> {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return Err(NotDelivered::NoSession(command)) };
        if entry.commands.len() >= COMMANDS_MAX {
            return Err(NotDelivered::Busy(command));
        }
        entry.commands.push(command);
        self.wake(entries, key);
        Ok(())
    }

    /// Asks up to `max` sessions to freeze that were not asked in this round, which is not 0, and do not have too many
    /// pending commands. Each answers to the channel.
    pub fn freeze(&self, round: u32, max: usize, reply: &mpsc::Sender<Freezing>) {
        let is_open = |(key, entry): (usize, &Entry)| {
            (entry.asked_in != round && entry.commands.len() < COMMANDS_MAX).then_some(key)
        };
        let keys: Vec<usize> = self.lock().iter().filter_map(is_open).take(max).collect();
        for key in keys {
            // The session may not end meanwhile: it runs on this thread.
            let _ = self.deliver_to(key, Command::Freeze(FreezeRequest::new(reply.clone())));
            if let Some(entry) = self.lock().get_mut(key) {
                entry.asked_in = round;
            }
        }
    }

    /// Ends the session with this key for this reason, even if it has too many pending commands. Returns whether it is
    /// the first one to end it so.
    pub fn end(&self, key: usize, reason: CloseReason) -> bool {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return false };
        if entry.commands.iter().any(|command| matches!(command, Command::Revoke(_))) {
            return false;
        }
        entry.commands.push(Command::Revoke(reason));
        self.wake(entries, key);
        true
    }

    /// Records that the session with this key holds slots that another session may take over, so that it is found by
    /// its id without a search.
    pub fn note_limited(&self, key: usize) {
        if let Some(entry) = self.lock().get_mut(key) {
            entry.is_limited = true;
            self.limited().insert(entry.facts.request_id, key);
        }
    }

    /// Ends a session that holds such slots, even if it has too many pending commands. Has no effect if there is none
    /// with this id.
    pub fn revoke_limited(&self, id: RequestId, cause: CloseReason) {
        let Some(key) = self.limited().get(&id).copied() else { return };
        let mut entries = self.lock();
        if let Some(entry) = entries.get_mut(key) {
            entry.commands.push(Command::Revoke(cause));
            self.wake(entries, key);
        }
    }

    /// Replaces the route by whose rules the session with this key is open. Changes of its terms are delivered even to
    /// a session with too many pending commands.
    pub fn set_terms(&self, key: usize, terms: Terms) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return };
        let before = std::mem::replace(&mut entry.route, terms.route);
        let mut replaced = None;
        if terms.changes.as_ref().is_some_and(|changes| !changes.slots.is_empty()) {
            entry.is_limited = true;
            self.limited().insert(entry.facts.request_id, key);
        }
        if let Some(changes) = terms.changes {
            replaced = take(&mut entry.commands, |command| matches!(command, Command::SetTerms(_)));
            let mut changes = changes;
            if let Some(Command::SetTerms(replaced)) = &mut replaced {
                changes.keep_slots(replaced);
            }
            entry.commands.push(Command::SetTerms(Box::new(changes)));
            self.wake(entries, key);
        } else {
            drop(entries);
        }
        // Not under the lock: dropping a route may drop a verifier, and dropping terms releases slots.
        drop((before, replaced));
    }

    /// Changes when the session with this key ends because its token expires. The change is delivered even to a session
    /// with too many pending commands.
    pub fn set_expiry(&self, key: usize, expires: Option<Expiry>, count: RenewalCount) {
        let mut entries = self.lock();
        let Some(entry) = entries.get_mut(key) else { return };
        let replaced = take(&mut entry.commands, |command| matches!(command, Command::SetExpiry(..)));
        entry.commands.push(Command::SetExpiry(expires, count));
        self.wake(entries, key);
        drop(replaced);
    }

    /// Wakes the session with this key after a command was delivered.
    fn wake(&self, entries: MutexGuard<'_, Slab<Entry>>, key: usize) {
        let waker = entries.get(key).and_then(|entry| entry.waker.clone());
        drop(entries);
        self.delivered.fetch_add(1, Ordering::Relaxed);
        // A session that was not polled yet takes its commands in its first poll.
        waker.iter().for_each(Waker::wake_by_ref);
    }

    fn register(self: &Arc<Self>, facts: Arc<SessionFacts>, route: Arc<Route>) -> Registration {
        let key = self.lock().insert(Entry {
            facts,
            route,
            waker: None,
            commands: Vec::new(),
            is_limited: false,
            asked_in: 0,
        });
        // The first poll always checks for commands, and registers its waker.
        let seen = self.delivered.load(Ordering::Relaxed).wrapping_sub(1);
        Registration { registry: Arc::clone(self), key, seen }
    }

    fn limited(&self) -> MutexGuard<'_, HashMap<RequestId, usize>> {
        // The map is consistent after every step.
        self.limited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Entry>> {
        // The slab is consistent after every step.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes the first of these commands.
fn take(commands: &mut Vec<Command>, is_wanted: fn(&Command) -> bool) -> Option<Command> {
    commands.iter().position(is_wanted).map(|at| commands.remove(at))
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("sessions", &self.lock().len()).finish_non_exhaustive()
    }
}

/// A session's entry in its registry, removed when dropped.
#[derive(Debug)]
struct Registration {
    registry: Arc<Registry>,
    key: usize,
    /// The registry's `delivered` when the session last checked for commands.
    seen: u32,
}

impl Registration {
    fn take_commands(&mut self, waker: &Waker) -> Vec<Command> {
        let delivered = self.registry.delivered.load(Ordering::Relaxed);
        if std::mem::replace(&mut self.seen, delivered) == delivered {
            return Vec::new();
        }
        let mut entries = self.registry.lock();
        let Some(entry) = entries.get_mut(self.key) else { return Vec::new() };
        entry.waker.get_or_insert_with(|| waker.clone());
        std::mem::take(&mut entry.commands)
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let entry = self.registry.lock().try_remove(self.key);
        if let Some(entry) = entry.as_ref().filter(|entry| entry.is_limited) {
            self.registry.limited().remove(&entry.facts.request_id);
        }
        // Not under the lock: dropping the waker may drop a task.
        drop(entry);
    }
}

/// The timers, the registry, the metrics and the HTTP clients that a worker provides to its connections.
#[derive(Debug, Clone, Default)]
pub struct SessionContext {
    timers: Arc<Timers>,
    registry: Arc<Registry>,
    metrics: Arc<WorkerMetrics>,
    clients: Arc<HttpClients>,
    connections: Arc<HttpPool>,
}

impl SessionContext {
    /// Creates the context of a worker with these metrics.
    pub fn new(metrics: Arc<WorkerMetrics>) -> Self {
        Self { metrics, ..Self::default() }
    }

    /// Returns the metrics of the worker.
    pub fn metrics(&self) -> &WorkerMetrics {
        &self.metrics
    }

    /// Returns the HTTP clients of the worker.
    pub fn clients(&self) -> &HttpClients {
        &self.clients
    }

    /// Returns the unused connections to servers of the worker.
    pub fn connections(&self) -> &Arc<HttpPool> {
        &self.connections
    }

    /// Returns the timers of the worker.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Returns the registry of the worker.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Registers a session that is open by the rules of this route.
    pub fn register(&self, facts: Arc<SessionFacts>, route: Arc<Route>) -> SessionGuard {
        let registration = self.registry.register(facts, route);
        SessionGuard { timer: Timer::new(Arc::clone(&self.timers)), registration }
    }
}

/// The timer and the registration of one session. Dropping it removes both.
#[derive(Debug)]
pub struct SessionGuard {
    /// Wakes the session.
    pub timer: Timer,
    registration: Registration,
}

impl SessionGuard {
    /// Returns the commands that were delivered since the last call. From the first call on, a delivered command wakes
    /// the task of this waker.
    pub fn take_commands(&mut self, waker: &Waker) -> Vec<Command> {
        self.registration.take_commands(waker)
    }

    /// Returns the key of the session in its registry.
    pub fn key(&self) -> usize {
        self.registration.key
    }
}

#[cfg(test)]
mod tests;
