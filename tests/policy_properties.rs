//! Property tests of the policy: paths, routes, hosts, origins and the request quota.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use tollgate::balance::{Balance, ClosingRate, HealthConfig, Pool, UpstreamConfig, UpstreamLoss};
use tollgate::policy::address::Addresses;
use tollgate::policy::admission::Policy;
use tollgate::policy::host::{HostPattern, request_host};
use tollgate::policy::limits::{LimitMode, Limits, OnSessionLimit, OnSlowClient};
use tollgate::policy::origin::{MissingOrigin, OriginPattern, Origins};
use tollgate::policy::path::{PATH_MAX_BYTES, PATH_MAX_SEGMENTS, Path};
use tollgate::policy::pattern::PathPattern;
use tollgate::policy::quota::{Quota, Rate};
use tollgate::policy::rewrite::Rewrite;
use tollgate::policy::route::{Auth, OnRemoved, Route, RouteConfig, Routes, shadowed};
use tollgate::runtime::clock;

proptest! {
    #[test]
    fn smoke_no_text_makes_a_parser_panic(text in any::<String>(), bytes in vec(any::<u8>(), 0..64)) {
        let lossy = String::from_utf8_lossy(&bytes);
        let origins = Origins::new(Some(vec!["https://*.example.com".parse().unwrap()]), MissingOrigin::Refuse);
        prop_assert!(!origins.allow(Some(&bytes)));
        for text in [&*text, &*lossy, &format!("/{text}"), &format!("https://{text}")] {
            let _ = Path::parse(text);
            let _ = request_host(text);
            let _ = text.parse::<PathPattern>();
            let _ = text.parse::<HostPattern>();
            let _ = text.parse::<OriginPattern>();
            let _ = origins.allow(Some(text.as_bytes()));
        }
    }

    #[test]
    fn an_accepted_path_has_one_reading(raw in tricky_path()) {
        let Ok(path) = Path::parse(&raw) else { return Ok(()) };
        prop_assert!(raw.len() <= PATH_MAX_BYTES && path.segments().len() <= PATH_MAX_SEGMENTS);
        prop_assert_eq!(path.segments().len(), raw.matches('/').count());
        // Decoding again, like an upstream behind another decoder, yields no new separators, dots or controls.
        let mut layers: Vec<Vec<u8>> = path.segments().iter().map(|segment| segment.clone().into_bytes()).collect();
        for _layer in 0..3 {
            for (place, segment) in layers.iter().enumerate() {
                prop_assert!(!segment.iter().any(|byte| matches!(byte, b'/' | b'\\') || byte.is_ascii_control()));
                let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
                prop_assert!(name != b"." && name != b"..", "{raw}");
                prop_assert!(!segment.is_empty() || place + 1 == layers.len());
            }
            layers = layers.iter().map(|segment| decode_leniently(segment)).collect();
        }
    }

    #[test]
    fn an_accepted_path_survives_encoding(raw in tricky_path(), every_byte: bool) {
        let Ok(path) = Path::parse(&raw) else { return Ok(()) };
        let encoded: Vec<_> = path.segments().iter().map(|segment| encode(segment, every_byte)).collect();
        let encoded = format!("/{}", encoded.join("/"));
        if encoded.len() <= PATH_MAX_BYTES {
            prop_assert_eq!(Path::parse(&encoded), Ok(path));
        }
    }

    #[test]
    fn normalising_a_request_host_is_idempotent(text in tricky_host()) {
        let Some(host) = request_host(&text) else { return Ok(()) };
        prop_assert_eq!(request_host(&host), Some(host.clone()));
        prop_assert_eq!(request_host(&format!("{}:8443", host.to_uppercase())), Some(host.clone()));
        prop_assert_eq!(request_host(&format!("{host}:")), Some(host.clone()));
        prop_assert_eq!(host.parse::<HostPattern>(), Ok(HostPattern::Exact(host.clone().into())));
        prop_assert!(http::uri::Authority::try_from(host.as_str()).is_ok());
    }

    #[test]
    fn the_order_in_the_file_does_not_matter(
        (models, shuffled) in models().prop_flat_map(|models| (Just(models.clone()), Just(models).prop_shuffle())),
        requests in vec(request(), 1..16),
        fall_through: bool,
    ) {
        let (a, b) = (routes(&models, fall_through), routes(&shuffled, fall_through));
        prop_assert!(a.iter().map(|route| route.name()).eq(b.iter().map(|route| route.name())));
        for (host, path) in requests {
            let path = Path::parse(&path).unwrap();
            let name = |routes: &Routes| routes.find(&host, &path).map(|(route, params)| (Arc::clone(route.name()), params));
            prop_assert_eq!(name(&a), name(&b));
        }
    }

    #[test]
    fn a_lookup_agrees_with_the_naive_one(
        models in models(),
        requests in vec(request(), 1..16),
        fall_through: bool,
    ) {
        let routes = routes(&models, fall_through);
        for (host, path) in requests {
            let found = routes.find(&host, &Path::parse(&path).unwrap()).map(|(route, _params)| route.name().to_string());
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            let host_rank = |model: &&Model| (model.rank().0, model.rank().1);
            let highest = models.iter().filter(|model| model.serves(&host)).map(|model| host_rank(&model)).max();
            let asked = models.iter().filter(|model| fall_through || Some(host_rank(model)) == highest);
            let best = asked.filter(|model| model.matches(&host, &segments)).max_by_key(|model| model.rank());
            prop_assert_eq!(found, best.map(Model::name), "{} {}", host, path);
        }
    }

    #[test]
    fn shadowed_routes_match_the_same_requests(a in model(), b in model(), requests in vec(request(), 64)) {
        let parse = |model: &Model| (model.host_pattern(), model.path_text().parse::<PathPattern>().unwrap());
        let ((host_a, path_a), (host_b, path_b)) = (parse(&a), parse(&b));
        let same = shadowed((&host_a, &path_a), (&host_b, &path_b));
        prop_assert_eq!(same, a.host == b.host && a.shape() == b.shape());
        for (host, path) in requests {
            let segments: Vec<&str> = path.split('/').skip(1).collect();
            prop_assert!(!same || a.matches(&host, &segments) == b.matches(&host, &segments));
        }
    }

    #[test]
    fn only_the_origin_itself_or_a_subdomain_is_admitted(
        wildcard: bool,
        secure: bool,
        scheme in mostly(&["https", "http"], &["HTTPS", "wss", "app", ""]),
        separator in mostly(&["://"], &[":", "//", ":/", ""]),
        before in mostly(&["", "a.", "a.b."], &["evil", ".", "*.", "user@", "evil.com/", "evil.com#", " ", "\u{430}"]),
        host in mostly(&["example.com", "EXAMPLE.com"], &["example.org", "192.0.2.1", "xample.com"]),
        after in mostly(&["", ":443", ":80", ":8443"], &[":", ".", ".evil.com", "@evil.com", "/", " https://x.com", "\0"]),
    ) {
        let own_scheme = if secure { "https" } else { "http" };
        let pattern = format!("{own_scheme}://{}example.com", if wildcard { "*." } else { "" });
        let origins = Origins::new(Some(vec![pattern.parse().unwrap()]), MissingOrigin::Refuse);
        let origin = format!("{scheme}{separator}{before}{host}{after}");
        let expected = separator == "://"
            && scheme.eq_ignore_ascii_case(own_scheme)
            && host.eq_ignore_ascii_case("example.com")
            && if wildcard { matches!(before, "a." | "a.b.") } else { before.is_empty() }
            && (after.is_empty() || after == if secure { ":443" } else { ":80" });
        prop_assert_eq!(origins.allow(Some(origin.as_bytes())), expected, "{} {}", pattern, origin);
    }

    #[test]
    fn an_admitted_origin_ends_in_the_domain(text in "https://[a-c*.:@/#%0-9 \\[\\]-]{0,12}(\\.?a\\.b)?[.:0-9/]{0,4}") {
        let origins = Origins::new(Some(vec!["https://*.a.b".parse().unwrap()]), MissingOrigin::Refuse);
        if origins.allow(Some(text.as_bytes())) {
            let host = text.trim_start_matches("https://").trim_end_matches(":443");
            prop_assert!(host.ends_with(".a.b") && host.len() > ".a.b".len());
            prop_assert!(host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.')));
        }
    }
}

/// Paths made of texts that have defeated path checks elsewhere.
fn tricky_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => select(vec!["/", "/", "/", "a", "b", "é", ";", ".", "..", "%25", "%"]).prop_map(String::from),
        1 => select(vec![
            "%2f", "%2F", "%5c", "\\", "%2e", "%3b", "%252f", "%2525", "%2532f", "%00", "\0", "%7f", "%ff", "%c3%a9", "%c0%af", "?",
            "#", " ", "%20", "2f", "2e", "5c", "25", "%41", "%zz", "=", "*", "{a}",
        ]).prop_map(String::from),
        1 => any::<char>().prop_map(String::from),
    ];
    vec(part, 0..12).prop_map(|parts| format!("/{}", parts.concat()))
}

