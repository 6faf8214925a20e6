//! Nothing is allocated for a message, neither by the pure parts nor by the whole gate between its two sockets. For a request
//! head no more is allocated than in proportion to its size.
//!
//! The allocator counts for the whole process, so this is one test, alone in its binary. It does not see what C allocates.

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

/// What is made once and kept is no message's: the buffers of a thread, the state of a cipher.
const WARM_UP: usize = 8;

#[test]
fn what_is_allocated() {
    assert_eq!(count(|| drop(black_box(vec![0_u8; 1]))), 1, "the allocator counts");
    a_message_allocates_nothing();
    a_head_allocates_in_proportion();
}

/// Where the size of a head is four times as large it may cost so many times as much.
const GROWTH_MAX: usize = 5;
/// Below this many allocations a head of 16 KiB counts as this many: lists grow up to their limits.
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
        let rounds = gate::ROUNDS - WARM_UP;
        let allocations = count(|| (0..rounds).for_each(|_| echo.exchange(&exchange)));
        found.push((exchange.name, rounds * exchange.messages, allocations));
    }
    echo.end();
    found.retain(|(_, _, allocations)| *allocations > 0);
    assert!(found.is_empty(), "what, messages, allocations: {found:#?}");
}

fn count(run: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    run();
    let change = region.change();
    change.allocations + change.reallocations
}
