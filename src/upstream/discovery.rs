//! The names from which pools get their servers: a task for each looks it up whenever its answer ends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::resolver::{FoundAddresses, LookUpError, Resolver};
use crate::balance::discovery::{FOUND_MAX, FoundSet, LookUpChange, LookUps, Service, found_server, preferred};
use crate::balance::{Discover, ServerConfig};
use crate::runtime::clock;
use crate::runtime::entropy::random;
use crate::runtime::tasks::Tasks;

/// Timeout for a look-up with all the names that its answer names.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(30);

/// The maximum number of targets of SRV records of one source that are looked up at once, so that other look-ups pass.
const TARGETS_AT_ONCE: usize = 4;

/// The sources of the servers of all pools. They outlive every snapshot.
#[derive(Default)]
pub struct Discoveries {
    entries: Mutex<BTreeMap<Discover, Entry>>,
    /// Signals that a set has changed.
    changed: Arc<Notify>,
}

struct Entry {
    state: Arc<Mutex<State>>,
    /// Ends the task of the source when it is dropped; a file has no task.
    _task: Option<DropGuard>,
}

#[derive(Debug, Default)]
struct State {
    /// The names of the upstreams that use it, for the log.
    upstreams: String,
    look_ups: LookUps,
    /// Whether the set was not taken yet.
    is_new: bool,
    status: DiscoveryStatus,
}

/// The state of a source, for operators.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DiscoveryStatus {
    /// The last success, since the Unix epoch.
    pub succeeded: Option<Duration>,
    /// The last error, if there was no success since.
    pub error: Option<String>,
    /// The number of failures.
    pub failures: u64,
}

/// A source with the names of the upstreams that use it.
pub type Used = BTreeMap<Discover, String>;

impl Discoveries {
    /// Keeps the sources that are used, starts to look up those that are new, and drops the others.
    pub fn set_used(&self, used: Used, resolver: &Resolver, tasks: &Tasks) {
        let mut entries = self.entries();
        entries.retain(|discover, _| used.contains_key(discover));
        for (discover, upstreams) in used {
            let entry = entries.entry(discover.clone()).or_insert_with(|| {
                let state = Arc::new(Mutex::new(State::default()));
                if !discover.is_looked_up() {
                    lock(&state).status.succeeded = clock::unix();
                    return Entry { state, _task: None };
                }
                let end = CancellationToken::new();
                let task = Some(end.clone().drop_guard());
                let (source, resolver) = (Source { discover, state: Arc::clone(&state) }, resolver.clone());
                let changed = Arc::clone(&self.changed);
                tasks.start(async move {
                    tokio::select! {
                        () = end.cancelled() => {}
                        () = source.run(&resolver, &changed) => {}
                    }
                });
                Entry { state, _task: task }
            });
            lock(&entry.state).upstreams = upstreams;
        }
    }

    /// Waits until a set has changed.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Returns the sets that have changed since the last call. The caller passes those that it could not install to
    /// [`Self::put_back`].
    pub fn take_changed(&self) -> Vec<(Discover, Vec<ServerConfig>)> {
        let take = |(discover, entry): (&Discover, &Entry)| {
            let mut state = lock(&entry.state);
            let is_new = std::mem::take(&mut state.is_new);
            let set = state.look_ups.set().filter(|_| is_new)?;
            Some((discover.clone(), set.servers.clone()))
        };
        self.entries().iter().filter_map(take).collect()
    }

    /// Lets the next call of [`Self::take_changed`] return the sets of these sources again. Their next look-ups signal it.
    pub fn put_back(&self, sources: impl IntoIterator<Item = Discover>) {
        let entries = self.entries();
        for entry in sources.into_iter().filter_map(|source| entries.get(&source)) {
            lock(&entry.state).is_new = true;
        }
    }

    /// Returns the servers that were found last for exactly this source; `None` before the first success.
    pub fn servers(&self, discover: &Discover) -> Option<Vec<ServerConfig>> {
        let entries = self.entries();
        let state = lock(&entries.get(discover)?.state);
        state.look_ups.set().map(|set| set.servers.clone())
    }

    /// Records that a file was read, or why it cannot be used. A name that is looked up is not affected.
    pub fn note_file(&self, discover: &Discover, result: Result<(), String>) {
        let entries = self.entries();
        let Some(entry) = entries.get(discover).filter(|_| !discover.is_looked_up()) else { return };
        lock(&entry.state).status.note(result);
    }

