//! Invariants of the source: names that must not occur in certain files, and the import graph. All breaches are
//! reported together.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Words that must not occur in certain files.
struct Rule {
    /// The rule and its reason, which a breach reports.
    reason: &'static str,
    /// Prefixes of paths below `src/`.
    within: &'static [&'static str],
    /// Prefixes of paths that are exempt; a comment gives the reason for each.
    except: &'static [&'static str],
    /// The words, which are searched for in code without comments and literals. A word that starts or ends with a name
    /// character matches whole names only.
    words: &'static [&'static str],
    /// Words that permit a match if they directly precede it.
    unless_after: &'static [&'static str],
}

const EVERYWHERE: &[&str] = &[""];
const PURE: &[&str] = &["ws/", "balance/", "policy/", "session.rs", "session/", "record.rs", "record/"];

const RULES: &[Rule] = &[
    Rule {
        reason: "I1: the pure modules do no input or output, so that they can be tested without any",
        within: PURE,
        except: &[],
        words: &[
            "tokio",
            "tokio_util",
            "tokio_rustls",
            "hyper",
            "hyper_util",
            "http_body_util",
            "rustls",
            "socket2",
            "rustix",
            "TcpStream",
            "TcpListener",
            "UdpSocket",
            "UnixStream",
            "UnixListener",
            "UnixDatagram",
            "ToSocketAddrs",
            "fs",
            "File",
            "env",
            "process",
            "thread",
            "stdin",
            "stdout",
            "stderr",
        ],
        unless_after: &[],
    },
    Rule {
        reason: "I1: the pure modules take the time as an argument, so that tests control it",
        within: PURE,
        except: &[],
        words: &["Instant::now", "SystemTime::now", "elapsed", "sleep"],
        unless_after: &[],
    },
    Rule {
        reason: "I6: the pure modules return facts, and the outer modules log them",
        within: PURE,
        except: &[],
        words: &["tracing", "tracing_subscriber", "log"],
        unless_after: &[],
    },
    Rule {
        reason: "only `tls` knows how the bytes of a client are protected",
        within: EVERYWHERE,
        except: &["tls/"],
        words: &["crate::record"],
        unless_after: &[],
    },
    Rule {
        reason: "only `tls` and two files of `upstream` know how bytes are protected",
        within: EVERYWHERE,
        except: &["tls/", "upstream/stream.rs", "upstream/tls.rs"],
        words: &["tokio_rustls"],
        unless_after: &[],
    },
    Rule {
        reason: "I2: only `config` knows the format of the configuration file",
        within: EVERYWHERE,
        except: &["config/"],
        words: &["toml"],
        unless_after: &[],
    },
    Rule {
        reason: "I3: only `runtime::tasks` spawns tasks, so that the drain covers all of them",
        within: EVERYWHERE,
        // The first file is `runtime::tasks` itself. The upstream of the demo is not a part of the proxy and ends with
        // it. The last file starts a process, not a task.
        except: &["runtime/tasks.rs", "cli/demo", "handover/program.rs"],
        words: &["spawn", "spawn_local", "spawn_blocking", "spawn_on", "spawn_local_on", "JoinSet"],
        unless_after: &[],
    },
    Rule {
        reason: "I4: only `policy::admission` makes an `Admission`",
        within: EVERYWHERE,
        except: &["policy/admission.rs"],
        words: &["Admission {"],
        unless_after: &["struct", "impl", "for", "->"],
    },
    Rule {
        reason: "memory safety is left to the compiler and the libraries",
        within: EVERYWHERE,
        // It makes an ioctl that no maintained crate wraps in a safe function.
        except: &["runtime/socket_state.rs"],
        words: &["unsafe"],
        unless_after: &[],
    },
    Rule {
        reason: "input from outside must not be able to end the process",
        within: EVERYWHERE,
        // A command that a user runs in a terminal may panic.
        except: &["cli/"],
        words: &[".unwrap()", ".unwrap_err()", ".expect(", ".expect_err(", "unimplemented!", "unwrap_unchecked"],
        unless_after: &[],
    },
    Rule {
        reason: "unfinished code is not committed",
        within: EVERYWHERE,
        except: &[],
        words: &["todo!", "dbg!"],
        unless_after: &[],
    },
    Rule {
        reason: "output goes to the log",
        within: EVERYWHERE,
        // Subcommands print their results.
        except: &["cli/"],
        words: &["println!", "print!", "eprintln!", "eprint!"],
        unless_after: &[],
    },
];

