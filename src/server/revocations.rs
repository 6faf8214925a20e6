//! Keeps revocations in a journal on disk, so that they outlive the process and the machine's power.

use std::collections::HashMap;
use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use rustix::fs::{Access, access, fstat, stat};
use rustix::io::Errno;
use tokio::runtime::Builder;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::front::gateway::Gateway;
use crate::front::revoker::{COMMITS_MAX, Commit, Committed, RevokeError};
use crate::policy::revocation::Revocations;
use crate::policy::revocation::entry::Revocation;
use crate::policy::revocation::journal::{Change, HEADER, replay};
use crate::runtime::clock;
use crate::runtime::tasks::{Tasks, start_blocking, start_thread};

/// The journal, the file that replaces it, the copy of a damaged one, and the file that one process locks.
const JOURNAL: &str = "revocations";
const NEW: &str = "revocations.new";
const DAMAGED: &str = "revocations.damaged";
const LOCK: &str = "revocations.lock";
/// Other users must not read which clients were revoked.
const MODE: u32 = 0o600;
/// The number of changes that share one write and one fsync.
const BATCH_MAX: usize = 256;
/// The journal is written anew when it is larger than twice its last new form and this.
const SLACK_BYTES: u64 = 1 << 20;
/// The largest journal that is read.
const JOURNAL_MAX_BYTES: u64 = 1 << 30;
/// The number of damaged lines that the log names.
const DAMAGED_LOGGED: usize = 10;

/// Why the journal cannot be used.
#[derive(Debug)]
pub enum JournalError {
    /// Another process uses the directory.
    Locked(PathBuf),
    /// The journal was written by another version of Tollgate.
    OtherVersion(PathBuf),
    /// A file in the directory cannot be read or written.
    Io(PathBuf, io::Error),
    /// The system did not provide a thread.
    System(io::Error),
}

impl fmt::Display for JournalError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Locked(path) => write!(f, "another process uses this state_dir: it has locked {}", path.display()),
            Self::OtherVersion(path) => write!(f, "another version of tollgate wrote {}", path.display()),
            Self::System(error) => write!(f, "no thread: {error}"),
            Self::Io(path, error) => write!(f, "cannot use {} in state_dir: {error}", path.display()),
        }
    }
}

impl std::error::Error for JournalError {}

/// Loads the revocations of `revocations_file` and, if there is a `state_dir`, those of an earlier process, and stores
/// those of this one from now on. `passed` is the locked file of the process that this one replaces. Returns a clone of
/// the locked file.
///
/// # Errors
/// If the journal cannot be used, or the system does not provide a thread.
pub(super) fn start(
    gateway: &Arc<Gateway>,
    config: &Config,
    passed: Option<OwnedFd>,
) -> Result<Option<OwnedFd>, JournalError> {
    let (store, now) = (gateway.counters.revocations(), clock::both().unix);
    // A file of 1 MiB has fewer than the store can have.
    if store.replace_listed(&config.revocations, now).is_err() {
        tracing::error!("revocations_file has more revocations than the store can have: none is in effect");
    }
    let journal = match &config.server.state_dir {
        Some(directory) => Some(Journal::open(directory, passed, store, now)?),
        None => None,
    };
    let is_durable = journal.is_some();
    let lock = journal.as_ref().map(|journal| journal.lock.try_clone().map(OwnedFd::from)).transpose();
    let lock = lock.map_err(JournalError::System)?;
    if !is_durable && config.can_revoke() {
        tracing::warn!("revocations end with the process: there is no state_dir");
    }
    let runtime = Builder::new_current_thread().build().map_err(JournalError::System)?;
    let (sender, commits) = mpsc::channel(COMMITS_MAX);
    start_thread("revocations", runtime, serve(journal, Arc::downgrade(gateway), commits))
        .map_err(JournalError::System)?;
    gateway.revoker.set_queue(sender, is_durable);
    Ok(lock)
}

/// Checks without a change on disk whether a process could keep its revocations in a directory. That another process
/// uses it now is no error: it is the one that the configuration is for.
///
/// # Errors
/// If it is not a directory, a file in it cannot be read or written, or another version wrote the journal.
pub fn inspect(directory: &Path) -> io::Result<()> {
    if !std::fs::metadata(directory)?.is_dir() {
        return Err(io::Error::other("it is not a directory"));
    }
    access(directory, Access::WRITE_OK | Access::EXEC_OK)?;
    let (lock, journal) = (directory.join(LOCK), directory.join(JOURNAL));
    match access(&lock, Access::READ_OK | Access::WRITE_OK) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(io::Error::other(JournalError::Io(lock, error.into()))),
    }
    match read(&journal).map(|content| replay(&content)) {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(_)) => Err(io::Error::other(JournalError::OtherVersion(journal))),
        Err(error) => Err(io::Error::other(JournalError::Io(journal, error))),
    }
}

