//! Runs a case a given number of times under callgrind: `instructions CASE RUNS`. tests/interop/instructions.py calls
//! it.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

mod cases;
mod choices;
mod heads;
#[path = "../harness/mod.rs"]
mod harness;

use std::env;

use cases::{CASES, RUNS_MAX, Run};
use choices::CHOICES;
use heads::{HEADS, SIZES};

fn main() {
    let arguments: Vec<_> = env::args().skip(1).collect();
    let [name, runs] = &arguments[..] else { return println!("usage: instructions CASE RUNS") };
    let runs: usize = runs.parse().expect("a number");
    assert!(runs <= RUNS_MAX);
    // The preparation does not depend on `runs`, so the difference of two totals is the cost of the runs alone.
    let mut run = prepare(name).expect("the name of a case");
    (0..runs).for_each(|_| run());
}

/// Prepares a case of `cases.rs` or of `choices.rs`, or a head of `heads.rs` with its size, as in `cookies_16k`.
fn prepare(name: &str) -> Option<Run> {
    if let Some((_, prepare)) = CASES.into_iter().find(|(case, _)| *case == name) {
        return Some(prepare());
    }
    if let Some((_, balance, servers)) = CHOICES.iter().find(|(case, ..)| *case == name) {
        return Some(choices::prepare(balance, *servers));
    }
    let (kind, size) = name.rsplit_once('_')?;
    let (_, head) = HEADS.into_iter().find(|(head, _)| *head == kind)?;
    let (_, bytes) = SIZES.into_iter().find(|(label, _)| *label == size)?;
    Some(head(bytes).run())
}
