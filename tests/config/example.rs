//! Compares `config/example.toml` with the table of keys: it documents every key with description, bounds and default,
//! and the reader behaves as documented.

use std::collections::BTreeSet;

use tollgate::config::Config;
use tollgate::config::keys::{Default, KEYS, Key, Kind};

use super::{example, parse, with_line};

/// One key of the example: its line, its value, and the comment above it.
#[derive(Debug)]
struct Documented {
    line: usize,
    key: &'static Key,
    /// Whether the line is commented out with `# `.
    commented: bool,
    value: String,
    comment: String,
}

/// The sections that are written as inline tables, and so documented with the key that has them.
const INLINE: [&str; 4] = ["listener.certificates", "upstream.servers", "upstream.tls", "upstream.cookie"];

/// Parses the example. A line `# key = value` counts as a key, so every such line must name one.
fn documented(text: &str) -> Vec<Documented> {
    let mut section = "";
    let mut comment = String::new();
    let mut keys = Vec::new();
    for (line, written) in text.lines().enumerate() {
        if written.starts_with('[') {
            section = written.trim_matches(['[', ']']);
            section = match section {
                "route.limits" => section,
                "upstream.chat.health" => "upstream.health",
                named => named.split('.').next().unwrap(),
            };
            comment.clear();
            continue;
        }
        let bare = written.strip_prefix("# ").unwrap_or(written);
        let name = bare.split(" = ").next().unwrap();
        let is_key = bare.contains(" = ") && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !is_key {
            if written.is_empty() {
                comment.clear();
            } else {
                comment.push_str(bare);
                comment.push(' ');
            }
            continue;
        }
        let key = KEYS.iter().find(|key| (key.section, key.name) == (section, name));
        keys.push(Documented {
            line,
            key: key.unwrap_or_else(|| panic!("line {}: [{section}] has no key {name}", line + 1)),
            commented: bare != written,
            value: bare.split_once(" = ").unwrap().1.to_owned(),
            comment: std::mem::take(&mut comment),
        });
    }
    keys
}

/// Formats a configuration without the one field that differs between a default and the same value in the file.
fn comparable(config: &Config) -> String {
    let Config { server, log, listeners, routes, upstreams, cluster, .. } = config;
    let mut server = server.clone();
    server.max_sessions.explicit = false;
    format!("{server:?} {log:?} {listeners:?} {routes:?} {upstreams:?} {cluster:?}")
}

#[test]
fn the_example_loads_without_a_warning() {
    let config = parse(&example()).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
}

