//! The `[auth.NAME]` sections.

use std::cell::Cell;
use std::sync::Arc;

use jsonwebtoken::Algorithm;

use super::diagnostic::{Fault, quote};
use super::file::{At, Read, Section};
use super::files::Folder;
use super::keys::{self, Key};
use super::upstreams::Named;
use super::{suggest, validate};
use crate::policy::credential::TokenSource;
use crate::policy::key::KeySet;
use crate::policy::token::{Verifier, VerifierParts};

const AUTHS_MAX: usize = 256;
const ALGORITHMS_MAX: usize = 16;
const AUDIENCES_MAX: usize = 64;
const SOURCES_MAX: usize = 16;

/// The name that opens a route, and so cannot be a section's.
pub(super) const NONE: &str = "none";

const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("HS256", Algorithm::HS256),
    ("HS384", Algorithm::HS384),
    ("HS512", Algorithm::HS512),
    ("RS256", Algorithm::RS256),
    ("RS384", Algorithm::RS384),
    ("RS512", Algorithm::RS512),
    ("PS256", Algorithm::PS256),
    ("PS384", Algorithm::PS384),
    ("PS512", Algorithm::PS512),
    ("ES256", Algorithm::ES256),
    ("ES384", Algorithm::ES384),
    ("EdDSA", Algorithm::EdDSA),
];

/// What routes need to know of an `[auth.NAME]` section.
pub(super) struct Auth {
    /// `None`: the section is faulty, and that was noted.
    pub(super) verifier: Option<Arc<Verifier>>,
    /// Whether it takes tokens from cookies.
    pub(super) cookie: bool,
    /// Set once a route uses it.
    pub(super) used: Cell<bool>,
}

/// Every section, in the order of the file.
pub(super) fn read_all(root: &Section<'_>, folder: &Folder<'_>) -> Vec<Named<Auth>> {
    let sections = root.named("auth", AUTHS_MAX);
    let read = |(name, section): (At<&str>, Section<'_>)| {
        let auth = read(&name, &section, folder);
        Named { name: name.value.to_owned(), span: name.span, value: auth }
    };
    sections.into_iter().map(read).collect()
}

fn read(name: &At<&str>, section: &Section<'_>, folder: &Folder<'_>) -> Auth {
    let sources = sources(section);
    let cookie = sources.iter().flatten().any(|source| matches!(source, TokenSource::Cookie(_)));
    let verifier = verifier(name, section, folder, sources).map(Arc::new);
    Auth { verifier, cookie, used: Cell::new(false) }
}

fn verifier(
    name: &At<&str>,
    section: &Section<'_>,
    folder: &Folder<'_>,
    sources: Option<Vec<TokenSource>>,
) -> Option<Verifier> {
    let valid_name = check_name(name, section);
    let algorithms = algorithms(section);
    let keys = key_set(section, folder, algorithms.as_deref());
    let issuer = issuer(section);
    let audience = audience(section);
    let leeway = section.duration(&keys::LEEWAY);
    valid_name?;
    Some(Verifier::new(VerifierParts {
        keys: keys?,
        algorithms: algorithms?,
        issuer: issuer?,
        audience: audience?,
        leeway: leeway?,
        sources: sources?,
    }))
}

fn check_name(name: &At<&str>, section: &Section<'_>) -> Option<()> {
    if name.value == NONE {
        section.faults.push(
            Fault::error(name.span.clone(), "\"none\" cannot be the name of an [auth] section")
                .label("`auth = \"none\"` opens a route to everybody"),
        );
        return None;
    }
    validate::name(section, name, &name.span)
}

fn sources(section: &Section<'_>) -> Option<Vec<TokenSource>> {
    let texts = section.texts(&keys::TOKEN_FROM, SOURCES_MAX)?;
    if texts.value.is_empty() && section.is_empty_list(&keys::TOKEN_FROM) {
        section.faults.push(
            Fault::error(texts.span, "a token has to stand somewhere")
                .label("the list is empty")
                .help("leave the key out to take tokens from `Authorization: Bearer`"),
        );
        return None;
    }
    let mut sources = Vec::new();
    for text in &texts.value {
        let fault = |label: String| {
            Fault::error(text.span.clone(), format!("{} is not a place for a token", quote(text))).label(label)
        };
        match text.parse::<TokenSource>() {
            Ok(source) if sources.contains(&source) => section.faults.push(fault("it stands twice".to_owned())),
            Ok(source) => sources.push(source),
            Err(error) => section.faults.push(fault(error.to_string())),
        }
    }
    Some(sources)
}

