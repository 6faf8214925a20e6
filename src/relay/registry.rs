//! The sessions of one worker, by id. Other threads reach a session only by commands that its worker delivers here.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use slab::Slab;
use tokio::sync::oneshot;

use crate::policy::limits::Limits;
use crate::policy::quota::Count;
use crate::runtime::timers::{Timer, Timers};
use crate::session::{Message, SessionStats};
use crate::telemetry::metrics::worker::WorkerMetrics;
use crate::telemetry::request::RequestId;
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
        reason: Box<str>,
    },
    /// Replaces the limits of the route.
    SetLimits {
        /// The new limits.
        limits: Arc<Limits>,
        /// The count of messages that the session shares with others, if it shares one.
        shared: Option<Arc<Count>>,
    },
    /// Replaces the time at which the token expires.
    SetExpiry(Option<Instant>),
    /// Sends a message to the client. It is dropped if the session closes or its queue is full.
    Send(Message),
    /// Describes the session.
    Describe(oneshot::Sender<SessionInfo>),
}

/// The activity of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionActivity {
    /// It forwards messages.
    Open,
    /// Its client exceeded its rate and is not read.
    Throttled,
    /// Its closing handshake has begun.
    Closing,
    /// It is over, and its connections are being closed.
    Lingering,
}

/// The description of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionInfo {
    /// Its route.
    pub route: Arc<str>,
    /// The upstream's server.
    pub server: Arc<str>,
    /// The subject of its token.
    pub subject: Option<Arc<str>>,
    /// The client's address.
    pub client: IpAddr,
    /// The time since its 101.
    pub age: Duration,
    /// Its activity.
    pub activity: SessionActivity,
    /// The messages and bytes that it has forwarded.
    pub stats: SessionStats,
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
    /// Changes when a command is delivered, so that a session checks for new commands with one load.
    delivered: AtomicU32,
}

struct Entry {
    id: RequestId,
    waker: Option<Waker>,
    commands: Vec<Command>,
}

impl Registry {
    /// Returns the ids of all sessions.
    pub fn ids(&self) -> Vec<RequestId> {
        self.lock().iter().map(|(_, entry)| entry.id).collect()
    }

    /// Delivers a command to the session with this id, and wakes it. The search is linear in the number of sessions:
    /// commands are rare, and an index would cost memory for every session.
    ///
    /// # Errors
    /// If there is no such session, or it has too many pending commands. The error contains the command.
    pub fn deliver(&self, id: RequestId, command: Command) -> Result<(), NotDelivered> {
        let mut entries = self.lock();
        let Some((_, entry)) = entries.iter_mut().find(|(_, entry)| entry.id == id) else {
            return Err(NotDelivered::NoSession(command));
        };
        if entry.commands.len() >= COMMANDS_MAX {
            return Err(NotDelivered::Busy(command));
        }
        entry.commands.push(command);
        let waker = entry.waker.clone();
        drop(entries);
        self.delivered.fetch_add(1, Ordering::Relaxed);
        // A session that was not polled yet takes its commands in its first poll.
        waker.iter().for_each(Waker::wake_by_ref);
        Ok(())
    }

    fn register(self: &Arc<Self>, id: RequestId) -> Registration {
        let key = self.lock().insert(Entry { id, waker: None, commands: Vec::new() });
        // The first poll always checks for commands, and registers its waker.
        let seen = self.delivered.load(Ordering::Relaxed).wrapping_sub(1);
        Registration { registry: Arc::clone(self), key, seen }
    }

    fn lock(&self) -> MutexGuard<'_, Slab<Entry>> {
        // The slab is consistent after every step.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
        // Not under the lock: dropping the waker may drop a task.
        drop(entry);
    }
}

/// The timers, the registry and the metrics that a worker provides to its sessions.
#[derive(Debug, Clone, Default)]
pub struct SessionContext {
    timers: Arc<Timers>,
    registry: Arc<Registry>,
    metrics: Arc<WorkerMetrics>,
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

    /// Returns the timers of the worker.
    pub fn timers(&self) -> &Arc<Timers> {
        &self.timers
    }

    /// Returns the registry of the worker.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Registers a session.
    pub fn register(&self, id: RequestId) -> SessionGuard {
        SessionGuard { timer: Timer::new(Arc::clone(&self.timers)), registration: self.registry.register(id) }
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
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    const ID: RequestId = RequestId(7);

    #[test]
    fn a_command_reaches_its_session_and_wakes_it() {
        let (context, woken) = (SessionContext::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let mut session = context.register(ID);
        let mut other = context.register(RequestId(8));
        // Before the first poll no waker is registered.
        context.registry().deliver(ID, Command::SetExpiry(None)).unwrap();
        assert_eq!(session.take_commands(&waker).len(), 1);
        assert!(other.take_commands(Waker::noop()).is_empty() && session.take_commands(&waker).is_empty());
        context.registry().deliver(ID, Command::SetExpiry(None)).unwrap();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        assert!(other.take_commands(Waker::noop()).is_empty());
        assert_eq!(session.take_commands(&waker).len(), 1);
    }

    #[test]
    fn pending_commands_are_limited_and_further_ones_are_returned() {
        let context = SessionContext::default();
        let mut session = context.register(ID);
        for _ in 0..COMMANDS_MAX {
            context.registry().deliver(ID, Command::SetExpiry(None)).unwrap();
        }
        let back = context.registry().deliver(ID, Command::SetExpiry(None));
        assert!(matches!(back, Err(NotDelivered::Busy(Command::SetExpiry(None)))));
        assert_eq!(session.take_commands(Waker::noop()).len(), COMMANDS_MAX);
        assert!(context.registry().deliver(ID, Command::SetExpiry(None)).is_ok());
    }

    #[test]
    fn a_dropped_session_is_removed_from_the_registry() {
        let (context, woken) = (SessionContext::default(), Arc::new(Woken::default()));
        for _ in 0..3 {
            let mut session = context.register(ID);
            session.take_commands(&Waker::from(Arc::clone(&woken)));
            assert_eq!(context.registry().ids(), [ID]);
        }
        assert!(context.registry().ids().is_empty());
        assert_eq!(Arc::strong_count(&woken), 1);
        let back = context.registry().deliver(ID, Command::SetExpiry(None));
        assert!(matches!(back, Err(NotDelivered::NoSession(Command::SetExpiry(None)))));
    }
}
