//! Processes that took over from the one that a test started. They are not its children.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::PATIENCE;

/// A process, by a handle that never refers to another one.
pub struct Process(OwnedFd);

impl Process {
    /// Returns the process with this id, which must exist.
    pub fn of(pid: Pid) -> Self {
        Self::find(pid).unwrap_or_else(|| panic!("process {pid:?} has ended"))
    }

    /// Returns the process with this id; `None` if it has ended.
    pub fn find(pid: Pid) -> Option<Self> {
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(handle) => Some(Self(handle)),
            Err(Errno::SRCH) => None,
            Err(error) => panic!("{error}"),
        }
    }

    /// Sends a signal, which a process that has ended ignores.
    pub fn signal(&self, signal: Signal) {
        match pidfd_send_signal(&self.0, signal) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => panic!("{error}"),
        }
    }

    pub fn has_ended(&self) -> bool {
        self.ends_within(0)
    }

    /// Waits until the process has ended.
    pub fn wait_end(&self) {
        assert!(self.ends_within(PATIENCE.as_secs()), "the process does not end");
    }

    fn ends_within(&self, seconds: u64) -> bool {
        let mut polled = [PollFd::new(&self.0, PollFlags::IN)];
        let timeout = Timespec { tv_sec: seconds.try_into().unwrap(), tv_nsec: 0 };
        poll(&mut polled, Some(&timeout)).unwrap() > 0
    }
}

/// Returns the processes that have this file as an argument.
fn with_argument(file: &Path) -> Vec<(Pid, Process)> {
    let wanted = file.as_os_str().as_encoded_bytes();
    let has_it = |command_line: &[u8]| command_line.split(|byte| *byte == 0).any(|argument| argument == wanted);
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().map(Result::unwrap) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        // The handle is opened first, so that it refers to the process whose command line is read.
        let Some(process) = Process::find(pid) else { continue };
        match fs::read(entry.path().join("cmdline")) {
            Ok(line) if has_it(&line) => found.push((pid, process)),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(3) => {}
            Err(error) => panic!("{error}"),
        }
    }
    found
}

/// Returns the ids of the processes that run with this configuration file.
pub fn running_with(file: &Path) -> Vec<Pid> {
    with_argument(file).into_iter().map(|(pid, _)| pid).collect()
}

/// Kills every process that runs with this configuration file, and those that they start meanwhile.
pub fn end_all_with(file: &Path) {
    let until = Instant::now() + PATIENCE;
    loop {
        let found = with_argument(file);
        if found.is_empty() {
            return;
        }
        for (pid, process) in found {
            process.signal(Signal::KILL);
            let is_late = Instant::now() > until;
            assert!(!is_late && process.ends_within(PATIENCE.as_secs()), "process {pid:?} does not end");
        }
    }
}
