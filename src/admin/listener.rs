//! Binds the socket of the API, and accepts its connections.

use std::fs::{self, File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::unistd::Group;
use socket2::{Domain, SockAddr, Socket, Type};

use crate::config::AdminAddress;

/// The number of connections that the kernel queues.
const BACKLOG: i32 = 64;
/// The mode of the socket file: its owner alone, or also its group.
const MODE: u32 = 0o600;
const MODE_WITH_GROUP: u32 = 0o660;

/// A bound socket.
#[derive(Debug)]
pub(super) enum Bound {
    /// A Unix socket. Its file is removed when this is dropped.
    Unix(UnixListener, SocketFile),
    /// A TCP socket.
    Tcp(TcpListener),
}

/// The file of a Unix socket, which is removed when this is dropped.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: (u64, u64),
}

impl Bound {
    /// Binds the address of the admin API.
    ///
    /// # Errors
    /// If the group does not exist, the address is in use, or the system does not permit it.
    pub(super) fn new(address: &AdminAddress, group: Option<&str>) -> io::Result<Self> {
        match address {
            AdminAddress::Unix(path) => {
                let (listener, file) = bind_unix(path, group)?;
                Ok(Self::Unix(listener, file))
            }
            AdminAddress::Tcp(address) => Self::tcp(*address),
        }
    }

    /// Binds a TCP address.
    ///
    /// # Errors
    /// If the address is in use, or the system does not permit it.
    pub(super) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        Ok(Self::Tcp(listener))
    }

    /// Returns the address with the port that the kernel chose.
    ///
    /// # Errors
    /// Returns the error of the system.
    pub(super) fn address(&self) -> io::Result<AdminAddress> {
        match self {
            Self::Unix(_, file) => Ok(AdminAddress::Unix(file.path.clone())),
            Self::Tcp(listener) => Ok(AdminAddress::Tcp(listener.local_addr()?)),
        }
    }
}

/// Binds a Unix socket. Its file never has wider permissions than the requested ones.
fn bind_unix(path: &Path, group: Option<&str>) -> io::Result<(UnixListener, SocketFile)> {
    let gid = group.map(group_id).transpose()?;
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Linux creates the file with the mode of the unbound socket, so no client connects before a chmod of the file.
    let socket = File::from(OwnedFd::from(socket));
    socket.set_permissions(Permissions::from_mode(MODE))?;
    let socket = Socket::from(OwnedFd::from(socket));
    socket.bind(&SockAddr::unix(path)?)?;
    let metadata = fs::symlink_metadata(path)?;
    let file = SocketFile { path: path.to_owned(), identity: (metadata.dev(), metadata.ino()) };
    if let Some(gid) = gid {
        let explain = |error: io::Error| io::Error::new(error.kind(), format!("cannot give it to its group: {error}"));
        chown(path, None, Some(gid)).map_err(explain)?;
        fs::set_permissions(path, Permissions::from_mode(MODE_WITH_GROUP))?;
    }
    socket.listen(BACKLOG)?;
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
    match UnixStream::connect(path) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(_) => Err(io::Error::new(io::ErrorKind::AddrInUse, "another process serves this socket")),
    }
}

fn group_id(name: &str) -> io::Result<u32> {
    let group = Group::from_name(name)?;
    let missing = || io::Error::new(io::ErrorKind::NotFound, format!("this system has no group \"{name}\""));
    group.map(|group| group.gid.as_raw()).ok_or_else(missing)
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have replaced the file.
        if fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.identity) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests;
