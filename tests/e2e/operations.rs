//! The process: how it starts, how it fails to, how it stops, and what it tells systemd meanwhile.

use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::PATIENCE;
use crate::support::gate::{Folder, Gate, command};
use crate::support::pki::{self, Leaf};
use crate::support::request::Request;
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;
use crate::support::wire::{Frame, PING};

/// Both ends of a session get 1001, and answer it.
fn go_away(session: &mut Session) {
    assert_eq!(session.client.frame().close_payload(), (Some(1001), "going away".to_owned()));
    assert_eq!(session.server.frame().close_payload(), (Some(1001), "going away".to_owned()));
    session.client.send_frame(Frame::close(1001, ""));
    session.server.send_frame(Frame::close(1001, ""));
    session.client.expect_clean_end();
    session.server.expect_clean_end();
}

/// Drains the process and takes part in the closing handshakes of its sessions, until it ends.
fn drain(gate: &mut Gate, sessions: Vec<Session>) {
    gate.drain();
    thread::scope(|scope| {
        for mut session in sessions {
            scope.spawn(move || go_away(&mut session));
        }
    });
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// Both ends of every session get 1001, one session after the other, and then the process ends.
#[test]
fn a_signal_drains() {
    const SESSIONS: u32 = 20;
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&gate, &upstream)).collect();
    drain(&mut gate, sessions);
    assert_eq!(gate.log.all("stopped").len(), 1);

    let mut times = Vec::new();
    for line in gate.log.all("session ended") {
        assert_eq!((&line["cause"], &line["code"]), (&json!("drain"), &json!(1001)), "{line}");
        times.push(millis(&line));
    }
    assert_eq!(times.len(), SESSIONS as usize);
    // One in ten milliseconds, so that their clients do not all come back at once.
    times.sort_by(f64::total_cmp);
    let spread = times[times.len() - 1] - times[0];
    assert!(spread >= f64::from(SESSIONS - 4) * 10.0, "{times:?}");
}

/// Closes are spread over a small part of the drain's time, where there are few sessions: ten times as far apart they would
/// not be over when the drain is, and the last would be cut off.
#[test]
fn few_sessions_do_not_take_the_whole_drain() {
    const SESSIONS: usize = 60;
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("max_sessions = 60\ndrain_timeout = \"5s\"").start(&upstream);
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&gate, &upstream)).collect();
    drain(&mut gate, sessions);
    let lines = gate.log.all("session ended");
    assert_eq!(lines.iter().filter(|line| line["cause"] == "drain").count(), SESSIONS, "{lines:?}");
}

/// When a line was written, in milliseconds of its day.
fn millis(line: &Value) -> f64 {
    let timestamp = line["timestamp"].as_str().unwrap();
    let time = timestamp.split_once('T').unwrap().1.trim_end_matches('Z');
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap()) * 1000.0
}

/// A session that is inside a frame ends behind it, each way.
#[test]
fn a_drain_waits_for_frames() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let (text, masked) = (Frame::text("half").bytes(), Frame::text("half").masked().bytes());
    session.client.send(&masked[..8]);
    assert_eq!(session.server.take(8), masked[..8]);
    session.server.send(&text[..4]);
    assert_eq!(session.client.take(4), text[..4]);
    gate.drain();
    session.client.send(&masked[8..]);
    assert_eq!(session.server.take(2), masked[8..]);
    session.server.send(&text[4..]);
    assert_eq!(session.client.take(2), text[4..]);
    go_away(&mut session);
    drop(session);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// Clients that connect during the drain get a 503 until its end, whichever worker has something left.
#[test]
fn nobody_comes_in_during_a_drain() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("workers = 3").start(&upstream);
    let Session { mut client, mut server, .. } = Session::open(&gate, &upstream);
    gate.drain();
    client.expect_close(1001);
    server.expect_close(1001);
    for _ in 0..20 {
        let response = Client::connect(&gate).ask(&Request::to("/open/"));
        assert_eq!(response.head.status(), 503, "{:?}", response.head);
        assert!(response.head.get("Retry-After").is_some(), "{:?}", response.head);
        assert_eq!(response.head.get("Connection"), Some("close"));
        assert_eq!(gate.log.next("refused")["cause"], "draining");
    }
    // Newcomers that ask for nothing do not make the drain last.
    let waiting = (Client::connect(&gate), TcpStream::connect(gate.address()).unwrap());
    client.send_frame(Frame::close(1001, ""));
    server.send_frame(Frame::close(1001, ""));
    drop((client, server));
    assert_eq!(gate.wait_exit().code(), Some(0));
    upstream.assert_untouched();
    drop(waiting);
}

