//! Tests that the slot of a session stays small in allocated bytes, beside one of a plain counter.
//!
//! The allocator counts for the whole process, so this binary contains only one test.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::alloc::System;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Instant;

use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use tollgate::policy::session_slots::{Holder, SessionSlots};
use tollgate::policy::slots::Slots;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const SESSIONS: usize = 20_000;
/// The maximum number of bytes of a slot with its entry, without the text of its key.
const BYTES_MAX: usize = 240;

/// Returns the allocated bytes per session of what `take` returns, including its own size.
fn bytes<T>(mut take: impl FnMut(usize) -> T) -> usize {
    let allocated = || {
        let stats = ALLOCATOR.stats();
        stats.bytes_allocated - stats.bytes_deallocated
    };
    let before = allocated();
    let mut all = Vec::with_capacity(SESSIONS);
    for number in 0..SESSIONS {
        all.push(take(number));
    }
    let after = allocated();
    drop(all);
    (after - before) / SESSIONS
}

#[test]
fn a_slot_of_a_session_is_small() {
    let (route, max): (Arc<str>, _) = (Arc::from("chat"), NonZeroU32::new(1_000_000).unwrap());
    for sessions_per_key in [1, 100] {
        let keys: Vec<Arc<str>> = (0..SESSIONS).map(|number| format!("users\0{number}").into()).collect();
        let key = |number: usize| (Arc::clone(&route), Arc::clone(&keys[number / sessions_per_key]));
        let (counter, slots, opened) = (Slots::new(), SessionSlots::new(), Instant::now());
        let counted = bytes(|number| counter.take(key(number), max).unwrap());
        let held = bytes(|number| slots.take(key(number), Holder { id: number as u128, opened }, max).unwrap());
        println!("{sessions_per_key} sessions of each key: {held} bytes per slot, {counted} of a counter");
        assert!(held <= BYTES_MAX, "{held} bytes per slot with {sessions_per_key} sessions of each key");
    }
}
