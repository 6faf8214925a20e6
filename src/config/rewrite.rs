//! Reads the keys of a route that change the request for its upstream: headers that it sets and removes, and the path.

use http::HeaderName;
use http::header::EXPECT;

use super::access::Access;
use super::common::Duplicates;
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::require::check_placeholders;
use crate::policy::claim_path::ClaimPath;
use crate::policy::claims::canonical_header_name;
use crate::policy::header_names::HeaderClass;
use crate::policy::path::Path;
use crate::policy::pattern::PathPattern;
use crate::policy::rewrite::{PathRewrite, Rewrite, SetValue, VALUE_MAX_BYTES};
use crate::policy::template::Template;

/// The maximum number of headers in each key.
const HEADERS_MAX: usize = 32;

/// Headers whose value is usually a secret, by their canonical names.
const SECRETS: [&str; 6] = ["authorization", "cookie", "api-key", "x-api-key", "x-auth-token", "x-access-token"];

/// The other keys of the route that concern headers.
pub(super) struct Others<'a> {
    /// The claims that are forwarded.
    pub(super) claims: &'a [(ClaimPath, HeaderName)],
    /// The sections that authenticate clients, and may write headers.
    pub(super) access: &'a Access<'a>,
    /// The client headers that are passed.
    pub(super) pass_headers: &'a [HeaderName],
}

/// Reads the keys. `path` is `None` if it has an error.
pub(super) fn read(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    others: &Others<'_>,
    path: Option<&Located<PathPattern>>,
) -> Option<Rewrite> {
    let pattern = path.map(|path| &path.value);
    let mut names = Names { section, others, seen: Duplicates::default(), set: Vec::new() };
    let files = section.table(&keys::SET_HEADERS_FILE, HEADERS_MAX);
    let files: Vec<_> = files.into_iter().map(|pair| secret_header(&mut names, folder, pair)).collect();
    let texts = section.table(&keys::SET_HEADERS, HEADERS_MAX);
    let texts: Vec<_> = texts.iter().map(|pair| text_header(&mut names, pair, pattern)).collect();
    let removed = section.texts(&keys::REMOVE_HEADERS, HEADERS_MAX).map(|texts| {
        let mut seen = Duplicates::default();
        texts.value.iter().map(|text| removed_header(&names, text, &mut seen)).collect::<Vec<_>>()
    });
    let path = path_rewrite(section, pattern);
    let set = texts.into_iter().chain(files).collect::<Option<_>>()?;
    let removed: Vec<HeaderName> = removed?.into_iter().collect::<Option<_>>()?;
    Some(Rewrite::new(set, &removed, path?))
}

/// The names of headers in the keys of a route.
struct Names<'a> {
    section: &'a Section<'a>,
    others: &'a Others<'a>,
    /// The canonical names of the headers that are set.
    seen: Duplicates<String>,
    set: Vec<String>,
}

impl Names<'_> {
    /// Reads the name of a header that is set.
    fn set(&mut self, text: &Located<String>) -> Option<HeaderName> {
        let message = format!("the header {} cannot be set", quote(text));
        let name = self.name(text, &message)?;
        let read = canonical_header_name(&name);
        let label = if name == EXPECT {
            Some("this header asks the upstream for an interim response")
        } else if self.passes(&read) {
            Some("`pass_headers` passes the client's header")
        } else {
            None
        };
        if let Some(label) = label {
            return self.note(text.span.clone(), message, label);
        }
        let at = Located { value: read.clone(), span: text.span.clone() };
        self.seen.note(self.section, &at, "header", text);
        self.set.push(read);
        Some(name)
    }

    /// Reads a name, and reports one that neither the operator nor a client can decide on.
    fn name(&self, text: &Located<String>, message: &str) -> Option<HeaderName> {
        let report = |label: &str| self.note(text.span.clone(), message.to_owned(), label);
        let Ok(name) = HeaderName::try_from(text.value.as_str()) else { return report("not the name of a header") };
        // `*` is valid in a name, but is used only in patterns.
        if name.as_str().contains('*') {
            return report("not a pattern: write the name of each header");
        }
        let read = canonical_header_name(&name);
        if self.others.claims.iter().any(|(_, header)| canonical_header_name(header) == read) {
            return report("`forward_claims` writes this header");
        }
        if self.others.access.writes(&read) {
            return report("the service of the route's [auth] section writes this header: see `response_headers`");
        }
        match HeaderClass::of(&read) {
            HeaderClass::HopByHop => report("this header is hop-by-hop: tollgate writes it or leaves it out"),
            HeaderClass::Written => report("tollgate writes this header itself"),
            _ if read.starts_with("x-forwarded-") => report("tollgate writes the X-Forwarded headers itself"),
            HeaderClass::Trusted | HeaderClass::Plain => Some(name),
        }
    }

    fn passes(&self, read: &str) -> bool {
        self.others.pass_headers.iter().any(|name| canonical_header_name(name) == read)
    }

    fn note<T>(&self, span: Span, message: String, label: &str) -> Option<T> {
        self.section.diagnostics.push(Diagnostic::error(span, message).label(label));
        None
    }
}

