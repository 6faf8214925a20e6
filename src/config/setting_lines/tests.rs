use std::fs;
use std::path::Path;

use super::*;
use SettingSection::{
    Acme, Admin, Auth, Cluster, Listener, Log, Metrics, Route, RouteLimits, Server, Upstream, UpstreamHealth,
};

/// Every form that a section can have. The number after `#` is that of the line.
const TEXT: &str = r#"# 1
admin = { address = "unix:/run/a.sock",
    payload = true } # 3
auth.partners.issuer = "partners" # 4
auth.partners.algorithms = ["ES256"] # 5
listener = [ # 6
    { address = "127.0.0.1:443", # 7
      head_max_size = "64KiB" }, { address = "[::1]:443", tls = false }, # 8
] # 9
log.level = "debug" # 10
[server] # 11
  workers = 2 # 12
# recheck_max = "off" # 13
"drain_timeout" = """
0s""" # 15
[auth.users] # 16
issuer = "https://id.example.com/" # 17
[auth."web.app"] # 18
on_expiry = "ignore" # 19
[upstream] # 20
chat = { servers = ["a:1"] } # 21
[upstream.feed] # 22
servers = [ # 23
    "b:1", # 24
] # 25
[[route]] # 26
path = "/ws" # 27
name = "chat" # 28
require.scope = "chat:write" # 29
require.room = "blue" # 30
[route.forward_claims] # 31
sub = "X-User-Id" # 32
[route.limits] # 33

message_rate = "50/s" # 35
[[route]] # 36
name = "feed" # 37
limits = { message_rate = "10/h", # 38
    on_excess = "drop" } # 39
[[route]] # 40
name = "dotted" # 41
limits.idle_timeout = "5m" # 42
limits.message_rate = "5/s" # 43
[[route]] # 44
name = "plain" # 45
[[route]] # 46
path = "/without/a/name" # 47
"#;

#[test]
fn a_key_has_its_line_or_that_of_the_header_of_its_section() {
    let (set, unset, nothing) =
        (|line| Some(SettingLine { line, is_set: true }), |line| Some(SettingLine { line, is_set: false }), None);
    let table = [
        (Server, "workers", set(12)),
        (Server, "drain_timeout", set(14)),
        (Server, "recheck_max", unset(11)),
        (Server, "no such key", unset(11)),
        (Log, "level", set(10)),
        (Log, "format", unset(10)),
        (Admin, "address", set(2)),
        (Admin, "payload", set(3)),
        (Admin, "token_file", unset(2)),
        (Metrics, "address", nothing),
        (Listener("127.0.0.1:443"), "head_max_size", set(8)),
        (Listener("127.0.0.1:443"), "tls", unset(7)),
        (Listener("[::1]:443"), "tls", set(8)),
        (Listener("[::1]:443"), "head_max_size", unset(8)),
        (Listener("0.0.0.0:443"), "tls", nothing),
        (Auth("users"), "issuer", set(17)),
        (Auth("users"), "leeway", unset(16)),
        (Auth("partners"), "issuer", set(4)),
        (Auth("partners"), "algorithms", set(5)),
        (Auth("partners"), "leeway", unset(4)),
        (Auth("web.app"), "on_expiry", set(19)),
        (Auth("chat"), "issuer", nothing),
        (Upstream("chat"), "servers", set(21)),
        (Upstream("chat"), "path", unset(21)),
        (Upstream("feed"), "servers", set(23)),
        (Upstream("users"), "servers", nothing),
        (Route("chat"), "path", set(27)),
        (Route("chat"), "require", set(29)),
        (Route("chat"), "forward_claims", set(31)),
        (Route("chat"), "origins", unset(26)),
        (Route("chat"), "message_rate", unset(26)),
        (RouteLimits("chat"), "message_rate", set(35)),
        (RouteLimits("chat"), "on_excess", unset(33)),
        (Route("feed"), "name", set(37)),
        (RouteLimits("feed"), "message_rate", set(38)),
        (RouteLimits("feed"), "on_excess", set(39)),
        (RouteLimits("feed"), "rate_key", unset(38)),
        (RouteLimits("dotted"), "message_rate", set(43)),
        (RouteLimits("dotted"), "rate_key", unset(42)),
        (RouteLimits("plain"), "message_rate", unset(44)),
        (RouteLimits("other"), "message_rate", nothing),
        (Route(""), "path", nothing),
    ];
    let lines = SettingLines::parse(TEXT);
    for (section, key, expected) in table {
        assert_eq!(lines.find(section, key), expected, "{section} {key}");
    }
}

