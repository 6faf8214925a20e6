//! The process: start, startup errors and exit codes, drain, signals, log destinations, and notifications to systemd.

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

/// Completes the closing handshake of a drain at both ends of a session.
fn go_away(session: &mut Session) {
    assert_eq!(session.client.frame().close_payload(), (Some(1001), "going away".to_owned()));
    assert_eq!(session.server.frame().close_payload(), (Some(1001), "going away".to_owned()));
    session.client.send_frame(Frame::close(1001, ""));
    session.server.send_frame(Frame::close(1001, ""));
    session.client.expect_clean_end();
    session.server.expect_clean_end();
}

/// Drains the process, answers the Close of every session, and waits for the exit.
fn drain(gate: &mut Gate, sessions: Vec<Session>) {
    gate.drain();
    thread::scope(|scope| {
        for mut session in sessions {
            scope.spawn(move || go_away(&mut session));
        }
    });
    assert_eq!(gate.wait_exit().code(), Some(0));
}

/// Both ends of every session get 1001, one session after another, and then the process exits.
#[test]
fn sigterm_drains() {
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
    // One session closes every 10 ms, so that clients do not all reconnect at once.
    times.sort_by(f64::total_cmp);
    let spread = times[times.len() - 1] - times[0];
    assert!(spread >= f64::from(SESSIONS - 4) * 10.0, "{times:?}");
}

/// With few sessions the closes take a small part of `drain_timeout`. At ten times the interval they would exceed it,
/// and the last sessions would be aborted.
#[test]
fn few_sessions_close_well_before_drain_timeout() {
    const SESSIONS: usize = 60;
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("max_sessions = 60\ndrain_timeout = \"5s\"").start(&upstream);
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&gate, &upstream)).collect();
    drain(&mut gate, sessions);
    let lines = gate.log.all("session ended");
    assert_eq!(lines.iter().filter(|line| line["cause"] == "drain").count(), SESSIONS, "{lines:?}");
}

/// Returns the timestamp of a log line in milliseconds since midnight.
fn millis(line: &Value) -> f64 {
    let timestamp = line["timestamp"].as_str().unwrap();
    let time = timestamp.split_once('T').unwrap().1.trim_end_matches('Z');
    time.split(':').fold(0.0, |sum, part| sum * 60.0 + part.parse::<f64>().unwrap()) * 1000.0
}

/// A session that is inside a frame gets its Close after that frame, in both directions.
#[test]
fn a_drain_waits_for_the_end_of_frames() {
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

/// Clients that connect during a drain get a 503 until its end, whichever worker still has sessions.
#[test]
fn new_connections_get_503_during_a_drain() {
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
    // New connections that send no request do not prolong the drain.
    let waiting = (Client::connect(&gate), TcpStream::connect(gate.address()).unwrap());
    client.send_frame(Frame::close(1001, ""));
    server.send_frame(Frame::close(1001, ""));
    drop((client, server));
    assert_eq!(gate.wait_exit().code(), Some(0));
    upstream.assert_untouched();
    drop(waiting);
}

#[test]
fn a_second_signal_aborts_all_sessions() {
    const SESSIONS: usize = 30;
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&gate, &upstream)).collect();
    let waiting = Client::connect(&gate);
    gate.drain();
    gate.signal(Signal::TERM);
    assert_eq!(gate.wait_exit().code(), Some(0));
    // Some sessions had already been sent their Close, unanswered; the others were aborted before that.
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
fn drain_timeout_ends_the_drain() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("drain_timeout = \"300ms\"").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    let half = &Frame::text("half").masked().bytes()[..7];
    session.client.send(half);
    assert_eq!(session.server.take(half.len()), half);
    gate.drain();
    session.client.expect_close(1001);
    assert_eq!(gate.wait_exit().code(), Some(0));
    assert!(session.server.rest().0.is_empty(), "no Close is sent inside a frame");
}

/// A connection that sends no request does not delay the exit beyond `drain_timeout`.
#[test]
fn idle_connections_do_not_outlast_the_drain() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().server("drain_timeout = \"200ms\"").start(&upstream);
    let client = Client::connect(&gate);
    let stream = TcpStream::connect(gate.address()).unwrap();
    gate.drain();
    assert_eq!(gate.wait_exit().code(), Some(0));
    drop((client, stream));
}