#[test]
fn a_second_signal_cuts() {
    const SESSIONS: usize = 30;
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&gate, &upstream)).collect();
    let waiting = Client::connect(&gate);
    gate.drain();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
    // Whose turn had come was closed, but nobody answered; the others were cut before.
    let lines = gate.log.all("session ended");
    assert_eq!(lines.len(), SESSIONS);
    assert!(lines.iter().any(|line| line["cause"] == "cut" && line["code"].is_null()), "{lines:?}");
    for mut session in sessions {
        session.client.rest();
        session.server.rest();
    }
    drop(waiting);
}

#[test]
fn the_drain_has_an_end() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("drain_timeout = \"300ms\"").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let half = &Frame::text("half").masked().bytes()[..7];
    session.client.send(half);
    assert_eq!(session.server.take(half.len()), half);
    gate.drain();
    session.client.expect_close(1001);
    assert_eq!(gate.wait_exit().code(), Some(0));
    assert!(session.server.rest().0.is_empty(), "inside a frame there is no Close");
}

/// A connection that asks for nothing does not hold up the end longer than a drain may take.
#[test]
fn idle_connections_do_not_hold_up_a_drain() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("drain_timeout = \"200ms\"").start(&upstream);
    let client = Client::connect(&gate);
    let stream = TcpStream::connect(gate.address()).unwrap();
    gate.drain();
    assert_eq!(gate.wait_exit().code(), Some(0));
    drop((client, stream));
}

/// Runs the binary to its end: exit code, standard output, standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(None, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn bad_arguments() {
    for arguments in [&[][..], &["fly"], &["run", "--port", "1"], &["run", "--config"], &["run", "check"]] {
        let (code, out, err) = run(arguments);
        assert_eq!((code, out.as_str()), (Some(64), ""), "{arguments:?}");
        assert!(err.contains("--help") || err.contains("Usage"), "{arguments:?}: {err}");
    }
    for arguments in [["--help"], ["--version"]] {
        let (code, out, err) = run(&arguments);
        assert_eq!((code, out.contains("ollgate"), err.as_str()), (Some(0), true, ""), "{arguments:?}");
    }
}