#[test]
fn a_text_that_is_not_a_configuration_has_no_lines() {
    let texts = [
        "",
        "[server",
        "[server]\nworkers = 1\nworkers = 2",
        "server = 1\nauth = 2\nlistener = { address = \"a\" }\nroute = [1]\nupstream = [{}]",
    ];
    for text in texts {
        let lines = SettingLines::parse(text);
        for section in [Server, Auth("a"), Listener("a"), Route("a"), RouteLimits("a"), Upstream("a")] {
            assert_eq!(lines.find(section, "workers"), None, "{text}");
        }
    }
}

#[test]
fn lines_end_with_a_line_feed_alone_or_after_a_carriage_return() {
    let text = "# é\r\n[server]\r\n# \u{2028}\r\nworkers = 1\r\n";
    assert_eq!(SettingLines::parse(text).find(Server, "workers"), Some(SettingLine { line: 4, is_set: true }));
}

/// In the file with every key, the line of each key has the key.
#[test]
fn every_key_of_the_example_is_found() {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config/valid/everything.toml"));
    let text = text.unwrap();
    let (lines, rows) = (SettingLines::parse(&text), text.lines().collect::<Vec<_>>());
    let auths = ["users", "machines", "partners", "sso", "visitors", "devices"].map(Auth);
    let listeners =
        ["127.0.0.1:443", "unix:/run/tollgate/http.sock", "0.0.0.0:80", "[::1]:443", "systemd:public"].map(Listener);
    let mut sections = vec![
        Server,
        Log,
        Admin,
        Metrics,
        Cluster,
        Upstream("chat"),
        Upstream("listed"),
        UpstreamHealth("chat"),
        RouteLimits("chat"),
    ];
    sections.extend([Upstream("local"), Acme("ca")]);
    sections.extend(["chat", "feed"].map(Route));
    sections.extend(auths.into_iter().chain(listeners));
    let inline = ["listener.certificates", "upstream.servers", "upstream.tls", "upstream.cookie"];
    for key in KEYS.iter().filter(|key| !inline.contains(&key.section)) {
        let found: Vec<_> = sections
            .iter()
            .filter(|section| section.kind() == key.section)
            .filter_map(|section| lines.find(*section, key.name))
            .filter(|found| found.is_set)
            .collect();
        assert!(!found.is_empty(), "{}.{}", key.section, key.name);
        for SettingLine { line, .. } in found {
            assert!(rows[line - 1].contains(key.name), "{}.{}: line {line}", key.section, key.name);
        }
    }
}

#[test]
fn a_section_is_shown_as_the_file_has_it() {
    let table = [
        (Server, "[server]"),
        (Log, "[log]"),
        (Admin, "[admin]"),
        (Metrics, "[metrics]"),
        (Cluster, "[cluster]"),
        (Listener("0.0.0.0:443"), "[[listener]] \"0.0.0.0:443\""),
        (Acme("ca"), "[acme.ca]"),
        (Auth("users"), "[auth.users]"),
        (Auth("web.app"), "[auth.\"web.app\"]"),
        (Upstream("chat"), "[upstream.chat]"),
        (Route("chat"), "[[route]] \"chat\""),
        (UpstreamHealth("chat"), "[upstream.chat.health]"),
        (UpstreamHealth("chat.eu"), "[upstream.\"chat.eu\".health]"),
        (RouteLimits("chat"), "[route.limits] of \"chat\""),
    ];
    for (section, expected) in table {
        assert_eq!(section.to_string(), expected);
        assert!(super::super::keys::SECTIONS.iter().any(|form| form.name == section.kind()), "{section}");
    }
}

/// A query may have a key of an account.
#[test]
fn values_are_shown_without_the_queries_of_urls() {
    let long = "x".repeat(2 * VALUE_MAX_BYTES);
    let text = format!(
        "[auth.users]\njwks_url = \"https://id.example/keys?key=secret\" # comment\nissuer = 'https://a/?b=c'\n\
         audience = [\"https://a\", \"https://b?c\", \"why?\"]\nsubject_claim = \"{long}\"\n"
    );
    let lines = SettingLines::parse(&text);
    let shown: Vec<_> =
        lines.settings(SettingSection::Auth("users")).map(|setting| (setting.key, &*setting.value)).collect();
    assert_eq!(
        shown[..3],
        [
            ("jwks_url", "\"https://id.example/keys?...\""),
            ("issuer", "'https://a/?...'"),
            ("audience", "[\"https://a\", \"https://b?...\", \"why?\"]"),
        ]
    );
    assert_eq!((shown[3].0, shown[3].1.len()), ("subject_claim", VALUE_MAX_BYTES));
}
