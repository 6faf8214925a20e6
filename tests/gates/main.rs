//! Nothing is allocated for a message, neither by the pure parts nor by the whole gate between its two sockets.
//!
//! The allocator counts for the whole process, so this is one test, alone in its binary. It does not see what C allocates.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod cases;
mod gate;
#[path = "../harness/mod.rs"]
mod harness;

use std::alloc::System;
use std::hint::black_box;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use cases::{CASES, RUNS_MAX};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// What is made once and kept is no message's: the buffers of a thread, the state of a cipher.
const WARM_UP: usize = 8;

#[test]
fn a_message_allocates_nothing() {
    assert_eq!(count(|| drop(black_box(vec![0_u8; 1]))), 1, "the allocator counts");
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
