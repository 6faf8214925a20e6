//! Assembles a [`Config`] from the sections of a file; reads the sections of the process and the log itself.

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::SystemTime;

use x509_cert::der::DateTime;

use super::behind_proxy::note_one_address;
use super::diagnostic::{Diagnostic, Report, Severity, quote};
use super::file::{Located, Parsed, Section};
use super::files::{self, FileLoader};
use super::model::{Config, LogConfig, LogFormat, MaxSessions, OnReload, ProcessConfig, RecordLayer, Shown, Source};
use super::{acme, admin, auth, cluster, keys, limits, listener, logout, revocations, routes, upstreams};
use crate::policy::quota::Quota;

/// The default of `handshakes_per_address` is `max_handshakes` divided by this, but at least [`ADDRESS_SHARE_MIN`].
const ADDRESS_SHARE: u32 = 16;
const ADDRESS_SHARE_MIN: u32 = 16;
/// Maximum number of name servers.
const RESOLVERS_MAX: usize = 4;

/// Reads the whole configuration. `None` means that an error was reported, or that a credential was left unchecked.
pub(super) fn read(root: &Section<'_>, folder: &FileLoader<'_>) -> Option<Config> {
    warn_of_clock(root, folder.files.now());
    let section = root.child("server");
    let server = server(&section, folder);
    let log = log(&root.child("log"));
    let admin = admin::read(root, folder);
    let metrics = admin::metrics(root);
    let cluster = cluster::read(root, folder);
    let acmes = acme::read_all(root, folder);
    let listeners = listener::read_all(root, folder, &acmes);
    let head_max_bytes = listeners.iter().flatten().map(|listener| listener.head_max_bytes).max();
    let auths = auth::read_all(root, folder, head_max_bytes);
    let auth_names: Vec<&str> = auths.iter().map(|auth| auth.name.as_str()).collect();
    let revocations = revocations::read(&section, folder, &auth_names);
    let upstreams = upstreams::read_all(root, folder);
    let routes = routes::read_all(root, folder, &auths, &upstreams);

    if let (Some(server), Some(listeners), Some(routes)) = (&server, &listeners, &routes) {
        note_one_address(root, listeners, routes, server.upgrade_quota);
    }
    let state_dir = server.as_ref().map(|server| server.state_dir.is_some());
    let acmes = acme::finish(root, folder, acmes, state_dir);
    let logouts = auths.iter().filter_map(|auth| Some((auth.value.name()?, auth.value.logout.as_ref()?)));
    Some(Config {
        server: server?,
        revocations: revocations?,
        log: log?,
        admin: admin?,
        metrics: metrics?,
        cluster: cluster?.map(Arc::new),
        listeners: listeners?.into_iter().map(|listener| listener.value).collect(),
        logouts: logout::rules(root, logouts, routes.as_deref())?,
        routes: routes?,
        acmes: acmes?,
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

fn server(section: &Section<'_>, folder: &FileLoader<'_>) -> Option<ProcessConfig> {
    let workers = section.integer(&keys::WORKERS);
    let max_sessions = section.integer(&keys::MAX_SESSIONS);
    let explicit = section.key_span(&keys::MAX_SESSIONS).is_some();
    let max_handshakes = section.integer(&keys::MAX_HANDSHAKES);
    let handshakes_per_address = handshakes_per_address(section, max_handshakes.as_deref().copied());
    let max_http_requests = section.count(&keys::MAX_HTTP_REQUESTS);
    let memory_max = section.size_or_off(&keys::MEMORY_MAX);
    let upgrade_quota = upgrade_quota(section);
    let shutdown_delay = section.duration(&keys::SHUTDOWN_DELAY);
    let drain_timeout = section.duration(&keys::DRAIN_TIMEOUT);
    let host_fall_through = section.flag(&keys::HOST_FALL_THROUGH);
    let upgrade_on_reload = section.flag(&keys::UPGRADE_ON_RELOAD);
    let state_dir = revocations::state_dir(section, folder);
    let revocation_retention = section.duration(&keys::REVOCATION_RETENTION);
    let on_reload = section.choice(&keys::ON_RELOAD, &[("recheck", OnReload::Recheck), ("keep", OnReload::Keep)]);
    let recheck_max = section.percent_or_off(&keys::RECHECK_MAX);
    let recheck_rate = section.rate(&keys::RECHECK_RATE);
    let resolver = resolver(section);
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
        max_http_requests: max_http_requests?.value,
        memory_max_bytes: memory_max?.value,
        upgrade_quota: upgrade_quota?,
        shutdown_delay: shutdown_delay?,
        drain_timeout: drain_timeout?,
        state_dir: state_dir?,
        revocation_retention: revocation_retention?,
        on_reload: on_reload?.value,
        recheck_max_percent: recheck_max?.value,
        recheck_rate: recheck_rate?,
        host_fall_through: host_fall_through?.value,
        upgrade_on_reload: upgrade_on_reload?.value,
        resolver: resolver?,
        record_layer: record_layer?.value,
    })
}

fn resolver(section: &Section<'_>) -> Parsed<Vec<SocketAddr>> {
    if section.key_span(&keys::RESOLVER).is_none() {
        return Some(Vec::new());
    }
    let address = |text: Located<String>| {
        let address = text.parse().ok().filter(|address: &SocketAddr| address.port() > 0);
        if address.is_none() {
            let message = format!("{} is not the address of a name server", quote(&text));
            let label = "expected an IP address and a port, as in \"127.0.0.1:53\"";
            section.diagnostics.push(Diagnostic::error(text.span, message).label(label));
        }
        address
    };
    // Every address is checked before an error ends the reading.
    let addresses: Vec<_> =
        section.text_or_texts(&keys::RESOLVER, RESOLVERS_MAX)?.value.into_iter().map(address).collect();
    addresses.into_iter().collect()
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