    /// Returns the state of a source.
    pub fn status(&self, discover: &Discover) -> DiscoveryStatus {
        self.entries().get(discover).map(|entry| lock(&entry.state).status.clone()).unwrap_or_default()
    }

    fn entries(&self) -> MutexGuard<'_, BTreeMap<Discover, Entry>> {
        lock(&self.entries)
    }
}

impl DiscoveryStatus {
    fn note(&mut self, result: Result<(), String>) {
        match result {
            Ok(()) => {
                self.succeeded = clock::unix();
                self.error = None;
            }
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error);
            }
        }
    }
}

/// A name that is looked up by a task.
struct Source {
    discover: Discover,
    state: Arc<Mutex<State>>,
}

impl Source {
    /// Looks the name up whenever it is due. Never returns.
    async fn run(self, resolver: &Resolver, changed: &Notify) {
        let mut known = Known::default();
        loop {
            let looking = timeout(LOOK_UP_TIMEOUT, known.look_up(resolver, &self.discover));
            let found = looking.await.unwrap_or_else(|_| Err(late()));
            let (is_new, pause) = self.finish(found, u32::from_ne_bytes(random()));
            if is_new {
                changed.notify_one();
            }
            sleep(pause).await;
        }
    }

    /// Takes the result of a look-up, and logs changes of the state. Returns whether the set was not taken yet, and the
    /// pause before the next look-up.
    fn finish(&self, found: Result<(FoundSet, Duration), LookUpError>, random: u32) -> (bool, Duration) {
        let (mut state, source) = (lock(&self.state), &self.discover);
        let State { upstreams, look_ups, is_new, status } = &mut *state;
        let upstream = &*upstreams;
        let looked_up = match found {
            Ok((set, ttl)) => {
                status.note(Ok(()));
                let left_out = set.left_out;
                let looked_up = look_ups.succeed(set, ttl, random);
                if looked_up.is_new_set && left_out > 0 {
                    tracing::warn!(upstream, %source, left_out, "a name has more than {FOUND_MAX} servers");
                }
                if looked_up.change == Some(LookUpChange::Works) {
                    tracing::info!(upstream, %source, "servers can be looked up again");
                }
                looked_up
            }
            Err(error) => {
                status.note(Err(error.to_string()));
                let looked_up = look_ups.fail(random);
                if looked_up.change == Some(LookUpChange::Fails) {
                    let servers = look_ups.set().map_or(0, |set| set.servers.len());
                    tracing::warn!(upstream, %source, servers, %error, "servers cannot be looked up: the earlier ones stay");
                }
                looked_up
            }
        };
        *is_new |= looked_up.is_new_set;
        (*is_new, looked_up.pause)
    }
}

/// Looks up the servers of a source once.
///
/// # Errors
/// If the name has no servers, or they cannot be looked up.
pub async fn find_servers(resolver: &Resolver, discover: &Discover) -> Result<FoundSet, LookUpError> {
    let mut known = Known::default();
    let looking = timeout(LOOK_UP_TIMEOUT, known.look_up(resolver, discover));
    looking.await.unwrap_or_else(|_| Err(late())).map(|(set, _)| set)
}

fn late() -> LookUpError {
    LookUpError::Failed("the look-up took too long".to_owned())
}

/// The addresses of the last look-up of each host of a source, by family. They are used while the look-up of one host
/// or family fails, and that of another succeeds.
#[derive(Debug, Default)]
struct Known(HashMap<String, [Vec<IpAddr>; 2]>);

impl Known {
    /// Looks the servers up. Returns how long the answers are valid, too.
    async fn look_up(&mut self, resolver: &Resolver, discover: &Discover) -> Result<(FoundSet, Duration), LookUpError> {
        match discover {
            Discover::InFile(_) => Err(LookUpError::NoRecords),
            Discover::Addresses { host, port } => {
                let found = resolver.addresses(host).await;
                let (addresses, ttl) = self.merge(host, found)?;
                let servers = addresses.iter().map(|ip| found_server(ip.to_string(), *port, NonZeroU16::MIN));
                Ok((FoundSet::new(servers.collect()), ttl))
            }
            Discover::Services(name) => self.look_up_services(resolver, name).await,
        }
    }

