//! Scenarios of a cluster: what passes, how it is divided, and how often nodes ask.

use std::time::Duration;

use super::cluster::{Cluster, Demand, Random};
use crate::policy::quota::tests::quota;
use crate::policy::quota::{Quota, Rate};

const QUOTAS: [(u32, u32); 5] = [(10, 1), (10, 20), (100, 100), (100, 10), (10_000, 5_000)];
const SIZES: [usize; 4] = [1, 2, 3, 10];

/// Three times the rate of a quota, in cells per 1,000 s.
fn flood(quota: &Quota) -> Demand {
    Demand::Checked(u64::from(quota.rate.count.get()) * 3_000)
}

fn each(mut run: impl FnMut(usize, Quota, Demand, &str)) {
    for nodes in SIZES {
        for (rate, burst) in QUOTAS {
            let quota = quota(rate, burst);
            run(nodes, quota, flood(&quota), &format!("{nodes} nodes, {rate}/s, burst {burst}, dropped"));
            run(nodes, quota, Demand::Delayed(8), &format!("{nodes} nodes, {rate}/s, burst {burst}, delayed"));
        }
    }
}

/// Asserts that in no span more passed than 1.2 times what the quota allows, and one cell for each node.
fn assert_bound(cluster: &Cluster, name: &str) {
    assert_bound_and(cluster, name, 0.0);
}

/// As [`assert_bound`], with a number of additional bursts.
fn assert_bound_and(cluster: &Cluster, name: &str, bursts: f64) {
    let allowed = cluster.allowed() + bursts * f64::from(cluster.quota.burst.get());
    assert_eq!(cluster.kept_max.max(1_000_000), 1_000_000, "{name}: more than the quota is leased");
    assert!(cluster.level_max <= allowed, "{name}: {} beyond the rate, {allowed} allowed", cluster.level_max);
}

#[test]
fn one_busy_node_uses_the_quota() {
    each(|nodes, quota, demand, name| {
        let mut cluster = Cluster::new(nodes, quota, 1);
        cluster.demand(0, demand);
        cluster.run(Duration::from_secs(3));
        assert_bound(&cluster, name);
        cluster.reset();
        cluster.run(Duration::from_secs(10));
        println!("one busy, {name}: {:.3} of the quota, {:.1} asks/s", cluster.ratio(), cluster.asks_per_second());
        assert!((0.8..=1.2).contains(&cluster.ratio()), "{name}: {}", cluster.ratio());
        assert!(cluster.asks_per_second() <= 1.5, "{name}: {}", cluster.asks_per_second());
        assert_bound(&cluster, name);
    });
}

#[test]
fn busy_nodes_get_equal_shares() {
    each(|nodes, quota, demand, name| {
        let mut cluster = Cluster::new(nodes, quota, 2);
        (0..nodes).for_each(|node| cluster.demand(node, demand));
        cluster.run(Duration::from_secs(4));
        assert_bound(&cluster, name);
        cluster.reset();
        cluster.run(Duration::from_secs(10));
        let parts: Vec<f64> = cluster.nodes.values().map(|node| node.passed as f64 / cluster.passed as f64).collect();
        let (least, most) = (parts.iter().copied().fold(1.0, f64::min), parts.iter().copied().fold(0.0, f64::max));
        println!(
            "all busy, {name}: {:.3} of the quota, {:.1} asks/s and node, parts {least:.3} to {most:.3}",
            cluster.ratio(),
            cluster.asks_per_second() / nodes as f64,
        );
        assert!((0.8..=1.2).contains(&cluster.ratio()), "{name}: {}", cluster.ratio());
        let fair = 1.0 / nodes as f64;
        assert!(least >= 0.8 * fair && most <= 1.25 * fair, "{name}: {least} to {most}");
        assert_bound(&cluster, name);
    });
}

/// The rates of clients at the nodes, in hundredths of the quota.
const WITHIN: [&[u64]; 8] =
    [&[55, 15, 15], &[75, 10, 10], &[80, 8, 8], &[30, 30, 30], &[45, 25, 25], &[48, 48], &[90], &[25, 24, 23, 22]];

#[test]
fn clients_within_the_quota_are_not_ended() {
    for (rate, burst) in [(20, 20), (200, 200), (100, 10)] {
        for (index, rates) in WITHIN.iter().enumerate() {
            // With a short burst a queue of the start is left for long where the rest of the quota is small.
            if burst < rate && rates.iter().sum::<u64>() > 90 {
                continue;
            }
            for seed in 0..4 {
                let mut cluster = Cluster::new(rates.len(), quota(rate, burst), 10 * index as u64 + seed);
                let name = format!("{rate}/s, burst {burst}, {rates:?}, seed {seed}");
                for (node, part) in rates.iter().enumerate() {
                    cluster.demand(node, Demand::Closed(u64::from(rate) * part * 10));
                }
                cluster.run(Duration::from_secs(30));
                let closed: Vec<_> = cluster.nodes.values().map(|node| node.closed.is_some()).collect();
                assert!(closed.iter().all(|is_closed| !is_closed), "{name}: {closed:?}");
                cluster.reset();
                cluster.run(Duration::from_secs(10));
                let demand = rates.iter().sum::<u64>() as f64 / 100.0;
                assert!(cluster.ratio() >= 0.98 * demand, "{name}: {} of {demand}", cluster.ratio());
                assert_bound(&cluster, &name);
            }
        }
    }
}

