//! Slots that several processes count together, as the stages of an admission see them.

use std::num::NonZeroU32;
use std::sync::Mutex;

use super::session_limits::{admission_facts, limited};
use super::*;
use crate::policy::admission::Authenticated;
use crate::policy::limits::OnSessionLimit;
use crate::policy::session_slots::{Holder, SessionId};
use crate::policy::shared_slots::{SharedSlots, SlotAsks};
use crate::policy::slot_store::{Claim, SlotKey, SlotStore};

/// A store that notes what it is told.
#[derive(Debug, Default)]
struct Noted {
    added: Mutex<Vec<(SlotKey, SessionId)>>,
    released: Mutex<Vec<(SlotKey, SessionId, bool)>>,
    lost: Mutex<Vec<(SlotKey, SessionId)>>,
}

impl SlotStore for Noted {
    fn is_shared(&self) -> bool {
        true
    }

    fn add(&self, key: &SlotKey, holder: Holder) {
        self.added.lock().unwrap().push((key.clone(), holder.id));
    }

    fn holds(&self, key: &SlotKey, id: SessionId) -> bool {
        !self.lost.lock().unwrap().contains(&(key.clone(), id))
    }

    fn release(&self, key: &SlotKey, id: SessionId, is_continued: bool) {
        self.released.lock().unwrap().push((key.clone(), id, is_continued));
    }
}

impl Noted {
    fn released(&self) -> Vec<SessionId> {
        self.released.lock().unwrap().iter().map(|(_, id, _)| *id).collect()
    }
}

fn clocks() -> Clocks {
    Clocks { instant: clock::now(), unix: Duration::from_secs(1_800_000_000) }
}

fn setup() -> (Arc<Noted>, Arc<Counters>) {
    let store = Arc::<Noted>::default();
    let counters = Counters::default().with_slots(Arc::<Noted>::clone(&store));
    (store, Arc::new(counters))
}

