//! Reads the `[acme.NAME]` sections, and the names that each gets certificates for.

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;

use base64::Engine as _;
use base64::alphabet::URL_SAFE;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use zeroize::Zeroizing;

use super::common::{self, Duplicates};
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Parsed, Section};
use super::files::FileLoader;
use super::key_source::roots;
use super::keys::{self, Key};
use crate::policy::host::HostPattern;
use crate::policy::remote::{HttpUrl, Roots};

/// Maximum numbers of sections, and of addresses in `contact`.
const SECTIONS_MAX: usize = 16;
const CONTACTS_MAX: usize = 8;
/// Maximum number of names of a section. Each has a certificate of its own, and they are ordered one after another.
const NAMES_MAX: usize = 100;
/// Maximum length of a name, which is the name of a file as well.
const NAME_MAX_BYTES: usize = 230;
/// Maximum length of `eab_key_id`, and the lengths of a MAC key.
const KEY_ID_MAX_BYTES: usize = 512;
const KEY_BYTES: std::ops::RangeInclusive<usize> = 16..=512;

/// How the MAC keys of accounts are written (RFC 8555 section 7.3.4), with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// An `[acme.NAME]` section that a listener uses: where and for which names it gets certificates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcmeConfig {
    /// Its name.
    pub name: Arc<str>,
    /// The URL of the directory.
    pub directory: HttpUrl,
    /// The addresses of the operator, as URLs with the scheme `mailto`.
    pub contact: Vec<String>,
    /// The host names, in lower case, each once: at least one. Each gets a certificate of its own.
    pub names: Vec<Arc<str>>,
    /// The roots of the certificate of the directory.
    pub roots: Roots,
    /// The account at the certificate authority that the ACME account is bound to.
    pub external: Option<ExternalAccount>,
}

/// An account at a certificate authority that an ACME account is bound to (RFC 8555 section 7.3.4). `Debug` does not
/// show the key.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalAccount {
    /// The key identifier.
    pub key_id: String,
    /// The MAC key.
    pub key: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for ExternalAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExternalAccount").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A section as listeners use it.
pub(super) struct Acme<'a> {
    name: String,
    section: Section<'a>,
    /// Its configuration without names; `None` after an error in the section, which was reported.
    config: Option<AcmeConfig>,
    /// The names of `domains`; `None` after an error.
    domains: Option<Vec<Arc<str>>>,
    /// The value of `acme` of the first listener that uses it.
    used: Cell<Option<(usize, usize)>>,
}

/// Reads every section, in the order of the file.
pub(super) fn read_all<'a>(root: &Section<'a>, folder: &FileLoader<'_>) -> Vec<Acme<'a>> {
    let sections = root.named("acme", SECTIONS_MAX);
    let read = |(name, section): (Located<&str>, Section<'a>)| {
        let (config, domains) = (read(&name, &section, folder), domains(&section));
        Acme { name: name.value.to_owned(), section, config, domains, used: Cell::new(None) }
    };
    sections.into_iter().map(read).collect()
}

/// Reads the section that a listener names.
pub(super) fn of_listener(listener: &Section<'_>, acmes: &[Acme<'_>]) -> Parsed<Option<Arc<str>>> {
    if listener.key_span(&keys::LISTENER_ACME).is_none() {
        return Some(None);
    }
    let text = listener.text(&keys::LISTENER_ACME)?;
    let Some(acme) = acmes.iter().find(|acme| acme.name == *text) else {
        let known: Vec<&str> = acmes.iter().map(|acme| acme.name.as_str()).collect();
        common::note_unknown(listener, &text, "acme", &known);
        return None;
    };
    if acme.used.get().is_none() {
        acme.used.set(Some((text.span.start, text.span.end)));
    }
    Some(Some(text.value.as_str().into()))
}

