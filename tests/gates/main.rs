//! Counts allocations. A message allocates nothing, neither in the pure core nor in the whole proxy between its two
//! sockets. The allocations of a request head are at most proportional to its size.
//!
//! The allocator counts for the whole process, so there is only one test in this binary. Allocations of C code are not
//! counted.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod cases;
mod gate;
#[path = "../harness/mod.rs"]
mod harness;
mod heads;

use std::alloc::System;
use std::hint::black_box;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use cases::{CASES, RUNS_MAX};
use heads::{HEADS, SIZES};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs before counting starts: buffers of a thread and states of ciphers are allocated once and kept.
const WARM_UP: usize = 8;
/// Batches of messages through the proxy, of which the one with the fewest allocations counts: on a busy machine a
/// timer of the proxy may fire during a batch, and it allocates. A message that allocates does so in every batch.
const BATCHES: usize = 16;

#[test]
fn messages_allocate_nothing_and_heads_in_proportion() {
    assert_eq!(count(|| drop(black_box(vec![0_u8; 1]))), 1, "the allocator counts");
    a_message_allocates_nothing();
    a_head_allocates_in_proportion();
}

/// The maximum growth of a head's allocations when its size grows to four times as much.
const GROWTH_MAX: usize = 5;
/// A head of 16 KiB counts as at least this many allocations, since lists grow up to their limits.
const HEAD_ALLOCATIONS: usize = 64;

fn a_head_allocates_in_proportion() {
    let mut found = Vec::new();
    for (name, head) in HEADS {
        let [few, many] = SIZES.map(|(_, bytes)| {
            let mut run = head(bytes).run();
            (0..WARM_UP).for_each(|_| run());
            count(run)
        });
        found.push((name, few, many));
    }
    found.retain(|(_, few, many)| *many > GROWTH_MAX * few.max(&HEAD_ALLOCATIONS));
    assert!(found.is_empty(), "head, allocations at 16 KiB and at 64 KiB: {found:#?}");
}

fn a_message_allocates_nothing() {
    let mut found = Vec::new();
    for (name, prepare) in CASES {
        let mut run = prepare();
        (0..WARM_UP).for_each(|_| run());
        let rounds = RUNS_MAX - WARM_UP;
        found.push((name, rounds, count(|| (0..rounds).for_each(|_| run()))));
    }
    let mut echo = gate::Echo::start();
    for exchange in gate::exchanges() {
        (0..WARM_UP).for_each(|_| echo.exchange(&exchange));
        let rounds = (gate::ROUNDS - WARM_UP) / BATCHES;
        let batch = |_| count(|| (0..rounds).for_each(|_| echo.exchange(&exchange)));
        let allocations = (0..BATCHES).map(batch).min().unwrap_or_default();
        found.push((exchange.name, rounds * exchange.messages, allocations));
    }
    echo.end();
    found.retain(|(_, _, allocations)| *allocations > 0);
    assert!(found.is_empty(), "case, messages, allocations: {found:#?}");
}

fn count(run: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    run();
    let change = region.change();
    change.allocations + change.reallocations
}
