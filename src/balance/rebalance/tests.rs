//! Tests of `rebalance`: tables, and properties of every plan.

use proptest::prelude::*;

use super::*;

fn equal(sessions: &[u64]) -> Vec<ServerLoad> {
    sessions.iter().map(|sessions| ServerLoad { sessions: *sessions, weight: 1, max_sessions: None }).collect()
}

#[test]
fn overloaded_servers_shed_down_to_their_share() {
    let cases: [(&[u64], u64, &[u64]); 10] = [
        (&[100, 100, 0], 1000, &[33, 33, 0]),
        (&[100, 100, 0], 10, &[5, 5, 0]),
        (&[100, 100, 0], 1, &[0, 1, 0]),
        (&[100, 100, 0], 0, &[0, 0, 0]),
        // Within the tolerance of a tenth.
        (&[109, 100, 91], 1000, &[0, 0, 0]),
        (&[112, 100, 88], 1000, &[12, 0, 0]),
        // Only the first exceeds its share by a tenth, and the others take all of it.
        (&[150, 105, 45], 1000, &[50, 0, 0]),
        (&[5], 5, &[0]),
        (&[2, 1], 5, &[0, 0]),
        (&[], 5, &[]),
    ];
    for (sessions, budget, expected) in cases {
        assert_eq!(plan(&equal(sessions), budget), expected, "{sessions:?} {budget}");
    }
}

#[test]
fn shares_follow_weights_and_limits() {
    let load = |sessions, weight, max_sessions| ServerLoad { sessions, weight, max_sessions };
    // A third and two thirds.
    assert_eq!(plan(&[load(100, 1, None), load(200, 2, None)], 99), [0, 0]);
    assert_eq!(plan(&[load(150, 1, None), load(150, 2, None)], 99), [50, 0]);
    // A full server takes none, however few it has.
    assert_eq!(plan(&[load(900, 1, None), load(100, 1, Some(100))], 99), [0, 0]);
    assert_eq!(plan(&[load(900, 1, None), load(50, 1, Some(200))], 99), [99, 0]);
    assert_eq!(plan(&[load(600, 1, None), load(100, 1, Some(100)), load(200, 1, None)], 999), [200, 0, 0]);
    // A limit that was lowered.
    assert_eq!(plan(&[load(100, 1, Some(40)), load(100, 1, None)], 999), [60, 0]);
    assert_eq!(plan(&[load(100, 1, Some(40)), load(100, 1, Some(50))], 999), [0, 0]);
    // During its slow start, a server has a part of its weight.
    assert_eq!(plan(&[load(110, 1000, None), load(0, 100, None)], 999), [0, 0]);
    assert_eq!(plan(&[load(150, 1000, None), load(0, 500, None)], 999), [50, 0]);
    assert_eq!(plan(&[load(10, 0, None), load(10, 0, None)], 999), [0, 0]);
}

#[test]
fn a_budget_is_a_share_of_the_pool() {
    let rebalance = |percent| Rebalance { percent, period: Duration::from_secs(60) };
    for (percent, sessions, expected) in
        [(5, 1000, 50), (5, 19, 1), (5, 0, 1), (100, 7, 7), (1, u64::MAX, u64::MAX / 100)]
    {
        assert_eq!(rebalance(percent).budget(sessions), expected, "{percent} % of {sessions}");
    }
}

fn loads() -> impl Strategy<Value = Vec<ServerLoad>> {
    let max = prop_oneof![3 => Just(None), 1 => (0_u64..300).prop_map(Some)];
    let load = (0_u64..300, 0_u64..5000, max);
    let load = load.prop_map(|(sessions, weight, max_sessions)| ServerLoad { sessions, weight, max_sessions });
    prop::collection::vec(load, 0..20)
}

proptest! {
    #[test]
    fn a_plan_never_overshoots(servers in loads(), budget in 0_u64..3000) {
        let (shed, shares) = (plan(&servers, budget), shares(&servers));
        prop_assert_eq!(shed.len(), servers.len());
        prop_assert!(shed.iter().sum::<u64>() <= budget);
        for ((server, shed), share) in servers.iter().zip(&shed).zip(&shares) {
            prop_assert!(*shed == 0 || server.sessions - shed >= *share, "{:?} {} {}", server, shed, share);
            prop_assert!(server.max_sessions.is_none_or(|max| *share <= max));
        }
        let below = servers.iter().zip(&shares).map(|(server, share)| share.saturating_sub(server.sessions)).sum::<u64>();
        prop_assert!(shed.iter().sum::<u64>() <= below, "the others take all of it");
    }

    /// As long as the sessions that are shed go to the server that is the least full, as `least_sessions` chooses.
    #[test]
    fn plans_converge(mut servers in loads(), percent in 1_u8..=100) {
        for server in &mut servers {
            server.weight = server.weight.max(1);
        }
        let total: u64 = servers.iter().map(|server| server.sessions).sum();
        let budget = Rebalance { percent, period: Duration::from_secs(60) }.budget(total);
        let mut rounds = 0;
        loop {
            let shed = plan(&servers, budget);
            let mut moved: u64 = shed.iter().sum();
            if moved == 0 {
                break;
            }
            for (server, shed) in servers.iter_mut().zip(&shed) {
                server.sessions -= shed;
            }
            while moved > 0 {
                let shares = shares(&servers);
                let least = servers.iter_mut().zip(&shares).filter(|(server, share)| server.sessions < **share);
                let Some((server, _)) = least.max_by_key(|(server, share)| **share - server.sessions) else { break };
                server.sessions += 1;
                moved -= 1;
            }
            rounds += 1;
            prop_assert!(rounds <= 400, "{:?}", servers);
        }
    }
}