#[test]
fn clients_beyond_the_quota_are_ended() {
    for (rate, burst) in [(20, 20), (200, 200), (100, 10)] {
        for rates in [&[150, 0, 0][..], &[130, 5, 5], &[50, 50, 50], &[120, 20], &[150]] {
            let mut cluster = Cluster::new(rates.len(), quota(rate, burst), 7);
            let name = format!("{rate}/s, burst {burst}, {rates:?}");
            for (node, part) in rates.iter().enumerate() {
                cluster.demand(node, Demand::Closed(u64::from(rate) * part * 10));
            }
            cluster.run(Duration::from_secs(15));
            assert!(cluster.nodes.values().any(|node| node.closed.is_some()), "{name}");
            assert_bound(&cluster, &name);
        }
    }
}

#[test]
fn a_use_below_the_share_without_a_lease_asks_nothing() {
    for nodes in SIZES {
        let mut cluster = Cluster::new(nodes, quota(100, 20), 3);
        // Half of a node's part of a fifth of the rate.
        let cells = 100 * 1_000 / 5 / nodes as u64 / 2;
        (0..nodes).for_each(|node| cluster.demand(node, Demand::Checked(cells)));
        cluster.run(Duration::from_secs(60));
        assert_eq!(cluster.asks, 0, "{nodes} nodes");
        assert!(cluster.ratio() > 0.09, "{nodes} nodes: {}", cluster.ratio());
    }
}

#[test]
fn an_idle_key_returns_its_lease() {
    let mut cluster = Cluster::new(3, quota(100, 20), 4);
    cluster.demand(0, Demand::Delayed(3));
    cluster.run(Duration::from_secs(5));
    assert_eq!(cluster.nodes[&0].driver.keys(), 1);
    cluster.demand(0, Demand::Checked(0));
    cluster.run(Duration::from_secs(3));
    assert_eq!(cluster.nodes[&0].driver.keys(), 0);
    cluster.reset();
    cluster.run(Duration::from_secs(60));
    assert_eq!(cluster.asks, 0);
}

#[test]
fn demand_that_moves_between_nodes_is_no_second_burst() {
    each(|nodes, quota, demand, name| {
        let mut cluster = Cluster::new(nodes, quota, 5);
        let mut random = Random(6);
        cluster.run(Duration::from_millis(500));
        cluster.reset();
        for _ in 0..30 {
            let node = random.below(nodes as u64) as usize;
            cluster.demand(node, demand);
            cluster.run(Duration::from_millis(random.below(1_500)));
            cluster.demand(node, Demand::Checked(0));
        }
        println!(
            "moving, {name}: {:.3} of the quota, {:.1} beyond 1.2 x rate of {:.1} allowed",
            cluster.ratio(),
            cluster.level_max,
            cluster.allowed()
        );
        assert_bound(&cluster, name);
    });
}

#[test]
fn losses_and_random_demand_stay_within_the_bound() {
    for seed in 0..60 {
        let mut random = Random(seed);
        let nodes = SIZES[random.below(4) as usize];
        let (rate, burst) = QUOTAS[random.below(4) as usize];
        let mut cluster = Cluster::new(nodes, quota(rate, burst), seed);
        let (lost, loses) = ([random.below(300), random.below(300)], seed % 3);
        cluster.lost = [lost[0] * u64::from(loses == 2), lost[1] * u64::from(loses > 0)];
        for _ in 0..30 {
            let node = random.below(nodes as u64) as usize;
            let demand = match random.below(3) {
                0 => Demand::Delayed(random.below(20) as usize),
                1 => Demand::Checked(u64::from(rate) * random.below(2_000)),
                _ => Demand::Checked(0),
            };
            cluster.demand(node, demand);
            cluster.run(Duration::from_millis(random.below(2_000)));
        }
        let name = format!("seed {seed}, {nodes} nodes, {rate}/s, burst {burst}, {:?} of 1,000 lost", cluster.lost);
        println!("{name}: {:.1} beyond 1.2 x rate of {:.1} allowed", cluster.level_max, cluster.allowed());
        // While a node waits for an answer that is lost, it reports nothing.
        assert_bound_and(&cluster, &name, f64::from(u8::from(loses > 0)));
    }
}

