//! Loads a configuration file and the files that it names, and reports the errors in them.

use std::cell::Cell;
use std::path::Path;

use super::diagnostic::{Diagnostics, Report};
use super::files::{Disk, FileLoader, Files};
use super::model::{AdminClientConfig, Config};
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

/// Reads the address and, if `with_token` is set and the address needs one, the token of the admin API from a file. Other
/// sections are not checked. `None`: the file has no `[admin]` section.
///
/// # Errors
/// Returns the errors in this section.
pub fn admin_client(path: &Path, with_token: bool) -> Result<Option<AdminClientConfig>, Report> {
    let text = read_text(path)?;
    let diagnostics = Diagnostics::default();
    let base = path.parent().unwrap_or(Path::new(""));
    let folder = FileLoader { base, files: &Disk, unchecked: Cell::new(false) };
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
    let folder = FileLoader { base, files, unchecked: Cell::new(false) };
    let config = file::parse(text, &diagnostics)
        .and_then(|document| assemble::read(&file::Section::root(document.get_ref(), &diagnostics), &folder));

    let report = Report::new(file_name, text, diagnostics.take());
    match config {
        Some(config) if !report.has_errors() => {
            Checked { config: Some(Config { warnings: report.clone(), ..config }), report }
        }
        _ if report.has_errors() || folder.unchecked.get() => Checked { config: None, report },
        _ => {
            let message =
                "internal error: the configuration was rejected without a diagnostic; please report this".to_owned();
            Checked { config: None, report: Report::of_file(file_name, message) }
        }
    }
}
