//! Every key of the file: where it stands, what it takes, its default and its bounds. The readers take all of that from
//! here, and a test holds `config/example.toml` against it.

use std::time::Duration;

use self::AllowsOff::{Allowed, Refused};
use self::Default::{Derived, Nothing, Required, Value};
use self::Kind::{Choice, File, Flag, Integer, Rate, Size, StringList, Table, TableArray, Text};
use super::units::{show_duration, show_size};

/// One key of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// The section that it stands in: a name of [`SECTIONS`].
    pub section: &'static str,
    /// Its name.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds when it is absent.
    pub default: Default,
    /// What it means, in one sentence.
    pub doc: &'static str,
}

/// What a key takes. Bounds are inclusive; `off` says that the string `"off"` is a value, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A string.
    Text,
    /// A list of strings.
    StringList,
    /// The path of a file.
    File,
    /// One of these strings.
    Choice(&'static [&'static str]),
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Integer(u32, u32, AllowsOff),
    /// A duration such as `"30s"`.
    Duration(Duration, Duration, AllowsOff),
    /// A size such as `"64KiB"`.
    Size(u64, u64, AllowsOff),
    /// A rate such as `"50/s"`; the number is the largest count.
    Rate(u32, AllowsOff),
    /// A table whose keys are the operator's, with strings as values.
    Table,
    /// A list of tables.
    TableArray,
}

/// Whether `"off"` is a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AllowsOff {
    /// It is.
    Allowed,
    /// It is not.
    Refused,
}

/// What holds when a key is absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Default {
    /// It may not be absent.
    Required,
    /// This value, in TOML.
    Value(&'static str),
    /// A value that depends on another key, in words.
    Derived(&'static str),
    /// Nothing.
    Nothing,
}

impl Key {
    /// The bounds in words: `1s to 1h`, `"json", "text"`. Empty where the kind has none.
    #[must_use]
    pub fn bounds(&self) -> String {
        let or_off = |off, text: String| if off == AllowsOff::Allowed { format!("{text}, or \"off\"") } else { text };
        match self.kind {
            Kind::Choice(all) => all.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", "),
            Kind::Flag => "true or false".to_owned(),
            Kind::Integer(min, max, off) => or_off(off, format!("{min} to {max}")),
            Kind::Duration(min, max, off) => or_off(off, format!("{} to {}", show_duration(min), show_duration(max))),
            Kind::Size(min, max, off) => or_off(off, format!("{} to {}", show_size(min), show_size(max))),
            Kind::Rate(max, off) => or_off(off, format!("1 to {max} each s, m or h")),
            Kind::Text | Kind::StringList | Kind::File | Kind::Table | Kind::TableArray => String::new(),
        }
    }
}

/// A section of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectionForm {
    /// Its name, with the section that it stands in.
    pub name: &'static str,
    /// How it is written.
    pub written: &'static str,
}

/// Every section. `""` is the file itself.
pub const SECTIONS: &[SectionForm] = &[
    SectionForm { name: "server", written: "[server]" },
    SectionForm { name: "log", written: "[log]" },
    SectionForm { name: "listener", written: "[[listener]]" },
    SectionForm { name: "auth", written: "[auth.NAME]" },
    SectionForm { name: "upstream", written: "[upstream.NAME]" },
    SectionForm { name: "route", written: "[[route]]" },
    SectionForm { name: "route.limits", written: "[route.limits]" },
];

/// Keys and sections that the design knows and this version does not: section, key, what to do instead.
pub(super) const UNSUPPORTED_YET: &[(&str, &str, &str)] = &[
    ("", "admin", "leave the section out"),
    ("auth", "jwks_url", "put the key set into a file and name it with `jwks_file`"),
    ("upstream", "balance", "leave the key out"),
];

/// The largest count of a rate, and the largest burst: far beyond what one client sends.
const COUNT_MAX: u32 = 1_000_000;

const MS_100: Duration = Duration::from_millis(100);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
const DAY: Duration = Duration::from_hours(24);

