//! The properties that hold for any input, one function per fuzz target. A function panics if its property does not
//! hold.

// Each fuzz target uses one function and a part of the harness.
#![allow(dead_code)]

#[path = "claims.rs"]
mod claims;
#[path = "handover.rs"]
mod handover;
#[path = "../harness/mod.rs"]
pub mod harness;
#[path = "proxies.rs"]
mod proxies;
#[path = "record.rs"]
mod record;

use std::io;
use std::path::{Path as FilePath, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
pub use claims::{claims, is_present};
pub use handover::{handover, is_good_handover};
use harness::relay::{Relay, Setup, quota};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version};
use jsonwebtoken::Algorithm;
pub use proxies::{forwarded, proxy_header};
pub use record::record;
use tollgate::config::{self, Content, Files};
use tollgate::policy::claim_path::ClaimPath;
use tollgate::policy::credential::{self, TokenSource};
use tollgate::policy::expiry::OnExpiry;
use tollgate::policy::host::{HostPattern, request_host};
use tollgate::policy::key::KeySet;
use tollgate::policy::limits::OnExcess;
use tollgate::policy::path::{PATH_MAX_BYTES, PATH_MAX_SEGMENTS, Path};
use tollgate::policy::pattern::PathPattern;
use tollgate::policy::token::{Verifier, VerifierConfig};
use tollgate::session::Side;
use tollgate::ws::close::Close;
use tollgate::ws::frame::{CONTROL_MAX_BYTES, HEADER_MAX_BYTES, Header};
use tollgate::ws::handshake::{Answer, EXTENSIONS_MAX, Opening, PROTOCOLS_MAX, accept};
use tollgate::ws::inspector::{Inspector, Next, Rules};
use tollgate::ws::violation::Violation;

/// Checks frame headers, and the rules of one direction. The first byte selects the rules.
pub fn frame(data: &[u8]) {
    if let Ok(Some(header)) = Header::decode(data) {
        let mut written = Vec::new();
        header.encode(&mut written);
        assert_eq!(written, data[..header.len]);
        assert!(header.len <= HEADER_MAX_BYTES && header.payload_len < 1 << 63);
        assert!(!header.opcode.is_control() || header.payload_len <= CONTROL_MAX_BYTES as u64);
    }
    let _ = Close::parse(data);
    let Some((options, stream)) = data.split_first() else { return };
    let max = |unlimited: bool, max: u64| if unlimited { u64::MAX } else { max };
    let rules = Rules {
        masked: options & 1 != 0,
        compressed: options & 2 != 0,
        frame_max_bytes: max(options & 4 != 0, 100),
        message_max_bytes: max(options & 8 != 0, 150),
        check_utf8: options & 16 != 0,
    };
    let whole = inspect(rules, stream, stream.len().max(1));
    for piece in [1, 3] {
        assert_eq!(inspect(rules, stream, piece), whole, "in pieces of {piece}");
    }
}

/// Inspects a stream in pieces. Returns the headers of its frames, and the violation that stopped the inspector.
fn inspect(rules: Rules, stream: &[u8], piece: usize) -> (Vec<Header>, Option<Violation>) {
    let mut inspector = Inspector::new(rules);
    let mut headers = Vec::new();
    let mut at = 0;
    for end in (piece..stream.len() + piece).step_by(piece).map(|end| end.min(stream.len())) {
        loop {
            let rest = &stream[at..end];
            let judged = inspector.look(rest).and_then(|next| match next {
                Next::Incomplete => Ok(0),
                Next::Payload(n) => inspector.payload(&rest[..n]).map(|()| n),
                Next::Data(header) => {
                    headers.push(header);
                    inspector.begin(&header).map(|()| header.len)
                }
                Next::Control(header) => {
                    headers.push(header);
                    Ok(header.len + header.payload_len as usize)
                }
            });
            match judged {
                Ok(0) => break,
                Ok(taken) => at += taken,
                Err(violation) => return (headers, Some(violation)),
            }
            assert!(at <= end);
            assert!(inspector.at_boundary() || !rest.is_empty());
        }
    }
    (headers, None)
}

