//! The choice of an upstream's server, its kinds of addresses, its failures, and the listeners.

use std::io::Write;
use std::net::{Ipv6Addr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::mpsc::Receiver;

use crate::refusals::full_queue;
use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream, over_unix, refusing, switching};
use crate::support::wire::Head;

/// Returns a setup of one server for each of these upstreams.
fn setup_of(servers: &[Upstream]) -> Setup {
    servers.iter().fold(Setup::new(), |setup, server| setup.to(server.address()))
}

/// Opens a session at the server that gets it. Returns the session and the index of the server.
fn open_at_any(gate: &Gate, accepted: &Receiver<(Server, usize)>, request: &Request) -> (Session, usize) {
    let mut client = Client::connect(gate);
    client.send(&request.bytes());
    let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
    let asked = server.open(&[]);
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    (Session { client, server, asked, answer }, index)
}

#[test]
fn round_robin_uses_each_server_in_turn() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let gate = Gate::start(setup_of(&servers).upstream("balance = \"round_robin\""));
    for _ in 0..2 {
        for server in &servers {
            Session::open(&gate, server).close();
            assert_eq!(gate.log.next("session ended")["server"], server.address().to_string());
        }
    }
}

/// The server with the fewest sessions for its weight gets the next one, also after sessions have ended.
#[test]
fn the_server_with_the_fewest_sessions_gets_the_next_one() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let [heavy, light] = [&servers[0], &servers[1]].map(Upstream::address);
    let list = format!("servers = [{{ address = \"{heavy}\", weight = 2 }}, \"{light}\"]");
    let gate = Gate::start(Setup::new().upstream(&list));
    let accepted = Upstream::accept_all(&servers);
    let open = || open_at_any(&gate, &accepted, &Request::to("/open/"));
    let mut sessions: Vec<_> = (0..9).map(|_| open()).collect();
    assert_eq!(sessions.iter().filter(|(_, server)| *server == 0).count(), 6);
    for _ in 0..2 {
        let at = sessions.iter().position(|(_, server)| *server == 1).unwrap();
        sessions.remove(at).0.close();
        gate.log.next("session ended");
    }
    // The session counts until both its connections are closed, which the log does not show.
    let refilled: Vec<_> = (0..2).map(|_| open()).collect();
    assert!(refilled.iter().filter(|(_, server)| *server == 1).count() >= 1);
    sessions.into_iter().chain(refilled).for_each(|(session, _)| session.close());
}

/// A server at its `max_sessions` gets no more, nor does one that drains; a request that finds all servers so gets a
/// 503, until a session ends.
#[test]
fn full_and_draining_servers_get_no_sessions() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let [first, second, draining] = [0, 1, 2].map(|index| servers[index].address());
    let list = format!(
        "servers = [{{ address = \"{first}\", max_sessions = 1 }}, {{ address = \"{second}\", max_sessions = 2 }}, \
         {{ address = \"{draining}\", drain = true }}]\nqueue_max = 0"
    );
    let gate = Gate::start(Setup::new().upstream(&list));
    let accepted = Upstream::accept_all(&servers);
    let mut sessions: Vec<_> = (0..3).map(|_| open_at_any(&gate, &accepted, &Request::to("/open/"))).collect();
    let mut used: Vec<_> = sessions.iter().map(|(_, server)| *server).collect();
    used.sort_unstable();
    assert_eq!(used, [0, 1, 1]);
    let response = Client::connect(&gate).ask(&Request::to("/open/"));
    assert_eq!(response.head.status(), 503);
    assert!((1..=10).contains(&response.head.get("Retry-After").unwrap().parse::<u64>().unwrap()));
    let line = gate.log.next("refused");
    assert_eq!((&line["cause"], &line["upstream"]), (&"upstream_full".into(), &"main".into()), "{line}");
    let (session, freed) = sessions.pop().unwrap();
    session.close();
    // The place is free once both connections of the session are closed.
    let again = loop {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        match accepted.recv_timeout(std::time::Duration::from_secs(2)) {
            Ok((mut server, index)) => {
                server.open(&[]);
                assert_eq!(client.head().status(), 101);
                break index;
            }
            Err(_) => assert_eq!(client.response().head.status(), 503),
        }
    };
    assert_eq!(again, freed);
}

