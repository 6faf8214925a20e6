//! Compares the program file that this process runs with the file that is on disk now.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The program file of this process.
const RUNNING: &str = "/proc/self/exe";
/// The mark that the kernel appends to the path of a program file that was removed or replaced (proc(5)).
const DELETED: &[u8] = b" (deleted)";

/// The attributes of a file that differ if its content was replaced or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileId {
    /// The device.
    pub device: u64,
    /// The inode.
    pub inode: u64,
    /// The number of bytes.
    pub size: u64,
    /// The time of the last change of the content: seconds since the Unix epoch, and nanoseconds.
    pub modified: (i64, i64),
}

impl From<&Metadata> for FileId {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// The program of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProgramFile {
    path: PathBuf,
    running: FileId,
}

impl ProgramFile {
    /// Reads the path and the attributes of the program that this process runs. It is called at the start.
    ///
    /// # Errors
    /// If the kernel does not show them, as without `/proc`.
    pub fn current() -> io::Result<Self> {
        let path = without_mark(fs::read_link(RUNNING)?, Path::exists);
        // The link leads to the file of the process even if another one has its path.
        Ok(Self { path, running: FileId::from(&fs::metadata(RUNNING)?) })
    }

    /// Returns the path, where the next program is expected.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether another program is at the path. A missing file is not one: a package manager may be replacing it.
    pub fn has_changed(&self) -> bool {
        let on_disk = fs::metadata(&self.path).ok().filter(Metadata::is_file);
        differs(self.running, on_disk.as_ref().map(FileId::from))
    }
}

/// Whether the file on disk is another one than the running program.
pub fn differs(running: FileId, on_disk: Option<FileId>) -> bool {
    on_disk.is_some_and(|on_disk| on_disk != running)
}

/// Removes the mark of the kernel. `exists` is whether a path exists: a name may really end like the mark.
fn without_mark(path: PathBuf, exists: impl Fn(&Path) -> bool) -> PathBuf {
    match path.as_os_str().as_bytes().strip_suffix(DELETED) {
        Some(name) if !exists(&path) => PathBuf::from(std::ffi::OsString::from_vec(name.to_vec())),
        _ => path,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNNING_FILE: FileId = FileId { device: 1, inode: 2, size: 3, modified: (4, 5) };

    #[test]
    fn each_attribute_marks_another_program_and_a_missing_file_does_not() {
        assert!(!differs(RUNNING_FILE, Some(RUNNING_FILE)));
        assert!(!differs(RUNNING_FILE, None));
        for other in [
            FileId { device: 9, ..RUNNING_FILE },
            FileId { inode: 9, ..RUNNING_FILE },
            FileId { size: 9, ..RUNNING_FILE },
            FileId { modified: (9, 5), ..RUNNING_FILE },
            FileId { modified: (4, 9), ..RUNNING_FILE },
        ] {
            assert!(differs(RUNNING_FILE, Some(other)), "{other:?}");
        }
    }

    #[test]
    fn the_program_of_this_process_has_not_changed() {
        let program = ProgramFile::current().unwrap();
        assert_eq!(program.path(), std::env::current_exe().unwrap());
        assert!(!program.has_changed());
    }

    #[test]
    fn the_mark_of_a_replaced_file_is_not_a_part_of_the_path() {
        let shown = |path: &str, exists| without_mark(path.into(), |_| exists);
        assert_eq!(shown("/usr/bin/tollgate (deleted)", false), Path::new("/usr/bin/tollgate"));
        assert_eq!(shown("/usr/bin/tollgate (deleted)", true), Path::new("/usr/bin/tollgate (deleted)"));
        assert_eq!(shown("/usr/bin/tollgate", false), Path::new("/usr/bin/tollgate"));
    }
}
