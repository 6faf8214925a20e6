//! Clients that are slower than their upstream.

use super::*;

fn closing() -> Setup {
    lenient().with(|limits| limits.on_slow_client = OnSlowClient::Close)
}

fn dropping() -> Setup {
    lenient().with(|limits| limits.on_slow_client = OnSlowClient::DropOldest { buffer_bytes: 1 << 20 })
}

#[test]
fn a_client_is_closed_when_data_has_waited_longer_than_write_timeout() {
    // It reads slowly: it is blocked again and again.
    let slowly = [Block(Client), Behind, Pass(20 * SECOND), Block(Client), Pass(10 * SECOND - 1)];
    check(closing(), &slowly, &[], &[], None);
    let closed = "close 1008 slow consumer";
    check(closing(), &[&slowly[..], &[Pass(1)]].concat(), &[closed], &[closed], None);
    let events =
        [&slowly[..], &[Pass(1), Unblock(Client), close(Client, 1008, ""), close(Upstream, 1008, "")]].concat();
    check(closing(), &events, &[closed], &[closed], end(ClosedBy::Tollgate, 1008, CloseReason::SlowClient));
}

#[test]
fn a_client_that_gets_its_data_in_time_stays() {
    let step = [Block(Client), Behind, Pass(29 * SECOND), Block(Client), Behind, Pass(29 * SECOND)];
    let events = [&step[..], &step, &[Unblock(Client), CaughtUp, Pass(1_000 * SECOND)]].concat();
    check(closing(), &events, &[], &[], None);
    // Without the limit the time has no effect.
    check(lenient(), &[Behind, Pass(1_000 * SECOND)], &[], &[], None);
}

#[test]
fn a_client_that_accepts_nothing_is_given_up_as_before() {
    for setup in [closing(), dropping()] {
        let upstream = ["close 1001 client does not read"];
        check(setup, &[Block(Client), Behind, Pass(30 * SECOND)], &[], &upstream, None);
    }
}

#[test]
fn where_limits_are_only_reported_each_write_timeout_counts() {
    let relay = play(closing().reporting(), &[Behind, Pass(95 * SECOND), CaughtUp, Pass(60 * SECOND)]);
    let reported: Vec<_> = relay.session.reported().map(|(limit, count)| (limit.label(), count)).collect();
    assert_eq!((reported, relay.outcome), (vec![("slow_client", 3)], None));
}

#[test]
fn messages_are_queued_only_where_they_may_be_dropped() {
    let queued = |setup: Setup| play(setup, &[]).session.backlog_max_bytes();
    assert_eq!(queued(dropping()), Some(1 << 20));
    assert_eq!(queued(Setup { compressed: true, ..dropping() }), None);
    assert_eq!((queued(dropping().reporting()), queued(closing()), queued(lenient())), (None, None, None));
    assert_eq!(play(dropping(), &[Command(CloseCode(4000), "")]).session.backlog_max_bytes(), None);
    assert!(!dropping().limits.allow_compression() && dropping().reporting().limits.allow_compression());
    assert!(closing().limits.allow_compression());
}

#[test]
fn the_age_of_data_is_measured_again_after_a_change_of_the_treatment() {
    let mut relay = play(closing(), &[Behind, Pass(20 * SECOND)]);
    relay.set_limits(lenient().limits);
    relay.pass(Duration::from_secs(20));
    relay.set_limits(closing().limits);
    relay.pass(Duration::from_secs(100));
    assert!(!relay.session.is_closing());
}