#[test]
fn nodes_that_die_and_return_stay_within_the_bound() {
    each(|nodes, quota, demand, name| {
        let mut cluster = Cluster::new(nodes, quota, 7);
        let mut random = Random(8);
        (0..nodes).for_each(|node| cluster.demand(node, demand));
        cluster.run(Duration::from_secs(3));
        let mut worst: f64 = 0.0;
        for _ in 0..3 {
            let node = random.below(nodes as u64) as usize;
            cluster.nodes.remove(&node);
            cluster.level_max = 0.0;
            // The others hear of it later.
            cluster.run(Duration::from_secs(3));
            cluster.set_live(nodes.max(2) - 1);
            cluster.run(Duration::from_secs(5));
            cluster.start_node(node);
            cluster.set_live(nodes);
            cluster.demand(node, demand);
            cluster.run(Duration::from_secs(4));
            worst = worst.max(cluster.level_max);
            // One burst that the node did not report, and one that it has again because it has forgotten.
            assert_bound_and(&cluster, name, 1.0);
        }
        println!("dying, {name}: {worst:.1} beyond 1.2 x rate, {:.1} + one burst allowed", cluster.allowed());
    });
}

#[test]
fn without_the_store_each_node_uses_an_equal_share() {
    each(|nodes, quota, demand, name| {
        let mut cluster = Cluster::new(nodes, quota, 9);
        (0..nodes).for_each(|node| cluster.demand(node, demand));
        cluster.run(Duration::from_secs(3));
        assert_bound(&cluster, name);
        cluster.set_store_up(false);
        cluster.run(Duration::from_secs(3));
        cluster.reset();
        cluster.run(Duration::from_secs(10));
        println!("no store, {name}: {:.3} of the quota", cluster.ratio());
        assert!((0.8..=1.01).contains(&cluster.ratio()), "{name}: {}", cluster.ratio());
        assert_eq!(cluster.asks, 0);
        cluster.set_store_up(true);
        cluster.run(Duration::from_secs(3));
        cluster.reset();
        cluster.run(Duration::from_secs(10));
        assert!((0.8..=1.2).contains(&cluster.ratio()), "{name}: {}", cluster.ratio());
        // A burst that was not reported, and a cell more of each node when its share has become an equal one.
        cluster.level_max -= nodes as f64;
        assert_bound_and(&cluster, name, 1.0);
    });
}

/// The others lease the whole quota, and the node that is cut off uses an equal share.
#[test]
fn a_split_has_a_stated_excess() {
    for (nodes, cut) in [(2, 1), (3, 1), (10, 4)] {
        let quota = quota(100, 100);
        let mut cluster = Cluster::new(nodes, quota, 10);
        (0..nodes).for_each(|node| cluster.demand(node, flood(&quota)));
        cluster.run(Duration::from_secs(4));
        (0..cut).for_each(|node| cluster.set_cut(node, true));
        cluster.run(Duration::from_secs(3));
        cluster.reset();
        cluster.run(Duration::from_secs(20));
        let bound = 1.2 + cut as f64 / nodes as f64;
        println!("split, {cut} of {nodes} nodes: {:.3} of the quota, {bound:.3} allowed", cluster.ratio());
        assert!((0.8..=bound).contains(&cluster.ratio()), "{cut} of {nodes}: {}", cluster.ratio());
        (0..cut).for_each(|node| cluster.set_cut(node, false));
        cluster.run(Duration::from_secs(4));
        cluster.reset();
        cluster.run(Duration::from_secs(10));
        assert!((0.8..=1.2).contains(&cluster.ratio()), "{cut} of {nodes}: {}", cluster.ratio());
    }
}

#[test]
fn a_store_that_forgets_leases_the_quota_twice_for_the_time_of_a_lease() {
    for nodes in SIZES {
        let quota = quota(100, 20);
        let mut cluster = Cluster::new(nodes, quota, 11);
        for offset in 0..6 {
            (0..nodes).for_each(|node| cluster.demand(node, Demand::Checked(0)));
            cluster.run(Duration::from_millis(5_000 + 170 * offset));
            cluster.demand(0, flood(&quota));
            cluster.run(Duration::from_secs(3));
            cluster.forget();
            (1..nodes).for_each(|node| cluster.demand(node, flood(&quota)));
            cluster.run(Duration::from_secs(6));
        }
        // Two seconds of the rate, and a burst that the store has forgotten.
        let bound = cluster.allowed() + 2.0 * cluster.rate() + 20.0;
        println!("forgets, {nodes} nodes: {:.1} beyond 1.2 x rate of {bound:.1}", cluster.level_max);
        assert!(cluster.level_max <= bound, "{nodes} nodes: {}", cluster.level_max);
    }
}

/// A quota of one a minute, used nearly as often, is neither delayed for long nor exceeded.
#[test]
fn a_slow_quota_is_not_slower_than_alone() {
    let rate = Rate { period: Duration::from_mins(1), ..quota(1, 1).rate };
    let mut cluster = Cluster::new(3, Quota { rate, ..quota(1, 1) }, 12);
    let start = cluster.now;
    let mut waits = Vec::new();
    for round in 1..6 {
        let sent = cluster.now;
        while cluster.passed < round {
            cluster.demand(0, Demand::Delayed(1));
            cluster.run(Duration::from_millis(200));
        }
        waits.push(cluster.now - sent);
        cluster.demand(0, Demand::Checked(0));
        cluster.run(Duration::from_secs(66));
    }
    assert_eq!(cluster.passed, 5);
    assert!(waits.iter().all(|wait| *wait < Duration::from_secs(1)), "{waits:?}");
    assert!(cluster.now - start > Duration::from_mins(5));
}
