//! The key sets of all snapshots, and the task of each that fetches it.

use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::key_fetch::{FetchError, Fetched, client, fetch};
use super::key_log::{KeyLog, KeyUser};
use crate::policy::key_schedule::Demand;
use crate::policy::live_keys::{KeyNeed, KeysChanged, LiveKeys, RemoteKeys};
use crate::runtime::entropy::random;
use crate::runtime::tasks::Tasks;

/// How long a request waits for keys.
pub const WAIT_MAX: Duration = Duration::from_secs(5);

/// The key sets of the process, by their address. They outlive every snapshot.
#[derive(Debug)]
pub struct KeySets {
    clock: fn() -> Instant,
    entries: Mutex<HashMap<RemoteKeys, Entry>>,
    /// Signals that a set has lost keys, or has its first ones.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct Entry {
    fetcher: Arc<KeyFetcher>,
    /// Ends the task of the set when the set is dropped; `None` if no task was started yet.
    task: Option<DropGuard>,
}

/// The link between the requests that need keys and the task that fetches them.
pub struct KeyFetcher {
    live: Arc<LiveKeys>,
    /// Wakes the task after the time of the next fetch has changed.
    wake: Notify,
    log: Mutex<KeyLog>,
    /// The number of fetches that have ended.
    ended: watch::Sender<u64>,
    clock: fn() -> Instant,
}

/// The result of waiting for keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waited {
    /// The keys are as current as they can be: the token can be decided.
    Current,
    /// The fetch did not end in time.
    Unknown,
    /// The last fetch failed, and the next one may bring the key.
    Failed {
        /// Seconds until the next fetch, at least 1.
        retry_after_secs: u64,
    },
}

impl KeySets {
    /// Creates an empty registry.
    pub fn new(clock: fn() -> Instant) -> Self {
        Self { clock, entries: Mutex::default(), changed: Arc::default() }
    }

    /// Returns the key set with this address. It is added if it is new, without a task.
    pub fn get(&self, remote: &RemoteKeys) -> Arc<LiveKeys> {
        let new = || {
            let live = Arc::new(LiveKeys::new(remote.clone(), (self.clock)()));
            Entry { fetcher: Arc::new(KeyFetcher::new(live, self.clock)), task: None }
        };
        let mut entries = self.entries();
        let entry = entries.entry(remote.clone()).or_insert_with(new);
        Arc::clone(&entry.fetcher.live)
    }

    /// Returns the fetcher of the set with this address.
    pub fn fetcher(&self, remote: &RemoteKeys) -> Option<Arc<KeyFetcher>> {
        self.entries().get(remote).map(|entry| Arc::clone(&entry.fetcher))
    }

    /// Starts the tasks of the sets that have none. [`KeySets::retain`] must precede it.
    pub fn start(&self, tasks: &Tasks) {
        for entry in self.entries().values_mut().filter(|entry| entry.task.is_none()) {
            let end = CancellationToken::new();
            entry.task = Some(end.clone().drop_guard());
            let (fetcher, changed) = (Arc::clone(&entry.fetcher), Arc::clone(&self.changed));
            tasks.start(async move {
                tokio::select! {
                    () = end.cancelled() => {}
                    () = fetcher.run(&changed) => {}
                }
            });
        }
    }

    /// Keeps the sets for which `users` returns sections that use them. The others are dropped, and their tasks end.
    pub fn retain(&self, users: impl Fn(&RemoteKeys) -> Vec<KeyUser>) {
        self.entries().retain(|remote, entry| {
            let users = users(remote);
            let Some(stale_for) = users.iter().map(|user| user.stale_for).min() else { return false };
            entry.fetcher.live.schedule().limit_lifetime(stale_for);
            entry.fetcher.log().set_users(users);
            entry.fetcher.wake.notify_one();
            true
        });
    }

    /// Waits until a set has lost keys, or has its first ones.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<RemoteKeys, Entry>> {
        // The map is consistent after every step.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyFetcher {
    fn new(live: Arc<LiveKeys>, clock: fn() -> Instant) -> Self {
        Self { live, wake: Notify::new(), log: Mutex::default(), ended: watch::Sender::new(0), clock }
    }

