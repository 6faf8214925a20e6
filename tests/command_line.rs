//! The subcommands that print: their output and exit codes.

#![allow(clippy::disallowed_methods, clippy::pedantic, reason = "tests are written to be read as tables")]

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Output, Stdio};

fn tollgate(arguments: &[&str], out: Stdio) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(arguments).stdout(out).stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap()
}

const PRINTING: &[&[&str]] =
    &[&["schema"], &["man"], &["completions", "bash"], &["completions", "zsh"], &["completions", "fish"]];

#[test]
fn a_printed_result_ends_with_a_line_break_and_the_exit_code_is_0() {
    for arguments in PRINTING {
        let Output { status, stdout, stderr } = tollgate(arguments, Stdio::piped());
        assert_eq!(status.code(), Some(0), "{arguments:?}");
        assert!(stdout.ends_with(b"\n") && stderr.is_empty(), "{arguments:?}");
    }
}

#[test]
fn the_schema_is_json() {
    let schema: serde_json::Value = serde_json::from_slice(&tollgate(&["schema"], Stdio::piped()).stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
}

#[test]
fn a_result_that_cannot_be_written_exits_with_1() {
    for arguments in PRINTING {
        let full = File::options().write(true).open("/dev/full").unwrap();
        let Output { status, stderr, .. } = tollgate(arguments, full.into());
        let said = String::from_utf8(stderr).unwrap();
        assert_eq!(status.code(), Some(1), "{arguments:?}: {said}");
        assert!(said.starts_with("tollgate: standard output: "), "{said}");
    }
}

#[test]
fn man_writes_one_page_for_the_program_and_one_for_each_subcommand() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("man-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let Output { status, stdout, .. } = tollgate(&["man", "--directory", directory.to_str().unwrap()], Stdio::piped());
    assert_eq!((status.code(), stdout.as_slice()), (Some(0), b"".as_slice()));
    let help = String::from_utf8(tollgate(&["--help"], Stdio::piped()).stdout).unwrap();
    let subcommands = help.lines().filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut wanted: Vec<String> = subcommands
        .filter(|name| !name.is_empty() && !name.starts_with('-'))
        .map(|name| format!("tollgate-{name}.1"))
        .collect();
    assert!(wanted.contains(&"tollgate-check.1".to_owned()), "{help}");
    wanted.push("tollgate.1".to_owned());
    wanted.sort();
    let names = fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    assert_eq!(names, wanted);
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn pages_that_cannot_be_written_exit_with_1() {
    let Output { status, stderr, .. } = tollgate(&["man", "--directory", "/nonexistent"], Stdio::piped());
    assert_eq!(status.code(), Some(1));
    assert!(String::from_utf8(stderr).unwrap().starts_with("tollgate man: /nonexistent: "));
}

#[test]
fn an_unknown_shell_is_a_bad_argument() {
    let Output { status, stderr, .. } = tollgate(&["completions", "csh"], Stdio::piped());
    assert_eq!(status.code(), Some(64));
    assert!(String::from_utf8(stderr).unwrap().contains("[possible values: bash, zsh, fish]"));
}

/// Nothing is connected: the process may run on another machine.
/// An upgrade starts the program with this variable, and a socket as standard input.
#[test]
fn a_program_that_replaces_none_names_the_variable() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(["run", "--config", "/nonexistent"]).env("TOLLGATE_HANDOVER", "1").stdin(Stdio::null());
    let output = command.output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("TOLLGATE_HANDOVER is set, and standard input is not the socket"), "{error}");
}

#[test]
fn status_says_how_a_browser_reaches_the_dashboard() {
    let open = |more: &[&str]| {
        let arguments = [&["status", "--open"], more].concat();
        let Output { status, stdout, .. } = tollgate(&arguments, Stdio::piped());
        (status.code(), String::from_utf8(stdout).unwrap())
    };
    let (code, text) = open(&["--admin", "unix:/run/tollgate/admin.sock"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(
        text.contains("  ssh -N -L 9640:/run/tollgate/admin.sock ") && text.contains("http://localhost:9640/"),
        "{text}"
    );
    let (code, json) = open(&["--admin", "127.0.0.1:9000", "--json"]);
    let ways: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, ways["here"].as_str()), (Some(0), Some("http://127.0.0.1:9000/")));
    assert!(ways["ssh"].as_str().unwrap().starts_with("ssh -N -L 9000:127.0.0.1:9000 "), "{ways}");
    assert_eq!(open(&["--admin", "nowhere"]).0, Some(64));
}
