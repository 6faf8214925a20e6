//! Tests of the socket file: its mode, stale files, its end.

use super::*;

/// A directory that is removed at the end of the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn socket(&self) -> AdminAddress {
        AdminAddress::Unix(self.0.join("admin.sock"))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn mode(folder: &Folder) -> u32 {
    fs::symlink_metadata(folder.0.join("admin.sock")).unwrap().mode() & 0o7777
}

#[test]
fn the_socket_is_for_its_owner_and_ends_with_the_process() {
    let folder = Folder::new("mode");
    let bound = Bound::new(&folder.socket(), None).unwrap();
    assert_eq!(mode(&folder), 0o600);
    assert_eq!(bound.address().unwrap(), folder.socket());
    drop(bound);
    assert!(!folder.0.join("admin.sock").exists());
}

#[test]
fn a_group_may_connect_if_it_exists() {
    let folder = Folder::new("group");
    let own = Group::from_gid(nix::unistd::getgid()).unwrap().unwrap();
    let _bound = Bound::new(&folder.socket(), Some(&own.name)).unwrap();
    assert_eq!(mode(&folder), 0o660);
    let folder = Folder::new("no-group");
    let error = Bound::new(&folder.socket(), Some("no-such-group")).unwrap_err();
    assert_eq!(error.to_string(), "this system has no group \"no-such-group\"");
}

#[test]
fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let folder = Folder::new("stale");
    let path = folder.0.join("admin.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists(), "the standard library leaves the file");
    let bound = Bound::new(&folder.socket(), None).unwrap();
    let error = Bound::new(&folder.socket(), None).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{error}");
    assert!(UnixStream::connect(&path).is_ok(), "the first one still serves");
    drop(bound);
}

#[test]
fn a_file_that_is_not_a_socket_stays() {
    let folder = Folder::new("file");
    let path = folder.0.join("admin.sock");
    fs::write(&path, "data").unwrap();
    assert_eq!(Bound::new(&folder.socket(), None).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"data");
}

#[test]
fn a_socket_that_another_process_put_in_its_place_stays() {
    let folder = Folder::new("replaced");
    let path = folder.0.join("admin.sock");
    let bound = Bound::new(&folder.socket(), None).unwrap();
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    drop(bound);
    assert!(path.exists());
}
