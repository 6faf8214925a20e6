//! Counters of clients and sessions. They are keyed by the operator's names and outlive every snapshot.

pub mod state;

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use serde::{Deserialize, Serialize};

use super::address::AddressKey;
use super::counts::{Counts, Grouped};
use super::lease::key::{LeaseClient, LeaseKind, prefix};
use super::lease::share::{LeaseScope, Leases};
use super::limits::{Limits, RateKey};
use super::quota::Count;
use super::revocation::Revocations;
use super::session_slots::SessionSlots;
use super::slot_store::{InMemory, SlotStore};
use super::slots::{Slot, Slots};

/// The counters of the process.
#[derive(Debug)]
pub struct Counters {
    /// The counts of requests, by client address.
    upgrades: Arc<Counts<AddressKey>>,
    /// The counts of messages and bytes, by route name.
    routes: Mutex<HashMap<Arc<str>, Arc<RouteCounts>>>,
    /// The counts of ordinary requests, by route name.
    requests: Mutex<HashMap<Arc<str>, Arc<Counts<MessageKey>>>>,
    sessions: Slots<()>,
    by_address: SessionSlots<RouteAddress>,
    by_subject: SessionSlots<RouteIdentity>,
    shared_slots: Arc<dyn SlotStore>,
    is_short_of_memory: AtomicBool,
    revocations: Revocations,
    /// The leases of the quotas that nodes share, if this process belongs to a cluster.
    leases: Option<Arc<Leases>>,
}

/// The counts of messages and bytes of one route, by the key of the sessions that share them.
#[derive(Debug)]
pub struct RouteCounts {
    /// The counts of messages from the clients.
    pub messages: Counts<MessageKey>,
    /// The counts of bytes, from the clients and from the upstream.
    pub bytes: [Counts<MessageKey>; 2],
}

/// The counts that a session shares with others. Each is `None` if the session has a count of its own.
#[derive(Debug, Default, Clone)]
pub struct SharedCounts {
    /// The count of messages from the client.
    pub messages: Option<Arc<Count>>,
    /// The counts of bytes, from the client and from the upstream.
    pub bytes: Option<[Arc<Count>; 2]>,
}

/// A client address at a route, by the route's name.
pub type RouteAddress = (Arc<str>, AddressKey);
/// An identity at a route: the route's name, and the name of the `[auth]` section with the subject, if the client has
/// one, separated by a NUL, which no name contains. Equal subjects of two sections are different clients.
pub type RouteIdentity = (Arc<str>, Arc<str>);

/// The sessions whose messages and bytes are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MessageKey {
    /// The SHA-256 of the subject: a subject may be kilobytes long, and there may be many.
    Subject([u8; SHA256_OUTPUT_LEN]),
    /// The client address.
    Address(AddressKey),
}

impl MessageKey {
    /// Returns the key of an identity: the name of the `[auth]` section, which contains no NUL, and the subject.
    pub fn of_identity(auth: &str, subject: &str) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [auth.as_bytes(), b"\0", subject.as_bytes()] {
            context.update(part);
        }
        let mut hash = [0; SHA256_OUTPUT_LEN];
        hash.copy_from_slice(context.finish().as_ref());
        Self::Subject(hash)
    }
}

impl Grouped for AddressKey {
    /// Returns the /48 of an IPv6 address: one customer may have 65,536 of the /64s that are counted.
    fn group(&self) -> Option<u64> {
        self.ipv6_48()
    }

    fn client(&self) -> Option<LeaseClient> {
        Some(LeaseClient::Address(self.network()))
    }
}

impl Grouped for MessageKey {
    fn group(&self) -> Option<u64> {
        match self {
            Self::Subject(_) => None,
            Self::Address(address) => address.group(),
        }
    }