/// Checks a whole session. The first two bytes select its limits. Every further byte is an event; the bytes that a side
/// sends follow their event.
pub fn session(data: &[u8]) {
    let [first, second, events @ ..] = data else { return };
    let bit = |byte: &u8, place: u8| byte >> place & 1 != 0;
    let span = |set: bool| set.then_some(Duration::from_secs(10));
    let mut setup = Setup::lenient().with(|limits| {
        limits.check_utf8 = bit(first, 0);
        limits.ping_interval = span(bit(first, 1));
        limits.upstream_ping_interval = span(bit(first, 2));
        limits.idle_timeout = span(bit(first, 3));
        limits.message_max_bytes = if bit(first, 4) { 100 } else { u64::MAX };
        limits.overhead = quota(1, if bit(first, 5) { 5 } else { 10_000 });
    });
    setup.compressed = bit(first, 6);
    setup.expires_after = span(bit(first, 7));
    setup.limits.max_session_age = setup.expires_after.map(|span| 2 * span);
    setup.age_jitter = u16::MAX;
    let on_excess = [None, Some(OnExcess::Close), Some(OnExcess::Delay), Some(OnExcess::Drop)];
    if let Some(on_excess) = on_excess[usize::from(second & 3)] {
        setup = setup.rate(1, 3, on_excess);
    }
    if bit(second, 2) {
        setup = setup.byte_rate(50, 100, on_excess[usize::from(second & 3)].unwrap_or(OnExcess::Close));
    }
    if bit(second, 3) {
        setup = setup.reporting();
    }
    if bit(second, 4) {
        setup.loss_delay = Duration::from_secs(5);
    }
    let pings = bit(first, 1) || bit(first, 2);
    let all_passes = second & 3 < 2 && !pings;

    let mut relay = Relay::new(setup, Instant::now());
    let mut arrived = [Vec::new(), Vec::new()];
    let mut rest = events;
    while let Some((event, tail)) = rest.split_first() {
        rest = tail;
        let side = Side::BOTH[usize::from(event & 1)];
        let amount = event >> 4;
        match event >> 1 & 7 {
            0..=2 => {
                let (bytes, tail) = rest.split_at(rest.len().min(4 * usize::from(amount) + 1));
                rest = tail;
                arrived[usize::from(event & 1)].extend_from_slice(bytes);
                relay.arrive(side, bytes);
            }
            3 => relay.pass(Duration::from_secs(u64::from(amount))),
            4 => relay.block(side),
            5 => relay.unblock(side),
            6 if amount == 15 => relay.lose(side),
            6 => relay.oversleep(Duration::from_secs(u64::from(amount))),
            _ => relay.drain_in(Duration::from_secs(u64::from(amount))),
        }
    }
    relay.lose(Side::Client);
    relay.lose(Side::Upstream);
    assert!(relay.outcome.is_some(), "the session has not ended although both sides are disconnected");
    for (side, arrived) in Side::BOTH.into_iter().zip(&arrived) {
        // Decoding panics at the first frame that a peer would reject.
        relay.frames(side);
        let forwarded = relay.forwarded(side.other());
        assert!(!all_passes || arrived.starts_with(&forwarded), "the {side:?} did not send the forwarded bytes");
    }
}

/// Checks both heads of an opening handshake: the lines are a request, or an answer if the first starts with a status
/// code.
pub fn handshake(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let start = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let mut headers = HeaderMap::new();
    for line in lines {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value)
            && headers.try_append(name, value).is_err()
        {
            return;
        }
    }
    let mut words = start.split(' ');
    let mut word = || words.next().unwrap_or_default();
    if let Ok(status) = word_as_status(&start) {
        let key = "dGhlIHNhbXBsZSBub25jZQ==";
        let offered = ["chat", "superchat"];
        let offers: [&[&str]; 2] = [&[], &["permessage-deflate; client_max_window_bits"]];
        for extensions in offers {
            if let Ok(answer) = Answer::parse(status, Version::HTTP_11, &headers, key, &offered, extensions) {
                assert_eq!(status, StatusCode::SWITCHING_PROTOCOLS);
                assert!(answer.protocol.is_none_or(|protocol| offered.contains(&protocol)));
                assert!(
                    answer
                        .extension
                        .is_none_or(|extension| !extensions.is_empty() && extension.contains("permessage-deflate"))
                );
                assert!(headers.get_all("sec-websocket-accept").iter().eq([accept(key).as_str()]));
            }
        }
        return;
    }
    let Ok(method) = Method::from_bytes(word().as_bytes()) else { return };
    let Ok(uri) = word().parse::<Uri>() else { return };
    let version = if word() == "HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 };
    if let Ok(opening) = Opening::parse(&method, &uri, version, &headers) {
        assert_eq!((method, version), (Method::GET, Version::HTTP_11));
        assert!(opening.path.starts_with('/'));
        assert!(opening.key.len() == 24 && opening.key.ends_with("=="));
        assert!(opening.protocols.len() <= PROTOCOLS_MAX && opening.extensions.len() <= EXTENSIONS_MAX);
        assert_eq!(headers.get_all("host").iter().count(), 1);
        assert!(!headers.contains_key("transfer-encoding"));
        for (place, protocol) in opening.protocols.iter().enumerate() {
            assert!(!protocol.is_empty() && !protocol.contains([',', ' ', '"']));
            assert!(!opening.protocols[..place].contains(protocol));
        }
    }
}

