use super::*;

const CONFIG: HealthConfig = HealthConfig {
    checks: None,
    eject_after: NonZeroU32::new(3),
    eject_max_percent: 50,
    slow_start: Duration::from_secs(30),
};
const SKIP_MS: u64 = SKIP_FOR.as_millis() as u64;
const EJECT_MS: u64 = EJECT_FOR.as_millis() as u64;
const PATIENCE: Patience = Patience { connect_ms: 250, answer_ms: 2_500 };
const NO_SUSPECT: Patience = Patience { connect_ms: u64::MAX, answer_ms: u64::MAX };

/// An event at a time in milliseconds, with the expected change, or the expected standing.
enum Step {
    Connect(u64, Option<Change>),
    Answer(u64, Option<Change>),
    /// The begin and the end of a request without an answer.
    Late(u64, u64, Option<Change>),
    Connected(u64),
    Succeed(u64, Option<Change>),
    Is(u64, Standing),
    /// Whether a request may try the server.
    Claims(u64, bool),
    /// The share of the weight.
    Share(u64, u32),
}

fn ejected(failures: u32, seconds: u64) -> Option<Change> {
    Some(Change::Ejected { failures, time: Duration::from_secs(seconds) })
}

fn recovered(failures: u64) -> Option<Change> {
    Some(Change::Recovered { failures })
}

fn check(config: &HealthConfig, may_eject: bool, steps: &[Step]) {
    let health = Health::default();
    for (number, step) in steps.iter().enumerate() {
        let fail = |failure, now| health.fail(failure, now, (config, PATIENCE), || may_eject, || true);
        match step {
            Step::Connect(now, expected) => assert_eq!(fail(Failure::Connect, *now), *expected, "step {number}"),
            Step::Answer(now, expected) => assert_eq!(fail(Failure::Answer, *now), *expected, "step {number}"),
            Step::Late(since_ms, now, expected) => {
                assert_eq!(fail(Failure::Late { since_ms: *since_ms }, *now), *expected, "step {number}");
            }
            Step::Connected(now) => health.connected(*now),
            Step::Succeed(now, expected) => assert_eq!(health.succeed(*now, || true), *expected, "step {number}"),
            Step::Is(now, expected) => assert_eq!(health.standing(*now, NO_SUSPECT), *expected, "step {number}"),
            Step::Claims(now, expected) => assert_eq!(health.claim(*now), *expected, "step {number}"),
            Step::Share(now, expected) => {
                assert_eq!(health.weight_share(*now, config.slow_start), *expected, "step {number}");
            }
        }
    }
}

#[test]
fn a_server_that_accepts_no_connection_is_skipped_and_tried_again_by_one_request() {
    use Standing::{Good, Skipped};
    use Step::{Claims, Connect, Connected, Is, Share, Succeed};
    let again = 1_000 + SKIP_MS;
    check(
        &CONFIG,
        true,
        &[
            Is(0, Good),
            Claims(0, true),
            Connect(1_000, Some(Change::Failed)),
            Is(1_000, Skipped),
            Is(again - 1, Skipped),
            Is(again, Good),
            Claims(again, true),
            Is(again, Skipped),
            Claims(again, false),
            // The request that tried it never ended.
            Claims(again + SKIP_MS, true),
            Connected(again + SKIP_MS),
            Is(again + SKIP_MS, Good),
            Share(again + SKIP_MS, 100),
            Succeed(again + SKIP_MS, recovered(1)),
            Claims(again + SKIP_MS, true),
            Claims(again + SKIP_MS, true),
        ],
    );
}

#[test]
fn consecutive_failures_eject_a_server_for_growing_times() {
    use Standing::{Ejected, Good};
    use Step::{Answer, Claims, Connect, Is, Share, Succeed};
    let mut steps = vec![
        Answer(0, Some(Change::Failed)),
        Answer(0, None),
        Is(0, Good),
        Succeed(1, recovered(2)),
        Share(1, 1000),
        Connect(1_002, Some(Change::Failed)),
        Answer(1_003, None),
        Answer(1_004, ejected(3, 10)),
        Is(1_004, Ejected),
        // Requests that began before.
        Answer(1_005, None),
        Answer(1_004 + EJECT_MS - 1, None),
        Is(1_004 + EJECT_MS, Good),
        Claims(1_004 + EJECT_MS, true),
        Is(1_004 + EJECT_MS, Ejected),
    ];
    let (mut now, mut failures) = (1_004 + EJECT_MS, 5);
    for seconds in [20, 40, 80, 160, 300, 300] {
        failures += 1;
        steps.extend([Answer(now, ejected(failures, seconds)), Is(now + seconds * 1000 - 1, Ejected)]);
        now += seconds * 1000;
        steps.extend([Is(now, Good), Claims(now, true), Claims(now, false)]);
    }
    steps.extend([
        Succeed(now, recovered(u64::from(failures))),
        Is(now, Good),
        Share(now, 100),
        Share(now + 15_000, 500),
        Share(now + 30_000, 1000),
    ]);
    // It soon fails again, and after a long time without an ejection it begins anew.
    let (soon, late) = (now + 60_000, now + 60_000 + 300_000 + 300_000);
    for (at, seconds) in [(soon, 300), (late, 10)] {
        steps.extend([Answer(at, Some(Change::Failed)), Answer(at, None), Answer(at, ejected(3, seconds))]);
        steps.push(Succeed(at, recovered(3)));
    }
    check(&CONFIG, true, &steps);
}

