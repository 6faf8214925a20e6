//! `balance = "sticky_cookie"`: a client returns to its server.

use std::sync::mpsc::Receiver;

use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::request::Request;
use crate::support::session::Client;
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::Head;

/// A session at one of several servers.
struct Opened {
    _client: Client,
    _server: Server,
    asked: Head,
    answer: Head,
    /// The index of the server.
    at: usize,
}

impl Opened {
    /// Returns the pair `NAME=VALUE` of the cookie that the client got.
    fn cookie(&self) -> Option<&str> {
        self.answer.get("Set-Cookie").and_then(|cookie| cookie.split(';').next())
    }
}

fn open(gate: &Gate, accepted: &Receiver<(Server, usize)>, cookie: Option<&str>) -> Opened {
    let request = Request::to("/open/");
    let request = match cookie {
        Some(cookie) => request.with(&format!("Cookie: a=1; {cookie}; b=2")),
        None => request,
    };
    let mut client = Client::connect(gate);
    client.send(&request.bytes());
    let (mut server, at) = accepted.recv_timeout(PATIENCE).unwrap();
    let asked = server.open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    Opened { _client: client, _server: server, asked, answer, at }
}

fn start(servers: &[Upstream], keys: &str) -> Gate {
    let setup = Setup::new().upstream(&format!("balance = \"sticky_cookie\"\n{keys}"));
    Gate::start(servers.iter().fold(setup, |setup, server| setup.to(server.address())))
}

#[test]
fn a_client_returns_to_the_server_of_its_cookie() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let gate = start(&servers, "");
    let accepted = Upstream::accept_all(&servers);
    let first = open(&gate, &accepted, None);
    let set = first.answer.get("Set-Cookie").unwrap();
    let (pair, attributes) = set.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; HttpOnly; Secure; SameSite=Lax");
    assert_eq!(pair.strip_prefix("tollgate=").map(str::len), Some(22), "{pair}");
    // It has more sessions than the others each time.
    let again: Vec<Opened> = (0..5).map(|_| open(&gate, &accepted, Some(pair))).collect();
    for opened in &again {
        assert_eq!((opened.at, opened.cookie()), (first.at, None));
        assert_eq!(opened.asked.get("Cookie"), Some("a=1; b=2"), "the servers do not see it");
    }
    // Clients without a cookie go to the others.
    let others: Vec<Opened> = (0..2).map(|_| open(&gate, &accepted, None)).collect();
    assert!(others.iter().all(|other| other.at != first.at && other.cookie().is_some_and(|cookie| cookie != pair)));
    let value = &pair["tollgate=".len()..];
    assert!(!gate.log.text().contains(value), "the cookie is in the log");
}

#[test]
fn a_cookie_that_is_not_valid_is_replaced() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let gate = start(&servers, "cookie = { name = \"node\" }");
    let accepted = Upstream::accept_all(&servers);
    let first = open(&gate, &accepted, None);
    let valid = first.cookie().unwrap().to_owned();
    let address = format!("node={}", servers[first.at].address());
    let swapped = valid.chars().rev().collect::<String>().replace("=edon", "");
    for forged in
        ["node=", &address, "node=AAAAAAAAAAAAAAAAAAAAAA", &format!("node={swapped}"), &valid[..valid.len() - 1]]
    {
        let opened = open(&gate, &accepted, Some(forged));
        assert!(opened.cookie().is_some_and(|cookie| cookie.starts_with("node=")), "{forged}");
        assert_eq!(opened.asked.get("Cookie"), Some("a=1; b=2"), "{forged}");
    }
    // Of several cookies of the name, the valid one counts.
    let opened = open(&gate, &accepted, Some(&format!("node=x; {valid}")));
    assert_eq!((opened.at, opened.cookie()), (first.at, None));
}

#[test]
fn the_client_of_a_server_that_drains_or_is_full_or_down_gets_another_one() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let [a, b] = [0, 1].map(|index| servers[index].address());
    let keys =
        format!("servers = [{{ address = \"{a}\", max_sessions = 1 }}, {{ address = \"{b}\", max_sessions = 9 }}]");
    // A reload that removes a server ends its sessions.
    let setup = Setup::new().server("recheck_max = \"off\"");
    let gate = Gate::start(setup.upstream(&format!("balance = \"sticky_cookie\"\n{keys}")));
    let accepted = Upstream::accept_all(&servers);
    let mut first = [open(&gate, &accepted, None), open(&gate, &accepted, None)];
    first.sort_by_key(|opened| opened.at);
    let [of_a, of_b] = first;
    // Full.
    let moved = open(&gate, &accepted, of_a.cookie());
    assert_eq!((moved.at, moved.cookie()), (1, of_b.cookie()));
    assert_eq!(open(&gate, &accepted, of_b.cookie()).at, 1);
    // Drains. The key is that of the process, so a reload keeps the cookies.
    gate.reload(|text| {
        text.replace("max_sessions = 9 }", "drain = true }").replace("max_sessions = 1 }", "weight = 2 }")
    });
    let moved = open(&gate, &accepted, of_b.cookie());
    assert_eq!((moved.at, moved.cookie()), (0, of_a.cookie()));
    // Leaves.
    gate.reload(|text| text.replace(&format!(", {{ address = \"{b}\", drain = true }}"), ""));
    let moved = open(&gate, &accepted, of_b.cookie());
    assert_eq!((moved.at, moved.cookie()), (0, of_a.cookie()));
}

/// With a key in a file, the cookies of two processes are equal, and so after a restart.
#[test]
fn a_key_in_a_file_outlives_the_process() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let keys = "cookie = { path = \"/open\", same_site = \"none\", max_age = \"1h\", secret_file = \"sticky-key\" }\n";
    let gates = [1, 2].map(|_| {
        let setup = Setup::new().upstream(&format!("balance = \"sticky_cookie\"\n{keys}"));
        let setup = setup.file("sticky-key", "a secret of at least 32 bytes, for tests");
        Gate::start(servers.iter().fold(setup, |setup, server| setup.to(server.address())))
    });
    let accepted = Upstream::accept_all(&servers);
    let first = open(&gates[0], &accepted, None);
    let set = first.answer.get("Set-Cookie").unwrap();
    let attributes = "Path=/open; HttpOnly; Max-Age=3600; Secure; SameSite=None";
    assert_eq!(set.split_once("; ").unwrap().1, attributes);
    let second = open(&gates[1], &accepted, first.cookie());
    assert_eq!((second.at, second.cookie()), (first.at, None));
}
