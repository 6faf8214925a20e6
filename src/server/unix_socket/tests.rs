//! Tests of the socket file: its mode, stale files, its end.

use std::os::unix::net::UnixStream;

use super::*;

/// A directory that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-socket-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> PathBuf {
        self.0.join("admin.sock")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn bind_with(folder: &Folder, mode: u32, group: Option<&str>) -> io::Result<(UnixListener, SocketFile)> {
    bind(&folder.socket(), SocketOptions { mode, group, backlog: 4 })
}

fn bind_for_owner(folder: &Folder) -> io::Result<(UnixListener, SocketFile)> {
    bind_with(folder, MODE_OWNER, None)
}

fn mode(folder: &Folder) -> u32 {
    fs::symlink_metadata(folder.socket()).unwrap().mode() & 0o7777
}

#[test]
fn the_socket_is_for_its_owner_and_ends_with_the_process() {
    let folder = Folder::new("mode");
    let (listener, file) = bind_for_owner(&folder).unwrap();
    assert_eq!(mode(&folder), 0o600);
    assert_eq!(file.path(), folder.socket());
    drop(listener);
    drop(file);
    assert!(!folder.socket().exists());
    let _bound = bind_with(&folder, MODE_GROUP, None).unwrap();
    assert_eq!(mode(&folder), 0o660, "the group of the process");
}

#[test]
fn a_group_may_connect_if_it_exists() {
    let folder = Folder::new("group");
    let own = Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
    let _bound = bind_with(&folder, MODE_GROUP, Some(&own.name)).unwrap();
    assert_eq!(mode(&folder), 0o660);
    let folder = Folder::new("no-group");
    let error = bind_with(&folder, MODE_GROUP, Some("no-such-group")).unwrap_err();
    assert_eq!(error.to_string(), "this system has no group \"no-such-group\"");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new("stale");
    let path = folder.socket();
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the standard library leaves the file");
    let bound = bind_for_owner(&folder).unwrap();
    let error = bind_for_owner(&folder).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "the first one still serves");
    drop(bound);
}

#[test]
fn a_file_that_is_not_a_socket_stays() {
    let folder = Folder::new("file");
    let path = folder.socket();
    fs::write(&path, "data").unwrap();
    assert_eq!(bind_for_owner(&folder).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_socket_that_another_process_put_in_its_place_stays() {
    let folder = Folder::new("replaced");
    let path = folder.socket();
    let bound = bind_for_owner(&folder).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists());
}

/// Such a process does not accept for a while. A blocking connect would wait until it does.
#[test]
fn a_live_socket_with_a_full_queue_is_not_waited_for() {
    let folder = Folder::new("full");
    let path = folder.socket();
    let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
    busy.listen(0).unwrap();
    let _queued = UnixStream::connect(&path).unwrap();
    let (send, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(bind_for_owner(&folder).map(|_| ()).map_err(|error| error.kind())));
    let bound = bound.recv_timeout(std::time::Duration::from_secs(10)).expect("bind returns at once");
    assert_eq!(bound, Err(io::ErrorKind::AddrInUse));
}
