//! Waits for the end of the other process, and proves it by a value that nothing else can make.

use std::future::Future;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, getppid, pidfd_open};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use super::program::NewProcess;
use super::readiness::register;

/// The time that the kernel has to end the new process after SIGKILL. It is spent only if a system call of the new
/// process cannot be interrupted.
const KILL_MAX: Duration = Duration::from_secs(30);

/// The proof that the new process has ended, so that it cannot start a session any more.
#[derive(Debug)]
pub struct PeerEnded(());

/// The proof that the old process has ended, so that it cannot resume a session any more.
#[derive(Debug)]
pub struct OldEnded(());

#[cfg(test)]
impl PeerEnded {
    /// Makes the proof in a test whose new process is a thread or a model.
    pub fn for_test() -> Self {
        Self(())
    }
}

#[cfg(test)]
impl OldEnded {
    /// Makes the proof in a test whose old process is a thread or a model.
    pub fn for_test() -> Self {
        Self(())
    }
}

/// The new process, as the old one sees it.
pub trait NewPeer {
    /// Ends the new process and waits until it has ended. A second call returns a proof again.
    ///
    /// An error means that the process may still run: no offered session may be resumed.
    fn end(&mut self) -> impl Future<Output = io::Result<PeerEnded>>;

    /// Waits at most `max` for the end of the new process. Returns whether it has ended.
    fn has_ended(&self, max: Duration) -> impl Future<Output = bool>;
}

/// The old process, as the new one sees it.
pub trait OldPeer {
    /// Waits at most `max` for the end of the old process. Returns `None` if it still runs.
    fn ended(&self, max: Duration) -> impl Future<Output = Option<OldEnded>>;
}

impl NewPeer for NewProcess {
    async fn end(&mut self) -> io::Result<PeerEnded> {
        timeout(KILL_MAX, self.kill_and_wait())
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "the new process does not end after SIGKILL"))??;
        Ok(PeerEnded(()))
    }

    async fn has_ended(&self, max: Duration) -> bool {
        timeout(max, self.ended()).await.is_ok()
    }
}

/// The parent of this process, which hands its sessions over.
#[derive(Debug)]
pub struct OldProcess {
    pid: Pid,
    pidfd: AsyncFd<OwnedFd>,
}

impl OldProcess {
    /// Watches the parent of this process.
    ///
    /// # Errors
    ///
    /// The parent has ended already, or the system has no descriptor for it.
    pub fn parent() -> io::Result<Self> {
        let pid = getppid().ok_or(Errno::SRCH)?;
        let pidfd = watch(pid)?;
        // If it is still the parent, its id has not been given to another process before the watch.
        if getppid() != Some(pid) {
            return Err(Errno::SRCH.into());
        }
        Ok(Self { pid, pidfd })
    }

    /// Returns the id of the process.
    pub fn id(&self) -> Pid {
        self.pid
    }
}

impl OldPeer for OldProcess {
    async fn ended(&self, max: Duration) -> Option<OldEnded> {
        let _ended = timeout(max, self.pidfd.readable()).await.ok()?.ok()?;
        Some(OldEnded(()))
    }
}

fn watch(pid: Pid) -> io::Result<AsyncFd<OwnedFd>> {
    register(pidfd_open(pid, PidfdFlags::empty())?, Interest::READABLE)
}

#[cfg(test)]
mod tests;