/// Requests with the same value go to the same server, and the values use all servers.
#[test]
fn a_hash_keeps_equal_values_on_one_server() {
    let servers = [Upstream::bind(), Upstream::bind(), Upstream::bind()];
    let gate = Gate::start(setup_of(&servers).upstream("balance = \"hash:path:rest\""));
    let accepted = Upstream::accept_all(&servers);
    let mut used = std::collections::BTreeSet::new();
    for room in 0..8 {
        let chosen = [(); 2].map(|()| {
            let (session, server) = open_at_any(&gate, &accepted, &Request::to(&format!("/open/{room}")));
            session.close();
            server
        });
        assert_eq!(chosen[0], chosen[1]);
        used.insert(chosen[0]);
    }
    assert!(used.len() > 1, "{used:?}");
}

/// If a server refuses the connection, the next server is tried.
#[test]
fn the_next_server_is_tried_after_a_failure() {
    let (first, (_taken, gone)) = (Upstream::bind(), refusing());
    let gate = Gate::start(Setup::new().to(first.address()).to(gone));
    for _ in 0..4 {
        Session::open(&gate, &first).close();
        assert_eq!(gate.log.next("session ended")["server"], first.address().to_string());
    }
}

/// A server that drops SYNs does not keep the next one from being tried: each has a `connect_timeout` of its own.
#[test]
fn the_next_server_is_tried_after_connect_timeout() {
    let (swallowing, waiting) = full_queue();
    let (silent, second) = (swallowing.local_addr().unwrap().as_socket().unwrap(), Upstream::bind());
    let gate = Gate::start(Setup::new().upstream("connect_timeout = \"100ms\"").to(silent).to(second.address()));
    for _ in 0..4 {
        Session::open(&gate, &second).close();
        assert_eq!(gate.log.next("session ended")["server"], second.address().to_string());
    }
    drop(waiting);
}

#[test]
fn an_upstream_on_a_unix_socket_works() {
    let folder = Folder::new();
    let path = folder.path("upstream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let server = format!("unix:{}", path.to_str().unwrap());
    let gate = Gate::start(Setup::new().to(&server));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut upstream = over_unix(listener.accept().unwrap().0);
    upstream.open(&[]);
    assert_eq!(client.head().status(), 101);
    client.send_text("over a Unix socket");
    upstream.expect_text("over a Unix socket");
    upstream.send_text("and back");
    client.expect_text("and back");
    drop(upstream);
    assert_eq!(client.expect_close(1014), "upstream went away");
    drop(client);
    assert_eq!(gate.log.next("session ended")["server"], server);
}

#[test]
fn host_names_are_resolved() {
    let upstream = Upstream::bind();
    let server = format!("localhost:{}", upstream.address().port());
    let gate = Gate::start(Setup::new().to(&server));
    Session::open(&gate, &upstream).close();
    assert_eq!(gate.log.next("session ended")["server"], server);

    // A name that does not resolve (RFC 6761 section 6.4) counts as an unreachable server.
    let gate = Gate::start(Setup::new().to("nowhere.invalid:80"));
    assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 502);
}

#[test]
fn an_ipv6_listener_works() {
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        eprintln!("skipped: no IPv6 on this machine");
        return;
    }
    let upstream = Upstream::bind();
    let gate = Setup::new().listener("address = \"[::1]:0\"").start(&upstream);
    let session = Session::open(&gate, &upstream);
    assert_eq!(session.asked.get("X-Forwarded-For"), Some("::1"));
    let forwarded = "for=\"[::1]\";host=\"chat.example.com\";proto=https";
    assert_eq!(session.asked.get("Forwarded"), Some(forwarded));
    session.close();
    assert_eq!(gate.log.next("session ended")["client"], "::1");
}

