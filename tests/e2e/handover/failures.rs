//! Upgrades that are rejected or fail: the running process continues as if nothing had happened.

use std::fs;
use std::path::PathBuf;
use std::thread;

use rustix::process::{Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::json;

use super::faults::descriptors;
use super::{Held, PROGRAM, Stage, ask, pid_of, script, silent_client, to, wait_for_take_over};
use crate::support::process::{Process, running_with};
use crate::support::session::Session;
use crate::support::setup::Setup;
use crate::support::wire::Frame;

/// Checks that the same process serves on, and that no other one is left.
fn expect_unchanged(stage: &Stage, session: &mut Session) {
    session.echo("still here");
    stage.open().close();
    stage.api.wait_for_sessions(1);
    assert_eq!(stage.api.get("/v1/info")["pid"], stage.gate.pid().as_raw_nonzero().get());
    assert_eq!(running_with(&stage.gate.folder.path("tollgate.toml")), [stage.gate.pid()]);
}

#[test]
fn a_program_that_does_not_take_over_changes_nothing() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let not_executable = stage.gate.folder.write("not-executable", "text");
    let programs = [
        (PathBuf::from("/nonexistent/tollgate"), "/nonexistent/tollgate"),
        (not_executable, "not-executable"),
        (stage.gate.folder.path(""), ""),
        (PathBuf::from("/bin/false"), ""),
        (PathBuf::from("/bin/true"), ""),
        (script(&stage, "exits", "echo no thanks >&2; exit 3"), ""),
        (script(&stage, "killed", "kill -9 $$"), ""),
        (script(&stage, "garbage", "echo garbage >&0; exec cat"), ""),
        (script(&stage, "long", "head -c 300000 /dev/zero >&0; exit 0"), ""),
        (script(&stage, "few-descriptors", &format!("ulimit -n 20; exec {PROGRAM} \"$@\"")), ""),
    ];
    for (program, reason) in programs {
        let (status, answer) = ask(&stage.api, &to(&program));
        assert!((400..600).contains(&status), "{program:?}: {status} {answer}");
        let detail = answer["detail"].as_str().unwrap_or_else(|| panic!("{program:?}: {answer}"));
        assert!(!detail.is_empty() && detail.contains(reason), "{program:?}: {detail}");
        expect_unchanged(&stage, &mut session);
    }
    stage.move_all(1);
    session.echo("in the new process");
    session.close();
}

/// The new process reads the configuration first. Its error arrives with the line.
#[test]
fn an_invalid_configuration_changes_nothing() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    stage.gate.edit(|text| text.replace("auth = \"none\"", "auth = \"nobody\""));
    let (status, answer) = ask(&stage.api, &json!({}));
    assert!((400..600).contains(&status), "{status} {answer}");
    let text = answer.to_string();
    assert!(text.contains("nobody") && text.contains("tollgate.toml:"), "{text}");
    expect_unchanged(&stage, &mut session);
    stage.gate.edit(|text| text.replace("auth = \"nobody\"", "auth = \"none\""));
    stage.move_all(1);
    session.echo("in the new process");
    session.close();
}

/// While one upgrade runs, another one and what would change the state are rejected, and sessions begin and talk.
#[test]
fn one_upgrade_runs_at_a_time() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let held = Held::new(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &held.request()));
        held.wait(&stage);
        let (status, answer) = ask(&stage.api, &json!({}));
        assert_eq!(status, 409, "{answer}");
        let (status, answer) = stage.api.ask("POST", "/v1/reload", None);
        assert_eq!(status, 409, "{answer}");
        let (status, answer) = stage.api.ask("POST", "/v1/revocations", Some(&json!({ "jti": "one" })));
        assert_eq!(status, 503, "{answer}");
        session.echo("meanwhile");
        stage.open().close();
        stage.api.wait_for_sessions(1);
        held.release();
        first.join().unwrap()
    });
    assert_eq!((status, &answer["moved"]), (200, &json!(1)), "{answer}");
    stage.gate.follow(pid_of(&answer)).wait_end();
    session.echo("after");
    assert_eq!(stage.api.ask("POST", "/v1/revocations", Some(&json!({ "jti": "one" }))).0, 201);
    stage.move_all(1);
    session.close();
}

