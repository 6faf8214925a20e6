//! The configuration as operators meet it: the example in the repository, files that load, and files that do not, each
//! with what is said about it. `UPDATE_GOLDEN=1` writes what is said anew.

#[path = "config/fixtures.rs"]
mod fixtures;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use proptest::prelude::*;
use tollgate::config::keys::{Absent, KEYS, Key, Kind};
use tollgate::config::{self, Config, Content, Disk, Files, Report};

/// Parses a text whose files are the fixtures.
fn parse(text: &str) -> Result<Config, Report> {
    parse_as("tollgate.toml", text)
}

fn parse_as(file_name: &str, text: &str) -> Result<Config, Report> {
    config::parse(text, Path::new(file_name), fixtures::folder(), &Fixtures { credentials: None })
}

/// The files of this machine, but its own credentials, so that no test depends on where it runs.
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

/// The configurations in a folder, in order; a folder without any would test nothing.
fn cases(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/config").join(folder);
    let mut paths: Vec<_> = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "toml"));
    paths.sort();
    assert!(!paths.is_empty(), "{} holds no configuration", folder.display());
    paths
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

#[test]
fn faults_are_shown_as_pinned() {
    let mut differing = Vec::new();
    for path in cases("invalid") {
        let name = path.file_name().unwrap().to_str().unwrap();
        let said = match parse_as(name, &fs::read_to_string(&path).unwrap()) {
            Ok(config) => format!("ok\n{}", config.warnings),
            Err(report) => report.to_string(),
        };
        let said = said.replace(&fixtures::folder().display().to_string(), "$DIR");
        assert!(!said.contains("SECRET"), "the content of a file is shown: {said}");
        let golden = path.with_extension("stderr");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&golden, &said).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != said {
            differing.push(format!("{}:\n{said}", golden.display()));
        }
    }
    assert!(differing.is_empty(), "not as pinned; UPDATE_GOLDEN=1 writes anew:\n{}", differing.join("\n"));
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

/// One key of the example: its place, its value, and the comment above it.
#[derive(Debug)]
struct Documented {
    line: usize,
    key: &'static Key,
    /// Whether the line stands behind `# `.
    commented: bool,
    value: String,
    comment: String,
}

fn example() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("config/example.toml")).unwrap()
}

