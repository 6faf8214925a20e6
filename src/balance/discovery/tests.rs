use super::super::Discover;
use super::*;

fn servers(addresses: &[(&str, u16)]) -> Vec<ServerConfig> {
    let server =
        |(host, weight): &(&str, u16)| found_server((*host).to_owned(), 9001, NonZeroU16::new(*weight).unwrap());
    addresses.iter().map(server).collect()
}

fn set(addresses: &[(&str, u16)]) -> FoundSet {
    FoundSet::new(servers(addresses))
}

#[test]
fn sources_display_as_written() {
    let addresses = Discover::Addresses { host: "chat.internal".to_owned(), port: 9001 };
    assert_eq!(addresses.to_string(), "dns:chat.internal:9001");
    assert_eq!(Discover::Services("_ws._tcp.chat.internal".to_owned()).to_string(), "srv:_ws._tcp.chat.internal");
    let in_file = Discover::InFile("/etc/tollgate/servers.json".into());
    assert_eq!(in_file.to_string(), "file:/etc/tollgate/servers.json");
    assert!(addresses.is_looked_up() && !in_file.is_looked_up());
}

#[test]
fn sets_do_not_depend_on_the_order_of_answers() {
    let found = set(&[("192.0.2.2", 1), ("2001:db8::1", 1), ("192.0.2.1", 1)]);
    assert_eq!(found, set(&[("192.0.2.1", 1), ("192.0.2.2", 1), ("2001:db8::1", 1), ("192.0.2.2", 1)]));
    assert_ne!(found, set(&[("192.0.2.1", 1), ("192.0.2.2", 1)]));
    assert_ne!(found, set(&[("192.0.2.1", 2), ("192.0.2.2", 1), ("2001:db8::1", 1)]));
    // Of several weights of one address, the largest one holds.
    assert_eq!(set(&[("192.0.2.1", 2), ("192.0.2.1", 5)]), set(&[("192.0.2.1", 5)]));
}

#[test]
fn servers_beyond_the_limit_are_left_out_whatever_the_order_is() {
    let all: Vec<ServerConfig> = (0..300)
        .map(|number| found_server(format!("10.0.{}.{}", number / 100, number % 100), 1, NonZeroU16::MIN))
        .collect();
    let found = FoundSet::new(all.clone());
    assert_eq!((found.servers.len(), found.left_out), (FOUND_MAX, 300 - FOUND_MAX));
    assert_eq!(found, FoundSet::new(all.into_iter().rev().collect()));
}

#[test]
fn addresses_that_are_not_of_one_machine_are_left_out() {
    let left_out = ["0.0.0.0", "224.0.0.1", "255.255.255.255", "::", "ff02::1"];
    let kept = ["10.0.0.1", "127.0.0.1", "::1", "host.internal"];
    let found = set(&left_out.into_iter().chain(kept).map(|host| (host, 1)).collect::<Vec<_>>());
    assert_eq!(found, set(&kept.map(|host| (host, 1))));
    assert_eq!(found.servers.len(), kept.len());
}

/// The priority, the weight and the host of each record, and the hosts and weights that are used.
#[test]
fn only_the_lowest_priority_of_services_is_used_with_its_weights() {
    let tables: &[(&[(u16, u16, &str)], &[(&str, u16)])] = &[
        (&[], &[]),
        (&[(10, 5, "a"), (20, 5, "b"), (10, 1, "c")], &[("a", 5), ("c", 1)]),
        (&[(0, 0, "a"), (0, 0, "b")], &[("a", 1), ("b", 1)]),
        (&[(0, 0, "a"), (0, 100, "b")], &[("a", 1), ("b", 100)]),
        (&[(0, 65_535, "a"), (0, 32_768, "b"), (0, 1, "c")], &[("a", 1000), ("b", 500), ("c", 1)]),
        // This target says that there is no service, so the next priority counts.
        (&[(0, 1, "."), (1, 7, "a")], &[("a", 7)]),
        (&[(0, 1, ".")], &[]),
    ];
    for (records, expected) in tables {
        let record = |(priority, weight, host): &(u16, u16, &str)| Service {
            priority: *priority,
            weight: *weight,
            host: (*host).to_owned(),
            port: 9001,
        };
        let used = preferred(records.iter().map(record).collect());
        let used: Vec<_> = used.iter().map(|(service, weight)| (service.host.as_str(), weight.get())).collect();
        assert_eq!(used, *expected, "{records:?}");
    }
}

/// An event, and what follows from it: whether the set is new, the line of the log, and the least and the longest pause
/// in milliseconds.
enum Step {
    Finds(&'static [(&'static str, u16)], u64),
    Fails,
}

#[test]
fn look_ups_follow_the_ttl_and_back_off_while_they_fail() {
    use LookUpChange::{Fails as Begins, Works};
    use Step::{Fails, Finds};
    const A: &[(&str, u16)] = &[("192.0.2.1", 1)];
    const B: &[(&str, u16)] = &[("192.0.2.1", 1), ("192.0.2.2", 1)];
    let tables: &[&[(Step, bool, Option<LookUpChange>, (u64, u64))]] = &[
        &[
            (Finds(A, 30_000), true, None, (30_000, 33_000)),
            (Finds(A, 30_000), false, None, (30_000, 33_000)),
            (Finds(B, 0), true, None, (1_000, 1_100)),
            (Finds(A, 86_400_000), true, None, (300_000, 330_000)),
        ],
        // A failure keeps the set, and is reported once until the next success.
        &[
            (Finds(A, 5_000), true, None, (5_000, 5_500)),
            (Fails, false, Some(Begins), (500, 1_000)),
            (Fails, false, None, (1_000, 2_000)),
            (Fails, false, None, (2_000, 4_000)),
            (Fails, false, None, (4_000, 8_000)),
            (Fails, false, None, (8_000, 16_000)),
            (Fails, false, None, (15_000, 30_000)),
            (Fails, false, None, (15_000, 30_000)),
            (Finds(A, 5_000), false, Some(Works), (5_000, 5_500)),
            (Fails, false, Some(Begins), (500, 1_000)),
            (Finds(B, 5_000), true, Some(Works), (5_000, 5_500)),
        ],
        &[(Fails, false, Some(Begins), (500, 1_000)), (Finds(A, 5_000), true, Some(Works), (5_000, 5_500))],
    ];
    for table in tables {
        for (random, at_end) in [(0, false), (u32::MAX, true)] {
            let mut look_ups = LookUps::default();
            for (index, (step, is_new_set, change, (least, longest))) in table.iter().enumerate() {
                let looked_up = match step {
                    Finds(addresses, ttl) => look_ups.succeed(set(addresses), Duration::from_millis(*ttl), random),
                    Fails => look_ups.fail(random),
                };
                let pause = Duration::from_millis(if at_end { *longest } else { *least });
                assert_eq!(looked_up, LookedUp { is_new_set: *is_new_set, change: *change, pause }, "{index}");
            }
        }
    }
}

#[test]
fn the_last_set_stays_while_look_ups_fail_however_long() {
    let mut look_ups = LookUps::default();
    assert_eq!(look_ups.set(), None);
    look_ups.succeed(set(&[("192.0.2.1", 1)]), TTL_MIN, 0);
    for _ in 0..100 {
        assert!(look_ups.fail(u32::MAX).pause <= PAUSE_MAX);
    }
    assert_eq!((look_ups.set(), look_ups.failures()), (Some(&set(&[("192.0.2.1", 1)])), 100));
}
