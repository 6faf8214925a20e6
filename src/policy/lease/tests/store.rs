//! Tests of the division of a quota, and sequences of asks for other implementations of it.

use std::sync::Arc;
use std::time::Duration;

use super::cluster::Random;
use crate::policy::lease::share::WHOLE;
use crate::policy::lease::store::{
    CONTENDED_LEASE_MICROS, LEASE_MICROS, LeaseAsk, LeaseGrant, LeaseStore, MemoryLeases, OVERUSE_MAX_MICROS,
};

const NOW: u64 = 1_700_000_000_000_000;

fn ask(sequence: u64, held: u32, want: u32, used_micros: u64) -> LeaseAsk {
    LeaseAsk { key: Arc::from("q:m:chat:h1"), sequence, held, want, used_micros, burst_micros: 1_000_000 }
}

fn share(grant: LeaseGrant) -> (u32, bool) {
    (grant.share, grant.is_final)
}

#[test]
fn one_node_gets_what_it_wants() {
    let mut store = MemoryLeases::default();
    let grant = store.ask("a", &ask(1, 0, WHOLE, 250_000), NOW);
    let expected = LeaseGrant {
        share: WHOLE,
        is_final: true,
        valid_for: Duration::from_micros(LEASE_MICROS),
        backlog: Duration::from_millis(250),
        others: 0,
    };
    assert_eq!(grant, expected);
    assert_eq!(store.ask("a", &ask(2, WHOLE, 300_000, 0), NOW + 100_000).backlog, Duration::from_millis(150));
}

#[test]
fn a_share_moves_only_after_its_holder_has_confirmed_the_smaller_one() {
    let mut store = MemoryLeases::default();
    store.ask("a", &ask(1, 0, WHOLE, 0), NOW);
    let grant = store.ask("b", &ask(1, 0, WHOLE, 0), NOW);
    assert_eq!((share(grant), grant.others), ((0, false), 1));
    assert_eq!(grant.valid_for, Duration::from_micros(CONTENDED_LEASE_MICROS));
    // The holder may not receive this answer, so its whole share is kept.
    assert_eq!(share(store.ask("a", &ask(2, WHOLE, WHOLE, 0), NOW)), (500_000, true));
    assert_eq!(share(store.ask("b", &ask(2, 0, WHOLE, 0), NOW)), (0, false));
    assert_eq!(share(store.ask("a", &ask(3, 500_000, WHOLE, 0), NOW)), (500_000, true));
    assert_eq!(share(store.ask("b", &ask(3, 0, WHOLE, 0), NOW)), (500_000, true));
}

#[test]
fn a_lease_that_was_replaced_is_kept_until_it_expires() {
    let mut store = MemoryLeases::default();
    store.ask("a", &ask(1, 0, WHOLE, 0), NOW);
    store.ask("b", &ask(1, 0, WHOLE, 0), NOW);
    store.ask("a", &ask(2, WHOLE, WHOLE, 0), NOW + 1_000);
    // Without the answer, the node uses its share of the first ask for two seconds.
    assert_eq!(share(store.ask("b", &ask(2, 0, WHOLE, 0), NOW + LEASE_MICROS - 1)), (0, false));
    assert_eq!(share(store.ask("b", &ask(3, 0, WHOLE, 0), NOW + LEASE_MICROS)), (WHOLE, true));
}

#[test]
fn a_lease_from_before_the_clock_was_set_back_ends() {
    let (mut store, now) = (MemoryLeases::default(), NOW - 3_600_000_000);
    store.ask("a", &ask(1, 0, WHOLE, 0), NOW);
    // The node may have another id then, and give nothing back with the earlier one.
    assert_eq!(share(store.ask("b", &ask(1, 0, WHOLE, 0), now)), (0, false));
    assert_eq!(share(store.ask("b", &ask(2, 0, WHOLE, 0), now + LEASE_MICROS - 1)), (0, false));
    assert_eq!(share(store.ask("b", &ask(3, 0, WHOLE, 0), now + LEASE_MICROS)), (WHOLE, true));
}

