//! Tests of the slots that a process holds.

use super::*;

fn key(number: u8) -> SlotKey {
    SlotKey::Subject([number; 16])
}

fn holder(id: SessionId) -> Holder {
    Holder { id, opened: clock::now() }
}

fn node(name: &str) -> Arc<str> {
    Arc::from(name)
}

/// Returns the ids of the sessions whose slots are to be registered under this id of the node.
fn due(registry: &SlotRegistry, name: &str) -> Vec<SessionId> {
    let (mut ids, mut last) = (Vec::new(), None);
    loop {
        let due = registry.due(last.as_ref(), 2, &node(name), None);
        ids.extend(due.slots.iter().map(|due| due.entry.0));
        registry.note_written(&due.slots, clock::now());
        last = due.last;
        if last.is_none() {
            return ids;
        }
    }
}

fn released(registry: &SlotRegistry, now: Instant) -> Vec<(SessionId, String)> {
    let releases = registry.take_releases(usize::MAX, now);
    releases.into_iter().map(|release| (release.id, release.node.to_string())).collect()
}

#[test]
fn a_slot_is_released_at_the_server_if_it_has_it() {
    let (registry, now) = (SlotRegistry::default(), clock::now());
    for (id, name) in [(1, Some("1-a")), (2, Some("1-a")), (3, None)] {
        registry.ask(&key(1), holder(id), name.map(node).as_ref());
    }
    registry.note_granted(&key(1), 1, now);
    registry.note_refused(&key(1), 2);
    for id in 1..4 {
        assert!(registry.holds(&key(1), id) && !registry.holds(&key(2), id));
        registry.release(&key(1), id, false);
        assert!(!registry.holds(&key(1), id));
    }
    assert_eq!(released(&registry, now), [(1, "1-a".to_owned())]);
    assert_eq!(released(&registry, now + 2 * LATER), []);
}

#[test]
fn a_slot_whose_answer_was_late_is_released_twice() {
    let registry = SlotRegistry::default();
    registry.ask(&key(1), holder(1), Some(&node("1-a")));
    // The upgrade ends before the answer.
    registry.release(&key(1), 1, false);
    let now = clock::now();
    assert_eq!(released(&registry, now), [(1, "1-a".to_owned())]);
    assert_eq!(released(&registry, now + LATER / 2), []);
    assert_eq!(released(&registry, now + 2 * LATER), [(1, "1-a".to_owned())]);
}

#[test]
fn a_slot_of_a_session_that_another_process_continues_is_released_later() {
    let registry = SlotRegistry::default();
    registry.ask(&key(1), holder(1), Some(&node("1-a")));
    registry.note_granted(&key(1), 1, clock::now());
    registry.release(&key(1), 1, true);
    let now = clock::now();
    assert_eq!(released(&registry, now), []);
    assert_eq!(released(&registry, now + 2 * LATER), [(1, "1-a".to_owned())]);
}

#[test]
fn a_slot_with_two_claims_is_released_with_the_last() {
    let (registry, now) = (SlotRegistry::default(), clock::now());
    registry.ask(&key(1), holder(1), Some(&node("1-a")));
    registry.note_granted(&key(1), 1, now);
    registry.add(&key(1), holder(1));
    registry.release(&key(1), 1, false);
    assert!(registry.holds(&key(1), 1) && released(&registry, now).is_empty());
    registry.release(&key(1), 1, false);
    assert_eq!(released(&registry, now), [(1, "1-a".to_owned())]);
}

#[test]
fn slots_are_registered_again_under_another_id() {
    let (registry, now) = (SlotRegistry::default(), clock::now());
    for id in 1..=3 {
        registry.ask(&key(1), holder(id), Some(&node("1-a")));
        registry.note_granted(&key(1), id, now);
    }
    // One is open since an outage, and one is asked for just now.
    registry.add(&key(2), holder(4));
    registry.ask(&key(2), holder(5), Some(&node("1-a")));
    assert_eq!(due(&registry, "1-a"), [4]);
    assert_eq!(due(&registry, "1-a"), [] as [SessionId; 0]);
    assert_eq!(due(&registry, "2-b"), [1, 2, 3, 4]);
    registry.note_unanswered(&key(2), 5);
    assert_eq!(due(&registry, "2-b"), [5]);
    // The request under the earlier id may still be on its way.
    assert_eq!(released(&registry, clock::now() + 2 * LATER), [(5, "1-a".to_owned())]);
    registry.release(&key(1), 2, false);
    assert_eq!(released(&registry, now), [(2, "2-b".to_owned())]);
}

#[test]
fn slots_that_the_server_may_have_lost_are_registered_again() {
    let (registry, now) = (SlotRegistry::default(), clock::now());
    for id in 1..=2 {
        registry.ask(&key(1), holder(id), Some(&node("1-a")));
        registry.note_granted(&key(1), id, now + LATER * u32::try_from(id).unwrap());
    }
    registry.forget_since(now + LATER * 2);
    assert_eq!(due(&registry, "1-a"), [2]);
    let old = registry.due(None, 9, &node("1-a"), Some(now + LATER * 2));
    assert_eq!(old.slots.iter().map(|due| due.entry.0).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_slot_that_was_taken_over_is_not_held() {
    let (registry, now) = (SlotRegistry::default(), clock::now());
    for (id, number) in [(1, 1), (2, 1), (2, 2), (3, 2)] {
        registry.ask(&key(number), holder(id), Some(&node("1-a")));
        registry.note_granted(&key(number), id, now);
    }
    assert!(registry.lose(&key(1), 1) && !registry.lose(&key(1), 1) && !registry.lose(&key(1), 9));
    registry.lose_all(&[2, 9]);
    assert_eq!(due(&registry, "2-b"), [3]);
    assert_eq!(
        [registry.holds(&key(1), 2), registry.holds(&key(2), 2), registry.holds(&key(2), 3)],
        [false, false, true]
    );
    for (id, number) in [(1, 1), (2, 1), (2, 2)] {
        registry.release(&key(number), id, false);
    }
    // The server may have the other slots of a session that another node has replaced.
    let (again, expected) = (released(&registry, now), [2, 2].map(|id| (id, "1-a".to_owned())));
    assert_eq!((again.as_slice(), registry.count()), (expected.as_slice(), 1));
}

#[test]
fn the_number_of_releases_is_limited_and_unsent_ones_come_first() {
    let registry = SlotRegistry::default();
    for id in 0..=RELEASES_MAX as SessionId {
        registry.ask(&key(1), holder(id), Some(&node("1-a")));
        registry.note_granted(&key(1), id, clock::now());
        registry.release(&key(1), id, false);
    }
    assert_eq!((registry.take_dropped(), registry.take_dropped()), (1, 0));
    let first = registry.take_releases(2, clock::now());
    registry.put_back(first.clone());
    assert_eq!(registry.take_releases(2, clock::now()), first);
}