/// Returns the sections that listeners use, with their names. `state_dir` is whether there is one.
pub(super) fn finish(
    root: &Section<'_>,
    folder: &FileLoader<'_>,
    acmes: Vec<Acme<'_>>,
    state_dir: Option<bool>,
) -> Option<Vec<Arc<AcmeConfig>>> {
    let mut finished = Some(Vec::new());
    for acme in acmes {
        let Some((start, end)) = acme.used.get() else {
            // Its errors were reported.
            if acme.config.is_none() || acme.domains.is_none() {
                finished = None;
            }
            continue;
        };
        if state_dir == Some(false) {
            // `check` outside of the unit does not know $STATE_DIRECTORY.
            let is_known = folder.files.needs_credentials();
            let diagnostic = if is_known { Diagnostic::error } else { Diagnostic::warning };
            root.diagnostics.push(
                diagnostic(start..end, "`acme` needs `state_dir`")
                    .label("accounts and certificates are stored there")
                    .help("set `state_dir` in [server], or StateDirectory= in the systemd unit"),
            );
            if is_known {
                finished = None;
            }
        }
        let names = match acme.domains {
            Some(domains) if domains.is_empty() => of_routes(root, &acme.section),
            domains => domains,
        };
        let config = acme.config.zip(names).map(|(config, names)| Arc::new(AcmeConfig { names, ..config }));
        finished = finished.zip(config).map(|(mut all, config)| {
            all.push(config);
            all
        });
    }
    finished
}

fn read(name: &Located<&str>, section: &Section<'_>, folder: &FileLoader<'_>) -> Option<AcmeConfig> {
    let valid_name = common::name(section, name, &name.span);
    let directory = directory(section);
    let contact = contact(section);
    let accepts = accepts_terms(section);
    let roots = roots(section, folder, &keys::ACME_CA);
    let external = external(section, folder);
    valid_name?;
    accepts?;
    Some(AcmeConfig {
        name: name.value.into(),
        directory: directory?,
        contact: contact?,
        names: Vec::new(),
        roots: roots?,
        external: external?,
    })
}

fn directory(section: &Section<'_>) -> Option<HttpUrl> {
    let text = section.text(&keys::ACME_DIRECTORY)?;
    let note = |error: crate::policy::remote::UrlError| {
        let message = format!("{} is not the URL of a directory", quote(&text));
        section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(error.to_string()));
    };
    HttpUrl::parse(&text).map_err(note).ok()
}

fn contact(section: &Section<'_>) -> Option<Vec<String>> {
    let contacts = section.texts(&keys::ACME_CONTACT, CONTACTS_MAX)?.value.into_iter().map(|text| {
        let address = text.strip_prefix("mailto:").unwrap_or_default();
        let is_address = address.contains('@') && address.bytes().all(|byte| byte.is_ascii_graphic() && byte != b',');
        if !is_address {
            let message = format!("{} is not a contact", quote(&text));
            let label = "expected one mail address, as in \"mailto:ops@example.com\"";
            section.diagnostics.push(Diagnostic::error(text.span.clone(), message).label(label));
        }
        is_address.then_some(text.value)
    });
    // Each is checked before an error ends the reading.
    contacts.collect::<Vec<_>>().into_iter().collect()
}

fn accepts_terms(section: &Section<'_>) -> Option<()> {
    let accepts = section.flag(&keys::ACME_ACCEPT_TERMS)?;
    if accepts.value {
        return Some(());
    }
    section.diagnostics.push(
        Diagnostic::error(accepts.span, "the terms of service are not accepted")
            .label("it has to be `accept_terms = true`")
            .help("the directory of the certificate authority names its terms in `meta`.`termsOfService`"),
    );
    None
}

