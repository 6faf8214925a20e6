//! What a configuration takes from outside its text: the files that it names, credentials, and the date.

use std::cell::Cell;
use std::env;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::keys::Key;

/// The largest file that is read: far more than any key, chain, key set or configuration needs.
pub(super) const FILE_MAX_BYTES: u64 = 1 << 20;

/// When this version was made, to the month, counted from the Unix epoch: 2026-11-01. A clock before it is wrong: it was
/// not set, or the machine has none that goes on while it is off.
pub const BUILT: Duration = Duration::from_secs(1_793_491_200);

/// Whether a clock can be right.
pub(super) fn can_be_right(now: SystemTime) -> bool {
    now.duration_since(SystemTime::UNIX_EPOCH).is_ok_and(|since| since >= BUILT)
}

/// Where the files of a configuration come from. Tests that must not touch a disk give their own.
pub trait Files {
    /// Reads a whole file.
    ///
    /// # Errors
    /// What the system says, or `FileTooLarge` beyond 1 MiB.
    fn read(&self, path: &Path) -> io::Result<Content>;

    /// The folder of the service's credentials, if it has any: `$CREDENTIALS_DIRECTORY`.
    fn credentials(&self) -> Option<PathBuf>;

    /// Whether a credential is needed though there is no folder of credentials. If not it is left unchecked.
    fn needs_credentials(&self) -> bool {
        true
    }

    /// The time that certificates are held against.
    fn now(&self) -> SystemTime;
}

/// A file as it was read.
pub struct Content {
    /// All its bytes; never shown.
    pub bytes: Vec<u8>,
    /// Its permission bits, as in `chmod`.
    pub mode: u32,
}

impl std::fmt::Debug for Content {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Content").field("mode", &self.mode).finish_non_exhaustive()
    }
}

/// The files of this machine.
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

    #[expect(clippy::disallowed_methods, reason = "certificates are held against the time at which they are read")]
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// What the name of a credential begins with.
const CREDENTIAL: &str = "credential:";

/// Files, and the folder that relative paths start from.
pub(super) struct FileLoader<'a> {
    pub(super) base: &'a Path,
    pub(super) files: &'a dyn Files,
    /// A credential was left unchecked, so that there is no configuration without any fault.
    pub(super) unchecked: Cell<bool>,
}

impl FileLoader<'_> {
    /// Reads the file that this key names; what goes wrong is noted at the key's value.
    pub(super) fn read(&self, section: &Section<'_>, key: &Key) -> Option<Located<Content>> {
        let written = section.text(key)?;
        let is_credential = written.starts_with(CREDENTIAL);
        if is_credential && self.files.credentials().is_none() && !self.files.needs_credentials() {
            self.unchecked.set(true);
            section.diagnostics.push(
                Diagnostic::warning(written.span.clone(), format!("{} is not checked", quote(&written)))
                    .label("$CREDENTIALS_DIRECTORY is not set, as it is in the systemd unit")
                    .help("name the folder that has its file: check --credentials DIR"),
            );
            return None;
        }
        let path = match self.resolve(&written) {
            Ok(path) => path,
            Err(label) => {
                let message = format!("{} names no file", quote(&written));
                section.diagnostics.push(Diagnostic::error(written.span, message).label(label));
                return None;
            }
        };
        match self.files.read(&path) {
            Ok(content) => Some(Located { value: content, span: written.span }),
            Err(error) => {
                let diagnostic = Diagnostic::error(written.span.clone(), format!("cannot read {}", quote(&written)))
                    .label(error.to_string());
                // The full path is told where it says more than what stands at the caret. It is relative if the
                // configuration's own path is.
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

    /// The same for a file that holds a secret, which may not be open to every user of the machine.
    pub(super) fn read_secret(&self, section: &Section<'_>, key: &Key) -> Option<Located<Content>> {
        let content = self.read(section, key)?;
        let rights_of_others = content.mode & 0o007;
        if rights_of_others == 0 {
            return Some(content);
        }
        section.diagnostics.push(
            Diagnostic::error(content.span, format!("the file of `{}` is open to everyone", key.name))
                .label(format!("readable by everyone: its mode is {:04o}", content.value.mode & 0o7777))
                .help("take the rights of others away: chmod o= FILE"),
        );
        None
    }

    /// `credential:NAME` is a credential that systemd hands over; everything else is a path.
    fn resolve(&self, written: &str) -> Result<PathBuf, String> {
        let Some(name) = written.strip_prefix(CREDENTIAL) else {
            return if written.is_empty() { Err("the path is empty".to_owned()) } else { Ok(self.base.join(written)) };
        };
        if name.is_empty() || name.contains('/') || name == "." || name == ".." {
            return Err("expected `credential:NAME`, with the name that LoadCredential= gives".to_owned());
        }
        let folder = self.files.credentials().ok_or(
            "$CREDENTIALS_DIRECTORY is not set: credentials are there only in a systemd unit with LoadCredential=",
        )?;
        Ok(folder.join(name))
    }
}
