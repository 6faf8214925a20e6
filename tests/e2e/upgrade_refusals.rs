//! Upgrades that change nothing: a program that cannot be started, requests that name none, and reloads.

use std::fs;
use std::path::PathBuf;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::admin::Api;
use crate::support::gate::{Folder, Gate, command};
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::upstream::Upstream;

const FAILED: &str = "upgrade failed: this process continues";

#[test]
fn a_program_that_does_not_start_changes_nothing_and_the_caller_learns_why() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let mut session = Session::open(&gate, &upstream);
    session.echo("before");
    let before = api.get("/v1/info");
    let (status, problem) = api.ask("POST", "/v1/upgrade", Some(&json!({ "binary": "/nonexistent/tollgate" })));
    assert_eq!(status, 422, "{problem}");
    let detail = problem["detail"].as_str().unwrap();
    assert!(detail.starts_with("nothing was changed: cannot start /nonexistent/tollgate: "), "{detail}");
    let line = gate.log.next(FAILED);
    assert_eq!(line["level"], "ERROR");
    assert!(gate.log.text().contains("cannot start /nonexistent/tollgate"));
    let audit = gate.log.next("admin");
    assert_eq!((&audit["action"], &audit["count"]), (&json!("upgrade"), &json!(0)), "{audit}");
    let info = api.get("/v1/info");
    assert_eq!((&info["pid"], &info["generation"]), (&before["pid"], &before["generation"]));
    assert_eq!((&info["upgrade"], &info["handed_over_from"]), (&Value::Null, &Value::Null));
    let metrics = api.get("/metrics");
    let count = |series: &str| metrics.as_str().unwrap().lines().any(|line| line == series);
    assert!(count("tollgate_handovers_total{outcome=\"failure\"} 1"), "{metrics}");
    assert!(count("tollgate_handovers_total{outcome=\"success\"} 0"), "{metrics}");
    session.echo("after");
    session.close();
}

#[test]
fn a_request_for_an_upgrade_names_an_absolute_path_or_nothing() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    for body in [
        json!({ "binary": "tollgate" }),
        json!({ "binary": "" }),
        json!({ "binary": 1 }),
        json!({ "program": "/usr/bin/tollgate" }),
        json!([1]),
    ] {
        assert_eq!(api.ask("POST", "/v1/upgrade", Some(&body)).0, 400, "{body}");
    }
    assert_eq!(api.ask("GET", "/v1/upgrade", None).0, 405);
    assert_eq!(gate.log.all(FAILED).len(), 0, "none of them was tried");
}

#[test]
fn the_command_prints_the_reason_and_exits_with_1() {
    let upstream = Upstream::bind();
    let (api, gate) = Api::start(&upstream);
    let address = format!("unix:{}", api.socket().display());
    let run = |arguments: &[&str]| {
        let arguments: Vec<&str> = ["upgrade", "--admin", &address].iter().chain(arguments).copied().collect();
        let done = command(None, &arguments).output().unwrap();
        (done.status.code(), String::from_utf8(done.stderr).unwrap())
    };
    let (code, error) = run(&["--binary", "/nonexistent/tollgate", "--json"]);
    assert_eq!(code, Some(1), "{error}");
    assert!(
        error.starts_with("tollgate upgrade: nothing was changed: cannot start /nonexistent/tollgate: "),
        "{error}"
    );
    assert_eq!(run(&["--binary", ""]).0, Some(64));
    assert_eq!(gate.log.all(FAILED).len(), 1);
    let nobody = command(None, &["upgrade", "--admin", "unix:/nonexistent/admin.sock"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(1));
}

/// A proxy that runs a program file of its own, which the test may replace.
struct Installed {
    gate: Gate,
    program: PathBuf,
    _folder: Folder,
}

impl Installed {
    fn start(upstream: &Upstream, server: &str) -> Self {
        let folder = Folder::new();
        let program = folder.path("tollgate");
        let setup = Setup::new()
            .server(server)
            .environment("PROGRAM", program.to_str().unwrap())
            .before("ln \"$1\" \"$PROGRAM\" || cp \"$1\" \"$PROGRAM\"; shift; set -- \"$PROGRAM\" \"$@\"");
        Self { gate: setup.start(upstream), program, _folder: folder }
    }

    /// Replaces the program file as a package manager does, by a file that the kernel does not execute.
    fn replace(&self) {
        let new = self.program.with_extension("new");
        fs::write(&new, "not a program").unwrap();
        fs::rename(&new, &self.program).unwrap();
    }

    fn hang_up(&self) {
        self.gate.signal(Signal::HUP);
    }
}

#[test]
fn sighup_reloads_while_the_program_on_disk_is_the_running_one() {
    let upstream = Upstream::bind();
    let installed = Installed::start(&upstream, "upgrade_on_reload = true");
    installed.hang_up();
    assert_eq!(installed.gate.log.next("reloaded")["generation"], 2);
    // In the middle of a replacement there may be no file at all.
    fs::remove_file(&installed.program).unwrap();
    installed.hang_up();
    assert_eq!(installed.gate.log.next("reloaded")["generation"], 3);
    assert_eq!(installed.gate.log.all(FAILED).len(), 0);
}

#[test]
fn sighup_replaces_the_process_if_the_program_on_disk_has_changed() {
    let upstream = Upstream::bind();
    let installed = Installed::start(&upstream, "upgrade_on_reload = true");
    let mut session = Session::open(&installed.gate, &upstream);
    session.echo("before");
    installed.replace();
    installed.hang_up();
    installed.gate.log.next("SIGHUP: the program on disk has changed");
    installed.gate.log.next(FAILED);
    assert_eq!(installed.gate.log.all("reloaded").len(), 0);
    session.echo("after");
    session.close();
}

#[test]
fn without_the_key_sighup_only_reloads_until_a_reload_sets_it() {
    let upstream = Upstream::bind();
    let installed = Installed::start(&upstream, "upgrade_on_reload = false");
    installed.replace();
    let line = installed.gate.reload(|text| text.replace("upgrade_on_reload = false", "upgrade_on_reload = true"));
    assert_eq!(line["generation"], 2);
    installed.hang_up();
    installed.gate.log.next(FAILED);
}