/// The maximum number of lines of a file: a longer one does more than one thing. Test files are exempt.
const LINES_MAX: usize = 450;

/// A source file.
struct Source {
    /// The path below `src/`, with slashes.
    path: String,
    text: String,
    /// The text with comments, literals and tests blanked out.
    code: String,
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders = vec![root.clone()];
    let mut sources = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap().replace('\\', "/");
                let code = without_tests(&without_literals(&text));
                sources.push(Source { path, text, code });
            }
        }
    }
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    sources
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/")
}

#[test]
fn the_source_keeps_its_invariants() {
    let mut breaches = String::new();
    for Source { path, text, code } in sources().iter().filter(|source| !is_test_file(&source.path)) {
        if !text.starts_with("//!") {
            writeln!(breaches, "src/{path}:1: a file starts with its purpose: a `//!` comment").unwrap();
        }
        let lines = text.lines().count();
        if lines > LINES_MAX {
            writeln!(breaches, "src/{path}:{lines}: the file has more than {LINES_MAX} lines").unwrap();
        }
        for rule in RULES {
            for (line, word) in find_breaches(rule, path, code) {
                writeln!(breaches, "src/{path}:{line}: `{word}`: {}", rule.reason).unwrap();
            }
        }
    }
    assert!(breaches.is_empty(), "\n{breaches}");
}

fn find_breaches(rule: &Rule, path: &str, code: &str) -> Vec<(usize, &'static str)> {
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| path.starts_with(beginning));
    if !starts(rule.within) || starts(rule.except) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (line, text) in code.lines().enumerate() {
        found.extend(
            rule.words.iter().filter(|word| stands_in(text, word, rule.unless_after)).map(|word| (line + 1, *word)),
        );
    }
    found
}

fn stands_in(text: &str, word: &str, unless_after: &[&str]) -> bool {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    text.match_indices(word).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + word.len()..]);
        let starts = !word.starts_with(in_name) || !before.ends_with(in_name);
        let ends = !word.ends_with(in_name) || !after.starts_with(in_name);
        starts && ends && !unless_after.iter().any(|harmless| before.trim_end().ends_with(harmless))
    })
}

