//! The configuration: valid files load, invalid files give their pinned diagnostics, and random text causes no panic.
//! `cluster` tests `[cluster]`, `example` compares `config/example.toml` with the table of keys, and `recipes` loads those of `config/recipes`.
//! `UPDATE_GOLDEN=1` rewrites the pinned diagnostics.

#![expect(clippy::disallowed_methods, reason = "certificates created now are checked against the current time")]

#[path = "config/cluster.rs"]
mod cluster;
#[path = "config/example.rs"]
mod example;
#[path = "config/fixtures.rs"]
mod fixtures;
#[path = "config/recipes.rs"]
mod recipes;

use std::fs;
use std::io;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use tollgate::balance::{
    AdmitRate, Balance, Check, Discover, HashSource, HealthConfig, Rebalance, SameSite, ServerAddress, ServerConfig,
    StickyCookie, StickyKey, UpstreamConfig, UpstreamLoss,
};
use tollgate::config::{
    self, AcmeConfig, AdminAddress, AdminToken, AuthConfig, Config, Content, Disk, Files, ListenAddress,
    ListenerConfig, LogConfig, LogFormat, MaxSessions, OnReload, ProcessConfig, RecordLayer, Redirect, Report, Shown,
    TlsMinVersion,
};
use tollgate::policy::claim_path::ClaimPath;
use tollgate::policy::expiry::OnExpiry;
use tollgate::policy::host::HostPattern;
use tollgate::policy::limits::{
    ByteQuota, LimitMode, Limits, MessageQuota, OnExcess, OnSessionLimit, OnSlowClient, RateKey, RequestQuota,
};
use tollgate::policy::live_keys::{KeyLocation, KeySource};
use tollgate::policy::pattern::Params;
use tollgate::policy::peer::Peer;
use tollgate::policy::quota::{Quota, Rate};
use tollgate::policy::remote::{HttpUrl, Roots};
use tollgate::policy::requirement::Requirement;
use tollgate::policy::rewrite::Rewrite;
use tollgate::policy::route::OnRemoved;
use tollgate::policy::token::VerifierConfig;
use tollgate::ws::code::CloseCode;

/// Parses a text whose files are the fixtures.
fn parse(text: &str) -> Result<Config, Report> {
    parse_as("tollgate.toml", text)
}

fn parse_as(file_name: &str, text: &str) -> Result<Config, Report> {
    config::parse(text, Path::new(file_name), fixtures::folder(), &Fixtures { credentials: None })
}

/// The file system, with a credentials directory of its own, so that no test depends on the environment.
struct Fixtures {
    credentials: Option<PathBuf>,
}

impl Files for Fixtures {
    fn read(&self, path: &Path) -> io::Result<Content> {
        Disk.read(path)
    }
    fn credentials(&self) -> Option<PathBuf> {
        self.credentials.clone()
    }
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// Returns the configurations in a directory, sorted by name. Panics if there are none, since the test would check
/// nothing.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no configuration", folder.display());
    paths
}

/// One address may have a sixteenth of `max_handshakes`, at least 16, unless the file sets `handshakes_per_address`.
#[test]
fn the_share_of_one_address_follows_max_handshakes() {
    let share = |lines: &str| {
        let text = example().replace("[server]\n", &format!("[server]\n{lines}\n"));
        parse(&text).unwrap_or_else(|report| panic!("{report}")).server.handshakes_per_address.map(NonZeroU32::get)
    };
    assert_eq!(share(""), Some(64));
    assert_eq!(share("max_handshakes = 16000"), Some(1000));
    assert_eq!(share("max_handshakes = 255"), Some(16));
    assert_eq!(share("max_handshakes = 1"), Some(16));
    assert_eq!(share("handshakes_per_address = 3"), Some(3));
    assert_eq!(share("handshakes_per_address = \"off\""), None);
}

#[test]
fn valid_files_load() {
    for path in cases("valid") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let config = parse_as(name, &fs::read_to_string(&path).unwrap());
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        assert!(config.warnings.is_empty(), "{}", config.warnings);
    }
}

/// Reads `everything.toml`, whose values differ from the defaults, except `max_handshakes`.
fn everything() -> Config {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid/everything.toml");
    parse(&fs::read_to_string(path).unwrap()).unwrap_or_else(|report| panic!("{report}"))
}

