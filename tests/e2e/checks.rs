//! The active checks of servers, and servers that end their sessions early.

use std::net::{Shutdown, SocketAddr};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream, refusing, switching};
use crate::support::wire::{CLOSE, Frame, Head, PING, PONG};

/// Returns a setup whose servers have this check, at an interval.
fn checked(check: &str, interval: &str) -> Setup {
    let health = format!("check = \"{check}\"\ninterval = \"{interval}\"\nslow_start = \"0s\"");
    Setup::new().more(&format!("[upstream.main.health]\n{health}"))
}

/// Handles each connection to an upstream on a thread of its own, with the head of its request.
fn serve(upstream: &Upstream, handle: impl Fn(Server, Head) + Send + Sync + 'static) {
    let (accepted, handle) = (Upstream::accept_all(&[upstream.share()]), Arc::new(handle));
    thread::spawn(move || {
        for (mut server, _) in accepted {
            let handle = Arc::clone(&handle);
            thread::spawn(move || {
                // A check of the connection alone sends nothing.
                if server.stream.peek(&mut [0]).is_ok_and(|len| len > 0) {
                    let head = server.head();
                    handle(server, head);
                }
            });
        }
    });
}

/// Answers the requests of checks with a status, and passes on the requests of sessions.
fn serve_status(upstream: &Upstream, status: &Arc<AtomicU16>) -> (Receiver<Head>, Receiver<(Server, Head)>) {
    let ((checks, checked), (sessions, opened)) = (sync_channel(1000), sync_channel(8));
    let status = Arc::clone(status);
    serve(upstream, move |mut server, head| {
        if head.get("Upgrade").is_some() {
            let _ = sessions.send((server, head));
            return;
        }
        let _ = checks.send(head);
        let status = status.load(Ordering::Relaxed);
        server.send(format!("HTTP/1.1 {status} A\r\nContent-Length: 5\r\n\r\nhello").as_bytes());
    });
    (checked, opened)
}

/// Opens a session at any server, whose request arrives here.
fn open(gate: &Gate, opened: &Receiver<(Server, Head)>) -> Session {
    let mut client = Client::connect(gate);
    client.send(&Request::to("/open/").bytes());
    let (mut server, asked) = opened.recv_timeout(PATIENCE).unwrap();
    server.send(&switching(&asked, &[]));
    let answer = client.head();
    assert_eq!(answer.status(), 101);
    Session { client, server, asked, answer }
}

/// Returns a server of the first upstream, as the API shows it.
fn shown(api: &Api, index: usize) -> Value {
    api.get("/v1/upstreams")["upstreams"][0]["servers"][index].clone()
}