    /// Looks up the targets of SRV records.
    async fn look_up_services(&mut self, resolver: &Resolver, name: &str) -> Result<(FoundSet, Duration), LookUpError> {
        let found = resolver.services(name).await?;
        let services = preferred(found.records);
        let mut hosts: Vec<String> = services.iter().map(|(service, _)| service.host.clone()).collect();
        hosts.sort_unstable();
        hosts.dedup();
        hosts.truncate(FOUND_MAX);
        let look_up = |host: String| async move {
            let found = resolver.addresses(&host).await;
            (host, found)
        };
        let answers = stream::iter(hosts).map(look_up).buffered(TARGETS_AT_ONCE).collect().await;
        self.merge_services(&services, answers, found.ttl)
    }

    /// Returns the servers of SRV records whose targets have these addresses. A target whose look-up fails has its
    /// earlier ones, and one without addresses is left out.
    ///
    /// # Errors
    /// If no look-up found any address.
    fn merge_services(
        &mut self,
        services: &[(Service, NonZeroU16)],
        answers: Vec<(String, FoundAddresses)>,
        mut ttl: Duration,
    ) -> Result<(FoundSet, Duration), LookUpError> {
        let mut by_host: HashMap<String, Vec<IpAddr>> = HashMap::new();
        let (mut any_found, mut failed) = (false, LookUpError::NoRecords);
        for (host, answer) in answers {
            match self.merge(&host, answer) {
                Ok((addresses, valid)) => {
                    any_found = true;
                    ttl = ttl.min(valid);
                    by_host.insert(host, addresses);
                }
                Err(LookUpError::NoRecords) => {}
                Err(error) => {
                    failed = error;
                    let known = self.0.get(&host).map(|known| known.concat()).unwrap_or_default();
                    by_host.insert(host, known);
                }
            }
        }
        if !any_found {
            return Err(failed);
        }
        self.0.retain(|host, _| by_host.contains_key(host));
        let servers = services.iter().flat_map(|(service, weight)| {
            let addresses = by_host.get(&service.host).into_iter().flatten();
            addresses.map(|ip| found_server(ip.to_string(), service.port, *weight))
        });
        Ok((FoundSet::new(servers.collect()), ttl))
    }