fn word_as_status(start: &str) -> Result<StatusCode, http::status::InvalidStatusCode> {
    StatusCode::from_bytes(start.split(' ').next().unwrap_or_default().as_bytes())
}

/// Checks that a configuration is accepted, or rejected with diagnostics whose spans are within it, and that the report
/// can be displayed.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let report = match config::parse(text, FilePath::new("t.toml"), FilePath::new("/etc"), &Memory) {
        Ok(config) => {
            assert!(!config.listeners.is_empty() && !config.routes.is_empty());
            for route in &config.routes {
                let upstream = &route.upstream;
                let exists = config.upstreams.iter().any(|known| known.name == *upstream);
                assert!(exists, "the upstream of a route does not exist");
                let has_verifier = route.auth.iter().all(|auth| config.auths.contains_key(auth));
                assert!(has_verifier, "the verifier of a route does not exist");
                assert!(route.limits.frame_max_bytes <= route.limits.message_max_bytes);
            }
            assert!(!config.warnings.has_errors());
            config.warnings
        }
        Err(report) => {
            assert!(report.has_errors());
            report
        }
    };
    for diagnostic in report.diagnostics() {
        let related = diagnostic.related.as_ref().map(|(span, _)| span);
        // Only a missing section does not have a span.
        let Some(span) = diagnostic.span.as_ref() else {
            assert!(diagnostic.message.starts_with("there is no "), "{diagnostic:?} does not have a span");
            continue;
        };
        for span in [span].into_iter().chain(related) {
            assert!(text.get(span.clone()).is_some(), "the span of {diagnostic:?} is not within the text");
        }
    }
    assert_eq!(report.lines().count(), report.diagnostics().len().min(50), "the report has at most 50 lines");
    let shown = report.to_string();
    assert!(shown.is_empty() == report.is_empty());
    assert!(!shown.contains("internal error: "), "{shown}");
}

/// The files that configurations refer to, in memory. The certificate is generated once.
struct Memory;

impl Files for Memory {
    fn read(&self, path: &FilePath) -> io::Result<Content> {
        static CERTIFICATE: OnceLock<(String, String)> = OnceLock::new();
        let (chain, key) = CERTIFICATE.get_or_init(|| {
            let made = rcgen::generate_simple_self_signed(["chat.example.com".to_owned()]);
            let made = made.expect("a certificate can be made");
            (made.cert.pem(), made.signing_key.serialize_pem())
        });
        let bytes = match path.file_name().and_then(|name| name.to_str()) {
            Some("cert.pem") => chain.clone().into_bytes(),
            Some("key.pem") => key.clone().into_bytes(),
            Some("jwks.json") => KEYS.as_bytes().to_vec(),
            Some("secret") => SECRET.to_vec(),
            Some("empty") => Vec::new(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Content { bytes, mode: 0o600 })
    }

    fn credentials(&self) -> Option<PathBuf> {
        Some("/credentials".into())
    }

    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + config::BUILT
    }
}

/// Checks paths, patterns and hosts: the first line is a pattern, the second a path, the rest a host.
pub fn route(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let mut lines = text.splitn(3, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let (pattern, path, host) = (line(), line(), line());
    let path = Path::parse(path);
    if let Ok(path) = &path {
        let segments = path.segments();
        assert!((1..=PATH_MAX_SEGMENTS).contains(&segments.len()));
        let length: usize = segments.iter().map(|segment| segment.len() + 1).sum();
        assert!(length <= PATH_MAX_BYTES);
        for (place, segment) in segments.iter().enumerate() {
            assert!(!segment.is_empty() || place + 1 == segments.len());
            assert!(!matches!(segment.as_str(), "." | ".."));
            assert!(!segment.contains(|c: char| matches!(c, '/' | '\\') || c.is_control()));
        }
    }
    if let Ok(pattern) = pattern.parse::<PathPattern>() {
        assert!(pattern.same_shape(&pattern));
        if let Some(params) = path.as_ref().ok().and_then(|path| pattern.matches(path)) {
            assert!(pattern.names().all(|name| params.get(name).is_some()));
        }
    }
    if let Some(host) = request_host(host) {
        assert_eq!(request_host(&host).as_ref(), Some(&host));
        assert!(host.is_ascii() && !host.contains(|c: char| c.is_ascii_uppercase() || c.is_whitespace()));
        let exact = host.parse::<HostPattern>().expect("a host is a pattern of itself");
        assert!(exact.matches(&host));
    }
    let _ = host.parse::<HostPattern>();
}

/// The public key of the example in RFC 7515 appendix A.3, and a shared secret.
const KEYS: &str = r#"{"keys":[
    {"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"},
    {"kty":"oct","kid":"s","k":"MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"}
]}"#;
const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The signing input of that example, and the only one with an ES256 signature: a fuzzer cannot sign another.
const SIGNED: &str = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
/// A second before those claims expire.
const NOW: Duration = Duration::from_secs(1_300_819_379);