/// Waits until the API shows a server in this way.
fn wait_until(api: &Api, index: usize, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let until = Instant::now() + PATIENCE;
    loop {
        let server = shown(api, index);
        if is_so(&server) {
            return server;
        }
        assert!(Instant::now() < until, "not {what}: {server}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn has_passed(server: &Value) -> bool {
    server["last_check"]["passed"] == true
}

/// Returns a listening socket that keeps its port after a shutdown, since it was bound to this port.
fn mortal() -> (Socket, SocketAddr) {
    let (reserved, address) = refusing();
    drop(reserved);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.listen(16).unwrap();
    (socket, address)
}

/// A server that is killed gets no sessions any more before a client has tried it, and gets them again when it is back.
#[test]
fn a_killed_server_is_out_without_a_failed_upgrade_and_returns() {
    let (socket, address) = mortal();
    let (mortal, other, api) = (Upstream::of(&socket), Upstream::bind(), Api::new());
    // It gets every session while it is up.
    let servers = format!("servers = [{{ address = \"{address}\", weight = 1000 }}, \"{}\"]", other.address());
    let setup = checked("tcp", "100ms").upstream(&servers).upstream("retries = 0").more(&api.section());
    let gate = Gate::start(setup);
    let (opened, opened_at_other) = (sessions_of(&mortal), sessions_of(&other));
    open(&gate, &opened).close();
    wait_until(&api, 0, "checked", has_passed);

    socket.shutdown(Shutdown::Both).unwrap();
    let line = gate.log.next("server down");
    assert_eq!((&line["level"], &line["upstream"], &line["checks"]), (&json!("WARN"), &json!("main"), &json!(3)));
    assert_eq!(line["server"], address.to_string());
    assert!(line["reason"].as_str().unwrap().contains("refused"), "{line}");
    (0..5).for_each(|_| open(&gate, &opened_at_other).close());
    let server = shown(&api, 0);
    assert_eq!((&server["state"], &server["connect_failures"]), (&json!("down"), &json!(0)));
    assert!(server["last_check"]["error"].as_str().unwrap().contains("refused") && !has_passed(&server), "{server}");
    let (_, metrics) = api.ask("GET", "/metrics", None);
    let labels = format!("{{upstream=\"main\",server=\"{address}\"");
    let metrics = metrics.as_str().unwrap();
    assert!(metrics.contains(&format!("tollgate_upstream_healthy{labels}}} 0\n")), "{metrics}");
    for outcome in ["passed", "failed"] {
        let series = format!("tollgate_upstream_checks_total{labels},outcome=\"{outcome}\"}} ");
        assert!(metrics.contains(&series) && !metrics.contains(&(series + "0\n")), "{metrics}");
    }

    socket.listen(16).unwrap();
    let line = gate.log.next("server up");
    assert_eq!((&line["server"], &line["checks"]), (&json!(address.to_string()), &json!(2)));
    assert_eq!(shown(&api, 0)["state"], "up");
    let opened = sessions_of(&mortal);
    open(&gate, &opened).close();
    assert!(gate.log.all("server failed").is_empty() && gate.log.all("refused").is_empty());
}

/// Returns the sessions of an upstream, without its checks.
fn sessions_of(upstream: &Upstream) -> Receiver<(Server, Head)> {
    serve_status(upstream, &Arc::new(AtomicU16::new(200))).1
}

/// A server is down while it answers with an error. A single one still gets the upgrades, which would fail otherwise.
#[test]
fn a_status_from_400_on_means_down() {
    let (upstream, status, api) = (Upstream::bind(), Arc::new(AtomicU16::new(302)), Api::new());
    let (checks, opened) = serve_status(&upstream, &status);
    let setup = checked("http:/healthz?deep=1", "200ms").route("upstream_host = \"app.example\"");
    let gate = setup.more(&api.section()).start(&upstream);
    let asked = checks.recv_timeout(PATIENCE).unwrap();
    assert_eq!(asked.first_line, "GET /healthz?deep=1 HTTP/1.1");
    assert_eq!((asked.get("Host"), asked.get("Upgrade")), (Some("app.example"), None));
    wait_until(&api, 0, "checked", has_passed);
    for failing in [503, 404] {
        status.store(failing, Ordering::Relaxed);
        assert_eq!(gate.log.next("server down")["reason"], format!("status {failing}"));
        assert_eq!(shown(&api, 0)["state"], "down");
        open(&gate, &opened).close();
        assert_eq!(shown(&api, 0)["state"], "down");
        status.store(204, Ordering::Relaxed);
        gate.log.next("server up");
        assert_eq!(shown(&api, 0)["state"], "up");
    }
}

/// One server is dead, and the other one answers upgrades but not its check. It gets the upgrades all the same.
#[test]
fn a_server_that_answers_gets_the_upgrades_while_all_are_down() {
    let ((_reserved, dead), upstream, api) = (refusing(), Upstream::bind(), Api::new());
    let (_checks, opened) = serve_status(&upstream, &Arc::new(AtomicU16::new(404)));
    let servers = format!("servers = [\"{dead}\", \"{}\"]", upstream.address());
    let gate = Gate::start(checked("http:/healthz", "200ms").upstream(&servers).more(&api.section()));
    (0..2).for_each(|index| drop(wait_until(&api, index, "down", |server| server["state"] == "down")));
    let _sessions: Vec<_> = (0..8).map(|_| open(&gate, &opened)).collect();
    // The dead one has the fewest sessions all the time.
    assert!(shown(&api, 0)["connect_failures"].as_u64().unwrap() < 3);
    assert_eq!((&shown(&api, 0)["state"], &shown(&api, 1)["sessions"]), (&json!("down"), &json!(8)));
}

/// The check does an opening handshake, and closes with 1000 after the pong. A server that accepts clients and serves
/// none is down.
#[test]
fn a_websocket_server_that_sends_no_pong_is_down() {
    let (upstream, answers) = (Upstream::bind(), Arc::new(AtomicBool::new(true)));
    let (closes, closed) = sync_channel(1000);
    let does_answer = Arc::clone(&answers);
    serve(&upstream, move |mut server, head| {
        assert_eq!(head.first_line, "GET /ws HTTP/1.1");
        server.send(&switching(&head, &[]));
        server.send_text("welcome");
        loop {
            let frame = server.frame();
            assert!(frame.mask.is_some());
            match frame.opcode {
                PING if does_answer.load(Ordering::Relaxed) => server.send_frame(Frame::new(PONG, frame.payload)),
                CLOSE => {
                    server.send_frame(Frame::new(CLOSE, &frame.payload));
                    let _ = closes.send(frame.close_payload());
                    return server.expect_clean_end();
                }
                // The check has its timeout, and disconnects.
                _ => return drop(server.rest()),
            }
        }
    });
    let gate = checked("websocket:/ws", "300ms").start(&upstream);
    assert_eq!(closed.recv_timeout(PATIENCE).unwrap(), (Some(1000), String::new()));
    answers.store(false, Ordering::Relaxed);
    assert_eq!(gate.log.next("server down")["reason"], "no answer within 300ms");
    answers.store(true, Ordering::Relaxed);
    gate.log.next("server up");
}

/// Answers that are no WebSocket, each with the reason in the log.
#[test]
fn a_websocket_check_does_not_pass_without_a_websocket() {
    let cases: [(&str, fn(&mut Server, &Head)); 4] = [
        ("status 426", |server, _| server.send(b"HTTP/1.1 426 Upgrade\r\nContent-Length: 0\r\n\r\n")),
        ("a bad 101: accept", |server, head| {
            let answer = String::from_utf8(switching(head, &[])).unwrap();
            server.send(answer.replace("Accept: ", "Accept: x").as_bytes());
        }),
        ("disconnected instead of a pong", |server, head| {
            server.send(&switching(head, &[]));
            server.frame();
        }),
        ("a Close instead of a pong", |server, head| {
            server.send(&switching(head, &[]));
            server.send_frame(Frame::close(1013, "try again later"));
            server.rest();
        }),
    ];
    for (reason, answer) in cases {
        let upstream = Upstream::bind();
        serve(&upstream, move |mut server, head| answer(&mut server, &head));
        let gate = checked("websocket:/", "500ms").start(&upstream);
        assert_eq!(gate.log.next("server down")["reason"], reason);
    }
}

/// Checks reach servers as sessions do: over a Unix socket, by a name, and after a PROXY header, which names no client.
#[test]
fn checks_connect_as_sessions_do() {
    let (folder, api) = (Folder::new(), Api::new());
    let path = folder.path("checked.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    let named = Upstream::bind();
    let name = format!("localhost:{}", named.address().port());
    let setup = checked("tcp", "100ms").to(format!("unix:{}", path.display())).to(name).more(&api.section());
    let gate = Gate::start(setup);
    (0..2).for_each(|server| drop(wait_until(&api, server, "checked", has_passed)));
    drop(gate);

    let (upstream, api) = (Upstream::bind(), Api::new());
    let setup = checked("http:/", "10s").upstream("proxy_protocol = true").more(&api.section());
    let _gate = setup.start(&upstream);
    let (header, mut server) = upstream.accept_proxied();
    assert_eq!(header, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(server.head().get("Host"), Some(upstream.address().to_string().as_str()));
    server.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
    wait_until(&api, 0, "checked", has_passed);
}

#[test]
fn servers_are_not_checked_if_checks_are_off() {
    let (upstream, checked_one, api) = (Upstream::bind(), Upstream::bind(), Api::new());
    let (checks, _) = serve_status(&checked_one, &Arc::new(AtomicU16::new(200)));
    let other = format!(
        "[upstream.other]\nservers = [\"{}\"]\nhealth = {{ check = \"http:/\", interval = \"100ms\" }}\n[[route]]\nname = \
         \"other\"\npath = \"/other\"\nupstream = \"other\"\nauth = \"none\"",
        checked_one.address()
    );
    let gate = checked("off", "100ms").more(&other).more(&api.section()).start(&upstream);
    (0..10).for_each(|_| drop(checks.recv_timeout(PATIENCE).unwrap()));
    assert_eq!(shown(&api, 0)["last_check"], Value::Null);
    upstream.assert_untouched();
    drop(gate);
}

/// A reload keeps the state of a server and one that turns the checks off ends it.
#[test]
fn a_reload_keeps_the_state_of_a_server_and_checks_one_that_is_added() {
    let ((_taken, refused), added, api) = (refusing(), Upstream::bind(), Api::new());
    let (status, third) = (Arc::new(AtomicU16::new(500)), Upstream::bind());
    let (checks, _) = serve_status(&third, &status);
    let gate = Gate::start(checked("http:/", "100ms").to(refused).to(added.address()).more(&api.section()));
    serve_status(&added, &Arc::new(AtomicU16::new(200)));
    assert_eq!(gate.log.next("server down")["server"], refused.to_string());
    let last = format!("\"{}\"]", added.address());
    gate.reload(|text| {
        let text = text.replace("slow_start = \"0s\"", "slow_start = \"1h\"\nfall = 2");
        assert!(text.contains(&last));
        text.replace(&last, &format!("\"{}\", \"{}\"]", added.address(), third.address()))
    });
    assert_eq!(shown(&api, 0)["state"], "down");
    checks.recv_timeout(PATIENCE).unwrap();
    let line = gate.log.next("server down");
    assert_eq!((&line["server"], &line["checks"]), (&json!(third.address().to_string()), &json!(2)));
    assert_eq!((&shown(&api, 0)["state"], &shown(&api, 1)["state"]), (&json!("down"), &json!("up")));

    gate.reload(|text| text.replace("check = \"http:/\"", "check = \"off\""));
    wait_until(&api, 0, "forgotten", |server| server["state"] == "slow start" && server["last_check"].is_null());
    assert!(gate.log.all("server up").is_empty());
}

/// A server that accepts each session and disconnects at once has the fewest sessions, and would get them all. Its end of
/// a session counts when it disconnects, although the client is closed minutes later.
#[test]
fn a_server_whose_sessions_end_at_once_is_ejected() {
    let servers = [Upstream::bind(), Upstream::bind()];
    let accepted = Upstream::accept_all(&servers);
    let setup = Setup::new().to(servers[0].address()).to(servers[1].address()).upstream("reconnect_spread = \"10m\"");
    let gate = Gate::start(setup.more("[upstream.main.health]\ncheck = \"off\"\neject_after = 3"));
    let is_ejected = |line: &str| line.contains("server ejected");
    let is_early_end = |line: &String| line.contains("disconnects without a Close within a second of its 101");
    let mut early_ends = 0;
    let mut sessions = Vec::new();
    let until = Instant::now() + PATIENCE;
    while gate.log.count(is_ejected) == 0 {
        assert!(Instant::now() < until, "not ejected");
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
        server.open(&[]);
        assert_eq!(client.head().status(), 101);
        if index == 0 {
            drop(server);
            early_ends += 1;
            gate.log.wait_until("each early end", |lines| {
                lines.iter().filter(|line| is_early_end(line)).count() == early_ends
            });
        } else {
            sessions.push((client, server));
        }
    }
    let line = gate.log.next("server ejected");
    assert_eq!((&line["server"], &line["seconds"]), (&json!(servers[0].address().to_string()), &json!(10)));
    assert_eq!(line["error"], "disconnects without a Close within a second of its 101");
    assert!(line["failures"].as_u64().unwrap() >= 3, "{line}");
    // The server that keeps its sessions gets the next ones, although it has more.
    for _ in 0..3 {
        let mut client = Client::connect(&gate);
        client.send(&Request::to("/open/").bytes());
        let (mut server, index) = accepted.recv_timeout(PATIENCE).unwrap();
        assert_eq!(index, 1);
        server.open(&[]);
        assert_eq!(client.head().status(), 101);
        sessions.push((client, server));
    }
}
