//! Tests of `slots`, in order and on threads.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::policy::quota::tests::on_threads;

#[test]
fn threads_never_hold_more_slots_than_there_are() {
    let max = NonZeroU32::new(3).unwrap();
    let (slots, held, most) = (Slots::new(), AtomicU32::new(0), AtomicU32::new(0));
    let taken = on_threads(|| {
        let mut mine = Vec::new();
        for round in 0..5_000_usize {
            if let Some(slot) = slots.take("k", max) {
                most.fetch_max(held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                mine.push(slot);
            }
            if round % 3 == 0 && !mine.is_empty() {
                // Decrement before the release, so that the count is never too high.
                held.fetch_sub(1, Ordering::SeqCst);
                mine.pop();
            }
        }
        held.fetch_sub(u32::try_from(mine.len()).unwrap(), Ordering::SeqCst);
        mine.clear();
    });
    drop(taken);
    let most = most.into_inner();
    assert!((1..=max.get()).contains(&most), "{most}");
    assert!(lock(&slots.taken).is_empty());
}

#[test]
fn a_dropped_slot_is_free_again() {
    let slots = Slots::new();
    let max = NonZeroU32::new(2).unwrap();
    let first = slots.take("k", max);
    let second = slots.take("k", max);
    assert!(first.is_some() && second.is_some());
    assert!(slots.take("k", max).is_none());
    assert!(slots.take("other", max).is_some());
    drop(first);
    assert!(slots.take("k", max).is_some());
    drop(second);
    assert!(lock(&slots.taken).is_empty());
}