#[test]
fn values_of_the_process_reach_the_fields_of_their_keys() {
    let (config, seconds) = (everything(), Duration::from_secs);
    let server = ProcessConfig {
        workers: NonZeroUsize::new(2).unwrap(),
        max_sessions: MaxSessions { count: 100_000, explicit: true },
        max_handshakes: 1024,
        handshakes_per_address: Some(count(8)),
        max_http_requests: count(64),
        memory_max_bytes: Some(512 << 20),
        upgrade_quota: Some(quota(600, seconds(60), 20)),
        shutdown_delay: seconds(5),
        drain_timeout: Duration::ZERO,
        state_dir: Some(fixtures::folder().join("state")),
        revocation_retention: seconds(30 * 86_400),
        on_reload: OnReload::Keep,
        recheck_max_percent: None,
        recheck_rate: Rate { count: count(5), period: seconds(60) },
        host_fall_through: true,
        upgrade_on_reload: true,
        resolver: vec!["127.0.0.1:5353".parse().unwrap(), "[::1]:53".parse().unwrap()],
        record_layer: RecordLayer::Rustls,
    };
    assert_eq!(config.server, server);
    let log = LogConfig {
        format: LogFormat::Text,
        level: tracing::Level::TRACE,
        session_start: tracing::Level::INFO,
        subject: Shown::Hash,
        address: Shown::Omit,
        slow_upgrade: Some(Duration::from_millis(250)),
    };
    assert_eq!(config.log, log);
}

/// Returns the section of this name, which verifies tokens.
fn token_auth<'a>(config: &'a Config, name: &str) -> &'a VerifierConfig {
    let AuthConfig::Token(verifier) = &config.auths[name] else { panic!("{name} has a service") };
    verifier
}

#[test]
fn fetched_keys_have_an_address_roots_and_a_time() {
    let (config, seconds) = (everything(), Duration::from_secs);
    let keys = ["visitors", "devices"].map(|name| token_auth(&config, name).keys.clone());
    let [KeySource::Remote { keys: visitors, stale_for }, KeySource::Remote { keys: devices, stale_for: default }] =
        keys
    else {
        panic!("{keys:?}");
    };
    assert_eq!((stale_for, default), (seconds(12 * 3600), seconds(24 * 3600)));
    assert_eq!(Some(visitors.location), KeyLocation::of_issuer("https://id.example.com/realms/visitors"));
    assert!(matches!(visitors.roots, Roots::Certificates(roots) if roots.len() == 1));
    let url = HttpUrl::parse("http://localhost:8080/jwks.json?tenant=1").unwrap();
    assert_eq!((devices.location, devices.roots), (KeyLocation::Jwks(url), Roots::System));
}

#[test]
fn revocations_and_logouts_reach_their_fields() {
    let config = everything();
    let revoked: Vec<_> = config.revocations.iter().map(|entry| (entry.target.auth(), entry.target.value())).collect();
    assert_eq!(revoked, [(Some("users"), "ada"), (None, "t1")]);
    let logout = &config.logouts["machines"];
    assert_eq!(
        (logout.path.clone(), logout.audience.as_slice()),
        ("/logout".parse().unwrap(), ["web".to_owned()].as_slice())
    );
    assert_eq!(config.logouts.len(), 1);
}

#[test]
fn forward_authentication_has_a_url_and_times() {
    let (config, seconds) = (everything(), Duration::from_secs);
    let AuthConfig::Forward(sso) = &config.auths["sso"] else { panic!("a service") };
    assert_eq!(sso.url.uri(), "https://sso.example.com:4181/auth?rd=/");
    assert_eq!((sso.timeout, sso.cache_for, sso.recheck_interval), (seconds(2), None, Some(seconds(60))));
    assert_eq!(sso.response_headers, ["x-auth-request-user", "authorization"]);
    assert_eq!(sso.subject_header.as_ref().unwrap(), "x-auth-request-user");
    assert!(matches!(&sso.roots, Roots::Certificates(roots) if roots.len() == 1));
}

