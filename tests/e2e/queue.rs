//! Upgrades that wait for a server: while every server is full, no server is up, or `admit_rate` is used up.

use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Upstream, refusing, switching};

/// A proxy with its admin API.
struct Queue {
    api: Api,
    gate: Gate,
}

impl Queue {
    fn start(setup: Setup) -> Self {
        let api = Api::new();
        let gate = Gate::start(setup.more(&api.section()));
        Self { api, gate }
    }

    /// Starts a proxy with one server of one session, and these keys of the upstream.
    fn of_one(upstream: &Upstream, keys: &str) -> Self {
        let server = format!("servers = [{{ address = \"{}\", max_sessions = 1 }}]\n{keys}", upstream.address());
        Self::start(Setup::new().log("slow_upgrade = \"50ms\"").upstream(&server))
    }

    /// Sends an upgrade at a path, without waiting for anything.
    fn send(&self, path: &str) -> Client {
        let mut client = Client::connect(&self.gate);
        client.send(&Request::to(&format!("/open/{path}")).bytes());
        client
    }

    fn upstream(&self) -> Value {
        self.api.get("/v1/upstreams")["upstreams"][0].clone()
    }

    /// Waits until at least this many upgrades wait.
    fn wait_for_at_least(&self, queued: usize) {
        let until = Instant::now() + PATIENCE;
        while self.upstream()["queued"].as_u64().unwrap() < queued as u64 {
            assert!(Instant::now() < until, "{}", self.upstream());
        }
    }

    /// Waits until this many upgrades wait.
    fn wait_for(&self, queued: usize) {
        let until = Instant::now() + PATIENCE;
        while self.upstream()["queued"] != json!(queued) {
            assert!(Instant::now() < until, "{}", self.upstream());
        }
    }
}

/// Accepts the connection of an upgrade, checks its path, and completes it.
fn open(upstream: &Upstream, mut client: Client, path: &str) -> Session {
    let mut server = upstream.accept();
    let asked = server.open(&[]);
    assert_eq!(asked.first_line.split(' ').nth(1), Some(&*format!("/open/{path}")));
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    Session { client, server, asked, answer }
}

#[test]
fn the_upgrade_that_waits_longest_gets_the_server_when_a_session_ends() {
    let upstream = Upstream::bind();
    let queue = Queue::of_one(&upstream, "queue_timeout = \"1m\"");
    let mut open_session = Session::open(&queue.gate, &upstream);
    let mut waiting = Vec::new();
    for (index, path) in ["a", "b", "c"].into_iter().enumerate() {
        waiting.push((queue.send(path), path));
        queue.wait_for(index + 1);
    }
    assert_eq!(queue.upstream()["queue_max"], json!(512));
    for (client, path) in waiting {
        client.expect_nothing_yet();
        open_session.close();
        open_session = open(&upstream, client, path);
        open_session.echo(path);
        let line = queue.gate.log.next("slow upgrade");
        assert!(line["wait_ms"].is_u64(), "{line}");
    }
    queue.wait_for(0);
    open_session.close();
}

#[test]
fn an_upgrade_that_waits_too_long_is_rejected() {
    let upstream = Upstream::bind();
    let queue = Queue::of_one(&upstream, "queue_timeout = \"200ms\"");
    let session = Session::open(&queue.gate, &upstream);
    let began = Instant::now();
    let response = queue.send("late").response();
    assert!(began.elapsed() >= Duration::from_millis(200));
    assert_eq!(response.head.status(), 503);
    let retry_after: u64 = response.head.get("Retry-After").unwrap().parse().unwrap();
    assert!((1..=10).contains(&retry_after), "{retry_after}");
    let line = queue.gate.log.next("refused");
    assert_eq!((&line["cause"], &line["upstream"]), (&json!("upstream_full"), &json!("main")), "{line}");
    assert!(line["wait_ms"].as_u64().unwrap() >= 199 && line["connect_ms"].as_u64().unwrap() < 199, "{line}");
    upstream.assert_untouched();
    session.close();
}

#[test]
fn an_upgrade_beyond_queue_max_is_rejected_at_once() {
    let upstream = Upstream::bind();
    let queue = Queue::of_one(&upstream, "queue_timeout = \"1m\"\nqueue_max = 1");
    let session = Session::open(&queue.gate, &upstream);
    let waiting = queue.send("waits");
    queue.wait_for(1);
    assert_eq!(queue.send("beyond").response().head.status(), 503);
    assert_eq!(queue.gate.log.next("refused")["cause"], "upstream_full");
    session.close();
    open(&upstream, waiting, "waits").close();
}