/// Every listener logs its address, and all serve the same routes.
#[test]
fn all_listeners_serve_the_same_routes() {
    let upstream = Upstream::bind();
    let second = "[[listener]]\naddress = \"127.0.0.1:0\"\n\
                  certificates = [{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]";
    let mut gate = Setup::new().more(second).start(&upstream);
    Session::open(&gate, &upstream).close();
    gate.go_to_next_listener();
    Session::open(&gate, &upstream).close();
}

/// Returns the sections of a second upstream and its route `/other`.
fn other_route(upstream: &Upstream) -> String {
    format!(
        "[upstream.other]\nservers = [\"{}\"]\n\
         [[route]]\nname = \"other\"\npath = \"/other\"\nupstream = \"other\"\nauth = \"none\"\n",
        upstream.address()
    )
}

/// More requests than `max_handshakes` wait for a server that never answers. Meanwhile another route is served, and
/// further requests are rejected.
#[test]
fn a_hung_upstream_does_not_delay_other_routes() {
    const WAITING: usize = 40;
    let (hung, other) = (Upstream::bind(), Upstream::bind());
    let gate = Setup::new()
        .server("max_sessions = 100\nmax_handshakes = 4")
        .upstream(&format!("response_timeout = \"5m\"\nmax_pending_requests = {WAITING}"))
        .more(&other_route(&other))
        .start(&hung);
    let ask = || {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        client
    };
    let waiting: Vec<Client> = (0..WAITING).map(|_| ask()).collect();
    // All requests have arrived at the upstream, so all of them are pending.
    let mut asked: Vec<Server> = (0..WAITING).map(|_| hung.accept()).collect();
    for server in &mut asked {
        server.head();
    }
    for _ in 0..3 {
        Session::open_with(&gate, &other, &Request::to("/other"), &[]).close();
        let response = Client::connect(&gate).ask(&Request::to("/open/"));
        assert_eq!(response.head.status(), 503);
        assert!((1..=10).contains(&response.head.get("Retry-After").unwrap().parse::<u64>().unwrap()));
    }
    drop(waiting);
}

/// A client that disconnects while its request is pending is logged and releases its limits.
#[test]
fn a_client_that_disconnects_before_its_response_releases_its_limits() {
    let upstream = Upstream::bind();
    let server = "max_sessions = 1\nmax_handshakes = 1";
    let gate = Setup::new().server(server).upstream("max_pending_requests = 1").start(&upstream);
    for _ in 0..3 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/here").bytes());
        let mut server = upstream.accept();
        server.head();
        drop(client);
        let line = gate.log.next("refused");
        assert_eq!((line["cause"].as_str(), line["status"].as_u64()), (Some("client_gone"), Some(499)), "{line}");
        assert_eq!((line["route"].as_str(), line["path"].as_str()), (Some("open"), Some("/open/here")), "{line}");
        server.expect_end();
    }
    Session::open(&gate, &upstream).close();
    assert_eq!(gate.log.all("refused").len(), 3);
}