/// Blanks out comments and literals. The remaining code stays on its lines.
fn without_literals(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match end_of_literal(&chars, at) {
            Some(end) => end,
            None => {
                code.push(chars[at]);
                at += 1;
                continue;
            }
        };
        code.extend(chars[at..end].iter().map(|&c| if c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    code
}

/// Returns the end of the comment or literal that starts at `at`, if one does.
fn end_of_literal(chars: &[char], at: usize) -> Option<usize> {
    let starts_with =
        |at: usize, text: &str| text.chars().enumerate().all(|(place, c)| chars.get(at + place) == Some(&c));
    let find = |from: usize, text: &str| (from..chars.len()).find(|at| starts_with(*at, text)).unwrap_or(chars.len());
    if starts_with(at, "//") {
        return Some(find(at, "\n"));
    }
    if starts_with(at, "/*") {
        let (mut depth, mut at) = (1, at + 2);
        while depth > 0 && at < chars.len() {
            let (step, change) = match () {
                () if starts_with(at, "/*") => (2, 1),
                () if starts_with(at, "*/") => (2, -1),
                () => (1, 0),
            };
            depth += change;
            at += step;
        }
        return Some(at);
    }
    let continues_name = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    if chars[at] == 'r' && (!continues_name || chars[at - 1] == 'b') {
        let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
        if chars.get(at + 1 + hashes) == Some(&'"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(find(at + 2 + hashes, &end) + end.len());
        }
    }
    match chars[at] {
        '"' => Some(end_of_quotes(chars, at, '"')),
        // A single quote starts a character literal unless it starts a lifetime, which has no closing quote.
        '\'' if chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'') => {
            Some(end_of_quotes(chars, at, '\''))
        }
        _ => None,
    }
}

fn end_of_quotes(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// Removes every item after `#[cfg(test)]`, except for its line breaks.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let Some(start) = code.find(MARK) else { return code.to_owned() };
    let item = &code[start + MARK.len()..];
    let end = match (item.find(';'), item.find('{')) {
        (Some(semicolon), brace) if brace.is_none_or(|brace| semicolon < brace) => semicolon + 1,
        (_, Some(brace)) => {
            let mut depth = 0;
            let closes = |c: char| {
                depth += i32::from(c == '{') - i32::from(c == '}');
                depth == 0
            };
            item[brace..].find(closes).map_or(item.len(), |len| brace + len + 1)
        }
        _ => item.len(),
    };
    let (test, rest) = item.split_at(end);
    let blank: String = test.chars().filter(|c| *c == '\n').collect();
    format!("{}{blank}{}", &code[..start], without_tests(rest))
}

/// Returns the modules in the order of `src/lib.rs`: each may import only those before it.
fn order() -> Vec<String> {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let order: Vec<String> =
        lib.lines().filter_map(|line| Some(line.strip_prefix("pub mod ")?.strip_suffix(';')?.into())).collect();
    assert!(order.len() > 5, "src/lib.rs lists its modules one per line");
    order
}

/// Returns the path of a file's module: `ws::frame` for `ws/frame.rs`, `ws` for `ws/mod.rs`, empty for `lib.rs`.
fn module_of(path: &str) -> Vec<&str> {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let path = path.strip_suffix("/mod").unwrap_or(path);
    if matches!(path, "lib" | "main") { Vec::new() } else { path.split('/').collect() }
}

/// Returns every path in a file that may name another module, with braces expanded: from `use` items and inline.
fn paths_in(code: &str) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    let mut rest = code;
    while let Some(at) = rest.find("::") {
        let head = &rest[..at];
        let start =
            head.rfind(|c: char| !in_name(c)).map_or(0, |at| at + head[at..].chars().next().unwrap().len_utf8());
        // Skips the rest of a path that has been read already.
        if start < at && !head[..start].ends_with("::") {
            read_tree(&rest[start..], &mut Vec::new(), &mut paths);
        }
        rest = &rest[at + 2..];
    }
    paths
}

/// Reads one tree of a `use` item, or one path of an expression. Returns the rest of the text.
fn read_tree<'a>(text: &'a str, before: &mut Vec<String>, paths: &mut Vec<Vec<String>>) -> &'a str {
    let in_name = |c: char| c.is_alphanumeric() || c == '_';
    let text = text.trim_start();
    if let Some(mut group) = text.strip_prefix('{') {
        loop {
            group = read_tree(group, before, paths).trim_start();
            // Skips `as name` and anything that is not a path.
            let end = group.find([',', '}']).unwrap_or(group.len());
            match group[end..].chars().next() {
                Some(',') => group = group[end + 1..].trim_start(),
                _ => return group.get(end + 1..).unwrap_or_default(),
            }
            if let Some(rest) = group.strip_prefix('}') {
                return rest;
            }
        }
    }
    let end = text.find(|c: char| !in_name(c)).unwrap_or(text.len());
    if end == 0 {
        paths.push(before.clone());
        return text;
    }
    before.push(text[..end].to_owned());
    let rest = match text[end..].strip_prefix("::") {
        Some(rest) => read_tree(rest, before, paths),
        None => {
            paths.push(before.clone());
            &text[end..]
        }
    };
    before.pop();
    rest
}

/// Returns the file that a path names, if it is another file of this crate.
fn file_of(path: &[String], from: &str, files: &BTreeMap<Vec<&str>, &str>) -> Option<String> {
    let own = module_of(from);
    let mut at: Vec<&str> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "tollgate" if from == "main.rs" => Vec::new(),
        "self" => own.clone(),
        "super" => own[..own.len().checked_sub(1)?].to_vec(),
        child => {
            let mut inner = own.clone();
            inner.push(child);
            files.get(&inner)?;
            inner
        }
    };
    for segment in &path[1..] {
        if segment == "super" {
            at.pop()?;
            continue;
        }
        at.push(segment);
        if !files.contains_key(&at) {
            at.pop();
            break;
        }
    }
    let file = files.get(&at)?;
    (*file != from && *file != "lib.rs").then(|| (*file).to_owned())
}

