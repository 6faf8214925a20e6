//! The content of the files that the configuration names, as it is in use: the private keys, chains, key sets and
//! secrets.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use zeroize::Zeroizing;

use crate::config::{self, Config, Content, Disk, Files, Report, Source};

/// The content of files by path. `Debug` shows paths only.
#[derive(Default, Clone, PartialEq, Eq)]
pub struct FilesInUse(HashMap<PathBuf, Remembered>);

#[derive(Clone, PartialEq, Eq)]
struct Remembered {
    bytes: Zeroizing<Vec<u8>>,
    mode: u32,
}

/// Files that changed and form a valid configuration.
#[derive(Debug)]
pub struct Refreshed {
    /// The configuration with the changed files.
    pub config: Config,
    /// The content of all files with these changes.
    pub files: FilesInUse,
    /// The changed files.
    pub changed: Vec<PathBuf>,
}

/// Changed files that cannot be used. The earlier content of all files of the group stays in use.
#[derive(Debug)]
pub struct Unusable {
    /// The files of the group.
    pub group: Vec<PathBuf>,
    /// The errors.
    pub report: Report,
}

impl FilesInUse {
    /// Reads the files of a configuration that was read just now. A file that cannot be read is left out: it counts as
    /// changed once it can be read.
    pub fn read(source: &Source) -> Self {
        let read = |path: &PathBuf| Some((path.clone(), Remembered::from(Disk.read(path).ok()?)));
        Self(source.files.iter().flatten().filter_map(read).collect())
    }

    /// Compares the files with those on disk. The files of one section are taken together. Returns the configuration
    /// with all changes that can be used, if there are any, and the groups of files that cannot be used.
    pub fn refresh(&self, source: &Source) -> (Option<Refreshed>, Vec<Unusable>) {
        let on_disk = Self::read(source);
        let is_changed = |group: &&Vec<PathBuf>| group.iter().any(|path| self.0.get(path) != on_disk.0.get(path));
        let changed: Vec<&Vec<PathBuf>> = source.files.iter().filter(is_changed).collect();
        if changed.is_empty() {
            return (None, Vec::new());
        }
        if let Ok(refreshed) = self.with(&on_disk, &changed, source) {
            return (Some(refreshed), Vec::new());
        }
        // One group of several may be unusable.
        let (mut usable, mut unusable) = (Vec::new(), Vec::new());
        for group in changed {
            match self.with(&on_disk, &[group], source) {
                Ok(_) => usable.push(group),
                Err(report) => unusable.push(Unusable { group: group.clone(), report }),
            }
        }
        let refreshed = if usable.is_empty() { None } else { self.with(&on_disk, &usable, source).ok() };
        (refreshed, unusable)
    }

    /// Parses the configuration with these groups as they are on disk, and the other files as they are in use.
    fn with(&self, on_disk: &Self, groups: &[&Vec<PathBuf>], source: &Source) -> Result<Refreshed, Report> {
        let mut files = self.clone();
        let mut changed = Vec::new();
        for path in groups.iter().copied().flatten() {
            match on_disk.0.get(path) {
                Some(content) => _ = files.0.insert(path.clone(), content.clone()),
                None => _ = files.0.remove(path),
            }
            if self.0.get(path) != on_disk.0.get(path) {
                changed.push(path.clone());
            }
        }
        let checked = config::recheck(source, &files);
        let config = checked.config.ok_or(checked.report)?;
        Ok(Refreshed { config, files, changed })
    }
}

impl Files for FilesInUse {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let content = self.0.get(path).ok_or(io::ErrorKind::NotFound)?;
        Ok(Content { bytes: content.bytes.to_vec(), mode: content.mode })
    }

    fn credentials(&self) -> Option<PathBuf> {
        Disk.credentials()
    }

    fn now(&self) -> SystemTime {
        Disk.now()
    }

    fn state_directory(&self) -> Option<PathBuf> {
        Disk.state_directory()
    }
}

impl From<Content> for Remembered {
    fn from(content: Content) -> Self {
        Self { bytes: Zeroizing::new(content.bytes), mode: content.mode }
    }
}

impl fmt::Debug for FilesInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests;
