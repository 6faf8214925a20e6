//! `tollgate status`: prints facts about a running process, the nodes of its cluster, or how to open its dashboard.

use std::process::ExitCode;

use http::Method;
use serde_json::Value;

use super::args::Status;
use super::client::Client;
use super::failure::Failure;
use super::{nodes, open, output};

/// Prints facts about the process. The exit code is 1 if it cannot be reached.
pub fn run(arguments: &Status) -> ExitCode {
    output::finish("status", show(arguments))
}

fn show(arguments: &Status) -> Result<(), Failure> {
    if arguments.open {
        return open::show(&arguments.connection);
    }
    if arguments.cluster {
        return nodes::show(&arguments.connection);
    }
    let info = Client::new(&arguments.connection)?.request(Method::GET, "/v1/info", None)?;
    if arguments.connection.json { output::print_json(&info) } else { output::print(&summary(&info)) }
}

/// Lists each fact on a line.
fn summary(info: &Value) -> String {
    let lines = info.as_object().into_iter().flatten().map(|(name, value)| {
        let value = match value {
            Value::Array(items) => items
                .iter()
                .map(|item| item.as_str().map_or_else(|| item.to_string(), str::to_owned))
                .collect::<Vec<_>>()
                .join(", "),
            Value::Object(_) => match name.as_str() {
                "handed_over_from" => predecessor(value),
                "upgrade" => successor(value),
                _ => outcome(value),
            },
            _ => output::text(info, name),
        };
        format!("{:<18}{}\n", format!("{}:", name.replace('_', " ")), output::escape(&value))
    });
    lines.collect()
}

/// Describes the last reload.
fn outcome(reload: &Value) -> String {
    let time = output::text(reload, "time");
    match reload.get("error").and_then(Value::as_str) {
        None => format!("succeeded at {time}"),
        Some(error) => format!("failed at {time}: {error}"),
    }
}

/// Describes the process that handed its sessions over.
fn predecessor(from: &Value) -> String {
    let shown = |name: &str| output::text(from, name);
    let sessions = match from.get("complete").and_then(Value::as_bool) {
        Some(false) => format!("{} so far", sessions(from, "sessions")),
        _ => sessions(from, "sessions"),
    };
    format!("process {}, version {}, at {}: {sessions}", shown("pid"), shown("version"), shown("at"))
}

/// Returns a number of sessions in words.
fn sessions(of: &Value, name: &str) -> String {
    let number = output::text(of, name);
    format!("{number} session{}", if number == "1" { "" } else { "s" })
}

/// Describes an upgrade in progress.
fn successor(upgrade: &Value) -> String {
    let shown = |name: &str| output::text(upgrade, name);
    let (pid, version, moved) = (shown("pid"), shown("version"), sessions(upgrade, "moved"));
    if upgrade.get("version").is_none_or(Value::is_null) {
        return format!("in progress, to process {pid}, which starts");
    }
    format!("in progress, to process {pid}, version {version}: {moved} moved so far")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_fact_has_a_line() {
        let info = json!({ "listeners": ["a:1", "b:2"], "max_sessions": 10, "started": null, "version": "1" });
        let expected = "listeners:        a:1, b:2\nmax sessions:     10\nstarted:          -\nversion:          1\n";
        assert_eq!(summary(&info), expected);
        let reload =
            |error: Option<&str>| outcome(&json!({ "time": "12:00", "successful": error.is_none(), "error": error }));
        assert_eq!(reload(None), "succeeded at 12:00");
        assert_eq!(reload(Some("a fault")), "failed at 12:00: a fault");
    }

    #[test]
    fn both_processes_of_an_upgrade_are_named() {
        let from = |complete: bool| {
            let from = json!({ "pid": 7, "version": "1", "at": "12:00", "sessions": 90, "complete": complete });
            summary(&json!({ "handed_over_from": from }))
        };
        assert_eq!(from(true), "handed over from: process 7, version 1, at 12:00: 90 sessions\n");
        assert_eq!(from(false), "handed over from: process 7, version 1, at 12:00: 90 sessions so far\n");
        let upgrade = summary(&json!({ "upgrade": { "pid": 8, "version": "2", "moved": 3 } }));
        assert_eq!(upgrade, "upgrade:          in progress, to process 8, version 2: 3 sessions moved so far\n");
        let one = summary(&json!({ "upgrade": { "pid": 8, "version": "2", "moved": 1 } }));
        assert!(one.ends_with(": 1 session moved so far\n"), "{one}");
        let starts = summary(&json!({ "upgrade": { "pid": 8, "version": null, "moved": 0 } }));
        assert_eq!(starts, "upgrade:          in progress, to process 8, which starts\n");
        assert_eq!(summary(&json!({ "upgrade": null })), "upgrade:          -\n");
    }
}