/// A final status whose body does not end is forwarded without the body and the headers that describe it.
#[test]
fn a_status_is_forwarded_without_an_incomplete_body() {
    let cases: &[(&str, u16)] = &[
        ("HTTP/1.1 401 Unauthorized\r\nX-Kept: yes\r\n\r\n", 401),
        ("HTTP/1.1 401 Unauthorized\r\nX-Kept: yes\r\n\r\nthe beginning", 401),
        ("HTTP/1.0 403 Forbidden\r\nX-Kept: yes\r\n\r\nthe beginning", 403),
        ("HTTP/1.1 403 Forbidden\r\nX-Kept: yes\r\nContent-Length: 100\r\n\r\nless", 403),
        ("HTTP/1.1 500 Oops\r\nX-Kept: yes\r\nContent-Length: 9223372036854775807\r\n\r\nless", 500),
        ("HTTP/1.1 429 Slow\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n", 429),
        ("HTTP/1.1 429 Slow\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nwith\r\n", 429),
        ("HTTP/1.1 429 Slow\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", 429),
        ("HTTP/1.1 429 Slow\r\nX-Kept: yes\r\nTransfer-Encoding: chunked\r\n\r\nno size\r\n", 429),
        ("HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 404 Gone\r\nX-Kept: yes\r\n\r\n", 404),
        ("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 302 Found\r\nX-Kept: yes\r\nContent-Type: text/plain\r\n\r\n", 302),
        ("HTTP/1.1 204 No Content\r\nX-Kept: yes\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\nX-Kept: yes\r\nContent-Length: 10\r\n\r\n", 304),
        ("HTTP/1.1 200 OK\r\nX-Kept: yes\r\n\r\n", 200),
    ];
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    // All at once, since each takes the whole timeout for a body.
    let asked = cases.iter().map(|(answer, _)| {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(answer.as_bytes());
        (client, server)
    });
    let asked: Vec<(Client, Server)> = asked.collect();
    for ((mut client, server), (answer, status)) in asked.into_iter().zip(cases) {
        let response = client.response();
        assert_eq!((response.head.status(), response.body.as_str()), (*status, ""), "{answer:?}");
        assert_eq!(response.head.get("X-Kept"), Some("yes"), "{answer:?}");
        assert_eq!(response.head.get("Content-Type"), None, "{answer:?}");
        drop(server);
    }
    assert!(gate.log.all("refused").iter().all(|line| line["cause"] == "upstream_status"));

    // A body that never ends is stopped at the size limit.
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = upstream.accept();
    server.head();
    server.send(b"HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunk = [b"2000\r\n".as_slice(), &[b'a'; 0x2000], b"\r\n"].concat();
    while server.stream.write_all(&chunk).is_ok() {}
    assert_eq!(client.response().head.status(), 403);
}

/// A proxy has to remove white space before a colon and line folding (RFC 9112 sections 5.1 and 5.2).
#[test]
fn obsolete_header_syntax_is_normalized() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let lines = ["X-Space : x", "X-Tab\t: y", "X-Folded: one\r\n two\r\n\tthree", "X-Plain: z"];
    let check = |head: &Head| {
        for (name, value) in [("X-Space", "x"), ("X-Tab", "y"), ("X-Folded", "one two three"), ("X-Plain", "z")] {
            assert_eq!(head.get(name), Some(value), "{head:?}");
        }
    };
    let mut session = Session::open_with(&gate, &upstream, &Request::to("/open/"), &lines);
    check(&session.answer);
    session.client.send_text("through");
    session.server.expect_text("through");
    session.close();

    // The same for the headers of the handshake itself, and for a rejection.
    let asked = |client: &mut Client| {
        client.send(&Request::to("/open/").bytes());
        let mut server = upstream.accept();
        let asked = server.head();
        (server, String::from_utf8(switching(&asked, &[])).unwrap())
    };
    let mut client = Client::connect(&gate);
    let (mut server, answer) = asked(&mut client);
    server.send(answer.replace("Upgrade:", "Upgrade :").replace("Accept: ", "Accept \t:\r\n ").as_bytes());
    assert_eq!(client.head().status(), 101);
    let mut client = Client::connect(&gate);
    let (mut server, _) = asked(&mut client);
    server
        .send(format!("HTTP/1.1 403 Forbidden\r\nContent-Length : 3\r\n{}\r\n\r\nno!", lines.join("\r\n")).as_bytes());
    let response = client.response();
    assert_eq!((response.head.status(), response.body.as_str()), (403, "no!"));
    check(&response.head);
}