/// Returns the files that each file imports, without test files.
fn imports(sources: &[Source]) -> BTreeMap<String, BTreeSet<String>> {
    let sources = || sources.iter().filter(|source| !is_test_file(&source.path));
    let files: BTreeMap<Vec<&str>, &str> = sources()
        .filter(|source| source.path != "main.rs")
        .map(|source| (module_of(&source.path), &*source.path))
        .collect();
    let edges = |source: &Source| {
        let paths = paths_in(&source.code);
        // A path may begin with a name that another path imports: `use crate::policy; policy::quota::Quota`.
        let imported: BTreeMap<&str, &Vec<String>> = paths
            .iter()
            .filter(|path| matches!(path[0].as_str(), "crate" | "super" | "self"))
            .filter_map(|path| Some((path.last()?.as_str(), path)))
            .collect();
        let full = |path: &Vec<String>| match imported.get(path[0].as_str()) {
            Some(start) => start.iter().chain(&path[1..]).cloned().collect(),
            None => path.clone(),
        };
        paths.iter().filter_map(|path| file_of(&full(path), &source.path, &files)).collect()
    };
    sources().map(|source| (source.path.clone(), edges(source))).collect()
}

/// Returns the breaches of a graph: every import of a module that comes later in the order, and every cycle.
fn breaches_of(imports: &BTreeMap<String, BTreeSet<String>>, order: &[String]) -> String {
    let mut breaches = String::new();
    let place = |file: &str| order.iter().position(|module| Some(module.as_str()) == module_of(file).first().copied());
    for (file, imported) in imports {
        for other in imported {
            if let (Some(own), Some(others)) = (place(file), place(other))
                && others > own
            {
                writeln!(breaches, "src/{file} imports src/{other}, whose module comes later in src/lib.rs").unwrap();
            }
        }
    }
    // Repeatedly removes files that import no remaining file or that no remaining file imports: they are in no cycle.
    let mut left = imports.clone();
    loop {
        let ends: Vec<String> = left
            .iter()
            .filter(|(file, to)| to.is_empty() || !left.values().any(|to| to.contains(*file)))
            .map(|(file, _)| file.clone())
            .collect();
        if ends.is_empty() {
            break;
        }
        for end in &ends {
            left.remove(end);
            left.values_mut().for_each(|to| {
                to.remove(end);
            });
        }
    }
    for (file, to) in left {
        writeln!(breaches, "src/{file} is in a cycle of imports: it imports {to:?}").unwrap();
    }
    breaches
}

#[test]
fn imports_have_no_cycle_and_follow_the_order() {
    let breaches = breaches_of(&imports(&sources()), &order());
    assert!(breaches.is_empty(), "\n{breaches}");
}

/// The check finds planted cycles and imports against the order, in every form of import.
#[test]
fn planted_imports_are_found() {
    let source = |path: &str, code: &str| Source { path: path.into(), text: String::new(), code: code.into() };
    let order = ["ws", "session", "relay"].map(str::to_owned);
    let others = [
        source("lib.rs", ""),
        source("ws/mod.rs", ""),
        source("ws/frame.rs", ""),
        source("session.rs", ""),
        source("session/peer.rs", ""),
        source("relay.rs", ""),
        source("relay/peer_io.rs", ""),
    ];
    let table: &[(&str, &str, &str, &str, &str)] = &[
        ("session.rs", "use crate::ws::frame::Header;", "ws/frame.rs", "", ""),
        (
            "ws/frame.rs",
            "use crate::session::Session;",
            "ws/frame.rs",
            "",
            "imports src/session.rs, whose module comes later",
        ),
        (
            "ws/frame.rs",
            "fn f() { crate::relay::peer_io::new() }",
            "ws/frame.rs",
            "",
            "imports src/relay/peer_io.rs, whose module comes later",
        ),
        ("session/peer.rs", "use super::{Side, Session};", "session.rs", "use peer::Peer;", "is in a cycle"),
        ("session/peer.rs", "use super::Side;", "session.rs", "fn f() -> peer::Peer { }", "is in a cycle"),
        ("session/peer.rs", "use super::Side;", "session.rs", "mod peer;", ""),
        (
            "session/peer.rs",
            "use crate::ws; fn f() { ws::frame::new() }",
            "ws/frame.rs",
            "use crate::session::peer;",
            "is in a cycle",
        ),
        (
            "relay.rs",
            "use {crate::ws::{frame::{Header, Opcode}, code}, std::fmt};",
            "ws/frame.rs",
            "use super::code;",
            "",
        ),
    ];
    for (path, code, other_path, other_code, expected) in table {
        let mut sources: Vec<Source> = others
            .iter()
            .map(|source| Source { path: source.path.clone(), text: String::new(), code: String::new() })
            .collect();
        for source in &mut sources {
            if source.path == *other_path {
                source.code = (*other_code).into();
            }
            if source.path == *path {
                source.code = (*code).into();
            }
        }
        let breaches = breaches_of(&imports(&sources), &order);
        assert_eq!(breaches.is_empty(), expected.is_empty(), "{path}: {code}: {breaches}");
        assert!(breaches.contains(expected), "{path}: {code}: {breaches}");
    }
}

