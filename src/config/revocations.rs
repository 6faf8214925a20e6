//! Reads the settings of revocations: the directory of their journal, and the file that lists them.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::diagnostic::{Diagnostic, quote};
use super::file::Section;
use super::files::FileLoader;
use super::keys;
use crate::policy::revocation::entry::Revocation;
use crate::policy::revocation::written::{LATEST, WrittenRevocation};

/// Reads `state_dir`. The inner `None` means that there is none.
#[expect(clippy::option_option, reason = "an error and an absent key are different")]
pub(super) fn state_dir(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<Option<PathBuf>> {
    if section.key_span(&keys::STATE_DIR).is_none() {
        return Some(folder.files.state_directory());
    }
    let text = section.text(&keys::STATE_DIR)?;
    if text.is_empty() || text.contains('\0') {
        section
            .diagnostics
            .push(Diagnostic::error(text.span, "`state_dir` does not name a directory").label("not a path"));
        return None;
    }
    let path = folder.base.join(text.value);
    if let Err(error) = folder.files.check_state_directory(&path) {
        // `check` outside of the unit may have another user.
        let is_error = error.kind() != ErrorKind::PermissionDenied || folder.files.needs_credentials();
        let diagnostic = if is_error { Diagnostic::error } else { Diagnostic::warning };
        section.diagnostics.push(
            diagnostic(text.span, "the directory of `state_dir` cannot be used")
                .label(error.to_string())
                .help("it has to exist, and the user of the process has to be able to write files in it"),
        );
        if is_error {
            return None;
        }
    }
    Some(Some(path))
}

/// Reads `revocations_file`. Without it there are no listed revocations. Warns of those whose section is not in
/// `auths`.
pub(super) fn read(section: &Section<'_>, folder: &FileLoader<'_>, auths: &[&str]) -> Option<Arc<[Revocation]>> {
    if section.key_span(&keys::REVOCATIONS_FILE).is_none() {
        return Some(Arc::default());
    }
    let content = folder.read(section, &keys::REVOCATIONS_FILE)?;
    match serde_json::from_slice::<Vec<Listed>>(&content.value.bytes) {
        Ok(listed) => {
            let unknown = |auth: &str| !auths.contains(&auth);
            let unknown = listed.iter().filter_map(|listed| listed.0.target.auth()).find(|auth| unknown(auth));
            if let Some(auth) = unknown {
                let message = format!("the file of `revocations_file` names an unknown section: {}", quote(auth));
                let label = "its revocations have no effect";
                section.diagnostics.push(Diagnostic::warning(content.span, message).label(label));
            }
            Some(listed.into_iter().map(|listed| listed.0).collect())
        }
        Err(error) => {
            section.diagnostics.push(
                Diagnostic::error(content.span, "the file of `revocations_file` cannot be used")
                    .label(error.to_string())
                    .help("it is a JSON list, as in [{\"auth\": \"users\", \"subject\": \"ada\"}]"),
            );
            None
        }
    }
}

/// A revocation of the file. It holds while it is listed, unless it says when it ends.
struct Listed(Revocation);

impl<'de> Deserialize<'de> for Listed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let written = WrittenRevocation::deserialize(deserializer)?;
        written.read(Duration::ZERO, LATEST).map(Self).map_err(D::Error::custom)
    }
}
