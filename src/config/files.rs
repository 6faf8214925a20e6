//! The inputs of a configuration outside its text: the files that it names, credentials, and the time.

use std::cell::{Cell, RefCell};
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::keys::Key;

/// Maximum size of a file: far more than any key, chain, key set or configuration needs.
pub(super) const FILE_MAX_BYTES: u64 = 1 << 20;

/// The month in which this version was built, as time since the Unix epoch: 2026-11-01. A clock that shows an earlier
/// time is wrong: it was not set, or the machine has no clock that runs while it is powered off.
pub const BUILT: Duration = Duration::from_secs(1_793_491_200);

/// Whether a clock that shows this time can be right.
pub(super) fn can_be_right(now: SystemTime) -> bool {
    now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since >= BUILT)
}

/// The source of the files that a configuration names. Tests that must not touch a disk provide their own.
pub trait Files {
    /// Reads a whole file.
    ///
    /// # Errors
    /// Returns the error of the system, or `FileTooLarge` beyond 1 MiB.
    fn read(&self, path: &Path) -> io::Result<Content>;

    /// Returns the directory of the service's credentials, if it has one: `$CREDENTIALS_DIRECTORY`.
    fn credentials(&self) -> Option<PathBuf>;

    /// Whether a credential is an error if there is no credentials directory. Otherwise it is left unchecked.
    fn needs_credentials(&self) -> bool {
        true
    }

    /// Returns the time against which certificates are checked.
    fn now(&self) -> SystemTime;

    /// Returns the directory for the state of the service, if it has one: the first of `$STATE_DIRECTORY`.
    fn state_directory(&self) -> Option<PathBuf> {
        None
    }

    /// Checks without a change on disk whether a process could keep its state in the directory of `state_dir`. Only
    /// `check` does: a process opens the directory itself.
    ///
    /// # Errors
    /// Returns the reason if it could not.
    fn check_state_directory(&self, path: &Path) -> io::Result<()> {
        let _ = path;
        Ok(())
    }
}

/// The content of a file.
#[derive(Clone, PartialEq, Eq)]
pub struct Content {
    /// All its bytes, which are never shown: `Debug` omits them.
    pub bytes: Vec<u8>,
    /// Its mode (`st_mode`), which includes the permission bits of `chmod`.
    pub mode: u32,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The file system of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Disk;

impl Files for Disk {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let mut file = File::open(path)?;
        let mode = file.metadata()?.mode();
        let mut bytes = Vec::new();
        file.by_ref().take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is larger than 1 MiB"));
        }
        Ok(Content { bytes, mode })
    }

    fn credentials(&self) -> Option<PathBuf> {
        env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from)
    }

    #[expect(clippy::disallowed_methods, reason = "certificates are checked against the time at which they are read")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn state_directory(&self) -> Option<PathBuf> {
        env::split_paths(&env::var_os("STATE_DIRECTORY")?).next().filter(|path| path.is_absolute())
    }
}

/// The prefix of a credential's name.
const CREDENTIAL: &str = "credential:";

/// The files, and the directory against which relative paths are resolved.
pub(super) struct FileLoader<'a> {
    pub(super) base: &'a Path,
    pub(super) files: &'a dyn Files,
    /// Whether a credential was left unchecked. There is then no configuration, even without an error.
    pub(super) unchecked: Cell<bool>,
    /// The paths that were read, each with the start of its section, or of its own value.
    pub(super) read: RefCell<Vec<(usize, PathBuf)>>,
}

impl<'a> FileLoader<'a> {
    pub(super) fn new(base: &'a Path, files: &'a dyn Files) -> Self {
        Self { base, files, unchecked: Cell::new(false), read: RefCell::default() }
    }

    /// Returns the paths that were read. Those of one section, such as a certificate and its key, are in one group,
    /// except those of [`FileLoader::read_alone`].
    pub(super) fn groups(&self) -> Vec<Vec<PathBuf>> {
        let mut groups: Vec<(usize, Vec<PathBuf>)> = Vec::new();
        for (section, path) in self.read.take() {
            match groups.iter_mut().find(|(known, _)| *known == section) {
                Some((_, group)) => group.push(path),
                None => groups.push((section, vec![path])),
            }
        }
        groups.into_iter().map(|(_, group)| group).collect()
    }