/// Whichever is first is done, and the other one is done after it or rejected.
#[test]
fn an_upgrade_and_a_reload_at_once_do_not_disturb_each_other() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    for round in 0..6 {
        stage.gate.edit(|text| format!("{text}\n# {round}\n"));
        let (upgraded, reloaded) = thread::scope(|scope| {
            let upgrade = scope.spawn(|| ask(&stage.api, &json!({})));
            let reload = scope.spawn(|| stage.api.ask("POST", "/v1/reload", None));
            (upgrade.join().unwrap(), reload.join().unwrap())
        });
        assert!(matches!(reloaded.0, 200 | 409 | 503), "{reloaded:?}");
        match upgraded {
            (200, answer) => stage.gate.follow(pid_of(&answer)).wait_end(),
            (409, _) => {}
            other => panic!("{other:?}"),
        }
        session.echo("still here");
    }
    stage.move_all(1);
    session.close();
}

#[test]
fn a_process_that_drains_is_not_upgraded() {
    let mut stage = Stage::new(Setup::new().server("drain_timeout = \"5m\""));
    let mut session = stage.open();
    stage.gate.drain();
    session.client.expect_close(1001);
    let (status, answer) = ask(&stage.api, &json!({}));
    assert!(matches!(status, 409 | 503), "{status} {answer}");
    session.server.expect_close(1001);
    session.client.send_frame(Frame::close(1001, ""));
    session.server.send_frame(Frame::close(1001, ""));
    session.client.expect_clean_end();
    drop(session);
    assert_eq!(stage.gate.wait_exit().code(), Some(0));
}

/// A stop signal during an upgrade stops the process, whichever comes first.
#[test]
fn a_stop_signal_during_an_upgrade_stops() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let held = Held::new(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &held.request()));
        held.wait(&stage);
        stage.gate.signal(Signal::TERM);
        held.release();
        first.join().unwrap()
    });
    if status == 200 {
        // The signal was for the earlier process, which has handed over meanwhile.
        stage.gate.follow(pid_of(&answer));
        session.echo("in the new process");
        stage.gate.signal(Signal::TERM);
    }
    session.client.expect_close(1001);
    drop(session);
    stage.gate.wait_exit();
    // A new process that had taken over was stopped, too.
    let new = running_with(&stage.gate.folder.path("tollgate.toml"));
    new.into_iter().filter_map(Process::find).for_each(|process| process.wait_end());
}

/// A stop does not wait for a program that hangs.
#[test]
fn a_stop_signal_ends_an_upgrade_whose_program_does_not_answer() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let held = Held::new(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &held.request()));
        held.wait(&stage);
        let shown = stage.api.get("/v1/info");
        assert!(shown["upgrade"]["pid"].is_u64() && shown["upgrade"]["version"].is_null(), "{shown}");
        stage.gate.signal(Signal::TERM);
        first.join().unwrap()
    });
    assert_eq!(status, 503, "{answer}");
    session.client.expect_close(1001);
    drop(session);
    assert_eq!(stage.gate.wait_exit().code(), Some(0));
}

/// A new process that ends while connections are awaited is noticed at once. What had moved is lost, and counted; the
/// earlier process serves on, with its admin socket.
#[test]
fn a_new_process_that_is_stopped_while_it_waits_leaves_the_sockets_to_the_earlier_one() {
    for signal in [Signal::TERM, Signal::KILL] {
        let stage = Stage::new(Setup::new().listener("handshake_timeout = \"5m\""));
        let mut session = stage.open();
        let silent = silent_client(&stage);
        let (status, answer) = thread::scope(|scope| {
            let first = scope.spawn(|| ask(&stage.api, &json!({})));
            wait_for_take_over(&stage);
            while stage.api.get("/v1/info")["handed_over_from"]["sessions"] != 1 {}
            let new = pid_of(&stage.api.get("/v1/info"));
            kill_process(new, signal).unwrap();
            if signal == Signal::TERM {
                session.client.expect_close(1001);
            }
            drop(session);
            first.join().unwrap()
        });
        assert_eq!(status, 500, "{answer}");
        assert!(answer["detail"].as_str().unwrap().ends_with("1 sessions were lost"), "{answer}");
        drop(silent);
        let metrics = stage.api.get("/metrics");
        let lost = "tollgate_handover_sessions_total{outcome=\"failed\"} 1";
        assert!(metrics.as_str().unwrap().contains(lost), "{metrics}");
        stage.open().close();
    }
}

