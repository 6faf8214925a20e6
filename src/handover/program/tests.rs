//! Tests of `program`: programs that cannot be started, that end, and that hang.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixStream;

use super::*;

/// A directory with a script, which is removed at the end.
struct Script(PathBuf);

impl Script {
    fn new(name: &str, mode: u32, text: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("tollgate-program-{}-{name}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(directory.join("program"));
        let file: &mut File = file.as_mut().unwrap();
        file.write_all(format!("#!/bin/sh\n{text}\n").as_bytes()).unwrap();
        Self(directory)
    }

    fn path(&self) -> PathBuf {
        self.0.join("program")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(path: &Path) -> Result<(NewProcess, UnixStream), StartError> {
    let (own, other) = UnixStream::pair().unwrap();
    own.set_nonblocking(true).unwrap();
    let program = Program { path: "/nonexistent".into(), arguments: vec!["run".into(), "--config".into()] };
    Ok((program.start(Some(path), other.into())?, own))
}

fn exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_program_that_cannot_be_started_is_named() {
    let not_executable = Script::new("mode", 0o600, "exit 0");
    let (folder, writable) = (std::env::temp_dir(), Script::new("writable", 0o700, "exit 0"));
    fs::set_permissions(writable.path(), fs::Permissions::from_mode(0o772)).unwrap();
    for (path, reason) in [
        (Path::new("/nonexistent/tollgate"), "No such file or directory"),
        (&not_executable.path(), "it is not executable"),
        (&folder, "it is not a regular file"),
        (&writable.path(), "other users than root and that of this process can write it"),
    ] {
        let error = start(path).unwrap_err();
        assert_eq!(error.path, path);
        assert!(error.reason.contains(reason), "{error}");
    }
    let relative = start(Path::new("no-such-program")).unwrap_err();
    assert_eq!(relative.path, std::env::current_dir().unwrap().join("no-such-program"));
}

#[tokio::test]
async fn the_program_gets_the_socket_the_arguments_and_the_variable() {
    let text = "echo \"$TOLLGATE_HANDOVER $1 $2 ${LISTEN_FDS-none}\" >&0; exec 0<&-; exec sleep 600";
    let script = Script::new("echo", 0o700, text);
    let (mut process, own) = start(&script.path()).unwrap();
    let own = tokio::net::UnixStream::from_std(own).unwrap();
    let mut answer = Vec::new();
    tokio::io::AsyncReadExt::read_to_end(&mut { own }, &mut answer).await.unwrap();
    assert_eq!(String::from_utf8(answer).unwrap(), "1 run --config none\n");
    process.kill_and_wait().await.unwrap();
}

#[tokio::test]
async fn a_program_that_ends_is_reported_with_its_status() {
    for (name, text, expected) in
        [("code", "exit 7", "it exited with code 7 "), ("signal", "kill -9 $$", "it was ended by signal 9 ")]
    {
        let script = Script::new(name, 0o700, text);
        let (mut process, _own) = start(&script.path()).unwrap();
        let waiting = std::future::pending::<Result<(), io::Error>>();
        let error = process.answer("its greeting", Duration::from_secs(60), waiting).await.unwrap_err();
        assert_eq!(error, format!("{expected}before it sent its greeting"));
    }
    // The channel notices the end first.
    let script = Script::new("closed", 0o700, "exit 3");
    let (mut process, _own) = start(&script.path()).unwrap();
    let closed = async { Err::<(), _>(io::Error::from(io::ErrorKind::UnexpectedEof)) };
    let error = process.answer("its greeting", Duration::from_secs(60), closed).await.unwrap_err();
    assert_eq!(error, "it exited with code 3 before it sent its greeting");
}

#[tokio::test]
async fn a_program_that_hangs_is_reported_and_leaves_no_zombie() {
    let script = Script::new("hang", 0o700, "exec sleep 600");
    let (mut process, _own) = start(&script.path()).unwrap();
    let waiting = std::future::pending::<Result<(), io::Error>>();
    let error = process.answer("its greeting", Duration::from_millis(10), waiting).await.unwrap_err();
    assert_eq!(error, "it did not send its greeting within 0.01 s");
    let pid = process.pid();
    let status = process.kill_and_wait().await.unwrap().unwrap();
    assert_eq!((status.signal(), exists(pid)), (Some(9), false));
}

#[tokio::test]
async fn only_a_process_that_has_taken_over_outlives_its_handle() {
    let script = Script::new("drop", 0o700, "exec sleep 600");
    let (process, _own) = start(&script.path()).unwrap();
    let pid = process.pid();
    drop(process);
    assert!(!exists(pid));
    let (process, _own) = start(&script.path()).unwrap();
    let pid = Pid::from_raw(process.release().try_into().unwrap()).unwrap();
    rustix::process::test_kill_process(pid).unwrap();
    kill_process(pid, Signal::KILL).unwrap();
    rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty()).unwrap();
}