#[test]
fn nodes_that_want_less_than_their_part_leave_it_to_others() {
    let mut store = MemoryLeases::default();
    let wants = [("a", 100_000), ("b", 300_000), ("c", WHOLE), ("d", WHOLE)];
    let mut last = [0; 4];
    for sequence in 1..6 {
        for ((node, want), last) in wants.iter().zip(&mut last) {
            *last = store.ask(node, &ask(sequence, *last, *want, 0), NOW).share;
        }
    }
    // The others have what they need, four fifths of what they want.
    assert_eq!(last, [80_000, 240_000, 340_000, 340_000]);
}

#[test]
fn margins_share_what_needs_leave() {
    let mut store = MemoryLeases::default();
    let wants = [("a", 937_500), ("b", 125_000), ("c", 125_000)];
    let mut last = [0; 3];
    for sequence in 1..6 {
        for ((node, want), last) in wants.iter().zip(&mut last) {
            *last = store.ask(node, &ask(sequence, *last, *want, 0), NOW).share;
        }
    }
    assert_eq!(last, [766_666, 116_666, 116_666]);
}

#[test]
fn a_returned_lease_is_free_at_once_and_nothing_is_left() {
    let mut store = MemoryLeases::default();
    store.ask("a", &ask(1, 0, WHOLE, 0), NOW);
    assert_eq!(share(store.ask("a", &ask(2, 0, 0, 500), NOW)), (0, true));
    assert_eq!(share(store.ask("b", &ask(1, 0, WHOLE, 0), NOW)), (WHOLE, true));
    assert_eq!(share(store.ask("b", &ask(2, 0, 0, 0), NOW + 1_000)), (0, true));
    assert!(store.is_empty());
}

#[test]
fn an_ask_that_arrives_after_a_later_one_changes_nothing() {
    let mut store = MemoryLeases::default();
    store.ask("a", &ask(7, 0, WHOLE, 0), NOW);
    assert_eq!(store.ask("a", &ask(6, 0, 100_000, 900_000), NOW), LeaseGrant::default());
    assert_eq!((store.kept("q:m:chat:h1", NOW), store.len()), (u64::from(WHOLE), 1));
}

/// The use that is remembered is bounded, so that no use of the past delays a share for long.
#[test]
fn the_backlog_is_bounded() {
    let mut store = MemoryLeases::default();
    let grant = store.ask("a", &ask(1, 0, WHOLE, u64::MAX), NOW);
    assert_eq!(grant.backlog, Duration::from_micros(1_000_000 + OVERUSE_MAX_MICROS));
}

/// Random asks of nodes that take what they are granted, or do not receive it. At no time do nodes hold more than the
/// quota. Each line of the output is a call and its answer, by which the script for Redis is checked.
#[test]
fn leases_never_exceed_the_quota() {
    for seed in 0..50 {
        let (mut random, mut store, mut now) = (Random(seed), MemoryLeases::default(), NOW);
        // Of each node: the share that it uses, and until when.
        let mut held = [(0_u32, 0_u64); 4];
        let mut sequences = [0_u64; 4];
        for _ in 0..200 {
            now += random.below(400_000);
            let index = random.below(4) as usize;
            let (own, expires) = held[index];
            let own = if now < expires { own } else { 0 };
            let want = match random.below(4) {
                0 => 0,
                1 => WHOLE,
                _ => random.below(u64::from(WHOLE)) as u32,
            };
            // A node lowers its share before it asks for less.
            let own = own.min(want);
            held[index].0 = own;
            let is_late = random.below(20) == 0;
            sequences[index] += u64::from(!is_late);
            let burst_micros = if random.below(30) == 0 { u64::MAX >> 12 } else { random.below(3_000_000) };
            let used_micros = random.below(1_500_000);
            let ask = LeaseAsk { burst_micros, ..ask(sequences[index], own, want, used_micros) };
            let grant = store.ask(&format!("node-{index}"), &ask, now);
            let LeaseGrant { share, is_final, valid_for, backlog, others } = grant;
            println!(
                "ask {seed} node-{index} {} {own} {want} {used_micros} {burst_micros} {now} {share} {} {} {} {others}",
                ask.sequence,
                u8::from(is_final),
                valid_for.as_micros(),
                backlog.as_micros(),
            );
            if !is_late && random.below(5) > 0 {
                held[index] = (share, now + valid_for.as_micros() as u64);
            }
            let total: u64 =
                held.iter().filter(|(_, expires)| now < *expires).map(|(share, _)| u64::from(*share)).sum();
            assert!(total <= u64::from(WHOLE), "seed {seed}: {held:?} at {now}");
        }
    }
}