    /// Reads the file that this key names. Errors are reported at the key's value.
    pub(super) fn read(&self, section: &Section<'_>, key: &Key) -> Option<Located<Content>> {
        self.read_written(section, section.text(key)?)
    }

    /// Reads the file that this text of the section names.
    fn read_written(&self, section: &Section<'_>, written: Located<String>) -> Option<Located<Content>> {
        self.read_in_group(section, written, section.span().start).map(|(content, _)| content)
    }

    /// Reads the file that this text of the section names and that changes without the other files of the section.
    /// Returns its path, too.
    pub(super) fn read_alone(&self, section: &Section<'_>, written: Located<String>) -> Option<(Content, PathBuf)> {
        let group = written.span.start;
        self.read_in_group(section, written, group).map(|(content, path)| (content.value, path))
    }

    /// Reads the file that this text of the section names, as one of the files that start with this position.
    fn read_in_group(
        &self,
        section: &Section<'_>,
        written: Located<String>,
        group: usize,
    ) -> Option<(Located<Content>, PathBuf)> {
        let is_credential = written.starts_with(CREDENTIAL);
        if is_credential && self.files.credentials().is_none() && !self.files.needs_credentials() {
            self.unchecked.set(true);
            section.diagnostics.push(
                Diagnostic::warning(written.span.clone(), format!("{} is not checked", quote(&written)))
                    .label("$CREDENTIALS_DIRECTORY is not set, as it is in the systemd unit")
                    .help("name the directory of its file: check --credentials DIR"),
            );
            return None;
        }
        let path = match self.resolve(&written) {
            Ok(path) => path,
            Err(label) => {
                let message = format!("{} does not name a file", quote(&written));
                section.diagnostics.push(Diagnostic::error(written.span, message).label(label));
                return None;
            }
        };
        self.read.borrow_mut().push((group, path.clone()));
        match self.files.read(&path) {
            Ok(content) => Some((Located { value: content, span: written.span }, path)),
            Err(error) => {
                let diagnostic = Diagnostic::error(written.span.clone(), format!("cannot read {}", quote(&written)))
                    .label(error.to_string());
                // The full path is shown if it differs from the text at the caret. `path` is relative if the path of
                // the configuration is relative.
                let resolved = std::path::absolute(&path).unwrap_or(path).display().to_string();
                section.diagnostics.push(if resolved == *written {
                    diagnostic
                } else {
                    diagnostic.help(format!("the full path is {resolved}"))
                });
                None
            }
        }
    }

    /// Reads a file that holds a secret, to which other users of the machine must have no access.
    pub(super) fn read_secret(&self, section: &Section<'_>, key: &Key) -> Option<Located<Content>> {
        self.read_written_secret(section, key, section.text(key)?)
    }

    /// Reads the file that this text in the value of a key names, and that holds a secret.
    pub(super) fn read_written_secret(
        &self,
        section: &Section<'_>,
        key: &Key,
        written: Located<String>,
    ) -> Option<Located<Content>> {
        let content = self.read_written(section, written)?;
        let rights_of_others = content.mode & 0o007;
        if rights_of_others == 0 {
            return Some(content);
        }
        section.diagnostics.push(
            Diagnostic::error(content.span, format!("the file of `{}` is accessible to other users", key.name))
                .label(format!("others have access: its mode is {:04o}", content.value.mode & 0o7777))
                .help("remove the access of others: chmod o= FILE"),
        );
        None
    }

    /// Resolves `credential:NAME` to a credential that systemd passes to the service, and anything else to a path.
    fn resolve(&self, written: &str) -> Result<PathBuf, String> {
        let Some(name) = written.strip_prefix(CREDENTIAL) else {
            return if written.is_empty() { Err("the path is empty".to_owned()) } else { Ok(self.base.join(written)) };
        };
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err("expected `credential:NAME`, with the name that LoadCredential= gives".to_owned());
        }
        let folder = self.files.credentials().ok_or(
            "$CREDENTIALS_DIRECTORY is not set: credentials exist only in a systemd unit with LoadCredential=",
        )?;
        Ok(folder.join(name))
    }
}