#[test]
fn a_client_that_disconnects_leaves_the_queue() {
    let upstream = Upstream::bind();
    let queue = Queue::of_one(&upstream, "queue_timeout = \"1m\"");
    let session = Session::open(&queue.gate, &upstream);
    let gone = queue.send("gone");
    queue.wait_for(1);
    let waiting = queue.send("waits");
    queue.wait_for(2);
    drop(gone);
    assert_eq!(queue.gate.log.next("refused")["cause"], "client_gone");
    queue.wait_for(1);
    session.close();
    open(&upstream, waiting, "waits").close();
}

/// A request uses one snapshot, but waits for the servers of the one in use.
#[test]
fn a_reload_lets_waiting_upgrades_in() {
    let (upstream, second) = (Upstream::bind(), Upstream::bind());
    let queue = Queue::of_one(&upstream, "queue_timeout = \"1m\"");
    let mut sessions = vec![Session::open(&queue.gate, &upstream)];
    let waiting = ["a", "b"].map(|path| {
        let client = queue.send(path);
        queue.wait_for(1 + usize::from(path == "b"));
        client
    });
    let [first, last] = waiting;
    queue.gate.reload(|text| text.replace("max_sessions = 1 }", "max_sessions = 2 }"));
    sessions.push(open(&upstream, first, "a"));
    queue.wait_for(1);
    let added = format!("max_sessions = 2 }}, \"{}\"", second.address());
    queue.gate.reload(|text| text.replace("max_sessions = 2 }", &added));
    sessions.push(open(&second, last, "b"));
    sessions.into_iter().for_each(Session::close);
}

/// The restart of the only server costs its clients a second and not an error.
#[test]
fn upgrades_are_held_while_the_server_restarts() {
    const CLIENTS: usize = 20;
    let (socket, address) = refusing();
    let queue = Queue::start(Setup::new().upstream("hold_upgrades = \"1m\"").to(address));
    let clients: Vec<Client> = (0..CLIENTS).map(|_| queue.send("held")).collect();
    // One of them may be trying the server.
    queue.wait_for_at_least(CLIENTS - 1);
    std::thread::sleep(Duration::from_secs(1));
    let restarted = Instant::now();
    let upstream = Upstream::listen(socket);
    let servers: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let mut server = upstream.accept();
            server.open(&[]);
            server
        })
        .collect();
    for mut client in clients {
        assert_eq!(client.head().status(), 101);
    }
    eprintln!("all clients have their 101 {:?} after the start of the server", restarted.elapsed());
    assert!(queue.gate.log.all("refused").is_empty());
    assert_eq!(queue.gate.log.all("no server of the upstream accepts a connection").len(), 1);
    drop(servers);
}

#[test]
fn a_held_upgrade_fails_after_hold_upgrades() {
    let (_socket, address) = refusing();
    let setup = Setup::new().log("slow_upgrade = \"50ms\"").upstream("hold_upgrades = \"300ms\"");
    let queue = Queue::start(setup.to(address));
    let began = Instant::now();
    let response = queue.send("held").response();
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!(response.head.status(), 502);
    let line = queue.gate.log.next("refused");
    assert_eq!((&line["cause"], &line["server"]), (&json!("unreachable"), &json!(address.to_string())), "{line}");
    // The pauses between its attempts are a part of its wait.
    assert!(line["wait_ms"].as_u64().unwrap() >= 290 && line["connect_ms"].as_u64().unwrap() < 200, "{line}");
}

/// The pool of a waiting upgrade is that of its configuration until it looks at the one in use.
#[test]
fn held_upgrades_that_are_not_first_learn_that_a_server_is_up() {
    const CLIENTS: usize = 14;
    let upstream = Upstream::bind();
    let (_socket, address) = refusing();
    let keys = "hold_upgrades = \"2s\"\nqueue_timeout = \"1m\"\nadmit_rate = \"4/s\"";
    let queue = Queue::start(Setup::new().server("max_handshakes = 64").upstream(keys).to(address));
    // The rate alone takes two seconds and a half for all of them.
    let began = Instant::now();
    let clients: Vec<Client> = (0..CLIENTS).map(|_| queue.send("held")).collect();
    queue.wait_for_at_least(CLIENTS - 1);
    queue.gate.reload(|text| text.replace(&address.to_string(), &upstream.address().to_string()));
    // The last one is served after more than the time for which they are held.
    let sessions: Vec<_> = clients.into_iter().map(|client| open(&upstream, client, "held")).collect();
    assert!(began.elapsed() > Duration::from_secs(2));
    sessions.into_iter().for_each(Session::close);
}

