//! Rules that sections of several kinds share: names, and values that may stand only once.

use std::collections::BTreeMap;

use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};

/// The longest name of a section or route, in bytes: it stands in every log line and metric.
const NAME_MAX: usize = 64;

/// A section that others refer to by name.
pub(super) struct NamedSection<T> {
    pub(super) name: String,
    pub(super) span: Span,
    /// `None`: the section is faulty, and that was noted.
    pub(super) value: T,
}

/// Which values were there already, and where: for what may stand only once in a file.
pub(super) struct Duplicates<T>(BTreeMap<T, Span>);

impl<T> Default for Duplicates<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T: Ord + Clone> Duplicates<T> {
    /// Notes a fault if the value was there before.
    pub(super) fn note(&mut self, section: &Section<'_>, at: &Located<T>, what: &str, shown: &str) {
        if let Some(first) = self.0.get(&at.value) {
            section.diagnostics.push(
                Diagnostic::error(at.span.clone(), format!("the {what} {} stands twice", quote(shown)))
                    .label("this is one too many")
                    .related(first.clone(), "the first one"),
            );
        } else {
            self.0.insert(at.value.clone(), at.span.clone());
        }
    }
}

/// Checks a name that goes into logs and metrics.
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
