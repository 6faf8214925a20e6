//! Upgrades of the running program: a new process takes over the sockets and the sessions.

mod failures;
mod faults;
mod outside;
mod http;
mod sessions;
mod tickets;

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::Pid;
use serde_json::{Value, json};

use crate::admin::Api;
use crate::support::PATIENCE;
use crate::support::gate::Gate;
use crate::support::process::Process;
use crate::support::request::Request;
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::{Server, Upstream};
use crate::support::wire::{CLOSE, Frame};

/// The time between two key updates of a client. They are charged to its quota of control frames, of 100 a second.
const BETWEEN_KEY_UPDATES: Duration = Duration::from_millis(25);

const PROGRAM: &str = env!("CARGO_BIN_EXE_tollgate");

/// A proxy with an admin API, and its upstream.
struct Stage {
    upstream: Upstream,
    api: Api,
    gate: Gate,
}

impl Stage {
    fn new(setup: Setup) -> Self {
        let (upstream, api) = (Upstream::bind(), Api::new());
        let gate = setup.more(&api.section()).start(&upstream);
        Self { upstream, api, gate }
    }

    /// Opens a session, and waits until its messages pass: from then on it is registered.
    fn open(&self) -> Session {
        self.open_with(&Request::to("/open/"))
    }

    fn open_with(&self, request: &Request) -> Session {
        let mut session = Session::open_with(&self.gate, &self.upstream, request, &[]);
        session.echo("first");
        session
    }

    /// Replaces the process by another one of the same program. Returns the earlier process and the answer.
    fn upgrade(&mut self) -> (Process, Value) {
        let (status, answer) = ask(&self.api, &json!({}));
        assert_eq!(status, 200, "{answer}");
        let pid = pid_of(&answer);
        assert_ne!(pid, self.gate.pid(), "{answer}");
        (self.gate.follow(pid), answer)
    }

    /// Replaces the process, checks that this many sessions have moved and none was left, and waits until the earlier
    /// process has ended: from then on only the new one can serve them.
    fn move_all(&mut self, sessions: usize) {
        let (earlier, answer) = self.upgrade();
        let counts = [&answer["moved"], &answer["drained"], &answer["failed"]];
        assert_eq!(counts, [&json!(sessions), &json!(0), &json!(0)], "{answer}");
        earlier.wait_end();
    }

    /// Waits until the session with this request has this activity.
    fn wait_for_activity(&self, session: &Session, activity: &str) {
        let target = format!("/v1/sessions/{}", session.asked.get("x-request-id").unwrap());
        let until = Instant::now() + PATIENCE;
        while self.api.get(&target)["activity"] != activity {
            assert!(Instant::now() < until, "the session is not {activity}: {}", self.api.get(&target));
        }
    }
}

/// Asks for an upgrade. Returns the status and the answer.
fn ask(api: &Api, body: &Value) -> (u16, Value) {
    api.ask("POST", "/v1/upgrade", Some(body))
}

/// Returns the id of the new process from an answer.
fn pid_of(answer: &Value) -> Pid {
    let pid = answer["pid"].as_i64().unwrap_or_else(|| panic!("{answer}"));
    Pid::from_raw(pid.try_into().unwrap()).unwrap()
}

/// Echoes messages up to a Close, and answers it.
fn echo(mut server: Server) {
    loop {
        let frame = server.frame();
        if frame.opcode == CLOSE {
            return server.send_frame(Frame::new(CLOSE, frame.payload));
        }
        server.send_frame(Frame::new(frame.opcode, frame.payload));
    }
}

/// Ends the threads of a test, also if it fails: they check [`Self::get`].
#[derive(Default)]
struct Over(AtomicBool);

impl Over {
    fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a guard that ends them when it is dropped.
    fn guard(&self) -> impl Drop + '_ {
        struct Guard<'a>(&'a AtomicBool);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        Guard(&self.0)
    }
}

/// Writes a script that an upgrade can start instead of the program.
fn script(stage: &Stage, name: &str, lines: &str) -> PathBuf {
    let path = stage.gate.folder.write(name, &format!("#!/bin/sh\n{lines}\n"));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

/// A program that waits before it becomes the new process, so that an upgrade takes as long as a test wants.
struct Held {
    program: PathBuf,
    fifo: File,
}

impl Held {
    fn new(stage: &Stage) -> Self {
        let path = stage.gate.folder.path("held.fifo");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let lines = format!("echo held by $$ >&2; read line <{}; exec {PROGRAM} \"$@\"", path.display());
        // An open for both directions does not wait for the other end.
        let fifo = OpenOptions::new().read(true).write(true).open(path).unwrap();
        Self { program: script(stage, "held", &lines), fifo }
    }

    fn request(&self) -> Value {
        to(&self.program)
    }

    /// Waits until the program runs, and returns its process id.
    fn wait(&self, stage: &Stage) -> Pid {
        let line = stage.gate.log.wait_for("the held program", |line| line.starts_with("held by "));
        Pid::from_raw(line["held by ".len()..].parse().unwrap()).unwrap()
    }

    /// Lets the program go on.
    fn release(&self) {
        (&self.fifo).write_all(b"go\n").unwrap();
    }
}

/// A connection in its handshake: while there is one, an upgrade waits for the session that it may become.
fn silent_client(stage: &Stage) -> TcpStream {
    let silent = TcpStream::connect(stage.gate.address()).unwrap();
    let until = Instant::now() + PATIENCE;
    while !stage.api.get("/metrics").as_str().unwrap().contains("tollgate_connections{state=\"handshake\"} 1") {
        assert!(Instant::now() < until, "the connection is not accepted");
    }
    silent
}

/// Waits until the new process answers requests to the API.
fn wait_for_take_over(stage: &Stage) {
    let until = Instant::now() + PATIENCE;
    while stage.api.get("/v1/info")["handed_over_from"].is_null() {
        assert!(Instant::now() < until, "no process takes over");
    }
}

/// Returns a request for an upgrade to this program.
fn to(program: &Path) -> Value {
    json!({ "binary": program })
}
