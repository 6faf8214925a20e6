//! Reads the key `auth` of a route: the `[auth]` sections that authenticate its clients.

use http::HeaderName;

use super::auth::{self, Auth};
use super::claims::Rules;
use super::common::{self, Duplicates, NamedSection};
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};
use super::keys::{self, Key};
use crate::policy::claim_path::ClaimPath;
use crate::policy::claims::canonical_header_name;
use crate::policy::requirement::Requirement;

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
    /// Reports claims that no section can provide, and headers that both a claim and a service would write.
    pub(super) fn check_claims(&self, section: &Section<'_>, rules: &Rules) {
        let Self::Auths(auths) = self else { return };
        let services: Vec<&[HeaderName]> = auths.iter().filter_map(|auth| auth.response_headers()).collect();
        let written = |name: &str| {
            services.iter().any(|names| names.iter().any(|header| header.as_str().eq_ignore_ascii_case(name)))
        };
        let report = |key: &Key, message: String, label: &str| {
            let span = section.key_span(key).unwrap_or_else(|| section.span());
            section.diagnostics.push(Diagnostic::error(span, message).label(label));
        };
        if services.len() == auths.len() {
            for claim in
                rules.require.iter().map(Requirement::claim).map(ClaimPath::as_str).filter(|claim| !written(claim))
            {
                let message = format!("no service writes the header {}", quote(claim));
                report(&keys::REQUIRE, message, "a claim of a service is one of its `response_headers`");
            }
        }
        for (_, header) in rules.forward.iter().filter(|(_, header)| written(header.as_str())) {
            let message = format!("the service writes the header {} itself", quote(header.as_str()));
            report(&keys::FORWARD_CLAIMS, message, "the header is listed in `response_headers`");
        }
    }

    /// Whether a service may write the header with this canonical name.
    pub(super) fn writes(&self, read: &str) -> bool {
        let Self::Auths(auths) = self else { return false };
        let mut headers = auths.iter().filter_map(|auth| auth.response_headers()).flatten();
        headers.any(|header| canonical_header_name(header) == read)
    }

    /// Returns why clients may have no subject; `None` if they all have one, as far as the configuration says.
    pub(super) fn without_subject(&self) -> Option<String> {
        match self {
            Self::Open => Some("a route with `auth = \"none\"` has no subjects".to_owned()),
            Self::Auths(auths) => {
                let nameless = auths.iter().find(|auth| auth.has_no_subject())?;
                Some(format!("the section [auth.{}] has no `subject_header`", nameless.name()?))
            }
            Self::Unknown => None,
        }
    }

    /// Whether a service decides by all headers of a request, with its cookies.
    pub(super) fn asks_service(&self) -> bool {
        matches!(self, Self::Auths(auths) if auths.iter().any(|auth| auth.forward))
    }

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
    let last = texts.value.len().saturating_sub(1);
    for (place, (auth, text)) in found.iter().zip(&texts.value).enumerate() {
        if auth.forward && place < last {
            let message = format!("the section {} must be the last one", quote(text));
            error(&text.span, message, "its service decides on every request, so no later section is ever used");
        }
    }
    warn_of_shadowed(section, &found, &texts.value);
    if found.is_empty() || found.len() < texts.value.len() { Access::Unknown } else { Access::Auths(found) }
}

/// Warns of a section that is never asked, because an earlier one recognises all of its tokens.
fn warn_of_shadowed(section: &Section<'_>, found: &[&Auth], texts: &[Located<String>]) {
    for (place, (auth, text)) in found.iter().zip(texts).enumerate() {
        let Some(earlier) =
            found.iter().take(place).find(|earlier| !std::ptr::eq(**earlier, *auth) && earlier.shadows(auth))
        else {
            continue;
        };
        let name = earlier.name().unwrap_or_default();
        section.diagnostics.push(
            Diagnostic::warning(
                text.span.clone(),
                format!("the section {} is not asked about its tokens", quote(text)),
            )
            .label(format!("{} comes before it and recognises all of them", quote(&name)))
            .help("a section recognises tokens by `issuer` and `audience`, in the places of `token_from`"),
        );
    }
}

/// Reads `bypass_cors_preflight` of a route. `is_open`: the route needs no credential.
pub(super) fn bypass_cors_preflight(section: &Section<'_>, has_http: bool, is_open: bool) -> Option<bool> {
    let key = &keys::BYPASS_CORS_PREFLIGHT;
    let is_set = section.flag(key)?.value;
    let Some(span) = section.key_span(key).filter(|_| is_set) else { return Some(is_set) };
    if section.key_span(&keys::ORIGINS).is_none() {
        let message = format!("`{}` needs `{}`", key.name, keys::ORIGINS.name);
        let label = "otherwise pages of every origin need no token";
        section.diagnostics.push(Diagnostic::error(span, message).label(label));
        return None;
    }
    let (condition, label) = match (has_http, is_open) {
        (false, _) => ("without `http = true`", "this route serves no ordinary requests"),
        (true, true) => ("with `auth = \"none\"`", "no request needs a token"),
        (true, false) => return Some(true),
    };
    let message = format!("`{}` has no effect {condition}", key.name);
    section.diagnostics.push(Diagnostic::warning(span, message).label(label));
    Some(false)
}
