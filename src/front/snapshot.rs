//! The configuration in use: immutable, and replaced as a whole.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection_config::ConnectionConfig;
use super::listeners::{AcmeSection, Listeners};
use crate::balance::Pool;
use crate::client::acme::HeldSections;
use crate::client::{KeySets, KeyUser};
use crate::config::{AuthConfig, Certificate, Config, ListenAddress, ListenerConfig, OnReload, SettingLines};
use crate::policy::admission::Policy;
use crate::policy::counters::Counters;
use crate::policy::forward::{ForwardAuth, ForwardConfig};
use crate::policy::live_keys::{KeySource, RemoteKeys};
use crate::policy::logout::{LogoutEndpoint, LogoutRules};
use crate::policy::quota::Rate;
use crate::policy::route::{Auth, AuthKind, AuthMethod, Route, RouteConfig, Routes};
use crate::policy::token::{Verifier, VerifierConfig};
use crate::tls::expiry::Expiry;
use crate::tls::tickets::TicketKeys;

/// The longest time that a revocation holds which does not say when it ends.
const REVOCATION_MAX: Duration = Duration::from_hours(366 * 24);

/// Routes, verifiers, pools and the settings of listeners. Unchanged parts are the same objects as in the previous
/// snapshot, so that their caches, tickets and server state persist.
#[derive(Debug)]
pub struct Snapshot {
    generation: u64,
    policy: Arc<Policy>,
    pools: BTreeMap<Arc<str>, Arc<Pool>>,
    auths: BTreeMap<Arc<str>, Arc<AuthMethod>>,
    logouts: Vec<LogoutEndpoint>,
    listeners: Listeners,
    on_reload: OnReload,
    recheck_rate: Rate,
    memory_max: Option<u64>,
    revocation_retention: Duration,
    upgrade_on_reload: bool,
    rechecked: u64,
    file_name: PathBuf,
    /// The text of the configuration.
    text: Arc<str>,
    setting_lines: Arc<SettingLines>,
}

/// The inputs of a snapshot besides the configuration.
#[derive(Debug, Clone, Copy)]
pub struct SnapshotContext<'a> {
    /// The address that each listener is bound to, in the order of the configuration.
    pub addresses: &'a [ListenAddress],
    /// `max_sessions`, lowered to what the descriptor limit allows.
    pub max_sessions: NonZeroU32,
    /// The counters of the process.
    pub counters: &'a Arc<Counters>,
    /// The key sets of the process.
    pub key_sets: &'a KeySets,
    /// The certificates of `[acme.NAME]` sections.
    pub acme: &'a Arc<HeldSections>,
    /// The time at which new pools start.
    pub now: Instant,
}