/// Of the requests that the only server breaks, each is tried in its turn.
#[test]
fn upgrades_that_a_server_always_breaks_do_not_stop_the_others() {
    let upstreams = [Upstream::bind()];
    let queue = Queue::start(Setup::new().upstream("hold_upgrades = \"4s\"").to(upstreams[0].address()));
    let accepted = Upstream::accept_all(&upstreams);
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for (mut server, _) in accepted {
            let asked = server.head();
            if !asked.first_line.contains("break") {
                server.send(&switching(&asked, &[]));
                open.push(server);
            }
        }
    });
    let broken = [(); 4].map(|()| queue.send("break"));
    queue.wait_for_at_least(2);
    let others = [(); 8].map(|()| queue.send("other"));
    for mut client in others {
        assert_eq!(client.head().status(), 101);
    }
    for mut client in broken {
        assert_eq!(client.response().head.status(), 502);
    }
}

#[test]
fn the_retries_of_an_upgrade_that_waited_are_at_other_servers() {
    const CLIENTS: usize = 5;
    let upstreams = [Upstream::bind(), Upstream::bind()];
    let setup = Setup::new().upstream("retries = 2\nadmit_rate = \"10/s\"\nqueue_timeout = \"1m\"");
    let setup = upstreams.iter().fold(setup, |setup, upstream| setup.to(upstream.address()));
    let queue = Queue::start(setup);
    let accepted = Upstream::accept_all(&upstreams);
    let tries = Arc::<Mutex<Vec<(String, usize)>>>::default();
    let noted = Arc::clone(&tries);
    std::thread::spawn(move || {
        for (mut server, index) in accepted {
            noted.lock().unwrap().push((server.head().first_line, index));
        }
    });
    let clients: Vec<Client> = (0..CLIENTS).map(|number| queue.send(&number.to_string())).collect();
    for mut client in clients {
        assert_eq!(client.response().head.status(), 502);
    }
    let mut tries = tries.lock().unwrap().clone();
    tries.sort();
    let line = |number: usize| format!("GET /open/{number} HTTP/1.1");
    let each_once: Vec<_> = (0..CLIENTS).flat_map(|number| [0, 1].map(|index| (line(number), index))).collect();
    assert_eq!(tries, each_once);
}

/// More upgrades fail than the budget has retries.
#[test]
fn an_upgrade_is_told_to_return_if_one_server_refuses_it_and_the_others_are_full() {
    let upstream = Upstream::bind();
    let (_socket, refuses) = refusing();
    let address = upstream.address();
    let servers = format!("servers = [{{ address = \"{address}\", max_sessions = 1 }}, \"{refuses}\"]\nqueue_max = 0");
    let queue = Queue::start(Setup::new().upstream(&servers));
    let session = Session::open(&queue.gate, &upstream);
    let clients = [(); 20].map(|()| queue.send("beyond"));
    for mut client in clients {
        let response = client.response();
        assert_eq!(response.head.status(), 503);
        assert!(response.head.get("Retry-After").is_some());
        let line = queue.gate.log.next("refused");
        assert_eq!((&line["cause"], &line["server"]), (&json!("upstream_full"), &json!(refuses.to_string())), "{line}");
        assert!(line["detail"].as_str().unwrap().contains("refused"), "{line}");
    }
    session.close();
}

/// A server that breaks every connection is tried by one of the held upgrades at a time, whatever their number.
#[test]
fn held_upgrades_do_not_hammer_a_server_that_fails() {
    const CLIENTS: usize = 10;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    std::thread::spawn(move || {
        while listener.accept().is_ok() {
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    let queue = Queue::start(Setup::new().upstream("hold_upgrades = \"1s\"").to(address));
    let clients: Vec<Client> = (0..CLIENTS).map(|_| queue.send("held")).collect();
    for mut client in clients {
        assert_eq!(client.response().head.status(), 502);
    }
    // Each may try it once when it arrives; then it is tried every 200 ms at most, for as long as the last one is held.
    let connections = connections.load(Ordering::Relaxed);
    assert!((4..CLIENTS + 12).contains(&connections), "{connections}");
}

/// Upgrades beyond `admit_rate` are served in order, at this rate.
#[test]
fn admit_rate_paces_the_upgrades_of_all_clients() {
    const CLIENTS: u32 = 50;
    let upstream = Upstream::bind();
    let keys = "admit_rate = \"20/s\"\nqueue_timeout = \"1m\"";
    let setup = Setup::new().server("max_sessions = 64\nmax_handshakes = 64\nworkers = 1").upstream(keys);
    let queue = Queue::start(setup.to(upstream.address()));
    let began = Instant::now();
    let clients: Vec<Client> = (0..CLIENTS).map(|number| queue.send(&number.to_string())).collect();
    let sent = began.elapsed();
    let clients = clients.into_iter().enumerate();
    let sessions: Vec<_> = clients.map(|(number, client)| open(&upstream, client, &number.to_string())).collect();
    let took = began.elapsed();
    // Two may go at once. A burst after the last request would end far earlier.
    assert!(took >= Duration::from_millis(2_300), "{took:?}");
    assert!(took <= sent + Duration::from_secs(10), "sent in {sent:?}, served in {took:?}");
    sessions.into_iter().for_each(Session::close);
}
