//! Tests of `session_slots`, in order and on threads.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::policy::quota::tests::on_threads;

fn max(max: u32) -> NonZeroU32 {
    NonZeroU32::new(max).unwrap()
}

fn is_empty<K>(slots: &SessionSlots<K>) -> bool {
    let taken = lock(&slots.0);
    taken.by_key.is_empty() && taken.holders.is_empty()
}

#[test]
fn a_new_session_ends_one_for_the_share_of_a_limit() {
    // The limit is 10, of which this process may use 4.
    let limit = SlotLimit { max: max(10), share: max(4) };
    let holder = |id| Holder { id, opened: Instant::now() };
    for (before, expected) in [(0, 0), (3, 0), (4, 1), (9, 1), (10, 1), (11, 2)] {
        let slots = SessionSlots::new();
        let open: Vec<_> = (0..before).map(|id| slots.add("k", holder(id)).0).collect();
        assert_eq!(u128::from(slots.excess(&"k", limit)), expected, "{before}");
        let (_new, replaced) = slots.take_over("k", holder(99), limit);
        assert_eq!(replaced, (0..expected).collect::<Vec<_>>(), "{before}");
        drop(open);
    }
}

#[test]
fn a_dropped_slot_is_free_again() {
    let (slots, opened) = (SessionSlots::new(), Instant::now());
    let take = |key, id| slots.take(key, Holder { id, opened }, max(2));
    let (first, second) = (take("k", 1), take("k", 2));
    assert!(first.is_some() && second.is_some() && take("k", 3).is_none());
    let other = take("other", 4);
    assert!(other.is_some());
    drop(first);
    let third = take("k", 5);
    assert!(third.is_some() && take("k", 6).is_none());
    drop((second, third, other));
    assert!(is_empty(&slots));
}

#[test]
fn the_oldest_session_is_replaced_whatever_the_order_of_the_calls() {
    let (slots, start) = (SessionSlots::new(), Instant::now());
    let holder = |id: u128, millis| Holder { id, opened: start + Duration::from_millis(millis) };
    // An open session that a reload adds is older than one that took its slot before.
    let (young, _) = slots.add("k", holder(2, 20));
    let (old, before) = slots.add("k", holder(1, 10));
    assert_eq!(before, 1);
    let (new, replaced) = slots.take_over("k", holder(3, 30), max(2).into());
    assert_eq!(replaced, [1]);
    assert!(!old.is_held() && young.is_held() && new.is_held());
    // The slot that was taken over is not released a second time.
    drop(old);
    assert_eq!(slots.count(&"k"), 2);
    drop((young, new));
    assert!(is_empty(&slots));
}

/// The limit was lowered while the sessions were open.
#[test]
fn as_many_sessions_are_replaced_as_exceed_the_limit() {
    let (slots, opened) = (SessionSlots::new(), Instant::now());
    let held: Vec<_> = (0..5).map(|id| slots.add("k", Holder { id, opened }).0).collect();
    let (_new, replaced) = slots.take_over("k", Holder { id: 9, opened }, max(2).into());
    assert_eq!(replaced, [0, 1, 2, 3]);
    assert_eq!(held.iter().map(SessionSlot::is_held).collect::<Vec<_>>(), [false, false, false, false, true]);
    assert_eq!(slots.count(&"k"), 2);
}

/// A key that was dropped and added again has another number, so an old slot of it releases nothing.
#[test]
fn a_slot_that_was_taken_over_does_not_release_one_of_a_later_holder() {
    let (slots, opened) = (SessionSlots::new(), Instant::now());
    let (first, _) = slots.take_over("k", Holder { id: 1, opened }, max(1).into());
    let (second, replaced) = slots.take_over("k", Holder { id: 2, opened }, max(1).into());
    assert_eq!(replaced, [1]);
    drop(second);
    let third = slots.take("k", Holder { id: 3, opened }, max(1)).unwrap();
    drop(first);
    assert!(third.is_held() && slots.count(&"k") == 1);
}