/// Makes the revocations that the journal has and this process has not, after a new process failed that may have made
/// some. A removal by that process has no effect.
pub(super) fn read_again(gateway: &Arc<Gateway>, config: &Config, tasks: &Tasks) {
    let Some(directory) = &config.server.state_dir else { return };
    let (gateway, path) = (Arc::clone(gateway), directory.join(JOURNAL));
    tasks.start(async move {
        let shown = path.display().to_string();
        let reading = start_blocking("journal", move || read(&path).map(|content| replay(&content)));
        let replayed = match reading.await {
            Ok(Ok(Ok(replayed))) => replayed,
            Ok(Ok(Err(_))) => return tracing::error!(journal = shown, "another version wrote the revocations"),
            Ok(Err(error)) => return tracing::error!(journal = shown, %error, "cannot read the revocations again"),
            Err(_) => return tracing::error!(journal = shown, "cannot read the revocations again: no thread"),
        };
        for revocation in missing(gateway.counters.revocations(), replayed.changes, clock::both().unix) {
            // The log has the error.
            let _ = gateway.revoker.revoke(revocation).await;
        }
    });
}

/// Returns the revocations that these changes make and the store does not have.
fn missing(store: &Revocations, changes: Vec<Change>, now: Duration) -> Vec<Revocation> {
    let mut made = HashMap::new();
    for change in changes {
        match change {
            Change::Add(revocation) => _ = made.insert(revocation.target.id(), revocation),
            Change::Remove(id) => _ = made.remove(&id),
        }
    }
    for known in store.of_api(now) {
        // An equal target may hold for other tokens.
        if made.get(&known.target.id()).is_some_and(|revocation| *revocation == *known) {
            made.remove(&known.target.id());
        }
    }
    made.into_values().filter(|revocation| !revocation.has_ended(now)).collect()
}

/// Makes and stores changes until the process ends, and ends the sessions that they concern. Changes that wait at the
/// same time share one fsync, which blocks this thread.
async fn serve(mut journal: Option<Journal>, gateway: Weak<Gateway>, mut commits: mpsc::Receiver<Commit>) {
    let mut batch = Vec::with_capacity(BATCH_MAX);
    while commits.recv_many(&mut batch, BATCH_MAX).await > 0 {
        let Some(gateway) = gateway.upgrade() else { return };
        let (store, now) = (gateway.counters.revocations(), clock::both().unix);
        let (mut lines, mut made) = (String::new(), Vec::with_capacity(batch.len()));
        for Commit { change, reply, admitted } in batch.drain(..) {
            let line = change.line();
            if let Ok(applied) = store.apply(change, now) {
                lines.push_str(&line);
                made.push((applied, reply, admitted));
            } else {
                // If the caller no longer waits, the log has the error.
                drop(reply.send(Err(RevokeError::Full)));
            }
        }
        let stored = journal.as_mut().map_or(Ok(()), |journal| journal.store(lines.as_bytes(), store, now));
        if let Err(error) = &stored {
            tracing::error!(%error, "revocations are in effect but could not be stored in state_dir");
        }
        let is_stored = stored.is_ok();
        let ending = made.into_iter().map(|(applied, reply, admitted)| {
            let revoker = &gateway.revoker;
            async move {
                let ended = revoker.end_sessions(&applied).await;
                let result = if is_stored { Ok(Committed { applied, ended }) } else { Err(RevokeError::NotStored) };
                drop(reply.send(result));
                drop(admitted);
            }
        });
        join_all(ending).await;
    }
}

/// The journal of this process.
#[derive(Debug)]
struct Journal {
    directory: PathBuf,
    file: File,
    lock: File,
    bytes: u64,
    /// The length at which it is written anew.
    rewritten_at: u64,
    /// Whether the last write succeeded. After a failed one the content of the file is not known, so the next change
    /// writes it anew.
    is_sound: bool,
}

