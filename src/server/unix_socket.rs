//! Binds Unix sockets: replaces the file of a process that has ended, and removes the file at the end.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};

/// The mode of a socket file for its owner alone.
pub const MODE_OWNER: u32 = 0o600;
/// The mode of a socket file for its owner and its group.
pub const MODE_GROUP: u32 = 0o660;

/// The device and the inode of a socket file.
pub type FileIdentity = (u64, u64);

/// The file of a Unix socket, which is removed when this is dropped, unless another process serves the socket.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    owner: FileOwner,
}

/// Decides whether this process or another one removes a socket file.
#[derive(Debug, Clone)]
pub struct FileOwner {
    identity: FileIdentity,
    /// Whether another process serves the socket.
    is_elsewhere: Arc<AtomicBool>,
}

/// The options of a Unix socket.
#[derive(Debug, Clone, Copy)]
pub struct SocketOptions<'a> {
    /// The mode of its file.
    pub mode: u32,
    /// The group of its file; `None`: the group of the process.
    pub group: Option<&'a str>,
    /// The number of connections that the kernel queues.
    pub backlog: i32,
}

impl SocketFile {
    /// Returns the path of the file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Creates the file of a socket that another process still serves. It stays until [`FileOwner::take`] is called.
    pub fn of_other_process(path: PathBuf, identity: FileIdentity) -> Self {
        Self { path, owner: FileOwner { identity, is_elsewhere: Arc::new(AtomicBool::new(true)) } }
    }

    /// Returns the handle that decides which process removes the file.
    pub fn owner(&self) -> &FileOwner {
        &self.owner
    }
}

impl FileOwner {
    /// Returns the device and the inode of the file.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Leaves the file to another process, which serves the socket from now on.
    pub fn leave(&self) {
        self.is_elsewhere.store(true, Ordering::Release);
    }

    /// Makes this process remove the file, because it serves the socket from now on.
    pub fn take(&self) {
        self.is_elsewhere.store(false, Ordering::Release);
    }
}

/// Binds a Unix socket in non-blocking mode. Its file never has wider permissions than the requested ones.
///
/// # Errors
/// If the group does not exist, another process serves the socket, or the system does not permit it.
pub fn bind(path: &Path, options: SocketOptions<'_>) -> io::Result<(UnixListener, SocketFile)> {
    let gid = options.group.map(group_id).transpose()?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux creates the file with the mode of the unbound socket, so no client connects before a chmod of the file.
    let socket = File::from(OwnedFd::from(socket));
    socket.set_permissions(Permissions::from_mode(MODE_OWNER))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile::of_other_process(path.to_owned(), (metadata.dev(), metadata.ino()));
    file.owner.take();
    if let Some(gid) = gid {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot give it to its group: {error}"));
        chown(path, None, Some(gid)).map_err(explain)?;
    }
    if options.mode != MODE_OWNER {
        fs::set_permissions(path, Permissions::from_mode(options.mode))?;
    }
    socket.listen(options.backlog)?;
    socket.set_nonblocking(true)?;
    Ok((UnixListener::from(OwnedFd::from(socket)), file))
}

/// Removes the socket file of a process that has ended. A socket that accepts a connection stays.
fn remove_stale(path: &Path) -> io::Result<()> {
    let file = match fs::symlink_metadata(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !file.file_type().is_socket() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the file exists and is not a socket"));
    }
    // A blocking connect would wait while the queue of the other process is full.
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    probe.set_nonblocking(true)?;
    match probe.connect(&SockAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
        _ => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket")),
    }
}

fn group_id(name: &str) -> io::Result<u32> {
    let group = Group::from_name(name)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("this system has no group \"{name}\""));
    group.map(|group| group.gid.as_raw()).ok_or_else(missing)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let FileOwner { identity, is_elsewhere } = &self.owner;
        // Another process may have replaced the file.
        let is_same = |file: fs::Metadata| (file.dev(), file.ino()) == *identity;
        if !is_elsewhere.load(Ordering::Acquire) && fs::symlink_metadata(&self.path).is_ok_and(is_same) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
