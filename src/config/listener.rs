//! Reads the `[[listener]]` sections.

use std::time::SystemTime;

use super::acme::{self, Acme};
use super::behind_proxy::note_unmatched;
use super::certificate;
use super::common::{self, Duplicates};
use super::diagnostic::{Diagnostic, Span, quote};
use super::file::{Located, Section};
use super::files::{self, FileLoader};
use super::keys::{self, Key};
use super::model::{ListenAddress, ListenerConfig, ListenerTls, Redirect, TlsMinVersion};
use super::networks::peers;

/// Maximum numbers of listeners, and of certificates per listener.
const LISTENERS_MAX: usize = 64;
const CERTIFICATES_MAX: usize = 64;

/// Maximum length of the name of an inherited socket, as in systemd.
const SOCKET_NAME_MAX: usize = 255;

/// Reads every listener, in the order of the file. Each has the span of its address.
pub(super) fn read_all(
    root: &Section<'_>,
    folder: &FileLoader<'_>,
    acmes: &[Acme<'_>],
) -> Option<Vec<Located<ListenerConfig>>> {
    let sections = root.children("listener", "listener", LISTENERS_MAX);
    if root.lacks("listener") {
        root.diagnostics.push(Diagnostic::of_file("there is no listener").help("add a [[listener]] section"));
    }
    let mut seen = Duplicates::default();
    let read: Vec<_> = sections.iter().map(|section| listener(section, folder, acmes, &mut seen)).collect();
    let listeners = read.into_iter().collect::<Option<Vec<_>>>()?;
    note_invalid_certificates(root, &listeners, folder.files.now());
    Some(listeners)
}

/// Reports an error if no certificate is valid now. A single expired certificate must not affect the clients of the
/// others.
fn note_invalid_certificates(root: &Section<'_>, listeners: &[Located<ListenerConfig>], now: SystemTime) {
    let mut certificates = listeners.iter().flat_map(|listener| listener.certificates()).peekable();
    if files::can_be_right(now)
        && listeners.iter().all(|listener| listener.tls.as_ref().is_some_and(|tls| tls.acme.is_none()))
        && certificates.peek().is_some()
        && certificates.all(|certificate| !certificate.is_valid(now))
    {
        root.diagnostics.push(
            Diagnostic::of_file("no certificate is valid now, so no client could connect")
                .help("renew the certificates, and check the clock of this machine"),
        );
    }
}

fn listener(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    acmes: &[Acme<'_>],
    seen: &mut Duplicates<ListenAddress>,
) -> Option<Located<ListenerConfig>> {
    let address = address(section);
    let is_unix = address.as_ref().and_then(|address| match address.value {
        ListenAddress::Unix(_) => Some(true),
        ListenAddress::Tcp(_) => Some(false),
        ListenAddress::Inherited(_) => None,
    });
    let is_inherited = address.as_ref().is_some_and(|address| matches!(address.value, ListenAddress::Inherited(_)));
    let socket_group = common::socket_group(section, &keys::SOCKET_GROUP, is_unix.or(is_inherited.then_some(false)));
    let has_tls = section.flag(&keys::TLS);
    let insecure = section.flag(&keys::INSECURE);
    let tls = match has_tls.as_ref().map(|tls| tls.value) {
        Some(true) => tls(section, folder, acmes).map(Some),
        Some(false) => plain(section).map(|()| None),
        None => None,
    };
    let proxy_protocol_from = peers(section, &keys::PROXY_PROTOCOL_FROM);
    let trusted_proxies = peers(section, &keys::TRUSTED_PROXIES);
    let handshake_timeout = section.duration(&keys::HANDSHAKE_TIMEOUT);
    let head_max_bytes = section.size_or_off(&keys::HEAD_MAX_SIZE);
    let head_max_headers = section.integer(&keys::HEAD_MAX_HEADERS);
    let keep_alive_timeout = section.duration(&keys::KEEP_ALIVE_TIMEOUT);
    let body_timeout = section.duration(&keys::BODY_TIMEOUT);
    let requests_per_connection = section.count(&keys::REQUESTS_PER_CONNECTION);
    let redirect = section.choice(&keys::REDIRECT, &[("off", Redirect::Off), ("https", Redirect::Https)]);

    let (address, has_tls, insecure, redirect) = (address?, has_tls?, insecure?, redirect?);
    // With port 0 every listener gets a port of its own.
    if !matches!(address.value, ListenAddress::Tcp(bound) if bound.port() == 0) {
        seen.note(section, &address, "address", &address.to_string());
    }
    note_insecure(section, &address, &has_tls, &insecure, &redirect);
    let (proxy_protocol_from, trusted_proxies) = (proxy_protocol_from?, trusted_proxies?);
    note_unmatched(section, &address, &proxy_protocol_from, &trusted_proxies);
    let listener = ListenerConfig {
        address: address.value,
        socket_group: socket_group?,
        tls: tls?,
        insecure: insecure.value,
        proxy_protocol_from,
        trusted_proxies,
        handshake_timeout: handshake_timeout?,
        head_max_bytes: usize::try_from(head_max_bytes?.value?).ok()?,
        head_max_headers: usize::try_from(head_max_headers?.value).ok()?,
        keep_alive_timeout: keep_alive_timeout?,
        body_timeout: body_timeout?,
        requests_per_connection: requests_per_connection?.value,
        redirect: redirect.value,
    };
    Some(Located { value: listener, span: address.span })
}

fn tls(section: &Section<'_>, folder: &FileLoader<'_>, acmes: &[Acme<'_>]) -> Option<ListenerTls> {
    let acme = acme::of_listener(section, acmes);
    let has_acme = section.key_span(&keys::LISTENER_ACME).is_some();
    let entries = section.children("certificates", "listener.certificates", CERTIFICATES_MAX);
    match section.key_span(&keys::CERTIFICATES) {
        None if has_acme => {}
        None => section.missing(&keys::CERTIFICATES),
        Some(span) if has_acme => {
            let message = "a listener has either `certificates` or `acme`";
            section.diagnostics.push(Diagnostic::error(span, message).label("`acme` is set as well"));
        }
        Some(span) if section.is_empty_list(&keys::CERTIFICATES) => {
            section
                .diagnostics
                .push(Diagnostic::error(span, "a listener needs a certificate").label("the list is empty"));
        }
        Some(_) => {}
    }
    let certificates: Vec<_> = entries.iter().map(|entry| certificate::read(entry, folder)).collect();
    let versions = [("1.2", TlsMinVersion::Tls12), ("1.3", TlsMinVersion::Tls13)];
    let min_version = section.choice(&keys::TLS_MIN_VERSION, &versions);
    Some(ListenerTls {
        certificates: certificates.into_iter().collect::<Option<_>>()?,
        acme: acme?,
        min_version: min_version?.value,
    })
}

/// Reports the keys that a plain listener cannot have.
fn plain(section: &Section<'_>) -> Option<()> {
    let note = |key: &Key| {
        let span = section.key_span(key)?;
        let message = format!("`{}` needs TLS", key.name);
        section.diagnostics.push(Diagnostic::error(span, message).label("this listener has tls = false"));
        Some(())
    };
    let found = [note(&keys::CERTIFICATES), note(&keys::LISTENER_ACME), note(&keys::TLS_MIN_VERSION)];
    found.iter().all(Option::is_none).then_some(())
}

/// Reports a plain listener that other machines can reach over a public network, unless it only redirects, and
/// `insecure` and `redirect` without effect.
fn note_insecure(
    section: &Section<'_>,
    address: &Located<ListenAddress>,
    tls: &Located<bool>,
    insecure: &Located<bool>,
    redirect: &Located<Redirect>,
) {
    let redirects = redirect.value == Redirect::Https;
    if tls.value && redirects {
        section.diagnostics.push(
            Diagnostic::error(redirect.span.clone(), "`redirect` has no effect on a listener with TLS")
                .label("only a listener with tls = false can have it"),
        );
    }
    if tls.value && insecure.value {
        section.diagnostics.push(
            Diagnostic::error(insecure.span.clone(), "`insecure` has no effect on a listener with TLS")
                .label("only a listener with tls = false can have it"),
        );
    }
    if !tls.value && !insecure.value && !redirects && address.is_private() == Some(false) {
        section.diagnostics.push(
            Diagnostic::error(address.span.clone(), "a plain listener on an address that is not private")
                .label("tokens, cookies and messages would cross the network unencrypted")
                .help("use a loopback or private address or a Unix socket, set `redirect = \"https\"`, or permit it with `insecure = true`"),
        );
    }
}

fn address(section: &Section<'_>) -> Option<Located<ListenAddress>> {
    let text = section.text(&keys::ADDRESS)?;
    if let Ok(address) = text.parse() {
        return Some(Located { value: ListenAddress::Tcp(address), span: text.span });
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return Some(Located { value: inherited(section, name, &text.span)?, span: text.span });
    }
    let diagnostic = Diagnostic::error(text.span.clone(), format!("{} is not an address to listen on", quote(&text)));
    if let Some(path) = text.strip_prefix("unix:") {
        return match common::unix_path(path) {
            Ok(path) => Some(Located { value: ListenAddress::Unix(path), span: text.span }),
            Err((label, help)) => {
                section.diagnostics.push(diagnostic.label(label).help(help));
                None
            }
        };
    }
    let diagnostic = diagnostic.label("expected an IP address and a port");
    section.diagnostics.push(if let Some(port) = text.strip_prefix(':') {
        diagnostic.help(format!("for every address of this machine write \"[::]:{port}\" or \"0.0.0.0:{port}\""))
    } else {
        diagnostic.help("write it as in \"0.0.0.0:443\", \"[::]:443\" or \"unix:/run/tollgate/http.sock\"")
    });
    None
}

/// Checks the name of an inherited socket by the rule of systemd for `FileDescriptorName=`.
fn inherited(section: &Section<'_>, name: &str, span: &Span) -> Option<ListenAddress> {
    let valid = |byte: u8| byte.is_ascii_graphic() && byte != b':';
    if (1..=SOCKET_NAME_MAX).contains(&name.len()) && name.bytes().all(valid) {
        return Some(ListenAddress::Inherited(name.into()));
    }
    section.diagnostics.push(
        Diagnostic::error(span.clone(), format!("{} cannot be the name of an inherited socket", quote(name)))
            .label("expected the FileDescriptorName= of a socket unit")
            .help(format!("a name has 1 to {SOCKET_NAME_MAX} ASCII characters, and no space or colon")),
    );
    None
}