/// The new process has taken over, and is told to stop as well.
#[test]
fn a_stop_signal_while_sessions_move_stops_both_processes() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let silent = silent_client(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &json!({})));
        wait_for_take_over(&stage);
        stage.gate.signal(Signal::TERM);
        drop(silent);
        first.join().unwrap()
    });
    assert_eq!(status, 503, "{answer}");
    session.client.expect_close(1001);
    drop(session);
    stage.gate.wait_exit();
    let new = running_with(&stage.gate.folder.path("tollgate.toml"));
    new.into_iter().filter_map(Process::find).for_each(|process| process.wait_end());
}

/// The earlier process may still have sessions for the new one, so that this one cannot pass its own on.
#[test]
fn a_process_whose_sessions_still_arrive_is_not_upgraded() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let silent = silent_client(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &json!({})));
        wait_for_take_over(&stage);
        let (status, answer) = ask(&stage.api, &json!({}));
        assert_eq!(status, 409, "{answer}");
        let target = format!("/v1/sessions/{}", session.asked.get("x-request-id").unwrap());
        let (status, answer) = stage.api.ask("DELETE", &target, None);
        assert_eq!(status, 503, "{answer}");
        session.echo("meanwhile");
        drop(silent);
        first.join().unwrap()
    });
    assert_eq!((status, &answer["moved"]), (200, &json!(1)), "{answer}");
    stage.gate.follow(pid_of(&answer)).wait_end();
    stage.move_all(1);
    session.close();
}

#[test]
fn a_process_without_free_descriptors_keeps_its_sessions() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let held = Held::new(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &held.request()));
        held.wait(&stage);
        let open = u64::try_from(descriptors(stage.gate.pid())).unwrap();
        let full = Rlimit { current: Some(open), maximum: getrlimit(Resource::Nofile).maximum };
        let before = prlimit(Some(stage.gate.pid()), Resource::Nofile, full).unwrap();
        held.release();
        let answered = first.join().unwrap();
        prlimit(Some(stage.gate.pid()), Resource::Nofile, before).unwrap();
        answered
    });
    assert_eq!(status, 500, "{answer}");
    assert!(answer["detail"].as_str().unwrap().contains("the system does not permit an upgrade"), "{answer}");
    expect_unchanged(&stage, &mut session);
    stage.move_all(1);
    session.close();
}

#[test]
fn a_new_process_that_is_killed_before_it_answers_changes_nothing() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let held = Held::new(&stage);
    let (status, answer) = thread::scope(|scope| {
        let first = scope.spawn(|| ask(&stage.api, &held.request()));
        kill_process(held.wait(&stage), Signal::KILL).unwrap();
        first.join().unwrap()
    });
    assert!((500..600).contains(&status), "{status} {answer}");
    expect_unchanged(&stage, &mut session);
    stage.move_all(1);
    session.close();
}

/// A program that was replaced on disk, as a package manager does it, is started by its path.
#[test]
fn the_program_on_disk_is_started_after_it_was_replaced() {
    let mut stage = Stage::new(Setup::new());
    let mut session = stage.open();
    let copy = stage.gate.folder.path("tollgate-copy");
    for _ in 0..2 {
        let beside = stage.gate.folder.path("beside");
        fs::copy(PROGRAM, &beside).unwrap();
        fs::rename(beside, &copy).unwrap();
        let (status, answer) = ask(&stage.api, &to(&copy));
        assert_eq!(status, 200, "{answer}");
        stage.gate.follow(pid_of(&answer)).wait_end();
        session.echo("in the copy");
    }
    // The running program is the second copy, and another file has its path.
    fs::remove_file(&copy).unwrap();
    fs::copy(PROGRAM, &copy).unwrap();
    stage.move_all(1);
    let program = fs::read_link(format!("/proc/{}/exe", stage.gate.pid().as_raw_nonzero())).unwrap();
    assert_eq!(program, copy.canonicalize().unwrap());
    session.close();
}
