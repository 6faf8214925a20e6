//! `tollgate upgrade`: replaces a running process by a new program, which continues its sessions.

use std::fmt::Write as _;
use std::path::{self, Path};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::args::Upgrade;
use super::client::Client;
use super::failure::Failure;
use super::output::{self, number, text};

/// How long the answer may take. The process has limits of its own for each step, and many sessions take many steps.
const TIMEOUT: Duration = Duration::from_hours(1);

/// Replaces the process, and prints the numbers of sessions. The exit code is 1 if the process cannot be reached, or was
/// not replaced.
pub fn run(arguments: &Upgrade) -> ExitCode {
    output::finish("upgrade", upgrade(arguments))
}

fn upgrade(arguments: &Upgrade) -> Result<(), Failure> {
    let Upgrade { connection, binary } = arguments;
    let body = binary.as_deref().map(program).transpose()?;
    let answer = Client::new(connection)?.request_within(TIMEOUT, Method::POST, "/v1/upgrade", body.as_ref())?;
    if connection.json { output::print_json(&answer) } else { output::print(&summary(&answer)) }
}

/// Returns the body that names a program. Its path is relative to the directory of this command.
fn program(binary: &Path) -> Result<Value, Failure> {
    let invalid = |error: &str| Failure::of_arguments(format!("--binary {}: {error}", binary.display()));
    let absolute = path::absolute(binary).map_err(|error| invalid(&error.to_string()))?;
    let path = absolute.to_str().ok_or_else(|| invalid("the path is not UTF-8"))?;
    Ok(json!({ "binary": path }))
}

fn summary(answer: &Value) -> String {
    let count = |name: &str| number(answer, name);
    let mut summary = String::new();
    // A string accepts everything.
    let _ = writeln!(
        summary,
        "process {} serves now, version {}",
        text(answer, "pid"),
        output::escape(&text(answer, "version")),
    );
    let _ = writeln!(
        summary,
        "sessions: {} moved, {} drain in the process before, {} lost",
        text(answer, "moved"),
        text(answer, "drained"),
        text(answer, "failed"),
    );
    let _ = writeln!(
        summary,
        "longest pause of a session: {} ms; the upgrade took {} ms",
        text(answer, "longest_pause_ms"),
        text(answer, "took_ms"),
    );
    if count("drained") > 0.0 {
        summary.push_str(
            "those that drain cannot move, such as TLS 1.2: each gets close code 1001, within drain_timeout\n",
        );
    }
    if count("failed") > 0.0 {
        summary.push_str("warning: sessions were lost; the log of the process has the reason\n");
    }
    summary
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(drained: u32, failed: u32) -> Value {
        json!({
            "pid": 4711, "version": "0.2.0", "moved": 8993, "drained": drained, "failed": failed, "longest_pause_ms": 12,
            "took_ms": 1300,
        })
    }

    #[test]
    fn the_summary_has_the_new_process_the_sessions_and_the_pause() {
        let expected = "process 4711 serves now, version 0.2.0\n\
            sessions: 8993 moved, 0 drain in the process before, 0 lost\n\
            longest pause of a session: 12 ms; the upgrade took 1300 ms\n";
        assert_eq!(summary(&answer(0, 0)), expected);
    }

    #[test]
    fn sessions_that_drain_or_are_lost_are_explained() {
        let text = summary(&answer(7, 1));
        assert!(text.contains("7 drain in the process before, 1 lost\n"), "{text}");
        assert!(text.contains("those that drain cannot move, such as TLS 1.2"), "{text}");
        assert!(text.ends_with("warning: sessions were lost; the log of the process has the reason\n"), "{text}");
    }

    #[test]
    fn the_path_of_the_program_is_sent_as_an_absolute_one() {
        let sent = program(Path::new("target/tollgate")).unwrap();
        let path = Path::new(sent["binary"].as_str().unwrap());
        assert!(path.is_absolute() && path.ends_with("target/tollgate"), "{}", path.display());
        assert_eq!(program(Path::new("")).unwrap_err().code, 64);
    }
}
