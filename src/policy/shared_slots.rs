//! The slots that sessions ask for where several processes count them together.
//!
//! The limits themselves stay here, and are synchronous. What is asked elsewhere is data: [`SlotAsks`]. The caller asks
//! between the stages of an admission, and passes the answer to the next stage as [`SharedSlots`].

use std::num::NonZeroU32;

use super::counters::{Counters, LimitedClient};
use super::limits::{LimitKind, Limits, OnSessionLimit};
use super::session_slots::{Holder, SessionId};
use super::slot_store::{Claim, SlotKey};

/// A slot that a session needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAsk {
    /// The sessions that it is counted with.
    pub key: SlotKey,
    /// The maximum number of them.
    pub max: NonZeroU32,
}

/// The slots that a session needs of limits with one treatment of further sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotAsks {
    /// The id of the session.
    pub id: SessionId,
    /// The treatment of further sessions.
    pub treatment: OnSessionLimit,
    /// The slots: none, one, or two.
    pub slots: Vec<SlotAsk>,
}

/// The answer for the slots that a session needs.
#[derive(Debug, Default)]
pub struct SharedSlots {
    /// The slots that it holds.
    pub claims: Vec<Claim>,
    /// The sessions of this process whose slots it has taken over.
    pub replaced: Vec<(SlotKey, SessionId)>,
    /// The number of processes among which the limits are divided, because the other ones cannot be asked.
    pub divided: Option<NonZeroU32>,
}

impl SharedSlots {
    /// Whether the slots are counted over all processes.
    pub(super) fn is_counted(&self) -> bool {
        self.divided.is_none() && !self.claims.is_empty()
    }

    /// Returns the part of a limit that this process may use: all of it, or its share.
    pub(super) fn share(&self, max: NonZeroU32) -> NonZeroU32 {
        let share = |processes: NonZeroU32| NonZeroU32::new(max.get().div_ceil(processes.get()));
        self.divided.and_then(share).unwrap_or(max)
    }
}

/// Returns the slots that a client needs of enforced limits with this treatment.
pub(super) fn asks(
    counters: &Counters,
    limits: &Limits,
    client: &LimitedClient<'_>,
    (id, treatment): (SessionId, OnSessionLimit),
) -> SlotAsks {
    let mut slots = Vec::new();
    if counters.shared_slots().is_shared() && !limits.is_reporting() {
        let per_address = limits.sessions_per_address.filter(|_| limits.on_session_limit == treatment);
        let of_subject = limits.on_subject_limit(client.subject.is_some());
        let per_subject = limits.sessions_per_subject.filter(|_| of_subject == treatment);
        slots.extend(per_address.map(|max| SlotAsk { key: address_key(client), max }));
        slots.extend(per_subject.map(|max| SlotAsk { key: subject_key(client), max }));
    }
    SlotAsks { id, treatment, slots }
}

/// Takes slots for an open session, even beyond the limits, of those limits that `is_new` selects.
pub(super) fn add(
    counters: &Counters,
    limits: &Limits,
    client: &LimitedClient<'_>,
    holder: Holder,
    is_new: impl Fn(LimitKind) -> bool,
) -> Vec<Claim> {
    let store = counters.shared_slots();
    if !store.is_shared() || limits.is_reporting() {
        return Vec::new();
    }
    let address = limits.sessions_per_address.map(|_| address_key(client));
    let subject = limits.sessions_per_subject.map(|_| subject_key(client));
    let keys = address.into_iter().chain(subject).filter(|key| is_new(key.kind()));
    keys.map(|key| Claim::add(store, key, holder)).collect()
}

/// Returns the key of the sessions of a client's address.
fn address_key(client: &LimitedClient<'_>) -> SlotKey {
    let (route, address) = client.address_key();
    SlotKey::Address(route, address)
}

/// Returns the key of the sessions of a client's identity.
fn subject_key(client: &LimitedClient<'_>) -> SlotKey {
    let (route, identity) = client.subject_key();
    SlotKey::of_identity(&route, &identity)
}
