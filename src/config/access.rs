//! Reads the key `auth` of a route: the `[auth]` sections that authenticate its clients.

use super::auth::{self, Auth};
use super::common::{self, Duplicates, NamedSection};
use super::diagnostic::{Diagnostic, Span};
use super::file::{Located, Section};
use super::keys;

/// The maximum number of sections of one route.
const AUTHS_MAX: usize = 16;

/// The authentication of a route, as its key `auth` names it.
pub(super) enum Access<'a> {
    Open,
    /// Sections, in order; at least one.
    Auths(Vec<&'a Auth>),
    /// The key is missing or invalid, so the keys that depend on it are not checked against it.
    Unknown,
}

impl Access<'_> {
    /// Whether a credential may come from a cookie.
    pub(super) fn reads_cookie(&self) -> bool {
        matches!(self, Self::Auths(auths) if auths.iter().any(|auth| auth.cookie))
    }
}

/// Reads the key, and marks the sections that it names as used.
pub(super) fn read<'a>(section: &Section<'_>, auths: &'a [NamedSection<Auth>]) -> Access<'a> {
    let Some(texts) = section.text_or_texts(&keys::AUTH, AUTHS_MAX) else { return Access::Unknown };
    let error = |span: &Span, message: String, label: &str| {
        section.diagnostics.push(Diagnostic::error(span.clone(), message).label(label));
    };
    if let [only] = texts.value.as_slice()
        && only.value == auth::NONE
    {
        return Access::Open;
    }
    if section.is_empty_list(&keys::AUTH) {
        error(&texts.span, "`auth` is empty".to_owned(), "a route that is open to every client has `auth = \"none\"`");
    }
    let (mut seen, mut found) = (Duplicates::default(), Vec::new());
    for text in &texts.value {
        if text.value == auth::NONE {
            error(&text.span, "\"none\" cannot be one of several sections".to_owned(), "it would admit every client");
            continue;
        }
        let Some(named) = auths.iter().find(|auth| auth.name == text.value) else {
            // `none` requires no token, so it is never suggested for a wrong name.
            let known: Vec<&str> = auths.iter().map(|auth| auth.name.as_str()).collect();
            common::note_unknown(section, text, "auth", &known);
            continue;
        };
        seen.note(section, &Located { value: text.value.clone(), span: text.span.clone() }, "section", text);
        named.value.used.set(true);
        found.push(&named.value);
    }
    if found.is_empty() || found.len() < texts.value.len() { Access::Unknown } else { Access::Auths(found) }
}
