//! Upgrades as clients, upstreams and operators see them: sockets, limits, tickets, revocations, the API and the command.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use rustix::process::Signal;
use rustls::HandshakeKind;
use rustls::version::{TLS12, TLS13};
use serde_json::{Value, json};

use super::{Over, PROGRAM, Stage, ask, echo, pid_of, silent_client, to, wait_for_take_over};
use crate::admin::expect_closed;
use crate::support::PATIENCE;
use crate::support::gate::{Folder, command};
use crate::support::pki::{Leaf, authority_pem, client_config, plain_client_config, token};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::tls_server;
use crate::support::upstream::switching;
use crate::support::wire::{BINARY, CLOSE, Frame, PING, PONG, Peer};

fn room(claims: &Value) -> Request {
    Request::to("/room/blue").bearer(&token(claims))
}

/// Clients connect all the time. None is rejected, and no connection in the queue of the listener is lost.
#[test]
fn new_connections_are_accepted_all_the_time() {
    const THREADS: usize = 3;
    let mut stage = Stage::new(Setup::new().server("max_sessions = 200\nmax_handshakes = 200"));
    let (over, opened) = (Over::default(), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (upstream, address, guard) = (stage.upstream.share(), stage.gate.address(), over.guard());
        scope.spawn(move || {
            loop {
                let mut server = upstream.accept();
                if server.open(&[]).first_line.starts_with("GET /open/last") {
                    return;
                }
                scope.spawn(|| echo(server));
            }
        });
        let mut clients = Vec::new();
        for number in 0..THREADS {
            let (over, opened) = (&over, &opened);
            clients.push(scope.spawn(move || {
                while !over.get() {
                    let stream = TcpStream::connect(address).expect("the proxy accepts");
                    let mut client = Client::handshake(stream, plain_client_config(), "chat.example.com");
                    client.send(&Request::to("/open/session").bytes());
                    assert_eq!(client.head().status(), 101);
                    client.send_text(&format!("thread {number}"));
                    client.expect_text(&format!("thread {number}"));
                    client.send_frame(Frame::close(1000, ""));
                    client.expect_close(1000);
                    client.expect_clean_end();
                    opened.fetch_add(1, Ordering::Relaxed);
                }
            }));
        }
        for _ in 0..4 {
            let before = opened.load(Ordering::Relaxed);
            let (_, answer) = stage.upgrade();
            assert_eq!((&answer["failed"], &answer["drained"]), (&json!(0), &json!(0)), "{answer}");
            let until = Instant::now() + PATIENCE;
            while opened.load(Ordering::Relaxed) < before + 2 * THREADS {
                assert!(Instant::now() < until, "no new sessions");
                thread::yield_now();
            }
        }
        drop(guard);
        // The upstream accepts no connection after the last one.
        clients.into_iter().for_each(|client| client.join().unwrap());
        let mut last = Client::connect(&stage.gate);
        last.send(&Request::to("/open/last").bytes());
        assert_eq!(last.head().status(), 101);
    });
}

/// A connection whose handshake began before the upgrade is completed, and its session is in the new process then.
#[test]
fn a_handshake_that_is_in_progress_is_completed() {
    let mut stage = Stage::new(Setup::new());
    let mut waiting = Client::connect(&stage.gate);
    waiting.send(&Request::to("/open/").bytes());
    let mut server = stage.upstream.accept();
    let asked = server.head();
    let (status, answer) = thread::scope(|scope| {
        let upgrade = scope.spawn(|| ask(&stage.api, &json!({})));
        // The new process accepts while the earlier one waits for this upstream.
        stage.gate.log.wait_until("a listener of the new process", |lines| {
            lines.iter().filter(|line| line.contains("\"listening\"")).count() >= 2
        });
        stage.open().close();
        server.send(&switching(&asked, &[]));
        assert_eq!(waiting.head().status(), 101);
        upgrade.join().unwrap()
    });
    assert_eq!((status, &answer["failed"]), (200, &json!(0)), "{answer}");
    let earlier = stage.gate.follow(pid_of(&answer));
    let mut session = Session { client: waiting, server, asked: asked.clone(), answer: asked };
    session.echo("moved after its 101");
    session.close();
    earlier.wait_end();
}