#[test]
fn values_of_listeners_reach_their_fields() {
    let config = everything();
    let [first, second, third, plain, socket] = config.listeners.as_slice() else { panic!("{:?}", config.listeners) };
    let tcp = |address: &str| ListenAddress::Tcp(address.parse().unwrap());
    let addresses = [
        tcp("127.0.0.1:443"),
        tcp("[::1]:443"),
        ListenAddress::Inherited("public".into()),
        tcp("0.0.0.0:80"),
        ListenAddress::Unix("/run/tollgate/http.sock".into()),
    ];
    assert_eq!([first, second, third, plain, socket].map(|listener| listener.address.clone()), addresses);
    assert_eq!(first.certificates().len(), 2);
    assert_eq!(first.certificates()[1].names, ["rsa.example.com"]);
    let min_version = |listener: &ListenerConfig| listener.tls.as_ref().map(|tls| tls.min_version);
    assert_eq!(min_version(first), Some(TlsMinVersion::Tls13));
    assert_eq!([second, third].map(min_version), [Some(TlsMinVersion::Tls12); 2]);
    assert_eq!(
        [plain, socket].map(|listener| (listener.tls.is_none(), listener.insecure)),
        [(true, true), (true, false)]
    );
    assert_eq!([plain, socket].map(|listener| listener.redirect), [Redirect::Https, Redirect::Off]);
    let acme = |listener: &ListenerConfig| listener.tls.as_ref().and_then(|tls| tls.acme.clone());
    assert_eq!([first, second, third].map(acme), [None, None, Some("ca".into())]);
    assert_eq!([plain, socket].map(|listener| listener.socket_group.as_deref()), [None, Some("balancers")]);
    let peers = |listener: &ListenerConfig, address: &str| {
        let peer = Peer::of_address(address.parse().unwrap());
        [listener.proxy_protocol_from.contains(peer), listener.trusted_proxies.contains(peer)]
    };
    assert_eq!(
        ["10.1.2.3", "192.0.2.7", "127.0.0.1"].map(|address| peers(first, address)),
        [[true, false], [false, true], [false, false]]
    );
    assert!(!socket.proxy_protocol_from.contains(Peer::Unix) && socket.trusted_proxies.contains(Peer::Unix));
    assert!(second.proxy_protocol_from.is_empty() && second.trusted_proxies.is_empty());
    assert_eq!(first.handshake_timeout, Duration::from_millis(250));
    assert_eq!((first.head_max_bytes, first.head_max_headers), (65_536, 256));
    assert_eq!((second.head_max_bytes, second.head_max_headers), (16_384, 64));
    let requests = |listener: &ListenerConfig| {
        (listener.keep_alive_timeout, listener.body_timeout, listener.requests_per_connection)
    };
    let seconds = Duration::from_secs;
    assert_eq!(requests(first), (seconds(300), seconds(10), count(100)));
    assert_eq!(requests(second), (seconds(60), seconds(30), count(1000)));
}

#[test]
fn certificates_are_ordered_for_the_listed_names_or_the_hosts_of_the_routes() {
    let names = |acme: &AcmeConfig| acme.names.iter().map(ToString::to_string).collect::<Vec<_>>();
    let config = everything();
    let [acme] = config.acmes.as_slice() else { panic!("{:?}", config.acmes) };
    assert_eq!((&*acme.name, acme.directory.to_string()), ("ca", "https://ca.example.com/directory".to_owned()));
    assert_eq!(names(acme), ["chat.example.com", "feed.example.com"]);
    assert_eq!(acme.contact, ["mailto:ops@example.com"]);
    assert!(matches!(&acme.roots, Roots::Certificates(roots) if roots.len() == 1));
    let external = acme.external.as_ref().unwrap();
    let key = b"0123456789abcdef0123456789abcdef".as_slice();
    assert_eq!((external.key_id.as_str(), external.key.as_slice()), ("kid-1", key));
    assert!(!format!("{config:?}").contains(&format!("{key:?}")));

    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid/acme.toml");
    let config = parse(&fs::read_to_string(path).unwrap()).unwrap_or_else(|report| panic!("{report}"));
    let [hosts, listed] = config.acmes.as_slice() else { panic!("{:?}", config.acmes) };
    assert_eq!(names(hosts), ["chat.example.com", "feed.example.com"]);
    assert_eq!(names(listed), ["b.example.com", "a.example.com"]);
    assert!(hosts.external.is_none() && hosts.roots == Roots::System);
}

#[test]
fn rewrites_reach_their_fields() {
    let config = everything();
    let rewrite = &config.routes[0].rewrite;
    assert_eq!(rewrite.path("/ws/blue/a%20b/"), "/a%20b/");
    let params = Params::new(vec![("room".into(), "blue".to_owned())]);
    let headers = rewrite.headers(&params).unwrap();
    let headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    let secret = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let expected =
        [("x-region", "eu west"), ("x-room", "room blue"), ("authorization", "Bearer SECRET"), ("x-api-key", secret)];
    assert_eq!(headers, expected);
    assert_eq!(rewrite.withheld(), ["x-region", "x-room", "authorization", "x-api-key", "cookie", "x-debug"]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("Bearer SECRET") && !shown.contains(secret), "{shown}");
}

