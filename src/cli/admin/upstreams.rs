//! `tollgate upstreams`: lists the upstreams with their servers, and drains a server.

use std::process::ExitCode;

use http::Method;
use serde_json::{Value, json};

use super::args::{ServerArguments, Upstreams, UpstreamsChange};
use super::client::Client;
use super::failure::Failure;
use super::output::{self, Column, number, text};
use super::select::percent;

const COLUMNS: [Column; 7] = [
    Column { title: "UPSTREAM", is_number: false },
    Column { title: "SERVER", is_number: false },
    Column { title: "STATE", is_number: false },
    Column { title: "WEIGHT", is_number: true },
    Column { title: "SESSIONS", is_number: true },
    Column { title: "MAX", is_number: true },
    Column { title: "FAILED CONNECTS", is_number: true },
];

/// Prints the list, or the effect of a change. The exit code is 1 if the process cannot be reached, or has no such server.
pub fn run(arguments: &Upstreams) -> ExitCode {
    let result = match &arguments.change {
        None => show(arguments),
        Some(UpstreamsChange::Drain(server)) => change(server, "drain"),
        Some(UpstreamsChange::Undrain(server)) => change(server, "ready"),
    };
    output::finish("upstreams", result)
}

fn show(arguments: &Upstreams) -> Result<(), Failure> {
    let answer = Client::new(&arguments.connection)?.request(Method::GET, "/v1/upstreams", None)?;
    if arguments.connection.json { output::print_json(&answer) } else { output::print(&list(&answer)) }
}

fn change(arguments: &ServerArguments, state: &str) -> Result<(), Failure> {
    let ServerArguments { connection, upstream, server } = arguments;
    let target = format!("/v1/upstreams/{}/servers/{}", percent(upstream), percent(server));
    let answer = Client::new(connection)?.request(Method::PATCH, &target, Some(&json!({ "state": state })))?;
    if connection.json {
        return output::print_json(&answer);
    }
    output::print(&output::escape(&effect(upstream, &answer)))?;
    output::print("\n")
}

/// Returns a table with a line for each server, also for those that were removed and still have sessions.
fn list(answer: &Value) -> String {
    let items = |value: &Value, name: &str| value.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
    let mut rows = Vec::new();
    for upstream in items(answer, "upstreams") {
        let name = text(&upstream, "name");
        let (servers, removed) = (items(&upstream, "servers"), items(&upstream, "removed"));
        if servers.is_empty() {
            rows.push(vec![name.clone(), "no servers".to_owned()]);
        }
        for server in servers {
            let mut row = vec![name.clone(), text(&server, "address"), state(&server)];
            row.extend(["weight", "sessions", "max_sessions", "connect_failures"].map(|field| text(&server, field)));
            rows.push(row);
        }
        for server in removed {
            let mut row = vec![name.clone(), text(&server, "address"), "removed".to_owned()];
            row.extend(["weight", "sessions"].map(|field| text(&server, field)));
            rows.push(row);
        }
    }
    output::table(&COLUMNS, &rows)
}

/// Returns the state of a server, and whether an operator gave it.
fn state(server: &Value) -> String {
    let state = text(server, "state");
    if server.get("operator_state").is_some_and(|own| !own.is_null()) { format!("{state} (operator)") } else { state }
}

/// Returns the effect of a change in words.
fn effect(upstream: &str, server: &Value) -> String {
    let (address, sessions) = (text(server, "address"), number(server, "sessions"));
    let plural = if (sessions - 1.0).abs() < 0.5 { "" } else { "s" };
    match server.get("drain_rate").and_then(Value::as_str) {
        None => format!("{address} of {upstream} gets new sessions, and keeps its {sessions:.0} session{plural}"),
        Some(_) if sessions < 0.5 => format!("{address} of {upstream} gets no new sessions, and has no sessions"),
        Some(rate) => format!(
            "{address} of {upstream} gets no new sessions; its {sessions:.0} session{plural} will be closed at {rate}: \
             about {}",
            output::span(number(server, "drain_seconds"))
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_server_is_a_line() {
        let server = |address: &str, state: &str, operator: Option<&str>| {
            json!({ "address": address, "state": state, "operator_state": operator, "weight": 2, "sessions": 17,
                    "max_sessions": null, "connect_failures": 3 })
        };
        let answer = json!({ "upstreams": [
            { "name": "chat", "servers": [server("a:1", "up", None), server("b:1", "draining", Some("drain"))] },
            { "name": "none", "servers": [], "removed": [{ "address": "c:1", "sessions": 5 }] },
        ] });
        let text = list(&answer);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines.len(), 5, "{text}");
        assert_eq!(lines[1], ["chat", "a:1", "up", "2", "17", "-", "3"]);
        assert_eq!(lines[2], ["chat", "b:1", "draining", "(operator)", "2", "17", "-", "3"]);
        assert_eq!(lines[3], ["none", "no", "servers"]);
        assert_eq!(lines[4], ["none", "c:1", "removed", "-", "5"]);
    }

    #[test]
    fn the_effect_of_a_change_is_a_sentence() {
        let server = |rate: Option<&str>, sessions: u32, seconds: f64| json!({ "address": "a:1", "drain_rate": rate, "sessions": sessions, "drain_seconds": seconds });
        let of = |rate, sessions, seconds| effect("chat", &server(rate, sessions, seconds));
        assert_eq!(
            of(Some("20/s"), 240, 12.0),
            "a:1 of chat gets no new sessions; its 240 sessions will be closed at 20/s: about 12s"
        );
        assert_eq!(
            of(Some("1/m"), 1, 60.0),
            "a:1 of chat gets no new sessions; its 1 session will be closed at 1/m: about 1m00s"
        );
        assert_eq!(of(Some("20/s"), 0, 0.0), "a:1 of chat gets no new sessions, and has no sessions");
        assert_eq!(of(None, 1, 0.0), "a:1 of chat gets new sessions, and keeps its 1 session");
        assert_eq!(of(None, 0, 0.0), "a:1 of chat gets new sessions, and keeps its 0 sessions");
    }
}