/// Takes the example apart. A line `# key = value` counts as a key, so every such line must be one.
fn documented(text: &str) -> Vec<Documented> {
    let mut section = "";
    let mut comment = String::new();
    let mut keys = Vec::new();
    for (line, written) in text.lines().enumerate() {
        if written.starts_with('[') {
            section = written.trim_matches(['[', ']']);
            section = if section == "route.limits" { section } else { section.split('.').next().unwrap() };
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

/// The example with one line replaced.
fn with_line(text: &str, line: usize, replacement: &str) -> String {
    let lines = text.lines().enumerate();
    lines.map(|(number, written)| if number == line { replacement } else { written }.to_owned() + "\n").collect()
}

/// Everything of a configuration but what the default and the written default may differ in.
fn comparable(config: &Config) -> String {
    let Config { server, log, listeners, routes, upstreams, .. } = config;
    let mut server = server.clone();
    server.max_sessions.explicit = false;
    format!("{server:?} {log:?} {listeners:?} {routes:?} {upstreams:?}")
}

#[test]
fn the_example_loads_without_a_warning() {
    let config = parse(&example()).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
}

#[test]
fn the_example_has_every_key_with_its_meaning() {
    let text = example();
    let documented = documented(&text);
    let inline: Vec<&Key> = KEYS.iter().filter(|key| key.section == "listener.certificates").collect();
    let names: Vec<_> = documented.iter().map(|one| (one.key.section, one.key.name)).collect();
    let known: Vec<_> = KEYS.iter().filter(|key| !inline.contains(key)).map(|key| (key.section, key.name)).collect();
    assert_eq!(names, known);

    for one in documented {
        let default = match one.key.default {
            Absent::Required => "Required.".to_owned(),
            Absent::Value(text) | Absent::Derived(text) => format!("Default: {text}."),
            Absent::Nothing => "No default.".to_owned(),
        };
        for part in [one.key.doc, &one.key.bounds(), &default] {
            assert!(one.comment.contains(part), "line {}: expected {part:?} in {:?}", one.line, one.comment);
        }
        if one.key.name == "certificates" {
            for key in &inline {
                assert!(one.comment.contains(&format!("{}: {}", key.name, key.doc)), "{:?}", one.comment);
                assert!(one.value.contains(&format!("{} = ", key.name)), "{}", one.value);
            }
        }
    }
}

#[test]
fn the_documented_defaults_are_the_defaults() {
    let text = example();
    let plain = comparable(&parse(&text).unwrap());
    for one in documented(&text) {
        if let Absent::Value(default) = one.key.default
            && one.commented
        {
            assert_eq!(one.value, default, "line {}", one.line);
        }
        let depends = matches!(one.key.default, Absent::Value(_) | Absent::Derived(_));
        if one.commented && depends {
            let written = with_line(&text, one.line, &format!("{} = {}", one.key.name, one.value));
            let config = parse(&written).unwrap_or_else(|report| panic!("{}: {report}", one.key.name));
            assert_eq!(comparable(&config), plain, "{}", one.key.name);
        }
        if let (Absent::Value(default), false) = (one.key.default, one.commented) {
            let burst = |line: &str| line.starts_with("upgrade_burst") || line.starts_with("message_burst");
            assert!(!text.lines().any(burst), "a burst without its rate would be a fault");
            let without = comparable(&parse(&with_line(&text, one.line, "")).unwrap());
            let written = with_line(&text, one.line, &format!("{} = {default}", one.key.name));
            assert_eq!(comparable(&parse(&written).unwrap()), without, "{}", one.key.name);
        }
    }
}

/// What is said about the example with another value for one of its keys.
fn said_about(text: &str, one: &Documented, value: &str) -> String {
    let written = with_line(text, one.line, &format!("{} = {value}", one.key.name));
    parse(&written).map_or_else(|report| report.to_string(), |config| config.warnings.to_string())
}

#[test]
fn every_key_is_read() {
    let text = example();
    for one in documented(&text) {
        // Of the sources of keys there may be one.
        let other = one.key.section == "auth" && matches!(one.key.kind, Kind::File) && one.commented;
        let text = if other { text.replace("\njwks_file", "\n#jwks_file") } else { text.clone() };
        let said = said_about(&text, &one, "1979-05-27");
        assert!(said.contains(&format!("error: `{}` must be ", one.key.name)), "{}: {said}", one.key.name);
        assert!(said.contains("this is a date or time"), "{}: {said}", one.key.name);
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
fn bounds_are_kept_and_are_inclusive() {
    let text = example();
    for one in documented(&text) {
        let (below, lowest, highest, above) = match one.key.kind {
            Kind::Integer(min, max) => {
                let [below, above] = [i64::from(min) - 1, i64::from(max) + 1];
                (below.to_string(), min.to_string(), max.to_string(), above.to_string())
            }
            Kind::Duration(min, max, _) => {
                let shown = |millis: u128| format!("\"{millis}ms\"");
                let (min, max) = (min.as_millis(), max.as_millis());
                // No duration is shorter than none.
                let below = if min == 0 { max + 1 } else { min - 1 };
                (shown(below), shown(min), shown(max), shown(max + 1))
            }
            Kind::Size(min, max, _) => {
                let shown = |bytes: u64| format!("\"{bytes}B\"");
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
fn off_is_a_value_where_it_is_documented() {
    let text = example();
    for one in documented(&text) {
        if matches!(one.key.kind, Kind::Duration(..) | Kind::Size(..) | Kind::Rate(..)) {
            let said = said_about(&text, &one, "\"off\"");
            let refused = said.contains("\"off\" cannot be the value");
            assert_eq!(!refused, one.key.bounds().contains("\"off\""), "{}: {said}", one.key.name);
        }
    }
}

#[test]
fn the_words_of_a_choice_are_all_that_it_takes() {
    let text = example();
    for one in documented(&text) {
        let Kind::Choice(words) = one.key.kind else { continue };
        for word in words {
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

#[test]
fn a_file_that_cannot_be_read_gives_one_line() {
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
fn load_takes_relative_paths_from_the_folder_of_the_file() {
    let path = fixtures::folder().join("tollgate.toml");
    fs::write(&path, example()).unwrap();
    let config = config::load(&path).unwrap_or_else(|report| panic!("{report}"));
    let certificate = &config.listeners[0].certificates[0];
    assert_eq!(certificate.names, ["chat.example.com", "*.example.com"]);
    assert!(certificate.not_after > SystemTime::now());
}

/// A configuration with this certificate and key.
fn with_certificate(chain: &str, key: &str) -> String {
    let names = ("\"fullchain.pem\"", "\"privkey.pem\"");
    example().replace(names.0, &format!("{chain:?}")).replace(names.1, &format!("{key:?}"))
}

#[test]
fn every_kind_of_key_in_every_form() {
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
        assert_eq!(config.listeners[0].certificates[0].names, [format!("{chain}.example.com")]);
    }
    let config = parse(&with_certificate("ip.pem", "privkey.pem")).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.listeners[0].certificates[0].names.is_empty());
    assert!(parse(&with_certificate("fullchain.pem", "group-key.pem")).is_ok(), "the group may read a key");
}

#[test]
fn credentials_come_from_their_folder() {
    let text = with_certificate("credential:cert.pem", "credential:key.pem").replace("jwks.json", "credential:jwks.json");
    let files = Fixtures { credentials: Some(fixtures::folder().to_owned()) };
    let load = |text: &str| config::parse(text, Path::new("tollgate.toml"), Path::new("/nonexistent"), &files);
    load(&text).unwrap_or_else(|report| panic!("{report}"));
    for name in ["", "../key.pem", "..", "a/b"] {
        let said = load(&text.replace("credential:key.pem", &format!("credential:{name}"))).unwrap_err().to_string();
        assert!(said.contains("expected `credential:NAME`"), "{said}");
    }
}

/// No files at all, so that texts without sense touch no disk.
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

/// Reads a text, shows what is said about it, and holds on to nothing else: it must not panic.
fn survives(text: &str) {
    if let Err(report) = config::parse(text, Path::new("x"), Path::new(""), &Nothing) {
        assert!(report.has_errors());
        let shown = report.to_string();
        assert!(shown.chars().count() < 50 * 4000, "it floods");
        report.lines().for_each(drop);
    }
}

/// A value of any type for any key, or something that is no value.
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