#[test]
fn bad_configuration() {
    let folder = Folder::new();
    let file = folder.write("tollgate.toml", "[server]\nmax_sessions = 0\n");
    let file = file.to_str().unwrap();
    for subcommand in ["run", "check"] {
        let (code, _, err) = run(&[subcommand, "--config", file]);
        assert_eq!(code, Some(78), "{subcommand}: {err}");
        assert!(err.contains("tollgate.toml:2:16") && err.contains("max_sessions = 0"), "{subcommand}: {err}");
        assert!(err.lines().any(|line| line.trim_matches([' ', '|']).starts_with('^')), "{subcommand}: {err}");
    }
    let missing = folder.path("missing.toml");
    let (code, _, err) = run(&["run", "--config", missing.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("missing.toml"), "{err}");
}

#[test]
fn a_port_in_use() {
    let upstream = Upstream::bind();
    let address = upstream.address();
    let mut gate = Gate::launch(Setup::new().to(address).listener(&format!("address = \"{address}\"")));
    assert_eq!(gate.wait_exit().code(), Some(1));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn too_few_descriptors_for_the_sessions() {
    let setup = || Setup::new().to("127.0.0.1:1").before("ulimit -n 300");
    let mut gate = Gate::launch(setup().server("max_sessions = 1000"));
    // A restart would end the same way.
    assert_eq!(gate.wait_exit().code(), Some(78));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains("max_sessions = 1000") && error.contains("limit is 300"), "{error}");
    assert!(error.contains("LimitNOFILE"), "{error}");
    // Within the limit it starts.
    Gate::start(setup().server("max_sessions = 20\nmax_handshakes = 20"));
}

/// What it asks for is enough, however many threads carry the connections.
#[test]
fn descriptors_are_counted() {
    let upstream = Upstream::bind();
    let setup = |limit: &str| {
        let server = "workers = 30\nmax_sessions = 1\nmax_handshakes = 1";
        Setup::new().to(upstream.address()).server(server).before(format!("ulimit -n {limit}").leak())
    };
    let mut gate = Gate::launch(setup("100"));
    assert_eq!(gate.wait_exit().code(), Some(78));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    let needed = error.split(' ').skip_while(|word| *word != "needs").nth(1).unwrap();
    Session::open(&Gate::start(setup(needed)), &upstream).close();
}

#[test]
fn sessions_are_spread_over_the_workers() {
    const WORKERS: usize = 4;
    let upstream = Upstream::bind();
    let gate = Setup::new().server(&format!("workers = {WORKERS}")).start(&upstream);
    let sessions: Vec<Session> = (0..2 * WORKERS).map(|_| Session::open(&gate, &upstream)).collect();
    let mut watched = gate.watched();
    watched.sort_unstable();
    // Of two sessions four sockets and the worker's own for its cycles, beside what every thread has that waits for events; at
    // one worker the listener, too.
    let busiest = watched[watched.len() - WORKERS..].iter().map(|count| count - watched[0]).collect::<Vec<_>>();
    assert_eq!(busiest, [5, 5, 5, 6], "{watched:?}");
    sessions.into_iter().for_each(Session::close);
}

/// Without descriptors nobody can be accepted, and as soon as there are some again, those who waited are.
#[test]
fn descriptors_that_run_out() {
    let upstream = Upstream::bind();
    let gate = Setup::new().start(&upstream);
    let session = Session::open(&gate, &upstream);
    gate.allow_no_more_descriptors();
    let stream = TcpStream::connect(gate.address()).unwrap();
    let error = gate.log.next("cannot accept");
    assert!(error["error"].as_str().unwrap().contains("os error 24"), "{error}");
    session.close();
    let config = crate::support::pki::plain_client_config();
    let client = Client::handshake(stream, config, "chat.example.com");
    Session::open_over(client, &upstream, &Request::to("/open/"), &[]).close();
}

#[test]
fn systemd_is_told() {
    let folder = Folder::new();
    let path = folder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 1024];
        let n = socket.recv(&mut bytes).expect("a word to systemd");
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    };
    let upstream = Upstream::bind();
    let setup = Setup::new().environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut gate = setup.before("export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2)").start_in_journal(&upstream);
    let ready = heard();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready:?}");
    // Whoever hears READY can come at once.
    let mut session = Session::open(&gate, &upstream);
    session.client.send_frame(Frame::new(PING, ""));
    session.server.frame();
    gate.signal(Signal::TERM);
    let stopping = heard();
    assert!(stopping.lines().any(|line| line == "STOPPING=1"), "{stopping:?}");
    assert!(stopping.contains("draining 1 sessions"), "{stopping:?}");
    drop(session);
    assert_eq!(gate.wait_exit().code(), Some(0));

    // The journal reads the level from the start of a line.
    for line in gate.log.text().lines() {
        let (prefix, event) = line.split_at(3);
        let event: serde_json::Value = serde_json::from_str(event).expect("JSON behind the prefix");
        let expected = match event["level"].as_str().unwrap() {
            "ERROR" => "<3>",
            "WARN" => "<4>",
            "INFO" => "<6>",
            _ => "<7>",
        };
        assert_eq!(prefix, expected, "{line}");
    }
}

/// A shell in the journal has the variable, too, and its children may write to a file.
#[test]
fn a_log_that_is_not_the_journals() {
    let upstream = Upstream::bind();
    for stream in ["8:1", "", "8", ":", "$(stat -Lc %d:%i /proc/self/fd/1)", "$(stat -Lc %d /proc/self/fd/2):1"] {
        let before: &str = format!("export JOURNAL_STREAM={stream}").leak();
        let gate = Gate::launch(Setup::new().to(upstream.address()).before(before));
        let line = gate.log.wait_for("the address", |line| line.contains("listening"));
        assert!(line.starts_with('{'), "{stream}: {line}");
    }
}

