//! Runs the fuzz targets without a fuzzer: on the seeds of the corpus, and on 10,000 mutations per target.
//!
//! `TOLLGATE_SEED` selects other mutations, `TOLLGATE_SEEDS` their number.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

#[path = "fuzz/checks.rs"]
mod checks;

use std::collections::BTreeMap;
use std::fs;
use std::panic::{catch_unwind, resume_unwind};
use std::path::Path;

use checks::harness::random::{Random, number_from_env};

/// The default number of mutations per target.
const MUTATIONS: u64 = 10_000;
/// Limit on the length of a mutated input.
const LEN_MAX: usize = 4_096;

/// The byte strings that mutations insert: edge values of lengths, and separators.
const TOKENS: [&[u8]; 20] = [
    b"\0", b"\xff", b"\x7e", b"\x7f", b"\x80", b"\x81", b"\x88\0", b"\x8a", b"\n", b"\r\n", b"\"", b"{", b"}", b"/",
    b"%2f", b"%", b".", b",", b";", b"=",
];

fn seeds(target: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(target);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let files = entries.map(|entry| entry.unwrap().path());
    files.map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), fs::read(file).unwrap())).collect()
}

fn mutate(random: &mut Random, seeds: &[&Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..1 + random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = at + random.below((bytes.len() - at).min(16) + 1);
        match random.below(7) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
            1 if at < bytes.len() => bytes[at] = random.next() as u8,
            2 => drop(bytes.drain(at..end)),
            3 => drop(bytes.splice(at..at, random.pick(&TOKENS).iter().copied())),
            4 => {
                let copy = bytes[at..end].to_vec();
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = random.pick(seeds);
                let from = random.below(other.len() + 1);
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
            _ => bytes.truncate(at.max(bytes.len() / 2)),
        }
        bytes.truncate(LEN_MAX);
    }
    bytes
}

fn replay(target: &str, check: fn(&[u8])) {
    let seeds = seeds(target);
    assert!(seeds.len() >= 8, "seeds of {target} are missing");
    let run = |name: &str, bytes: &[u8]| {
        if let Err(panic) = catch_unwind(|| check(bytes)) {
            eprintln!("{target} fails for {name}: {}", bytes.escape_ascii());
            resume_unwind(panic);
        }
    };
    for (name, bytes) in &seeds {
        run(name, bytes);
    }
    let seed = number_from_env("TOLLGATE_SEED").unwrap_or_default();
    let mut random = Random::new(seed);
    let seeds: Vec<_> = seeds.values().collect();
    for count in 0..number_from_env("TOLLGATE_SEEDS").unwrap_or(MUTATIONS) {
        let bytes = mutate(&mut random, &seeds);
        run(&format!("mutation {count} of TOLLGATE_SEED={seed}"), &bytes);
    }
}

#[test]
fn frame() {
    replay("frame", checks::frame);
}

#[test]
fn session() {
    replay("session", checks::session);
}

#[test]
fn handshake() {
    replay("handshake", checks::handshake);
}

#[test]
fn config() {
    replay("config", checks::config);
}

#[test]
fn route() {
    replay("route", checks::route);
}

#[test]
fn token() {
    replay("token", checks::token);
}

#[test]
fn claims() {
    replay("claims", checks::claims);
}

#[test]
fn record() {
    replay("record", checks::record);
}

#[test]
fn proxy_header() {
    replay("proxy_header", checks::proxy_header);
}

#[test]
fn forwarded() {
    replay("forwarded", checks::forwarded);
}

#[test]
fn handover() {
    replay("handover", checks::handover);
}

/// If all seeds were rejected early, the code behind the first checks would never run.
#[test]
fn some_seeds_are_accepted() {
    let passing = |target, check: fn(&[u8]) -> bool| {
        let good = seeds(target).into_iter().filter(|(_, bytes)| check(bytes));
        good.map(|(name, _)| name).collect::<Vec<_>>()
    };
    assert_eq!(passing("token", checks::is_admitted_token), ["fraction", "good_es256", "good_hs256"]);
    let present = ["dotted", "equal", "escaped_pointer", "member", "pointer", "url"];
    assert_eq!(passing("claims", checks::is_present), present);
    let messages = ["ack", "commit", "content", "end", "failed", "hello", "prepare", "ready", "records"];
    let good = [&messages[..], &["session_v1", "session_v2", "state", "take_over"]].concat();
    assert_eq!(passing("handover", checks::is_good_handover), good);
    assert_eq!(passing("config", checks::is_good_config), ["crlf.toml", "everything.toml", "minimal.toml"]);
}
