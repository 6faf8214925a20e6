//! The most expensive request heads of each kind, as cases: the work between the HTTP parser and the request to the
//! upstream.

use std::hint::black_box;
use std::io;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};
use tollgate::client::KeySets;
use tollgate::config::{self, Content, Files};
use tollgate::front::headers::{self, OwnHeaders, UpstreamHeaders};
use tollgate::front::snapshot::{Snapshot, SnapshotContext};
use tollgate::policy::admission::{Clocks, Policy};
use tollgate::policy::credential;
use tollgate::policy::forwarded::{Client, Scheme};
use tollgate::policy::request::RequestFacts;
use tollgate::telemetry::trace_context::TraceContext;
use tollgate::ws::handshake::{Opening, PROTOCOLS_MAX};

use super::cases::Run;

/// Sizes of a head: the default of `head_max_size` and its maximum.
pub const SIZES: [(&str, usize); 2] = [("16k", 16 << 10), ("64k", 64 << 10)];
/// The maximum of `head_max_headers`.
const HEADERS_MAX: usize = 256;

/// The kinds of heads. Each function returns a query and header lines of about this many bytes.
pub const HEADS: [(&str, fn(usize) -> Head); 14] = [
    ("plain", |_| Head::default()),
    ("protocols", |bytes| Head::line("sec-websocket-protocol", filled(bytes, ",", letters))),
    ("protocol_lines", |bytes| Head::lines(HEADERS_MAX, bytes, |_| "sec-websocket-protocol".into(), letters)),
    ("protocols_alike", |bytes| {
        let item = |n| format!("{n:X>0$}", bytes / PROTOCOLS_MAX - 1);
        Head::line("sec-websocket-protocol", (0..PROTOCOLS_MAX).map(item).collect::<Vec<_>>().join(","))
    }),
    ("connection", |bytes| Head::line("connection", format!("upgrade,{}", filled(bytes - 8, ",", letters)))),
    ("extensions", |bytes| Head::line("sec-websocket-extensions", filled(bytes, ",", letters))),
    ("extension_parameters", |bytes| {
        let parameters = filled(bytes - 19, ";", letters);
        Head::line("sec-websocket-extensions", format!("permessage-deflate;{parameters}"))
    }),
    ("quotes", |bytes| Head::line("sec-websocket-extensions", format!("a;b=\"{}", ",\\\"".repeat(bytes / 3)))),
    ("cookies", |bytes| Head::line("cookie", filled(bytes, ";", |n| format!("{}=", letters(n))))),
    ("query", |bytes| Head { query: filled(bytes - 1024, "&", |n| format!("%74{}=", letters(n))), lines: Vec::new() }),
    ("forwarded_for", |bytes| Head::line("x-forwarded-for", filled(bytes, ",", |_| "::".into()))),
    ("tracestate", |bytes| {
        let mut head = Head::line("tracestate", ",".repeat(bytes));
        head.lines.push(("traceparent".into(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()));
        head
    }),
    ("headers", |bytes| Head::lines(HEADERS_MAX, bytes, |n| format!("x_{}", letters(n)), |_| String::new())),
    ("named_headers", |bytes| {
        let named = filled(bytes / 2, ",", |n| format!("x-{}", letters(n)));
        let mut head = Head::lines(HEADERS_MAX, bytes / 2, |n| format!("x-{}", letters(n)), |_| String::new());
        head.lines.push(("connection".into(), format!("upgrade,{named}")));
        head
    }),
];

/// The query and headers of one kind of head, beyond those of every opening handshake.
#[derive(Default)]
pub struct Head {
    query: String,
    lines: Vec<(String, String)>,
}

impl Head {
    fn line(name: &str, value: String) -> Self {
        Self { query: String::new(), lines: vec![(name.to_owned(), value)] }
    }

    /// Returns `count` lines, padded so that all of them together have `bytes` bytes.
    fn lines(count: usize, bytes: usize, name: fn(usize) -> String, value: fn(usize) -> String) -> Self {
        let line = |n| (name(n), format!("{:X<1$}", value(n), bytes / count - 8));
        Self { query: String::new(), lines: (0..count).map(line).collect() }
    }

    /// Prepares the processing of the head, which can be run any number of times.
    pub fn run(self) -> Run {
        let config = config::parse(CONFIG, Path::new("tollgate.toml"), Path::new("/"), &Memory);
        let config = config.unwrap_or_else(|report| panic!("{report}"));
        let counters = Arc::default();
        let context = SnapshotContext {
            addresses: &[],
            max_sessions: NonZeroU32::MIN,
            counters: &counters,
            key_sets: &KeySets::new(tollgate::runtime::clock::now),
            acme: &Default::default(),
            now: tollgate::runtime::clock::now(),
        };
        let snapshot = Snapshot::new(&config, context).expect("no listener needs TLS");
        let uri: Uri = format!("/ws?{}", self.query).parse().unwrap();
        let mut headers = HeaderMap::new();
        let own = [
            ("host", "chat.example.com"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("authorization", &format!("Bearer {}", token())),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        // `upgrade` comes last, so that everything before it is read.
        let connection = [("connection".to_owned(), "upgrade".to_owned())];
        for (name, value) in own.into_iter().chain(self.lines).chain(connection) {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.append(name, HeaderValue::from_str(&value).unwrap());
        }
        let now = Clocks { instant: tollgate::runtime::clock::now(), unix: Duration::from_secs(1_800_000_000) };
        let address = IpAddr::from([192, 0, 2, 1]);
        Box::new(move || take(snapshot.policy(), black_box(&uri), black_box(&headers), address, now))
    }
}

/// Does the work of one request, whether it is rejected or not.
fn take(policy: &Policy, uri: &Uri, headers: &HeaderMap, address: IpAddr, now: Clocks) {
    policy.charge(address, now.instant).expect("the rate is not exceeded");
    let Ok(opening) = Opening::parse(&Method::GET, uri, Version::HTTP_11, headers) else { return };
    let facts =
        RequestFacts::of_opening(&opening, headers, Client { address, scheme: Scheme::Https, endpoints: None }, 1);
    let admission = policy.admit(&facts, now).expect("the request is admitted");
    let stripped = admission.stripped();
    assert!(!stripped.is_empty(), "the route requires a token");
    let (protocols, _) = credential::strip_protocols(stripped, &opening.protocols);
    black_box(credential::strip_query(stripped, opening.query));
    let extensions = &opening.extensions;
    let trace = TraceContext::of_request(headers, || [1; 16]);
    let span_id = [1; 8];
    let set = &[];
    let of_tollgate = OwnHeaders { request_id: "0", trace, span_id, set };
    let added = UpstreamHeaders { of_tollgate, key: "0", protocols: &protocols, extensions };
    black_box(headers::to_upstream(&facts, &admission, &added));
}

/// Returns as many items as fit into `bytes`, each followed by the separator.
fn filled(bytes: usize, between: &str, item: fn(usize) -> String) -> String {
    let mut text = String::with_capacity(bytes);
    for n in 0.. {
        let item = item(n);
        if text.len() + item.len() + between.len() > bytes {
            return text;
        }
        text += &item;
        text += between;
    }
    unreachable!("the numbers do not run out")
}

/// Returns the `n`th of the shortest distinct texts: a, b, ..., aa, ba, ...
fn letters(mut n: usize) -> String {
    let mut text = String::new();
    loop {
        text.push(char::from(b'a' + u8::try_from(n % 26).unwrap()));
        n /= 26;
        if n == 0 {
            return text;
        }
        n -= 1;
    }
}

/// Every kind of token source, of which the last one has the token, and as many forwarded claims as possible.
const CONFIG: &str = r#"
[server]
upgrade_rate = "1000000/s"

[[listener]]
address = "127.0.0.1:0"
certificates = [{ chain = "chain.pem", key = "key.pem" }]

[auth.users]
issuer = "i"
audience = ["a"]
algorithms = ["HS256"]
secret_file = "secret"
token_from = ["cookie:a", "cookie:b", "query:ta", "query:tb", "subprotocol:token", "header"]

[upstream.main]
servers = ["127.0.0.1:1"]

[[route]]
name = "main"
path = "/ws"
upstream = "main"
auth = "users"
origins = ["https://chat.example.com"]
forward_claims = { sub = "X-User-Id", c1 = "X-C1", c2 = "X-C2", c3 = "X-C3", c4 = "X-C4", c5 = "X-C5", c6 = "X-C6", c7 = "X-C7" }
pass_headers = ["X-Real-IP", "X-Original-URL"]
"#;

const SECRET: [u8; 32] = [7; 32];

fn token() -> String {
    let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let signed =
        format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(r#"{"iss":"i","aud":"a","sub":"ada","exp":1900000000}"#));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

/// A certificate, which the listener requires although nothing listens. It is fixed, so that two runs differ only in
/// their number.
const CHAIN: &str = "\
-----BEGIN CERTIFICATE-----
MIIBlDCCATugAwIBAgIUM7b0ZTmz9YDo8xtPoBRjW0JelHYwCgYIKoZIzj0EAwIw
FDESMBAGA1UEAwwJbG9jYWxob3N0MCAXDTI2MTEyNjEzNTgzNVoYDzIxMjYxMTAy
MTM1ODM1WjAUMRIwEAYDVQQDDAlsb2NhbGhvc3QwWTATBgcqhkjOPQIBBggqhkjO
PQMBBwNCAARiPL7UYT3lyWqMj8Dm0d2pQUVvm8zlSAaDs3r9cowpPS7P+WZpsW5N
/J8elasRWpNMS4PMoJFKCr1SE9hkbVc1o2kwZzAdBgNVHQ4EFgQU0KHD8BNta4N9
UxOX4wa2f56y3jswHwYDVR0jBBgwFoAU0KHD8BNta4N9UxOX4wa2f56y3jswDwYD
VR0TAQH/BAUwAwEB/zAUBgNVHREEDTALgglsb2NhbGhvc3QwCgYIKoZIzj0EAwID
RwAwRAIgQ2K/9DKpcSWcoIL11XlTOfORkJrhpE6/a9taGEj4kqsCIG38XlREWPKW
jnDp7L4RhQ2Op4UgzjkktMQE+l1zzroe
-----END CERTIFICATE-----
";
const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgPONdbwFC47suwlxD
3pNxU6hBLDd2PY+9dG2T3knBEpahRANCAARiPL7UYT3lyWqMj8Dm0d2pQUVvm8zl
SAaDs3r9cowpPS7P+WZpsW5N/J8elasRWpNMS4PMoJFKCr1SE9hkbVc1
-----END PRIVATE KEY-----
";

struct Memory;

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Content> {
        let bytes = match path.file_name().and_then(|name| name.to_str()) {
            Some("secret") => SECRET.to_vec(),
            Some("chain.pem") => CHAIN.into(),
            _ => KEY.into(),
        };
        Ok(Content { bytes, mode: 0o600 })
    }

    fn credentials(&self) -> Option<PathBuf> {
        None
    }

    fn now(&self) -> SystemTime {
        SystemTime::now()
    }
}
