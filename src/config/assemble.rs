//! Assembles a [`Config`] from the sections of a file; reads the sections of the process, the log and the listeners
//! itself.

use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use x509_cert::der::DateTime;

use super::common::Duplicates;
use super::diagnostic::{Diagnostic, Report, Severity, Span, quote};
use super::file::{Located, Parsed, Section};
use super::files::{self, FileLoader};
use super::model::{
    Config, ListenAddress, ListenerConfig, LogConfig, LogFormat, MaxSessions, OnReload, ProcessConfig, RecordLayer,
    Shown, Source,
};
use super::{admin, auth, certificate, keys, limits, routes, upstreams};
use crate::policy::quota::Quota;

/// Maximum numbers of listeners, and of certificates per listener.
const LISTENERS_MAX: usize = 64;
const CERTIFICATES_MAX: usize = 64;

/// Maximum length of the name of an inherited socket, as in systemd.
const SOCKET_NAME_MAX: usize = 255;

/// The default of `handshakes_per_address` is `max_handshakes` divided by this, but at least [`ADDRESS_SHARE_MIN`].
const ADDRESS_SHARE: u32 = 16;
const ADDRESS_SHARE_MIN: u32 = 16;

/// Reads the whole configuration. `None` means that an error was reported, or that a credential was left unchecked.
pub(super) fn read(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Config> {
    warn_of_clock(root, folder.files.now());
    let server = server(&root.child("server"));
    let log = log(&root.child("log"));
    let admin = admin::read(root, folder);
    let metrics = admin::metrics(root);
    let listeners = listeners(root, folder);
    let head_max_bytes = listeners.iter().flatten().map(|listener: &ListenerConfig| listener.head_max_bytes).max();
    let auths = auth::read_all(root, folder, head_max_bytes);
    let upstreams = upstreams::read_all(root);
    let routes = routes::read_all(root, &auths, &upstreams);

    Some(Config {
        server: server?,
        log: log?,
        admin: admin?,
        metrics: metrics?,
        listeners: listeners?,
        routes: routes?,
        auths: auths.into_iter().filter_map(|named| named.value.into_config()).collect(),
        upstreams: upstreams.into_iter().map(|named| named.value).collect::<Option<_>>()?,
        warnings: Report::new(Path::new(""), "", Vec::new()),
        source: Source::default(),
    })
}

fn warn_of_clock(root: &Section<'_>, now: SystemTime) {
    if files::can_be_right(now) {
        return;
    }
    let date = DateTime::from_system_time(now).map_or("before 1970".to_owned(), |date| format!("at {date}"));
    let message = format!("the clock of this machine is {date}, earlier than this version of tollgate");
    let help = "until it is set, every token is rejected as expired, and the validity of certificates is not checked";
    root.diagnostics.push(Diagnostic { severity: Severity::Warning, ..Diagnostic::of_file(message).help(help) });
}

fn server(section: &Section<'_>) -> Option<ProcessConfig> {
    let workers = section.integer(&keys::WORKERS);
    let max_sessions = section.integer(&keys::MAX_SESSIONS);
    let explicit = section.key_span(&keys::MAX_SESSIONS).is_some();
    let max_handshakes = section.integer(&keys::MAX_HANDSHAKES);
    let handshakes_per_address = handshakes_per_address(section, max_handshakes.as_deref().copied());
    let memory_max = section.size_or_off(&keys::MEMORY_MAX);
    let upgrade_quota = upgrade_quota(section);
    let shutdown_delay = section.duration(&keys::SHUTDOWN_DELAY);
    let drain_timeout = section.duration(&keys::DRAIN_TIMEOUT);
    let host_fall_through = section.flag(&keys::HOST_FALL_THROUGH);
    let on_reload = section.choice(&keys::ON_RELOAD, &[("recheck", OnReload::Recheck), ("keep", OnReload::Keep)]);
    let recheck_max = section.percent_or_off(&keys::RECHECK_MAX);
    let recheck_rate = section.rate(&keys::RECHECK_RATE);
    let layers = [("own", RecordLayer::Own), ("rustls", RecordLayer::Rustls)];
    let record_layer = section.choice(&keys::RECORD_LAYER, &layers);

    // If the number of cores is unknown, there is one worker.
    let workers = NonZeroUsize::new(usize::try_from(workers?.value).ok()?)
        .unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    Some(ProcessConfig {
        workers,
        max_sessions: MaxSessions { count: max_sessions?.value, explicit },
        max_handshakes: max_handshakes?.value,
        handshakes_per_address: handshakes_per_address?,
        memory_max_bytes: memory_max?.value,
        upgrade_quota: upgrade_quota?,
        shutdown_delay: shutdown_delay?,
        drain_timeout: drain_timeout?,
        on_reload: on_reload?.value,
        recheck_max_percent: recheck_max?.value,
        recheck_rate: recheck_rate?,
        host_fall_through: host_fall_through?.value,
        record_layer: record_layer?.value,
    })
}

fn handshakes_per_address(section: &Section<'_>, max_handshakes: Option<u32>) -> Parsed<Option<NonZeroU32>> {
    if section.key_span(&keys::HANDSHAKES_PER_ADDRESS).is_some() {
        return section.count_or_off(&keys::HANDSHAKES_PER_ADDRESS).map(|count| count.value);
    }
    let share = (max_handshakes? / ADDRESS_SHARE).max(ADDRESS_SHARE_MIN);
    NonZeroU32::new(share).map(Some)
}

fn upgrade_quota(section: &Section<'_>) -> Parsed<Option<Quota>> {
    let rate = section.rate_or_off(&keys::UPGRADE_RATE)?;
    limits::quota(section, &rate, &keys::UPGRADE_BURST, &keys::UPGRADE_RATE)
}

fn log(section: &Section<'_>) -> Option<LogConfig> {
    let format = section.choice(&keys::FORMAT, &[("json", LogFormat::Json), ("text", LogFormat::Text)]);
    let levels = [
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let level = section.choice(&keys::LEVEL, &levels);
    let session_start = section.choice(&keys::SESSION_START, &levels);
    let forms = [("plain", Shown::Plain), ("hash", Shown::Hash), ("omit", Shown::Omit)];
    let subject = section.choice(&keys::LOG_SUBJECT, &forms);
    let address = section.choice(&keys::LOG_ADDRESS, &forms);
    let slow_upgrade = section.duration_or_off(&keys::SLOW_UPGRADE);
    Some(LogConfig {
        format: format?.value,
        level: level?.value,
        session_start: session_start?.value,
        subject: subject?.value,
        address: address?.value,
        slow_upgrade: slow_upgrade?.value,
    })
}

fn listeners(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Vec<ListenerConfig>> {
    let sections = root.children("listener", "listener", LISTENERS_MAX);
    if root.lacks("listener") {
        root.diagnostics.push(Diagnostic::of_file("there is no listener").help("add a [[listener]] section"));
    }
    let mut seen = Duplicates::default();
    let read: Vec<Option<ListenerConfig>> =
        sections.iter().map(|section| listener(section, folder, &mut seen)).collect();
    let listeners: Vec<ListenerConfig> = read.into_iter().collect::<Option<_>>()?;
    note_invalid_certificates(root, &listeners, folder.files.now());
    Some(listeners)
}

/// Reports an error if no certificate is valid now. A single expired certificate must not affect the clients of the
/// others.
fn note_invalid_certificates(root: &Section<'_>, listeners: &[ListenerConfig], now: SystemTime) {
    let mut certificates = listeners.iter().flat_map(|listener| &listener.certificates).peekable();
    if files::can_be_right(now)
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
    seen: &mut Duplicates<ListenAddress>,
) -> Option<ListenerConfig> {
    let address = address(section);
    let entries = section.children("certificates", "listener.certificates", CERTIFICATES_MAX);
    match section.key_span(&keys::CERTIFICATES) {
        None => section.missing(&keys::CERTIFICATES),
        Some(span) if section.is_empty_list(&keys::CERTIFICATES) => {
            section
                .diagnostics
                .push(Diagnostic::error(span, "a listener needs a certificate").label("the list is empty"));
        }
        Some(_) => {}
    }
    let certificates: Vec<_> = entries.iter().map(|entry| certificate::read(entry, folder)).collect();
    let handshake_timeout = section.duration(&keys::HANDSHAKE_TIMEOUT);
    let head_max_bytes = section.size_or_off(&keys::HEAD_MAX_SIZE);
    let head_max_headers = section.integer(&keys::HEAD_MAX_HEADERS);

    let address = address?;
    // With port 0 every listener gets a port of its own.
    if !matches!(address.value, ListenAddress::Tcp(bound) if bound.port() == 0) {
        seen.note(section, &address, "address", &address.to_string());
    }
    Some(ListenerConfig {
        address: address.value,
        certificates: certificates.into_iter().collect::<Option<_>>()?,
        handshake_timeout: handshake_timeout?,
        head_max_bytes: usize::try_from(head_max_bytes?.value?).ok()?,
        head_max_headers: usize::try_from(head_max_headers?.value).ok()?,
    })
}

fn address(section: &Section<'_>) -> Option<Located<ListenAddress>> {
    let text = section.text(&keys::ADDRESS)?;
    if let Ok(address) = text.parse() {
        return Some(Located { value: ListenAddress::Tcp(address), span: text.span });
    }
    if let Some(name) = text.strip_prefix("systemd:") {
        return Some(Located { value: inherited(section, name, &text.span)?, span: text.span });
    }
    let diagnostic = Diagnostic::error(text.span.clone(), format!("{} is not an address to listen on", quote(&text)))
        .label("expected an IP address and a port");
    section.diagnostics.push(if let Some(port) = text.strip_prefix(':') {
        diagnostic.help(format!("for every address of this machine write \"[::]:{port}\" or \"0.0.0.0:{port}\""))
    } else {
        diagnostic.help("write it as in \"0.0.0.0:443\" or \"[::]:443\"")
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