/// What cannot move is closed as at a stop, and the rest moves.
#[test]
fn sessions_that_cannot_move_drain() {
    let leaf = Leaf::new(&["chat.internal"]);
    let tls = "tls = { ca = \"servers.pem\", server_name = \"chat.internal\" }";
    let mut stage = Stage::new(Setup::new());
    let mut moved = stage.open();
    let old = Client::connect_with(&stage.gate, Arc::new(client_config(&[&TLS12])), "chat.example.com");
    let drained = Session::open_over(old, &stage.upstream, &Request::to("/open/"), &[]);
    let (earlier, answer) = stage.upgrade();
    assert_eq!((&answer["moved"], &answer["drained"], &answer["failed"]), (&json!(1), &json!(1), &json!(0)));
    expect_closed(drained, 1001, "going away");
    earlier.wait_end();
    moved.echo("in the new process");
    moved.close();

    let mut stage = Stage::new(Setup::new().server("record_layer = \"rustls\""));
    let drained = stage.open();
    let (earlier, answer) = stage.upgrade();
    assert_eq!((&answer["moved"], &answer["drained"], &answer["failed"]), (&json!(0), &json!(1), &json!(0)));
    expect_closed(drained, 1001, "going away");
    earlier.wait_end();

    let mut stage = Stage::new(Setup::new().upstream(tls).file("servers.pem", &authority_pem()));
    let config = tls_server::config(&leaf, &[&TLS13], false);
    let (mut client, mut server) = tls_server::open(&stage.gate, &stage.upstream, &config);
    let (earlier, answer) = stage.upgrade();
    assert_eq!((&answer["moved"], &answer["drained"], &answer["failed"]), (&json!(0), &json!(1), &json!(0)));
    assert_eq!(client.expect_close(1001), "going away");
    server.expect_close(1001);
    client.send_frame(Frame::close(1001, ""));
    server.send_frame(Frame::close(1001, ""));
    client.expect_clean_end();
    drop((client, server));
    earlier.wait_end();
}

/// The earlier process ends without unlinking the sockets that the new one uses.
#[test]
fn unix_sockets_are_served_after_the_earlier_process_has_ended() {
    let api = crate::admin::Api::new();
    let path = api.socket().with_file_name("http.sock");
    let listener = format!("[[listener]]\naddress = \"unix:{}\"\ntls = false", path.display());
    let mut stage = Stage::new(Setup::new().more(&listener));
    let upstream = stage.upstream.share();
    let open = || {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut client = Peer::new(stream, true);
        client.send(&Request::to("/open/").bytes());
        let mut server = upstream.accept();
        server.open(&[]);
        assert_eq!(client.head().status(), 101);
        (client, server)
    };
    let mut sessions = vec![open()];
    for _ in 0..2 {
        let (earlier, answer) = stage.upgrade();
        assert_eq!(answer["failed"], 0, "{answer}");
        earlier.wait_end();
        sessions.push(open());
        assert_eq!(stage.api.get("/v1/info")["pid"], stage.gate.pid().as_raw_nonzero().get());
    }
    let (mut client, mut server) = sessions.pop().unwrap();
    client.send_text("plain");
    server.expect_text("plain");
    drop((sessions, client, server));
    stage.gate.signal(Signal::TERM);
    stage.gate.wait_exit();
    assert!(!path.exists() && !stage.api.socket().exists(), "the last process unlinks them");
}

/// The quotas of a session and of a subject continue, and sessions count in their limits.
#[test]
fn quotas_and_limits_continue() {
    let limits = "message_rate = \"1/h\"\nmessage_burst = 5\nrate_key = \"subject\"\nsessions_per_subject = 2";
    let mut stage = Stage::new(Setup::new().room_limits(limits));
    let (ada, bob) = (json!({ "sub": "ada" }), json!({ "sub": "bob" }));
    let mut first = stage.open_with(&room(&ada));
    let mut other = stage.open_with(&room(&bob));
    first.echo("two");
    stage.move_all(2);
    first.echo("three");
    let mut second = stage.open_with(&room(&ada));
    second.echo("five");
    let rejected = Client::connect(&stage.gate).ask(&room(&ada));
    assert!(matches!(rejected.head.status(), 429 | 503), "{rejected:?}");
    stage.move_all(3);
    first.client.send_text("six");
    first.expect_closed(1008, "message rate exceeded");
    second.client.send_text("six");
    second.expect_closed(1008, "message rate exceeded");
    other.echo("two");
    other.close();
}

