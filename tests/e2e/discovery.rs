//! Servers that are listed in a file or looked up by name, and come and go without a reload.

use std::fs;
use std::net::SocketAddr;
use std::sync::mpsc::Receiver;

use serde_json::{Value, json};

use crate::admin::Api;
use crate::keys::check_online;
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::name_server::NameServer;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};

/// The key that makes new servers get their whole share at once.
const AT_ONCE: &str = "[upstream.main.health]\nslow_start = \"0s\"\n";

/// Returns upstreams on these loopback addresses that have the same port.
fn on_one_port<const N: usize>(addresses: [&str; N]) -> [Upstream; N] {
    'ports: for _ in 0..100 {
        let first = Upstream::bind();
        let port = first.address().port();
        drop(first);
        for address in addresses {
            if std::net::TcpListener::bind((address, port)).is_err() {
                continue 'ports;
            }
        }
        return addresses.map(|address| Upstream::bind_to(SocketAddr::new(address.parse().unwrap(), port)));
    }
    panic!("no port is free on all addresses");
}

/// Opens a session at the server that gets it. Returns the index of the server, too.
fn open_at_any(gate: &Gate, accepted: &Receiver<(Server, usize)>) -> (Session, usize) {
    let mut client = Client::connect(gate);
    client.send(&Request::to("/open/").bytes());
    let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
    let asked = server.open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    let mut session = Session { client, server, asked, answer };
    session.echo("open");
    (session, index)
}

/// Waits for the next change of the servers: how many there are, were added, were removed, and the sessions that end.
fn next_change(gate: &Gate) -> [u64; 4] {
    let line = gate.log.next("servers changed");
    ["servers", "added", "removed", "ended"].map(|name| line[name].as_u64().unwrap())
}

fn refused(gate: &Gate) -> Value {
    let response = Client::connect(gate).ask(&Request::to("/open/"));
    assert_eq!(response.head.status(), 502);
    gate.log.next("refused")["cause"].clone()
}

fn dns(names: &NameServer, port: u16) -> Setup {
    Setup::new()
        .server(&names.key())
        .upstream(&format!("discover = \"dns:chat.test:{port}\"\nbalance = \"round_robin\""))
        .more(AT_ONCE)
}

#[test]
fn addresses_of_a_name_come_and_go_as_servers() {
    let servers = on_one_port(["127.0.0.1", "127.0.0.2"]);
    let (names, port) = (NameServer::start(), servers[0].address().port());
    names.set_addresses("chat.test", &["127.0.0.1"]);
    let gate = Gate::start(dns(&names, port).route("on_removed = \"close\""));
    let accepted = Upstream::accept_all(&servers);
    assert_eq!(next_change(&gate), [1, 1, 0, 0]);
    let mut sessions = vec![open_at_any(&gate, &accepted)];
    assert_eq!(sessions[0].1, 0);
    names.set_addresses("chat.test", &["127.0.0.2", "127.0.0.1"]);
    assert_eq!(next_change(&gate), [2, 1, 0, 0]);
    sessions.extend((0..2).map(|_| open_at_any(&gate, &accepted)));
    assert_eq!(sessions[1].1 + sessions[2].1, 1, "each of the two servers gets one");
    // A reload keeps what was found.
    gate.reload(|text| text + "\n# a comment\n");
    sessions.iter_mut().for_each(|(session, _)| session.echo("after the reload"));
    // Two of three sessions end, more than `recheck_max` lets a reload end.
    names.set_addresses("chat.test", &["127.0.0.2"]);
    assert_eq!(next_change(&gate), [1, 0, 1, 2]);
    for (mut session, index) in sessions {
        if index == 0 {
            assert_eq!(session.client.frame().opcode, 8, "a Close");
        } else {
            session.echo("the server of this session stays");
            session.close();
        }
    }
    let (last, index) = open_at_any(&gate, &accepted);
    assert_eq!(index, 1);
    last.close();
}

