//! Servers that die under open sessions: the code that clients get, and the time over which they get it.

use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::gate::Gate;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::{End, Frame, PING, PONG};

/// Far longer than a test waits.
const FOREVER: &str = "reconnect_spread = \"10m\"";

/// Starts a proxy with these settings of the upstream, and opens two sessions. The server has dropped the first one, so
/// the slot of the second one is minutes away.
fn second_of_two(upstream: &Upstream, settings: &str) -> (Gate, Client, Server) {
    let gate = Setup::new().upstream(settings).start(upstream);
    let [mut first, mut second] = [(); 2].map(|()| Session::open(&gate, upstream));
    second.echo("open");
    drop(first.server);
    assert_eq!(first.client.expect_close(1014), "upstream went away");
    first.client.send_frame(Frame::close(1014, ""));
    first.client.expect_clean_end();
    assert_eq!(gate.log.next("session ended")["cause"], "upstream_gone");
    second.server.stream.shutdown(Shutdown::Write).unwrap();
    // The connection to the server is released at once, although the session goes on.
    assert_eq!(second.server.rest(), (Vec::new(), End::Clean));
    (gate, second.client, second.server)
}

#[test]
fn the_sessions_of_a_dead_server_are_closed_over_reconnect_spread() {
    const SESSIONS: usize = 200;
    let upstream = Upstream::bind();
    let gate = Setup::new()
        .server("max_sessions = 400\nmax_handshakes = 400\nhandshakes_per_address = \"off\"")
        .upstream("reconnect_spread = \"3s\"")
        .start(&upstream);
    let sessions = (0..SESSIONS).map(|_| Session::open(&gate, &upstream));
    let (clients, servers): (Vec<_>, Vec<_>) = sessions.map(|session| (session.client, session.server)).unzip();
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            thread::spawn(move || {
                assert_eq!(client.expect_close(1014), "upstream went away");
                let closed_at = Instant::now();
                client.send_frame(Frame::close(1014, ""));
                client.expect_clean_end();
                closed_at
            })
        })
        .collect();
    let killed_at = Instant::now();
    drop(servers);
    let mut waits: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap() - killed_at).collect();
    waits.sort_unstable();
    // Closes can only be late, on a busy machine. So they must not be early: the k-th of them has the k-th slot.
    for (k, wait) in waits.iter().enumerate() {
        let slot = Duration::from_secs(3).mul_f64(k as f64 / SESSIONS as f64);
        assert!(*wait + Duration::from_millis(500) > slot, "close {k} after {wait:?}, before its slot at {slot:?}");
    }
    assert!(waits[0] < waits[SESSIONS - 1] && waits[SESSIONS - 1] < Duration::from_secs(15), "{waits:?}");
}

#[test]
fn a_client_that_waits_for_its_close_is_still_served() {
    let upstream = Upstream::bind();
    let (gate, mut client, _server) = second_of_two(&upstream, FOREVER);
    client.send_text("nobody gets this");
    for payload in ["one", "two"] {
        client.send_frame(Frame::new(PING, payload));
        let pong = client.frame();
        assert_eq!((pong.opcode, pong.payload), (PONG, payload.into()));
    }
    client.send_frame(Frame::close(4000, "bye"));
    assert_eq!(client.expect_close(4000), "");
    client.expect_clean_end();
    let line = gate.log.next("session ended");
    assert_eq!((&line["by"], &line["cause"], &line["messages_in"]), (&json!("client"), &json!("closed"), &json!(1)));
}

#[test]
fn a_drain_closes_clients_that_wait_for_their_close() {
    let upstream = Upstream::bind();
    let (gate, mut client, _server) = second_of_two(&upstream, FOREVER);
    gate.drain();
    assert_eq!(client.expect_close(1001), "going away");
    client.send_frame(Frame::close(1001, ""));
    client.expect_clean_end();
    assert_eq!(gate.log.next("session ended")["cause"], "drain");
}

#[test]
fn a_client_that_waits_for_its_close_keeps_its_slot() {
    let upstream = Upstream::bind();
    let gate = Setup::new().upstream(FOREVER).limits("sessions_per_address = 2").start(&upstream);
    let [mut first, second] = [(); 2].map(|()| Session::open(&gate, &upstream));
    drop((first.server, second.server));
    first.client.send_frame(Frame::close(1000, ""));
    first.client.rest();
    gate.log.next("session ended");
    // One of them has ended, and the other one is still connected.
    let third = Session::open(&gate, &upstream);
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 429);
    drop((second.client, third));
}

#[test]
fn the_close_code_of_a_lost_upstream_can_be_1012() {
    let upstream = Upstream::bind();
    let gate = Setup::new().upstream("upstream_loss_close_code = 1012\nreconnect_spread = \"0s\"").start(&upstream);
    for _ in 0..3 {
        let Session { mut client, server, .. } = Session::open(&gate, &upstream);
        drop(server);
        assert_eq!(client.expect_close(1012), "upstream went away");
        client.send_frame(Frame::close(1012, ""));
        client.expect_clean_end();
        let line = gate.log.next("session ended");
        assert_eq!((&line["code"], &line["cause"]), (&json!(1012), &json!("upstream_gone")), "{line}");
    }
}

/// Clients that a full upstream rejects return at random times, within the spread.
#[test]
fn retry_after_of_a_full_upstream_is_random() {
    let upstream = Upstream::bind();
    let server = format!("servers = [{{ address = \"{}\", max_sessions = 1 }}]", upstream.address());
    let gate = Gate::start(Setup::new().upstream(&format!("{server}\nqueue_max = 0\nreconnect_spread = \"3s\"")));
    let session = Session::open(&gate, &upstream);
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        let response = Client::connect(&gate).ask(&Request::to("/open/"));
        assert_eq!(response.head.status(), 503);
        seen.insert(response.head.get("Retry-After").unwrap().to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["1", "2", "3"]);
    session.close();
}