/// Checks the cookies and the queues of the upstreams in `everything.toml`.
fn check_cookies_and_queues(chat: &UpstreamConfig, local: &UpstreamConfig) {
    let seconds = Duration::from_secs;
    let of_file = StickyCookie {
        name: "__Secure-node".to_owned(),
        same_site: SameSite::None,
        secure: Some(true),
        path: "/feed".to_owned(),
        domain: Some("example.com".to_owned()),
        max_age: Some(seconds(86_400)),
        key: Some(StickyKey::new(b"0123456789abcdef0123456789abcdef")),
    };
    assert_eq!(local.balance, Balance::StickyCookie(Box::new(of_file)));
    let rate = AdmitRate { count: 100.try_into().unwrap(), period: seconds(1) };
    assert_eq!((chat.hold_upgrades, chat.admit_rate), (Some(seconds(30)), Some(rate)));
    assert_eq!((chat.queue_max, chat.queue_timeout), (64, seconds(2)));
    assert_eq!((local.hold_upgrades, local.admit_rate), (None, None));
    assert_eq!((local.queue_max, local.queue_timeout), (512, seconds(5)));
}

fn check_health(chat: &UpstreamConfig, local: &UpstreamConfig) {
    let seconds = Duration::from_secs;
    let health = |upstream: &UpstreamConfig| {
        let HealthConfig { checks, eject_after, eject_max_percent, slow_start } = &upstream.health;
        let checks = checks
            .as_ref()
            .map(|checks| (checks.check.clone(), checks.interval, u32::from(checks.rise), u32::from(checks.fall)));
        (checks, eject_after.map(u32::from), *eject_max_percent, *slow_start)
    };
    let websocket = Check::WebSocket("/health?deep=1".parse().unwrap());
    let checks = Some((websocket, Duration::from_millis(1500), 1, 4));
    assert_eq!(health(chat), (checks, Some(3), 34, seconds(120)));
    assert_eq!(health(local), (Some((Check::Tcp, seconds(5), 2, 3)), Some(5), 50, seconds(30)));
}