    /// Waits, at most [`WAIT_MAX`], until a token can be decided. `need` returns the fetch that it still needs. The
    /// caller limits the number of requests that wait.
    ///
    /// A fetch that is in progress may have begun before the issuer published the key: if it succeeds without the key,
    /// one more is asked for.
    pub async fn wait(&self, need: impl Fn() -> KeyNeed) -> Waited {
        let waiting = async {
            for _ in 0..2 {
                // Subscribed before the demand, so that its end is not missed.
                let mut ended = self.ended.subscribe();
                if !self.is_awaited(need()) || ended.changed().await.is_err() || self.live.schedule().is_failing() {
                    return;
                }
            }
        };
        if timeout(WAIT_MAX, waiting).await.is_err() {
            return Waited::Unknown;
        }
        let schedule = self.live.schedule();
        let may_follow = schedule.is_failing().then(|| schedule.retry_after_secs((self.clock)()));
        drop(schedule);
        match may_follow {
            Some(retry_after_secs) if need() == KeyNeed::NamedKey => Waited::Failed { retry_after_secs },
            _ => Waited::Current,
        }
    }

    /// Whether a fetch ends soon that may bring what is needed.
    fn is_awaited(&self, need: KeyNeed) -> bool {
        let now = (self.clock)();
        match need {
            KeyNeed::Nothing => false,
            // The schedule decides when a set without keys is fetched again.
            KeyNeed::Keys => self.live.schedule().is_pending(now),
            KeyNeed::NamedKey => {
                let demand = self.live.schedule().demand(now);
                if demand == Demand::Granted {
                    self.wake.notify_one();
                }
                demand != Demand::Refused
            }
        }
    }

    /// Fetches the set whenever it is due. Never returns.
    async fn run(&self, changed: &Notify) {
        let client = client(self.live.remote());
        self.run_with(changed, || fetch(&client, self.live.remote())).await;
    }

    async fn run_with<F: Future<Output = Result<Fetched, FetchError>>>(&self, changed: &Notify, fetch: impl Fn() -> F) {
        loop {
            let unusable = self.log_use();
            let due = self.live.schedule().due();
            tokio::select! {
                () = sleep_until(due.into()) => {}
                () = sleep_until(unusable.unwrap_or(due).into()), if unusable.is_some() => continue,
                // The time may have changed.
                () = self.wake.notified() => continue,
            }
            self.live.schedule().start();
            let result = fetch().await;
            if self.finish(result) {
                changed.notify_one();
            }
            self.ended.send_modify(|ended| *ended = ended.wrapping_add(1));
        }
    }

    /// Takes the result of a fetch, and logs changes of the state. Returns whether sessions may have lost their keys.
    fn finish(&self, result: Result<Fetched, FetchError>) -> bool {
        let (live, now, mut log) = (&self.live, (self.clock)(), self.log());
        let (auth, url) = (log.auths(), live.remote().location.url());
        let (was_failing, age_secs) = (live.schedule().is_failing(), live.age(now).map(|age| age.as_secs()));
        let random = u32::from_ne_bytes(random());
        let Fetched { keys, body, lifetime } = match result {
            Ok(fetched) => fetched,
            Err(error) => {
                live.keep(now, random);
                if log.fail(&error, now) {
                    let (url, error) = (error.url().unwrap_or(url), error.reason());
                    tracing::warn!(auth, %url, %error, age_secs, "key set cannot be fetched");
                }
                return false;
            }
        };
        log.succeed();
        let count = keys.ids().count();
        live.remember(body.into());
        let KeysChanged { is_first, added, removed } = live.replace(keys, lifetime, now, random);
        if is_first {
            tracing::info!(auth, %url, keys = count, "key set fetched");
        } else if was_failing {
            tracing::info!(auth, %url, keys = count, age_secs, "key set fetched again");
        }
        if !is_first && (added > 0 || removed > 0) {
            tracing::info!(auth, %url, keys = count, added, removed, "key set changed");
        }
        is_first || removed > 0
    }

    /// Logs the sections that cannot use the set any more because it is too old, and those that can again. Returns when
    /// the next one cannot use it any more.
    fn log_use(&self) -> Option<Instant> {
        let now = (self.clock)();
        let age = self.live.age(now);
        let changes = self.log().pass(age, now);
        let (url, age_secs) = (self.live.remote().location.url(), age.map(|age| age.as_secs()));
        for auth in changes.lost {
            tracing::error!(auth = &*auth, %url, age_secs, "key set is unusable: it is older than keys_stale_for");
        }
        for auth in changes.regained {
            tracing::info!(auth = &*auth, %url, "key set is usable again");
        }
        changes.next
    }

    fn log(&self) -> MutexGuard<'_, KeyLog> {
        // It is consistent after every step.
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for KeyFetcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyFetcher").field("remote", self.live.remote()).finish_non_exhaustive()
    }
}

pub mod moved;
#[cfg(test)]
mod tests;
