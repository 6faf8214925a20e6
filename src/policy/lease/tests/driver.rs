//! Tests of the driver and of shares, without a network.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::policy::address::AddressKey;
use crate::policy::byte_quota::ByteLimiter;
use crate::policy::counters::{Counters, MessageKey};
use crate::policy::counts::KeyedLimiter;
use crate::policy::lease::driver::{ASKS_PER_TICK_MAX, LEASE_TICK, LeaseDriver};
use crate::policy::lease::share::{LEASED_KEYS_MAX, Leases, WHOLE};
use crate::policy::lease::store::{LeaseAsk, LeaseGrant};
use crate::policy::quota::Limiter;
use crate::policy::quota::tests::quota;

/// One of four nodes, whose share without a lease is a twentieth.
fn node() -> (Counters, LeaseDriver) {
    let leases = Arc::new(Leases::new());
    let mut driver = LeaseDriver::new(Arc::clone(&leases));
    driver.set_nodes(4);
    driver.set_reachable(true);
    (Counters::of_node(leases), driver)
}

fn limiter(counters: &Counters, subject: &str, now: Instant) -> Limiter {
    let key = MessageKey::of_identity("users", subject);
    Limiter::over(counters.route(&Arc::from("chat")).messages.get(&key, now), quota(100, 100))
}

fn grant(share: u32, is_final: bool) -> LeaseGrant {
    LeaseGrant { share, is_final, valid_for: Duration::from_secs(2), ..LeaseGrant::default() }
}

fn only(asks: Vec<LeaseAsk>) -> LeaseAsk {
    assert_eq!(asks.len(), 1, "{asks:?}");
    asks.into_iter().next().unwrap()
}

fn passed(limiter: &Limiter, now: Instant) -> usize {
    (0..1_000).take_while(|_| limiter.check(now).is_ok()).count()
}

#[test]
fn a_share_without_a_lease_allows_a_part_of_the_burst_and_the_first_cell() {
    let ((counters, mut driver), now) = (node(), Instant::now());
    assert_eq!(passed(&limiter(&counters, "ann", now), now), 5);
    driver.set_nodes(1_000_000);
    assert_eq!(passed(&limiter(&counters, "bob", now), now), 1);
    // Of 99 intervals of tolerance and one of the cell, a quarter.
    driver.set_nodes(4);
    driver.set_reachable(false);
    assert_eq!(passed(&limiter(&counters, "cid", now), now), 25);
}

#[test]
fn a_lease_grows_the_bucket_only_by_what_nobody_has_used() {
    for (backlog_millis, expected) in [(0, 100 - 5), (500, 100 - 5 - 48), (1_000, 0), (3_000, 0)] {
        let ((counters, mut driver), start) = (node(), Instant::now());
        let limiter = limiter(&counters, "ann", start);
        assert_eq!(passed(&limiter, start), 5);
        let ask = only(driver.tick(start));
        assert_eq!((ask.want, ask.held, ask.used_micros, ask.burst_micros), (WHOLE, 0, 50_000, 1_000_000));
        assert!(driver.tick(start).is_empty(), "one ask at a time");
        let backlog = Duration::from_millis(backlog_millis);
        driver.answered(&ask.key, ask.sequence, &LeaseGrant { backlog, ..grant(WHOLE, true) }, start);
        assert_eq!(passed(&limiter, start), expected, "backlog {backlog_millis} ms");
    }
}

#[test]
fn a_lease_expires_before_that_of_the_store() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    passed(&limiter, start);
    let ask = only(driver.tick(start));
    // The answer takes 400 ms. The lease counts from the ask.
    driver.answered(&ask.key, ask.sequence, &grant(WHOLE, true), start + Duration::from_millis(400));
    let last = start + Duration::from_millis(1_999);
    assert!(passed(&limiter, last) >= 99);
    let after = start + Duration::from_secs(3);
    assert_eq!(passed(&limiter, after), 5, "a second of the whole quota, and then a twentieth of the burst");
    // An answer after the lease has expired has no effect.
    let late = only(driver.tick(after));
    driver.answered(&late.key, late.sequence, &grant(WHOLE, true), after + Duration::from_secs(3));
    assert!(passed(&limiter, after + Duration::from_secs(3)) <= 6);
}

