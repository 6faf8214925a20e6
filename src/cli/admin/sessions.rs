//! `tollgate sessions`: lists open sessions.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};

use super::args::Sessions;
use super::client::Client;
use super::failure::Failure;
use super::output::{self, Column, number, text};
use super::select::query;

/// The largest page of the API.
const PAGE_MAX: u32 = 1000;
/// The interval of `--watch`.
const INTERVAL: Duration = Duration::from_secs(2);
/// Clears a terminal, and moves its cursor to the start.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

const COLUMNS: [Column; 11] = [
    Column { title: "ID", is_number: false },
    Column { title: "ROUTE", is_number: false },
    Column { title: "AUTH", is_number: false },
    Column { title: "SUBJECT", is_number: false },
    Column { title: "ADDRESS", is_number: false },
    Column { title: "SERVER", is_number: false },
    Column { title: "AGE", is_number: true },
    Column { title: "IDLE", is_number: true },
    Column { title: "MESSAGES", is_number: true },
    Column { title: "BYTES", is_number: true },
    Column { title: "ACTIVITY", is_number: false },
];

/// Prints the list. The exit code is 1 if the process cannot be reached.
pub fn run(arguments: &Sessions) -> ExitCode {
    output::finish("sessions", show(arguments))
}

fn show(arguments: &Sessions) -> Result<(), Failure> {
    let client = Client::new(&arguments.connection)?;
    let is_terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let list = list(&client, arguments)?;
        if arguments.connection.json {
            let Listed { sessions, has_more, missing } = &list;
            let mut json = json!({ "sessions": sessions, "has_more": has_more });
            if arguments.cluster {
                json["missing"] = json!(missing);
            }
            output::print_json(&json)?;
        } else {
            let clear = if arguments.watch && is_terminal { CLEAR } else { "" };
            output::print(&format!("{clear}{}", page(&list, arguments.cluster)))?;
        }
        if !arguments.watch {
            return Ok(());
        }
        client.sleep(INTERVAL);
    }
}

/// The sessions of several pages.
#[derive(Debug, Default)]
struct Listed {
    sessions: Vec<Value>,
    has_more: bool,
    /// The nodes that did not answer one of the requests.
    missing: BTreeSet<String>,
}

/// Reads as many pages as the limit needs.
fn list(client: &Client, arguments: &Sessions) -> Result<Listed, Failure> {
    let (mut list, mut cursor) = (Listed::default(), None);
    let mut left = arguments.limit;
    loop {
        let size = left.min(PAGE_MAX);
        let mut parameters = vec![("sort", arguments.sort.clone()), ("limit", size.to_string())];
        parameters.extend(arguments.cluster.then(|| ("scope", "cluster".to_owned())));
        parameters.extend(cursor.map(|cursor| ("cursor", cursor)));
        let target = format!("/v1/sessions{}", query(&arguments.filter, &parameters));
        let mut answer = client.request(Method::GET, &target, None)?;
        if let Some(page) = answer.get_mut("sessions").and_then(Value::as_array_mut) {
            list.sessions.append(page);
        }
        let missing = answer.get("missing").and_then(Value::as_array).into_iter().flatten();
        list.missing.extend(missing.filter_map(Value::as_str).map(str::to_owned));
        cursor = answer.get("cursor").and_then(Value::as_str).map(str::to_owned);
        left -= size;
        if cursor.is_none() || left == 0 {
            list.has_more = cursor.is_some();
            return Ok(list);
        }
    }
}

/// Returns a table with a line for each session, of which the first column is its node if there are several nodes.
fn page(Listed { sessions, has_more, missing }: &Listed, is_cluster: bool) -> String {
    let rows: Vec<Vec<String>> = sessions.iter().map(|session| row(session, is_cluster)).collect();
    let mut columns = COLUMNS.to_vec();
    if is_cluster {
        columns.insert(0, Column { title: "NODE", is_number: false });
    }
    let more = if *has_more { "There are more sessions: raise --limit.\n" } else { "" };
    let missing = if missing.is_empty() {
        String::new()
    } else {
        let nodes: Vec<&str> = missing.iter().map(String::as_str).collect();
        format!("Without the sessions of nodes that did not answer: {}\n", nodes.join(" "))
    };
    format!("{}{more}{missing}", output::table(&columns, &rows))
}

fn row(session: &Value, is_cluster: bool) -> Vec<String> {
    let both = |a: &str, b: &str| number(session, a) + number(session, b);
    let named = ["id", "route", "auth", "subject", "address", "server"].map(|name| text(session, name));
    let mut row: Vec<String> = if is_cluster { vec![text(session, "node")] } else { Vec::new() };
    row.extend(named);
    row.extend([
        output::span(number(session, "age_seconds")),
        output::span(number(session, "idle_seconds")),
        format!("{:.0}", both("messages_in", "messages_out")),
        output::bytes(both("bytes_in", "bytes_out")),
        activity(session),
    ]);
    row
}

/// Returns the activity of a session, and the limits that would have acted on it.
fn activity(session: &Value) -> String {
    let reported = session.get("reported").and_then(Value::as_object);
    let limits: Vec<&str> = reported.into_iter().flatten().map(|(limit, _)| limit.as_str()).collect();
    let activity = text(session, "activity");
    if limits.is_empty() { activity } else { format!("{activity}, reported: {}", limits.join(" ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_a_line() {
        let session = json!({
            "node": "17-ab", "id": "0a", "route": "chat", "auth": "users", "subject": null, "address": "192.0.2.7",
            "server": "127.0.0.1:9001", "age_seconds": 61.0, "idle_seconds": 0.5, "messages_in": 1, "messages_out": 2, "bytes_in": 1000,
            "bytes_out": 24, "activity": "open"
        });
        let mut list = Listed { sessions: vec![session], has_more: true, missing: BTreeSet::new() };
        let text = page(&list, false);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..4], ["ID", "ROUTE", "AUTH", "SUBJECT"]);
        let expected =
            ["0a", "chat", "users", "-", "192.0.2.7", "127.0.0.1:9001", "1m01s", "0.5s", "3", "1.0", "KiB", "open"];
        assert_eq!(lines[1], expected);
        assert!(text.ends_with("raise --limit.\n"));
        list.missing.insert("18-cd".to_owned());
        let text = page(&list, true);
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!((lines[0][0], lines[1][0], &lines[1][1..]), ("NODE", "17-ab", &expected[..]));
        assert!(text.ends_with("did not answer: 18-cd\n"), "{text}");
        let session = json!({ "activity": "open", "reported": { "byte_rate": 3, "idle_timeout": 1 } });
        assert_eq!(activity(&session), "open, reported: byte_rate idle_timeout");
    }
}