#[test]
fn title_case_headers_sets_the_case_of_names() {
    let upstream = Upstream::bind();
    for (setting, name) in [("true", "Sec-Websocket-Key: "), ("false", "sec-websocket-key: ")] {
        let gate = Setup::new().upstream(&format!("title_case_headers = {setting}")).start(&upstream);
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let head = upstream.accept().head_text();
        assert!(head.contains(name), "{head}");
    }
}

/// A server that accepts no connection is logged once, however many requests fail, and so is its recovery.
#[test]
fn server_failure_and_recovery_are_logged_once() {
    let (socket, address) = refusing();
    let gate = Gate::start(Setup::new().to(address));
    for _ in 0..5 {
        assert_eq!(Client::connect(&gate).ask(&Request::to("/open/")).head.status(), 502);
    }
    let failed = gate.log.all("server failed");
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    let server = address.to_string();
    assert_eq!(
        (&failed["level"], &failed["upstream"], &failed["server"]),
        (&"WARN".into(), &"main".into(), &server.clone().into())
    );
    assert!(failed["error"].as_str().is_some_and(|error| error.contains("refused")), "{failed}");
    let down = gate.log.all("no server of the upstream accepts a connection");
    let [down] = down.as_slice() else { panic!("{down:?}") };
    assert_eq!((&down["level"], &down["upstream"]), (&"ERROR".into(), &"main".into()));

    socket.listen(16).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for _ in 0..2 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        Server::new(std::net::TcpStream::from(socket.accept().unwrap().0), false).open(&[]);
        assert_eq!(client.head().status(), 101);
    }
    let recovered = gate.log.next("server recovered");
    assert_eq!((&recovered["level"], &recovered["server"]), (&"WARN".into(), &server.into()));
    assert_eq!(recovered["failures"], 5, "{recovered}");
    assert_eq!(gate.log.all("server recovered").len(), 1);
}

/// A server that drops SYNs delays one request by `connect_timeout`, not every second one.
#[test]
fn a_failed_server_is_skipped_for_a_while() {
    let (swallowing, waiting) = full_queue();
    let (silent, second) = (swallowing.local_addr().unwrap().as_socket().unwrap(), Upstream::bind());
    let setup = Setup::new().upstream("connect_timeout = \"100ms\"").log("level = \"debug\"");
    let gate = Gate::start(setup.to(silent).to(second.address()));
    for _ in 0..20 {
        Session::open(&gate, &second).close();
    }
    assert_eq!(gate.log.all("server failed").len(), 1);
    assert!(gate.log.all("no server of the upstream accepts a connection").is_empty());
    // The server is tried again every 5 s, and these sessions may take longer than that.
    let again = gate.log.all("server failed again").len();
    assert!(again < 5, "tried {again} times again");
    drop(waiting);
}

/// A server that answers every upgrade with an error is ejected although it has the fewest sessions, and the log says
/// why.
#[test]
fn consecutive_errors_eject_a_server() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let accepted = Upstream::accept_all(&servers);
    let gate = Gate::start(setup_of(&servers).more("[upstream.main.health]\neject_after = 3"));
    let (mut failures, mut sessions) = (0, Vec::new());
    for _ in 0..20 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
        if index == 0 {
            server.head();
            server.send(b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n");
            assert_eq!(client.response().head.status(), 500);
            failures += 1;
        } else {
            server.open(&[]);
            assert_eq!(client.head().status(), 101);
            sessions.push((client, server));
        }
    }
    assert_eq!((failures, sessions.len()), (3, 17));
    let line = gate.log.next("server ejected");
    let server = servers[0].address().to_string();
    assert_eq!((&line["level"], &line["server"], &line["upstream"]), (&"WARN".into(), &server.into(), &"main".into()));
    assert_eq!((&line["failures"], &line["seconds"], &line["error"]), (&3.into(), &10.into(), &"status 500".into()));
}