#[test]
fn a_refusal_is_pending_while_this_node_lacks_a_cell_of_the_whole_quota() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    assert!(!limiter.is_pending(start));
    passed(&limiter, start);
    assert!(limiter.is_pending(start));
    // A message that waits is tried again soon.
    let until = limiter.reserve(start).unwrap_or_else(|not| not.until);
    assert!(until > start && until <= start + LEASE_TICK, "{:?}", until - start);
    let ask = only(driver.tick(start));
    // Another node still holds the part that is due to this one.
    driver.answered(&ask.key, ask.sequence, &grant(100_000, false), start);
    passed(&limiter, start);
    assert!(limiter.is_pending(start));
    let next = start + Duration::from_millis(300);
    let ask = only(driver.tick(next));
    assert_eq!(ask.held, 100_000);
    driver.answered(&ask.key, ask.sequence, &grant(250_000, true), next);
    passed(&limiter, next);
    // No more is due now, but others may use less in a moment.
    assert!(limiter.is_pending(next) && limiter.check(next).is_err());
    // A cell that is available at once ends the shortage.
    let later = start + Duration::from_millis(9_000);
    assert!(passed(&limiter, later) > 0 && limiter.is_pending(later + Duration::from_millis(9_000)));
}

#[test]
fn a_refusal_is_not_pending_for_long_unless_the_store_is_away() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    passed(&limiter, start);
    assert!(limiter.is_pending(start + Duration::from_millis(9_900)));
    assert!(!limiter.is_pending(start + Duration::from_millis(10_100)));
    driver.set_reachable(false);
    assert!(driver.tick(start).is_empty());
    // An outage delays a client that is within the whole quota, for as long as it lasts.
    let later = start + Duration::from_secs(30);
    passed(&limiter, later);
    assert!(limiter.check(later).is_err() && limiter.is_pending(later));
}

#[test]
fn bytes_beyond_the_share_are_pending_for_ten_seconds() {
    for (share, bytes) in [(100_000, 50), (330_000, 10), (330_000, 200), (450_000, 50), (800_000, 50)] {
        let ((counters, mut driver), start) = (node(), Instant::now());
        let counts = counters.route(&Arc::from("chat"));
        let count = counts.bytes[0].get(&MessageKey::of_identity("users", "ann"), start);
        let limiter = ByteLimiter::over(count, quota(1_000, 1_000));
        let (mut at, mut next_tick, mut waits) = (start, start, 0);
        // A client that sends the next frame as soon as the last one has passed.
        while waits < 10_000 {
            while next_tick <= at {
                for ask in driver.tick(next_tick) {
                    driver.answered(&ask.key, ask.sequence, &LeaseGrant { others: 2, ..grant(share, true) }, next_tick);
                }
                next_tick += LEASE_TICK;
            }
            match limiter.await_share(bytes, at) {
                Some(until) => (at, waits) = (until.max(at), waits + 1),
                None if limiter.check(bytes, at) => at += Duration::from_millis(1),
                None => break,
            }
        }
        let lasted = at - start;
        assert!((10..=14).contains(&lasted.as_secs()), "{share}, {bytes} bytes: {lasted:?}, {waits} waits");
    }
}

#[test]
fn a_failed_ask_is_repeated_with_what_it_reported() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    passed(&limiter, start);
    let ask = only(driver.tick(start));
    driver.failed(&ask.key, ask.sequence, start);
    assert!(driver.tick(start + LEASE_TICK).is_empty(), "not at once");
    let again = only(driver.tick(start + 3 * LEASE_TICK));
    assert!(again.sequence > ask.sequence && again.used_micros >= ask.used_micros);
    // Without any answer it is repeated, too. An answer to an earlier ask has no effect.
    assert!(driver.tick(start + 15 * LEASE_TICK).is_empty());
    let third = only(driver.tick(start + 18 * LEASE_TICK));
    driver.answered(&again.key, again.sequence, &grant(WHOLE, true), start + 18 * LEASE_TICK);
    assert!(passed(&limiter, start + 18 * LEASE_TICK) < 15);
    assert!(third.sequence > again.sequence);
}

#[test]
fn an_unused_lease_is_returned_once() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    passed(&limiter, start);
    let ask = only(driver.tick(start));
    driver.answered(&ask.key, ask.sequence, &grant(WHOLE, true), start);
    let mut asks = Vec::new();
    let mut at = start;
    for tick in 1..100 {
        at = start + tick * LEASE_TICK;
        for ask in driver.tick(at) {
            driver.answered(&ask.key, ask.sequence, &grant(ask.want, true), at);
            asks.push(ask);
        }
    }
    let wants: Vec<u32> = asks.iter().map(|ask| ask.want).collect();
    assert_eq!((wants.last(), driver.keys()), (Some(&0), 0), "{wants:?}");
    assert!(wants.len() <= 2, "{wants:?}");
    // It can be leased again.
    passed(&limiter, at);
    assert_eq!(only(driver.tick(at)).key, ask.key);
}

