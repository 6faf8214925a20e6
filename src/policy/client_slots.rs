//! The slots that a session takes from the limits of its client: one of its address, and one of its subject.
//!
//! With `on_session_limit = "refuse"` an upgrade takes them when it is admitted, so that upgrades that wait for the
//! upstream count, too. With `"close_oldest"` it takes them when the upstream has accepted it: an upgrade that fails
//! closes no session. Until then it holds no slot, so it is never rejected and no other upgrade can replace it. Clients
//! without a subject cannot be distinguished, so the limit of a subject always rejects them: otherwise they would close
//! each other's sessions.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::counters::{Counters, LimitedClient, RouteAddress, RouteIdentity};
use super::limits::{LimitKind, Limits, OnSessionLimit};
use super::rejection::Rejection;
use super::session_slots::{Holder, SessionId, SessionSlot, SessionSlots, SlotLimit};
use super::shared_slots::{self, SharedSlots};
use super::slot_store::{Claim, SlotKey};

/// The slots of a session. Dropping them releases them.
#[derive(Debug, Default)]
pub struct ClientSlots {
    address: Option<SessionSlot<RouteAddress>>,
    subject: Option<SessionSlot<RouteIdentity>>,
    /// Those that other processes count, too. Most processes have none.
    claims: Vec<Claim>,
}

/// The result of taking slots.
#[derive(Debug, Default)]
pub struct TakenSlots {
    /// The slots.
    pub slots: ClientSlots,
    /// The sessions whose slots were taken over, which have to be closed.
    pub replaced: Vec<SessionId>,
    /// The limits that were exceeded, where limits are only reported.
    pub exceeded: Vec<LimitKind>,
}

impl ClientSlots {
    /// Whether the session still holds all of its slots: no other session has taken one of them over.
    pub fn are_held(&self) -> bool {
        self.address.as_ref().is_none_or(SessionSlot::is_held)
            && self.subject.as_ref().is_none_or(SessionSlot::is_held)
            && self.claims.iter().all(Claim::is_held)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.address.is_none() && self.subject.is_none() && self.claims.is_empty()
    }

    /// Adds slots. They replace those of the same limit.
    pub fn add(&mut self, added: Self) {
        self.address = added.address.or(self.address.take());
        self.subject = added.subject.or(self.subject.take());
        self.claims.retain(|claim| added.claims.iter().all(|added| added.key().kind() != claim.key().kind()));
        self.claims.extend(added.claims);
    }

    /// Notes that another process continues the session.
    pub(super) fn continue_elsewhere(&mut self) {
        self.claims.iter_mut().for_each(Claim::continue_elsewhere);
    }
}

/// Takes the slots of a session at its admission, where sessions beyond the limit are rejected.
///
/// # Errors
/// If a limit is reached. No slot is taken then.
pub(super) fn take_at_admission(
    counters: &Counters,
    limits: &Limits,
    client: LimitedClient<'_>,
    holder: Holder,
    shared: SharedSlots,
) -> Result<TakenSlots, Rejection> {
    take(counters, limits, client, holder, (OnSessionLimit::Refuse, shared))
}

/// Takes the slots of a session whose upstream has accepted it, where it takes over those of the oldest session.
pub(super) fn take_at_opening(
    counters: &Counters,
    limits: &Limits,
    client: LimitedClient<'_>,
    holder: Holder,
    shared: SharedSlots,
) -> TakenSlots {
    // This is never rejected.
    take(counters, limits, client, holder, (OnSessionLimit::CloseOldest, shared)).unwrap_or_default()
}

/// Takes slots for an open session at a route that did not limit its sessions `before`.
pub(super) fn add_new_limits(
    counters: &Counters,
    (before, limits): (&Limits, &Limits),
    client: LimitedClient<'_>,
    holder: Holder,
) -> ClientSlots {
    let is_new = |before: Option<NonZeroU32>, now: Option<NonZeroU32>| before.is_none() && now.is_some();
    let address = is_new(before.sessions_per_address, limits.sessions_per_address);
    let subject = is_new(before.sessions_per_subject, limits.sessions_per_subject);
    // Limits that are only reported are not counted elsewhere.
    let claims = shared_slots::add(counters, limits, &client, holder, |kind| match kind {
        LimitKind::SessionsPerAddress => address || before.is_reporting(),
        _ => subject || before.is_reporting(),
    });
    ClientSlots {
        address: address.then(|| counters.by_address().add(client.address_key(), holder).0),
        subject: subject.then(|| counters.by_subject().add(client.subject_key(), holder).0),
        claims,
    }
}

/// Takes the slots of an open session of another process, even beyond the limits.
pub(super) fn add(counters: &Counters, limits: &Limits, client: LimitedClient<'_>, holder: Holder) -> ClientSlots {
    let address = limits.sessions_per_address.map(|_| counters.by_address().add(client.address_key(), holder).0);
    let subject = limits.sessions_per_subject.map(|_| counters.by_subject().add(client.subject_key(), holder).0);
    let claims = shared_slots::add(counters, limits, &client, holder, |_| true);
    ClientSlots { address, subject, claims }
}

