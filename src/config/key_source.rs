//! Reads the source of the keys of an `[auth]` section: a file, a URL, or the issuer's configuration.

use std::ops::Range;

use jsonwebtoken::Algorithm;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Section};
use super::files::FileLoader;
use super::keys::{self, Key};
use crate::policy::key::{KeyError, KeySet};
use crate::policy::live_keys::{KeyLocation, KeySource, RemoteKeys};
use crate::policy::remote::{HttpUrl, Roots, UrlError};

/// The maximum number of roots in the file of `ca`. The roots of an operating system are about 150.
const ROOTS_MAX: usize = 256;

type Reader = fn(&[u8], &[Algorithm]) -> Result<KeySet, KeyError>;

/// A source that a section names.
#[derive(Clone, Copy)]
enum Named {
    File(&'static Key, Reader),
    Url,
    Discovery,
}

/// Reads the one source of keys that the section must name, and the keys that concern fetched keys.
pub(super) fn read(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    algorithms: Option<&[Algorithm]>,
) -> Option<KeySource> {
    let url = section.key_span(&keys::JWKS_URL).map(|_| url(section));
    let discovery = section.flag(&keys::DISCOVERY).map(|discovery| discovery.value);
    let (stale_for, roots) = (section.duration(&keys::KEYS_STALE_FOR), roots(section, folder, &keys::CA));
    let named = named(section, discovery)?;
    let location = match named {
        Named::File(key, reader) => {
            warn_of_fetch_keys(section);
            return key_file(section, folder, key, reader, algorithms).map(KeySource::from);
        }
        Named::Url => url?.map(KeyLocation::Jwks),
        Named::Discovery => issuer(section),
    };
    check_algorithms(
        section,
        if matches!(named, Named::Url) { &keys::JWKS_URL } else { &keys::DISCOVERY },
        algorithms?,
    )?;
    Some(KeySource::Remote { keys: RemoteKeys { location: location?, roots: roots? }, stale_for: stale_for? })
}

/// Finds the one source. Reports none, or more than one.
fn named(section: &Section<'_>, discovery: Option<bool>) -> Option<Named> {
    let sources: [(&Key, Named); 5] = [
        (&keys::SECRET_FILE, Named::File(&keys::SECRET_FILE, KeySet::from_secret)),
        (&keys::PUBLIC_KEY_FILE, Named::File(&keys::PUBLIC_KEY_FILE, KeySet::from_public_pem)),
        (&keys::JWKS_FILE, Named::File(&keys::JWKS_FILE, KeySet::from_jwks)),
        (&keys::JWKS_URL, Named::Url),
        (&keys::DISCOVERY, Named::Discovery),
    ];
    // `discovery = false` names no source. A value of the wrong type was reported already.
    let is_named = |source: &Named| !matches!(source, Named::Discovery) || discovery != Some(false);
    let named = sources.iter().filter(|(_, source)| is_named(source));
    let named: Vec<(Range<usize>, Named)> =
        named.filter_map(|(key, source)| Some((section.key_span(key)?, *source))).collect();
    let error = match named.as_slice() {
        [(_, only)] => return discovery.map(|_| *only),
        [_, (second, _), ..] => {
            Diagnostic::error(second.clone(), "more than one source of keys").label("only one is allowed")
        }
        [] => Diagnostic::error(section.span(), "no source of keys")
            .label(format!("{} needs keys that verify tokens", section.title())),
    };
    let help = "a section has exactly one of `secret_file`, `public_key_file`, `jwks_file`, `jwks_url` and \
                `discovery = true`";
    section.diagnostics.push(error.help(help));
    None
}

/// Reads a key file.
fn key_file(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    key: &Key,
    reader: Reader,
    algorithms: Option<&[Algorithm]>,
) -> Option<KeySet> {
    let is_secret = key.name == keys::SECRET_FILE.name;
    let content = if is_secret { folder.read_secret(section, key) } else { folder.read(section, key) };
    let algorithms = algorithms?;
    check_algorithms(section, key, algorithms)?;
    let content = content?;
    match reader(&content.bytes, algorithms) {
        Ok(set) => Some(set),
        Err(error) => {
            section.diagnostics.push(
                Diagnostic::error(content.span, format!("the file of `{}` cannot be used", key.name))
                    .label(error.to_string()),
            );
            None
        }
    }
}

/// Whether an algorithm signs and verifies with the same secret.
pub(super) fn is_shared(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

/// Checks that the source can have keys for all algorithms.
fn check_algorithms(section: &Section<'_>, key: &Key, algorithms: &[Algorithm]) -> Option<()> {
    let is_secret = key.name == keys::SECRET_FILE.name;
    if algorithms.iter().all(|one| is_shared(*one) == is_secret) {
        return Some(());
    }
    let (label, help) = if is_secret {
        ("a secret verifies only HS256, HS384 and HS512", "name a public key with `public_key_file` or `jwks_file`")
    } else {
        ("public keys do not verify HS256, HS384 or HS512", "name the shared secret with `secret_file`")
    };
    section.diagnostics.push(
        Diagnostic::error(section.key_span(key)?, format!("`{}` does not match `algorithms`", key.name))
            .label(label)
            .help(help),
    );
    None
}

/// Warns of keys that concern only fetched keys.
fn warn_of_fetch_keys(section: &Section<'_>) {
    for key in [&keys::KEYS_STALE_FOR, &keys::CA] {
        if let Some(span) = section.key_span(key) {
            let message = format!("`{}` has no effect", key.name);
            section
                .diagnostics
                .push(Diagnostic::warning(span, message).label("it concerns only `jwks_url` and `discovery`"));
        }
    }
}

fn url(section: &Section<'_>) -> Option<HttpUrl> {
    let text = section.text(&keys::JWKS_URL)?;
    HttpUrl::parse(&text).map_err(|error| invalid_url(section, &text, error)).ok()
}

/// Reports a text that is not a URL that Tollgate sends requests to.
fn invalid_url(section: &Section<'_>, text: &Located<String>, error: UrlError) {
    section.diagnostics.push(
        Diagnostic::error(text.span.clone(), format!("keys cannot be fetched from {}", quote(text)))
            .label(error.to_string()),
    );
}

/// Reads the issuer as the URL of its configuration.
fn issuer(section: &Section<'_>) -> Option<KeyLocation> {
    if section.key_span(&keys::ISSUER).is_none() {
        section.diagnostics.push(
            Diagnostic::error(section.key_span(&keys::DISCOVERY)?, "`discovery` needs `issuer`")
                .label("the keys are found by the URL of the issuer"),
        );
        return None;
    }
    let text = section.text(&keys::ISSUER)?;
    if text.is_empty() {
        // Reported by the reader of `issuer`.
        return None;
    }
    if text.contains('?') {
        section.diagnostics.push(
            Diagnostic::error(text.span.clone(), format!("{} is not the URL of an issuer", quote(&text)))
                .label("it has no query (OpenID Connect Discovery section 3)"),
        );
        return None;
    }
    if let Err(error) = HttpUrl::parse(&text) {
        invalid_url(section, &text, error);
        return None;
    }
    let location = KeyLocation::of_issuer(&text);
    if location.is_none() {
        invalid_url(section, &text, UrlError::TooLong);
    }
    location
}

/// Reads the roots that the certificates of servers must lead to.
pub(super) fn roots(section: &Section<'_>, folder: &FileLoader<'_>, key: &Key) -> Option<Roots> {
    if section.text(key)?.value == "system" {
        return Some(Roots::System);
    }
    let content = folder.read(section, key)?;
    match parse_roots(&content.bytes) {
        Ok(roots) => Some(Roots::Certificates(roots.into())),
        Err(label) => {
            section.diagnostics.push(Diagnostic::error(content.span, "the file of `ca` cannot be used").label(label));
            None
        }
    }
}

fn parse_roots(file: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(file).take(ROOTS_MAX.saturating_add(1)).collect();
    let certificates = found.map_err(|_| "the PEM is broken".to_owned())?;
    if certificates.is_empty() {
        return Err("it holds no certificate in PEM (`BEGIN CERTIFICATE`)".to_owned());
    }
    if certificates.len() > ROOTS_MAX {
        return Err(format!("it holds more than {ROOTS_MAX} certificates"));
    }
    let mut store = RootCertStore::empty();
    for certificate in &certificates {
        store.add(certificate.clone()).map_err(|error| format!("a certificate is not valid: {error}"))?;
    }
    Ok(certificates)
}
