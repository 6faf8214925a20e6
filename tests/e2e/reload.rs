//! Reloads of the configuration: the effect on listeners, new requests and open sessions.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::HandshakeKind;
use serde_json::json;

use crate::support::gate::Gate;
use crate::support::pki::{ISSUER, Leaf, client_config, plain_client_config, token};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::Frame;

/// Opens a session, and waits until its messages pass: from then on it is counted.
fn open(gate: &Gate, upstream: &Upstream) -> Session {
    let mut session = Session::open(gate, upstream);
    session.echo("first");
    session
}

fn room(gate: &Gate, upstream: &Upstream, claims: &serde_json::Value) -> Session {
    let request = Request::to("/room/blue").bearer(&token(claims));
    let mut session = Session::open_with(gate, upstream, &request, &[]);
    session.echo("first");
    session
}

fn without_limit() -> Setup {
    Setup::new().server("recheck_max = \"off\"")
}

#[test]
fn a_reload_of_the_same_file_changes_nothing() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = open(&gate, &upstream);
    let line = gate.reload(|text| text + "\n# a comment\n");
    assert_eq!(
        (&line["generation"], &line["kept"], &line["changed"], &line["ended"]),
        (&json!(2), &json!(1), &json!(0), &json!(0))
    );
    session.echo("after");
    session.close();
    open(&gate, &upstream).close();
}

#[test]
fn an_invalid_file_changes_nothing_and_is_reported_with_its_line() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = open(&gate, &upstream);
    gate.edit(|text| text.replace("auth = \"none\"", "auth = \"nobody\""));
    gate.signal(Signal::HUP);
    gate.log.next("reload failed: the configuration in use stays");
    assert!(gate.log.text().contains("tollgate.toml:") && gate.log.text().contains("nobody"));
    session.echo("after");
    open(&gate, &upstream).close();
    // The next valid file is the second generation.
    let line = gate.reload(|text| text.replace("\"nobody\"", "\"none\""));
    assert_eq!(line["generation"], 2);
    session.close();
}

#[test]
fn new_limits_apply_to_open_sessions_at_once() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = open(&gate, &upstream);
    session.client.send_text("a message of 20 bytes");
    session.server.expect_text("a message of 20 bytes");
    let line = gate.reload(|text| text.replace("close_timeout", "message_max_size = \"10B\"\nclose_timeout"));
    assert_eq!((&line["kept"], &line["changed"]), (&json!(0), &json!(1)));
    session.echo("short");
    session.client.send_text("a message of 20 bytes");
    let reason = session.server.expect_close(1009);
    session.server.send_frame(Frame::close(1009, ""));
    assert_eq!(session.client.expect_close(1009), reason);
}

#[test]
fn a_session_that_a_new_requirement_rejects_ends_and_others_stay() {
    let upstream = Upstream::bind();
    let gate = without_limit().start(&upstream);
    let claims = |role: &str| json!({ "room": "blue", "sub": role, "role": role });
    let mut admin = room(&gate, &upstream, &claims("admin"));
    let mut guest = room(&gate, &upstream, &claims("guest"));
    let line = gate.reload(|text| text.replace("{ room = \"{room}\" }", "{ room = \"{room}\", role = \"admin\" }"));
    assert_eq!((&line["kept"], &line["ended"]), (&json!(1), &json!(1)), "{line}");
    assert_eq!(guest.client.expect_close(1008), "no longer admitted");
    assert_eq!(guest.server.expect_close(1008), "no longer admitted");
    admin.echo("still here");
    let mut client = Client::connect(&gate);
    assert_eq!(client.ask(&Request::to("/room/blue").bearer(&token(&claims("guest")))).head.status(), 403);
}

#[test]
fn a_session_whose_issuer_is_not_accepted_any_more_ends() {
    let upstream = Upstream::bind();
    let gate = without_limit().start(&upstream);
    let mut session = room(&gate, &upstream, &json!({ "room": "blue" }));
    let issuer = format!("issuer = {:?}", ISSUER);
    gate.reload(|text| text.replace(&issuer, "issuer = \"another\""));
    assert_eq!(session.client.expect_close(1008), "no longer admitted");
}