/// Every thread opens sessions of one key as fast as it can. There are never more holders than the limit, none is
/// rejected, and each session is either replaced once or open at the end.
#[test]
fn racing_sessions_never_exceed_the_limit_and_are_never_rejected() {
    const EACH: u64 = 1_000;
    for limit in [1, 3] {
        let (slots, next, most) = (SessionSlots::new(), AtomicU64::new(0), AtomicU64::new(0));
        let opened = on_threads(|| {
            let mut mine = Vec::new();
            for _ in 0..EACH {
                let id = next.fetch_add(1, Ordering::SeqCst).into();
                let (slot, replaced) = slots.take_over("k", Holder { id, opened: Instant::now() }, max(limit).into());
                most.fetch_max(slots.count(&"k").into(), Ordering::SeqCst);
                mine.push((slot, replaced));
            }
            mine
        });
        assert_eq!((most.into_inner(), slots.count(&"k")), (u64::from(limit), limit));
        let all: Vec<_> = opened.into_iter().flatten().collect();
        let held = all.iter().filter(|(slot, _)| slot.is_held()).count();
        let replaced: Vec<SessionId> = all.iter().flat_map(|(_, replaced)| replaced.clone()).collect();
        assert_eq!((held, replaced.len()), (limit as usize, all.len() - limit as usize));
        assert_eq!(replaced.iter().collect::<HashSet<_>>().len(), replaced.len(), "a session was replaced twice");
        drop(all);
        assert!(is_empty(&slots));
    }
}

#[test]
fn threads_never_hold_more_slots_than_there_are() {
    let (slots, most) = (SessionSlots::new(), AtomicU64::new(0));
    on_threads(|| {
        let mut mine = Vec::new();
        for round in 0..5_000_u128 {
            mine.extend(slots.take("k", Holder { id: round, opened: Instant::now() }, max(3)));
            most.fetch_max(slots.count(&"k").into(), Ordering::SeqCst);
            if round % 3 == 0 {
                mine.pop();
            }
        }
    });
    assert_eq!(most.into_inner(), 3);
    assert!(is_empty(&slots));
}

/// A step of a random run.
#[derive(Debug, Clone)]
enum Step {
    Take(u32),
    TakeOver(u32),
    Add,
    /// Drops the slot with this index.
    Drop(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..4_u32).prop_map(Step::Take),
        (1..4_u32).prop_map(Step::TakeOver),
        Just(Step::Add),
        (0..8_usize).prop_map(Step::Drop),
    ]
}

proptest! {
    /// The slots agree with a list of the holders, the oldest first.
    #[test]
    fn the_slots_agree_with_a_list_of_their_holders(steps in prop::collection::vec((0..2_u8, step()), 0..60)) {
        let (slots, start) = (SessionSlots::new(), Instant::now());
        let mut lists: [Vec<u128>; 2] = [Vec::new(), Vec::new()];
        let mut held = Vec::new();
        for (id, (key, step)) in (0_u128..).zip(steps) {
            let list = &mut lists[usize::from(key)];
            let holder = Holder { id, opened: start + Duration::from_micros(id as u64) };
            match step {
                Step::Take(limit) => {
                    let slot = slots.take(key, holder, max(limit));
                    prop_assert_eq!(slot.is_some(), list.len() < limit as usize);
                    list.extend(slot.is_some().then_some(id));
                    held.extend(slot.map(|slot| (id, slot)));
                }
                Step::TakeOver(limit) => {
                    let (slot, replaced) = slots.take_over(key, holder, max(limit).into());
                    let excess = (list.len() + 1).saturating_sub(limit as usize);
                    prop_assert_eq!(replaced, list.drain(..excess).collect::<Vec<_>>());
                    list.push(id);
                    held.push((id, slot));
                }
                Step::Add => {
                    let (slot, before) = slots.add(key, holder);
                    prop_assert_eq!(before as usize, list.len());
                    list.push(id);
                    held.push((id, slot));
                }
                Step::Drop(index) if index < held.len() => {
                    let (id, _) = held.swap_remove(index);
                    for list in &mut lists {
                        list.retain(|other| *other != id);
                    }
                }
                Step::Drop(_) => {}
            }
            for (key, list) in (0..2_u8).zip(&lists) {
                prop_assert_eq!(slots.count(&key) as usize, list.len());
            }
            for (id, slot) in &held {
                prop_assert_eq!(slot.is_held(), lists.iter().flatten().any(|other| other == id));
            }
        }
        held.clear();
        prop_assert!(is_empty(&slots));
    }
}