/// The client's answer to a ping of the earlier process is consumed by the new one, and a missing one ends the session.
#[test]
fn pings_and_their_timeouts_continue() {
    let limits = "ping_interval = \"1s\"\npong_timeout = \"4s\"\nclose_timeout = \"100ms\"";
    let mut stage = Stage::new(Setup::new().limits(limits));
    let (mut answers, mut silent) = (stage.open(), stage.open());
    let ping = answers.client.frame();
    assert_eq!((ping.opcode, silent.client.frame().opcode), (PING, PING));
    stage.move_all(2);
    answers.client.send_frame(Frame { opcode: PONG, ..ping });
    answers.client.send_text("behind the pong");
    answers.server.expect_text("behind the pong");
    silent.server.expect_close(1001);
    silent.server.send_frame(Frame::close(1001, ""));
    answers.server.send_text("still here");
    while answers.client.frame().opcode == PING {}
    let line = stage.gate.log.next("session ended");
    assert_eq!(line["request_id"], silent.asked.get("x-request-id").unwrap(), "{line}");
}

/// The end of a token is known in the new process, and a ticket and a revocation of the earlier one are.
#[test]
fn admission_continues() {
    let mut stage = Stage::new(Setup::new());
    let config = Arc::new(client_config(&[&TLS13]));
    let resume = |stage: &Stage, expected: HandshakeKind| {
        let client = Client::connect_with(&stage.gate, Arc::clone(&config), "chat.example.com");
        assert_eq!(client.stream.conn.handshake_kind(), Some(expected));
        Session::open_over(client, &stage.upstream, &Request::to("/open/"), &[]).close();
        stage.api.wait_for_sessions(0);
    };
    resume(&stage, HandshakeKind::Full);
    assert_eq!(stage.api.ask("POST", "/v1/revocations", Some(&json!({ "auth": "users", "subject": "eve" }))).0, 201);
    let exp = jsonwebtoken::get_current_timestamp() + 6;
    let mut expires = stage.open_with(&room(&json!({ "exp": exp })));
    stage.move_all(1);
    let rejected = Client::connect(&stage.gate).ask(&room(&json!({ "sub": "eve", "iat": exp - 10 })));
    assert_eq!(rejected.head.status(), 401, "{rejected:?}");
    expires.echo("not expired");
    let id = expires.asked.get("x-request-id").unwrap().to_owned();
    let session = stage.api.get(&format!("/v1/sessions/{id}"));
    assert_eq!((&session["messages_in"], &session["subject"]), (&json!(2), &json!("ada")), "{session}");
    expect_closed(expires, 1008, "token expired");
    stage.api.wait_for_sessions(0);
    resume(&stage, HandshakeKind::Resumed);
}

/// A negotiated extension is still in use, and an operator reaches a session that has moved.
#[test]
fn extensions_and_commands_continue() {
    let mut stage = Stage::new(Setup::new());
    let offer = "Sec-WebSocket-Extensions: permessage-deflate";
    let compressed = Frame::new(BINARY, [0xaa, 0]).rsv(4);
    let request = Request::to("/open/").with(offer);
    let mut session = Session::open_with(&stage.gate, &stage.upstream, &request, &[offer]);
    for _ in 0..2 {
        session.client.send_frame(compressed.clone());
        assert_eq!(session.server.frame().rsv, 4);
        session.server.send_frame(compressed.clone());
        assert_eq!(session.client.frame().rsv, 4);
        stage.move_all(1);
    }
    let message = json!({ "filter": { "route": "open" }, "text": "a notice" });
    assert_eq!(stage.api.ask("POST", "/v1/sessions/send", Some(&message)), (202, json!({ "selected": 1 })));
    session.client.expect_text("a notice");
    let target = format!("/v1/sessions/{}?code=4003&reason=by%20hand", session.asked.get("x-request-id").unwrap());
    assert_eq!(stage.api.ask("DELETE", &target, None).0, 204);
    expect_closed(session, 4003, "by hand");
}