impl Snapshot {
    /// Builds the first snapshot.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn new(config: &Config, context: SnapshotContext<'_>) -> Result<Self, rustls::Error> {
        Self::build(config, context, None)
    }

    /// Builds the snapshot that follows this one.
    ///
    /// # Errors
    /// If TLS cannot be set up.
    pub fn next(&self, config: &Config, context: SnapshotContext<'_>) -> Result<Self, rustls::Error> {
        Self::build(config, context, Some(self))
    }

    /// Returns the number of this snapshot, counted from 1.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Whether SIGHUP replaces the process if its program on disk has changed.
    pub fn upgrades_on_reload(&self) -> bool {
        self.upgrade_on_reload
    }

    /// Whether open sessions are checked against this snapshot.
    pub fn rechecks_sessions(&self) -> bool {
        self.on_reload == OnReload::Recheck
    }

    /// Returns the text of the configuration.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Returns the resident memory above which new sessions are rejected, in bytes.
    pub fn memory_max(&self) -> Option<u64> {
        self.memory_max
    }

    /// Returns when a revocation ends that is made at `now`, since the Unix epoch, and does not say when: after
    /// `revocation_retention`, or with the last token that was seen of this section, of any if it is `None`.
    pub fn revocation_end(&self, auth: Option<&str>, now: Duration) -> Duration {
        let sections = self.auths.values().filter(|method| auth.is_none_or(|auth| *method.name == *auth));
        let ends = sections.filter_map(|method| match &method.kind {
            AuthKind::Token(verifier) => Some(verifier.latest_end()),
            AuthKind::Forward(_) => None,
        });
        let last = ends.max().unwrap_or_default().min(now.saturating_add(REVOCATION_MAX));
        now.saturating_add(self.revocation_retention).max(last)
    }

    /// Returns the section that authenticates clients under this name. A section that no route uses is left out.
    pub fn auth(&self, name: &str) -> Option<&Arc<AuthMethod>> {
        self.auths.get(name)
    }

    /// Returns the places at which issuers send logout tokens.
    pub fn logouts(&self) -> &[LogoutEndpoint] {
        &self.logouts
    }

    /// Returns the generation of the last snapshot that open sessions were checked against: this one, or one before it
    /// if this one keeps them as they are.
    pub fn rechecked_generation(&self) -> u64 {
        self.rechecked
    }

    /// Returns the rules for requests.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Returns the pools, ordered by name.
    pub fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.pools.values()
    }

    /// Returns the pool of an upstream.
    pub fn pool(&self, upstream: &str) -> Option<&Arc<Pool>> {
        self.pools.get(upstream)
    }

    /// Whether an upstream has a server of this name.
    pub fn has_server(&self, upstream: &str, server: &str) -> bool {
        self.pool(upstream).is_some_and(|pool| pool.servers().any(|own| **own.name() == *server))
    }

    /// Returns the forward authentication sections, by name.
    pub fn forward_auths(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<ForwardAuth>)> {
        self.auths.iter().filter_map(|(name, method)| match &method.kind {
            AuthKind::Forward(forward) => Some((name, forward)),
            AuthKind::Token(_) => None,
        })
    }

    /// Returns the addresses of the listeners.
    pub fn addresses(&self) -> impl Iterator<Item = &ListenAddress> {
        self.listeners.by_address.keys()
    }

    /// Returns the settings for connections of the listener that is bound to this address.
    pub fn connections(&self, listener: &ListenAddress) -> Option<&Arc<ConnectionConfig>> {
        self.listeners.by_address.get(listener).map(|listener| &listener.connections)
    }

    /// Returns the rate at which sessions that are not admitted any more end.
    pub fn recheck_rate(&self) -> Rate {
        self.recheck_rate
    }

    /// Returns the sections whose keys are fetched, by name.
    pub fn fetching(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Verifier>)> {
        self.auths.iter().filter_map(|(name, method)| match &method.kind {
            AuthKind::Token(verifier) if verifier.live_keys().is_some() => Some((name, verifier)),
            _ => None,
        })
    }

    /// Returns the sections that use this key set.
    pub fn key_users(&self, remote: &RemoteKeys) -> Vec<KeyUser> {
        let users = self.fetching().filter_map(|(name, verifier)| match &verifier.config().keys {
            KeySource::Remote { keys, stale_for } if keys == remote => {
                Some(KeyUser { auth: Arc::clone(name), stale_for: *stale_for })
            }
            _ => None,
        });
        users.collect()
    }

    /// Returns the file of the configuration.
    pub fn file_name(&self) -> &Path {
        &self.file_name
    }

    /// Returns the lines of the settings in that file.
    pub fn setting_lines(&self) -> &SettingLines {
        &self.setting_lines
    }

    /// Returns the sections that authenticate clients, by name.
    pub fn auths(&self) -> impl Iterator<Item = &Arc<AuthMethod>> {
        self.auths.values()
    }

    /// Returns the address and the settings of each listener.
    pub fn listeners(&self) -> impl Iterator<Item = (&ListenAddress, &ListenerConfig)> {
        self.listeners.by_address.iter().map(|(address, listener)| (address, &listener.config))
    }

    /// Returns the address and the ticket keys of each listener. A change of the keys applies to every later snapshot.
    pub fn tickets(&self) -> impl Iterator<Item = (&ListenAddress, &Arc<TicketKeys>)> {
        self.listeners.by_address.iter().map(|(address, listener)| (address, &listener.ticketer))
    }

    /// Returns this snapshot, the first one of a process, as the one that follows this generation of another process.
    /// Sessions of that process count as admitted by the snapshot before.
    #[must_use]
    pub fn following(mut self, generation: u64) -> Self {
        self.generation = generation.saturating_add(1);
        self.rechecked = match self.on_reload {
            OnReload::Recheck => self.generation,
            OnReload::Keep => generation,
        };
        self
    }

    /// Returns the `[acme.NAME]` sections that listeners use.
    pub fn acmes(&self) -> &[AcmeSection] {
        &self.listeners.acmes
    }

    /// Returns the `[acme.NAME]` section of a listener.
    pub fn acme(&self, listener: &ListenerConfig) -> Option<&AcmeSection> {
        let name = listener.tls.as_ref()?.acme.as_ref()?;
        self.listeners.acmes.iter().find(|section| section.config.name == *name)
    }

    /// Returns the certificates of all listeners, except those that ACME gets.
    pub fn certificates(&self) -> impl Iterator<Item = &Certificate> {
        self.listeners.by_address.values().flat_map(|listener| listener.config.certificates())
    }

    /// Returns when the certificates of all listeners and the client certificates of all upstreams expire.
    pub fn expiries(&self) -> Vec<Expiry> {
        let of_listener =
            |certificate: &Certificate| Expiry::new(certificate.names.clone(), certificate.not_after, "clients");
        let of_client = |pool: &Arc<Pool>| {
            let certificate = pool.config().tls.as_ref()?.certificate.as_ref()?;
            let section = format!("upstream.{}.tls", pool.config().name);
            Some(Expiry::new(vec![section], certificate.not_after, "servers"))
        };
        let renewed = self.listeners.acmes.iter().flat_map(|section| {
            let held = section.config.names.iter().filter_map(|name| section.held.certificate(name));
            held.map(|held| Expiry { is_renewed: true, ..of_listener(&held.certificate) })
        });
        self.certificates().map(of_listener).chain(renewed).chain(self.pools().filter_map(of_client)).collect()
    }

    fn build(config: &Config, context: SnapshotContext<'_>, before: Option<&Self>) -> Result<Self, rustls::Error> {
        let SnapshotContext { addresses, max_sessions, counters, key_sets, acme, now } = context;
        let mut pools = BTreeMap::new();
        for upstream in &config.upstreams {
            let pool = match before.and_then(|before| before.pools.get(&upstream.name)) {
                Some(kept) if kept.config() == upstream => Arc::clone(kept),
                Some(changed) => Arc::new(changed.replace(upstream.clone(), now)),
                None => Arc::new(Pool::new(upstream.clone(), now)),
            };
            pools.insert(Arc::clone(&upstream.name), pool);
        }
        let mut auths = BTreeMap::new();
        for (name, section) in &config.auths {
            let earlier = before.and_then(|before| before.auths.get(name));
            let kept = earlier.filter(|kept| match (&kept.kind, section) {
                (AuthKind::Token(kept), AuthConfig::Token(verifier)) => kept.config() == verifier,
                (AuthKind::Forward(kept), AuthConfig::Forward(forward)) => kept.config() == forward,
                _ => false,
            });
            let new = || {
                let kind = match section {
                    AuthConfig::Token(verifier) => AuthKind::Token(Arc::new(new_verifier(verifier, key_sets))),
                    AuthConfig::Forward(forward) => {
                        AuthKind::Forward(Arc::new(new_forward(forward, earlier.map(|earlier| &earlier.kind))))
                    }
                };
                Arc::new(AuthMethod { name: Arc::clone(name), kind })
            };
            auths.insert(Arc::clone(name), kept.map_or_else(new, Arc::clone));
        }
        let logouts = logouts(config, &auths);
        let listeners = Listeners::build(config, (addresses, acme), before.map(|before| &before.listeners))?;
        let routes = config.routes.iter().filter_map(|route| {
            // A checked configuration has the upstream.
            let pool = Arc::clone(pools.get(&route.upstream)?);
            let new = Route { config: route.clone(), auth: auth(route, &auths)?, pool };
            let kept = before.and_then(|before| before.policy.routes().iter().find(|kept| is_same(kept, &new)));
            Some(kept.map_or_else(|| Arc::new(new), Arc::clone))
        });
        let routes = Routes::new(routes.collect(), config.server.host_fall_through);
        let generation = before.map_or(1, |before| before.generation + 1);
        let rechecked = match config.server.on_reload {
            OnReload::Recheck => generation,
            OnReload::Keep => before.map_or(1, |before| before.rechecked),
        };
        Ok(Self {
            generation,
            policy: Arc::new(Policy::new(routes, config.server.upgrade_quota, max_sessions, Arc::clone(counters))),
            pools,
            auths,
            logouts,
            listeners,
            on_reload: config.server.on_reload,
            rechecked,
            recheck_rate: config.server.recheck_rate,
            memory_max: config.server.memory_max_bytes,
            revocation_retention: config.server.revocation_retention,
            upgrade_on_reload: config.server.upgrade_on_reload,
            setting_lines: match before {
                Some(before) if before.text == config.source.text => Arc::clone(&before.setting_lines),
                _ => Arc::new(SettingLines::parse(&config.source.text)),
            },
            file_name: config.source.file_name.clone(),
            text: Arc::clone(&config.source.text),
        })
    }
}