impl Journal {
    /// Locks the directory, adds the revocations of the journal to the store, and writes the journal anew. A process
    /// that replaces another one has its locked file, and writes the journal anew with the first change: until then
    /// the other process may have to continue with it.
    fn open(
        directory: &Path,
        passed: Option<OwnedFd>,
        store: &Revocations,
        now: Duration,
    ) -> Result<Self, JournalError> {
        let path = |name: &str| directory.join(name);
        let failed = |name: &'static str| move |error| JournalError::Io(directory.join(name), error);
        let lock = options().create(true).truncate(false).open(path(LOCK)).map_err(failed(LOCK))?;
        // The lock belongs to the open file, of which the other process has another descriptor.
        let passed = passed.filter(|passed| is_same_file(passed, &lock));
        let (lock, is_passed) = passed.map_or((lock, false), |passed| (File::from(passed), true));
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => JournalError::Locked(path(LOCK)),
            TryLockError::Error(error) => JournalError::Io(path(LOCK), error),
        })?;
        let content = read(&path(JOURNAL)).map_err(failed(JOURNAL))?;
        let replayed = replay(&content).map_err(|_| JournalError::OtherVersion(path(JOURNAL)))?;
        let cut = content.len().saturating_sub(replayed.whole_bytes);
        if cut > 0 {
            let bytes = cut;
            tracing::warn!(bytes, "the last line of the journal of revocations was not complete, and is cut off");
        }
        if !replayed.damaged.is_empty() {
            let lines: Vec<String> = replayed.damaged.iter().take(DAMAGED_LOGGED).map(ToString::to_string).collect();
            let (count, lines) = (replayed.damaged.len(), lines.join(" "));
            write(&path(DAMAGED), &content).map_err(failed(DAMAGED))?;
            let copy = path(DAMAGED);
            let copy = copy.display();
            tracing::error!(count, lines, %copy, "the journal of revocations is damaged: revocations may be lost");
        }
        load(store, replayed.changes, now).map_err(failed(JOURNAL))?;
        let (file, bytes) = if is_passed {
            (lock.try_clone().map_err(failed(LOCK))?, content.len() as u64)
        } else {
            rewrite(directory, store, now).map_err(failed(JOURNAL))?
        };
        let (count, shown) = (store.count(now), directory.display());
        tracing::info!(count, directory = %shown, "revocations are stored");
        let rewritten_at = limit(bytes);
        Ok(Self { directory: directory.to_owned(), file, lock, bytes, rewritten_at, is_sound: !is_passed })
    }

    /// Whether the journal is the file that this process writes. A new process that failed may have replaced it.
    fn is_in_place(&self) -> bool {
        let found = stat(self.directory.join(JOURNAL));
        matches!((found, fstat(&self.file)), (Ok(a), Ok(b)) if identity(a) == identity(b))
    }

    /// Stores the lines of changes that were made in the store. Returns when they are on disk.
    fn store(&mut self, lines: &[u8], store: &Revocations, now: Duration) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let length = self.bytes.saturating_add(lines.len() as u64);
        if self.is_sound && length <= self.rewritten_at && self.is_in_place() {
            self.is_sound = false;
            self.file.write_all(lines)?;
            self.file.sync_data()?;
            self.bytes = length;
        } else {
            self.is_sound = false;
            (self.file, self.bytes) = rewrite(&self.directory, store, now)?;
            self.rewritten_at = limit(self.bytes);
        }
        self.is_sound = true;
        Ok(())
    }
}

fn is_same_file(a: &OwnedFd, b: &File) -> bool {
    matches!((fstat(a), fstat(b)), (Ok(a), Ok(b)) if identity(a) == identity(b))
}

fn identity(found: rustix::fs::Stat) -> (u64, u64) {
    (found.st_dev, found.st_ino)
}

fn limit(bytes: u64) -> u64 {
    bytes.saturating_mul(2).saturating_add(SLACK_BYTES)
}

fn load(store: &Revocations, changes: Vec<Change>, now: Duration) -> io::Result<()> {
    for change in changes {
        let has_ended = matches!(&change, Change::Add(revocation) if revocation.has_ended(now));
        if !has_ended && store.apply(change, now).is_err() {
            return Err(io::Error::other("it has more revocations than the store can have"));
        }
    }
    Ok(())
}

/// Writes the revocations of the store to a new file, which then replaces the journal.
fn rewrite(directory: &Path, store: &Revocations, now: Duration) -> io::Result<(File, u64)> {
    let mut text = HEADER.to_owned();
    for revocation in store.of_api(now) {
        text.push_str(&Change::Add((*revocation).clone()).line());
    }
    let file = write(&directory.join(NEW), text.as_bytes())?;
    std::fs::rename(directory.join(NEW), directory.join(JOURNAL))?;
    // The new name is on disk once its directory is.
    File::open(directory)?.sync_all()?;
    Ok((file, text.len() as u64))
}

fn write(path: &Path, content: &[u8]) -> io::Result<File> {
    let mut file = options().create(true).truncate(true).open(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    Ok(file)
}

/// Reads a file; empty if there is none.
fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    match File::open(path) {
        Ok(file) => _ = file.take(JOURNAL_MAX_BYTES.saturating_add(1)).read_to_end(&mut content)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if content.len() as u64 > JOURNAL_MAX_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(content)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(MODE);
    options
}

#[cfg(test)]
mod tests;
