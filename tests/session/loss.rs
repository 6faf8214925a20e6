//! A lost upstream whose client is closed later.

use super::*;

const SPREAD: u64 = 7 * SECOND;

/// The client of a lost upstream is closed after seven seconds.
fn spread() -> Setup {
    Setup { loss_delay: Duration::from_millis(SPREAD), ..lenient() }
}

const GONE: &str = "close 1014 upstream went away";

fn lost() -> Option<Outcome> {
    end(ClosedBy::Upstream, 1014, CloseReason::Disconnected(Upstream))
}

#[test]
fn the_client_is_closed_at_the_time_that_the_owner_sets() {
    let events = [text(Upstream, "x"), Disconnect(Upstream), Pass(SPREAD - 1)];
    check(spread(), &events, &["text x"], &[], None);
    let events = [&events[..], &[Pass(1)]].concat();
    check(spread(), &events, &["text x", GONE], &[], None);
    check(spread(), &[&events[..], &[close(Client, 1014, "")]].concat(), &["text x", GONE], &[], lost());
    let relay = play(spread(), &events[..2]);
    assert!(relay.session.is_upstream_lost() && !relay.session.is_closing());
    assert_eq!(relay.session.next_deadline().map(|(_, name)| name), Some("reconnect_spread"));
}

#[test]
fn the_code_is_that_of_the_upstream_for_every_kind_of_loss() {
    let restart = || Setup {
        loss: tollgate::balance::UpstreamLoss { close_code: CloseCode::SERVICE_RESTART, ..Default::default() },
        ..spread().with(|limits| limits.upstream_ping_interval = Some(Duration::from_secs(60)))
    };
    let table: [(&[Event], &str, &[&str]); 3] = [
        (&[Disconnect(Upstream), Pass(SPREAD)], "close 1012 upstream went away", &[]),
        (&[Block(Upstream), Pass(30 * SECOND + SPREAD)], "close 1012 upstream does not read", &[]),
        // The upstream may still read a Close, whose answer is not awaited.
        (&[Pass(70 * SECOND + SPREAD)], "close 1012 no pong", &["our ping 1", "close 1001 no pong"]),
    ];
    for (events, client, upstream) in table {
        check(restart(), events, &[client], upstream, None);
        let early = [&events[..events.len() - 1], &[]].concat();
        check(restart(), &early, &[], &[], None);
    }
}

#[test]
fn data_of_the_client_is_discarded_and_not_counted() {
    let events = [text(Client, "1"), Disconnect(Upstream), text(Client, "2"), from(Client, BINARY, "3"), Pass(SPREAD)];
    let relay = play(spread(), &events);
    assert_eq!((shown(&relay, Client), shown(&relay, Upstream)), (vec![GONE.to_owned()], vec!["text 1".to_owned()]));
    assert_eq!(relay.session.counts().client.messages, 1);
}

#[test]
fn pings_of_the_client_are_answered() {
    let ping = |payload| from(Client, FIN | PING, payload);
    let events = [Disconnect(Upstream), ping("a"), ping("b"), from(Client, FIN | PONG, "c"), Pass(SPREAD)];
    check(spread(), &events, &["pong a", "pong b", GONE], &[], None);
    // They count as before.
    let limited =
        Setup { loss_delay: Duration::from_secs(7), ..lenient().with(|limits| limits.overhead = quota(1, 2)) };
    let events = [Disconnect(Upstream), ping("a"), ping("b"), ping("c")];
    let frame_rate = ["pong a", "pong b", "close 1008 frame rate exceeded"];
    check(limited, &events, &frame_rate, &[], end(ClosedBy::Tollgate, 1008, CloseReason::OverheadRate));
}

#[test]
fn a_close_of_the_client_is_answered_at_once() {
    let events = [Disconnect(Upstream), close(Client, 4000, "bye")];
    check(spread(), &events, &["close 4000"], &[], end(ClosedBy::Client, 4000, CloseReason::Closed));
}

#[test]
fn a_client_that_disconnects_ends_the_session_at_once() {
    let events = [Disconnect(Upstream), Disconnect(Client)];
    check(spread(), &events, &[], &[], end(ClosedBy::Client, 1001, CloseReason::Disconnected(Client)));
}

#[test]
fn other_ends_come_before_the_loss() {
    let expiring = Setup { expires_after: Some(Duration::from_secs(3)), ..spread() };
    let idle = spread().with(|limits| limits.idle_timeout = Some(Duration::from_secs(3)));
    let table: [(Setup, Event, &str); 5] = [
        (expiring, Pass(3 * SECOND), "close 1008 token expired"),
        (spread(), Drain(0), "close 1001 going away"),
        (spread(), Command(CloseCode(4001), "kicked"), "close 4001 kicked"),
        (spread(), Revoke(CloseReason::Revoked), "close 1008 revoked"),
        // A client whose upstream is lost is not idle.
        (idle, Pass(SPREAD), GONE),
    ];
    for (setup, event, expected) in table {
        check(setup, &[Disconnect(Upstream), event, Pass(0)], &[expected], &[], None);
    }
    let pinged = spread().with(|limits| limits.ping_interval = Some(Duration::from_secs(3)));
    check(pinged, &[Disconnect(Upstream), Pass(4 * SECOND)], &["our ping 1"], &[], None);
}

#[test]
fn a_client_inside_a_frame_is_cut_at_its_time() {
    let events =
        [begin(Upstream, FIN | TEXT, 9, "x"), Disconnect(Upstream), from(Client, FIN | PING, ""), Pass(SPREAD - 1)];
    check(spread(), &events, &["text x(1 of 9)"], &[], None);
    check(spread(), &[&events[..], &[Pass(1)]].concat(), &["text x(1 of 9)"], &[], lost());
}

#[test]
fn a_session_that_is_closing_does_not_wait() {
    let events = [Command(CloseCode(4001), "x"), Disconnect(Upstream), close(Client, 4001, "")];
    let by_command = end(ClosedBy::Tollgate, 4001, CloseReason::Command);
    check(spread(), &events, &["close 4001 x"], &["close 4001 x"], by_command);
}

#[test]
fn a_delayed_client_is_read_after_the_loss() {
    let setup = || Setup { loss_delay: Duration::from_secs(7), ..lenient().rate(1, 1, Delay) };
    let events = [text(Client, "1"), text(Client, "2"), Disconnect(Upstream)];
    let relay = play(setup(), &events);
    assert!(!relay.session.waiting(Client));
    check(setup(), &[&events[..], &[close(Client, 1000, "")]].concat(), &["close 1000"], &["text 1"], {
        end(ClosedBy::Client, 1000, CloseReason::Closed)
    });
}

#[test]
fn the_loss_is_a_part_of_the_exported_state() {
    let mut relay = play(spread(), &[Disconnect(Upstream), Pass(SECOND)]);
    relay.reimport();
    relay.pass(Duration::from_millis(SPREAD - SECOND - 1));
    assert_eq!(shown(&relay, Client), Vec::<String>::new());
    relay.pass(Duration::from_millis(1));
    assert_eq!(shown(&relay, Client), [GONE]);
}