/// Passes an authenticated request of a session with this id to `then`.
fn authenticated<T>(snapshot: &Snapshot, id: SessionId, then: impl FnOnce(Authenticated<'_>) -> T) -> T {
    let headers = HeaderMap::new();
    let facts = admission_facts(&headers, id);
    let candidate = snapshot.policy().begin(&facts).unwrap();
    let evidence = candidate.evidence().unwrap();
    then(candidate.authenticate(&evidence, clocks()).unwrap())
}

/// Returns the answer of another process that has given all slots.
fn held(store: &Arc<Noted>, asks: &SlotAsks) -> SharedSlots {
    let claim = |key: &SlotKey| Claim::new(Arc::<Noted>::clone(store), key.clone(), asks.id);
    SharedSlots { claims: asks.slots.iter().map(|ask| claim(&ask.key)).collect(), ..SharedSlots::default() }
}

/// Returns the answer while the other ones of `processes` cannot be asked.
fn divided(processes: u32) -> SharedSlots {
    SharedSlots { divided: NonZeroU32::new(processes), ..SharedSlots::default() }
}

#[test]
fn a_refusing_limit_asks_at_the_admission_and_a_closing_one_at_the_opening() {
    for (line, at_admission) in [("on_session_limit = \"refuse\"", 1), ("on_session_limit = \"close_oldest\"", 0)] {
        let (_, counters) = setup();
        let snapshot = limited(&counters, line);
        let (asks, later) =
            authenticated(&snapshot, 7, |client| (client.slot_asks().unwrap(), client.asks_at_opening()));
        assert_eq!((asks.slots.len(), later, asks.id), (at_admission, at_admission == 0, 7), "{line}");
        let admission = authenticated(&snapshot, 7, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
        let opening = admission.slot_asks(7, &counters);
        assert_eq!((opening.slots.len(), opening.treatment), (1 - at_admission, OnSessionLimit::CloseOldest), "{line}");
        for ask in asks.slots.iter().chain(&opening.slots) {
            assert_eq!((ask.key.to_string(), ask.max.get()), ("slot:a:chat:192.0.2.1".to_owned(), 2), "{line}");
        }
    }
}

#[test]
fn nothing_is_asked_for_limits_that_only_report_and_in_a_process_of_its_own() {
    let (_, shared) = setup();
    for (counters, line) in [(shared, "mode = \"report\""), (Arc::default(), "on_session_limit = \"refuse\"")] {
        let snapshot = limited(&counters, line);
        let (asks, later) =
            authenticated(&snapshot, 1, |client| (client.slot_asks().unwrap(), client.asks_at_opening()));
        assert!(asks.slots.is_empty() && !later, "{line}");
    }
}

#[test]
fn the_own_sessions_refuse_without_a_question() {
    let (store, counters) = setup();
    let snapshot = limited(&counters, "on_session_limit = \"refuse\"");
    // They pass the cheap decisions, and then two of them take both slots.
    let headers = HeaderMap::new();
    let facts: Vec<_> = (0..3).map(|id| admission_facts(&headers, id)).collect();
    let mut admitted = Vec::new();
    for facts in &facts {
        let candidate = snapshot.policy().begin(facts);
        let Ok(candidate) = candidate else {
            assert_eq!((facts.id, candidate.unwrap_err().rejection), (2, Rejection::AddressSessions));
            continue;
        };
        let evidence = candidate.evidence().unwrap();
        let client = candidate.authenticate(&evidence, clocks()).unwrap();
        let asks = client.slot_asks().unwrap();
        admitted.push(client.reserve(held(&store, &asks), clocks()).unwrap());
    }
    assert_eq!((admitted.len(), store.released()), (2, vec![]));
    drop(admitted);
    assert_eq!(store.released(), [0, 1]);
}

#[test]
fn a_request_that_is_rejected_after_the_answer_releases_its_slots() {
    let (store, counters) = setup();
    let snapshot = limited(&counters, "on_session_limit = \"refuse\"");
    let open: Vec<_> =
        (0..1).map(|id| authenticated(&snapshot, id, |client| client.reserve(divided(1), clocks()).unwrap())).collect();
    let rejected = authenticated(&snapshot, 5, |client| {
        let asks = client.slot_asks().unwrap();
        let other = authenticated(&snapshot, 6, |client| client.reserve(divided(1), clocks()).unwrap());
        let rejected = client.reserve(held(&store, &asks), clocks()).map(drop).unwrap_err();
        drop(other);
        rejected
    });
    assert_eq!((rejected.rejection, store.released()), (Rejection::AddressSessions, vec![5]));
    drop(open);
}

#[test]
fn limits_are_divided_among_processes_that_cannot_be_asked() {
    // The limit is 2: the share is the quotient, rounded up, and at least one.
    for (processes, admitted) in [(1, 2), (2, 1), (3, 1), (100, 1)] {
        let (_, counters) = setup();
        let snapshot = limited(&counters, "on_session_limit = \"refuse\"");
        let mut open = Vec::new();
        for id in 0..3 {
            let headers = HeaderMap::new();
            let facts = admission_facts(&headers, id);
            let Ok(candidate) = snapshot.policy().begin(&facts) else { continue };
            let evidence = candidate.evidence().unwrap();
            let client = candidate.authenticate(&evidence, clocks()).unwrap();
            open.extend(client.reserve(divided(processes), clocks()));
        }
        assert_eq!(open.len(), admitted, "{processes} processes");
    }
}

#[test]
fn sessions_that_other_processes_have_replaced_hold_no_slot() {
    let (store, counters) = setup();
    let snapshot = limited(&counters, "on_session_limit = \"close_oldest\"");
    let mut leases = Vec::new();
    for id in 0..2 {
        let mut admission =
            authenticated(&snapshot, id, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
        let asks = admission.slot_asks(id, &counters);
        // The second takes over the slot of the first one, which is in this process.
        let replaced = if id == 1 { vec![(asks.slots[0].key.clone(), 0)] } else { Vec::new() };
        let shared = SharedSlots { replaced, ..held(&store, &asks) };
        assert_eq!(admission.open_session(&counters, shared, clock::now()), if id == 1 { vec![0] } else { vec![] });
        leases.push((asks, admission.into_lease()));
    }
    assert_eq!([leases[0].1.is_replaced(), leases[1].1.is_replaced()], [true, false]);
    let key = leases[1].0.slots[0].key.clone();
    store.lost.lock().unwrap().push((key.clone(), 1));
    assert!(leases[1].1.is_replaced());
    store.lost.lock().unwrap().clear();
    // Three sessions hold two slots only if others have made way elsewhere: nobody makes way twice.
    let mut third = authenticated(&snapshot, 2, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
    let mut fourth = authenticated(&snapshot, 3, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
    for (id, admission) in [(2, &mut third), (3, &mut fourth)] {
        let shared = held(&store, &admission.slot_asks(id, &counters));
        assert_eq!(admission.open_session(&counters, shared, clock::now()), [0_u128; 0]);
    }
    // Without an answer the oldest ones make way here.
    let mut fifth = authenticated(&snapshot, 4, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
    assert_eq!(fifth.open_session(&counters, divided(1), clock::now()), [1, 2]);
    drop((third, fourth, fifth));
    store.released.lock().unwrap().clear();
    // Another process continues it: its slot here is released later.
    leases[1].1.continue_elsewhere();
    leases.clear();
    assert_eq!(*store.released.lock().unwrap(), [(key.clone(), 0, false), (key, 1, true)]);
}

#[test]
fn an_outage_ends_at_most_one_session_for_a_new_one() {
    let (store, counters) = setup();
    let snapshot = limited(&counters, "on_session_limit = \"close_oldest\"");
    let mut open = Vec::new();
    // The limit is 2, and both sessions are at this process. Then it may use one half of the limit.
    for (id, expected) in [(0, vec![]), (1, vec![]), (2, vec![0]), (3, vec![1])] {
        let mut admission =
            authenticated(&snapshot, id, |client| client.reserve(SharedSlots::default(), clocks()).unwrap());
        let shared = if id < 2 { held(&store, &admission.slot_asks(id, &counters)) } else { divided(2) };
        assert_eq!(admission.open_session(&counters, shared, clock::now()), expected, "{id}");
        open.push(admission);
    }
}
