//! Reads the `[auth.NAME]` sections.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::sync::Arc;

use http::HeaderName;
use jsonwebtoken::Algorithm;

use super::common::{self, NamedSection};
use super::diagnostic::{Diagnostic, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::key_source::{self, is_shared};
use super::keys::{self, Key};
use super::logout::{self, LogoutSetting};
use super::model::AuthConfig;
use super::units::show_size;
use super::{forward, suggestion};
use crate::policy::claim_path::ClaimPath;
use crate::policy::credential::TokenSource;
use crate::policy::expiry::OnExpiry;
use crate::policy::forward::ForwardConfig;
use crate::policy::key;
use crate::policy::token::VerifierConfig;
use crate::ws::code::CloseCode;

const AUTHS_MAX: usize = 256;
const ALGORITHMS_MAX: usize = 16;
const AUDIENCES_MAX: usize = 64;
const SOURCES_MAX: usize = 16;

/// The value of a route's `auth` that requires no token. A section cannot have this name.
pub(super) const NONE: &str = "none";

/// The keys of a section with `kind = "jwt"` that one with `kind = "forward"` does not have.
const TOKEN_KEYS: [&Key; 19] = [
    &keys::ISSUER,
    &keys::AUDIENCE,
    &keys::ALGORITHMS,
    &keys::JWKS_FILE,
    &keys::PUBLIC_KEY_FILE,
    &keys::SECRET_FILE,
    &keys::JWKS_URL,
    &keys::DISCOVERY,
    &keys::KEYS_STALE_FOR,
    &keys::SUBJECT_CLAIM,
    &keys::TOKEN_FROM,
    &keys::TOKEN_MAX_SIZE,
    &keys::LEEWAY,
    &keys::ON_EXPIRY,
    &keys::EXPIRY_GRACE,
    &keys::EXPIRY_CLOSE_CODE,
    &keys::FORWARD_TOKEN,
    &keys::BACKCHANNEL_LOGOUT_PATH,
    &keys::BACKCHANNEL_LOGOUT_AUDIENCE,
];

const ALGORITHMS: [&str; 13] = [
    "HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "Ed25519",
    "EdDSA",
];

/// An `[auth.NAME]` section, as routes use it.
pub(super) struct Auth {
    name: Arc<str>,
    /// Its configuration, without claims. `None` after an error in the section, which was reported.
    config: Option<AuthConfig>,
    /// The rules for logout tokens, if the issuer sends them.
    pub(super) logout: Option<LogoutSetting>,
    /// The claims that routes use.
    claims: RefCell<BTreeSet<ClaimPath>>,
    /// Whether a token may come from a cookie.
    pub(super) cookie: bool,
    /// Whether a service decides, which recognises every request.
    pub(super) forward: bool,
    /// Whether a route uses the section.
    pub(super) used: Cell<bool>,
}

impl Auth {
    /// The name by which routes refer to it; `None` if the section has an error.
    pub(super) fn name(&self) -> Option<Arc<str>> {
        self.config.as_ref().map(|_| Arc::clone(&self.name))
    }

    /// Records a claim that a route uses.
    pub(super) fn ask(&self, claim: &ClaimPath) {
        self.claims.borrow_mut().insert(claim.clone());
    }

    /// The configuration that its routes share, with the claims that they use. A section that no route uses has none.
    pub(super) fn into_config(self) -> Option<(Arc<str>, AuthConfig)> {
        let claims = self.claims.into_inner().into_iter().collect();
        let config = match self.config.filter(|_| self.used.get())? {
            AuthConfig::Token(verifier) => AuthConfig::Token(VerifierConfig { claims, ..verifier }),
            AuthConfig::Forward(forward) => AuthConfig::Forward(ForwardConfig { claims, ..forward }),
        };
        Some((self.name, config))
    }

    /// Whether a service decides about its clients without naming them.
    pub(super) fn has_no_subject(&self) -> bool {
        matches!(&self.config, Some(AuthConfig::Forward(forward)) if forward.subject_header.is_none())
    }

    /// Whether this section recognises every token that a later one does, in one of the same places.
    pub(super) fn shadows(&self, later: &Self) -> bool {
        let (Some(AuthConfig::Token(own)), Some(AuthConfig::Token(later))) = (&self.config, &later.config) else {
            return false;
        };
        let covers = |own: &[String], later: &[String]| {
            own.is_empty() || (!later.is_empty() && later.iter().all(|name| own.contains(name)))
        };
        own.sources.iter().any(|source| later.sources.contains(source))
            && (own.issuer.is_none() || own.issuer == later.issuer)
            && covers(&own.audience, &later.audience)
    }

    /// Returns the headers that a service may name; `None` for another kind of section.
    pub(super) fn response_headers(&self) -> Option<&[HeaderName]> {
        match &self.config {
            Some(AuthConfig::Forward(forward)) => Some(&forward.response_headers),
            _ => None,
        }
    }
}

/// Reads every section, in the order of the file. `head_max_bytes` is the largest request head that any listener
/// accepts, if known.
pub(super) fn read_all(
    root: &Section<'_>,
    folder: &FileLoader<'_>,
    head_max_bytes: Option<usize>,
) -> Vec<NamedSection<Auth>> {
    let sections = root.named("auth", AUTHS_MAX);
    let read = |(name, section): (Located<&str>, Section<'_>)| {
        let auth = read(&name, &section, folder, head_max_bytes);
        NamedSection { name: name.value.to_owned(), span: name.span, value: auth }
    };
    sections.into_iter().map(read).collect()
}

fn read(name: &Located<&str>, section: &Section<'_>, folder: &FileLoader<'_>, head_max_bytes: Option<usize>) -> Auth {
    let kinds = [("jwt", false), ("forward", true)];
    let forward = section.choice(&keys::KIND, &kinds).map(|kind| kind.value);
    let sources = sources(section);
    let cookie = sources.iter().flatten().any(|source| matches!(source, TokenSource::Cookie(_)));
    let values = forward::Values::read(section);
    let mut logout = None;
    let config = match forward {
        Some(true) => {
            forward::warn_of_unused(section, &TOKEN_KEYS, "forward");
            let (valid_name, roots) = (check_name(name, section), key_source::roots(section, folder, &keys::CA));
            valid_name.and(values.finish(section, roots)).map(AuthConfig::Forward)
        }
        Some(false) => {
            forward::warn_of_unused(section, &forward::KEYS, "jwt");
            let verifier = verifier(name, section, folder, sources, head_max_bytes);
            let (verifier, setting) = logout::read(section, verifier);
            logout = setting;
            verifier.map(AuthConfig::Token)
        }
        None => None,
    };
    let (claims, used) = (RefCell::default(), Cell::new(false));
    Auth { name: name.value.into(), config, logout, cookie, forward: forward == Some(true), claims, used }
}

fn verifier(
    name: &Located<&str>,
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    sources: Option<Vec<TokenSource>>,
    head_max_bytes: Option<usize>,
) -> Option<VerifierConfig> {
    let valid_name = check_name(name, section);
    let algorithms = algorithms(section);
    let keys = key_source::read(section, folder, algorithms.as_deref());
    let issuer = issuer(section);
    let audience = audience(section);
    let subject_claim = section.text(&keys::SUBJECT_CLAIM).and_then(|name| common::claim_path(section, &name));
    let leeway = section.duration(&keys::LEEWAY);
    let forward_token = section.flag(&keys::FORWARD_TOKEN);
    let on_expiry = on_expiry(section);
    let max_bytes = max_bytes(section, head_max_bytes);
    valid_name?;
    Some(VerifierConfig {
        keys: keys?,
        algorithms: algorithms?,
        issuer: issuer?,
        audience: audience?,
        subject_claim: subject_claim?,
        leeway: leeway?,
        on_expiry: on_expiry?,
        sources: sources?,
        forward_token: forward_token?.value,
        max_bytes: max_bytes?,
        claims: Vec::new(),
    })
}

/// Reads the keys about the expiry of tokens.
fn on_expiry(section: &Section<'_>) -> Option<OnExpiry> {
    let ignores = section.choice(&keys::ON_EXPIRY, &[("close", false), ("ignore", true)]);
    let (grace, code) = (section.duration(&keys::EXPIRY_GRACE), section.integer(&keys::EXPIRY_CLOSE_CODE));
    let (ignores, grace, code) = (ignores?.value, grace?, code?);
    if !matches!(code.value, 1008 | 4000..) {
        section.diagnostics.push(
            Diagnostic::error(code.span, format!("`expiry_close_code` cannot be {}", code.value))
                .label("expected 1008, or a code of your application from 4000 to 4999"),
        );
        return None;
    }
    if !ignores {
        let code = CloseCode(u16::try_from(code.value).ok()?);
        return Some(OnExpiry::Close { grace, code });
    }
    let unused = [&keys::EXPIRY_GRACE, &keys::EXPIRY_CLOSE_CODE];
    let unused = unused.into_iter().filter_map(|key| Some((key.name, section.key_span(key)?)));
    let note = |(name, span)| {
        section.diagnostics.push(
            Diagnostic::error(span, format!("`{name}` has no effect with `on_expiry = \"ignore\"`"))
                .label("no session ends because its token expires"),
        );
    };
    (unused.map(note).count() == 0).then_some(OnExpiry::Ignore)
}

/// Reads `token_max_size`. Warns if it exceeds every request head: each token source is a part of the head.
fn max_bytes(section: &Section<'_>, head_max_bytes: Option<usize>) -> Option<usize> {
    let size = section.size_or_off(&keys::TOKEN_MAX_SIZE)?;
    let max_bytes = usize::try_from(size.value?).ok()?;
    if let Some(head_max_bytes) = head_max_bytes.filter(|head| max_bytes > *head)
        && let Some(span) = section.key_span(&keys::TOKEN_MAX_SIZE)
    {
        section.diagnostics.push(
            Diagnostic::warning(span, "`token_max_size` is larger than any request head")
                .label(format!("no listener accepts a head of more than {}", show_size(head_max_bytes as u64)))
                .help("raise `head_max_size` of a listener"),
        );
    }
    Some(max_bytes)
}

fn check_name(name: &Located<&str>, section: &Section<'_>) -> Option<()> {
    if name.value == NONE {
        section.diagnostics.push(
            Diagnostic::error(name.span.clone(), "\"none\" cannot be the name of an [auth] section")
                .label("`auth = \"none\"` opens a route to every client"),
        );
        return None;
    }
    common::name(section, name, &name.span)
}

fn sources(section: &Section<'_>) -> Option<Vec<TokenSource>> {
    let texts = section.texts(&keys::TOKEN_FROM, SOURCES_MAX)?;
    if texts.value.is_empty() && section.is_empty_list(&keys::TOKEN_FROM) {
        section.diagnostics.push(
            Diagnostic::error(texts.span, "a token needs a source")
                .label("the list is empty")
                .help("leave the key out to read tokens from `Authorization: Bearer`"),
        );
        return None;
    }
    let mut sources = Vec::new();
    for text in &texts.value {
        let diagnostic = |label: String| {
            Diagnostic::error(text.span.clone(), format!("{} cannot be a token source", quote(text))).label(label)
        };
        match text.parse::<TokenSource>() {
            Ok(source) if sources.contains(&source) => {
                section.diagnostics.push(diagnostic("duplicate".to_owned()));
            }
            Ok(source) => sources.push(source),
            Err(error) => section.diagnostics.push(diagnostic(error.to_string())),
        }
    }
    Some(sources)
}

fn algorithms(section: &Section<'_>) -> Option<Vec<Algorithm>> {
    if section.key_span(&keys::ALGORITHMS).is_none() {
        section.missing(&keys::ALGORITHMS);
    }
    let texts = section.texts(&keys::ALGORITHMS, ALGORITHMS_MAX)?;
    if section.is_empty_list(&keys::ALGORITHMS) {
        section
            .diagnostics
            .push(Diagnostic::error(texts.span, "no token could be verified").label("the list is empty"));
        return None;
    }
    let mut found = Vec::new();
    for text in &texts.value {
        if let Some(algorithm) = key::algorithm(&text.value) {
            found.push(algorithm);
            continue;
        }
        section.diagnostics.push(
            Diagnostic::error(text.span.clone(), format!("unknown algorithm {}", quote(text)))
                .label("not an algorithm that tollgate verifies")
                .help(format!("expected one of {}", suggestion::list(&ALGORITHMS))),
        );
    }
    // RFC 8725 section 3.1: with both kinds, a public key could be mistaken for a shared secret.
    if found.iter().any(|one| is_shared(*one)) && !found.iter().all(|one| is_shared(*one)) {
        section.diagnostics.push(
            Diagnostic::error(texts.span, "algorithms with a shared secret and with public keys cannot be mixed")
                .label("HS* with others")
                .help("make two [auth] sections, each with keys of its own"),
        );
        return None;
    }
    (found.len() == texts.value.len()).then_some(found)
}

fn issuer(section: &Section<'_>) -> Parsed<Option<String>> {
    if section.key_span(&keys::ISSUER).is_none() {
        warn(section, "`issuer` is not checked", "a token of any issuer that has the key is accepted");
        return Some(None);
    }
    let text = section.text(&keys::ISSUER)?;
    if text.is_empty() {
        section
            .diagnostics
            .push(Diagnostic::error(text.span, "`issuer` is empty").label("no token has an empty issuer"));
        return None;
    }
    Some(Some(text.value))
}

fn audience(section: &Section<'_>) -> Option<Vec<String>> {
    if section.key_span(&keys::AUDIENCE).is_none() {
        warn(section, "`audience` is not checked", "a token that was issued for another service is accepted");
        return Some(Vec::new());
    }
    let texts = section.texts(&keys::AUDIENCE, AUDIENCES_MAX)?;
    if texts.value.is_empty() || texts.value.iter().any(|text| text.is_empty()) {
        section.diagnostics.push(
            Diagnostic::error(texts.span, "`audience` is empty")
                .label("leave the key out to accept tokens for any audience"),
        );
        return None;
    }
    Some(texts.value.into_iter().map(|text| text.value).collect())
}

fn warn(section: &Section<'_>, what: &str, label: &str) {
    let message = format!("{what} in {}", section.title());
    section
        .diagnostics
        .push(Diagnostic::warning(section.span(), message).label(label).help("see RFC 8725 sections 3.8 and 3.9"));
}