    /// Returns the addresses of a host: those that were found, and for a family whose look-up failed the earlier ones.
    /// Returns how long they are valid, too.
    ///
    /// # Errors
    /// If neither look-up found an address.
    fn merge(&mut self, host: &str, found: FoundAddresses) -> Result<(Vec<IpAddr>, Duration), LookUpError> {
        let has_addresses = found.iter().flatten().any(|found| !found.records.is_empty());
        if !has_addresses {
            let failed = found.iter().filter_map(|found| found.as_ref().err());
            let worst = failed.max_by_key(|error| matches!(error, LookUpError::Failed(_)));
            return Err(worst.cloned().unwrap_or(LookUpError::NoRecords));
        }
        let known = self.0.entry(host.to_owned()).or_default();
        let mut ttl = Duration::MAX;
        for (known, found) in known.iter_mut().zip(found) {
            match found {
                Ok(found) => {
                    ttl = ttl.min(found.ttl);
                    *known = found.records;
                }
                Err(LookUpError::NoRecords) => known.clear(),
                Err(LookUpError::Failed(_)) => {}
            }
        }
        Ok((known.concat(), ttl))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Each value is consistent after every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Discoveries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.entries().keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::super::resolver::Found;
    use super::*;

    fn servers(set: &FoundSet) -> Vec<String> {
        set.servers.iter().map(|server| server.address.to_string()).collect()
    }

    fn ok(addresses: &[&str], secs: u64) -> Result<Found<IpAddr>, LookUpError> {
        let records = addresses.iter().map(|address| address.parse().unwrap()).collect();
        Ok(Found { records, ttl: Duration::from_secs(secs) })
    }

    fn failed<T>() -> Result<T, LookUpError> {
        Err(LookUpError::Failed("no answer".to_owned()))
    }

    #[test]
    fn a_set_that_was_not_installed_is_returned_again() {
        let discover = Discover::Services("_ws._tcp.chat.internal".to_owned());
        let source = Source { discover: discover.clone(), state: Arc::default() };
        let discoveries = Discoveries::default();
        let entry = Entry { state: Arc::clone(&source.state), _task: None };
        discoveries.entries().insert(discover.clone(), entry);
        let found = || {
            let servers = vec![found_server("192.0.2.1".to_owned(), 9001, NonZeroU16::MIN)];
            source.finish(Ok((FoundSet::new(servers), Duration::ZERO)), 0).0
        };
        assert!(found());
        assert_eq!(discoveries.take_changed().len(), 1);
        // The same answer is no change.
        assert!(!found() && discoveries.take_changed().is_empty());
        discoveries.put_back([discover.clone()]);
        assert!(found());
        let taken = discoveries.take_changed();
        assert_eq!(taken.iter().map(|(source, set)| (source, set.len())).collect::<Vec<_>>(), [(&discover, 1)]);
        assert_eq!(discoveries.servers(&discover).map(|set| set.len()), Some(1));
    }

    /// The answers for A and AAAA, and the addresses and the TTL that are used.
    #[test]
    fn a_family_whose_look_up_fails_keeps_its_addresses() {
        let none = || Err(LookUpError::NoRecords);
        let (v4, other, v6) = ("192.0.2.1", "192.0.2.2", "2001:db8::1");
        let mut known = Known::default();
        let table: [(FoundAddresses, Result<(Vec<&str>, u64), LookUpError>); 8] = [
            ([failed(), none()], failed()),
            ([ok(&[v4], 9), ok(&[v6], 5)], Ok((vec![v4, v6], 5))),
            ([ok(&[other], 9), failed()], Ok((vec![other, v6], 9))),
            ([failed(), ok(&[v6], 7)], Ok((vec![other, v6], 7))),
            ([failed(), failed()], failed()),
            ([none(), failed()], failed()),
            ([none(), none()], Err(LookUpError::NoRecords)),
            ([ok(&[v4], 3), none()], Ok((vec![v4], 3))),
        ];
        for (index, (found, expected)) in table.into_iter().enumerate() {
            let merged = known.merge("a", found);
            let shown = |(addresses, ttl): (Vec<IpAddr>, Duration)| {
                (addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ttl.as_secs())
            };
            let expected = expected.map(|(addresses, secs)| (addresses.into_iter().map(str::to_owned).collect(), secs));
            assert_eq!(merged.map(shown), expected, "{index}");
        }
    }

    /// The answers for the targets `a` and `b`, and the servers.
    #[test]
    fn a_target_whose_look_up_fails_keeps_its_servers() {
        let service =
            |host: &str, port| (Service { priority: 0, weight: 1, host: host.to_owned(), port }, NonZeroU16::MIN);
        let services = [service("a", 1), service("b", 2), service("b", 3)];
        let none = || [Err(LookUpError::NoRecords), Err(LookUpError::NoRecords)];
        let fails = || [failed(), failed()];
        let only = |address| [ok(&[address], 5), Err(LookUpError::NoRecords)];
        let (v4, other) = ("192.0.2.1", "192.0.2.2");
        let mut known = Known::default();
        let table: [([FoundAddresses; 2], Result<Vec<&str>, LookUpError>); 8] = [
            ([fails(), none()], failed()),
            ([only(v4), fails()], Ok(vec!["192.0.2.1:1"])),
            ([only(v4), only(other)], Ok(vec!["192.0.2.1:1", "192.0.2.2:2", "192.0.2.2:3"])),
            ([only(v4), fails()], Ok(vec!["192.0.2.1:1", "192.0.2.2:2", "192.0.2.2:3"])),
            ([fails(), fails()], failed()),
            ([none(), none()], Err(LookUpError::NoRecords)),
            ([only(v4), none()], Ok(vec!["192.0.2.1:1"])),
            ([only(v4), fails()], Ok(vec!["192.0.2.1:1"])),
        ];
        for (index, ([a, b], expected)) in table.into_iter().enumerate() {
            let answers = vec![("a".to_owned(), a), ("b".to_owned(), b)];
            let merged = known.merge_services(&services, answers, Duration::from_secs(9));
            let merged = merged.map(|(set, ttl)| {
                assert_eq!(ttl.as_secs(), 5);
                servers(&set)
            });
            assert_eq!(merged, expected.map(|all| all.into_iter().map(str::to_owned).collect()), "{index}");
        }
    }
}