#[test]
fn a_server_that_may_not_be_ejected_still_gets_requests() {
    use Standing::{Good, Skipped};
    use Step::{Answer, Connect, Is, Succeed};
    let steps = || {
        [
            Answer(0, Some(Change::Failed)),
            Answer(0, None),
            Answer(0, None),
            Answer(0, None),
            Is(0, Good),
            Connect(0, None),
            Is(0, Skipped),
            Succeed(1, recovered(5)),
        ]
    };
    check(&CONFIG, false, &steps());
    check(&HealthConfig { eject_after: None, ..CONFIG }, true, &steps());
}

#[test]
fn no_slow_start_gives_the_whole_weight_at_once() {
    let health = Health::default();
    health.start_slowly(5);
    assert_eq!(health.weight_share(5, Duration::ZERO), WHOLE);
    assert_eq!(health.weight_share(5, Duration::from_secs(1)), 100);
    assert_eq!(health.weight_share(u64::MAX, Duration::from_secs(1)), WHOLE);
}

/// A server that swallows connections is passed over before the first attempt times out, and gets requests again once
/// the attempt has ended.
#[test]
fn an_attempt_to_connect_that_waits_makes_a_server_suspect() {
    let health = Health::default();
    let (first, second) = (health.connecting(1_000), health.connecting(1_200));
    for (now, expected) in [(1_000, Standing::Good), (1_249, Standing::Good), (1_250, Standing::Skipped)] {
        assert_eq!(health.standing(now, PATIENCE), expected, "{now}");
    }
    drop(first);
    assert_eq!(health.standing(1_250, PATIENCE), Standing::Good);
    drop((second, health.connecting(2_000)));
    assert_eq!(health.standing(9_000, PATIENCE), Standing::Good);
}

/// A server that accepts connections and never answers is passed over, unless it answers another request meanwhile.
#[test]
fn a_request_that_waits_for_its_answer_makes_a_server_suspect() {
    let health = Health::default();
    let waiting = health.answering(1_000);
    for (now, expected) in [(3_499, Standing::Good), (3_500, Standing::Skipped)] {
        assert_eq!(health.standing(now, PATIENCE), expected, "{now}");
    }
    assert_eq!(health.succeed(3_600, || true), None);
    assert_eq!(health.standing(9_000, PATIENCE), Standing::Good);
    drop((waiting, health.answering(10_000)));
    assert_eq!(health.standing(20_000, PATIENCE), Standing::Good);
}

/// A frozen server still accepts connections. It stays passed over after a request that got no answer, until one does.
#[test]
fn a_server_that_sends_no_answer_is_skipped_and_tried_again_by_one_request() {
    use Standing::{Good, Skipped};
    use Step::{Claims, Connected, Is, Late, Share, Succeed};
    let again = 20_000 + SKIP_MS;
    let steps = [
        Succeed(9_999, None),
        Late(10_000, 20_000, Some(Change::Failed)),
        Is(20_000, Skipped),
        Connected(20_001),
        Is(again - 1, Skipped),
        Is(again, Good),
        Claims(again, true),
        Connected(again),
        Is(again, Skipped),
        Claims(again, false),
        Succeed(again + 1, recovered(1)),
        Is(again + 1, Good),
        Share(again + 1, 100),
    ];
    check(&CONFIG, true, &steps);
}

/// A client cannot have a server passed over by a path that it answers late, or by leaving soon.
#[test]
fn a_late_answer_passes_no_server_over_that_answers_others() {
    use Standing::Good;
    use Step::{Is, Late, Succeed};
    let busy = [Succeed(10_000, None), Late(10_000, 20_000, Some(Change::Failed)), Is(20_000, Good)];
    check(&CONFIG, true, &busy);
    let soon = [Late(10_000, 12_499, Some(Change::Failed)), Is(12_499, Good), Late(10_000, 12_500, None)];
    check(&CONFIG, true, &soon);
}