/// Reads a header whose value is in a file.
fn secret_header(
    names: &mut Names<'_>,
    folder: &FileLoader<'_>,
    (name, file): (Located<String>, Located<String>),
) -> Option<(HeaderName, SetValue)> {
    let header = names.set(&name);
    let content = folder.read_written_secret(names.section, &keys::SET_HEADERS_FILE, file)?;
    let value = SetValue::secret(&content.value.bytes);
    if value.is_none() {
        let label = format!(
            "expected one line of 1 to {VALUE_MAX_BYTES} visible ASCII characters, with spaces only between others"
        );
        let message = format!("the file cannot be the value of the header {}", quote(&name));
        return names.note(content.span, message, &label);
    }
    Some((header?, value?))
}

/// Reads a header whose value is in the configuration.
fn text_header(
    names: &mut Names<'_>,
    (name, text): &(Located<String>, Located<String>),
    path: Option<&PathPattern>,
) -> Option<(HeaderName, SetValue)> {
    let header = names.set(name);
    let read = header.as_ref().map(canonical_header_name).unwrap_or_default();
    let is_secret = SECRETS.contains(&read.as_str());
    // A diagnostic shows its line of the file, so one about a secret names the section.
    let span = if is_secret { names.section.span() } else { text.span.clone() };
    let report = |label: &str| {
        let shown = if is_secret { "the text in `set_headers`".to_owned() } else { quote(text) };
        let message = format!("{shown} cannot be the value of the header {}", quote(name));
        names.note(span.clone(), message, label)
    };
    let template = match text.parse::<Template>() {
        Ok(template) => template,
        Err(error) => return report(&error.to_string()),
    };
    check_placeholders(names.section, &template, &span, path, "no value for the header");
    let Some(value) = SetValue::text(template) else {
        return report(&format!(
            "expected 1 to {VALUE_MAX_BYTES} visible ASCII characters, with spaces only between others"
        ));
    };
    if is_secret {
        let message = format!("the value of the header {} in `set_headers` may be a secret", quote(name));
        names.section.diagnostics.push(
            Diagnostic::warning(span, message)
                .label("the admin API shows the settings of a route")
                .help(format!("name a file that holds the value: set_headers_file = {{ {} = \"FILE\" }}", name.value)),
        );
    }
    Some((header?, value))
}

/// Reads the name of a header that is removed.
fn removed_header(names: &Names<'_>, text: &Located<String>, seen: &mut Duplicates<String>) -> Option<HeaderName> {
    let message = format!("the header {} cannot be removed", quote(text));
    let name = names.name(text, &message)?;
    let read = canonical_header_name(&name);
    if names.passes(&read) {
        return names.note(text.span.clone(), message, "`pass_headers` passes this header");
    }
    let label = if names.set.contains(&read) {
        Some("the route sets this header, which replaces the client's")
    } else if HeaderClass::of(&read) == HeaderClass::Trusted {
        Some("this header is removed unless `pass_headers` lists it")
    } else {
        None
    };
    if let Some(label) = label {
        let message = format!("the header {} is removed by default", quote(text));
        names.section.diagnostics.push(Diagnostic::warning(text.span.clone(), message).label(label));
    }
    seen.note(names.section, &Located { value: read, span: text.span.clone() }, "header", text);
    Some(name)
}

fn path_rewrite(section: &Section<'_>, path: Option<&PathPattern>) -> Option<PathRewrite> {
    match (section.key_span(&keys::STRIP_PREFIX), section.key_span(&keys::REPLACE_PATH)) {
        (None, None) => Some(PathRewrite::Keep),
        (Some(_), None) => strip_prefix(section, path),
        (None, Some(_)) => replace_path(section),
        (Some(strip), Some(replace)) => {
            section.diagnostics.push(
                Diagnostic::error(replace, "a route has only one of `strip_prefix` and `replace_path`")
                    .label("this key replaces the whole path")
                    .related(strip, "this key removes a part of it"),
            );
            None
        }
    }
}

fn strip_prefix(section: &Section<'_>, path: Option<&PathPattern>) -> Option<PathRewrite> {
    let text = section.text(&keys::STRIP_PREFIX)?;
    let report = |label: &str| not_usable(section, &keys::STRIP_PREFIX, &text, label);
    let prefix = match text.parse::<PathPattern>() {
        Ok(prefix) => prefix,
        Err(error) => return report(&error.to_string()),
    };
    if text.ends_with('/') {
        return report("must not end with a slash: whole segments are removed, and the rest begins with one");
    }
    if text.contains("{*") {
        return report("`{*name}` takes the rest of the path, so nothing would be left");
    }
    match path?.prefix_len(&prefix) {
        Some(segments) => Some(PathRewrite::Strip(segments)),
        None => report("the `path` of the route does not begin with these segments"),
    }
}

fn replace_path(section: &Section<'_>) -> Option<PathRewrite> {
    let text = section.text(&keys::REPLACE_PATH)?;
    let report = |label: &str| not_usable(section, &keys::REPLACE_PATH, &text, label);
    if text.contains(['{', '}']) {
        return report("placeholders are not replaced here");
    }
    if let Err(error) = Path::parse(&text) {
        return report(&error.to_string());
    }
    // Exactly these characters must be percent-encoded in a path (RFC 3986 section 3.3).
    if !text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"<>[]^`|".contains(&byte)) {
        return report("must contain only characters that are valid in a path; others are percent-encoded");
    }
    Some(PathRewrite::Replace(text.value.as_str().into()))
}

fn not_usable(section: &Section<'_>, key: &Key, text: &Located<String>, label: &str) -> Option<PathRewrite> {
    let message = format!("{} cannot be the value of `{}`", quote(text), key.name);
    section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label));
    None
}