#[test]
fn a_log_for_people() {
    let upstream = Upstream::bind();
    let gate = Gate::launch(Setup::new().to(upstream.address()).log("format = \"text\""));
    let line = gate.log.wait_for("the address", |line| line.contains("listening"));
    assert!(line.contains("INFO") && line.contains("address=127.0.0.1:"), "{line}");
    assert!(!line.contains('\x1b'), "no colours: {line}");
}

/// Whoever read the log is gone, or its disk is full: that is no reason to lose a session, or to stop in disorder.
#[test]
fn a_log_that_nobody_takes() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().log_until("listening").start(&upstream);
    assert!(gate.log.wait_for_end(), "the log is closed");
    Session::open(&gate, &upstream).close();
    assert_eq!(Client::connect(&gate).ask(&Request::to("/elsewhere")).head.status(), 404);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("still here");
    session.server.expect_text("still here");
    gate.signal(Signal::TERM);
    session.client.expect_close(1001);
    session.server.expect_close(1001);
    session.client.send_frame(Frame::close(1001, ""));
    session.server.send_frame(Frame::close(1001, ""));
    drop(session);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// Whoever reads the log has stopped to, and its pipe is full: sessions and the drain go on without it.
#[test]
fn a_log_that_is_stuck() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().log_stuck_after("listening").start(&upstream);
    assert!(gate.log.wait_for_end(), "nobody reads the log");
    // A pipe holds 64 KiB, which these lines fill.
    for _ in 0..400 {
        let elsewhere = Request::to(&format!("/{}", "elsewhere/".repeat(25)));
        assert_eq!(Client::connect(&gate).ask(&elsewhere).head.status(), 404);
    }
    let mut session = Session::open(&gate, &upstream);
    session.client.send_text("still here");
    session.server.expect_text("still here");
    session.close();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// Who connected and asks for nothing does not make the drain last.
#[test]
fn connections_that_ask_for_nothing_do_not_hold_up_a_drain() {
    let upstream = Upstream::bind();
    let mut gate =
        Setup::new().server("drain_timeout = \"5m\"").listener("handshake_timeout = \"5m\"").start(&upstream);
    let _connected = std::net::TcpStream::connect(gate.address()).unwrap();
    let _secured = Client::connect(&gate);
    let mut asking = Client::connect(&gate);
    asking.send(b"GET /open/ HTTP/1.1\r\nHost: chat");
    gate.drain();
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// A session that is over does not last because the upstream ignores that, and sends on.
#[test]
fn an_upstream_that_never_stops() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("close_timeout = \"100ms\"").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_frame(Frame::close(1000, ""));
    session.server.expect_close(1000);
    let frame = || Frame::new(2, vec![0; 64 * 1024]);
    let sent = (0..100_000).take_while(|_| session.server.try_send_frame(frame()).is_ok()).count();
    assert!(sent < 100_000, "the connection is cut");
}

#[test]
fn an_interrupt_drains_too() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    gate.signal(Signal::INT);
    assert_eq!(gate.wait_exit().code(), Some(0));
    assert_eq!(gate.log.all("stopped").len(), 1);
}

