//! Watches the directories of the files that the configuration names.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::runtime::clock;

/// The time without a further change after which the files are read, so that a certificate and its key are both
/// written.
const SETTLE: Duration = Duration::from_millis(500);
/// The longest time that changes can delay the reading.
const SETTLE_MAX: Duration = Duration::from_secs(5);
/// The interval at which the files are read without a change: a network file system may report none.
const INTERVAL: Duration = Duration::from_secs(60);

/// Watches directories. A directory is watched and not its files, since a file that is replaced by a rename, or by a
/// change of a symbolic link, would not be seen again.
pub struct FileWatcher {
    /// `None` if the system provides no watches; the files are then read at intervals only.
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    changes: mpsc::Receiver<()>,
    /// The wait after a change, if one was reported.
    settling: Option<Settling>,
    /// When the files are read without a change.
    next_interval: Instant,
}

impl FileWatcher {
    /// Watches no directory yet.
    pub fn new() -> Self {
        let (sender, changes) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            // Reading a file is not a change. An error may hide one.
            if event.is_ok_and(|event| event.kind.is_access()) {
                return;
            }
            // A full channel reports the change already.
            let _ = sender.try_send(());
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "files are only read every minute")).ok();
        Self { watcher, watched: BTreeSet::new(), changes, settling: None, next_interval: after(INTERVAL) }
    }

    /// Watches the directories of these files, and of the files that symbolic links lead to, instead of those before.
    pub fn watch<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) {
        let directories = files.flat_map(|file| [Some(file.clone()), file.canonicalize().ok()]).flatten();
        let wanted: BTreeSet<PathBuf> = directories.filter_map(|file| file.parent().map(directory)).collect();
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&wanted) {
            // A directory that was removed is not watched any more.
            let _ = watcher.unwatch(gone);
        }
        for new in wanted.difference(&self.watched) {
            if let Err(error) = watcher.watch(new, RecursiveMode::NonRecursive) {
                tracing::warn!(directory = %new.display(), %error, "files here are only read every minute");
            }
        }
        // A file may have changed after it was read and before its directory was watched.
        if !wanted.is_subset(&self.watched) {
            self.note_change();
        }
        self.watched = wanted;
    }

    /// Completes when the files are to be read again: some time after a change, and at intervals. It may be cancelled:
    /// the next call continues to wait for the same time.
    pub async fn changed(&mut self) {
        loop {
            let next = self.settling.map_or(self.next_interval, |settling| settling.ends.min(self.next_interval));
            match timeout_at(next, self.changes.recv()).await {
                // Without a watcher no change is reported.
                Ok(None) => sleep_until(next).await,
                Ok(Some(())) => {
                    self.note_change();
                    // Many events may arrive for one file.
                    continue;
                }
                Err(_) => {}
            }
            self.settling = None;
            self.next_interval = after(INTERVAL);
            return;
        }
    }

    fn note_change(&mut self) {
        let latest = self.settling.map_or_else(|| after(SETTLE_MAX), |settling| settling.latest);
        self.settling = Some(Settling { ends: after(SETTLE).min(latest), latest });
    }
}

/// The wait after a change.
#[derive(Debug, Clone, Copy)]
struct Settling {
    /// When it ends if there is no further change.
    ends: Instant,
    /// When it ends even if the files change all the time.
    latest: Instant,
}

fn after(time: Duration) -> Instant {
    Instant::from_std(clock::after(clock::now(), time))
}

/// Returns a path that can be watched: the parent of a relative file name is empty.
fn directory(parent: &Path) -> PathBuf {
    if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() }
}

impl fmt::Debug for FileWatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileWatcher").field("watched", &self.watched).finish_non_exhaustive()
    }
}
