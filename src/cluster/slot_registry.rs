//! The slots that the sessions of this process hold at the server, and those that are to be released there.
//!
//! There is one entry for each slot of a session or of an upgrade in progress, so `max_sessions` and `max_handshakes` limit
//! their number. With them a node that has lost its registration, or whose server has lost its data, registers its
//! sessions again.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::policy::session_slots::{Holder, SessionId};
use crate::policy::slot_store::{SlotKey, SlotStore};
use crate::runtime::clock;

/// The maximum number of releases that wait for the server. Those beyond it are dropped: their slots are free when the
/// registration of this node ends, or with the time to live of their keys.
pub const RELEASES_MAX: usize = 1 << 18;
/// After this time a release is sent that would otherwise precede something that is still on its way: a request for a slot
/// whose answer was late, or the registration of a session by the process that continues it.
const LATER: Duration = Duration::from_secs(10);

/// The slots of this process.
#[derive(Debug, Default)]
pub struct SlotRegistry {
    held: Mutex<BTreeMap<Entry, Held>>,
    releases: Mutex<Releases>,
    /// Whether the server may lack slots.
    is_incomplete: AtomicBool,
    /// Notified when there is something to send.
    pub(super) pending: Notify,
}

/// A slot of a session.
pub type Entry = (SessionId, SlotKey);

#[derive(Debug)]
struct Held {
    /// The number of claims of it.
    count: u32,
    opened: Instant,
    /// The id of this node under which the server has it, or may have it.
    node: Option<Arc<str>>,
    /// Whether the server was asked for it and has not answered.
    is_asked: bool,
    /// Whether a session of another node has taken over this slot, or another one of its session.
    is_lost: bool,
    /// When the server had it.
    written: Option<Instant>,
}

#[derive(Debug, Default)]
struct Releases {
    now: VecDeque<Release>,
    later: VecDeque<(Instant, Release)>,
    dropped: u64,
}

/// A slot to be released.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Release {
    /// The sessions that it is counted with.
    pub key: SlotKey,
    /// The id of the node under which the server has it: this one, unless the session makes way for one of this node.
    pub node: Arc<str>,
    /// The id of the session.
    pub id: SessionId,
}

/// A slot to be registered at the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DueSlot {
    /// The slot.
    pub entry: Entry,
    /// When its session was opened.
    pub opened: Instant,
    /// The earlier id of this node under which the server may have it.
    pub earlier: Option<Arc<str>>,
}

/// Slots to be registered at the server.
#[derive(Debug, Default)]
pub struct Due {
    /// The slots.
    pub slots: Vec<DueSlot>,
    /// The last entry that was looked at; `None`: there are no further ones.
    pub last: Option<Entry>,
}

impl SlotRegistry {
    /// Adds a slot that the server is about to be asked for under this id of the node.
    pub fn ask(&self, key: &SlotKey, holder: Holder, node: Option<&Arc<str>>) {
        let mut held = lock(&self.held);
        let entry = held.entry((holder.id, key.clone())).or_insert_with(|| Held {
            count: 0,
            opened: holder.opened,
            node: node.map(Arc::clone),
            is_asked: node.is_some(),
            is_lost: false,
            written: None,
        });
        entry.count = entry.count.saturating_add(1);
    }

    /// Notes that the session has the slot.
    pub fn note_granted(&self, key: &SlotKey, id: SessionId, now: Instant) {
        self.change(key, id, |held| (held.is_asked, held.written) = (false, Some(now)));
    }

    /// Notes that the server has not given the slot.
    pub fn note_refused(&self, key: &SlotKey, id: SessionId) {
        self.change(key, id, |held| (held.is_asked, held.node) = (false, None));
    }

    /// Notes that the server has not answered. It may have the slot.
    pub fn note_unanswered(&self, key: &SlotKey, id: SessionId) {
        self.change(key, id, |held| held.is_asked = false);
        self.note_incomplete();
    }

    /// Notes that the server may lack slots.
    pub fn note_incomplete(&self) {
        self.is_incomplete.store(true, Ordering::Relaxed);
        self.pending.notify_one();
    }

    /// Returns whether the server may lack slots, once.
    pub fn take_incomplete(&self) -> bool {
        self.is_incomplete.swap(false, Ordering::Relaxed)
    }

    fn change(&self, key: &SlotKey, id: SessionId, change: impl FnOnce(&mut Held)) {
        if let Some(held) = lock(&self.held).get_mut(&(id, key.clone())) {
            change(held);
        }
    }

    /// Removes a slot that another session has taken over. Returns whether it was here.
    pub fn lose(&self, key: &SlotKey, id: SessionId) -> bool {
        lock(&self.held).remove(&(id, key.clone())).is_some()
    }

    /// Releases the slot of a session of any node that makes way for one of this node.
    pub fn release_of(&self, key: &SlotKey, node: &str, id: SessionId) {
        self.push(Release { key: key.clone(), node: node.into(), id }, (true, false));
    }

