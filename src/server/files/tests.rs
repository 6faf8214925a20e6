//! Tests of `files`: which changed files are used.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A directory with a configuration and its files, removed when dropped.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        let folder = Self(path);
        folder.write_certificate("a");
        folder.write_certificate("b");
        folder.write("secret", "a secret of thirty-two bytes ...");
        let text = r#"
            listener = [{ address = "127.0.0.1:0", certificates = [
                { chain = "a.pem", key = "a.key" }, { chain = "b.pem", key = "b.key" },
            ] }]
            auth.users = { secret_file = "secret", algorithms = ["HS256"] }
            upstream.main.servers = ["127.0.0.1:9001"]
            route = [{ name = "chat", path = "/", upstream = "main", auth = "users" }]
        "#;
        folder.write("tollgate.toml", text);
        folder
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn write_certificate(&self, name: &str) {
        let new = rcgen::generate_simple_self_signed([format!("{name}.example")]).unwrap();
        self.write(&format!("{name}.pem"), &new.cert.pem());
        self.write(&format!("{name}.key"), &new.signing_key.serialize_pem());
    }

    fn load(&self) -> (Config, FilesInUse) {
        let config = config::load(&self.0.join("tollgate.toml")).unwrap_or_else(|report| panic!("{report}"));
        let files = FilesInUse::read(&config.source);
        (config, files)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn names(paths: &[PathBuf]) -> Vec<&str> {
    paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect()
}

#[test]
fn unchanged_files_are_not_read_into_a_configuration() {
    let folder = Folder::new("unchanged");
    let (config, files) = folder.load();
    assert_eq!(
        config.source.files.iter().map(|group| names(group)).collect::<Vec<_>>(),
        [vec!["a.pem", "a.key"], vec!["b.pem", "b.key"], vec!["secret"],]
    );
    let (refreshed, unusable) = files.refresh(&config.source);
    assert!(refreshed.is_none() && unusable.is_empty());
}

#[test]
fn a_changed_pair_is_used_without_the_changed_configuration() {
    let folder = Folder::new("pair");
    let (config, files) = folder.load();
    folder.write_certificate("a");
    folder.write("tollgate.toml", "this is not TOML");
    let (refreshed, unusable) = files.refresh(&config.source);
    let refreshed = refreshed.unwrap();
    assert!(unusable.is_empty());
    assert_eq!(names(&refreshed.changed), ["a.pem", "a.key"]);
    assert_ne!(refreshed.config, config);
    assert_eq!(refreshed.config.listeners[0].certificates()[1], config.listeners[0].certificates()[1]);
    let (again, _) = refreshed.files.refresh(&config.source);
    assert!(again.is_none());
}

#[test]
fn a_half_written_or_mismatched_pair_keeps_the_old_one_and_other_changes_are_used() {
    let folder = Folder::new("mismatch");
    let (config, files) = folder.load();
    let old_key = fs::read_to_string(folder.0.join("a.key")).unwrap();
    folder.write_certificate("a");
    let new_key = fs::read_to_string(folder.0.join("a.key")).unwrap();
    for broken in [&old_key, &new_key[..new_key.len() / 2], ""] {
        folder.write("a.key", broken);
        folder.write("secret", &format!("another secret of thirty-two bytes {}", broken.len()));
        let (refreshed, unusable) = files.refresh(&config.source);
        let refreshed = refreshed.unwrap();
        assert_eq!(names(&refreshed.changed), ["secret"]);
        assert_eq!(refreshed.config.listeners, config.listeners);
        assert_ne!(refreshed.config.auths, config.auths);
        assert_eq!(unusable.len(), 1);
        assert_eq!(names(&unusable[0].group), ["a.pem", "a.key"]);
        let report = unusable[0].report.to_string();
        assert!(report.contains("a.key") && !report.contains("PRIVATE KEY-----"), "{report}");
    }
    fs::remove_file(folder.0.join("a.key")).unwrap();
    let (_, unusable) = files.refresh(&config.source);
    assert_eq!(names(&unusable[0].group), ["a.pem", "a.key"]);
    folder.write("a.key", &new_key);
    let (refreshed, unusable) = files.refresh(&config.source);
    assert!(unusable.is_empty());
    assert_eq!(names(&refreshed.unwrap().changed), ["a.pem", "a.key", "secret"]);
}