#[test]
fn values_reach_the_fields_of_their_keys() {
    let (config, seconds) = (everything(), Duration::from_secs);
    let admin = config.admin.as_ref().unwrap();
    assert_eq!(admin.address, AdminAddress::Unix("/run/tollgate/admin.sock".into()));
    assert_eq!((admin.socket_group.as_deref(), admin.payload), (Some("operators"), true));
    let has = |token: &Option<AdminToken>, text: &[u8]| token.as_ref().unwrap().matches(text);
    assert!(has(&admin.token, b"an-admin-token-for-tests") && !has(&admin.token, b"another"));
    assert!(!has(&admin.read_token, b"an-admin-token-for-tests"));
    assert_eq!(config.metrics, Some("0.0.0.0:9641".parse().unwrap()));

    let [chat, local, listed] = config.upstreams.as_slice() else { panic!("{:?}", config.upstreams) };
    let server = |server: &ServerConfig| {
        let max = server.max_sessions.map_or(0, u32::from);
        (server.address.to_string(), server.weight.get(), max, server.drain)
    };
    let expected =
        [("127.0.0.1:9001", 1, 0, false), ("[::1]:9001", 3, 0, false), ("backend.internal:9001", 1, 5000, true)];
    let expected = expected.map(|(address, weight, max, drain)| (address.to_owned(), weight, max, drain));
    assert_eq!(chat.servers.iter().map(server).collect::<Vec<_>>(), expected);
    assert_eq!(chat.balance, Balance::Hash(HashSource::Path("room".to_owned())));
    check_cookies_and_queues(chat, local);
    check_health(chat, local);
    assert_eq!((&*chat.name, chat.base_path.as_str()), ("chat", "/v1/chat"));
    assert_eq!((chat.connect_timeout, chat.response_timeout), (Duration::from_millis(500), seconds(60)));
    assert_eq!((chat.http_response_timeout, local.http_response_timeout), (seconds(120), seconds(60)));
    assert_eq!(local.servers, [ServerAddress::Unix("/run/app.sock".into()).into()]);
    assert_eq!((chat.discover.as_ref(), listed.discover.as_ref().map(Discover::is_looked_up)), (None, Some(false)));
    let expected = [("127.0.0.1:9001", 1, 0, false), ("127.0.0.1:9002", 3, 0, true)];
    let expected = expected.map(|(address, weight, max, drain)| (address.to_owned(), weight, max, drain));
    assert_eq!(listed.servers.iter().map(server).collect::<Vec<_>>(), expected);
    assert_eq!((chat.max_pending_requests, chat.title_case_headers), (100, true));
    assert_eq!((chat.retries, local.retries), (5, 2));
    assert_eq!((chat.drain_rate.to_string(), local.drain_rate.to_string()), ("5/m".to_owned(), "20/s".to_owned()));
    assert_eq!((chat.rebalance, listed.rebalance), (None, Some(Rebalance { percent: 5, period: seconds(60) })));
    let loss = UpstreamLoss { close_code: CloseCode::SERVICE_RESTART, reconnect_spread: seconds(60) };
    assert_eq!((chat.loss, local.loss), (loss, UpstreamLoss::default()));
    assert_eq!((chat.proxy_protocol, local.proxy_protocol), (true, false));
    assert_eq!((local.connect_timeout, local.response_timeout), (seconds(2), seconds(10)));
    assert_eq!((local.max_pending_requests, local.title_case_headers), (512, false));
    let tls = chat.tls.as_ref().unwrap();
    assert!(matches!(&tls.roots, Roots::Certificates(roots) if roots.len() == 1));
    assert_eq!(tls.server_name, Some("chat.internal".try_into().unwrap()));
    assert_eq!((tls.certificate.as_ref().unwrap().chain.len(), tls.min_version), (1, TlsMinVersion::Tls13));
    assert_eq!(local.tls, None);

    let [chat, feed, partners] = config.routes.as_slice() else { panic!("{:?}", config.routes) };
    let names = [chat, feed, partners].map(|route| (route.name.to_string(), route.upstream.to_string()));
    let expected = [("chat", "chat"), ("feed", "local"), ("partners", "listed")];
    assert_eq!(names, expected.map(|(name, upstream)| (name.to_owned(), upstream.to_owned())));
    assert_eq!(chat.host, HostPattern::Exact("chat.example.com".into()));
    assert_eq!(feed.host, HostPattern::Subdomains("example.com".into()));
    assert_eq!(partners.host, HostPattern::Any);
    assert_eq!(chat.path.names().collect::<Vec<_>>(), ["room", "rest"]);
    assert_eq!(chat.upstream_host.as_ref().unwrap(), "chat.internal:8080");
    assert!(partners.auth.iter().map(|name| &**name).eq(["partners", "machines", "visitors", "devices", "sso"]));
    let verifier = |name: &str| token_auth(&config, name);
    let machines = verifier("machines");
    let verifier = verifier(chat.auth.first().unwrap());
    assert_eq!((verifier.sources.len(), verifier.max_bytes), (5, 65_536));
    assert_eq!(verifier.on_expiry, OnExpiry::Close { grace: seconds(300), code: CloseCode(4403) });
    assert_eq!(token_auth(&config, &feed.auth[0]).on_expiry, OnExpiry::Ignore);
    assert_eq!(token_auth(&config, &partners.auth[0]).on_expiry, OnExpiry::default());
    assert!(chat.origins.allow(Some(b"https://a.example.com")) && chat.origins.allow(Some(b"capacitor://localhost")));
    assert!(!chat.origins.allow(Some(b"https://a.example.org")) && !chat.origins.allow(None));
    assert!(feed.origins.allow(Some(b"null")) && feed.origins.allow(Some(b"file://")));
    assert_eq!(chat.pass_headers, ["x-real-ip", "x-original-url"]);
    assert_eq!((&feed.rewrite.path("/feed"), &partners.rewrite), (&"/v2/feed%20s/", &Rewrite::default()));
    assert!(feed.pass_headers.is_empty() && partners.pass_headers.is_empty());
    assert!(partners.origins.allow(Some(b"https://partners.example.com")) && partners.origins.allow(None));
    let admitted = |address: &str| chat.addresses.allow(address.parse().unwrap());
    assert_eq!(["192.0.2.7", "10.2.0.1", "10.1.0.1", "192.0.2.8"].map(admitted), [true, true, false, false]);
    assert_eq!((chat.refresh_path.as_ref(), &feed.refresh_path), (Some(&"/ws/refresh".parse().unwrap()), &None));
    assert_eq!((chat.http, chat.hsts, chat.server_header), (true, Some(seconds(365 * 86_400)), true));
    assert_eq!((feed.http, feed.hsts, feed.server_header), (false, None, false));
    assert_eq!((chat.on_removed, feed.on_removed), (OnRemoved::Close, OnRemoved::Drain));
    assert_eq!(verifier.subject_claim.as_str(), "/user/id");
    assert_eq!(machines.subject_claim.as_str(), "sub");
    assert_eq!((verifier.forward_token, machines.forward_token), (true, false));
    let any_of = |claim: &str, values: &[&str]| {
        Requirement::any_of(claim.parse().unwrap(), values.iter().map(|value| value.parse().unwrap()).collect())
    };
    let required = [
        any_of("scope", &["chat:write"]),
        any_of("room", &["lobby", "{room}"]),
        any_of("realm_access.roles", &["user", "admin"]),
        any_of("level", &["3"]),
        any_of("score", &["1.5"]),
        any_of("verified", &["true"]),
        Requirement::present("/https:~1~1example.com~1org/id".parse().unwrap()),
    ];
    assert_eq!(chat.require, required);
    let kept: Vec<_> = verifier.claims.iter().map(ClaimPath::as_str).collect();
    assert_eq!(kept.len(), 9, "{kept:?}: those of `require` and `forward_claims`");
    let forwarded: Vec<_> = chat.forward_claims.iter().map(|(claim, name)| (claim.as_str(), name.as_str())).collect();
    assert_eq!(forwarded, [("sub", "x-user-id"), ("profile.name", "x-user-name")]);

    assert_eq!(*chat.limits, limits_of_chat());
    let messages =
        MessageQuota { quota: quota(10, seconds(3600), 10), key: RateKey::Address, on_excess: OnExcess::Drop };
    assert_eq!(feed.limits.messages, Some(messages));
    assert_eq!(*partners.limits, default_limits());
}

