//! The table of configuration keys: the section, kind, bounds, default and description of each key. The readers use
//! this table, and a test compares `config/example.toml` with it.

use std::time::Duration;

pub use super::cluster_keys::*;
use super::key::AllowsOff::{Allowed, Refused};
use super::key::Default::{Derived, Nothing, Required, Value};
use super::key::Kind::{
    Choice, Conditions, File, Flag, InnerTable, Integer, Percent, PercentRate, Rate, Size, StringList, Table,
    TableArray, Text, TextOrList, TextsOrTables,
};
pub use super::key::{AllowsOff, Default, Key, Kind};
use super::key::{COUNT_MAX, DAY, HOUR, MINUTE, MS_1, MS_100, SECOND, joined, keys, number, span};
pub use super::sections::{SECTIONS, SectionForm};

/// Every key, in the order of `config/example.toml`.
pub const KEYS: &[Key] = &joined::<{ OWN_KEYS.len() + CLUSTER_KEYS.len() }>(OWN_KEYS, CLUSTER_KEYS);

keys! {
    /// The keys of the sections other than `[cluster]`.
    OWN_KEYS;

    WORKERS = "server" "workers", number(0, 1024), Value("0"),
        "Number of worker threads; 0 is one per core.";
    MAX_SESSIONS = "server" "max_sessions", number(1, 10_000_000), Value("10000"),
        "Maximum number of concurrent sessions over all listeners; requests beyond it are answered with 503.";
    MAX_HANDSHAKES = "server" "max_handshakes", number(1, COUNT_MAX), Value("1024"),
        "Maximum number of connections in the TLS handshake or waiting for their request head.";
    HANDSHAKES_PER_ADDRESS = "server" "handshakes_per_address", Integer(1, COUNT_MAX, Allowed),
        Derived("a sixteenth of max_handshakes, at least 16"),
        "Share of `max_handshakes` for one client address; further connections are queued.";
    MAX_HTTP_REQUESTS = "server" "max_http_requests", number(1, COUNT_MAX), Value("4096"),
        "Maximum number of ordinary requests in progress, and of the connections that are kept for them; requests beyond it \
         are answered with 503.";
    MEMORY_MAX = "server" "memory_max", Size(64 << 20, 1 << 40, Allowed), Value("\"off\""),
        "Resident memory of the process above which new sessions are answered with 503; they are admitted again below 95%.";
    UPGRADE_RATE = "server" "upgrade_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "Rate limit on the upgrades, first requests and rejected requests of one client address; beyond it they get a 429.";
    UPGRADE_BURST = "server" "upgrade_burst", number(1, COUNT_MAX), Derived("the count of upgrade_rate"),
        "Number of these requests that may arrive at once.";
    SHUTDOWN_DELAY = "server" "shutdown_delay", span(Duration::ZERO, HOUR), Value("\"0s\""),
        "How long clients are still admitted and served after the stop signal, while the readiness check already fails; \
         a second signal ends it.";
    DRAIN_TIMEOUT = "server" "drain_timeout", span(Duration::ZERO, DAY), Value("\"30s\""),
        "Maximum duration of the drain after the stop signal; sessions that are still open are then cut off.";
    STATE_DIR = "server" "state_dir", Text, Nothing,
        "The directory for state that outlives the process, such as revocations; absent: $STATE_DIRECTORY, which the \
         systemd unit sets, or none, and such state ends with the process.";
    ON_RELOAD = "server" "on_reload", Choice(&["recheck", "keep"]), Value("\"recheck\""),
        "Whether a reload checks every open session against the new configuration, or keeps open sessions unchanged.";
    RECHECK_MAX = "server" "recheck_max", Percent(Allowed), Value("\"20%\""),
        "Maximum share of the open sessions that a reload may end; a reload that would end more is refused without \
         `--force`.";
    RECHECK_RATE = "server" "recheck_rate", Rate(COUNT_MAX, Refused), Value("\"100/s\""),
        "Rate at which sessions that a reload no longer admits are closed.";
    HOST_FALL_THROUGH = "server" "host_fall_through", Flag, Value("false"),
        "Whether a request that matches no route of its host is matched against the routes of less specific hosts.";
    UPGRADE_ON_RELOAD = "server" "upgrade_on_reload", Flag, Value("false"),
        "Whether SIGHUP also replaces the process, with all its sessions, if its program on disk has changed.";
    REVOCATIONS_FILE = "server" "revocations_file", File, Nothing,
        "A JSON list of revocations, in the form of the admin API; it is watched, and an entry holds while it is listed.";
    REVOCATION_RETENTION = "server" "revocation_retention", span(MINUTE, Duration::from_hours(24 * 366)), Value("\"1d\""),
        "How long a revocation holds at least that does not say when it ends; longer if a token was seen that is valid for \
         longer.";
    RESOLVER = "server" "resolver", TextOrList, Nothing,
        "The name server, or a list of up to 4, that looks up the names of upstream servers and of `discover`: an IP \
         address and a port; absent: those of /etc/resolv.conf.";
    RECORD_LAYER = "server" "record_layer", Choice(&["own", "rustls"]), Value("\"own\""),
        "The record layer of TLS 1.3 connections after their handshake; TLS 1.2 always uses rustls.";

    FORMAT = "log" "format", Choice(&["json", "text"]), Value("\"json\""),
        "The format of log lines.";
    LEVEL = "log" "level", Choice(&["error", "warn", "info", "debug", "trace"]), Value("\"info\""),
        "The least severe level that is logged.";
    SESSION_START = "log" "session_start", Choice(&["error", "warn", "info", "debug", "trace"]), Value("\"debug\""),
        "The level of the line \"session started\".";
    LOG_SUBJECT = "log" "subject", Choice(&["plain", "hash", "omit"]), Value("\"plain\""),
        "How token subjects are logged: in plain text, hashed under a random key of the process, or not at all.";
    LOG_ADDRESS = "log" "address", Choice(&["plain", "hash", "omit"]), Value("\"plain\""),
        "How client addresses are logged: in plain text, hashed under a random key of the process, or not at all.";
    SLOW_UPGRADE = "log" "slow_upgrade", Kind::Duration(MS_1, HOUR, Allowed), Value("\"1s\""),
        "An upgrade that takes longer, from the accepted connection to the 101, is logged with the time of each phase.";

    ADMIN_ADDRESS = "admin" "address", Text, Required,
        "The address of the admin API: `unix:/path`, or a loopback IP address and a port, which needs `token_file`.";
    ADMIN_SOCKET_GROUP = "admin" "socket_group", Text, Nothing,
        "The group whose members may connect to the Unix socket; absent: only the user of the process.";
    ADMIN_TOKEN_FILE = "admin" "token_file", File, Nothing,
        "A file with the bearer token that has all rights; required for a TCP address.";
    ADMIN_READ_TOKEN_FILE = "admin" "read_token_file", File, Nothing,
        "A file with the bearer token that may only read.";
    ADMIN_PAYLOAD = "admin" "payload", Flag, Value("false"),
        "Whether a tap may show the payloads of frames.";

    METRICS_ADDRESS = "metrics" "address", Text, Required,
        "The IP address and port that serve /metrics, /healthz and /readyz without a token, and nothing else.";

    ADDRESS = "listener" "address", Text, Required,
        "The IP address and port to listen on, `unix:/path` for a Unix socket, or `systemd:NAME` for the socket that \
         systemd passes under this `FileDescriptorName=`.";
    SOCKET_GROUP = "listener" "socket_group", Text, Nothing,
        "The group whose members may connect to the Unix socket; absent: the group of the process.";
    TLS = "listener" "tls", Flag, Value("true"),
        "Whether clients connect by TLS. A plain listener is for a loopback or private address or a Unix socket, behind \
         a balancer that terminates TLS.";
    INSECURE = "listener" "insecure", Flag, Value("false"),
        "Whether a plain listener may have an address that is neither loopback nor private.";
    TLS_MIN_VERSION = "listener" "tls_min_version", Choice(&["1.2", "1.3"]), Value("\"1.2\""),
        "The lowest version of TLS.";
    CERTIFICATES = "listener" "certificates", TableArray, Derived("none; required unless `tls = false` or with `acme`"),
        "Certificate chains and their keys. SNI selects one; without a match the first valid one is used.";
    LISTENER_ACME = "listener" "acme", Text, Nothing,
        "The section [acme.NAME] that gets the certificates, instead of `certificates`.";
    CHAIN = "listener.certificates" "chain", File, Required,
        "The certificate, followed by its intermediates, in PEM.";
    KEY = "listener.certificates" "key", File, Required,
        "The private key of the certificate, in PEM; the mode of the file must give others no access.";
    PROXY_PROTOCOL_FROM = "listener" "proxy_protocol_from", StringList, Value("[]"),
        "The addresses and networks of balancers, or `unix`, that must send a PROXY header (version 1 or 2) first; it \
         names the client.";
    TRUSTED_PROXIES = "listener" "trusted_proxies", StringList, Value("[]"),
        "The addresses and networks of proxies, or `unix`, whose `X-Forwarded-For`, `X-Forwarded-Proto` and `Forwarded` \
         name the client.";
    HANDSHAKE_TIMEOUT = "listener" "handshake_timeout", span(MS_100, Duration::from_mins(5)), Value("\"10s\""),
        "Timeout for the PROXY header, the TLS handshake and the request head together.";
    HEAD_MAX_SIZE = "listener" "head_max_size", Size(8 << 10, 64 << 10, Refused), Value("\"16KiB\""),
        "Maximum size of a request head.";
    HEAD_MAX_HEADERS = "listener" "head_max_headers", number(8, 256), Value("64"),
        "Maximum number of header fields in a request head.";
    KEEP_ALIVE_TIMEOUT = "listener" "keep_alive_timeout", span(MS_100, HOUR), Value("\"60s\""),
        "How long a connection stays open between two ordinary requests.";
    BODY_TIMEOUT = "listener" "body_timeout", span(MS_100, HOUR), Value("\"30s\""),
        "How long a client may send nothing of the body of an ordinary request; then it gets a 408. Once Tollgate has waited for \
         the body longer than this, it must have received at least 512 bytes for each further second of waiting. Bytes \
         that arrive faster earn one further such time at most.";
    REQUESTS_PER_CONNECTION = "listener" "requests_per_connection", number(1, COUNT_MAX), Value("1000"),
        "Number of ordinary requests after which a connection closes.";
    REDIRECT = "listener" "redirect", Choice(&["off", "https"]), Value("\"off\""),
        "Whether a plain listener only redirects to https on the same host, except for the challenges of ACME (HTTP-01).";

    ACME_DIRECTORY = "acme" "directory", Text, Required,
        "The URL of the certificate authority's directory (RFC 8555): https, or http to a loopback host.";
    ACME_CONTACT = "acme" "contact", StringList, Value("[]"),
        "The addresses at which the certificate authority may contact the operator, as in `mailto:ops@example.com`.";
    ACME_ACCEPT_TERMS = "acme" "accept_terms", Flag, Required,
        "Whether the operator accepts the terms of service of the authority; it has to be true.";
    ACME_DOMAINS = "acme" "domains", StringList, Value("[]"),
        "The host names that get a certificate each; empty: the hosts of all routes.";
    ACME_CA = "acme" "ca", Text, Value("\"system\""),
        "The roots of the certificate of the directory: `system`, or a file with certificates in PEM.";
    ACME_EAB_KEY_ID = "acme" "eab_key_id", Text, Nothing,
        "The key identifier of an account at the authority (RFC 8555 section 7.3.4), if it demands one.";
    ACME_EAB_KEY_FILE = "acme" "eab_key_file", File, Nothing,
        "A file with the MAC key of that account, in base64url; the mode of the file must give others no access.";

    KIND = "auth" "kind", Choice(&["jwt", "forward"]), Value("\"jwt\""),
        "How clients are authenticated: by a JSON Web Token, or by the answer of a service to the headers of the \
         request.";
    ISSUER = "auth" "issuer", Text, Nothing,
        "The required value of the claim `iss`.";
    AUDIENCE = "auth" "audience", StringList, Nothing,
        "The accepted audiences: the claim `aud` must contain one of them.";
    ALGORITHMS = "auth" "algorithms", StringList, Nothing,
        "Required with `kind = \"jwt\"`. The accepted signature algorithms: HS256, HS384 and HS512 with a secret; RS256, RS384, RS512, PS256, PS384, \
         PS512, ES256, ES384 and Ed25519 (the same as EdDSA) with public keys.";
    DISCOVERY = "auth" "discovery", Flag, Value("false"),
        "Whether the keys are those of the issuer's OpenID configuration; `issuer` is then its URL.";
    JWKS_URL = "auth" "jwks_url", Text, Nothing,
        "The URL of a JSON Web Key Set, which is fetched again before it expires: https, or http to a loopback host.";
    JWKS_FILE = "auth" "jwks_file", File, Nothing,
        "A JSON Web Key Set with the public keys that verify tokens.";
    PUBLIC_KEY_FILE = "auth" "public_key_file", File, Nothing,
        "A public key in PEM that verifies tokens, or a certificate, of which only the key is used.";
    SECRET_FILE = "auth" "secret_file", File, Nothing,
        "A secret shared with the issuer; the mode of the file must give others no access.";
    SUBJECT_CLAIM = "auth" "subject_claim", Text, Value("\"sub\""),
        "The claim that identifies the client, in quotas, limits, logs and the admin API: a name, a path such as `user.id`, \
         or a JSON pointer such as `/user/id`.";
    TOKEN_FROM = "auth" "token_from", StringList, Value("[\"header\"]"),
        "The sources of the token, in the order in which they are tried: header, cookie:NAME, query:NAME, \
         subprotocol:NAME, subprotocol_prefix:TEXT.";
    TOKEN_MAX_SIZE = "auth" "token_max_size", Size(256, 64 << 10, Refused), Value("\"8KiB\""),
        "Maximum size of a token; a longer one is answered with 401. It must fit into the listener's \
         `head_max_size`.";
    KEYS_STALE_FOR = "auth" "keys_stale_for", span(SECOND, Duration::from_hours(30 * 24)), Value("\"1d\""),
        "How long fetched keys are used after the last successful fetch while the issuer does not answer; then requests \
         are answered with 503.";
    CA = "auth" "ca", Text, Value("\"system\""),
        "The roots of the certificates of `jwks_url` and of the issuer: `system`, or a file with certificates in PEM.";
    LEEWAY = "auth" "leeway", span(Duration::ZERO, Duration::from_mins(5)), Value("\"30s\""),
        "Accepted difference between the clocks of the issuer and of this machine.";
    BACKCHANNEL_LOGOUT_PATH = "auth" "backchannel_logout_path", Text, Nothing,
        "The path at which the issuer posts logout tokens (OpenID Connect Back-Channel Logout), on the hosts of the \
         section's routes; it needs `issuer`.";
    BACKCHANNEL_LOGOUT_AUDIENCE = "auth" "backchannel_logout_audience", StringList, Nothing,
        "The accepted audiences of logout tokens, which are client ids at the issuer; absent: those of `audience`.";
    ON_EXPIRY = "auth" "on_expiry", Choice(&["close", "ignore"]), Value("\"close\""),
        "Whether a session ends when its token expires: at `exp` plus `leeway` plus `expiry_grace`, or not.";
    EXPIRY_GRACE = "auth" "expiry_grace", span(Duration::ZERO, DAY), Value("\"0s\""),
        "How long a session continues after `exp` and `leeway`. An expired token opens no new session.";
    EXPIRY_CLOSE_CODE = "auth" "expiry_close_code", number(1008, 4999), Value("1008"),
        "The close code of sessions whose token expires: 1008, or one from 4000 to 4999.";
    FORWARD_TOKEN = "auth" "forward_token", Flag, Value("false"),
        "Whether the upstream receives the token, in the place where the client sent it; other sources of tokens are removed.";
    AUTH_URL = "auth" "url", Text, Nothing,
        "Required with `kind = \"forward\"`. The URL of the service, `https` unless its host is a loopback host. It gets \
         the headers of each request: 2xx admits the client, 401, 403 and 3xx are passed back.";
    AUTH_TIMEOUT = "auth" "timeout", span(MS_100, MINUTE), Value("\"5s\""),
        "Timeout for the response of the service; without one the client gets a 503.";
    RESPONSE_HEADERS = "auth" "response_headers", StringList, Value("[]"),
        "The headers of the service's response that the upstream receives, and that `require` and `forward_claims` can \
         name. A client cannot send them.";
    SUBJECT_HEADER = "auth" "subject_header", Text, Nothing,
        "The header of the service's response with the subject.";
    CACHE_FOR = "auth" "cache_for", Kind::Duration(MS_100, HOUR, Allowed), Value("\"5s\""),
        "How long a response that admits is reused for requests with the same headers.";
    RECHECK_INTERVAL = "auth" "recheck_interval", Kind::Duration(Duration::from_secs(1), DAY, Allowed), Value("\"off\""),
        "The interval at which the service is asked again about each open session, which ends if it is no longer \
         admitted.";

    SERVERS = "upstream" "servers", TextsOrTables, Derived("none; required without `discover`"),
        "The servers: `IP:port`, `name:port` or `unix:/path`, or a table of these keys.";
    SERVER_ADDRESS = "upstream.servers" "address", Text, Required,
        "Its address, in one of these forms.";
    SERVER_WEIGHT = "upstream.servers" "weight", number(1, 1000), Value("1"),
        "The share of the server, relative to the other servers.";
    SERVER_MAX_SESSIONS = "upstream.servers" "max_sessions", number(1, 10_000_000), Nothing,
        "Maximum number of its sessions, including the opening handshakes that wait for it; further ones go to other \
         servers, and wait if all are full: see `queue_max`.";
    SERVER_DRAIN = "upstream.servers" "drain", Flag, Value("false"),
        "Whether it gets no new sessions, and its open ones are closed with 1012 at `drain_rate`.";
    DISCOVER = "upstream" "discover", Text, Nothing,
        "Where the servers are listed, instead of `servers`: `file:PATH`, a JSON list that is watched; `dns:NAME:PORT`, the \
         A and AAAA records of a name; or `srv:NAME`, its SRV records.";
    BALANCE = "upstream" "balance", Text, Value("\"least_sessions\""),
        "How a server is chosen: `least_sessions`, `round_robin`, `sticky_cookie`, or `hash:` and one of subject, address, \
         cookie:NAME, query:NAME, header:NAME, path:NAME. All of them respect the weights.";
    UPSTREAM_TLS = "upstream" "tls", InnerTable, Nothing,
        "Connections to the servers use TLS, with these settings; absent: they are plain.";
    UPSTREAM_CA = "upstream.tls" "ca", Text, Value("\"system\""),
        "The roots of the servers' certificates: `system`, or a file with certificates in PEM.";
    UPSTREAM_SERVER_NAME = "upstream.tls" "server_name", Text, Derived("the host of the server's address"),
        "The name that the certificates of the servers must have, which is also sent as SNI: a host name, or an IP address; \
         required for Unix sockets.";
    UPSTREAM_CERTIFICATE = "upstream.tls" "certificate", File, Nothing,
        "The client certificate for servers that request one, followed by its intermediates, in PEM.";
    UPSTREAM_KEY = "upstream.tls" "key", File, Nothing,
        "The private key of the client certificate, in PEM; the mode of the file must give others no access.";
    UPSTREAM_MIN_VERSION = "upstream.tls" "min_version", Choice(&["1.2", "1.3"]), Value("\"1.2\""),
        "The lowest version of TLS.";
    BASE_PATH = "upstream" "path", Text, Value("\"\""),
        "A prefix for the path of every request.";
    CONNECT_TIMEOUT = "upstream" "connect_timeout", span(Duration::from_millis(10), MINUTE), Value("\"2s\""),
        "Timeout for the look-up of a server's name, and for each attempt to connect to one of its addresses; then \
         another server is tried.";
    RESPONSE_TIMEOUT = "upstream" "response_timeout", span(MS_100, Duration::from_mins(5)), Value("\"10s\""),
        "Timeout for a server's response to an opening handshake.";
    HTTP_RESPONSE_TIMEOUT = "upstream" "http_response_timeout", span(MS_100, HOUR),
        Derived("six times response_timeout"),
        "Timeout for the head of a server's response to an ordinary request.";
    RETRIES = "upstream" "retries", number(0, 10), Value("2"),
        "Number of further servers that an opening handshake tries, each once, if one accepts no connection or breaks it; \
         of all servers, a tenth of the requests is retried, and at least 10 in a second.";
    MAX_PENDING_REQUESTS = "upstream" "max_pending_requests", number(1, COUNT_MAX), Value("512"),
        "Maximum number of opening handshakes that wait for its servers, each of which counts as a session; requests \
         beyond it are answered with 503.";
    DRAIN_RATE = "upstream" "drain_rate", Rate(COUNT_MAX, Refused), Value("\"20/s\""),
        "Rate at which the sessions of a server that drains or was removed are closed with 1012, for each by itself.";
    REBALANCE = "upstream" "rebalance", PercentRate(Allowed), Value("\"off\""),
        "Maximum share of the sessions of the upstream that is closed with 1012 in each period, on servers that have more \
         than their share, so that others get them; not with `hash:` and `sticky_cookie`.";
    UPSTREAM_LOSS_CLOSE_CODE = "upstream" "upstream_loss_close_code", number(1012, 1014), Value("1014"),
        "Code of the Close to the client when the connection to its server ends without a Close: 1014, or 1012.";
    RECONNECT_SPREAD = "upstream" "reconnect_spread", span(Duration::ZERO, Duration::from_mins(10)), Value("\"10s\""),
        "Time over which the clients are closed whose sessions a server loses together; \"0s\": at once. Also the maximum \
         of `Retry-After`, which is random, while the upstream has no free server.";
    HOLD_UPGRADES = "upstream" "hold_upgrades", Kind::Duration(MS_100, Duration::from_mins(5), Allowed), Value("\"off\""),
        "How long an opening handshake waits while no server is up, instead of failing at once.";
    ADMIT_RATE = "upstream" "admit_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "Rate at which opening handshakes go to its servers; further ones wait up to `queue_timeout`.";
    QUEUE_MAX = "upstream" "queue_max", number(0, COUNT_MAX), Value("512"),
        "Maximum number of opening handshakes that wait because all servers are full, none is up, or `admit_rate` is \
         used up; requests beyond it are answered at once. 0: none wait.";
    QUEUE_TIMEOUT = "upstream" "queue_timeout", span(MS_100, Duration::from_mins(5)), Value("\"5s\""),
        "How long an opening handshake waits while all servers are full or `admit_rate` is used up; then it gets 503.";
    PROXY_PROTOCOL = "upstream" "proxy_protocol", Flag, Value("false"),
        "Whether each connection to its servers begins with a PROXY header (version 2) that names the client.";
    COOKIE = "upstream" "cookie", InnerTable, Derived("a cookie \"tollgate\" with these defaults"),
        "The cookie of `sticky_cookie`. Its value reveals nothing, cannot be forged, and is not sent to the servers.";
    COOKIE_NAME = "upstream.cookie" "name", Text, Value("\"tollgate\""),
        "Its name.";
    COOKIE_SAME_SITE = "upstream.cookie" "same_site", Choice(&["strict", "lax", "none"]), Value("\"lax\""),
        "Whether pages of other sites send it: `none` for a WebSocket that they may open.";
    COOKIE_SECURE = "upstream.cookie" "secure", Flag, Derived("true for clients that use TLS"),
        "Whether it is sent over TLS only.";
    COOKIE_PATH = "upstream.cookie" "path", Text, Value("\"/\""),
        "The start of the paths that it is sent to.";
    COOKIE_DOMAIN = "upstream.cookie" "domain", Text, Nothing,
        "The domain whose hosts it is sent to; absent: only the host that set it.";
    COOKIE_MAX_AGE = "upstream.cookie" "max_age", span(SECOND, Duration::from_hours(400 * 24)), Nothing,
        "How long it is kept; absent: until the browser closes.";
    COOKIE_SECRET_FILE = "upstream.cookie" "secret_file", File, Nothing,
        "A file with the key of its values, of at least 32 bytes; absent: a key that ends with the process.";
    TITLE_CASE_HEADERS = "upstream" "title_case_headers", Flag, Value("false"),
        "Whether header names are sent to its servers in title case, as in `Sec-Websocket-Key`, or in lower case.";

    CHECK = "upstream.health" "check", Text, Value("\"tcp\""),
        "How each server is checked: `tcp`, it accepts a connection; `http:/path`, it answers a GET with a status from 200 to \
         399; `websocket:/path`, it completes an opening handshake and answers a ping; or `off`.";
    CHECK_INTERVAL = "upstream.health" "interval", span(MS_100, HOUR), Value("\"5s\""),
        "Time between two checks of a server, shortened by up to a fifth at random; one check may take as long.";
    RISE = "upstream.health" "rise", number(1, 100), Value("2"),
        "Number of consecutive checks that pass before a server that is down gets sessions again.";
    FALL = "upstream.health" "fall", number(1, 100), Value("3"),
        "Number of consecutive checks that fail before a server is down: it gets no sessions while another one is left.";
    EJECT_AFTER = "upstream.health" "eject_after", Integer(1, 1000, Allowed), Value("5"),
        "Number of consecutive failures that eject a server: no connection, no valid response in time, a bad 101, a \
         status from 500 on, or sessions that it ends without a Close in their first second.";
    EJECT_MAX = "upstream.health" "eject_max", Percent(Refused), Value("\"50%\""),
        "Maximum share of the servers that is ejected at once.";
    SLOW_START = "upstream.health" "slow_start", span(Duration::ZERO, HOUR), Value("\"30s\""),
        "How long the weight of a server grows from a tenth to the whole after it was added, drained, unreachable or down; \
         not with `hash:`.";

    NAME = "route" "name", Text, Required,
        "The name in logs.";
    HOST = "route" "host", Text, Nothing,
        "The host that the route serves, `*.domain` for all subdomains; absent: every host.";
    PATH = "route" "path", Text, Required,
        "The path that the route serves: {name} matches one segment, {*name} matches the rest, which may be empty.";
    UPSTREAM = "route" "upstream", Text, Required,
        "The section [upstream.NAME] that serves its sessions.";
    UPSTREAM_HOST = "route" "upstream_host", Text, Nothing,
        "The value of `Host` that the upstream receives; absent: the value that the client sent.";
    AUTH = "route" "auth", TextOrList, Required,
        "The section [auth.NAME] that authenticates the clients of the route, or a list of sections, of which the \
         first that recognises the client's credential decides; `auth = \"none\"` admits every client.";
    ORIGINS = "route" "origins", StringList, Nothing,
        "The accepted web origins; absent: all.";
    MISSING_ORIGIN = "route" "missing_origin", Choice(&["allow", "refuse"]), Value("\"allow\""),
        "Whether to allow or refuse requests without `Origin`, as sent by clients other than browsers.";
    ALLOW_ADDRESSES = "route" "allow_addresses", StringList, Value("[]"),
        "The accepted client addresses and networks; empty: all.";
    DENY_ADDRESSES = "route" "deny_addresses", StringList, Value("[]"),
        "The rejected client addresses and networks; they take precedence over `allow_addresses`.";
    REQUIRE = "route" "require", Conditions, Value("{}"),
        "The conditions on token claims, all of which must hold: an accepted value, a list of accepted values, or \
         { present = true }; {name} is replaced by the text that this placeholder matched.";
    FORWARD_CLAIMS = "route" "forward_claims", Table, Value("{}"),
        "The claims to forward to the upstream, each with its header; a client with a value that no header can carry \
         is rejected.";
    STRIP_PREFIX = "route" "strip_prefix", Text, Nothing,
        "The start of `path` that is removed before the request goes to the upstream, in whole segments.";
    REPLACE_PATH = "route" "replace_path", Text, Nothing,
        "The path at the upstream, instead of the one that the client sent; the query is kept.";
    HTTP = "route" "http", Flag, Value("false"),
        "Whether the route serves ordinary HTTP requests, too. Otherwise they are answered with 426.";
    HSTS = "route" "hsts", Kind::Duration(SECOND, Duration::from_hours(2 * 366 * 24), Allowed), Value("\"off\""),
        "How long browsers use only TLS for the host: the `max-age` of `Strict-Transport-Security` (RFC 6797), in every \
         response of the route on a listener with TLS.";
    BYPASS_CORS_PREFLIGHT = "route" "bypass_cors_preflight", Flag, Value("false"),
        "Whether the preflight requests (Fetch standard) of pages of `origins` reach the upstream without a credential.";
    SERVER_HEADER = "route" "server_header", Flag, Value("false"),
        "Whether responses of the route name Tollgate in `Server`. That of the upstream is always removed.";
    REFRESH_PATH = "route" "refresh_path", Text, Nothing,
        "The path at which a `POST` with a fresh token renews the open sessions of its client on this route.";
    ON_REMOVED = "route" "on_removed", Choice(&["drain", "close"]), Value("\"drain\""),
        "How the sessions of the route end when a reload removes it or its upstream: paced over `drain_timeout`, or at \
         once.";
    SET_HEADERS_FILE = "route" "set_headers_file", Table, Value("{}"),
        "The headers that the upstream receives with secret values, each with the file that holds its value; the mode of \
         the file must give others no access.";
    SET_HEADERS = "route" "set_headers", Table, Value("{}"),
        "The headers that the upstream receives instead of the client's, with their values; {name} is replaced by the \
         decoded text that this placeholder matched.";
    REMOVE_HEADERS = "route" "remove_headers", StringList, Value("[]"),
        "Client headers that the upstream does not receive.";
    PASS_HEADERS = "route" "pass_headers", StringList, Value("[]"),
        "Client headers to forward although they are removed by default.";

    LIMIT_MODE = "route.limits" "mode", Choice(&["enforce", "report"]), Value("\"enforce\""),
        "Whether the limits below have an effect, or only count and log what they would have done. Pings, \
         `pong_timeout`, `close_timeout`, `write_timeout` and `check_utf8` always have theirs.";
    MESSAGE_RATE = "route.limits" "message_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "Rate limit on the messages of a client.";
    MESSAGE_BURST = "route.limits" "message_burst", number(1, COUNT_MAX), Derived("the count of message_rate"),
        "Number of these messages that may arrive at once.";
    BYTE_RATE = "route.limits" "byte_rate", Kind::ByteRate(1 << 10, 1 << 30, Allowed), Value("\"off\""),
        "Rate limit on the bytes of frames, with their headers, in each direction by itself.";
    BYTE_BURST = "route.limits" "byte_burst", Size(1 << 10, 1 << 30, Refused), Derived("the size of byte_rate"),
        "Number of these bytes that may arrive at once. Where bytes are delayed, a larger frame passes in parts; \
         otherwise it always exceeds the rate.";
    RATE_KEY = "route.limits" "rate_key", Choice(&["session", "subject", "address"]), Value("\"session\""),
        "The scope of `message_rate` and `byte_rate`: one session, all sessions of a token subject, or all of a client \
         address.";
    ON_EXCESS = "route.limits" "on_excess", Choice(&["close", "delay", "drop"]), Value("\"close\""),
        "Action beyond `message_rate` or `byte_rate`: close the session, delay reading, or drop messages of the client, \
         which disables compression. Messages of the upstream are delayed and never dropped.";
    MESSAGE_MAX_SIZE = "route.limits" "message_max_size", Size(1, 1 << 40, Refused), Value("\"1MiB\""),
        "Maximum size of a message from a client, over all its fragments.";
    FRAME_MAX_SIZE = "route.limits" "frame_max_size", Size(1, 1 << 40, Refused), Derived("message_max_size"),
        "Maximum size of a frame from a client.";
    UPSTREAM_MESSAGE_MAX_SIZE = "route.limits" "upstream_message_max_size", Size(1, 1 << 40, Allowed), Value("\"off\""),
        "Maximum size of a message from an upstream.";
    OVERHEAD_RATE = "route.limits" "overhead_rate", Rate(COUNT_MAX, Refused), Value("\"100/s\""),
        "Rate limit on control frames, small inner fragments and, without `message_rate`, empty messages.";
    OVERHEAD_BURST = "route.limits" "overhead_burst", number(1, COUNT_MAX), Value("200"),
        "Number of these frames that may arrive at once.";
    SESSIONS_PER_SUBJECT = "route.limits" "sessions_per_subject", number(1, COUNT_MAX), Nothing,
        "Maximum number of concurrent sessions of one token subject.";
    SESSIONS_PER_ADDRESS = "route.limits" "sessions_per_address", number(1, COUNT_MAX), Nothing,
        "Maximum number of concurrent sessions of one client address.";
    ON_SESSION_LIMIT = "route.limits" "on_session_limit", Choice(&["refuse", "close_oldest"]), Value("\"refuse\""),
        "Action beyond `sessions_per_subject` or `sessions_per_address`: answer with 429, or close the oldest session \
         with 1008 once the upstream has accepted the new one, so that an upgrade that fails closes none. A client \
         without a subject always gets 429 beyond `sessions_per_subject`.";
    IDLE_TIMEOUT = "route.limits" "idle_timeout", Kind::Duration(MS_100, Duration::from_hours(7 * 24), Allowed),
        Value("\"off\""),
        "How long a session may be without a message in either direction before it is closed.";
    PING_INTERVAL = "route.limits" "ping_interval", Kind::Duration(MS_100, HOUR, Allowed), Value("\"30s\""),
        "How long a client may be silent before it is pinged.";
    UPSTREAM_PING_INTERVAL = "route.limits" "upstream_ping_interval", Kind::Duration(MS_100, HOUR, Allowed),
        Value("\"off\""),
        "How long an upstream may be silent before it is pinged.";
    PONG_TIMEOUT = "route.limits" "pong_timeout", span(MS_100, HOUR), Value("\"10s\""),
        "How long a client or an upstream may stay silent after it was pinged.";
    CLOSE_TIMEOUT = "route.limits" "close_timeout", span(MS_100, MINUTE), Value("\"5s\""),
        "Timeout for the closing handshake.";
    WRITE_TIMEOUT = "route.limits" "write_timeout", span(MS_100, HOUR), Value("\"30s\""),
        "How long a client or an upstream may accept none of the bytes that are queued for it.";
    ON_SLOW_CLIENT = "route.limits" "on_slow_client", Choice(&["block", "close", "drop_oldest"]), Value("\"block\""),
        "Action for a client that is slower than its upstream: read the upstream no faster than the client, close the \
         session with 1008 when data has waited longer than `write_timeout`, or drop the oldest messages of the upstream, \
         which disables compression. A client that accepts nothing for `write_timeout` is always closed.";
    SLOW_CLIENT_BUFFER = "route.limits" "slow_client_buffer", Size(64 << 10, 64 << 20, Refused), Value("\"1MiB\""),
        "Memory for the messages that wait for such a client before the oldest are dropped; 96 bytes are added for each \
         frame.";
    CHECK_UTF8 = "route.limits" "check_utf8", Flag, Value("false"),
        "Whether text messages from a client must be valid UTF-8; this disables compression.";
    MAX_SESSION_AGE = "route.limits" "max_session_age",
        Kind::Duration(Duration::from_secs(1), Duration::from_hours(365 * 24), Allowed), Value("\"off\""),
        "How long a session may last; each ends up to a tenth earlier, at random, so that sessions that began together do \
         not end together.";
    REQUEST_RATE = "route.limits" "request_rate", Rate(COUNT_MAX, Allowed), Value("\"off\""),
        "Rate limit on the ordinary requests of a client, with `http = true`, by `rate_key`; they belong to no session, so \
         `session` counts them by subject. A request beyond it gets a 429.";
    REQUEST_MAX_SIZE = "route.limits" "request_max_size", Size(1, 1 << 40, Allowed), Value("\"1MiB\""),
        "Maximum size of the body of an ordinary request; a larger one gets a 413.";
}
