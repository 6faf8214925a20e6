//! Processes that are killed at any moment of an upgrade: each session continues correctly or ends. A stream is never
//! corrupt, as it would be if two processes encrypted with the same key.

use std::fs;
use std::io::{self, ErrorKind, Read};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::{BETWEEN_KEY_UPDATES, Over, PROGRAM, Stage, ask, pid_of, script, to};
use crate::support::process::{Process, running_with};
use crate::support::session::{Client, Session};
use crate::support::setup::Setup;
use crate::support::upstream::Server;
use crate::support::wire::{CLOSE, Frame};

const SESSIONS: usize = 12;

/// How a session of a test went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Continued,
    Closed,
    Cut,
}

fn message(number: u32) -> Frame {
    Frame::text(&format!("{number:08}"))
}

/// Reads one message with this number. `Err` if the session has ended. Everything else fails the test, above all a
/// record that cannot be decrypted.
fn read_message(mut stream: impl Read, expected: &[u8]) -> Result<(), Fate> {
    let mut got = vec![0; expected.len()];
    let mut len = 0;
    while len < got.len() {
        match stream.read(&mut got[len..]) {
            Ok(0) => return Err(Fate::Cut),
            Ok(n) => len += n,
            Err(error) => return Err(fate_of(&error)),
        }
        if got[0] & 0xf == CLOSE {
            return Err(Fate::Closed);
        }
    }
    assert!(got == expected, "{:?} instead of {:?}", String::from_utf8_lossy(&got), String::from_utf8_lossy(expected));
    Ok(())
}

fn fate_of(error: &io::Error) -> Fate {
    let is_cut = matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe);
    assert!(is_cut, "the stream is corrupt, or stands still: {error}");
    Fate::Cut
}

/// Sends numbered messages, and checks that each returns once and in order.
fn talk(mut client: Client, over: &Over) -> Fate {
    let (mut number, mut updated) = (0, Instant::now());
    while !over.get() {
        if updated.elapsed() > BETWEEN_KEY_UPDATES {
            updated = Instant::now();
            client.stream.conn.refresh_traffic_keys().unwrap();
        }
        if let Err(error) = client.try_send_frame(message(number)) {
            return fate_of(&error);
        }
        if let Err(fate) = read_message(&mut client.stream, &message(number).bytes()) {
            return fate;
        }
        number += 1;
    }
    Fate::Continued
}

/// Returns numbered messages, and checks that each arrives once and in order.
fn answer(mut server: Server) {
    for number in 0.. {
        if read_message(&mut server.stream, &message(number).masked().bytes()).is_err() {
            return;
        }
        if server.try_send_frame(message(number)).is_err() {
            return;
        }
    }
}

/// Lets sessions talk while `act` upgrades and kills, and until it returns. Returns what it returns, and how the
/// sessions went.
fn under_fire<T>(stage: &Stage, act: impl FnOnce() -> T) -> (T, Vec<Fate>) {
    let sessions: Vec<Session> = (0..SESSIONS).map(|_| Session::open(&stage.gate, &stage.upstream)).collect();
    let over = Over::default();
    thread::scope(|scope| {
        let guard = over.guard();
        let mut talking = Vec::new();
        for Session { client, server, .. } in sessions {
            scope.spawn(|| answer(server));
            talking.push(scope.spawn(|| talk(client, &over)));
        }
        let result = act();
        drop(guard);
        (result, talking.into_iter().map(|thread| thread.join().unwrap()).collect())
    })
}

/// Starts an upgrade to a program that prints its process id first. Returns the answer after `act` on that process;
/// `None` if the process that had to answer was killed.
fn upgrade_and(stage: &Stage, act: impl FnOnce(Pid)) -> Option<(u16, Value)> {
    let program = script(stage, "announced", &format!("echo started $$ >&2; exec {PROGRAM} \"$@\""));
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut text = String::new();
            let _ = stage.api.send("POST", "/v1/upgrade", Some(&to(&program))).read_to_string(&mut text);
            let (head, body) = text.split_once("\r\n\r\n")?;
            let status = head.split(' ').nth(1)?.parse().ok()?;
            Some((status, serde_json::from_str(body).unwrap_or_else(|_| body.into())))
        });
        let line = stage.gate.log.wait_for("the id of the new process", |line| line.starts_with("started "));
        act(Pid::from_raw(line["started ".len()..].parse().unwrap()).unwrap());
        asking.join().unwrap()
    })
}

/// A moment of an upgrade, seen from the outside.
#[derive(Debug, Clone, Copy)]
enum Moment {
    /// This long after the new process has started.
    After(Duration),
    /// As soon as the new process has this many descriptors more than the earlier one without sessions: it has received
    /// sockets of sessions, and has acknowledged them or not.
    Descriptors(usize),
}

