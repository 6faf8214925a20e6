//! Watches the directories of the files that the configuration names.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::{Event, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

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
        Self { watcher, watched: BTreeSet::new(), changes }
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
        self.watched = wanted;
    }

    /// Completes when the files are to be read again: some time after a change, and at intervals.
    pub async fn changed(&mut self) {
        if timeout(INTERVAL, self.changes.recv()).await.is_err() {
            return;
        }
        let settling = async {
            while timeout(SETTLE, self.changes.recv()).await.is_ok() {
                // Many events may arrive for one file.
                sleep(SETTLE / 10).await;
            }
        };
        // The files are read even if they change all the time.
        let _ = timeout(SETTLE_MAX, settling).await;
    }
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