fn count(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).unwrap()
}

fn quota(number: u32, period: Duration, burst: u32) -> Quota {
    Quota { rate: Rate { count: count(number), period }, burst: count(burst) }
}

fn limits_of_chat() -> Limits {
    let seconds = Duration::from_secs;
    Limits {
        mode: LimitMode::Report,
        bytes: Some(ByteQuota {
            quota: quota(1 << 20, seconds(60), 65_536),
            key: RateKey::Subject,
            on_excess: OnExcess::Delay,
        }),
        messages: Some(MessageQuota {
            quota: quota(50, seconds(1), 100),
            key: RateKey::Subject,
            on_excess: OnExcess::Delay,
        }),
        overhead: quota(10, seconds(1), 20),
        message_max_bytes: 65_536,
        frame_max_bytes: 16_384,
        upstream_message_max_bytes: Some(1 << 30),
        sessions_per_subject: Some(count(10)),
        sessions_per_address: Some(count(100)),
        on_session_limit: OnSessionLimit::CloseOldest,
        idle_timeout: Some(seconds(300)),
        ping_interval: None,
        upstream_ping_interval: Some(seconds(60)),
        pong_timeout: seconds(2),
        close_timeout: seconds(3),
        write_timeout: seconds(60),
        on_slow_client: OnSlowClient::DropOldest { buffer_bytes: 2 << 20 },
        check_utf8: true,
        max_session_age: Some(seconds(86_400)),
        requests: Some(RequestQuota { quota: quota(300, seconds(60), 300), key: RateKey::Subject }),
        request_max_bytes: None,
    }
}

fn default_limits() -> Limits {
    let seconds = Duration::from_secs;
    Limits {
        mode: LimitMode::Enforce,
        bytes: None,
        messages: None,
        overhead: quota(100, seconds(1), 200),
        message_max_bytes: 1 << 20,
        frame_max_bytes: 1 << 20,
        upstream_message_max_bytes: None,
        sessions_per_subject: None,
        sessions_per_address: None,
        on_session_limit: OnSessionLimit::Refuse,
        idle_timeout: None,
        ping_interval: Some(seconds(30)),
        upstream_ping_interval: None,
        pong_timeout: seconds(10),
        close_timeout: seconds(5),
        write_timeout: seconds(30),
        on_slow_client: OnSlowClient::Block,
        check_utf8: false,
        max_session_age: None,
        requests: None,
        request_max_bytes: Some(1 << 20),
    }
}

#[test]
fn diagnostics_match_the_pinned_text() {
    let mut differing = Vec::new();
    for path in cases("invalid") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = match parse_as(name, &fs::read_to_string(&path).unwrap()) {
            Ok(config) => format!("ok\n{}", config.warnings),
            Err(report) => report.to_string(),
        };
        let said = said.replace(&fixtures::folder().display().to_string(), "$DIR");
        assert!(!said.contains("SECRET"), "the report shows the content of a file: {said}");
        let golden = path.with_extension("stderr");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &said).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            differing.push(format!("{}:\n{said}", golden.display()));
        }
    }
    assert!(differing.is_empty(), "not the pinned text; UPDATE_GOLDEN=1 rewrites it:\n{}", differing.join("\n"));
}

#[test]
fn every_pinned_text_has_its_file() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/invalid");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        assert!(path.with_extension("toml").exists(), "{} has no .toml", path.display());
        assert!(path.with_extension("stderr").exists(), "{} has no .stderr", path.display());
    }
}

/// Returns the text of `config/example.toml` with its `[cluster]`, which is commented out there.
fn example() -> String {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml")).unwrap();
    let with_cluster =
        text.replace("\n# [cluster]\n", "\n[cluster]\n").replace("\n# url = \"redis:", "\nurl = \"redis:");
    assert_eq!(with_cluster.len() + 4, text.len());
    with_cluster
}

/// Returns the text with one line replaced.
fn with_line(text: &str, line: usize, replacement: &str) -> String {
    let lines = text.lines().enumerate();
    lines.map(|(number, written)| if number == line { replacement } else { written }.to_owned() + "\n").collect()
}