/// A name that does not exist any more, and one that the name servers fail to look up.
#[test]
fn a_name_that_cannot_be_looked_up_keeps_its_servers() {
    let (server, names, api) = (Upstream::bind(), NameServer::start(), Api::new());
    names.set_addresses("chat.test", &["127.0.0.1"]);
    let gate = Gate::start(dns(&names, server.address().port()).more(&api.section()));
    assert_eq!(next_change(&gate), [1, 1, 0, 0]);
    let mut session = Session::open(&gate, &server);
    for break_it in [NameServer::remove, NameServer::fail] {
        break_it(&names, "chat.test");
        let line = gate.log.next("servers cannot be looked up: the earlier ones stay");
        assert_eq!((&line["upstream"], &line["servers"]), (&json!("main"), &json!(1)), "{line}");
        session.echo("still here");
        Session::open(&gate, &server).close();
        let upstream = api.get("/v1/upstreams")["upstreams"][0].clone();
        let discover = &upstream["discover"];
        assert_eq!(discover["source"], format!("dns:chat.test:{}", server.address().port()));
        assert!(discover["error"].is_string() && discover["last_success"].is_string(), "{discover}");
        assert!(discover["failures"].as_u64().unwrap() > 0, "{discover}");
        assert_eq!(upstream["servers"].as_array().unwrap().len(), 1);
        names.set_addresses("chat.test", &["127.0.0.1"]);
        gate.log.next("servers can be looked up again");
        assert_eq!(api.get("/v1/upstreams")["upstreams"][0]["discover"]["error"], Value::Null);
    }
    let (_, metrics) = api.ask("GET", "/metrics", None);
    let metrics = metrics.as_str().unwrap().to_owned();
    assert!(metrics.contains("tollgate_discovery_servers{upstream=\"main\"} 1\n"), "{metrics}");
    assert!(!metrics.contains("tollgate_discovery_failures_total{upstream=\"main\"} 0\n"), "{metrics}");
    assert_eq!(gate.log.all("servers changed").len(), 1);
    session.close();
}

/// An answer of 300 addresses needs TCP.
#[test]
fn a_name_with_more_servers_than_are_used_is_reported() {
    let names = NameServer::start();
    let all: Vec<String> = (0..300).map(|number| format!("127.1.{}.{}", number / 200, number % 200)).collect();
    names.set_addresses("chat.test", &all.iter().map(String::as_str).collect::<Vec<_>>());
    let gate = Gate::start(dns(&names, 9001));
    assert_eq!(gate.log.next("a name has more than 256 servers")["left_out"], 44);
    assert_eq!(next_change(&gate), [256, 256, 0, 0]);
}

/// The listener serves at once. Requests get a 503 until a server is found.
#[test]
fn a_name_that_does_not_exist_at_the_start_is_looked_up_until_it_does() {
    let (server, names, api) = (Upstream::bind(), NameServer::start(), Api::new());
    let gate = Gate::start(dns(&names, server.address().port()).more(&api.section()));
    gate.log.next("servers cannot be looked up: the earlier ones stay");
    assert_eq!(refused(&gate), "unreachable");
    let explanation = api.get("/v1/events?limit=1")["events"][0]["explanation"].clone();
    assert!(explanation["text"].as_str().unwrap().contains("the upstream has no server"), "{explanation}");
    let setting = &explanation["settings"][0];
    assert_eq!((&setting["key"], &setting["is_set"]), (&json!("discover"), &json!(true)), "{explanation}");
    names.set_addresses("chat.test", &["127.0.0.1"]);
    assert_eq!(next_change(&gate), [1, 1, 0, 0]);
    Session::open(&gate, &server).close();
}

