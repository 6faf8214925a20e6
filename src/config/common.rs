//! Rules that several kinds of sections share: names, names of claims, values that must be unique, and the paths of
//! Unix sockets.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};
use super::keys::Key;
use super::suggestion;
use crate::policy::claim_path::{ClaimPath, ClaimPathError};

/// Maximum length of the name of a section or route, in bytes: the name appears in log lines.
const NAME_MAX: usize = 64;

/// Maximum length of a Unix socket path on Linux, in bytes, without the terminating NUL.
const UNIX_PATH_MAX: usize = 107;

/// A section that others refer to by name.
pub(super) struct NamedSection<T> {
    pub(super) name: String,
    pub(super) span: Span,
    /// The section as it was read. If this is an `Option`, `None` means that an error was reported.
    pub(super) value: T,
}

/// The values seen before and their spans, for values that must be unique in a file.
pub(super) struct Duplicates<T>(BTreeMap<T, Span>);

impl<T> Default for Duplicates<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Duplicates<T> {
    /// Records a value, and reports an error if it was recorded before.
    pub(super) fn note(&mut self, section: &Section<'_>, at: &Located<T>, what: &str, shown: &str) {
        if let Some(first) = self.0.get(&at.value) {
            section.diagnostics.push(
                Diagnostic::error(at.span.clone(), format!("duplicate {what} {}", quote(shown)))
                    .label("second occurrence")
                    .related(first.clone(), "first occurrence"),
            );
        } else {
            self.0.insert(at.value.clone(), at.span.clone());
        }
    }
}

/// Parses the path of a Unix socket. The error is the label at the caret and the help text.
pub(super) fn unix_path(path: &str) -> Result<PathBuf, (&'static str, String)> {
    if !Path::new(path).is_absolute() {
        return Err(("the path must be absolute", "write it as in \"unix:/run/app.sock\"".to_owned()));
    }
    if path.len() > UNIX_PATH_MAX || path.contains('\0') {
        let help = format!("the path may have at most {UNIX_PATH_MAX} bytes and no NUL byte");
        return Err(("not the path of a Unix socket", help));
    }
    Ok(PathBuf::from(path))
}

/// Reads the group of a Unix socket. `is_unix` is whether the address of its section is one; `None`: it is not known.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
pub(super) fn socket_group(section: &Section<'_>, key: &Key, is_unix: Option<bool>) -> Option<Option<String>> {
    let Some(span) = section.key_span(key) else { return Some(None) };
    let group = section.text(key)?;
    let label = if is_unix == Some(false) {
        "the address is not a Unix socket"
    } else if group.is_empty() || group.contains([':', '\0']) {
        "not the name of a group"
    } else {
        return Some(Some(group.value));
    };
    section.diagnostics.push(Diagnostic::error(span, "`socket_group` cannot be used").label(label));
    None
}

/// Reads the name of a claim.
pub(super) fn claim_path(section: &Section<'_>, name: &Located<String>) -> Option<ClaimPath> {
    let note = |error: ClaimPathError| {
        let message = format!("{} is not the name of a claim", quote(name));
        section.diagnostics.push(Diagnostic::error(name.span.clone(), message).label(error.to_string()));
    };
    name.parse().map_err(note).ok()
}

/// Checks a name that appears in logs.
pub(super) fn name(section: &Section<'_>, name: &str, span: &Span) -> Option<()> {
    let valid = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Some(());
    }
    section.diagnostics.push(
        Diagnostic::error(span.clone(), format!("{} cannot be a name", quote(name)))
            .label(format!("expected 1 to {NAME_MAX} letters, digits, `-`, `_` or `.`")),
    );
    None
}

/// Reports a reference to a section that does not exist.
pub(super) fn note_unknown(section: &Section<'_>, text: &Located<String>, kind: &str, known: &[&str]) {
    section.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("unknown {kind} {}", quote(text)))
            .label(format!("there is no section [{kind}.NAME] of this name"))
            .help(suggestion::help(text, known)),
    );
}
