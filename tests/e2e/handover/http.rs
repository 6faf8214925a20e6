//! Connections that carry ordinary requests, across an upgrade of the process: each ends at a response boundary.

use super::Stage;
use crate::support::exchange::request;
use crate::support::session::Client;
use crate::support::setup::Setup;

/// The process before answers the requests in progress, and does not hold up the upgrade. Sessions beside them move.
#[test]
fn requests_in_progress_are_answered_by_the_process_before() {
    let mut stage = Stage::new(Setup::new().route("http = true"));
    let mut session = stage.open();
    let mut kept = Client::connect(&stage.gate);
    kept.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = stage.upstream.accept();
    server.message();
    server.respond("Connection: close\r\n", "");
    kept.message();
    let mut waiting = Client::connect(&stage.gate);
    waiting.send(request("GET", "/open/poll", "", "").as_bytes());
    let mut poll = stage.upstream.accept();
    poll.message();
    let (earlier, answer) = stage.upgrade();
    assert_eq!((&answer["moved"], &answer["failed"]), (&1.into(), &0.into()), "{answer}");
    kept.expect_clean_end();
    session.echo("after");
    poll.respond("", "polled");
    let answered = waiting.message();
    assert_eq!((answered.body.as_str(), answered.head.get("Connection")), ("polled", Some("close")));
    waiting.expect_clean_end();
    earlier.wait_end();
    let mut client = Client::connect(&stage.gate);
    client.send(request("GET", "/open/", "", "").as_bytes());
    let mut server = stage.upstream.accept();
    server.message();
    server.respond("", "by the new one");
    assert_eq!(client.message().body, "by the new one");
    session.close();
}