#[test]
fn keys_and_asks_are_bounded() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiters: Vec<Limiter> =
        (0..LEASED_KEYS_MAX + 10).map(|number| limiter(&counters, &number.to_string(), start)).collect();
    limiters.iter().for_each(|limiter| assert!(passed(limiter, start) > 0));
    let ask = driver.tick(start);
    assert_eq!((ask.len(), driver.keys()), (ASKS_PER_TICK_MAX, LEASED_KEYS_MAX));
    limiters.iter().for_each(|limiter| assert_eq!(passed(limiter, start), 0));
    driver.tick(start);
    assert_eq!(driver.keys(), LEASED_KEYS_MAX);
    // Those without a lease are limited by their share.
    let pending = limiters.iter().filter(|limiter| limiter.is_pending(start)).count();
    assert_eq!(pending, LEASED_KEYS_MAX);
}

#[test]
fn requests_of_an_address_await_their_share() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = KeyedLimiter::over(Arc::clone(counters.upgrades()), quota(10, 40));
    let key = AddressKey::from(std::net::IpAddr::from([192, 0, 2, 1]));
    assert!(!limiter.awaits_share(&key, start));
    assert_eq!((0..40).take_while(|_| limiter.check(&key, start).is_ok()).count(), 2);
    assert!(limiter.awaits_share(&key, start));
    let ask = only(driver.tick(start));
    assert_eq!(&*ask.key, "q:u::a192.0.2.1");
    driver.answered(&ask.key, ask.sequence, &grant(WHOLE, true), start);
    assert!(!limiter.awaits_share(&key, start));
    assert_eq!((0..40).take_while(|_| limiter.check(&key, start).is_ok()).count(), 38);
    assert!(!limiter.awaits_share(&key, start), "the quota is used up");
}

#[test]
fn a_refund_never_exceeds_what_was_taken() {
    let ((counters, mut driver), start) = (node(), Instant::now());
    let limiter = limiter(&counters, "ann", start);
    passed(&limiter, start);
    let ask = only(driver.tick(start));
    driver.answered(&ask.key, ask.sequence, &grant(WHOLE, true), start);
    passed(&limiter, start);
    let later = start + Duration::from_millis(1_000);
    let ask = only(driver.tick(later));
    passed(&limiter, later);
    driver.answered(&ask.key, ask.sequence, &grant(100_000, true), later);
    // At a tenth, a cell takes 100 ms. One that took 10 ms is given back.
    limiter.refund();
    assert_eq!(passed(&limiter, later + Duration::from_millis(9)), 1);
}

#[test]
fn a_frame_larger_than_the_share_passes_an_unused_one() {
    let ((counters, _driver), start) = (node(), Instant::now());
    let key = MessageKey::of_identity("users", "ann");
    let count = counters.route(&Arc::from("chat")).bytes[0].get(&key, start);
    let bytes = ByteLimiter::over(count, quota(1_000, 1_000));
    assert_eq!(bytes.burst_bytes(start), 50);
    assert!(!bytes.check(1_001, start) && bytes.check(800, start) && !bytes.check(1, start));
    assert!(bytes.await_share(1, start).is_some());
    assert!(bytes.await_share(300, start).is_none(), "the whole quota would not allow it");
    // At a twentieth of the rate, 800 bytes take 16 s.
    let later = start + Duration::from_millis(15_900);
    assert!(!bytes.check(100, later) && bytes.check(40, later));
}

#[test]
fn shares_of_any_quota_do_not_overflow() {
    let start = Instant::now();
    for nodes in [1, 1_000_000] {
        let (counters, mut driver) = node();
        driver.set_nodes(nodes);
        for period in [Duration::from_nanos(1), Duration::MAX] {
            for burst in [1, u32::MAX] {
                let key = MessageKey::of_identity("users", &format!("{period:?} {burst}"));
                let count = counters.route(&Arc::from("chat")).messages.get(&key, start);
                let rate = crate::policy::quota::Rate { count: NonZeroU32::MAX, period };
                let limiter = Limiter::over(count, crate::policy::quota::Quota { rate, ..quota(1, burst) });
                for _ in 0..100 {
                    let _ = (limiter.check(start), limiter.reserve(start));
                }
                limiter.refund();
            }
        }
        for ask in driver.tick(start) {
            driver.answered(
                &ask.key,
                ask.sequence,
                &LeaseGrant { backlog: Duration::MAX, ..grant(WHOLE, true) },
                start,
            );
        }
    }
}

/// A count without a cluster takes as much memory as before: 32 bytes with the counters of its `Arc`.
#[test]
fn counts_are_small() {
    let arc = 2 * size_of::<usize>();
    assert_eq!(arc + size_of::<crate::policy::quota::Count>(), 32);
    assert_eq!(size_of::<crate::policy::quota::LocalCount>(), 8);
    let share = arc + size_of::<crate::policy::lease::share::Share>();
    assert!(share <= 144, "{share}");
    println!("a shared count takes {} bytes", 32 + share);
}