/// Returns a verifier with an empty cache. Keys that are fetched are those of the process.
fn new_verifier(config: &VerifierConfig, key_sets: &KeySets) -> Verifier {
    match &config.keys {
        KeySource::Fixed(_) => Verifier::new(config.clone()),
        KeySource::Remote { keys, .. } => Verifier::with_live_keys(config.clone(), key_sets.get(keys)),
    }
}

/// Returns the state of a forward authentication section, with the counts of the earlier one.
fn new_forward(config: &ForwardConfig, earlier: Option<&AuthKind>) -> ForwardAuth {
    match earlier {
        Some(AuthKind::Forward(earlier)) => earlier.replace(config.clone()),
        _ => ForwardAuth::new(config.clone()),
    }
}

/// Returns how the clients of a route authenticate; `None` if the configuration lacks a section. A checked
/// configuration has it.
fn auth(route: &RouteConfig, auths: &BTreeMap<Arc<str>, Arc<AuthMethod>>) -> Option<Auth> {
    let methods = route.auth.iter().map(|name| auths.get(name).cloned());
    methods.collect::<Option<_>>().map(Auth::new)
}

/// Returns the places at which the issuers of sections send logout tokens: each on the hosts of its routes.
fn logouts(config: &Config, auths: &BTreeMap<Arc<str>, Arc<AuthMethod>>) -> Vec<LogoutEndpoint> {
    let endpoint = |(name, rules): (&Arc<str>, &LogoutRules)| {
        let uses = |route: &&RouteConfig| route.auth.contains(name);
        let hosts = config.routes.iter().filter(uses).map(|route| route.host.clone()).collect();
        Some(LogoutEndpoint { method: Arc::clone(auths.get(name)?), rules: rules.clone(), hosts })
    };
    config.logouts.iter().filter_map(endpoint).collect()
}

/// Whether two routes have the same configuration and refer to the same objects.
fn is_same(a: &Route, b: &Route) -> bool {
    a.auth.is_same(&b.auth) && Arc::ptr_eq(&a.pool, &b.pool) && a.config == b.config
}

#[cfg(test)]
mod tests;
