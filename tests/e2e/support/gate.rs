//! The proxy under test: the real binary as a child process.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::process::{Pid, Resource, Rlimit, Signal, WaitOptions, getrlimit, kill_process, prlimit, waitpid};

use serde_json::Value;

use super::log::Log;
use super::pki::{self, Leaf};
use super::process::{self, Process};
use super::secrets;
use super::setup::Setup;

/// A running proxy. Dropping it kills the process and, if the test failed, prints its log.
pub struct Gate {
    child: Child,
    /// The process that serves now: the child, or one that took over.
    pid: Pid,
    pub log: Log,
    /// Its standard output. Nothing is written to it, so its end means that the process has ended.
    output: Log,
    address: Option<SocketAddr>,
    pub folder: Folder,
}

impl Gate {
    /// Starts the proxy and waits until it listens.
    pub fn start(setup: Setup) -> Self {
        let mut gate = Self::launch(setup);
        gate.go_to_next_listener();
        gate
    }

    /// Makes clients connect to the next listener from now on.
    pub fn go_to_next_listener(&mut self) {
        self.set_address(&self.log.next("listening"));
    }

    /// Sets the address from a "listening" event.
    pub fn set_address(&mut self, listening: &Value) {
        self.address = Some(listening["address"].as_str().unwrap().parse().unwrap());
    }

    /// Starts the proxy without waiting: it may fail to start.
    pub fn launch(setup: Setup) -> Self {
        let folder = Folder::new();
        let leaves = if setup.leaves.is_empty() {
            vec![Leaf::new(&["chat.example.com", "localhost"])]
        } else {
            setup.leaves.clone()
        };
        let mut certificates = Vec::new();
        for (number, leaf) in leaves.iter().enumerate() {
            folder.write(&format!("chain-{number}.pem"), &leaf.chain_pem);
            folder.write(&format!("key-{number}.pem"), &leaf.key_pem);
            certificates.push(format!("{{ chain = \"chain-{number}.pem\", key = \"key-{number}.pem\" }}"));
        }
        folder.write("token.pem", &pki::public_key_pem());
        setup.files.iter().for_each(|(name, text)| _ = folder.write(name, text));
        let file = folder.write("tollgate.toml", &setup.toml(&format!("[{}]", certificates.join(", "))));
        let mut command = command(setup.before, &["run", "--config", file.to_str().unwrap()]);
        command.envs(setup.environment);
        if let Some(input) = setup.input {
            command.stdin(input);
        }
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Log::read(child.stderr.take().unwrap(), setup.log_until, setup.log_stays_open);
        let output = Log::read(child.stdout.take().unwrap(), None, false);
        Self { pid: Pid::from_child(&child), child, log, output, address: None, folder }
    }

    /// Returns the address of the current listener.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("the proxy listens")
    }

    /// Returns the id of the process that serves now.
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Acts on the process that took over from now on. Returns the earlier one.
    pub fn follow(&mut self, successor: Pid) -> Process {
        Process::of(std::mem::replace(&mut self.pid, successor))
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).unwrap();
    }

    /// Stops all threads of the process, as on a paused machine, and waits until they have stopped.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
    }

    /// Edits the configuration file.
    pub fn edit(&self, edit: impl FnOnce(String) -> String) {
        let file = self.folder.path("tollgate.toml");
        fs::write(&file, edit(fs::read_to_string(&file).unwrap())).unwrap();
    }

    /// Edits the configuration file, sends SIGHUP, and returns the line about the reload.
    pub fn reload(&self, edit: impl FnOnce(String) -> String) -> Value {
        self.edit(edit);
        self.signal(Signal::HUP);
        self.log.next("reloaded")
    }

    /// Sends SIGTERM and waits until the drain has started.
    pub fn drain(&self) {
        self.signal(Signal::TERM);
        self.log.next("draining");
    }

    /// Waits until the process, and each that took over from it, has exited by itself. Returns the status of the first.
    pub fn wait_exit(&mut self) -> ExitStatus {
        assert!(self.output.wait_for_end(), "the proxy does not exit");
        assert!(self.log.wait_for_end(), "the log does not end");
        self.child.wait().unwrap()
    }

    /// Returns the current and the peak resident memory.
    pub fn rss_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Sets the descriptor limit so that the process can open no further ones. Inherited descriptors may have any
    /// number, so the limit is the lowest free one.
    pub fn allow_no_more_descriptors(&self) {
        let open = |number: &u64| self.proc(&format!("fd/{number}")).symlink_metadata().is_ok();
        let free = (0..1 << 20).find(|number| !open(number));
        let limit = Rlimit { current: free, maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Some(self.pid), Resource::Nofile, limit).unwrap();
    }

    /// Returns the number of descriptors that each epoll instance of the process watches.
    pub fn watched(&self) -> Vec<usize> {
        let queues: BTreeSet<String> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|kind| kind.ends_with("anon_inode:[eventpoll]")))
            // Several descriptors may refer to one epoll instance.
            .map(|entry| fs::read_to_string(self.proc("fdinfo").join(entry.file_name())).unwrap())
            .collect();
        queues.iter().map(|queue| queue.lines().filter(|line| line.starts_with("tfd:")).count()).collect()
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.pid.to_string()).join(name)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // The process may have exited already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        process::end_all_with(&self.folder.path("tollgate.toml"));
        self.log.wait_for_end();
        let text = self.log.text();
        if std::thread::panicking() {
            eprintln!("--- the log of the proxy\n{text}\n---");
        } else {
            assert!(!text.contains(pki::TOKEN_START), "a token is in the log:\n{text}");
            assert_eq!(secrets::find(&text), None, "a secret is in the log:\n{text}");
        }
    }
}

/// Returns a command that runs the binary with these arguments, without the variables of the test's own environment
/// that would affect it. `before` is a shell command to run first.
pub fn command(before: Option<&str>, arguments: &[&str]) -> Command {
    let binary = env!("CARGO_BIN_EXE_tollgate");
    let mut command = match before {
        None => Command::new(binary),
        Some(before) => {
            let mut shell = Command::new("sh");
            shell.arg("-c").arg(format!("{before}; exec \"$@\"")).arg("sh").arg(binary);
            shell
        }
    };
    command.args(arguments).stdin(Stdio::null());
    let of_systemd = ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"];
    for name in of_systemd.into_iter().chain(["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID", "STATE_DIRECTORY"]) {
        command.env_remove(name);
    }
    command
}

/// A temporary directory, removed when dropped unless the test failed.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let name = format!("{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        file.write_all(text.as_bytes()).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}
