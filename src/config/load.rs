//! Loads a configuration file and the files that it names, and reports the errors in them.

use std::path::Path;

use super::diagnostic::{Diagnostics, Report};
use super::files::{Disk, FileLoader, Files};
use super::model::{AdminClientConfig, Config, Source};
use super::{admin, assemble, file};

/// Loads the configuration from a file. Relative paths in it are resolved against the directory of the file.
///
/// # Errors
/// Returns every error in the configuration, not just the first, and its warnings.
pub fn load(path: &Path) -> Result<Config, Report> {
    let Checked { config, report } = check(path, &Disk);
    config.ok_or(report)
}

/// The result of reading a configuration.
#[derive(Debug)]
pub struct Checked {
    /// The configuration. `None` if it has an error, or if a credential was left unchecked.
    pub config: Option<Config>,
    /// The errors and warnings.
    pub report: Report,
}

/// Checks the configuration in a file. `files` provides the files that it names.
pub fn check(path: &Path, files: &dyn Files) -> Checked {
    match read(path, files) {
        Ok(checked) => checked,
        Err(report) => Checked { config: None, report },
    }
}

/// Checks the text of a configuration that was read before, with files that may have changed since.
pub fn recheck(source: &Source, files: &dyn Files) -> Checked {
    parse_all(&source.text, &source.file_name, &source.base, files)
}

/// Reads the address and, if `with_token` is set and the address needs one, the token of the admin API from a file.
/// Other sections are not checked. `None`: the file has no `[admin]` section.
///
/// # Errors
/// Returns the errors in this section.
pub fn admin_client(path: &Path, with_token: bool) -> Result<Option<AdminClientConfig>, Report> {
    let text = read_text(path)?;
    let diagnostics = Diagnostics::default();
    let base = path.parent().unwrap_or(Path::new(""));
    let folder = FileLoader::new(base, &Disk);
    let client = file::parse(&text, &diagnostics).and_then(|document| {
        let root = file::Section::root(document.get_ref(), &diagnostics);
        // Unknown sections are the concern of `check`.
        diagnostics.take();
        admin::client(&root, &folder, with_token)
    });
    client.ok_or_else(|| Report::new(path, &text, diagnostics.take()))
}

fn read_text(path: &Path) -> Result<String, Report> {
    let fail = |message: String| Report::of_file(path, message);
    let content = Disk.read(path).map_err(|error| fail(format!("cannot read the configuration: {error}")))?;
    String::from_utf8(content.bytes).map_err(|error| {
        fail(format!("the configuration is not UTF-8: byte {} is not valid", error.utf8_error().valid_up_to()))
    })
}

fn read(path: &Path, files: &dyn Files) -> Result<Checked, Report> {
    let text = read_text(path)?;
    let base = path.parent().unwrap_or(Path::new(""));
    Ok(parse_all(&text, path, base, files))
}

/// Parses a configuration from its text. `file_name` appears in the report, `base` is the directory against which
/// relative paths are resolved, and `files` provides the files that they name.
///
/// # Errors
/// Returns every error in the configuration, not just the first, and its warnings.
pub fn parse(text: &str, file_name: &Path, base: &Path, files: &dyn Files) -> Result<Config, Report> {
    let Checked { config, report } = parse_all(text, file_name, base, files);
    config.ok_or(report)
}

fn parse_all(text: &str, file_name: &Path, base: &Path, files: &dyn Files) -> Checked {
    let diagnostics = Diagnostics::default();
    let folder = FileLoader::new(base, files);
    let config = file::parse(text, &diagnostics)
        .and_then(|document| assemble::read(&file::Section::root(document.get_ref(), &diagnostics), &folder));

    let report = Report::new(file_name, text, diagnostics.take());
    match config {
        Some(config) if !report.has_errors() => {
            let source = Source {
                file_name: file_name.to_owned(),
                base: base.to_owned(),
                text: text.into(),
                files: folder.groups(),
            };
            Checked { config: Some(Config { warnings: report.clone(), source, ..config }), report }
        }
        _ if report.has_errors() || folder.unchecked.get() => Checked { config: None, report },
        _ => {
            let message =
                "internal error: the configuration was rejected without a diagnostic; please report this".to_owned();
            Checked { config: None, report: Report::of_file(file_name, message) }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::config::AdminAddress;

    /// Reads the admin section of a file beside a token file with this mode.
    fn client(text: &str, mode: u32, with_token: bool) -> Result<Option<AdminClientConfig>, String> {
        let name = format!("tollgate-client-{}-{mode:o}-{}-{with_token}", std::process::id(), text.len());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("token"), "0123456789abcdef\n").unwrap();
        fs::set_permissions(folder.join("token"), Permissions::from_mode(mode)).unwrap();
        fs::write(folder.join("tollgate.toml"), text).unwrap();
        let client = admin_client(&folder.join("tollgate.toml"), with_token);
        fs::remove_dir_all(&folder).unwrap();
        client.map_err(|report| report.to_string())
    }

    #[test]
    fn a_client_of_the_admin_api_needs_only_its_section() {
        let unix =
            client("unknown = 1\n[admin]\naddress = \"unix:/run/a.sock\"\n[server]\nworkers = \"x\"", 0o600, true);
        let expected = AdminClientConfig { address: AdminAddress::Unix("/run/a.sock".into()), token: None };
        assert_eq!(unix, Ok(Some(expected)));
        assert_eq!(client("[server]", 0o600, true), Ok(None));
        let tcp = "[admin]\naddress = \"127.0.0.1:9640\"\ntoken_file = \"token\"";
        let token = client(tcp, 0o600, true).unwrap().unwrap().token.unwrap();
        assert_eq!(token.as_slice(), b"0123456789abcdef");
        assert_eq!(client(tcp, 0o600, false).unwrap().unwrap().token, None);
    }

    #[test]
    fn a_token_that_cannot_be_used_is_an_error_with_its_place() {
        let tcp = "[admin]\naddress = \"127.0.0.1:9640\"\ntoken_file = \"token\"";
        let open = client(tcp, 0o644, true).unwrap_err();
        assert!(open.contains("accessible to other users") && open.contains("tollgate.toml:3:"), "{open}");
        let missing = client(&tcp.replace("\"token\"", "\"nothing\""), 0o600, true).unwrap_err();
        assert!(missing.contains("cannot read \"nothing\""), "{missing}");
        assert!(client("[admin]\naddress = 5", 0o600, true).is_err());
        assert!(client("[admin", 0o600, true).is_err());
    }
}