/// Returns the counters of the process that answers.
fn counters(stage: &Stage) -> BTreeMap<String, f64> {
    let text = stage.api.get("/metrics");
    let lines = text.as_str().unwrap().lines().filter(|line| !line.starts_with('#'));
    let totals = lines
        .filter_map(|line| line.rsplit_once(' '))
        .filter(|(name, _)| name.contains("_total") && !name.starts_with("process_"));
    totals.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect()
}

/// systemd stops all processes of the service. One that was replaced drains already, and a first signal does not cut it.
#[test]
fn a_stop_signal_does_not_cut_sessions_that_drain() {
    let mut stage = Stage::new(Setup::new().server("drain_timeout = \"5m\""));
    let old = Client::connect_with(&stage.gate, Arc::new(client_config(&[&TLS12])), "chat.example.com");
    let mut drained = Session::open_over(old, &stage.upstream, &Request::to("/open/"), &[]);
    let (earlier, _) = stage.upgrade();
    drained.client.expect_close(1001);
    drained.server.expect_close(1001);
    earlier.signal(Signal::TERM);
    drained.client.expect_nothing_yet();
    drained.client.send_frame(Frame::close(1001, ""));
    drained.server.send_frame(Frame::close(1001, ""));
    drained.client.expect_clean_end();
    drop(drained);
    earlier.wait_end();
}

/// A revocation in the new process ends sessions that drain in the earlier one, also two upgrades later.
#[test]
fn revocations_reach_sessions_that_drain() {
    // The drain closes a session every 10 ms, with code 1001: some are open when the revocation arrives.
    const COUNT: usize = 400;
    let mut stage = Stage::new(Setup::new().server("drain_timeout = \"5m\"\nmax_sessions = 500"));
    let config = Arc::new(client_config(&[&TLS12]));
    let mut sessions: Vec<_> = (0..COUNT)
        .map(|_| {
            let old = Client::connect_with(&stage.gate, Arc::clone(&config), "chat.example.com");
            Session::open_over(old, &stage.upstream, &room(&json!({ "sub": "ada" })), &[])
        })
        .collect();
    let (earlier, answer) = stage.upgrade();
    assert_eq!((&answer["moved"], &answer["drained"]), (&json!(0), &json!(COUNT)), "{answer}");
    let (between, _) = stage.upgrade();
    let revoked = stage.api.ask("POST", "/v1/revocations", Some(&json!({ "auth": "users", "subject": "ada" })));
    assert_eq!(revoked.0, 201, "{revoked:?}");
    let mut codes = Vec::new();
    for session in &mut sessions {
        let close = session.client.frame();
        assert_eq!(close.opcode, CLOSE);
        codes.push(close.close_payload().0.unwrap());
        session.client.send_frame(close);
    }
    assert!(codes.contains(&1008) && codes.iter().all(|code| [1001, 1008].contains(code)), "{codes:?}");
    drop(sessions);
    earlier.wait_end();
    between.wait_end();
}

/// Counters do not start again at 0.
#[test]
fn counters_continue() {
    let mut stage = Stage::new(Setup::new());
    for _ in 0..3 {
        stage.open().close();
    }
    stage.api.wait_for_sessions(0);
    let before = counters(&stage);
    assert!(before.values().any(|value| *value >= 3.0), "{before:?}");
    stage.move_all(0);
    let after = counters(&stage);
    for (name, value) in before {
        let now = after.get(&name).unwrap_or_else(|| panic!("{name} is missing"));
        assert!(*now >= value, "{name}: {value}, then {now}");
    }
}

/// The new process also has what the earlier one counted while the sessions moved.
#[test]
fn counts_during_the_move_are_not_lost() {
    let mut stage = Stage::new(Setup::new());
    let old = Client::connect_with(&stage.gate, Arc::new(client_config(&[&TLS12])), "chat.example.com");
    let mut drained = Session::open_over(old, &stage.upstream, &Request::to("/open/"), &[]);
    let messages = |stage: &Stage| {
        let counters = counters(stage).into_iter();
        let messages = counters.filter(|(name, _)| name.starts_with("tollgate_messages_total"));
        messages.map(|(_, value)| value).sum::<f64>()
    };
    let silent = silent_client(&stage);
    let before = messages(&stage);
    let (status, answer) = thread::scope(|scope| {
        let upgrade = scope.spawn(|| ask(&stage.api, &json!({})));
        wait_for_take_over(&stage);
        assert!(messages(&stage) >= before);
        (0..5).for_each(|number| drained.echo(&format!("in the earlier process {number}")));
        drop(silent);
        upgrade.join().unwrap()
    });
    assert_eq!((status, &answer["drained"]), (200, &json!(1)), "{answer}");
    stage.gate.follow(pid_of(&answer));
    // Five from the client, and five from its server. The new process reads the counts after the answer was sent.
    let until = Instant::now() + PATIENCE;
    while messages(&stage) != before + 10.0 {
        assert!(Instant::now() < until, "{} after {before}", messages(&stage));
    }
    expect_closed(drained, 1001, "going away");
}