/// Checks tokens: every token that is accepted was signed and expires.
pub fn token(data: &[u8]) {
    static VERIFIER: OnceLock<Verifier> = OnceLock::new();
    let verifier = VERIFIER.get_or_init(|| {
        let algorithms = vec![Algorithm::ES256, Algorithm::HS256];
        Verifier::new(VerifierConfig {
            keys: KeySet::from_jwks(KEYS.as_bytes(), &algorithms).expect("the keys are good").into(),
            algorithms,
            issuer: Some("joe".to_owned()),
            audience: Vec::new(),
            subject_claim: ClaimPath::registered("sub"),
            leeway: Duration::ZERO,
            on_expiry: OnExpiry::default(),
            sources: vec![TokenSource::Header],
            forward_token: false,
            max_bytes: 8192,
            claims: vec!["realm.role".parse().expect("a name")],
        })
    });
    let Ok(text) = std::str::from_utf8(data) else { return };
    token_sources(text);
    let at = [NOW, Duration::ZERO, Duration::MAX].map(|now| verifier.verify(text, now));
    assert!(at[2].is_err(), "the token never expires");
    for claims in at.into_iter().flatten() {
        let (message, signature) = text.rsplit_once('.').expect("a token has parts");
        let signature = URL_SAFE_NO_PAD.decode(signature).expect("a signature is base64url");
        let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
        let signed = message == SIGNED || hmac::verify(&key, message.as_bytes(), &signature).is_ok();
        assert!(signed, "{text} was not signed");
        assert!(claims.expires().is_some_and(|expires| expires > Duration::ZERO));
    }
}

/// Checks text as a query and as a list of subprotocols: after a token is stripped, no token is found in the rest.
fn token_sources(text: &str) {
    let sources = ["query:token", "subprotocol:bearer", "subprotocol_prefix:base64url.bearer."];
    let sources = sources.map(|source| source.parse().expect("a source"));
    let headers = HeaderMap::new();
    let queries = [text.to_owned(), format!("token={text}"), format!("a=1&%74oken={text}&b=2")];
    for query in &queries {
        let found = credential::find(&sources, &headers, Some(query), &[]);
        if let Ok(Some(token)) = &found {
            assert!(!token.is_empty() && token.len() <= query.len());
        }
        let rest = credential::strip_query(&sources, Some(query));
        assert_eq!(credential::find(&sources, &headers, rest.as_deref(), &[]), Ok(None), "{query}");
        assert_eq!(credential::strip_query(&sources, rest.as_deref()), rest);
    }
    let prefixed = format!("base64url.bearer.{text}");
    let protocols: Vec<&str> = text.split(',').chain([prefixed.as_str(), "bearer", text]).collect();
    let (kept, marker) = credential::strip_protocols(&sources, &protocols);
    assert!(marker.is_some_and(|marker| protocols.contains(&marker)));
    assert_eq!(credential::find(&sources, &headers, None, &kept), Ok(None), "{protocols:?}");
}

/// Whether a token is accepted, for the test that the corpus has seeds that are.
pub fn is_admitted_token(data: &[u8]) -> bool {
    let algorithms = [Algorithm::ES256, Algorithm::HS256];
    let keys = KeySet::from_jwks(KEYS.as_bytes(), &algorithms).expect("the keys are good");
    let parts = VerifierConfig {
        keys: keys.into(),
        algorithms: algorithms.to_vec(),
        issuer: Some("joe".to_owned()),
        audience: Vec::new(),
        subject_claim: ClaimPath::registered("sub"),
        leeway: Duration::ZERO,
        on_expiry: OnExpiry::default(),
        sources: Vec::new(),
        forward_token: false,
        max_bytes: 8192,
        claims: Vec::new(),
    };
    std::str::from_utf8(data).is_ok_and(|text| Verifier::new(parts).verify(text, NOW).is_ok())
}

/// Whether a configuration is accepted, for the same test.
pub fn is_good_config(data: &[u8]) -> bool {
    let read = |text: &str| config::parse(text, FilePath::new("t.toml"), FilePath::new("/etc"), &Memory).is_ok();
    std::str::from_utf8(data).is_ok_and(read)
}
