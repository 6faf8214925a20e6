//! Reads the cookie of `balance = "sticky_cookie"`.

use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use super::server_address::is_host_name;
use crate::balance::sticky::{has_host_prefix, has_secure_prefix};
use crate::balance::{SameSite, StickyCookie, StickyKey};
use crate::policy::credential::TokenSource;
use crate::policy::key::secret_in;

/// The longest value of an attribute that browsers accept (RFC 6265bis section 5.6).
const ATTRIBUTE_MAX_BYTES: usize = 1024;

/// Reads the cookie. Every key has a default.
pub(super) fn read(upstream: &Section<'_>, folder: &FileLoader<'_>) -> Option<StickyCookie> {
    let section = upstream.child("upstream.cookie");
    let name = name(&section);
    let same_site = section.choice(
        &keys::COOKIE_SAME_SITE,
        &[("strict", SameSite::Strict), ("lax", SameSite::Lax), ("none", SameSite::None)],
    );
    let secure = optional(&section, &keys::COOKIE_SECURE, Section::flag);
    let path = path(&section);
    let domain = match section.key_span(&keys::COOKIE_DOMAIN) {
        Some(_) => domain(&section).map(Some),
        None => Some(None),
    };
    let max_age = match section.key_span(&keys::COOKIE_MAX_AGE) {
        Some(_) => section.duration(&keys::COOKIE_MAX_AGE).map(Some),
        None => Some(None),
    };
    let key = match section.key_span(&keys::COOKIE_SECRET_FILE) {
        Some(_) => key(&section, folder).map(Some),
        None => Some(None),
    };
    let (name, same_site, secure, path, domain) = (name?, same_site?, secure?, path?, domain?);
    check_together(&section, (&name, &same_site, secure.as_ref()), &path, domain.as_ref())?;
    Some(StickyCookie {
        name: name.value,
        same_site: same_site.value,
        secure: secure.map(|secure| secure.value),
        path: path.value,
        domain: domain.map(|domain| domain.value),
        max_age: max_age?,
        key: key?,
    })
}

/// Warns of a cookie that no policy uses.
pub(super) fn note_unused(upstream: &Section<'_>) {
    let Some(span) = upstream.key_span(&keys::COOKIE) else { return };
    upstream
        .diagnostics
        .push(Diagnostic::warning(span, "`cookie` has no effect").label("it is used with balance = \"sticky_cookie\""));
}

/// Reads a key that may be absent.
fn optional<'a, T>(
    section: &Section<'a>,
    key: &Key,
    read: impl Fn(&Section<'a>, &Key) -> Option<Located<T>>,
) -> Parsed<Option<Located<T>>> {
    match section.key_span(key) {
        Some(_) => read(section, key).map(Some),
        None => Some(None),
    }
}

fn name(section: &Section<'_>) -> Option<Located<String>> {
    let name = section.text(&keys::COOKIE_NAME)?;
    match format!("cookie:{}", name.value).parse() {
        Ok(TokenSource::Cookie(_)) => Some(name),
        _ => wrong(section, &keys::COOKIE_NAME, &name, "expected letters, digits and characters of !#$%&'*+-.^_`|~"),
    }
}

fn path(section: &Section<'_>) -> Option<Located<String>> {
    let path = section.text(&keys::COOKIE_PATH)?;
    let label = if !path.starts_with('/') {
        "must start with a slash"
    } else if !path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b';') {
        "must contain only visible ASCII characters, without `;`"
    } else if path.len() > ATTRIBUTE_MAX_BYTES {
        "browsers ignore a path of more than 1024 bytes"
    } else {
        return Some(path);
    };
    wrong(section, &keys::COOKIE_PATH, &path, label)
}

fn domain(section: &Section<'_>) -> Option<Located<String>> {
    let domain = section.text(&keys::COOKIE_DOMAIN)?;
    let is_name = is_host_name(&domain) && domain.bytes().any(|byte| byte.is_ascii_alphabetic());
    if is_name && domain.contains('.') && !domain.ends_with('.') {
        return Some(domain);
    }
    wrong(section, &keys::COOKIE_DOMAIN, &domain, "expected a domain such as example.com, without a leading dot")
}

fn key(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<StickyKey> {
    let content = folder.read_secret(section, &keys::COOKIE_SECRET_FILE)?;
    let secret = secret_in(&content.bytes);
    if secret.len() >= StickyKey::MIN_BYTES {
        return Some(StickyKey::new(secret));
    }
    let label = format!("it has {} bytes, and at least {} are needed", secret.len(), StickyKey::MIN_BYTES);
    let message = format!("the file of `{}` cannot be used", keys::COOKIE_SECRET_FILE.name);
    section.diagnostics.push(Diagnostic::error(content.span, message).label(label));
    None
}

/// Checks that browsers accept the attributes together (RFC 6265bis sections 4.1.3 and 5.7).
fn check_together(
    section: &Section<'_>,
    (name, same_site, secure): (&Located<String>, &Located<SameSite>, Option<&Located<bool>>),
    path: &Located<String>,
    domain: Option<&Located<String>>,
) -> Option<()> {
    let mut is_valid = true;
    let mut note = |span: &Span, message: &str, label: &str| {
        section.diagnostics.push(Diagnostic::error(span.clone(), message.to_owned()).label(label));
        is_valid = false;
    };
    if let Some(secure) = secure.filter(|secure| !secure.value) {
        let message = "browsers reject this cookie without `Secure`";
        if has_secure_prefix(name) {
            note(&secure.span, message, "a name with the prefix `__Secure-` or `__Host-` needs `secure = true`");
        }
        if same_site.value == SameSite::None {
            note(&secure.span, message, "`same_site = \"none\"` needs `secure = true`");
        }
    }
    if has_host_prefix(name) {
        let message = "browsers reject this cookie";
        if path.value != "/" {
            note(&path.span, message, "a name with the prefix `__Host-` needs the path \"/\"");
        }
        if let Some(domain) = domain {
            note(&domain.span, message, "a name with the prefix `__Host-` permits no domain");
        }
    }
    is_valid.then_some(())
}

fn wrong<T>(section: &Section<'_>, key: &Key, text: &Located<String>, label: &str) -> Option<T> {
    let message = format!("{} cannot be the {} of the cookie", quote(text), key.name);
    section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label));
    None
}