#[test]
fn a_reload_upgrades_if_the_program_on_disk_has_changed() {
    let mut stage = Stage::new(Setup::new().server("upgrade_on_reload = true"));
    let mut session = stage.open();
    let copy = stage.gate.folder.path("tollgate-copy");
    fs::copy(PROGRAM, &copy).unwrap();
    let (status, answer) = ask(&stage.api, &to(&copy));
    assert_eq!(status, 200, "{answer}");
    stage.gate.follow(pid_of(&answer)).wait_end();
    stage.gate.reload(|text| text);
    assert_eq!(pid_of(&stage.api.get("/v1/info")), stage.gate.pid(), "the program is the same");
    let beside = stage.gate.folder.path("beside");
    fs::copy(PROGRAM, &beside).unwrap();
    OpenOptions::new().append(true).open(&beside).unwrap().write_all(b"\n").unwrap();
    fs::rename(beside, copy).unwrap();
    stage.gate.signal(Signal::HUP);
    let until = Instant::now() + PATIENCE;
    while pid_of(&stage.api.get("/v1/info")) == stage.gate.pid() {
        assert!(Instant::now() < until, "the process is not replaced");
    }
    let pid = pid_of(&stage.api.get("/v1/info"));
    stage.gate.follow(pid).wait_end();
    session.echo("in the new program");
    session.close();
}

#[test]
fn systemd_learns_the_new_main_process() {
    let folder = Folder::new();
    let path = folder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let wait_for = |wanted: &str| {
        let mut bytes = [0; 1024];
        loop {
            let n = socket.recv(&mut bytes).unwrap_or_else(|error| panic!("no {wanted}: {error}"));
            if std::str::from_utf8(&bytes[..n]).unwrap().lines().any(|line| line == wanted) {
                return;
            }
        }
    };
    let mut stage = Stage::new(Setup::new().environment("NOTIFY_SOCKET", path.to_str().unwrap()));
    wait_for("READY=1");
    for _ in 0..2 {
        stage.move_all(0);
        wait_for(&format!("MAINPID={}", stage.gate.pid().as_raw_nonzero()));
        wait_for("READY=1");
    }
}

fn run(stage: &Stage, arguments: &[&str]) -> (Option<i32>, String, String) {
    let file = stage.gate.folder.path("tollgate.toml");
    let mut command = command(None, arguments);
    let output = command.args(["--config", file.to_str().unwrap()]).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_command_upgrades_and_the_status_shows_the_origin() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let origin = |stage: &Stage| stage.api.get("/v1/info")["handed_over_from"].clone();
    assert!(origin(&stage).is_null());
    let first = stage.gate.pid();
    let (code, out, err) = run(&stage, &["upgrade"]);
    assert_eq!(code, Some(0), "{out}{err}");
    let info = stage.api.get("/v1/info");
    stage.gate.follow(pid_of(&info)).wait_end();
    assert_ne!(stage.gate.pid(), first);
    assert!(out.contains('1'), "the number of sessions that have moved: {out}");
    let from = origin(&stage);
    assert!(from.to_string().contains(&first.as_raw_nonzero().to_string()), "{from}");
    let (code, out, err) = run(&stage, &["status"]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains(&first.as_raw_nonzero().to_string()), "{out}");
    let (code, out, err) = run(&stage, &["upgrade", "--binary", "/bin/false"]);
    assert!(code != Some(0) && !err.is_empty(), "{out}{err}");
    session.echo("after");
    // The new process stops as any other, with the sessions that it took over.
    stage.gate.drain();
    expect_closed(session, 1001, "going away");
    assert_eq!(stage.gate.wait_exit().code(), Some(0));
}