/// Runs the binary to its end. Returns its exit code, standard output and standard error.
fn run(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = command(None, arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn bad_arguments_exit_with_64() {
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
fn a_bad_configuration_exits_with_78() {
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
fn a_port_in_use_exits_with_1() {
    let upstream = Upstream::bind();
    let address = upstream.address();
    let mut gate = Gate::launch(Setup::new().to(address).listener(&format!("address = \"{address}\"")));
    assert_eq!(gate.wait_exit().code(), Some(1));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains(&format!("cannot listen on {address}")), "{error}");
}

#[test]
fn too_few_descriptors_exit_with_78() {
    let setup = || Setup::new().to("127.0.0.1:1").before("ulimit -n 300");
    let mut gate = Gate::launch(setup().server("max_sessions = 1000"));
    // 78, since a restart would fail in the same way.
    assert_eq!(gate.wait_exit().code(), Some(78));
    let error = gate.log.next("tollgate failed")["error"].to_string();
    assert!(error.contains("max_sessions = 1000") && error.contains("limit is 300"), "{error}");
    assert!(error.contains("LimitNOFILE"), "{error}");
    // Within the limit it starts.
    Gate::start(setup().server("max_sessions = 20\nmax_handshakes = 20"));
}

/// The number of descriptors in the error message is sufficient, however many workers there are.
#[test]
fn the_required_descriptors_are_sufficient() {
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
    // Each worker watches the four sockets of two sessions and one of its own for its cycles, beyond the descriptors
    // that every thread with an event loop watches. One worker watches the listener, too.
    let busiest = watched[watched.len() - WORKERS..].iter().map(|count| count - watched[0]).collect::<Vec<_>>();
    assert_eq!(busiest, [5, 5, 5, 6], "{watched:?}");
    sessions.into_iter().for_each(Session::close);
}

/// Without free descriptors no connection can be accepted. Waiting connections are accepted as soon as some are free.
#[test]
fn accepting_resumes_when_descriptors_are_free() {
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
fn systemd_is_notified() {
    let folder = Folder::new();
    let path = folder.path("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    let heard = || {
        let mut bytes = [0; 1024];
        let n = socket.recv(&mut bytes).expect("a notification to systemd");
        String::from_utf8(bytes[..n].to_vec()).unwrap()
    };
    let upstream = Upstream::bind();
    let setup = Setup::new().environment("NOTIFY_SOCKET", path.to_str().unwrap());
    let mut gate = setup.before("export JOURNAL_STREAM=$(stat -Lc %d:%i /proc/self/fd/2)").start_in_journal(&upstream);
    let ready = heard();
    assert!(ready.lines().any(|line| line == "READY=1"), "{ready:?}");
    // After READY=1 a client can connect at once.
    let mut session = Session::open(&gate, &upstream);
    session.client.send_frame(Frame::new(PING, ""));
    session.server.frame();
    gate.signal(Signal::TERM);
    let stopping = heard();
    assert!(stopping.lines().any(|line| line == "STOPPING=1"), "{stopping:?}");
    assert!(stopping.contains("draining 1 sessions"), "{stopping:?}");
    drop(session);
    assert_eq!(gate.wait_exit().code(), Some(0));

    // The journal reads the level from the prefix of a line.
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

/// A shell whose output goes to the journal inherits JOURNAL_STREAM, too, but its children may write to a file.
#[test]
fn levels_are_not_prefixed_outside_the_journal() {
    let upstream = Upstream::bind();
    for stream in ["8:1", "", "8", ":", "$(stat -Lc %d:%i /proc/self/fd/1)", "$(stat -Lc %d /proc/self/fd/2):1"] {
        let before: &str = format!("export JOURNAL_STREAM={stream}").leak();
        let gate = Gate::launch(Setup::new().to(upstream.address()).before(before));
        let line = gate.log.wait_for("the address", |line| line.contains("listening"));
        assert!(line.starts_with('{'), "{stream}: {line}");
    }
}

#[test]
fn the_text_format_has_fields_and_no_colours() {
    let upstream = Upstream::bind();
    let gate = Gate::launch(Setup::new().to(upstream.address()).log("format = \"text\""));
    let line = gate.log.wait_for("the address", |line| line.contains("listening"));
    assert!(line.contains("INFO") && line.contains("address=127.0.0.1:"), "{line}");
    assert!(!line.contains('\x1b'), "no colours: {line}");
}

/// If the reader of the log has exited or its disk is full, sessions and the drain still work.
#[test]
fn a_closed_log_does_not_affect_sessions() {
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

/// If the pipe of the log is full because its reader has stopped, sessions and the drain still work.
#[test]
fn a_blocked_log_does_not_affect_sessions() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().log_stuck_after("listening").start(&upstream);
    assert!(gate.log.wait_for_end(), "the log is no longer read");
    // These lines fill the pipe, which holds 64 KiB.
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

/// Connections without a complete request do not delay the end of a drain.
#[test]
fn connections_without_a_request_do_not_delay_a_drain() {
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

/// An upstream that ignores the Close and keeps sending does not prolong the session.
#[test]
fn an_upstream_that_keeps_sending_after_a_close_is_disconnected() {
    let upstream = Upstream::bind();
    let gate = Setup::new().limits("close_timeout = \"100ms\"").start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.client.send_frame(Frame::close(1000, ""));
    session.server.expect_close(1000);
    let frame = || Frame::new(2, vec![0; 64 * 1024]);
    let sent = (0..100_000).take_while(|_| session.server.try_send_frame(frame()).is_ok()).count();
    assert!(sent < 100_000, "the connection is closed");
}

#[test]
fn sigint_drains() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    gate.signal(Signal::INT);
    assert_eq!(gate.wait_exit().code(), Some(0));
    assert_eq!(gate.log.all("stopped").len(), 1);
}

/// None of these signals ends the process or its sessions, and each except SIGPIPE is logged as ignored.
#[test]
fn other_signals_are_ignored() {
    let upstream = Upstream::bind();
    let mut gate = Setup::new().start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    for (signal, name) in [(Signal::USR1, "SIGUSR1"), (Signal::USR2, "SIGUSR2"), (Signal::ALARM, "SIGALRM")] {
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

/// Runs `check` outside the unit. Returns its exit code, standard output and standard error.
fn check(config: &Path, more: &[&str]) -> (Option<i32>, String, String) {
    run(&[&["check", "--config", config.to_str().unwrap()], more].concat())
}

#[test]
fn check_finds_credentials_outside_the_unit() {
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
    let (code, out, err) = check(&file, &["--online"]);
    assert_eq!((code, &*out), (Some(1), ""), "{err}");
    assert!(err.lines().last().unwrap().contains("--online needs the credentials"), "{err}");
    // With `--credentials` they are checked, as under systemd.
    let own = folder.path("").to_str().unwrap().to_owned();
    let (code, out, err) = check(&file, &["--credentials", &own]);
    assert_eq!(code, Some(0), "{err}");
    assert!(out.contains("ok (1 listener") && !err.contains("not checked"), "{out}{err}");
    assert!(err.contains("route \"open\" is open to every client"), "{err}");
    let (code, _, err) = check(&file, &["--credentials", "/nonexistent"]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("/nonexistent/tls.key"), "{err}");
    // Other errors are found without credentials.
    let wrong = folder.write("wrong.toml", &text.replace("workers", "wrokers"));
    let (code, _, err) = check(&wrong, &[]);
    assert_eq!(code, Some(78), "{err}");
    assert!(err.contains("did you mean `workers`?"), "{err}");
    // `run` requires the credentials.
    let (code, _, err) = run(&["run", "--config", file.to_str().unwrap()]);
    assert_eq!(code, Some(78), "{err}");
}

#[test]
fn check_warns_of_too_few_descriptors() {
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
    // If `max_sessions` is not configured, `run` lowers the default.
    let file = folder.write("default.toml", &setup("1").toml(certificates).replace("max_sessions = 1\n", ""));
    let output = command(Some("ulimit -n 300"), &["check", "--config", file.to_str().unwrap()]).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && err.contains("max_sessions would be lowered to"), "{err}");
}

/// The error for a relative path shows the absolute path.
#[test]
fn errors_show_the_absolute_path() {
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

/// Warnings about the configuration are logged, each marked as a warning.
#[test]
fn configuration_warnings_are_logged() {
    let upstream = Upstream::bind();
    let gate = Setup::new().more("[upstream.unused]\nservers = [\"127.0.0.1:1\"]").start(&upstream);
    let line = gate.log.wait_for("a warning", |line| line.contains("no route uses"));
    assert!(line.contains("\"WARN\"") && line.contains(": warning: no route uses"), "{line}");
}