/// None of these ends the process or its sessions, and the log says of each that it did nothing.
#[test]
fn other_signals_are_ignored() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let signals =
        [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2"), (Signal::ALARM, "SIGALRM"), (Signal::HUP, "SIGHUP")];
    for (signal, name) in signals {
        for _ in 0..2 {
            let seen = gate.log.count(|line| line.contains(name)) + 1;
            gate.signal(signal);
            gate.log.wait_until(name, |lines| lines.iter().filter(|line| line.contains(name)).count() >= seen);
        }
        gate.signal(Signal::PIPE);
        session.client.send_text(name);
        session.server.expect_text(name);
    }
    session.close();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// What is checked outside the unit: exit code, standard output, standard error.
fn check(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    run(&[&["check", "--config", config.to_str().unwrap()], more].concat())
}

#[test]
fn credentials_are_checked_outside_the_unit() {
    let folder = Folder::new();
    let leaf = Leaf::new(&["chat.example.com"]);
    folder.write("chain-0.pem", &leaf.chain_pem);
    folder.write("tls.key", &leaf.key_pem);
    folder.write("token.pem", &pki::public_key_pem());
    let certificates = "[{ chain = \"chain-0.pem\", key = \"credential:tls.key\" }]";
    let text = Setup::new().to("127.0.0.1:1").toml(certificates);
    let file = folder.write("tollgate.toml", &text);

    let (code, out, err) = check(&file, &[]);
    assert_eq!(code, Some(0), "{err}");
    assert!(err.contains("warning: \"credential:tls.key\" is not checked") && err.contains("--credentials"), "{err}");
    assert!(out.contains("not checked"), "{out}");
    // With the folder of their files they are, as they are under systemd.
    let own = folder.path("").to_str().unwrap().to_owned();
    let (code, out, err) = check(&file, &["--credentials", &own]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ok (1 listener") && !err.contains("not checked"), "{out}{err}");
    assert!(err.contains("route \"open\" is open to everybody"), "{err}");
    let (code, _, err) = check(&file, &["--credentials", "/nonexistent"]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("/nonexistent/tls.key"), "{err}");
    // Whatever else is wrong is found without them.
    let wrong = folder.write("wrong.toml", &text.replace("workers", "wrokers"));
    let (code, _, err) = check(&wrong, &[]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("did you mean `workers`?"), "{err}");
    // The service itself does not do without.
    let (code, _, err) = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{err}");
}

#[test]
fn a_check_counts_descriptors() {
    let folder = Folder::new();
    let leaf = Leaf::new(&["chat.example.com"]);
    folder.write("chain-0.pem", &leaf.chain_pem);
    folder.write("key-0.pem", &leaf.key_pem);
    folder.write("token.pem", &pki::public_key_pem());
    let certificates = "[{ chain = \"chain-0.pem\", key = \"key-0.pem\" }]";
    let setup = |sessions| Setup::new().to("127.0.0.1:1").server(&format!("max_sessions = {sessions}"));
    for (name, sessions, fits) in [("many.toml", "1000", false), ("few.toml", "20", true)] {
        let file = folder.write(name, &setup(sessions).toml(certificates));
        let mut command = command(Some("ulimit -n 300"), &["check", "--config", file.to_str().unwrap()]);
        let output = command.output().unwrap();
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{err}");
        assert_eq!(err.contains("file descriptors"), !fits, "{err}");
        assert!(fits || (err.starts_with("warning: ") && err.contains("max_sessions = 1000")), "{err}");
    }
    // Without a number of the operator `run` lowers the default.
    let file = folder.write("default.toml", &setup("1").toml(certificates).replace("max_sessions = 1\n", ""));
    let output = command(Some("ulimit -n 300"), &["check", "--config", file.to_str().unwrap()]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.contains("max_sessions would be lowered to"), "{err}");
}

/// A faulty relative path is shown with all that is before it.
#[test]
fn the_full_path_is_absolute() {
    let folder = Folder::new();
    folder.write(
        "tollgate.toml",
        &Setup::new().to("127.0.0.1:1").toml("[{ chain = \"absent.pem\", key = \"key.pem\" }]"),
    );
    let mut command = command(None, &["check", "--config", "tollgate.toml"]);
    let output = command.current_dir(folder.path("")).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    let expected = format!("the full path is {}", folder.path("absent.pem").display());
    assert!(err.contains(&expected), "{err}");
}

/// Warnings of the configuration are in the log, each with the word.
#[test]
fn warnings_of_the_configuration_are_logged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().more("[upstream.unused]\nservers = [\"127.0.0.1:1\"]").start(&upstream);
    let line = gate.log.wait_for("a warning", |line| line.contains("no route uses"));
    assert!(line.contains("\"WARN\"") && line.contains(": warning: no route uses"), "{line}");
}