impl Moment {
    const ALL: [Self; 12] = [
        Self::After(Duration::ZERO),
        Self::After(Duration::from_millis(10)),
        Self::After(Duration::from_millis(40)),
        Self::After(Duration::from_millis(100)),
        Self::After(Duration::from_millis(200)),
        Self::After(Duration::from_millis(400)),
        Self::Descriptors(1),
        Self::Descriptors(4),
        Self::Descriptors(8),
        Self::Descriptors(12),
        Self::Descriptors(16),
        Self::Descriptors(24),
    ];

    /// Waits for the moment, or until it cannot come any more.
    fn wait(self, new: Pid, without_sessions: usize) {
        match self {
            Self::After(time) => thread::sleep(time),
            Self::Descriptors(more) => {
                let until = Instant::now() + Duration::from_secs(2);
                while descriptors(new) < without_sessions + more && Instant::now() < until {}
            }
        }
    }
}

pub fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())).map_or(0, Iterator::count)
}

/// The new process is paused, so that the messages of the protocol are on the way, and killed.
#[test]
fn a_new_process_that_is_killed_at_any_moment_corrupts_no_session() {
    for moment in Moment::ALL {
        let mut stage = Stage::new(Setup::new());
        let base = descriptors(stage.gate.pid());
        let (answer, fates) = under_fire(&stage, || {
            upgrade_and(&stage, |pid| {
                moment.wait(pid, base);
                // It may have answered and be the only process by now.
                let new = Process::of(pid);
                new.signal(Signal::STOP);
                thread::sleep(Duration::from_millis(20));
                new.signal(Signal::KILL);
                new.wait_end();
            })
        });
        let (status, answer) = answer.expect("the earlier process answers");
        let earlier = stage.gate.pid();
        if status == 200 {
            // It was killed after everything had moved.
            stage.gate.follow(pid_of(&answer)).wait_end();
            continue;
        }
        assert!((500..600).contains(&status), "{moment:?}: {status} {answer}");
        // The earlier process serves on, with the sessions that had not moved.
        let continued = fates.iter().filter(|fate| **fate == Fate::Continued).count();
        assert!(fates.iter().all(|fate| *fate != Fate::Closed), "{moment:?}: {fates:?}");
        stage.api.wait_for_sessions(0);
        Session::open(&stage.gate, &stage.upstream).close();
        assert_eq!(
            running_with(&stage.gate.folder.path("tollgate.toml")),
            [earlier],
            "{moment:?}: {continued} continued"
        );
        // A further upgrade succeeds.
        stage.api.wait_for_sessions(0);
        stage.move_all(0);
    }
}

/// The new process is paused for a moment and continues: nothing is lost.
#[test]
fn a_new_process_that_pauses_delays_the_upgrade_only() {
    for moment in Moment::ALL {
        let mut stage = Stage::new(Setup::new());
        let base = descriptors(stage.gate.pid());
        let (answer, fates) = under_fire(&stage, || {
            let answer = upgrade_and(&stage, |pid| {
                moment.wait(pid, base);
                let new = Process::of(pid);
                new.signal(Signal::STOP);
                thread::sleep(Duration::from_millis(100));
                new.signal(Signal::CONT);
            });
            thread::sleep(Duration::from_millis(50));
            answer
        });
        let (status, answer) = answer.unwrap();
        assert_eq!((status, &answer["failed"]), (200, &json!(0)), "{moment:?}: {answer}");
        assert_eq!(fates, [Fate::Continued; SESSIONS], "{moment:?}");
        stage.gate.follow(pid_of(&answer)).wait_end();
    }
}

/// The sessions that the new process has already started continue there, and the others end.
#[test]
fn an_earlier_process_that_is_killed_at_any_moment_corrupts_no_session() {
    for moment in Moment::ALL {
        let mut stage = Stage::new(Setup::new());
        let base = descriptors(stage.gate.pid());
        let earlier = stage.gate.pid();
        let ((answer, new), fates) = under_fire(&stage, || {
            let mut new = None;
            let answer = upgrade_and(&stage, |pid| {
                new = Some(Process::of(pid));
                moment.wait(pid, base);
                kill_process(earlier, Signal::KILL).unwrap();
            });
            // The new process waits for at most 1 s until the earlier one has ended.
            thread::sleep(Duration::from_millis(1_200));
            (answer, new.unwrap())
        });
        assert!(fates.iter().all(|fate| *fate != Fate::Closed), "{moment:?}: {fates:?}");
        if new.has_ended() {
            // It had not taken over.
            assert_eq!(fates, [Fate::Cut; SESSIONS], "{moment:?}: {answer:?}");
            continue;
        }
        let pids = running_with(&stage.gate.folder.path("tollgate.toml"));
        assert_eq!(pids.len(), 1, "{moment:?}: {fates:?}");
        stage.gate.follow(pids[0]);
        Session::open(&stage.gate, &stage.upstream).close();
        let (status, answer) = ask(&stage.api, &json!({}));
        assert_eq!(status, 200, "{moment:?}: {answer}");
        stage.gate.follow(pid_of(&answer)).wait_end();
    }
}
