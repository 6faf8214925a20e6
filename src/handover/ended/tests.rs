//! Tests of the waits for the end of a process, with real processes.

use std::process::{Child, Command, Stdio};

use super::*;
use crate::handover::program::Program;

fn child() -> Child {
    // It ends only when its input is closed.
    Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn the_new_process_is_killed_and_reaped_before_its_end_is_proved() {
    block_on(async {
        // It ends only when its input is closed.
        let (_own, input) = std::os::unix::net::UnixStream::pair().unwrap();
        let program = Program::new("/bin/cat".into());
        let mut process = program.start(None, input.into()).unwrap();
        let pid = Pid::from_raw(process.pid().cast_signed()).unwrap();
        let _proof = process.end().await.unwrap();
        assert_eq!(rustix::process::test_kill_process(pid), Err(Errno::SRCH));
        // A second call proves it again.
        process.end().await.unwrap();
    });
}

#[test]
fn the_end_of_the_old_process_is_proved_only_after_it() {
    block_on(async {
        let mut child = child();
        let pid = Pid::from_child(&child);
        let old = OldProcess { pid, pidfd: watch(pid).unwrap() };
        assert!(old.ended(Duration::from_millis(5)).await.is_none());
        drop(child.stdin.take());
        assert!(old.ended(Duration::from_secs(60)).await.is_some());
        child.wait().unwrap();
        assert!(old.ended(Duration::ZERO).await.is_some());
    });
}

#[test]
fn the_parent_can_be_watched() {
    block_on(async {
        let parent = OldProcess::parent().unwrap();
        assert_eq!(Some(parent.id()), getppid());
        assert!(parent.ended(Duration::from_millis(1)).await.is_none());
    });
}