/// The requests of one client fail in the pauses between those of others.
#[test]
fn failures_between_successes_eject_no_server_unless_they_last() {
    use Step::{Answer, Connect, Succeed};
    let run_ms = u64::try_from(RUN_MIN.as_millis()).unwrap();
    let short = [
        Succeed(10_000, None),
        Answer(10_010, Some(Change::Failed)),
        Answer(10_011, None),
        Answer(10_012, None),
        Answer(10_013, None),
        Answer(10_009 + run_ms, None),
        Succeed(10_010 + run_ms, recovered(5)),
    ];
    check(&CONFIG, true, &short);
    let long = [
        Succeed(10_000, None),
        Answer(10_010, Some(Change::Failed)),
        Answer(10_011, None),
        Answer(10_010 + run_ms, ejected(3, 10)),
    ];
    check(&CONFIG, true, &long);
    let idle = [
        Succeed(10_000, None),
        Answer(11_000, Some(Change::Failed)),
        Answer(11_001, None),
        Answer(11_002, ejected(3, 10)),
    ];
    check(&CONFIG, true, &idle);
    // No client can cause a connection to fail.
    let refused = [
        Succeed(10_000, None),
        Connect(10_001, Some(Change::Failed)),
        Connect(10_002, None),
        Connect(10_003, ejected(3, 10)),
    ];
    check(&CONFIG, true, &refused);
}

#[test]
fn a_change_is_reported_once_and_when_a_line_is_allowed() {
    let health = Health::default();
    let config = HealthConfig { eject_after: None, ..CONFIG };
    let fail = |may_log| health.fail(Failure::Answer, 0, (&config, PATIENCE), || true, || may_log);
    assert_eq!(health.succeed(0, || true), None, "it never failed");
    assert_eq!(fail(false), None, "no line is allowed");
    assert_eq!([fail(true), fail(true), fail(true)], [Some(Change::Failed), None, None]);
    assert_eq!(health.succeed(0, || false), None);
    assert!(health.has_failed(), "the recovery is still to be reported");
    assert_eq!(health.succeed(0, || true), recovered(4));
    assert_eq!(health.succeed(0, || true), None);
    assert_eq!(fail(true), Some(Change::Failed));
    assert_eq!(health.succeed(0, || true), recovered(1));
}

/// A server whose sessions end at once is ejected although it answers each upgrade, and again after its trial. It
/// recovers once a session has outlived them.
#[test]
fn early_ends_eject_a_server_until_a_session_outlives_them() {
    let health = Health::default();
    let opens = |now_ms| {
        health.opened(now_ms);
        health.succeed(now_ms, || true)
    };
    let ends = |opened_ms, now_ms| health.ended_early(opened_ms, now_ms, &CONFIG, || true);
    for now_ms in [1_000, 1_500, 2_000, 2_500] {
        assert_eq!((opens(now_ms), ends(now_ms, now_ms + 10)), (None, None));
    }
    assert_eq!((opens(3_010), ends(3_010, 3_020)), (None, ejected(5, 10)));
    assert_eq!(health.standing(3_020, NO_SUSPECT), Standing::Ejected);
    // The trial begins, and ends at once.
    let trial = 3_020 + EJECT_MS;
    assert!(health.claim(trial));
    assert_eq!((opens(trial), ends(trial, trial + 10)), (None, ejected(6, 20)));
    // The next one stays open. Another one follows, and finds that it did.
    let trial = trial + 10 + 2 * EJECT_MS;
    assert!(health.claim(trial));
    assert_eq!((opens(trial), health.standing(trial, NO_SUSPECT)), (None, Standing::Ejected));
    let next = trial + SKIP_MS;
    assert!(health.claim(next));
    assert_eq!((opens(next), health.standing(next, NO_SUSPECT)), (recovered(11), Standing::Good));
}

/// One client cannot eject a server at which the sessions of others stay open, and `eject_after = "off"` ejects none.
#[test]
fn early_ends_beside_sessions_that_stay_open_eject_no_server() {
    for (config, others) in [(CONFIG, true), (HealthConfig { eject_after: None, ..CONFIG }, false)] {
        let health = Health::default();
        for now_ms in (0..60_000).step_by(100) {
            health.opened(now_ms);
            assert_eq!(health.ended_early(now_ms, now_ms + 5, &config, || true), None, "{now_ms}");
            if others {
                health.opened(now_ms + 10);
            }
        }
        assert!(!health.is_ejected() && !health.has_failed());
    }
}