#[test]
fn an_unreadable_file_is_reported_in_one_line() {
    let folder = fixtures::new_folder();
    let load = |name: &str| config::load(&folder.join(name)).unwrap_err().to_string();
    let said = load("absent.toml");
    assert!(said.starts_with("error: ") && said.contains("cannot read the configuration: No such file"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    fixtures::write(&folder, "latin1.toml", b"# caf\xe9", 0o644);
    let said = load("latin1.toml");
    assert!(said.contains("the configuration is not UTF-8: byte 5"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");

    fixtures::write(&folder, "large.toml", vec![b' '; (1 << 20) + 1], 0o644);
    assert!(load("large.toml").contains("larger than 1 MiB"));
}

#[test]
fn load_resolves_relative_paths_against_the_directory_of_the_file() {
    let path = fixtures::folder().join("tollgate.toml");
    fs::write(&path, example()).unwrap();
    let config = config::load(&path).unwrap_or_else(|report| panic!("{report}"));
    let certificate = &config.listeners[0].certificates()[0];
    assert_eq!(certificate.names, ["chat.example.com", "*.example.com"]);
    assert!(certificate.not_after > SystemTime::now());
}

/// Returns the example with another certificate and key.
fn with_certificate(chain: &str, key: &str) -> String {
    let names = ("\"fullchain.pem\"", "\"privkey.pem\"");
    example().replace(names.0, &format!("{chain:?}")).replace(names.1, &format!("{key:?}"))
}

#[test]
fn every_kind_of_key_loads_in_every_format() {
    for (chain, key) in [
        ("rsa", "rsa-key"),
        ("rsa", "rsa-old-key"),
        ("p256", "p256-key"),
        ("p256", "p256-old-key"),
        ("p384", "p384-key"),
        ("p384", "p384-old-key"),
        ("ed25519", "ed25519-key"),
    ] {
        let config = parse(&with_certificate(&format!("{chain}.pem"), &format!("{key}.pem")));
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(config.listeners[0].certificates()[0].names, [format!("{chain}.example.com")]);
    }
    let config = parse(&with_certificate("ip.pem", "privkey.pem")).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.listeners[0].certificates()[0].names.is_empty());
    assert!(parse(&with_certificate("fullchain.pem", "group-key.pem")).is_ok(), "the group may read a key");
}

#[test]
fn credentials_are_read_from_the_credentials_directory() {
    let text =
        with_certificate("credential:cert.pem", "credential:key.pem").replace("jwks.json", "credential:jwks.json");
    let files = Fixtures { credentials: Some(fixtures::folder().to_owned()) };
    let load = |text: &str| config::parse(text, Path::new("tollgate.toml"), Path::new("/nonexistent"), &files);
    load(&text).unwrap_or_else(|report| panic!("{report}"));
    for name in ["", "../key.pem", "..", "a/b"] {
        let said = load(&text.replace("credential:key.pem", &format!("credential:{name}"))).unwrap_err().to_string();
        assert!(said.contains("expected `credential:NAME`"), "{said}");
    }
}

#[test]
fn a_public_key_may_be_in_a_certificate() {
    for (kind, algorithm) in [("p256", "ES256"), ("p384", "ES384"), ("ed25519", "Ed25519"), ("rsa", "PS256")] {
        let text = example().replace("jwks_file = \"jwks.json\"", &format!("public_key_file = \"{kind}.pem\""));
        let text = text.replace("algorithms = [\"ES256\"]", &format!("algorithms = [\"{algorithm}\"]"));
        let config = parse(&text).unwrap_or_else(|report| panic!("{report}"));
        assert!(config.warnings.is_empty(), "{}", config.warnings);
    }
}

/// The fixtures, with the clock at this time.
struct AtTime(SystemTime);

impl Files for AtTime {
    fn read(&self, path: &Path) -> io::Result<Content> {
        Disk.read(path)
    }
    fn credentials(&self) -> Option<PathBuf> {
        None
    }
    fn now(&self) -> SystemTime {
        self.0
    }
}

#[test]
fn a_wrong_clock_is_a_warning_and_skips_the_validity_of_certificates() {
    let second = Duration::from_secs(1);
    let load = |chain: &str, now: SystemTime| {
        let text = with_certificate(chain, "privkey.pem");
        config::parse(&text, Path::new("tollgate.toml"), fixtures::folder(), &AtTime(now))
    };
    let epoch = SystemTime::UNIX_EPOCH;
    for (now, date) in [
        (epoch - second, "before 1970"),
        (epoch, "at 1970-01-01T00:00:00Z"),
        (epoch + config::BUILT - second, "at 2026-10-31T23:59:59Z"),
    ] {
        // Neither certificate is valid at that time.
        for chain in ["fullchain.pem", "future.pem"] {
            let config = load(chain, now).unwrap_or_else(|report| panic!("{report}"));
            assert_eq!(
                config.warnings.to_string(),
                format!(
                    "warning: tollgate.toml: the clock of this machine is {date}, earlier than this version of tollgate \
                     (until it is set, every token is rejected as expired, and the validity of certificates is not \
                     checked)\n"
                )
            );
        }
    }
    assert!(load("fullchain.pem", epoch + config::BUILT).unwrap().warnings.is_empty());
    let said = load("future.pem", epoch + config::BUILT).unwrap_err().to_string();
    assert!(said.contains("the certificate is not valid before 2999"), "{said}");
}

/// `year.pem` is valid from the start of 2030 to the start of 2031.
#[test]
fn certificates_that_expire_soon_cause_a_warning() {
    let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_924_992_000);
    let (hour, day) = (Duration::from_hours(1), Duration::from_hours(24));
    let text = with_certificate("year.pem", "privkey.pem");
    let load = |now| config::parse(&text, Path::new("x.toml"), fixtures::folder(), &AtTime(now));
    let table = [
        (end - 200 * day, None),
        (end - 14 * day, None),
        (end - 14 * day + hour, Some("expires at 2031-01-01T00:00:00Z, in 13 days")),
        (end - 5 * day - hour, Some("in 5 days")),
        (end - 25 * hour, Some("in 1 day")),
        (end - 5 * hour, Some("in 5 hours")),
        (end - hour, Some("in 1 hour")),
        (end - hour / 2, Some("in less than an hour")),
        (end, Some("in less than an hour")),
    ];
    for (now, expected) in table {
        let config = load(now).unwrap_or_else(|report| panic!("{report}"));
        let said = config.warnings.to_string();
        match expected {
            None => assert_eq!(said, ""),
            Some(expected) => assert!(said.starts_with("warning: ") && said.contains(expected), "{expected}: {said}"),
        }
    }
    // It is the only certificate, so an invalid one is an error.
    for (now, expected) in [
        (end + hour, "the certificate expired at 2031-01-01T00:00:00Z"),
        (end - 400 * day, "the certificate is not valid before 2030-01-01T00:00:00Z"),
    ] {
        let said = load(now).unwrap_err().to_string();
        assert!(said.contains("error: ") && said.contains("no certificate is valid now"), "{said}");
        assert!(said.contains(expected), "{said}");
    }
}

/// A source without files, so that random text causes no disk access.
struct Nothing;

impl Files for Nothing {
    fn read(&self, _: &Path) -> io::Result<Content> {
        Err(io::ErrorKind::NotFound.into())
    }
    fn credentials(&self) -> Option<PathBuf> {
        None
    }
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
    }
}

/// Parses a text and renders its report, of which the length must be bounded. Neither may panic.
fn survives(text: &str) {
    if let Err(report) = config::parse(text, Path::new("x"), Path::new(""), &Nothing) {
        assert!(report.has_errors());
        let shown = report.to_string();
        assert!(shown.chars().count() < 50 * 4000, "the report is too long");
        report.lines().for_each(drop);
    }
}

/// Generates a value of any type for any key, or text that is not a value.
fn some_value() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("true".to_owned()),
        Just("1979-05-27".to_owned()),
        Just("nan".to_owned()),
        any::<i128>().prop_map(|number| number.to_string()),
        "[0-9]{0,25}(ms|s|m|h|d|B|KiB|MiB|GiB|/s|/m|/h)?".prop_map(|text| format!("\"{text}\"")),
        r#""[^"\\\p{Cc}]{0,40}""#,
        r#"\["[a-z:/*.{}0-9\[\]]{0,40}"(, "[^"\\\p{Cc}]{0,10}")?\]"#,
        r#"\{ [a-z]{1,3} = "[^"\\\p{Cc}]{0,20}" \}"#,
        "\\PC{0,20}",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_text_panics(text in "[\\s\\S]{0,200}") {
        survives(&text);
    }

    #[test]
    fn no_line_of_the_example_panics(line in 0..250_usize, value in some_value()) {
        let text = example();
        let name = text.lines().nth(line).unwrap_or_default().trim_start_matches("# ").split(" = ").next().unwrap_or("");
        survives(&with_line(&text, line, &format!("{name} = {value}")));
    }

    #[test]
    fn no_cut_or_mangled_example_panics(at in 0..10_000_usize, what in "[\\s\\S]{0,3}", gone in 0..200_usize) {
        let text = example();
        let boundary = |index: usize| (0..=index.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap();
        let (before, after) = (&text[..boundary(at)], &text[boundary(at + gone)..]);
        survives(&format!("{before}{what}{after}"));
    }
}
