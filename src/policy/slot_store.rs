//! Where the slots of open sessions are counted beside the memory of this process: the keys of slots, and the claims that
//! sessions hold.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::address::AddressKey;
use super::limits::LimitKind;
use super::rejection::Rejection;
use super::session_slots::{Holder, SessionId};

/// The part of the SHA-256 of an identity by which its slots are named: 128 bits, so that no two identities have one name.
const HASH_BYTES: usize = 16;

/// The sessions whose slots are counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SlotKey {
    /// Those of an identity at a route, by the first bytes of the SHA-256 of both: subjects are not stored elsewhere.
    Subject([u8; HASH_BYTES]),
    /// Those of a client address at the route of this name.
    Address(Arc<str>, AddressKey),
}

impl SlotKey {
    /// The first key in the order of keys.
    pub const FIRST: Self = Self::Subject([0; HASH_BYTES]);

    /// Returns the key of the sessions of an identity at a route.
    pub(super) fn of_identity(route: &str, identity: &str) -> Self {
        let mut context = Context::new(&SHA256);
        for part in [route.as_bytes(), b"\0", identity.as_bytes()] {
            context.update(part);
        }
        let mut hash = [0; HASH_BYTES];
        hash.iter_mut().zip(context.finish().as_ref()).for_each(|(to, from)| *to = *from);
        Self::Subject(hash)
    }

    /// Returns the limit of these sessions.
    pub fn kind(&self) -> LimitKind {
        match self {
            Self::Address(..) => LimitKind::SessionsPerAddress,
            Self::Subject(_) => LimitKind::SessionsPerSubject,
        }
    }

    /// Returns why a session beyond the limit is rejected.
    pub fn rejection(&self) -> Rejection {
        match self {
            Self::Address(..) => Rejection::AddressSessions,
            Self::Subject(_) => Rejection::SubjectSessions,
        }
    }
}

/// The name of the key at the server.
impl fmt::Display for SlotKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(route, address) => write!(f, "slot:a:{route}:{}", address.network()),
            Self::Subject(hash) => write!(f, "slot:s:{}", URL_SAFE_NO_PAD.encode(hash)),
        }
    }
}

/// Where the slots of open sessions are counted, beside the memory of this process.
pub trait SlotStore: fmt::Debug + Send + Sync {
    /// Whether other processes count these slots, too.
    fn is_shared(&self) -> bool;

    /// Takes a slot for a session, even beyond the limit. This does not wait.
    fn add(&self, key: &SlotKey, holder: Holder);

    /// Whether the session holds the slot: no other session has taken it over.
    fn holds(&self, key: &SlotKey, id: SessionId) -> bool;

    /// Releases a slot. This does not wait. If another process has continued the session, it has a slot there, and this
    /// one is released when that has been counted.
    fn release(&self, key: &SlotKey, id: SessionId, is_continued: bool);
}

/// The slots of a process that shares none: the counters of the process have them all.
#[derive(Debug, Clone, Copy, Default)]
pub struct InMemory;

impl SlotStore for InMemory {
    fn is_shared(&self) -> bool {
        false
    }

    fn add(&self, _: &SlotKey, _: Holder) {}

    fn holds(&self, _: &SlotKey, _: SessionId) -> bool {
        true
    }

    fn release(&self, _: &SlotKey, _: SessionId, _: bool) {}
}

/// The slot of one session in a store. Dropping it releases it.
#[derive(Debug)]
pub struct Claim {
    store: Arc<dyn SlotStore>,
    key: SlotKey,
    id: SessionId,
    is_continued: bool,
}

impl Claim {
    /// Returns the claim of a slot that the store has added.
    pub fn new(store: Arc<dyn SlotStore>, key: SlotKey, id: SessionId) -> Self {
        Self { store, key, id, is_continued: false }
    }

    /// Adds a slot to the store, even beyond the limit.
    pub(super) fn add(store: &Arc<dyn SlotStore>, key: SlotKey, holder: Holder) -> Self {
        store.add(&key, holder);
        Self::new(Arc::clone(store), key, holder.id)
    }

    /// Returns the sessions that the slot is counted with.
    pub fn key(&self) -> &SlotKey {
        &self.key
    }

    /// Whether no other session has taken over the slot.
    pub fn is_held(&self) -> bool {
        self.store.holds(&self.key, self.id)
    }

    /// Notes that another process continues the session.
    pub(super) fn continue_elsewhere(&mut self) {
        self.is_continued = true;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.store.release(&self.key, self.id, self.is_continued);
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    #[test]
    fn names_of_keys_have_no_subject() {
        let (route, client) = (Arc::from("chat"), IpAddr::from([0x2001, 0xdb8, 0, 7, 1, 2, 3, 4]));
        assert_eq!(SlotKey::Address(route, client.into()).to_string(), "slot:a:chat:2001:db8:0:7::");
        let subject = SlotKey::of_identity("chat", "users\0ann").to_string();
        let hash = subject.strip_prefix("slot:s:").unwrap();
        assert_eq!((hash.len(), hash.contains("ann")), (22, false));
        assert_eq!(subject, SlotKey::of_identity("chat", "users\0ann").to_string());
        for (route, identity) in [("feed", "users\0ann"), ("chat", "users\0bob"), ("chat", "partners\0ann")] {
            assert_ne!(subject, SlotKey::of_identity(route, identity).to_string());
        }
    }
}