    fn client(&self) -> Option<LeaseClient> {
        match self {
            Self::Subject(hash) => Some(LeaseClient::Hash(*hash)),
            Self::Address(address) => address.client(),
        }
    }
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            upgrades: Arc::default(),
            routes: Mutex::default(),
            requests: Mutex::default(),
            sessions: Slots::default(),
            by_address: SessionSlots::default(),
            by_subject: SessionSlots::default(),
            shared_slots: Arc::new(InMemory),
            is_short_of_memory: AtomicBool::default(),
            revocations: Revocations::default(),
            leases: None,
        }
    }
}

impl Counters {
    /// Counts the slots of sessions in this store, too.
    #[must_use]
    pub fn with_slots(self, shared_slots: Arc<dyn SlotStore>) -> Self {
        Self { shared_slots, ..self }
    }

    /// Returns the slots that other processes count, too.
    pub fn shared_slots(&self) -> &Arc<dyn SlotStore> {
        &self.shared_slots
    }

    /// Creates the counters of a node of a cluster. Quotas by subject and by address are shared with its other nodes.
    pub fn of_node(leases: Arc<Leases>) -> Self {
        let upgrades = Arc::new(Counts::shared(Some(scope(&leases, LeaseKind::Upgrades, None))));
        Self { upgrades, leases: Some(leases), ..Self::default() }
    }

    /// Returns the leases of the quotas that nodes share, if this process belongs to a cluster.
    pub fn leases(&self) -> Option<&Arc<Leases>> {
        self.leases.as_ref()
    }

    /// Returns the counts of requests by client address.
    pub fn upgrades(&self) -> &Arc<Counts<AddressKey>> {
        &self.upgrades
    }

    /// Returns the counts of messages and bytes at the route of this name.
    pub fn route(&self, route: &Arc<str>) -> Arc<RouteCounts> {
        let mut routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(routes.entry(Arc::clone(route)).or_insert_with(|| Arc::new(RouteCounts::new(self, route))))
    }

    /// Returns the counts of ordinary requests at the route of this name.
    pub fn requests(&self, route: &Arc<str>) -> Arc<Counts<MessageKey>> {
        let mut routes = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(self.counts(LeaseKind::Requests, route));
        Arc::clone(routes.entry(Arc::clone(route)).or_insert_with(new))
    }

    /// Creates the counts of one kind of quotas at a route.
    fn counts(&self, kind: LeaseKind, route: &str) -> Counts<MessageKey> {
        Counts::shared(self.leases.as_ref().map(|leases| scope(leases, kind, Some(route))))
    }

    /// Drops the counts of routes for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner).retain(|route, _| keep(route));
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).retain(|route, _| keep(route));
    }

    /// Returns the revocations.
    pub fn revocations(&self) -> &Revocations {
        &self.revocations
    }

    /// Returns the number of sessions.
    pub fn sessions(&self) -> u32 {
        self.sessions.count(&())
    }

    /// Whether there are `max` sessions.
    pub fn is_full(&self, max: NonZeroU32) -> bool {
        self.sessions() >= max.get()
    }

    /// Whether the process exceeds its limit of memory.
    pub fn is_short_of_memory(&self) -> bool {
        self.is_short_of_memory.load(Ordering::Relaxed)
    }

    /// Sets whether the process exceeds its limit of memory.
    pub fn set_short_of_memory(&self, is_short: bool) {
        self.is_short_of_memory.store(is_short, Ordering::Relaxed);
    }

    /// Takes the slot of a session, if there are fewer than `max`.
    pub fn take_session(&self, max: NonZeroU32) -> Option<Slot<()>> {
        self.sessions.take((), max)
    }

    /// Returns the slots of the sessions of each address at each route.
    pub(super) fn by_address(&self) -> &SessionSlots<RouteAddress> {
        &self.by_address
    }

    /// Returns the slots of the sessions of each identity at each route.
    pub(super) fn by_subject(&self) -> &SessionSlots<RouteIdentity> {
        &self.by_subject
    }
}