/// A server that accepts connections and never answers is ejected although its clients leave before its timeout.
#[test]
fn clients_that_leave_while_they_wait_eject_a_server() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let accepted = Upstream::accept_all(&servers);
    let gate = Gate::start(setup_of(&servers).more("[upstream.main.health]\neject_after = 2"));
    let (mut left, mut sessions) = (Vec::new(), Vec::new());
    while left.len() < 2 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
        if index == 0 {
            server.head();
            // A client whose own timeout is longer than the half second from which on its leaving counts.
            std::thread::sleep(std::time::Duration::from_millis(700));
            left.push(server);
        } else {
            server.open(&[]);
            assert_eq!(client.head().status(), 101);
            sessions.push((client, server));
        }
    }
    let line = gate.log.next("server ejected");
    let server = servers[0].address().to_string();
    assert_eq!((&line["server"], &line["error"]), (&server.into(), &"the client left while it waited".into()));
}

/// The 101 of a server that picks a subprotocol which the client did not offer depends on the client.
#[test]
fn a_subprotocol_that_was_not_offered_is_no_failure_of_the_server() {
    let upstream = Upstream::bind();
    let health = "[upstream.main.health]\neject_after = 1\neject_max = \"100%\"";
    let gate = Setup::new().more(health).start(&upstream);
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    upstream.accept().open(&["Sec-WebSocket-Protocol: chat"]);
    assert_eq!(client.response().head.status(), 502);
    Session::open(&gate, &upstream).close();
    assert!(gate.log.all("server failed").is_empty() && gate.log.all("server ejected").is_empty());
}

/// A 101 that does not complete the handshake counts as a failure, and the only server is never ejected.
#[test]
fn the_last_server_is_not_ejected() {
    let upstream = Upstream::bind();
    let gate = Setup::new().more("[upstream.main.health]\neject_after = 1").start(&upstream);
    for _ in 0..5 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let mut server = upstream.accept();
        server.head();
        server.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
        assert_eq!(client.response().head.status(), 502);
    }
    let failed = gate.log.all("server failed");
    let [failed] = failed.as_slice() else { panic!("{failed:?}") };
    assert!(failed["error"].as_str().is_some_and(|error| error.starts_with("a bad 101")), "{failed}");
    Session::open(&gate, &upstream).close();
    assert_eq!(gate.log.next("server recovered")["failures"], 5);
    assert!(gate.log.all("server ejected").is_empty());
}

/// A request tries as many further servers as `retries` says.
#[test]
fn retries_limits_the_number_of_servers() {
    for (retries, expected) in [(0, 502), (1, 502), (2, 101)] {
        let (last, gone) = (Upstream::bind(), [refusing(), refusing()]);
        let policy = format!("balance = \"round_robin\"\nretries = {retries}");
        let gate = Gate::start(Setup::new().upstream(&policy).to(gone[0].1).to(gone[1].1).to(last.address()));
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        if expected == 101 {
            last.accept().open(&[]);
        }
        assert_eq!(client.head().status(), expected, "{retries}");
        let failed = usize::min(retries + 1, 2);
        (0..failed).for_each(|_| drop(gate.log.next("server failed")));
        assert_eq!(gate.log.all("server failed").len(), failed);
        assert!(gate.log.all("no server of the upstream accepts a connection").is_empty());
    }
}

/// A connection that breaks before the response is retried at another server; a malformed response is not.
#[test]
fn a_connection_that_breaks_before_its_response_is_retried() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let gate = Gate::start(setup_of(&servers).upstream("balance = \"round_robin\""));
    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    servers[0].accept().head();
    let mut second = servers[1].accept();
    let asked = second.open(&[]);
    assert_eq!(client.head().status(), 101);
    client.send_text("hello");
    second.expect_text("hello");
    assert!(asked.get("Sec-WebSocket-Key").is_some());

    let mut client = Client::connect(&gate);
    client.send(&Request::to("/open/").bytes());
    let mut server = servers[1].accept();
    server.head();
    server.send(b"SSH-2.0-OpenSSH\r\n");
    assert_eq!(client.response().head.status(), 502);
    servers[0].assert_untouched();
}