/// Mostly returns a plain value, so that often only one of several parts is odd.
fn mostly(plain: &'static [&'static str], odd: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop_oneof![4 => select(plain), 1 => select(odd)]
}

fn tricky_host() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-bA-B0-9._:@*-]{0,8}",
        "[a-z0-9-]{1,5}(\\.[a-z0-9-]{1,5}){0,3}\\.?(:[0-9]{1,6})?",
        "\\[[0-9a-f:.]{0,9}\\](:[0-9]{1,3})?"
    ]
}

/// Decodes a segment like a decoder that keeps malformed escapes.
fn decode_leniently(segment: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::new();
    let mut rest = segment;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', hex @ ..] if hex.iter().take(2).filter(|digit| digit.is_ascii_hexdigit()).count() == 2 => {
                std::str::from_utf8(&hex[..2]).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
            }
            _ => None,
        };
        decoded.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &rest[3..] } else { tail };
    }
    decoded
}

fn encode(segment: &str, every_byte: bool) -> String {
    let plain = |byte: u8| !every_byte && byte.is_ascii_alphanumeric();
    segment
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// A route of the naive lookup.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    host: Host,
    path: Vec<Segment>,
    rest: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Host {
    Any,
    Exact(&'static str),
    Below(&'static str),
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Segment {
    Literal(&'static str),
    Named(&'static str),
}

impl Model {
    fn serves(&self, host: &str) -> bool {
        match self.host {
            Host::Any => true,
            Host::Exact(exact) => exact == host,
            Host::Below(domain) => host.ends_with(&format!(".{domain}")),
        }
    }

    fn matches(&self, host: &str, path: &[&str]) -> bool {
        let length = self.path.len();
        let length_matches = if self.rest { path.len() >= length } else { path.len() == length };
        let all_match = self.path.iter().zip(path).all(|(segment, text)| match segment {
            Segment::Literal(literal) => literal == text,
            Segment::Named(_) => !text.is_empty(),
        });
        self.serves(host) && length_matches && all_match
    }

    /// Returns the rank of the route: the greater, the more specific.
    fn rank(&self) -> (u8, usize, Vec<u8>) {
        let (kind, length) = match self.host {
            Host::Any => (0, 0),
            Host::Below(domain) => (1, domain.len()),
            Host::Exact(_) => (2, 0),
        };
        let segments = self.path.iter().map(|segment| if matches!(segment, Segment::Literal(_)) { 3 } else { 2 });
        (kind, length, segments.chain([u8::from(!self.rest)]).collect())
    }

    /// Returns the path pattern without the names of placeholders.
    fn shape(&self) -> (Vec<Option<&'static str>>, bool) {
        let literal = |segment: &Segment| match segment {
            Segment::Literal(literal) => Some(*literal),
            Segment::Named(_) => None,
        };
        (self.path.iter().map(literal).collect(), self.rest)
    }

    fn path_text(&self) -> String {
        let segments = self.path.iter().enumerate().map(|(place, segment)| match segment {
            Segment::Literal(literal) => (*literal).to_owned(),
            Segment::Named(name) => format!("{{{name}{place}}}"),
        });
        let rest = self.rest.then(|| "{*rest}".to_owned());
        format!("/{}", segments.chain(rest).collect::<Vec<_>>().join("/"))
    }

    fn host_pattern(&self) -> HostPattern {
        match self.host {
            Host::Any => HostPattern::Any,
            Host::Exact(host) => host.parse().unwrap(),
            Host::Below(domain) => format!("*.{domain}").parse().unwrap(),
        }
    }

    fn name(&self) -> String {
        format!("{:?}{}", self.host, self.path_text())
    }
}

fn model() -> impl Strategy<Value = Model> {
    let host = select(vec![
        Host::Any,
        Host::Exact("x.b.c"),
        Host::Exact("b.c"),
        Host::Below("b.c"),
        Host::Below("c"),
        Host::Below("x.b.c"),
    ]);
    let segment = select(vec![Segment::Literal("x"), Segment::Literal("y"), Segment::Named("n"), Segment::Named("m")]);
    (host, vec(segment, 0..4), any::<bool>(), any::<bool>()).prop_map(|(host, mut path, rest, slash)| {
        if !rest && (slash || path.is_empty()) {
            path.push(Segment::Literal(""));
        }
        Model { host, path, rest }
    })
}

/// Routes of which no two match exactly the same requests, as the validation of the configuration ensures.
fn models() -> impl Strategy<Value = Vec<Model>> {
    vec(model(), 1..24).prop_map(|models| {
        let mut kept: Vec<Model> = Vec::new();
        for model in models {
            if !kept.iter().any(|earlier| earlier.host == model.host && earlier.shape() == model.shape()) {
                kept.push(model);
            }
        }
        kept
    })
}

fn request() -> impl Strategy<Value = (String, String)> {
    let host = select(vec!["z.x.b.c", "x.b.c", "b.c", "c", "ab.c", "bb.c"]).prop_map(String::from);
    let path = (vec(select(vec!["x", "y", "z"]), 1..5), any::<Index>(), any::<bool>());
    let path = path.prop_map(|(segments, cut, slash)| {
        let mut kept = segments[..cut.index(segments.len())].to_vec();
        if slash || kept.is_empty() {
            kept.push("");
        }
        format!("/{}", kept.join("/"))
    });
    (host, path)
}

fn routes(models: &[Model], fall_through: bool) -> Routes {
    Routes::new(models.iter().map(route).collect(), fall_through)
}

fn route(model: &Model) -> Arc<Route> {
    let second = Duration::from_secs(1);
    let overhead = Quota { rate: Rate { count: NonZeroU32::MIN, period: second }, burst: NonZeroU32::MIN };
    let config = RouteConfig {
        name: model.name().into(),
        host: model.host_pattern(),
        path: model.path_text().parse().unwrap(),
        upstream: "up".into(),
        upstream_host: None,
        auth: Vec::new(),
        origins: Origins::new(None, MissingOrigin::Allow),
        addresses: Addresses::default(),
        require: Vec::new(),
        forward_claims: Vec::new(),
        pass_headers: Vec::new(),
        rewrite: Rewrite::default(),
        refresh_path: None,
        http: false,
        hsts: None,
        bypass_cors_preflight: false,
        server_header: false,
        on_removed: OnRemoved::Drain,
        limits: Arc::new(Limits {
            mode: LimitMode::Enforce,
            bytes: None,
            messages: None,
            overhead,
            message_max_bytes: 1,
            frame_max_bytes: 1,
            upstream_message_max_bytes: None,
            sessions_per_subject: None,
            sessions_per_address: None,
            on_session_limit: OnSessionLimit::Refuse,
            idle_timeout: None,
            ping_interval: None,
            upstream_ping_interval: None,
            pong_timeout: second,
            close_timeout: second,
            write_timeout: second,
            on_slow_client: OnSlowClient::Block,
            check_utf8: false,
            max_session_age: None,
            requests: None,
            request_max_bytes: Some(1 << 20),
        }),
    };
    Arc::new(Route { config, auth: Auth::default(), pool: pool() })
}

/// A pool without servers: routes are matched without it.
fn pool() -> Arc<Pool> {
    let second = Duration::from_secs(1);
    let config = UpstreamConfig {
        name: "up".into(),
        servers: Vec::new(),
        discover: None,
        balance: Balance::default(),
        tls: None,
        health: HealthConfig { checks: None, eject_after: None, eject_max_percent: 50, slow_start: second },
        base_path: String::new(),
        connect_timeout: second,
        response_timeout: second,
        http_response_timeout: second,
        retries: 0,
        max_pending_requests: 1,
        drain_rate: ClosingRate { count: NonZeroU32::MIN, period: second },
        rebalance: None,
        loss: UpstreamLoss::default(),
        hold_upgrades: None,
        admit_rate: None,
        queue_max: 0,
        queue_timeout: second,
        proxy_protocol: false,
        title_case_headers: false,
    };
    Arc::new(Pool::new(config, clock::now()))
}

/// A /48 contains as many /64s as there are quotas. A flood from one does not use up the quotas of other clients.
#[test]
fn a_flood_from_one_48_does_not_use_up_other_quotas() {
    let rate = Rate { count: NonZeroU32::MIN, period: Duration::from_secs(60) };
    let quota = Quota { rate, burst: NonZeroU32::MIN };
    let policy = Policy::new(routes(&[], false), Some(quota), NonZeroU32::MIN, Arc::default());
    let now = tollgate::runtime::clock::now();
    let passes = |address: u128| policy.charge(Ipv6Addr::from_bits(address).into(), now).is_ok();
    let prefix = |text: &str| text.parse::<Ipv6Addr>().unwrap().to_bits();
    let flood = prefix("2001:db8:bad::");
    let flooded = (0..1_u128 << 16).filter(|subnet| passes(flood | subnet << 64)).count();
    assert!((1 << 15..=(1 << 15) + 1).contains(&flooded), "{flooded}: half of the quotas, and one shared quota");
    // Other addresses: each in a separate /48, then all in one /48, then IPv4 addresses.
    let others = prefix("2001:db9::");
    assert_eq!((0..5_000_u128).filter(|site| passes(others | site << 80)).count(), 5_000);
    let neighbours = prefix("2001:dba::");
    assert_eq!((0..1_000_u128).filter(|subnet| passes(neighbours | subnet << 64)).count(), 1_000);
    let v4 = (0..5_000_u32).filter(|n| policy.charge(Ipv4Addr::from_bits(0xc000_0200 + n).into(), now).is_ok());
    assert_eq!(v4.count(), 5_000);
}