/// A number that can not be `"off"`.
const fn number(min: u32, max: u32) -> Kind {
    Integer(min, max, Refused)
}

/// A duration that can not be `"off"`.
const fn span(min: Duration, max: Duration) -> Kind {
    Kind::Duration(min, max, Refused)
}

/// Makes one constant a key, and the list of them all.
macro_rules! keys {
    ($($constant:ident = $section:literal $name:literal, $kind:expr, $default:expr, $doc:literal;)*) => {
        $(
            #[doc = $doc]
            pub const $constant: Key =
                Key { section: $section, name: $name, kind: $kind, default: $default, doc: $doc };
        )*

        /// Every key, in the order of `config/example.toml`.
        pub const KEYS: &[Key] = &[$($constant),*];
    };
}

keys! {
    WORKERS = "server" "workers", number(0, 1024), Value("0"),
        "Threads that carry sessions; 0 is one a core.";
    MAX_SESSIONS = "server" "max_sessions", number(1, 10_000_000), Value("10000"),
        "Sessions at once, over all listeners; one more is answered with 503.";
    MAX_HANDSHAKES = "server" "max_handshakes", number(1, COUNT_MAX), Value("1024"),
        "Connections at once that are no sessions yet.";
    HANDSHAKES_PER_ADDRESS = "server" "handshakes_per_address", Integer(1, COUNT_MAX, Allowed),
        Derived("a sixteenth of max_handshakes, at least 16"),
        "Connections of one client address at once that are no sessions yet; further ones wait for their turn.";
    UPGRADE_RATE = "server" "upgrade_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "How many requests one client address may make, whatever they ask for; beyond it the answer is 429.";
    UPGRADE_BURST = "server" "upgrade_burst", number(1, COUNT_MAX), Derived("the count of upgrade_rate"),
        "How many of these requests may come at once.";
    DRAIN_TIMEOUT = "server" "drain_timeout", span(Duration::ZERO, DAY), Value("\"30s\""),
        "How long open sessions may go on after the signal to stop.";
    HOST_FALL_THROUGH = "server" "host_fall_through", Flag, Value("false"),
        "Whether a request that matches no route of its host is matched against the routes of wider hosts.";
    RECORD_LAYER = "server" "record_layer", Choice(&["own", "rustls"]), Value("\"own\""),
        "What protects a TLS 1.3 connection after its handshake; TLS 1.2 always stays with rustls.";

    FORMAT = "log" "format", Choice(&["json", "text"]), Value("\"json\""),
        "How a line of the log is written.";
    LEVEL = "log" "level", Choice(&["error", "warn", "info", "debug", "trace"]), Value("\"info\""),
        "The least important lines that are logged.";
    SESSION_START = "log" "session_start", Choice(&["error", "warn", "info", "debug", "trace"]), Value("\"debug\""),
        "The level of the line that a session writes when it starts.";
    LOG_SUBJECT = "log" "subject", Choice(&["plain", "hash", "omit"]), Value("\"plain\""),
        "How token subjects are logged: plain, as a hash with a key that each process makes anew, or not at all.";
    LOG_ADDRESS = "log" "address", Choice(&["plain", "hash", "omit"]), Value("\"plain\""),
        "How client addresses are logged: plain, as a hash with a key that each process makes anew, or not at all.";

    ADDRESS = "listener" "address", Text, Required,
        "The IP address and port to listen on.";
    CERTIFICATES = "listener" "certificates", TableArray, Required,
        "Certificate chains and their keys; the client's SNI picks one, and without a match the first is used.";
    CHAIN = "listener.certificates" "chain", File, Required,
        "The certificate and its intermediates, in PEM, the certificate first.";
    KEY = "listener.certificates" "key", File, Required,
        "The private key of the certificate, in PEM; others may not have the right to read it.";
    HANDSHAKE_TIMEOUT = "listener" "handshake_timeout", span(MS_100, Duration::from_mins(5)), Value("\"10s\""),
        "How long a client may take for the TLS handshake and the request head together.";
    HEAD_MAX_SIZE = "listener" "head_max_size", Size(8 << 10, 64 << 10, Refused), Value("\"16KiB\""),
        "The largest request head.";
    HEAD_MAX_HEADERS = "listener" "head_max_headers", number(8, 256), Value("64"),
        "The most header fields in a request head.";

    ISSUER = "auth" "issuer", Text, Nothing,
        "What the claim `iss` of a token must be.";
    AUDIENCE = "auth" "audience", StringList, Nothing,
        "The claim `aud` of a token must hold one of these.";
    ALGORITHMS = "auth" "algorithms", StringList, Required,
        "The signature algorithms that tokens may use: HS256, HS384 and HS512 with a secret, and with public keys RS256, \
         RS384, RS512, PS256, PS384, PS512, ES256, ES384 and Ed25519, which is EdDSA.";
    JWKS_FILE = "auth" "jwks_file", File, Nothing,
        "A JSON Web Key set with the public keys that verify tokens.";
    PUBLIC_KEY_FILE = "auth" "public_key_file", File, Nothing,
        "One public key in PEM that verifies tokens, or a certificate, of which only the key is read.";
    SECRET_FILE = "auth" "secret_file", File, Nothing,
        "A secret shared with the issuer; others may not have the right to read the file.";
    TOKEN_FROM = "auth" "token_from", StringList, Value("[\"header\"]"),
        "Where a request may carry its token, in order: header, cookie:NAME, query:NAME, subprotocol:NAME, \
         subprotocol_prefix:TEXT.";
    TOKEN_MAX_SIZE = "auth" "token_max_size", Size(256, 64 << 10, Refused), Value("\"8KiB\""),
        "The longest token; a longer one is answered with 401. It must fit the listener's `head_max_size`.";
    LEEWAY = "auth" "leeway", span(Duration::ZERO, Duration::from_mins(5)), Value("\"30s\""),
        "How far the clocks of the issuer and of this machine may differ.";

    SERVERS = "upstream" "servers", StringList, Required,
        "The servers: `IP:port`, `name:port` or `unix:/path`.";
    BASE_PATH = "upstream" "path", Text, Value("\"\""),
        "What is put before the path of every request.";
    CONNECT_TIMEOUT = "upstream" "connect_timeout", span(Duration::from_millis(10), MINUTE), Value("\"2s\""),
        "How long the look-up of a server's name and an attempt to connect to one of its addresses may each take; then the \
         next server is tried, each once.";
    RESPONSE_TIMEOUT = "upstream" "response_timeout", span(MS_100, Duration::from_mins(5)), Value("\"10s\""),
        "How long a server may take to answer an upgrade.";
    MAX_PENDING_REQUESTS = "upstream" "max_pending_requests", number(1, COUNT_MAX), Value("512"),
        "Upgrades that wait for its servers at once, each of which counts as a session; one more is answered with 503.";
    TITLE_CASE_HEADERS = "upstream" "title_case_headers", Flag, Value("false"),
        "Whether its servers get header names as in `Sec-Websocket-Key`; absent: in lower case.";

    NAME = "route" "name", Text, Required,
        "The name in logs and metrics.";
    HOST = "route" "host", Text, Nothing,
        "The host that the route serves, `*.domain` for all subdomains; absent: every host.";
    PATH = "route" "path", Text, Required,
        "The path that the route serves: {name} stands for one segment, {*name} for the rest, which may be empty.";
    UPSTREAM = "route" "upstream", Text, Required,
        "The section [upstream.NAME] that its sessions go to.";
    UPSTREAM_HOST = "route" "upstream_host", Text, Nothing,
        "What the upstream sees as `Host`; absent: what the client sent.";
    AUTH = "route" "auth", Text, Required,
        "The section [auth.NAME] whose tokens open the route; `auth = \"none\"` opens it to everybody.";
    ORIGINS = "route" "origins", StringList, Nothing,
        "The web origins that may use the route; absent: all.";
    MISSING_ORIGIN = "route" "missing_origin", Choice(&["allow", "refuse"]), Value("\"allow\""),
        "What happens to a request without `Origin`, as clients that are no browsers send it.";
    ALLOW_ADDRESSES = "route" "allow_addresses", StringList, Value("[]"),
        "The client addresses and networks that may use the route; empty: all.";
    DENY_ADDRESSES = "route" "deny_addresses", StringList, Value("[]"),
        "The client addresses and networks that may not, even if they are allowed above.";
    REQUIRE = "route" "require", Table, Value("{}"),
        "What claims of the token must be; {name} stands for what the path has there.";
    FORWARD_CLAIMS = "route" "forward_claims", Table, Value("{}"),
        "Which claims the upstream is told, each in which header; who has one that no header can carry is refused.";
    PASS_HEADERS = "route" "pass_headers", StringList, Value("[]"),
        "Headers of a client that the upstream sees although they are removed otherwise.";

    MESSAGE_RATE = "route.limits" "message_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "How many messages a client may send.";
    MESSAGE_BURST = "route.limits" "message_burst", number(1, COUNT_MAX), Derived("the count of message_rate"),
        "How many of these messages may come at once.";
    RATE_KEY = "route.limits" "rate_key", Choice(&["session", "subject", "address"]), Value("\"session\""),
        "What shares one `message_rate`: each session alone, all of a token subject, or all of a client address.";
    ON_EXCESS = "route.limits" "on_excess", Choice(&["close", "delay", "drop"]), Value("\"close\""),
        "Beyond `message_rate`: close the session, delay it unread, or drop messages, which keeps compression off.";
    MESSAGE_MAX_SIZE = "route.limits" "message_max_size", Size(1, 1 << 40, Refused), Value("\"1MiB\""),
        "The largest message from a client, over all its fragments.";
    FRAME_MAX_SIZE = "route.limits" "frame_max_size", Size(1, 1 << 40, Refused), Derived("message_max_size"),
        "The largest frame from a client.";
    UPSTREAM_MESSAGE_MAX_SIZE = "route.limits" "upstream_message_max_size", Size(1, 1 << 40, Allowed), Value("\"off\""),
        "The largest message from an upstream.";
    OVERHEAD_RATE = "route.limits" "overhead_rate", Rate(COUNT_MAX, Refused), Value("\"100/s\""),
        "Control frames and small inner fragments of a client and, without `message_rate`, empty messages.";
    OVERHEAD_BURST = "route.limits" "overhead_burst", number(1, COUNT_MAX), Value("200"),
        "How many of these frames may come at once.";
    SESSIONS_PER_SUBJECT = "route.limits" "sessions_per_subject", number(1, COUNT_MAX), Nothing,
        "Sessions of one token subject at once.";
    SESSIONS_PER_ADDRESS = "route.limits" "sessions_per_address", number(1, COUNT_MAX), Nothing,
        "Sessions of one client address at once.";
    IDLE_TIMEOUT = "route.limits" "idle_timeout", Kind::Duration(MS_100, Duration::from_hours(7 * 24), Allowed),
        Value("\"off\""),
        "How long a session may pass no message either way before it is closed.";
    PING_INTERVAL = "route.limits" "ping_interval", Kind::Duration(MS_100, HOUR, Allowed), Value("\"30s\""),
        "After how much silence a client is pinged.";
    UPSTREAM_PING_INTERVAL = "route.limits" "upstream_ping_interval", Kind::Duration(MS_100, HOUR, Allowed),
        Value("\"off\""),
        "After how much silence an upstream is pinged.";
    PONG_TIMEOUT = "route.limits" "pong_timeout", span(MS_100, HOUR), Value("\"10s\""),
        "How long a side that was pinged may stay silent.";
    CLOSE_TIMEOUT = "route.limits" "close_timeout", span(MS_100, MINUTE), Value("\"5s\""),
        "How long the closing handshake may take.";
    WRITE_TIMEOUT = "route.limits" "write_timeout", span(MS_100, HOUR), Value("\"30s\""),
        "How long a side may take none of the bytes that wait for it.";
    CHECK_UTF8 = "route.limits" "check_utf8", Flag, Value("false"),
        "Whether text messages from a client must be UTF-8; it keeps compression off.";
}