#[expect(clippy::option_option, reason = "an error and absent keys are different")]
fn external(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<Option<ExternalAccount>> {
    let note = |span: Span, key: &Key, needs: &Key| {
        let message = format!("`{}` needs `{}`", key.name, needs.name);
        section.diagnostics.push(Diagnostic::error(span, message).label("the two belong together"));
        None
    };
    let (id, file) = (&keys::ACME_EAB_KEY_ID, &keys::ACME_EAB_KEY_FILE);
    let (key_id, content) = (section.text(id), section.key_span(file).map(|_| folder.read_secret(section, file)));
    let (key_id, content) = match (section.key_span(id), section.key_span(file)) {
        (None, None) => return Some(None),
        (Some(span), None) => return note(span, id, file),
        (None, Some(span)) => return note(span, file, id),
        (Some(_), Some(_)) => (key_id?, content??),
    };
    let is_id = (1..=KEY_ID_MAX_BYTES).contains(&key_id.len()) && key_id.bytes().all(|byte| byte.is_ascii_graphic());
    if !is_id {
        let message = format!("{} is not a key identifier", quote(&key_id));
        let label = format!("expected 1 to {KEY_ID_MAX_BYTES} visible ASCII characters");
        section.diagnostics.push(Diagnostic::error(key_id.span, message).label(label));
        return None;
    }
    let key = BASE64.decode(content.bytes.trim_ascii()).map(Zeroizing::new).ok();
    let Some(key) = key.filter(|key| KEY_BYTES.contains(&key.len())) else {
        let label = format!("expected {} to {} bytes in base64url", KEY_BYTES.start(), KEY_BYTES.end());
        let message = "the file of `eab_key_file` cannot be used";
        section.diagnostics.push(Diagnostic::error(content.span, message).label(label));
        return None;
    };
    Some(Some(ExternalAccount { key_id: key_id.value, key }))
}

fn domains(section: &Section<'_>) -> Option<Vec<Arc<str>>> {
    let texts = section.texts(&keys::ACME_DOMAINS, NAMES_MAX)?.value;
    let mut seen = Duplicates::default();
    let names = texts.into_iter().map(|text| {
        let name = text.parse::<HostPattern>().map_err(|error| error.to_string()).and_then(|host| certifiable(&host));
        match name {
            Ok(name) => {
                let name = Located { value: name, span: text.span };
                seen.note(section, &name, "name", &text.value);
                Some(name.value)
            }
            Err(label) => {
                let message = format!("{} cannot get a certificate", quote(&text));
                section.diagnostics.push(Diagnostic::error(text.span, message).label(label));
                None
            }
        }
    });
    names.collect::<Vec<_>>().into_iter().collect()
}

/// Returns the hosts of all routes, each once. Reports those that cannot get a certificate.
fn of_routes(root: &Section<'_>, acme: &Section<'_>) -> Option<Vec<Arc<str>>> {
    let (mut names, mut is_valid): (Vec<Arc<str>>, bool) = (Vec::new(), true);
    let mut report = |span: Span, message: String, label: String| {
        is_valid = false;
        let help = format!("list the names: `domains` in {}", acme.title());
        root.diagnostics.push(Diagnostic::error(span, message).label(label).help(help));
    };
    for (header, host) in route_hosts(root) {
        let Some((span, text)) = host else {
            let message = format!("{} cannot tell for which names it gets certificates", acme.title());
            report(header, message, "this route serves every host".to_owned());
            continue;
        };
        // A host that cannot be parsed was reported by the reader of routes.
        let Ok(pattern) = text.parse::<HostPattern>() else { continue };
        match certifiable(&pattern) {
            Ok(name) if names.contains(&name) => {}
            Ok(name) => names.push(name),
            Err(label) => report(span, format!("{} cannot get a certificate", quote(&text)), label),
        }
    }
    if names.len() > NAMES_MAX {
        let label = format!("the routes have {} hosts; the maximum is {NAMES_MAX}", names.len());
        report(acme.span(), format!("too many names for {}", acme.title()), label);
    }
    (is_valid && !names.is_empty()).then_some(names)
}

type RouteHost = (Span, Option<(Span, String)>);

/// Returns the place of each route, and its host. Errors in routes were reported by their reader.
fn route_hosts(root: &Section<'_>) -> Vec<RouteHost> {
    let Some(routes) = root.raw("route").and_then(|(_, routes)| routes.as_array()) else { return Vec::new() };
    let tables = routes.iter().filter_map(|route| Some((route.span(), route.get_ref().as_table()?)));
    let hosts = tables.map(|(header, route)| {
        let host = route.get(keys::HOST.name);
        (header, host.map(|host| (host.span(), host.get_ref().as_str().unwrap_or_default().to_owned())))
    });
    hosts.collect()
}

/// Returns the name of a host for which the challenges of RFC 8555 section 8.3 and of RFC 8737 can be answered.
fn certifiable(host: &HostPattern) -> Result<Arc<str>, String> {
    let HostPattern::Exact(name) = host else {
        return Err("a wildcard certificate needs a challenge by DNS, which Tollgate cannot answer".to_owned());
    };
    if name.starts_with('[') || name.parse::<std::net::Ipv4Addr>().is_ok() {
        return Err("an address cannot get a certificate by these challenges".to_owned());
    }
    if name.len() > NAME_MAX_BYTES {
        return Err(format!("the name is longer than {NAME_MAX_BYTES} bytes"));
    }
    if name.contains('_') {
        return Err("a host name in a certificate has no `_` (RFC 5280 section 4.2.1.6)".to_owned());
    }
    Ok(Arc::from(&**name))
}
