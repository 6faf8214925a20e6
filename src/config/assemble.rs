//! From the sections of a file to a [`Config`]: the process, its log, its listeners, and what the parts are to each other.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::thread;
use std::time::SystemTime;

use x509_cert::der::DateTime;

use super::common::Duplicates;
use super::diagnostic::{Diagnostic, Report, Severity, quote};
use super::file::{Located, Parsed, Section};
use super::files::{self, FileLoader};
use super::model::{Config, ListenerConfig, LogConfig, LogFormat, MaxSessions, ProcessConfig, RecordLayer, Shown};
use super::{auth, certificate, keys, limits, routes, upstreams};
use crate::policy::quota::Quota;

/// Bounds on how often something may stand in a file.
const LISTENERS_MAX: usize = 64;
const CERTIFICATES_MAX: usize = 64;

/// Which part of `max_handshakes` one address has by default, and at least how many.
const ADDRESS_SHARE: u32 = 16;
const ADDRESS_SHARE_MIN: u32 = 16;

/// Reads everything; `None` means that at least one fault was noted.
pub(super) fn read(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Config> {
    warn_of_clock(root, folder.files.now());
    let server = server(&root.child("server"));
    let log = log(&root.child("log"));
    let listeners = listeners(root, folder);
    let head_max_bytes = listeners.iter().flatten().map(|listener: &ListenerConfig| listener.head_max_bytes).max();
    let auths = auth::read_all(root, folder, head_max_bytes);
    let upstreams = upstreams::read_all(root);
    let routes = routes::read_all(root, &auths, &upstreams);

    Some(Config {
        server: server?,
        log: log?,
        listeners: listeners?,
        routes: routes?,
        upstreams: upstreams.into_iter().map(|named| named.value).collect::<Option<_>>()?,
        warnings: Report::new(Path::new(""), "", Vec::new()),
    })
}

fn warn_of_clock(root: &Section<'_>, now: SystemTime) {
    if files::can_be_right(now) {
        return;
    }
    let date = DateTime::from_system_time(now).map_or("before 1970".to_owned(), |date| format!("at {date}"));
    let message = format!("the clock of this machine is {date}, before this version of tollgate was made");
    let help = "until it is set every token is refused as expired, and certificates are not held against it";
    root.diagnostics.push(Diagnostic { severity: Severity::Warning, ..Diagnostic::of_file(message).help(help) });
}

fn server(section: &Section<'_>) -> Option<ProcessConfig> {
    let workers = section.integer(&keys::WORKERS);
    let max_sessions = section.integer(&keys::MAX_SESSIONS);
    let explicit = section.key_span(&keys::MAX_SESSIONS).is_some();
    let max_handshakes = section.integer(&keys::MAX_HANDSHAKES);
    let handshakes_per_address = handshakes_per_address(section, max_handshakes.as_deref().copied());
    let upgrade_quota = upgrade_quota(section);
    let drain_timeout = section.duration(&keys::DRAIN_TIMEOUT);
    let host_fall_through = section.flag(&keys::HOST_FALL_THROUGH);
    let layers = [("own", RecordLayer::Own), ("rustls", RecordLayer::Rustls)];
    let record_layer = section.choice(&keys::RECORD_LAYER, &layers);

    // Where the number of cores cannot be told there is still one.
    let workers = NonZeroUsize::new(usize::try_from(workers?.value).ok()?)
        .unwrap_or_else(|| thread::available_parallelism().unwrap_or(NonZeroUsize::MIN));
    Some(ProcessConfig {
        workers,
        max_sessions: MaxSessions { count: max_sessions?.value, explicit },
        max_handshakes: max_handshakes?.value,
        handshakes_per_address: handshakes_per_address?,
        upgrade_quota: upgrade_quota?,
        drain_timeout: drain_timeout?,
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
    Some(LogConfig {
        format: format?.value,
        level: level?.value,
        session_start: session_start?.value,
        subject: subject?.value,
        address: address?.value,
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

/// One certificate that has expired is no reason to refuse the clients of the others. If none is valid no client is served.
fn note_invalid_certificates(root: &Section<'_>, listeners: &[ListenerConfig], now: SystemTime) {
    let mut certificates = listeners.iter().flat_map(|listener| &listener.certificates).peekable();
    if files::can_be_right(now)
        && certificates.peek().is_some()
        && certificates.all(|certificate| !certificate.is_valid(now))
    {
        root.diagnostics.push(
            Diagnostic::of_file("no certificate is valid now, so that no client could connect")
                .help("renew them, and look at the clock of this machine"),
        );
    }
}

fn listener(
    section: &Section<'_>,
    folder: &FileLoader<'_>,
    seen: &mut Duplicates<SocketAddr>,
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
    // Port 0 is another port each time.
    if address.port() != 0 {
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

fn address(section: &Section<'_>) -> Option<Located<SocketAddr>> {
    let text = section.text(&keys::ADDRESS)?;
    if let Ok(address) = text.parse() {
        return Some(Located { value: address, span: text.span });
    }
    let diagnostic = Diagnostic::error(text.span.clone(), format!("{} is not an address to listen on", quote(&text)))
        .label("expected an IP address and a port");
    section.diagnostics.push(if text.starts_with("systemd:") {
        diagnostic.help("inherited sockets come in a later version: write the address and port themselves")
    } else if let Some(port) = text.strip_prefix(':') {
        diagnostic.help(format!("for every address of this machine write \"[::]:{port}\" or \"0.0.0.0:{port}\""))
    } else {
        diagnostic.help("write it as in \"0.0.0.0:443\" or \"[::]:443\"")
    });
    None
}