fn algorithms(section: &Section<'_>) -> Option<Vec<Algorithm>> {
    let texts = section.texts(&keys::ALGORITHMS, ALGORITHMS_MAX)?;
    if section.is_empty_list(&keys::ALGORITHMS) {
        section.faults.push(Fault::error(texts.span, "no token could be verified").label("the list is empty"));
        return None;
    }
    let mut found = Vec::new();
    for text in &texts.value {
        if let Some((_, algorithm)) = ALGORITHMS.iter().find(|(name, _)| *name == text.value) {
            found.push(*algorithm);
            continue;
        }
        let known = ALGORITHMS.map(|(name, _)| name);
        section.faults.push(
            Fault::error(text.span.clone(), format!("unknown algorithm {}", quote(text)))
                .label("not an algorithm that tollgate verifies")
                .help(format!("there is {}", suggest::list(&known))),
        );
    }
    // RFC 8725 section 3.1: with both kinds a public key could be taken for a shared secret.
    if found.iter().any(|one| is_shared(*one)) && !found.iter().all(|one| is_shared(*one)) {
        section.faults.push(
            Fault::error(texts.span, "algorithms with a shared secret and with public keys cannot be mixed")
                .label("HS* with others")
                .help("make two [auth] sections, each with keys of its own"),
        );
        return None;
    }
    (found.len() == texts.value.len()).then_some(found)
}

/// Whether an algorithm signs and verifies with the same secret.
fn is_shared(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

type Reader = fn(&[u8], &[Algorithm]) -> Result<KeySet, crate::policy::key::KeyError>;

/// Reads the one key file that the section must name.
fn key_set(section: &Section<'_>, folder: &Folder<'_>, algorithms: Option<&[Algorithm]>) -> Option<KeySet> {
    let kinds: [(&Key, Reader); 3] = [
        (&keys::SECRET_FILE, KeySet::from_secret),
        (&keys::PUBLIC_KEY_FILE, KeySet::from_public_pem),
        (&keys::JWKS_FILE, KeySet::from_jwks),
    ];
    let named: Vec<_> = kinds.iter().filter(|(key, _)| section.key_span(key).is_some()).collect();
    let [(key, reader)] = named.as_slice() else {
        if named.is_empty() && section.has("jwks_url") {
            // That is a fault already, and its help says what to do.
            return None;
        }
        section.faults.push(
            match named.get(1).and_then(|(key, _)| section.key_span(key)) {
                Some(second) => Fault::error(second, "more than one source of keys").label("this is one too many"),
                None => Fault::error(section.span(), "no source of keys")
                    .label(format!("{} needs a file that verifies tokens", section.title())),
            }
            .help("a section has exactly one of `secret_file`, `public_key_file` and `jwks_file`"),
        );
        return None;
    };
    let secret = key.name == keys::SECRET_FILE.name;
    let content = if secret { folder.read_secret(section, key) } else { folder.read(section, key) };
    let algorithms = algorithms?;
    if algorithms.iter().any(|one| is_shared(*one) != secret) {
        let (label, help) = if secret {
            ("a secret verifies only HS256, HS384 and HS512", "name a public key with `public_key_file` or `jwks_file`")
        } else {
            ("public keys do not verify HS256, HS384 or HS512", "name the shared secret with `secret_file`")
        };
        section.faults.push(
            Fault::error(section.key_span(key)?, format!("`{}` does not go with `algorithms`", key.name))
                .label(label)
                .help(help),
        );
        return None;
    }
    let content = content?;
    match reader(&content.bytes, algorithms) {
        Ok(set) => Some(set),
        Err(error) => {
            section.faults.push(
                Fault::error(content.span, format!("the file of `{}` cannot be used", key.name))
                    .label(error.to_string()),
            );
            None
        }
    }
}

fn issuer(section: &Section<'_>) -> Read<Option<String>> {
    if section.key_span(&keys::ISSUER).is_none() {
        warn(section, "`issuer` is not checked", "a token of any issuer that has the key is taken");
        return Some(None);
    }
    let text = section.text(&keys::ISSUER)?;
    if text.is_empty() {
        section.faults.push(Fault::error(text.span, "`issuer` is empty").label("no token has an empty issuer"));
        return None;
    }
    Some(Some(text.value))
}

fn audience(section: &Section<'_>) -> Option<Vec<String>> {
    if section.key_span(&keys::AUDIENCE).is_none() {
        warn(section, "`audience` is not checked", "a token that was made for another service is taken");
        return Some(Vec::new());
    }
    let texts = section.texts(&keys::AUDIENCE, AUDIENCES_MAX)?;
    if texts.value.is_empty() || texts.value.iter().any(|text| text.is_empty()) {
        section.faults.push(
            Fault::error(texts.span, "`audience` is empty").label("leave the key out to take tokens for any audience"),
        );
        return None;
    }
    Some(texts.value.into_iter().map(|text| text.value).collect())
}

fn warn(section: &Section<'_>, what: &str, label: &str) {
    let message = format!("{what} in {}", section.title());
    section.faults.push(Fault::warning(section.span(), message).label(label).help("RFC 8725 section 3.8 and 3.9"));
}