#[test]
fn a_reload_that_ends_too_many_sessions_is_refused() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut sessions: Vec<Session> = (0..4).map(|_| open(&gate, &upstream)).collect();
    gate.edit(|text| text.replace("auth = \"none\"", "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]"));
    gate.signal(Signal::HUP);
    gate.log.next("4 of 4 sessions would end, and recheck_max is 20%: --force permits it");
    gate.log.next("reload failed: the configuration in use stays");
    sessions.iter_mut().for_each(|session| session.echo("still here"));
    sessions.push(open(&gate, &upstream));
    sessions.into_iter().for_each(Session::close);
}

#[test]
fn open_sessions_stay_unchanged_if_the_operator_keeps_them() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = open(&gate, &upstream);
    let denied = "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]";
    let line = gate
        .reload(|text| text.replace("[server]", "[server]\non_reload = \"keep\"").replace("auth = \"none\"", denied));
    assert_eq!(line["kept"], 1);
    session.echo("old terms");
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 403);
    session.close();
}

#[test]
fn sessions_that_are_ending_are_counted_once() {
    let upstream = Upstream::bind();
    let gate = without_limit().server("recheck_rate = \"1/h\"").start(&upstream);
    let _sessions: Vec<Session> = (0..2).map(|_| open(&gate, &upstream)).collect();
    let denied = "auth = \"none\"\ndeny_addresses = [\"127.0.0.1\"]";
    let line = gate.reload(|text| text.replace("auth = \"none\"", denied));
    assert_eq!(line["ended"], 2, "{line}");
    // The second session closes an hour after the first. A reload that keeps sessions does not change that.
    let keep = "[server]\non_reload = \"keep\"";
    let line = gate.reload(|text| text.replace("[server]", keep));
    assert_eq!(line["ended"], 0, "{line}");
    let line = gate.reload(|text| text.replace(keep, "[server]"));
    assert_eq!(line["ended"], 0, "{line}");
}

#[test]
fn the_sessions_of_a_removed_server_drain() {
    let (upstream, other) = (Upstream::bind(), Upstream::bind());
    let gate = without_limit().start(&upstream);
    let mut session = open(&gate, &upstream);
    let (from, to) = (upstream.address().to_string(), other.address().to_string());
    gate.reload(|text| text.replace(&from, &to));
    assert_eq!(session.client.expect_close(1012), "server drained");
    Session::open(&gate, &other).close();
}

/// The listener that stays has the same socket: a connection that waits in its queue is served.
#[test]
fn listeners_are_added_and_removed_while_others_stay() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let first = gate.address();
    let mut session = open(&gate, &upstream);
    let queued = TcpStream::connect(first).unwrap();
    let second = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let more =
        "[[listener]]\naddress = \"SECOND\"\ncertificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]\n";
    let line = gate.reload(|text| text + &more.replace("SECOND", &second.to_string()));
    assert_eq!((&line["added"], &line["removed"]), (&json!(second.to_string()), &json!("")));
    gate.set_address(&json!({ "address": second.to_string() }));
    let on_second = open(&gate, &upstream);
    let line = gate.reload(|text| text.replace(&more.replace("SECOND", &second.to_string()), ""));
    assert_eq!((&line["added"], &line["removed"]), (&json!(""), &json!(second.to_string())));
    assert!(TcpStream::connect(second).is_err());
    // The sessions of the removed listener continue.
    on_second.close();
    session.echo("first");
    gate.set_address(&json!({ "address": first.to_string() }));
    let mut client = Client::handshake(queued, plain_client_config(), "chat.example.com");
    assert_eq!(client.ask(&Request::to("/none")).head.status(), 404);
    session.close();
}

#[test]
fn an_address_in_use_changes_nothing() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let more =
        "[[listener]]\naddress = \"SECOND\"\ncertificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]\n";
    gate.edit(|text| text + &more.replace("SECOND", &address.to_string()));
    gate.signal(Signal::HUP);
    gate.log.next("reload failed: the configuration in use stays");
    assert!(gate.log.text().contains(&format!("cannot listen on {address}")));
    open(&gate, &upstream).close();
}

