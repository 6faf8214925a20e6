//! Runs one of the cases so many times, for callgrind to count: `instructions CASE RUNS`. tests/interop/instructions.py does.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod cases;
#[path = "../harness/mod.rs"]
mod harness;

use std::env;

use cases::{CASES, RUNS_MAX};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [name, runs] = &arguments[..] else { return println!("usage: instructions CASE RUNS") };
    let (_, prepare) = CASES.into_iter().find(|(case, _)| case == name).expect("the name of a case");
    let runs: usize = runs.parse().expect("a number");
    assert!(runs <= RUNS_MAX);
    // Made ready for the same number each time, so that the difference of two numbers of runs is what the runs cost.
    let mut run = prepare();
    (0..runs).for_each(|_| run());
}