    /// Notes that sessions of other nodes have taken over slots of these sessions. Their other slots are released when they
    /// end.
    pub fn lose_all(&self, ids: &[SessionId]) {
        let mut held = lock(&self.held);
        for id in ids {
            let of_session = held.range_mut((*id, SlotKey::FIRST)..).take_while(|(entry, _)| entry.0 == *id);
            of_session.for_each(|(_, held)| held.is_lost = true);
        }
    }

    /// Returns the number of slots.
    pub fn count(&self) -> usize {
        lock(&self.held).len()
    }

    /// Looks at up to `limit` slots after an entry. Returns those that the server does not have under this id of the node,
    /// or has had last `before`. They are registered under it from now on.
    pub fn due(&self, after: Option<&Entry>, limit: usize, node: &Arc<str>, before: Option<Instant>) -> Due {
        let mut all = lock(&self.held);
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut due = Due::default();
        let (mut looked, mut uncertain) = (0_usize, Vec::new());
        for (entry, held) in all.range_mut((from, Bound::Unbounded)).take(limit) {
            looked = looked.saturating_add(1);
            due.last = Some(entry.clone());
            let is_known = held.node.as_ref() == Some(node)
                && held.written.is_some_and(|at| before.is_none_or(|before| at >= before));
            if !held.is_asked && !held.is_lost && !is_known {
                let earlier = held.node.replace(Arc::clone(node)).filter(|earlier| earlier != node);
                if let Some(node) = earlier.as_ref().filter(|_| held.written.is_none()) {
                    uncertain.push(Release { key: entry.1.clone(), node: Arc::clone(node), id: entry.0 });
                }
                due.slots.push(DueSlot { entry: entry.clone(), opened: held.opened, earlier });
            }
        }
        if looked < limit {
            due.last = None;
        }
        drop(all);
        for release in uncertain {
            self.push(release, (false, true));
        }
        due
    }

    /// Notes that the server has these slots.
    pub fn note_written(&self, slots: &[DueSlot], now: Instant) {
        let mut held = lock(&self.held);
        for DueSlot { entry, .. } in slots {
            if let Some(held) = held.get_mut(entry) {
                held.written = Some(now);
            }
        }
    }

    /// Notes that the server may have lost the slots that it got after this time.
    pub fn forget_since(&self, since: Instant) {
        let mut held = lock(&self.held);
        for held in held.values_mut().filter(|held| held.written.is_some_and(|at| at >= since)) {
            held.written = None;
        }
        self.note_incomplete();
    }

    /// Removes up to `limit` releases whose time has come, the oldest first.
    pub fn take_releases(&self, limit: usize, now: Instant) -> Vec<Release> {
        let mut releases = lock(&self.releases);
        while releases.later.front().is_some_and(|(at, _)| *at <= now) {
            let release = releases.later.pop_front().map(|(_, release)| release);
            releases.now.extend(release);
        }
        let count = releases.now.len().min(limit);
        releases.now.drain(..count).collect()
    }

    /// Puts releases back that the server has not received.
    pub fn put_back(&self, unsent: Vec<Release>) {
        let mut releases = lock(&self.releases);
        unsent.into_iter().rev().for_each(|release| releases.now.push_front(release));
    }

    /// Returns the number of releases that were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut lock(&self.releases).dropped)
    }

    fn push(&self, release: Release, (is_sent_now, is_sent_later): (bool, bool)) {
        let mut releases = lock(&self.releases);
        if releases.now.len().saturating_add(releases.later.len()) >= RELEASES_MAX {
            releases.dropped = releases.dropped.saturating_add(1);
            return;
        }
        if is_sent_later {
            releases.later.push_back((clock::after(clock::now(), LATER), release.clone()));
        }
        if is_sent_now {
            releases.now.push_back(release);
            drop(releases);
            self.pending.notify_one();
        }
    }
}

impl SlotStore for SlotRegistry {
    fn is_shared(&self) -> bool {
        true
    }

    fn add(&self, key: &SlotKey, holder: Holder) {
        self.ask(key, holder, None);
        self.note_incomplete();
    }

    fn holds(&self, key: &SlotKey, id: SessionId) -> bool {
        lock(&self.held).get(&(id, key.clone())).is_some_and(|held| !held.is_lost)
    }

    fn release(&self, key: &SlotKey, id: SessionId, is_continued: bool) {
        let entry = (id, key.clone());
        let mut all = lock(&self.held);
        let Some(held) = all.get_mut(&entry) else { return };
        held.count = held.count.saturating_sub(1);
        if held.count > 0 {
            return;
        }
        let Some(held) = all.remove(&entry) else { return };
        drop(all);
        if let Some(node) = held.node {
            let is_uncertain = held.written.is_none();
            self.push(Release { key: entry.1, node, id }, (!is_continued, is_continued || is_uncertain));
        }
    }
}

/// Locks a map. It is consistent after every step, so a panic of another holder does no harm.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
