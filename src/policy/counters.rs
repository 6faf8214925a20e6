//! Counters of clients and sessions. They are keyed by the operator's names and outlive every snapshot.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};

use super::address::AddressKey;
use super::counts::{Counts, Grouped};
use super::revocation::Revocations;
use super::slots::{Slot, Slots};

/// The counters of the process.
#[derive(Debug, Default)]
pub struct Counters {
    /// The counts of requests, by client address.
    upgrades: Arc<Counts<AddressKey>>,
    /// The counts of messages, by route name.
    messages: Mutex<HashMap<Arc<str>, Arc<Counts<MessageKey>>>>,
    sessions: Slots<()>,
    by_address: Slots<RouteAddress>,
    by_subject: Slots<RouteIdentity>,
    is_short_of_memory: AtomicBool,
    revocations: Revocations,
}

/// A client address at a route, by the route's name.
pub type RouteAddress = (Arc<str>, AddressKey);
/// An identity at a route: the route's name, and the name of the `[auth]` section with the subject, separated by a NUL,
/// which no name contains. Equal subjects of two sections are different clients.
pub type RouteIdentity = (Arc<str>, Arc<str>);

/// The sessions whose messages are counted together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
}

impl Grouped for MessageKey {
    fn group(&self) -> Option<u64> {
        match self {
            Self::Subject(_) => None,
            Self::Address(address) => address.group(),
        }
    }
}

impl Counters {
    /// Returns the counts of requests by client address.
    pub fn upgrades(&self) -> &Arc<Counts<AddressKey>> {
        &self.upgrades
    }

    /// Returns the counts of messages at the route of this name.
    pub fn messages(&self, route: &Arc<str>) -> Arc<Counts<MessageKey>> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(messages.entry(Arc::clone(route)).or_default())
    }

    /// Drops the counts of messages of routes for which `keep` returns false.
    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner).retain(|route, _| keep(route));
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

    /// Whether an address has `max` sessions at a route.
    pub fn is_address_full(&self, route: &Arc<str>, address: IpAddr, max: NonZeroU32) -> bool {
        self.by_address.count(&(Arc::clone(route), address.into())) >= max.get()
    }

    /// Takes the slot of a session of an address at a route, if it has fewer than `max`.
    pub fn take_address(&self, route: &Arc<str>, address: IpAddr, max: NonZeroU32) -> Option<Slot<RouteAddress>> {
        self.by_address.take((Arc::clone(route), address.into()), max)
    }

    /// Takes the slot of a session of a subject at a route, if it has fewer than `max`.
    pub fn take_subject(
        &self,
        route: &Arc<str>,
        auth: &str,
        subject: &str,
        max: NonZeroU32,
    ) -> Option<Slot<RouteIdentity>> {
        self.by_subject.take((Arc::clone(route), identity(auth, subject)), max)
    }

    /// Counts an open session of an address at a route that did not limit these before.
    pub fn add_address(&self, route: &Arc<str>, address: IpAddr) -> Slot<RouteAddress> {
        self.by_address.add((Arc::clone(route), address.into()))
    }

    /// Counts an open session of a subject at a route that did not limit these before.
    pub fn add_subject(&self, route: &Arc<str>, auth: &str, subject: &str) -> Slot<RouteIdentity> {
        self.by_subject.add((Arc::clone(route), identity(auth, subject)))
    }
}

fn identity(auth: &str, subject: &str) -> Arc<str> {
    format!("{auth}\0{subject}").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_subjects_of_two_sections_are_different_clients() {
        let (counters, route, max) = (Counters::default(), Arc::from("chat"), NonZeroU32::MIN);
        let held = counters.take_subject(&route, "users", "ann", max);
        assert!(held.is_some() && counters.take_subject(&route, "users", "ann", max).is_none());
        assert!(counters.take_subject(&route, "partners", "ann", max).is_some());
        let key = MessageKey::of_identity;
        assert_eq!(key("users", "ann"), key("users", "ann"));
        assert_ne!(key("users", "ann"), key("partners", "ann"));
        assert_ne!(key("a", "b"), key("ab", ""));
    }

    #[test]
    fn counts_of_messages_are_kept_by_the_name_of_the_route() {
        let (counters, chat) = (Counters::default(), Arc::from("chat"));
        let counts = counters.messages(&chat);
        counters.retain(|route| route == "chat");
        assert!(Arc::ptr_eq(&counts, &counters.messages(&chat)));
        counters.retain(|route| route == "feed");
        assert!(!Arc::ptr_eq(&counts, &counters.messages(&chat)));
    }
}