#[test]
fn a_replaced_certificate_is_served_and_tickets_stay_valid() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let config = Arc::new(client_config(rustls::ALL_VERSIONS));
    let connect = |expected: HandshakeKind| {
        let client = Client::connect_with(&gate, Arc::clone(&config), "chat.example.com");
        assert_eq!(client.stream.conn.handshake_kind(), Some(expected));
        // A ticket of TLS 1.3 follows the handshake, so it is read together with the session.
        Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
    };
    connect(HandshakeKind::Full);
    connect(HandshakeKind::Resumed);
    let leaf = Leaf::new(&["chat.example.com"]);
    std::fs::write(gate.folder.path("chain-0.pem"), &leaf.chain_pem).unwrap();
    std::fs::write(gate.folder.path("key-0.pem"), &leaf.key_pem).unwrap();
    gate.reload(|text| text);
    connect(HandshakeKind::Resumed);
    let client = Client::connect_with(&gate, Arc::new(client_config(rustls::ALL_VERSIONS)), "chat.example.com");
    assert_eq!(client.stream.conn.peer_certificates().unwrap()[0], leaf.der);
}

#[test]
fn settings_that_need_a_restart_are_named() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    gate.reload(|text| {
        text.replace("workers = 2", "workers = 3").replace("max_handshakes = 32", "max_handshakes = 33")
    });
    assert_eq!(gate.log.all("server.workers changes only at a restart or `tollgate upgrade`").len(), 1);
    assert_eq!(gate.log.all("server.max_handshakes changes only at a restart or `tollgate upgrade`").len(), 1);
    let mut session = open(&gate, &upstream);
    session.client.send_frame(Frame::close(1000, ""));
    session.server.expect_close(1000);
}

/// The certificate and its key change alone: the changed configuration file is not read.
#[test]
fn files_that_change_are_used_without_a_reload() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let mut session = open(&gate, &upstream);
    gate.edit(|_| "this is not TOML".to_owned());
    let served = || {
        let client = Client::connect_with(&gate, Arc::new(client_config(rustls::ALL_VERSIONS)), "chat.example.com");
        client.stream.conn.peer_certificates().unwrap()[0].clone()
    };
    let before = served();
    let leaf = Leaf::new(&["chat.example.com"]);
    // By a rename, as certificate managers do. At first only one file of the pair is new.
    let replace = |name: &str, text: &str| {
        std::fs::rename(gate.folder.write("new", text), gate.folder.path(name)).unwrap();
    };
    replace("chain-0.pem", &leaf.chain_pem);
    gate.log.next("changed files cannot be used: the earlier ones stay in use");
    assert_eq!(served(), before);
    replace("key-0.pem", &leaf.key_pem);
    let line = gate.log.next("files reloaded");
    assert_eq!((&line["kept"], &line["ended"]), (&json!(1), &json!(0)), "{line}");
    assert_eq!(served(), leaf.der);
    session.echo("still here");
    session.close();
}

/// A reload can drain a server: its sessions stay, and count when it gets sessions again, slowly at first.
#[test]
fn a_reload_drains_a_server_and_keeps_its_sessions() {
    let [first, second] = [Upstream::bind(), Upstream::bind()];
    let gate = Gate::start(Setup::new().upstream("balance = \"round_robin\"").to(first.address()).to(second.address()));
    let mut sessions = vec![open(&gate, &first), open(&gate, &second)];
    let (plain, table) = (format!("\"{}\"", first.address()), |drain: bool, max: u32| {
        format!("{{ address = \"{}\", drain = {drain}, max_sessions = {max} }}", first.address())
    });
    let line = gate.reload(|text| text.replace(&plain, &table(true, 2)));
    assert_eq!(line["ended"], 0, "{line}");
    sessions.extend([open(&gate, &second), open(&gate, &second)]);
    sessions[0].echo("it stays");
    // The session that it has all the time fills it, so the next ones go to the other server.
    gate.reload(|text| text.replace(&table(true, 2), &table(false, 1)));
    sessions.extend([open(&gate, &second), open(&gate, &second)]);
    sessions[0].echo("it stays again");
    sessions.into_iter().for_each(Session::close);
}
