//! The gate: the real binary as a child process.

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
use super::setup::Setup;

/// A running gate. It is killed when dropped; if the test failed, its log is printed then.
pub struct Gate {
    child: Child,
    pub log: Log,
    /// Its standard output, on which it says nothing, so that the end of that is its own.
    output: Log,
    address: Option<SocketAddr>,
    _folder: Folder,
}

impl Gate {
    /// Starts it, and waits until it listens.
    pub fn start(setup: Setup) -> Self {
        let mut gate = Self::launch(setup);
        gate.go_to_next_listener();
        gate
    }

    /// From now on clients come in at the next listener.
    pub fn go_to_next_listener(&mut self) {
        self.set_address(&self.log.next("listening"));
    }

    /// Takes the address from the line that tells it.
    pub fn set_address(&mut self, listening: &Value) {
        self.address = Some(listening["address"].as_str().unwrap().parse().unwrap());
    }

    /// Starts it, and waits for nothing: it may well fail.
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
        let file = folder.write("tollgate.toml", &setup.toml(&format!("[{}]", certificates.join(", "))));
        let mut command = command(setup.before, &["run", "--config", file.to_str().unwrap()]);
        command.envs(setup.environment);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let log = Log::read(child.stderr.take().unwrap(), setup.log_until, setup.log_stays_open);
        let output = Log::read(child.stdout.take().unwrap(), None, false);
        Self { child, log, output, address: None, _folder: folder }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address.expect("it listens")
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Stops all its threads, as a paused machine does, and waits until they are.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let (_, status) = waitpid(Some(self.pid()), WaitOptions::UNTRACED).unwrap().unwrap();
        assert!(status.stopped());
    }

    /// Tells it to stop, and waits until it drains.
    pub fn drain(&self) {
        self.signal(Signal::TERM);
        self.log.next("draining");
    }

    /// Waits until it has ended by itself.
    pub fn wait_exit(&mut self) -> ExitStatus {
        assert!(self.output.wait_for_end(), "the gate does not end");
        assert!(self.log.wait_for_end(), "the log does not end");
        self.child.wait().unwrap()
    }

    /// Its memory now, and at the most so far.
    pub fn rss_kib(&self) -> (u64, u64) {
        let status = fs::read_to_string(self.proc("status")).unwrap();
        let field = |name| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_matches(|c: char| !c.is_ascii_digit()).parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }

    /// Lets it open no more descriptors than it has. What it inherited may have any number, so that it is the lowest free
    /// one that counts.
    pub fn allow_no_more_descriptors(&self) {
        let open = |number: &u64| self.proc(&format!("fd/{number}")).symlink_metadata().is_ok();
        let free = (0..1 << 20).find(|number| !open(number));
        let limit = Rlimit { current: free, maximum: getrlimit(Resource::Nofile).maximum };
        prlimit(Some(self.pid()), Resource::Nofile, limit).unwrap();
    }

    /// How many descriptors each of its event queues watches.
    pub fn watched(&self) -> Vec<usize> {
        let queues: BTreeSet<String> = fs::read_dir(self.proc("fd"))
            .unwrap()
            .map(Result::unwrap)
            .filter(|entry| fs::read_link(entry.path()).is_ok_and(|kind| kind.ends_with("anon_inode:[eventpoll]")))
            // A queue may have several descriptors.
            .map(|entry| fs::read_to_string(self.proc("fdinfo").join(entry.file_name())).unwrap())
            .collect();
        queues.iter().map(|queue| queue.lines().filter(|line| line.starts_with("tfd:")).count()).collect()
    }

    fn proc(&self, name: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(name)
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.log.wait_for_end();
        let text = self.log.text();
        if std::thread::panicking() {
            eprintln!("--- the gate's log\n{text}\n---");
        } else {
            assert!(!text.contains(pki::TOKEN_START), "a token is in the log:\n{text}");
        }
    }
}

/// The binary with these arguments, and without what the test's own environment would tell it.
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
    for name in ["NOTIFY_SOCKET", "JOURNAL_STREAM", "CREDENTIALS_DIRECTORY"] {
        command.env_remove(name);
    }
    command
}

/// A folder of its own, removed at the end unless the test failed.
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
