//! Reads the keys of `[auth.NAME]` sections with `kind = "forward"`.

use std::time::Duration;

use http::HeaderName;
use http::header::SET_COOKIE;

use super::common::Duplicates;
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Parsed, Section};
use super::keys::{self, Key};
use crate::policy::claims::canonical_header_name;
use crate::policy::forward::ForwardConfig;
use crate::policy::header_names::HeaderClass;
use crate::policy::remote::{HttpUrl, Roots};

/// The maximum number of listed headers.
const HEADERS_MAX: usize = 32;

/// The keys of such a section that a section with `kind = "jwt"` does not have.
pub(super) const KEYS: [&Key; 6] = [
    &keys::AUTH_URL,
    &keys::AUTH_TIMEOUT,
    &keys::RESPONSE_HEADERS,
    &keys::SUBJECT_HEADER,
    &keys::CACHE_FOR,
    &keys::RECHECK_INTERVAL,
];

/// The values of the keys, each of which may be absent or invalid.
pub(super) struct Values {
    url: Option<HttpUrl>,
    timeout: Option<Duration>,
    response_headers: Option<Vec<HeaderName>>,
    subject_header: Parsed<Option<HeaderName>>,
    cache_for: Option<Located<Option<Duration>>>,
    recheck_interval: Option<Located<Option<Duration>>>,
}

impl Values {
    /// Reads every key.
    pub(super) fn read(section: &Section<'_>) -> Self {
        Self {
            url: url(section),
            timeout: section.duration(&keys::AUTH_TIMEOUT),
            response_headers: response_headers(section),
            subject_header: subject_header(section),
            cache_for: section.duration_or_off(&keys::CACHE_FOR),
            recheck_interval: section.duration_or_off(&keys::RECHECK_INTERVAL),
        }
    }

    /// Returns the configuration. The caller adds the claims.
    pub(super) fn finish(self, section: &Section<'_>, roots: Option<Roots>) -> Option<ForwardConfig> {
        if section.key_span(&keys::AUTH_URL).is_none() {
            section.missing(&keys::AUTH_URL);
        }
        Some(ForwardConfig {
            url: self.url?,
            roots: roots?,
            timeout: self.timeout?,
            response_headers: self.response_headers?,
            subject_header: self.subject_header?,
            cache_for: self.cache_for?.value,
            recheck_interval: self.recheck_interval?.value,
            claims: Vec::new(),
        })
    }
}

/// Warns of keys that the other kind of section has.
pub(super) fn warn_of_unused(section: &Section<'_>, keys: &[&Key], kind: &str) {
    for key in keys {
        if let Some(span) = section.key_span(key) {
            let message = format!("`{}` has no effect with `kind = {}`", key.name, quote(kind));
            section.diagnostics.push(Diagnostic::warning(span, message).label("never used"));
        }
    }
}

fn url(section: &Section<'_>) -> Option<HttpUrl> {
    section.key_span(&keys::AUTH_URL)?;
    let text = section.text(&keys::AUTH_URL)?;
    let note = |error: crate::policy::remote::UrlError| {
        let message = format!("{} cannot be asked", quote(&text));
        section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(error.to_string()));
    };
    HttpUrl::parse(&text).map_err(note).ok()
}

fn response_headers(section: &Section<'_>) -> Option<Vec<HeaderName>> {
    let texts = section.texts(&keys::RESPONSE_HEADERS, HEADERS_MAX)?;
    let mut seen = Duplicates::default();
    let read = |text: &Located<String>| {
        let name = header(section, text)?;
        seen.note(section, &Located { value: canonical_header_name(&name), span: text.span.clone() }, "header", text);
        Some(name)
    };
    texts.value.iter().map(read).collect::<Vec<_>>().into_iter().collect()
}

fn subject_header(section: &Section<'_>) -> Parsed<Option<HeaderName>> {
    if section.key_span(&keys::SUBJECT_HEADER).is_none() {
        return Some(None);
    }
    let text = section.text(&keys::SUBJECT_HEADER)?;
    header(section, &text).map(Some)
}

/// Parses the name of a header that the service may write into the request to the upstream.
fn header(section: &Section<'_>, text: &Located<String>) -> Option<HeaderName> {
    let diagnostic = |label: &str| {
        let message = format!("the header {} cannot come from the service", quote(text));
        section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label));
        None
    };
    let Ok(name) = HeaderName::try_from(text.value.as_str()) else { return diagnostic("not the name of a header") };
    if name == SET_COOKIE {
        return diagnostic("the client gets the cookies of the service, and no request carries this header");
    }
    match HeaderClass::of(&canonical_header_name(&name)) {
        HeaderClass::HopByHop => diagnostic("this header is hop-by-hop and is never forwarded"),
        HeaderClass::Written => diagnostic("tollgate writes this header itself"),
        HeaderClass::Plain | HeaderClass::Trusted => Some(name),
    }
}
