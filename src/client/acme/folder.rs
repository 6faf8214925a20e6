//! The directory of an `[acme.NAME]` section below `state_dir`: its account, and one file for each certificate.
//!
//! Only the owner has access. A file is replaced as a whole: its new content is on disk before it gets its name.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::config::AcmeConfig;

/// The directory of all sections.
const PARENT: &str = "acme";
/// The file of the account.
pub(super) const ACCOUNT: &str = "account.json";
/// The file of the refusal of all orders.
pub(super) const REFUSAL: &str = "refused.json";
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;
/// The largest file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// The bytes of the hash of the directory's URL in the name of the folder.
const HASH_BYTES: usize = 4;

/// The directory of a section. Clones share the path.
#[derive(Debug, Clone)]
pub(super) struct Folder(Arc<Path>);

impl Folder {
    /// Returns the directory of a section. It differs for each certificate authority, so that a test environment and
    /// the real one share no files.
    pub fn new(state_dir: &Path, config: &AcmeConfig) -> Self {
        let hash = digest(&SHA256, config.directory.uri().to_string().as_bytes());
        let hash = hash.as_ref().iter().take(HASH_BYTES).fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        Self(state_dir.join(PARENT).join(format!("{}-{hash:08x}", config.name)).into())
    }

    /// Returns the path of a file, for messages.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Creates the directory if it does not exist, and makes sure that a file can be written.
    ///
    /// # Errors
    /// If it cannot be created or written.
    pub fn prepare(&self) -> io::Result<()> {
        for directory in [self.0.parent(), Some(&*self.0)].into_iter().flatten() {
            match DirBuilder::new().mode(DIRECTORY_MODE).create(directory) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => fs::set_permissions(directory, Permissions::from_mode(DIRECTORY_MODE))?,
            }
        }
        let probe = self.0.join("probe.new");
        create(&probe)?.sync_all()?;
        fs::remove_file(probe)
    }

    /// Reads a file; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read, or is larger than 1 MiB.
    pub fn read(&self, file: &str) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        let mut content = Zeroizing::new(Vec::new());
        match File::open(self.0.join(file)) {
            Ok(file) => _ = file.take(FILE_MAX_BYTES.saturating_add(1)).read_to_end(&mut content)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        }
        if content.len() as u64 > FILE_MAX_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        Ok(Some(content))
    }

    /// Replaces a file. Returns when the content is on disk.
    ///
    /// # Errors
    /// If it cannot be written. Then the file is unchanged.
    pub fn write(&self, file: &str, content: &[u8]) -> io::Result<()> {
        let new = self.0.join(format!("{file}.new"));
        let mut written = create(&new)?;
        written.write_all(content)?;
        written.sync_all()?;
        fs::rename(new, self.0.join(file))?;
        File::open(&*self.0)?.sync_all()
    }

    /// Removes a file, if there is one.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, file: &str) -> io::Result<()> {
        match fs::remove_file(self.0.join(file)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Renames a file that cannot be used, so that it is not overwritten. Returns its new path.
    ///
    /// # Errors
    /// If it cannot be renamed.
    pub fn set_aside(&self, file: &str, reason: &str) -> io::Result<PathBuf> {
        let aside = self.0.join(format!("{file}.{reason}"));
        fs::rename(self.0.join(file), &aside)?;
        Ok(aside)
    }
}

fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
    // One that a crash left behind may have another mode.
    file.set_permissions(Permissions::from_mode(FILE_MODE))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::remote::{HttpUrl, Roots};

    fn folder(state_dir: &Path, url: &str) -> Folder {
        let config = AcmeConfig {
            name: "test".into(),
            directory: HttpUrl::parse(url).unwrap(),
            contact: Vec::new(),
            names: vec!["a.example".into()],
            roots: Roots::System,
            external: None,
        };
        Folder::new(state_dir, &config)
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn files_are_replaced_as_a_whole_and_only_for_the_owner() {
        let state = std::env::temp_dir().join(format!("tollgate-acme-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        let ours = folder(&state, "https://ca.example/directory");
        assert_ne!(ours.0, folder(&state, "https://staging.ca.example/directory").0);
        assert!(ours.write("a", b"x").is_err() && ours.read("a").unwrap().is_none());
        ours.prepare().unwrap();
        ours.prepare().unwrap();
        ours.write("a", b"first").unwrap();
        // A crash left a new file behind, with a mode that gives others access.
        fs::write(ours.path("a.new"), b"cut").unwrap();
        fs::set_permissions(ours.path("a.new"), Permissions::from_mode(0o644)).unwrap();
        assert_eq!(ours.read("a").unwrap().unwrap().as_slice(), b"first");
        ours.write("a", b"second").unwrap();
        assert_eq!(ours.read("a").unwrap().unwrap().as_slice(), b"second");
        let modes = [&*ours.0, ours.0.parent().unwrap(), &ours.path("a")].map(mode);
        assert_eq!(modes, [0o700, 0o700, 0o600]);
        let aside = ours.set_aside("a", "damaged").unwrap();
        assert_eq!((fs::read(&aside).unwrap(), mode(&aside)), (b"second".to_vec(), 0o600));
        assert!(ours.read("a").unwrap().is_none() && ours.set_aside("a", "damaged").is_err());
        ours.write(REFUSAL, b"{}").unwrap();
        ours.remove(REFUSAL).unwrap();
        ours.remove(REFUSAL).unwrap();
        assert_eq!(fs::read_dir(&*ours.0).unwrap().count(), 1, "nothing else is left");
        fs::remove_dir_all(&state).unwrap();
    }
}
