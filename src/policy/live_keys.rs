//! A key set that is fetched while the process runs, as its verifiers see it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;

use super::key::KeySet;
use super::key_schedule::KeySchedule;
use super::remote::{HttpUrl, Roots};

/// The source of the keys of one `[auth]` section.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    /// The keys of a file.
    Fixed(Arc<KeySet>),
    /// Keys that are fetched.
    Remote {
        /// Their address.
        keys: RemoteKeys,
        /// How long keys are used after the last successful fetch.
        stale_for: Duration,
    },
}

impl From<KeySet> for KeySource {
    fn from(keys: KeySet) -> Self {
        Self::Fixed(Arc::new(keys))
    }
}

/// The address of a key set. Sections with the same address share the set.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteKeys {
    /// The server.
    pub location: KeyLocation,
    /// The roots of the server's certificate.
    pub roots: Roots,
}

/// Where a key set is found.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyLocation {
    /// At this URL.
    Jwks(HttpUrl),
    /// At the `jwks_uri` of the issuer's configuration (OpenID Connect Discovery section 3).
    Discovery {
        /// The issuer, which the configuration must name.
        issuer: Arc<str>,
        /// The URL of the configuration.
        document: HttpUrl,
    },
}

impl KeyLocation {
    /// Returns the location for an issuer: its configuration is at `/.well-known/openid-configuration`, appended to the
    /// issuer without a trailing slash (OpenID Connect Discovery section 4). `None` if that is not a valid URL.
    pub fn of_issuer(issuer: &str) -> Option<Self> {
        let base = issuer.strip_suffix('/').unwrap_or(issuer);
        let document = HttpUrl::parse(&format!("{base}/.well-known/openid-configuration")).ok()?;
        Some(Self::Discovery { issuer: issuer.into(), document })
    }

    /// Returns the URL that is asked first.
    pub fn url(&self) -> &HttpUrl {
        match self {
            Self::Jwks(url) | Self::Discovery { document: url, .. } => url,
        }
    }
}

/// A key set that is fetched. It outlives the snapshots whose verifiers use it.
#[derive(Debug)]
pub struct LiveKeys {
    remote: RemoteKeys,
    current: ArcSwapOption<FetchedKeys>,
    /// The response that they were read from, for the process that follows this one.
    body: ArcSwapOption<Vec<u8>>,
    schedule: Mutex<KeySchedule>,
    succeeded: AtomicU64,
    failed: AtomicU64,
}

/// The keys of the last fetch that succeeded.
#[derive(Debug)]
pub struct FetchedKeys {
    /// The keys.
    pub keys: Arc<KeySet>,
    /// The time of the fetch.
    pub fetched: Instant,
}

/// The difference that a fetch made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysChanged {
    /// Whether there were no keys before.
    pub is_first: bool,
    /// The number of keys that were added.
    pub added: usize,
    /// The number of keys that were removed.
    pub removed: usize,
}

/// The fetch that a token needs before it can be verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyNeed {
    /// None.
    Nothing,
    /// Any: there are no keys, or they are too old.
    Keys,
    /// One that brings the key that the token names.
    NamedKey,
}

/// There are no keys, or they are too old. The next fetch may bring some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeysUnavailable {
    /// Seconds until the end of the next fetch, at least 1.
    pub retry_after_secs: u64,
}

impl LiveKeys {
    /// Creates a set without keys, to be fetched now.
    pub fn new(remote: RemoteKeys, now: Instant) -> Self {
        Self {
            remote,
            current: ArcSwapOption::empty(),
            body: ArcSwapOption::empty(),
            schedule: Mutex::new(KeySchedule::new(now)),
            succeeded: AtomicU64::new(0),
            failed: AtomicU64::new(0),
        }
    }

    /// Returns the address of the set.
    pub fn remote(&self) -> &RemoteKeys {
        &self.remote
    }

    /// Returns the keys of the last successful fetch, however old.
    pub fn current(&self) -> Option<Arc<FetchedKeys>> {
        self.current.load_full()
    }

    /// Returns the time since the last successful fetch.
    pub fn age(&self, now: Instant) -> Option<Duration> {
        self.current.load().as_ref().map(|current| now.saturating_duration_since(current.fetched))
    }

    /// Returns the times at which the set is fetched. They are consistent after every step.
    pub fn schedule(&self) -> MutexGuard<'_, KeySchedule> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends a fetch with these keys. Only one task fetches a set.
    pub fn replace(&self, keys: KeySet, lifetime: Option<Duration>, now: Instant, random: u32) -> KeysChanged {
        let before = self.current.load_full();
        let missing = |from: &KeySet, other: &KeySet| from.ids().filter(|id| !other.has_id(*id)).count();
        let changed = match &before {
            Some(before) => KeysChanged {
                is_first: false,
                added: missing(&keys, &before.keys),
                removed: missing(&before.keys, &keys),
            },
            None => KeysChanged { is_first: true, added: keys.ids().count(), removed: 0 },
        };
        let keys = before.map(|before| before.keys.clone()).filter(|before| **before == keys).unwrap_or(Arc::new(keys));
        self.current.store(Some(Arc::new(FetchedKeys { keys, fetched: now })));
        self.schedule().succeed(now, lifetime, random);
        self.succeeded.fetch_add(1, Ordering::Relaxed);
        changed
    }

    /// Keeps the response of the last fetch that succeeded.
    pub fn remember(&self, body: Vec<u8>) {
        self.body.store(Some(Arc::new(body)));
    }

    /// Returns the response of the last fetch that succeeded.
    pub fn body(&self) -> Option<Arc<Vec<u8>>> {
        self.body.load_full()
    }

    /// Takes over the keys that another process fetched at this time, unless there are some. The next fetch is not put
    /// off.
    pub fn restore(&self, keys: KeySet, body: Vec<u8>, fetched: Instant) {
        if self.current.load().is_none() {
            self.remember(body);
            self.current.store(Some(Arc::new(FetchedKeys { keys: Arc::new(keys), fetched })));
        }
    }

    /// Ends a fetch that failed. The keys stay.
    pub fn keep(&self, now: Instant, random: u32) {
        self.schedule().fail(now, random);
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Returns the numbers of fetches that succeeded and that failed.
    pub fn fetches(&self) -> (u64, u64) {
        (self.succeeded.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests;