#[test]
fn services_of_the_lowest_priority_have_their_weights() {
    let (servers, names, api) = ([(); 3].map(|()| Upstream::bind()), NameServer::start(), Api::new());
    let [heavy, light, spare] = [0, 1, 2].map(|index: usize| servers[index].address().port());
    names.set_addresses("a.test", &["127.0.0.1"]);
    names.set_addresses("b.test", &["127.0.0.1"]);
    let all =
        [(1, 30, heavy, "a.test"), (1, 10, light, "b.test"), (2, 99, spare, "a.test"), (1, 5, spare, "nowhere.test")];
    names.set_services("_ws._tcp.chat.test", &all);
    let setup = Setup::new().server(&names.key()).upstream("discover = \"srv:_ws._tcp.chat.test\"");
    let gate = Gate::start(setup.more(&api.section()));
    assert_eq!(next_change(&gate), [2, 2, 0, 0]);
    let weights = || -> Vec<(String, u64)> {
        let listed = api.get("/v1/upstreams")["upstreams"][0]["servers"].as_array().unwrap().clone();
        let mut weights: Vec<_> = listed
            .iter()
            .map(|server| (server["address"].as_str().unwrap().to_owned(), server["weight"].as_u64().unwrap()))
            .collect();
        weights.sort_by_key(|(_, weight)| *weight);
        weights
    };
    assert_eq!(weights(), [(format!("127.0.0.1:{light}"), 10), (format!("127.0.0.1:{heavy}"), 30)]);
    let accepted = Upstream::accept_all(&servers);
    let sessions: Vec<_> = (0..8).map(|_| open_at_any(&gate, &accepted)).collect();
    assert_eq!(sessions.iter().filter(|(_, index)| *index == 0).count(), 6);
    // Another weight of a server is a change of the set, and its sessions stay.
    names.set_services("_ws._tcp.chat.test", &[(1, 20, heavy, "a.test"), (1, 10, light, "b.test")]);
    assert_eq!(next_change(&gate), [2, 0, 0, 0]);
    assert_eq!(weights(), [(format!("127.0.0.1:{light}"), 10), (format!("127.0.0.1:{heavy}"), 20)]);
    sessions.into_iter().for_each(|(session, _)| session.close());
}

/// A server that the configuration names is looked up by the same resolver.
#[test]
fn the_name_of_a_server_follows_its_records() {
    let servers = on_one_port(["127.0.0.1", "127.0.0.2"]);
    let (names, port) = (NameServer::start(), servers[0].address().port());
    names.set_addresses("chat.test", &["127.0.0.1"]);
    let gate = Gate::start(Setup::new().server(&names.key()).to(format!("chat.test:{port}")));
    let accepted = Upstream::accept_all(&servers);
    let (first, index) = open_at_any(&gate, &accepted);
    assert_eq!(index, 0);
    names.set_addresses("chat.test", &["127.0.0.2"]);
    // The TTL is a second, and so is the time for which a worker uses the addresses.
    let moved = std::iter::repeat_with(|| {
        let (session, index) = open_at_any(&gate, &accepted);
        session.close();
        index
    });
    let start = std::time::Instant::now();
    assert!(moved.take_while(|_| start.elapsed() < PATIENCE).any(|index| index == 1));
    names.remove("chat.test");
    let (last, index) = open_at_any(&gate, &accepted);
    assert_eq!(index, 1, "the addresses before stay");
    last.close();
    first.close();
}

fn list(servers: &[&Upstream]) -> String {
    json!(servers.iter().map(|server| server.address().to_string()).collect::<Vec<_>>()).to_string()
}

fn rewrite(gate: &Gate, text: &str) {
    fs::write(gate.folder.path("servers.json"), text).unwrap();
}

fn in_file(servers: &[&Upstream]) -> Setup {
    Setup::new().upstream("discover = \"file:servers.json\"").more(AT_ONCE).file("servers.json", &list(servers))
}