/// The client of a session, as the limits count it.
#[derive(Debug, Clone, Copy)]
pub struct LimitedClient<'a> {
    /// The name of the route.
    pub route: &'a Arc<str>,
    /// The address.
    pub address: IpAddr,
    /// The name of the `[auth]` section that admitted it; `None`: the route is open.
    pub auth: Option<&'a str>,
    /// The subject of its token.
    pub subject: Option<&'a str>,
}

impl LimitedClient<'_> {
    /// Returns the key of the sessions of its address.
    pub(super) fn address_key(&self) -> RouteAddress {
        (Arc::clone(self.route), self.address.into())
    }

    /// Returns the key of the sessions of its identity. Clients of a section without a subject cannot be distinguished,
    /// so all of them count as one, which is none with a subject.
    pub(super) fn subject_key(&self) -> RouteIdentity {
        let auth = self.auth.unwrap_or_default();
        let identity = self.subject.map_or_else(|| auth.into(), |subject| identity(auth, subject));
        (Arc::clone(self.route), identity)
    }

    /// Returns the key of its ordinary requests. They belong to no session, so its subject takes the place of one.
    pub(super) fn request_key(&self, key: RateKey) -> MessageKey {
        match key {
            RateKey::Session | RateKey::Subject => self.message_key(RateKey::Subject),
            RateKey::Address => self.message_key(RateKey::Address),
        }
    }

    /// Returns the key of its messages and bytes where sessions share counts. A client without a subject is counted by
    /// its address.
    fn message_key(&self, key: RateKey) -> MessageKey {
        match (key, self.subject) {
            (RateKey::Subject, Some(subject)) => MessageKey::of_identity(self.auth.unwrap_or_default(), subject),
            _ => MessageKey::Address(self.address.into()),
        }
    }
}

/// Returns the scope of the leases of one kind of quotas.
fn scope(leases: &Arc<Leases>, kind: LeaseKind, route: Option<&str>) -> Arc<LeaseScope> {
    Arc::new(LeaseScope { leases: Arc::clone(leases), prefix: prefix(kind, route) })
}

impl RouteCounts {
    fn new(counters: &Counters, route: &str) -> Self {
        Self {
            messages: counters.counts(LeaseKind::Messages, route),
            bytes: [LeaseKind::ClientBytes, LeaseKind::UpstreamBytes].map(|kind| counters.counts(kind, route)),
        }
    }

    /// Returns the counts that a session of this client shares with others.
    pub(super) fn shared(&self, limits: &Limits, client: &LimitedClient<'_>, now: Instant) -> SharedCounts {
        let Some(key) = limits.shared_key() else { return SharedCounts::default() };
        let key = client.message_key(key);
        SharedCounts {
            messages: limits.messages.map(|_| self.messages.get(&key, now)),
            bytes: limits.bytes.map(|_| self.bytes.each_ref().map(|bytes| bytes.get(&key, now))),
        }
    }
}

/// Returns the identity of a subject: the name of the `[auth]` section, which contains no NUL, and the subject.
fn identity(auth: &str, subject: &str) -> Arc<str> {
    format!("{auth}\0{subject}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_subjects_of_two_sections_are_different_clients() {
        assert_eq!(identity("users", "ann"), identity("users", "ann"));
        assert_ne!(identity("users", "ann"), identity("partners", "ann"));
        assert_ne!(identity("a", "b"), identity("ab", ""));
        let key = MessageKey::of_identity;
        assert_eq!(key("users", "ann"), key("users", "ann"));
        assert_ne!(key("users", "ann"), key("partners", "ann"));
        assert_ne!(key("a", "b"), key("ab", ""));
    }

    #[test]
    fn counts_are_kept_by_the_name_of_the_route() {
        let (counters, chat) = (Counters::default(), Arc::from("chat"));
        let counts = counters.route(&chat);
        counters.retain(|route| route == "chat");
        assert!(Arc::ptr_eq(&counts, &counters.route(&chat)));
        counters.retain(|route| route == "feed");
        assert!(!Arc::ptr_eq(&counts, &counters.route(&chat)));
    }
}
