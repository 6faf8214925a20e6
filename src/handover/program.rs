//! Starts the program that replaces this process, and ends it if it does not take over.

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf, absolute};
use std::pin::pin;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, geteuid, kill_process, waitid};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::runtime::tasks::start_blocking;

/// The variable by which a program knows that it replaces a process, which its standard input leads to.
pub const HANDOVER_VARIABLE: &str = "TOLLGATE_HANDOVER";
/// The variables of systemd that concern only the process that it started.
const NOT_PASSED: [&str; 4] = ["LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID"];
/// How long a program may take to end after it has closed its end of the socket.
const EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// The program and the arguments of this process.
#[derive(Debug, Clone)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// A program could not be started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartError {
    /// Its path.
    pub path: PathBuf,
    /// The reason.
    pub reason: String,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot start {}: {}", self.path.display(), self.reason)
    }
}

impl std::error::Error for StartError {}

impl Program {
    /// Returns the program at this path, with the arguments of this process.
    pub fn new(path: PathBuf) -> Self {
        Self { path, arguments: std::env::args_os().skip(1).collect() }
    }

    /// Returns the path of the program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts this program, or the one at `binary`, with the arguments of this process. `socket` is its standard input.
    /// A relative path is one from the current directory, and is not searched elsewhere.
    ///
    /// # Errors
    /// If there is no such file, it is not executable, a `binary` may be written by other users than root and that of
    /// this process, or the system does not permit it.
    pub fn start(&self, binary: Option<&Path>, socket: OwnedFd) -> Result<NewProcess, StartError> {
        let path = match binary {
            None => Ok(self.path.clone()),
            Some(binary) => absolute(binary),
        };
        let path = path.map_err(|error| StartError {
            path: binary.map(Path::to_owned).unwrap_or_default(),
            reason: error.to_string(),
        })?;
        check_executable(&path)
            .and_then(|metadata| if binary.is_some() { check_owner(&metadata) } else { Ok(()) })
            .and_then(|()| start(&path, &self.arguments, socket))
            .map_err(|error| StartError { path, reason: error.to_string() })
    }
}

fn check_executable(path: &Path) -> io::Result<Metadata> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "it is not executable"));
    }
    Ok(metadata)
}

/// Checks that only root and the user of this process can write a program that a request names: a client of the admin
/// API must not have it run a file that others have made.
fn check_owner(metadata: &Metadata) -> io::Result<()> {
    let is_trusted = metadata.uid() == 0 || metadata.uid() == geteuid().as_raw();
    if is_trusted && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let reason = "other users than root and that of this process can write it";
    Err(io::Error::new(io::ErrorKind::PermissionDenied, reason))
}

/// Starts a program. Every other descriptor of this process is closed in it.
fn start(path: &Path, arguments: &[OsString], socket: OwnedFd) -> io::Result<NewProcess> {
    let mut command = Command::new(path);
    command.args(arguments).env(HANDOVER_VARIABLE, "1").stdin(Stdio::from(socket));
    for variable in NOT_PASSED {
        command.env_remove(variable);
    }
    let child = command.spawn()?;
    let ended = CancellationToken::new();
    // The guard also counts the process as ended if the thread cannot be started.
    let (pid, guard) = (i32::try_from(child.id()).ok().and_then(Pid::from_raw), ended.clone().drop_guard());
    drop(start_blocking("handover-watch", move || {
        let _guard = guard;
        pid.map(wait_until_ended)
    }));
    Ok(NewProcess { child: Some(child), ended })
}

/// Waits until a child of this process has ended, and leaves its exit status to another call.
fn wait_until_ended(pid: Pid) {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
}

/// A process that was started to replace this one. It is killed when this is dropped, unless it has taken over.
#[derive(Debug)]
pub struct NewProcess {
    /// `None` once it was waited for, or has taken over.
    child: Option<Child>,
    /// Cancelled once the process has ended.
    ended: CancellationToken,
}

impl NewProcess {
    /// Returns its id; 0 once it has ended.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Waits for an answer of the process, for at most `limit`. `awaited` names it, as in "its greeting".
    ///
    /// # Errors
    /// The reason for which there is no answer: the error of the channel, the exit status of the process, or the time.
    pub async fn answer<T, E: fmt::Display>(
        &mut self,
        awaited: &str,
        limit: Duration,
        answer: impl Future<Output = Result<T, E>>,
    ) -> Result<T, String> {
        let mut answer = pin!(timeout(limit, answer));
        let answered = tokio::select! {
            answered = &mut answer => answered,
            () = self.ended.cancelled() => match timeout(EXIT_TIMEOUT, answer).await {
                // An answer counts even if the process has ended since.
                Ok(Ok(Ok(answer))) => return Ok(answer),
                _ => return Err(self.describe_end(awaited)),
            },
        };
        match answered {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => match timeout(EXIT_TIMEOUT, self.ended()).await {
                Ok(()) => Err(self.describe_end(awaited)),
                Err(_) => Err(format!("waiting for {awaited} failed: {error}")),
            },
            Err(_) => Err(format!("it did not send {awaited} within {} s", limit.as_secs_f64())),
        }
    }

    /// Kills the process, and waits until it has ended: after that, none of its sockets is written to. Returns its exit
    /// status; `None` if it was waited for before.
    ///
    /// # Errors
    /// If the system cannot wait for it.
    pub async fn kill_and_wait(&mut self) -> io::Result<Option<ExitStatus>> {
        let Some(child) = &mut self.child else { return Ok(None) };
        // The child is not waited for elsewhere, so its id cannot be that of another process.
        child.kill()?;
        self.ended.cancelled().await;
        let status = child.wait()?;
        self.child = None;
        Ok(Some(status))
    }

    /// Asks the process to stop, as `SIGTERM` does. It drains the sessions that it has.
    ///
    /// # Errors
    /// If it has ended.
    pub fn terminate(&self) -> io::Result<()> {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::NotFound)?;
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Lets the process go on by itself: it has taken over.
    pub fn release(mut self) -> u32 {
        let pid = self.pid();
        self.child = None;
        pid
    }

    fn describe_end(&mut self, awaited: &str) -> String {
        let status = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let how = match status {
            Some(status) => describe(status),
            None => "ended".to_owned(),
        };
        format!("it {how} before it sent {awaited}")
    }
}

impl Drop for NewProcess {
    fn drop(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        // The wait after SIGKILL is short, and leaves no zombie.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with code {code}"),
        (None, Some(signal)) => format!("was ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests;