#[test]
fn servers_of_a_file_come_and_go_with_its_content() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let [first, second] = &servers;
    let api = Api::new();
    let gate = Gate::start(in_file(&[first]).route("on_removed = \"close\"").more(&api.section()));
    let accepted = Upstream::accept_all(&servers);
    let (mut session, index) = open_at_any(&gate, &accepted);
    assert_eq!(index, 0);
    rewrite(&gate, &list(&[first, second]));
    assert_eq!(next_change(&gate), [2, 1, 0, 0]);
    session.echo("its server stays");
    let (other, index) = open_at_any(&gate, &accepted);
    assert_eq!(index, 1, "it has the fewest sessions");

    // Content that cannot be used keeps the servers, and is reported once with its position.
    rewrite(&gate, "[\n  \"127.0.0.1\"\n]");
    let line = gate.log.next("changed files cannot be used: the earlier ones stay in use");
    assert!(line["files"].as_str().unwrap().ends_with("servers.json"), "{line}");
    assert!(
        gate.log
            .text()
            .contains("\\\"127.0.0.1\\\" is not the address of a server: the port is missing at line 2 column 13")
    );
    session.echo("its server stays");
    let discover = api.get("/v1/upstreams")["upstreams"][0]["discover"].clone();
    assert!(discover["error"].as_str().unwrap().contains("line 2"), "{discover}");
    assert_eq!(discover["failures"], 1);

    // A file that is renamed over it, with a server less: half of the sessions end, more than `recheck_max`.
    let next = gate.folder.write("next.json", &list(&[second]));
    fs::rename(next, gate.folder.path("servers.json")).unwrap();
    assert_eq!(next_change(&gate), [1, 0, 1, 1]);
    assert_eq!(session.client.frame().opcode, 8, "a Close");
    assert_eq!(api.get("/v1/upstreams")["upstreams"][0]["discover"]["error"], Value::Null);
    other.close();

    rewrite(&gate, "[]");
    assert_eq!(next_change(&gate), [0, 0, 1, 0]);
    assert_eq!(refused(&gate), "unreachable");
    rewrite(&gate, &list(&[second]));
    assert_eq!(next_change(&gate), [1, 1, 0, 0]);
    open_at_any(&gate, &accepted).0.close();
}

#[test]
fn check_online_looks_the_servers_up() {
    let names = NameServer::start();
    names.set_addresses("chat.test", &["127.0.0.1", "127.0.0.2"]);
    let gate = Gate::start(dns(&names, 9001));
    let (code, out, err) = check_online(&gate);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("upstream \"main\": 2 servers from dns:chat.test:9001\n"), "{out}");
    gate.edit(|text| text.replace("chat.test", "nowhere.test"));
    let (code, out, err) = check_online(&gate);
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    assert!(err.ends_with("upstream \"main\": dns:nowhere.test:9001: the name has no records of this kind\n"), "{err}");
}

/// The servers of the upstream stay until the name is found, so that no session ends.
#[test]
fn a_reload_from_listed_servers_to_a_name_keeps_their_sessions() {
    let (server, names) = (Upstream::bind(), NameServer::start());
    let (address, port) = (server.address(), server.address().port());
    let gate = Setup::new().server(&names.key()).start(&server);
    let mut session = Session::open(&gate, &server);
    session.echo("open");
    let listed = format!("servers = [\"{address}\"]");
    let line = gate.reload(|text| text.replace(&listed, &format!("discover = \"dns:chat.test:{port}\"")));
    assert_eq!(line["ended"], 0, "{line}");
    gate.log.next("servers cannot be looked up: the earlier ones stay");
    Session::open(&gate, &server).close();
    names.set_addresses("chat.test", &["127.0.0.1", "127.0.0.2"]);
    assert_eq!(next_change(&gate), [2, 1, 0, 0]);
    session.echo("still here");
    session.close();
}

#[test]
fn a_reload_changes_the_name_server() {
    let server = Upstream::bind();
    let (before, after) = (NameServer::start(), NameServer::start());
    after.set_addresses("chat.test", &["127.0.0.1"]);
    let gate = Gate::start(dns(&before, server.address().port()));
    gate.log.next("servers cannot be looked up: the earlier ones stay");
    gate.reload(|text| text.replace(&before.key(), &after.key()));
    gate.log.next("servers can be looked up again");
    assert_eq!(next_change(&gate), [1, 1, 0, 0]);
    Session::open(&gate, &server).close();
}

/// A typing error in the configuration is what `recheck_max` guards against: it refuses a list that lacks most servers.
#[test]
fn a_reload_of_listed_servers_is_still_bounded() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let gate = Gate::start(servers.iter().fold(Setup::new(), |setup, server| setup.to(server.address())));
    let accepted = Upstream::accept_all(&servers);
    let sessions = [(); 2].map(|()| open_at_any(&gate, &accepted).0);
    gate.edit(|text| text.replace(&format!(", \"{}\"", servers[1].address()), ""));
    gate.signal(rustix::process::Signal::HUP);
    gate.log.next("1 of 2 sessions would end, and recheck_max is 20%: --force permits it");
    sessions.into_iter().for_each(Session::close);
}