/// Whether a new session of the address would be rejected.
pub(super) fn is_address_full(counters: &Counters, limits: &Limits, route: &Arc<str>, address: IpAddr) -> bool {
    let rejects = limits.on_session_limit == OnSessionLimit::Refuse && !limits.is_reporting();
    let is_full = |max: NonZeroU32| counters.by_address().count(&(Arc::clone(route), address.into())) >= max.get();
    rejects && limits.sessions_per_address.is_some_and(is_full)
}

/// Takes the slots of the limits with this treatment of further sessions. Other processes count the `shared` ones, too.
fn take(
    counters: &Counters,
    limits: &Limits,
    client: LimitedClient<'_>,
    holder: Holder,
    (treatment, shared): (OnSessionLimit, SharedSlots),
) -> Result<TakenSlots, Rejection> {
    let of_subject = limits.on_subject_limit(client.subject.is_some());
    let per_address = limits.sessions_per_address.filter(|_| limits.on_session_limit == treatment);
    let per_subject = limits.sessions_per_subject.filter(|_| of_subject == treatment);
    // Where the answer counts, the oldest sessions of all processes have made way already.
    let has_way = treatment == OnSessionLimit::CloseOldest && shared.is_counted();
    let limit = |max| if has_way { NonZeroU32::MAX.into() } else { SlotLimit { max, share: shared.share(max) } };
    let [per_address, per_subject] = [per_address, per_subject].map(|max| max.map(limit));
    let mut taken = TakenSlots::default();
    for (key, id) in shared.replaced {
        match key {
            SlotKey::Address(route, address) => counters.by_address().release(&(route, address), id),
            SlotKey::Subject(_) => counters.by_subject().release(&client.subject_key(), id),
        };
        taken.replaced.push(id);
    }
    taken.slots.claims = shared.claims;
    if let (OnSessionLimit::CloseOldest, false, Some(both)) =
        (treatment, limits.is_reporting(), per_address.zip(per_subject))
    {
        taken.replaced.extend(release_common(counters, client, both));
    }
    if let Some(limit) = per_address {
        let limit = (treatment, limits.is_reporting(), LimitKind::SessionsPerAddress, limit);
        let slot = take_one(counters.by_address(), client.address_key(), holder, limit, &mut taken);
        taken.slots.address = Some(slot.ok_or(Rejection::AddressSessions)?);
    }
    if let Some(limit) = per_subject {
        let limit = (treatment, limits.is_reporting(), LimitKind::SessionsPerSubject, limit);
        let slot = take_one(counters.by_subject(), client.subject_key(), holder, limit, &mut taken);
        taken.slots.subject = Some(slot.ok_or(Rejection::SubjectSessions)?);
    }
    Ok(taken)
}

/// Releases the slots of the oldest sessions that have both a slot of this subject and one of this address, as long as
/// both limits are exceeded: closing one such session makes way in both. Returns their ids.
fn release_common(
    counters: &Counters,
    client: LimitedClient<'_>,
    (per_address, per_subject): (SlotLimit, SlotLimit),
) -> Vec<SessionId> {
    let (by_address, by_subject) = (counters.by_address(), counters.by_subject());
    let (address, subject) = (client.address_key(), client.subject_key());
    let excess = by_address.excess(&address, per_address).min(by_subject.excess(&subject, per_subject));
    if excess == 0 {
        return Vec::new();
    }
    let of_subject: HashSet<SessionId> = by_subject.ids(&subject).into_iter().collect();
    let common = by_address.ids(&address).into_iter().filter(|id| of_subject.contains(id));
    // Another upgrade may have taken over a slot of it meanwhile, and closes it then.
    let release = |id: &SessionId| by_subject.release(&subject, *id) && by_address.release(&address, *id);
    common.take(usize::try_from(excess).unwrap_or(usize::MAX)).filter(release).collect()
}

fn take_one<K: Hash + Eq + Clone>(
    slots: &SessionSlots<K>,
    key: K,
    holder: Holder,
    (treatment, is_reporting, kind, limit): (OnSessionLimit, bool, LimitKind, SlotLimit),
    taken: &mut TakenSlots,
) -> Option<SessionSlot<K>> {
    if is_reporting {
        let (slot, before) = slots.add(key, holder);
        taken.exceeded.extend((before >= limit.share.get()).then_some(kind));
        return Some(slot);
    }
    match treatment {
        OnSessionLimit::Refuse => slots.take(key, holder, limit.share),
        OnSessionLimit::CloseOldest => {
            let (slot, replaced) = slots.take_over(key, holder, limit);
            taken.replaced.extend(replaced);
            Some(slot)
        }
    }
}