/// The search for words ignores comments, literals and tests.
#[test]
fn words_are_found_in_code_only() {
    let table: &[(&str, &str, bool)] = &[
        ("let x = a.unwrap();", ".unwrap()", true),
        ("// a.unwrap()", ".unwrap()", false),
        ("/* a /* b */ .unwrap() */ c", ".unwrap()", false),
        ("let s = \"a \\\" .unwrap()\";", ".unwrap()", false),
        ("let s = r#\"a \" .unwrap()\"#; a.unwrap()", ".unwrap()", true),
        ("let s = br\".unwrap()\";", ".unwrap()", false),
        ("let c = '\"'; a.unwrap(); let d = '\"';", ".unwrap()", true),
        ("fn f<'a>(x: &'a str) { x.unwrap() } // '", ".unwrap()", true),
        ("use std::fs;", "fs", true),
        ("let offset = fs_of(x);", "fs", false),
        ("#[cfg(test)]\nmod tests { fn f() { a.unwrap() } }", ".unwrap()", false),
        ("#[cfg(test)]\nmod tests;\nfn f() { a.unwrap() }", ".unwrap()", true),
        ("#[cfg(test)]\nmod tests { } fn f() { a.unwrap() }", ".unwrap()", true),
        ("Admission { route }", "Admission {", true),
        ("impl Admission {", "Admission {", false),
        ("fn f() -> Admission {", "Admission {", false),
    ];
    for (text, word, expected) in table {
        let code = without_tests(&without_literals(text));
        let found = code.lines().any(|line| stands_in(line, word, &["struct", "impl", "for", "->"]));
        assert_eq!(found, *expected, "{text}");
        assert_eq!(code.matches('\n').count(), text.matches('\n').count(), "{text}");
    }
}

/// A rule that names a missing file would check nothing.
#[test]
fn every_rule_names_existing_files() {
    let sources = sources();
    let there = |beginning: &str| sources.iter().any(|source| source.path.starts_with(beginning));
    for rule in RULES {
        for beginning in rule.within.iter().chain(rule.except) {
            assert!(there(beginning), "{beginning} does not exist: {}", rule.reason);
        }
    }
}

/// Every row of `tests/attacks.md` names tests in its last column, or says that the attack is not prevented.
#[test]
fn the_tests_of_the_attack_tables_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut code: String = sources().into_iter().map(|source| source.text).collect();
    for folder in ["tests", "tests/e2e"] {
        let files = fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|extension| extension == "rs")).for_each(|file| {
            code += &fs::read_to_string(file).unwrap();
        });
    }
    let text = fs::read_to_string(root.join("tests/attacks.md")).unwrap();
    let rows =
        text.lines().filter(|line| line.starts_with('|') && !line.starts_with("| ---") && !line.ends_with("test |"));
    let mut count = 0;
    for row in rows {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [_, _, result, tests] = cells[..] else { panic!("{row}") };
        let names: Vec<&str> =
            tests.split(", ").map(|name| name.trim_matches('`')).filter(|name| !name.is_empty()).collect();
        assert!(!names.is_empty() || result.contains("**not prevented**"), "{row}");
        for name in names {
            assert!(code.contains(&format!("fn {name}(")), "there is no test {name}");
            count += 1;
        }
    }
    assert!(count > 20, "{count}");
}