#[test]
fn the_example_documents_every_key() {
    let text = example();
    let documented = documented(&text);
    let inline: Vec<&Key> = KEYS.iter().filter(|key| INLINE.contains(&key.section)).collect();
    let names: Vec<_> = documented.iter().map(|one| (one.key.section, one.key.name)).collect();
    let known: Vec<_> = KEYS.iter().filter(|key| !inline.contains(key)).map(|key| (key.section, key.name)).collect();
    assert_eq!(names, known);

    for one in documented {
        let default = match one.key.default {
            Default::Required => "Required.".to_owned(),
            Default::Value(text) | Default::Derived(text) => format!("Default: {text}."),
            Default::Nothing => "No default.".to_owned(),
        };
        for part in [one.key.doc, &one.key.bounds(), &default] {
            assert!(one.comment.contains(part), "line {}: expected {part:?} in {:?}", one.line, one.comment);
        }
        let inner = format!("{}.{}", one.key.section, one.key.name);
        if INLINE.contains(&&*inner) {
            for key in inline.iter().filter(|key| key.section == inner) {
                let comment = one.comment.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(comment.contains(&format!("{}: {}", key.name, key.doc)), "{comment:?}");
                assert!(comment.contains(&key.bounds()), "{comment:?}");
                assert!(one.value.contains(&format!("{} = ", key.name)), "{}", one.value);
            }
        }
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let example = example();
    for one in documented(&example) {
        // A burst without its rate would be an error.
        let rate = if one.key.name == "byte_burst" { "byte_rate = \"1MiB/s\"" } else { "# byte_rate = \"off\"" };
        let text = example.replace("# byte_rate = \"off\"", rate);
        // So would be a buffer without messages that it could drop.
        let slow = if one.key.name == "slow_client_buffer" { "drop_oldest" } else { "block" };
        let line = "# on_slow_client = \"block\"";
        let text = text.replace(line, &format!("on_slow_client = \"{slow}\""));
        let plain = comparable(&parse(&text).unwrap());
        if let Default::Value(default) = one.key.default
            && one.commented
        {
            assert_eq!(one.value, default, "line {}", one.line);
        }
        let depends = matches!(one.key.default, Default::Value(_) | Default::Derived(_));
        if one.commented && depends {
            let written = with_line(&text, one.line, &format!("{} = {}", one.key.name, one.value));
            let config = parse(&written).unwrap_or_else(|report| panic!("{}: {report}", one.key.name));
            assert_eq!(comparable(&config), plain, "{}", one.key.name);
        }
        if let (Default::Value(default), false) = (one.key.default, one.commented) {
            let burst = |line: &str| line.starts_with("upgrade_burst") || line.starts_with("message_burst");
            assert!(!text.lines().any(burst), "a burst without its rate would be an error");
            let without = comparable(&parse(&with_line(&text, one.line, "")).unwrap());
            let written = with_line(&text, one.line, &format!("{} = {default}", one.key.name));
            assert_eq!(comparable(&parse(&written).unwrap()), without, "{}", one.key.name);
        }
    }
}

/// Returns the diagnostics of the example with another value for one of its keys.
fn said_about(text: &str, one: &Documented, value: &str) -> String {
    let written = with_line(text, one.line, &format!("{} = {value}", one.key.name));
    parse(&written).map_or_else(|report| report.to_string(), |config| config.warnings.to_string())
}

#[test]
fn every_key_is_read() {
    let text = example();
    for one in documented(&text) {
        // Only one source of keys is allowed.
        let other = one.key.section == "auth" && matches!(one.key.kind, Kind::File) && one.commented;
        let text = if other { text.replace("\njwks_file", "\n#jwks_file") } else { text.clone() };
        let said = said_about(&text, &one, "1979-05-27");
        assert!(said.contains(&format!("error: `{}` must be ", one.key.name)), "{}: {said}", one.key.name);
        assert!(said.contains("this is a date or time"), "{}: {said}", one.key.name);
    }
    let servers = text.lines().position(|line| line.starts_with("servers = ")).unwrap();
    for (name, expected) in [
        ("address", "a string"),
        ("weight", "a whole number"),
        ("max_sessions", "a whole number"),
        ("drain", "true or"),
    ] {
        let line = format!("servers = [{{ address = \"a:1\", {name} = 1979-05-27 }}]");
        let line = if name == "address" { line.replace("address = \"a:1\", ", "") } else { line };
        let said = parse(&with_line(&text, servers, &line)).unwrap_err().to_string();
        assert!(said.contains(&format!("error: `{name}` must be {expected}")), "{name}: {said}");
    }
    let tls = text.lines().position(|line| line.starts_with("# tls = {")).unwrap();
    for name in ["ca", "server_name", "certificate", "key", "min_version"] {
        let line = format!("tls = {{ certificate = \"cert.pem\", key = \"key.pem\", {name} = 1979-05-27 }}");
        let line = line.replace(&format!("{name} = \"{}.pem\", ", if name == "key" { "key" } else { "cert" }), "");
        let said = parse(&with_line(&text, tls, &line)).unwrap_err().to_string();
        assert!(said.contains(&format!("error: `{name}` must be a string")), "{name}: {said}");
    }
    for name in ["chain", "key"] {
        let written = text.replace(&format!("{name} = \""), &format!("{name} = 1979-05-27 #\""));
        let written = written.replace("certificates = [{ chain", "certificates = [{\nchain");
        let written = written.replace("27 #\"fullchain.pem\",", "27,").replace("27 #\"privkey.pem\"", "27");
        let said = parse(&written).unwrap_err().to_string();
        assert!(said.contains(&format!("error: `{name}` must be a string")), "{said}");
    }
}

#[test]
fn bounds_are_enforced_and_inclusive() {
    let text = example();
    for one in documented(&text) {
        let (below, lowest, highest, above) = match one.key.kind {
            Kind::Integer(min, max, _) => {
                let [below, above] = [i64::from(min) - 1, i64::from(max) + 1];
                (below.to_string(), min.to_string(), max.to_string(), above.to_string())
            }
            Kind::Duration(min, max, _) => {
                let shown = |millis: u128| format!("\"{millis}ms\"");
                let (min, max) = (min.as_millis(), max.as_millis());
                // No duration is shorter than zero, so the maximum is exceeded twice.
                let below = if min == 0 { max + 1 } else { min - 1 };
                (shown(below), shown(min), shown(max), shown(max + 1))
            }
            Kind::Size(min, max, _) => {
                let shown = |bytes: u64| format!("\"{bytes}B\"");
                (shown(min - 1), shown(min), shown(max), shown(max + 1))
            }
            Kind::ByteRate(min, max, _) => {
                let shown = |bytes: u64| format!("\"{bytes}B/s\"");
                (shown(min - 1), shown(min), shown(max), shown(max + 1))
            }
            Kind::Rate(max, _) => {
                let shown = |count: u32| format!("\"{count}/s\"");
                (shown(0), shown(1), shown(max), shown(max + 1))
            }
            _ => continue,
        };
        for value in [below, above] {
            let said = said_about(&text, &one, &value);
            assert!(said.contains("must be between "), "{} = {value}: {said}", one.key.name);
        }
        for value in [lowest, highest] {
            let said = said_about(&text, &one, &value);
            assert!(!said.contains("must be between "), "{} = {value}: {said}", one.key.name);
        }
    }
}

#[test]
fn off_is_accepted_only_where_it_is_documented() {
    let text = example();
    for one in documented(&text) {
        use Kind::{ByteRate, Duration, Integer, Rate, Size};
        if matches!(one.key.kind, Integer(..) | Duration(..) | Size(..) | Rate(..) | ByteRate(..)) {
            let said = said_about(&text, &one, "\"off\"");
            let refused = said.contains("\"off\" cannot be the value") || said.contains("must be a whole number");
            assert_eq!(!refused, one.key.bounds().contains("\"off\""), "{}: {said}", one.key.name);
        }
    }
}

#[test]
fn a_choice_accepts_only_its_words() {
    let text = example();
    for one in documented(&text) {
        let Kind::Choice(words) = one.key.kind else { continue };
        // A section of another kind needs other keys: `everything.toml` has one.
        // A listener with TLS does not redirect: `acme.toml` has one that does.
        for word in words.iter().filter(|word| !["forward", "https"].contains(word)) {
            let said = said_about(&text, &one, &format!("\"{word}\""));
            assert!(!said.contains("error"), "{} = {word}: {said}", one.key.name);
        }
        let said = said_about(&text, &one, "\"other\"");
        let list = words.iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
        assert!(said.contains(&format!("must be one of {list}")), "{said}");
    }
}

#[test]
fn keys_are_unique() {
    let unique: BTreeSet<_> = KEYS.iter().map(|key| (key.section, key.name)).collect();
    assert_eq!(unique.len(), KEYS.len());
}
